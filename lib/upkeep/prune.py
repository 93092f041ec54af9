"""Drop the old records of a JSONL file: lines that are one JSON object with a clear time before a
limit. All else stays byte for byte, and what is no such object is counted."""

import collections
import contextlib
import fcntl
import io
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress, groupby
from operator import itemgetter
from typing import NamedTuple

from upkeep import inplace, openfiles
from upkeep.compress import finish, forget, temporary
from upkeep.openfiles import Claim
from upkeep.timestamps import Reader, Times
from upkeep.tree import Found, LeftAloneError

_CHUNK = 1 << 20
_BATCH = 1 << 16  # as much is parsed at once
_SMALL = 16 << 20  # read whole, whatever the order
_PROBES = 64  # places of a large file that must be in order
_MOST_PLACES = 100  # taken out while a program writes
_BLOCK = 4096  # less is not taken out in place

Place = tuple[int, int]  # begin and end of whole lines


@dataclass
class Cut:
    """What was found so far."""

    records: int = 0  # that go
    size: int = 0  # bytes that go
    malformed: int = 0
    newest: float = float("-inf")  # time of all records


class Part(NamedTuple):
    """Whole lines that lie together in a file, and which of them stay."""

    begin: int
    end: int
    lines: list[bytes]
    stay: list[bool]

    def places(self) -> Iterator[Place]:
        """Where the lines are that go."""
        if True not in self.stay:
            yield self.begin, self.end
            return
        offset = self.begin
        for stays, run in groupby(zip(self.stay, self.lines, strict=True), itemgetter(0)):
            end = offset + sum(len(line) for _, line in run)
            if not stays:
                yield offset, end
            offset = end


def scan(fd: int, stop: int, cutoff: float, reader: Reader, cut: Cut) -> Iterator[Part]:
    """All lines up to `stop`, the begin of one or the end of the file, without those that are too
    long to be a record: they stay. Notes in `cut` what it has read, which is no more than what is
    asked for. Raises LeftAloneError for a file that has become shorter."""
    offset, forgotten, stays = 0, 0, True
    while offset < stop:
        if lines := _whole_lines(fd, offset, stop):
            stay = _decide(cut, lines, reader.times(lines), cutoff, stays)
            stays = stay[-1]
            end = offset + sum(map(len, lines))
            cut.size += end - offset - sum(map(len, compress(lines, stay)))
            yield Part(offset, end, lines, stay)
            offset = end
        else:
            cut.malformed, stays = cut.malformed + 1, True
            offset = inplace.next_line(fd, offset + 1)
        if offset - forgotten > _CHUNK or offset == stop:
            forget(fd, offset)
            forgotten = offset


def _whole_lines(fd: int, offset: int, stop: int) -> list[bytes]:
    size = _BATCH
    while size <= inplace.LONGEST_LINE:
        chunk = os.pread(fd, min(size, stop - offset), offset)
        if not chunk:
            raise LeftAloneError("changed meanwhile")
        last = offset + len(chunk) == stop
        if last or b"\n" in chunk:
            lines = io.BytesIO(chunk).readlines()  # at \n alone, and faster than split
            return lines if last or chunk.endswith(b"\n") else lines[:-1]
        size *= 2
    return []


def _decide(cut: Cut, lines: list[bytes], times: Times, cutoff: float, stays: bool) -> list[bool]:
    """Which of `lines` stay. Blank ones go with what stands before them, `stays` at first."""
    known = [when for when in times if when is not None]
    stay = [when >= cutoff for when in known]
    cut.newest = max([cut.newest, *known])
    cut.records += stay.count(False)
    if len(known) == len(lines):
        return stay
    stay = []
    for line, when in zip(lines, times, strict=True):
        if when is not None:
            stays = when >= cutoff
        elif not line.isspace():
            stays = True
            cut.malformed += 1
        stay.append(stays)
    return stay


