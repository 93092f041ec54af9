"""Drop the old records of a JSONL file: lines that are one JSON object with a clear time before a
limit. All else stays byte for byte, and what is no such object is counted."""

import collections
import contextlib
import fcntl
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from upkeep import inplace, openfiles
from upkeep.compress import finish, forget, temporary
from upkeep.openfiles import Claim
from upkeep.timestamps import Reader
from upkeep.tree import Found, LeftAloneError

_CHUNK = 1 << 20
_BATCH = 1 << 16  # as much is parsed at once
_SMALL = 16 << 20  # read whole, whatever the order
_PROBES = 64  # places of a large file that must be in order
_MOST_PLACES = 100  # taken out while a program writes
_BLOCK = 4096  # less is not taken out in place

Range = tuple[int, int]  # begin and end of whole lines


@dataclass
class Cut:
    """What was found so far."""

    records: int = 0  # that go
    size: int = 0  # bytes that go
    malformed: int = 0
    newest: float = float("-inf")  # time of all records
    goes: bool = False  # whether the last line does


def scan(fd: int, stop: int, cutoff: float, reader: Reader, cut: Cut) -> Iterator[Range]:
    """Where the lines are that go, up to `stop`: the begin of a line or the end of the file. Notes
    in `cut` what it has read, which is no more than what is asked for."""
    offset = begin = end = 0
    while offset < stop:
        ranges: list[Range] = []
        if chunk := _whole_lines(fd, offset, stop):
            ranges = _decide(cut, offset, chunk, reader, cutoff)
            offset += len(chunk)
        else:  # a line that is too long to be a record
            cut.malformed, cut.goes = cut.malformed + 1, False
            offset = inplace.next_line(fd, offset + 1)
        for first, last in ranges:
            if first > end > begin:
                yield begin, end
            begin, end = begin if first == end else first, last
        forget(fd, offset)
    if end > begin:
        yield begin, end


def _whole_lines(fd: int, offset: int, stop: int) -> bytes:
    for size in (_BATCH, inplace.LONGEST_LINE):
        chunk = os.pread(fd, min(size, stop - offset), offset)
        if offset + len(chunk) == stop:
            return chunk
        if end := chunk.rfind(b"\n") + 1:
            return chunk[:end]
    return b""


def _decide(cut: Cut, offset: int, chunk: bytes, reader: Reader, cutoff: float) -> list[Range]:
    """Which lines of `chunk` go; blank ones go with what stands before them."""
    lines = chunk.removesuffix(b"\n").split(b"\n")
    times = reader.times(lines)
    known = [when for when in times if when is not None]
    cut.newest = max([cut.newest, *known])
    ranges, begin, behind = [], offset, offset + len(chunk)
    if len(known) == len(lines) and cut.newest < cutoff:  # the same as below, but fast
        cut.goes, cut.records, cut.size = True, cut.records + len(lines), cut.size + len(chunk)
        return [(offset, behind)]
    for line, when in zip(lines, times, strict=True):
        goes = cut.goes
        if when is not None:
            goes = when < cutoff
            cut.records += goes
        elif line.strip():
            goes = False
            cut.malformed += 1
        if goes != cut.goes:
            if cut.goes and offset > begin:
                ranges.append((begin, offset))
            cut.goes, begin = goes, offset
        offset += len(line) + 1
    if cut.goes:
        ranges.append((begin, behind))
    cut.size += sum(end - begin for begin, end in ranges)
    return ranges


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
        cut, stop = Cut(), _end_of_old(file.fileno(), size, cutoff, reader)
        ranges = scan(file.fileno(), stop, cutoff, reader, cut)
        some = list(islice(ranges, _MOST_PLACES + 1))
        if stop < size and cut.newest >= cutoff:  # it is not in order
            cut = Cut()
            ranges = scan(file.fileno(), size, cutoff, reader, cut)
            some = list(islice(ranges, _MOST_PLACES + 1))
        if not cut.records:
            return cut
        middle = some[-1][1] < size or openfiles.writers(found.info)
        if middle and cut.size >= _BLOCK and len(some) <= _MOST_PLACES:
            fd = inplace.open_in_place(found, dry_run)
        if fd is None:
            _rewrite(found, chain(some, ranges), dry_run)
            return cut
    with open(fd, "rb"):
        if not dry_run:
            inplace.drop(fd, reversed(some), found.info)
    return cut


def _rewrite(found: Found, cut: Iterable[Range], dry_run: bool) -> None:
    """Whoever wants to write the file meanwhile waits no longer than for one piece of the copy."""
    if found.info.st_nlink > 1:
        raise LeftAloneError("it has other names (hard links)")
    with Claim(found) as claim:
        if dry_run:
            collections.deque(cut, maxlen=0)  # to count them
            return
        with temporary(found) as (fd, name):
            with open(fd, "wb", _CHUNK, closefd=False) as copy:
                copy.writelines(_survivors(claim, cut))
            finish(claim.fd, fd)
            claim.check()
            os.rename(name, found.name, src_dir_fd=found.directory, dst_dir_fd=found.directory)
            os.fsync(found.directory)
            _follow(claim.fd, found.info.st_size, fd)


def _survivors(claim: Claim, cut: Iterable[Range]) -> Iterator[bytes]:
    """What stays, in pieces. Raises LeftAloneError when somebody wants to write the file."""
    begin, checked, size = 0, 0, claim.found.info.st_size
    with open(claim.fd, "rb", _CHUNK, closefd=False) as file:
        for end, behind in chain(cut, [(size, size)]):
            file.seek(begin)
            while begin < end and (piece := file.read(min(_CHUNK, end - begin))):
                yield piece
                begin += len(piece)
                if begin > checked:
                    claim.check()
                    checked = begin + _CHUNK
            begin = behind


def _follow(old: int, size: int, new: int) -> None:
    """Bring over what goes to the old file from a program that had it in hand at the rename."""
    with contextlib.suppress(OSError):  # where there are no leases, none is held
        fcntl.fcntl(old, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    for _ in range(10):
        time.sleep(0.01)
        while chunk := os.pread(old, _CHUNK, size):
            size += os.write(new, chunk)