def _end_of_old(fd: int, size: int, cutoff: float, reader: Reader) -> int:
    """Where the first line from `cutoff` on begins; `size` for a file that must be read whole."""

    def time_at(offset: int) -> float:
        window = os.pread(fd, _BATCH, max(0, offset - 1))
        times = map(reader.time, window.split(b"\n")[1 if offset else 0 : -1])
        return next((when for when in times if when is not None), float("inf"))

    if size <= _SMALL:
        return size
    probes = [time_at(size * number // _PROBES) for number in range(_PROBES)]
    if probes != sorted(probes) or probes[-1] == float("inf"):
        return size
    first = bisect_left(range(size), cutoff, key=time_at)
    return min(size, inplace.next_line(fd, first)) if first else 0


def newest_record(found: Found, name: str) -> float | None:
    """The newest time inside a file, None for an empty one. Raises OSError, and LeftAloneError for
    one with a line without a clear time."""
    cut = Cut()
    with open(found.open(), "rb") as file:
        for _ in scan(file.fileno(), found.info.st_size, float("-inf"), Reader(name), cut):
            pass
    if cut.malformed:
        raise LeftAloneError(f"{cut.malformed} lines without a clear time")
    return cut.newest if found.info.st_size else None


def prune(found: Found, cutoff: float, name: str, dry_run: bool) -> Cut:
    """Drop the records of one file from before `cutoff`; `name` is the key of their time. In place
    where that frees something, else by a new file, which needs that nobody writes. Raises
    LeftAloneError and OSError."""
    size, reader, fd = found.info.st_size, Reader(name), None
    with open(found.open(), "rb") as file:
        for stop in (_end_of_old(file.fileno(), size, cutoff, reader), size):
            cut = Cut()
            rest = scan(file.fileno(), stop, cutoff, reader, cut)
            places = _first_places(rest)
            if stop == size or cut.newest < cutoff:  # else it is not in order
                break
        if not cut.records:
            return cut
        middle = places[-1][1] < size or openfiles.writers(found.info)
        if middle and cut.size >= _BLOCK and len(places) <= _MOST_PLACES:
            fd = inplace.open_in_place(found, dry_run)
        if fd is None:
            _rewrite(found, places, rest, dry_run)
            return cut
    with open(fd, "rb"):
        if not dry_run:
            inplace.drop(fd, reversed(places), found.info)
    return cut


def _first_places(parts: Iterator[Part]) -> list[Place]:
    """Where lines go; all of `parts` is read unless there are more than can go in place."""
    places: list[Place] = []
    for part in parts:
        for begin, end in part.places():
            if places and places[-1][1] == begin:
                begin, _ = places.pop()
            places.append((begin, end))
        if len(places) > _MOST_PLACES:
            break
    return places


def _rewrite(found: Found, places: list[Place], rest: Iterator[Part], dry_run: bool) -> None:
    """Whoever wants to write the file meanwhile waits no longer than for one piece of the copy."""
    if found.info.st_nlink > 1:
        raise LeftAloneError("it has other names (hard links)")
    with Claim(found) as claim:
        if dry_run:
            collections.deque(rest, maxlen=0)  # to count what goes
            return
        with temporary(found) as (fd, name):
            _write(fd, claim, _survivors(claim, places, rest))
            finish(claim.fd, fd)
            claim.check()
            os.rename(name, found.name, src_dir_fd=found.directory, dst_dir_fd=found.directory)
            os.fsync(found.directory)
            _follow(claim.fd, found.info.st_size, fd)


def _write(fd: int, claim: Claim, pieces: Iterable[bytes]) -> None:
    """Raises LeftAloneError when somebody wants to write the file that is copied."""
    size = 0
    with open(fd, "wb", closefd=False) as copy:
        for number, piece in enumerate(pieces):
            size += copy.write(piece)
            if number % 16 == 0:  # which costs time
                claim.check()
                forget(fd, size)  # it begins to go to the disk, too


def _survivors(claim: Claim, places: list[Place], rest: Iterator[Part]) -> Iterator[bytes]:
    """What stays, in pieces: all but `places` and the lines of `rest` that go."""
    begin = 0
    for end, behind in places:
        yield from _pieces(claim.fd, begin, end)
        begin = behind
    for part in rest:
        yield from _pieces(claim.fd, begin, part.begin)
        yield b"".join(compress(part.lines, part.stay))
        begin = part.end
    yield from _pieces(claim.fd, begin, claim.found.info.st_size)


def _pieces(fd: int, begin: int, end: int) -> Iterator[bytes]:
    while begin < end and (piece := os.pread(fd, min(_CHUNK, end - begin), begin)):
        yield piece
        begin += len(piece)


def _follow(old: int, size: int, new: int) -> None:
    """Bring over what goes to the old file from a program that had it in hand at the rename."""
    with contextlib.suppress(OSError):  # where there are no leases, none is held
        fcntl.fcntl(old, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    for _ in range(10):
        time.sleep(0.01)
        while chunk := os.pread(old, _CHUNK, size):
            size += os.write(new, chunk)
