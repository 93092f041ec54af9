"""Drop the old records of a JSONL file: lines that are one JSON object with a clear time before a
limit. All else stays byte for byte, and what is no such object is counted."""

import contextlib
import fcntl
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

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


@dataclass
class Cut:
    """What goes: the begins and ends of ranges of whole lines, in turn."""

    bounds: "array[int]" = field(default_factory=lambda: array("q"))
    records: int = 0
    malformed: int = 0
    newest: float = float("-inf")  # time of all records that were read

    @property
    def size(self) -> int:
        """Bytes that go."""
        return sum(self.bounds[1::2]) - sum(self.bounds[::2])

    def add(self, begin: int, end: int) -> None:
        """Let this range go, too; it lies behind all others."""
        if self.bounds and self.bounds[-1] == begin:
            self.bounds[-1] = end
        else:
            self.bounds.extend((begin, end))


def scan(fd: int, stop: int, cutoff: float, reader: Reader) -> Cut:
    """Look at all lines up to `stop`, the begin of a line or the end of the file."""
    cut, offset = Cut(), 0
    while offset < stop:
        if chunk := _whole_lines(fd, offset, stop):
            lines = chunk.removesuffix(b"\n").split(b"\n")
            _decide(cut, offset, lines, reader.times(lines), cutoff)
            offset += len(chunk)
        else:  # a line that is too long to be a record
            cut.malformed += 1
            offset = inplace.next_line(fd, offset + 1)
        forget(fd, offset)
    if cut.bounds:  # a last line may lack its end
        cut.bounds[-1] = min(cut.bounds[-1], stop)
    return cut


def _whole_lines(fd: int, offset: int, stop: int) -> bytes:
    for size in (_BATCH, inplace.LONGEST_LINE):
        chunk = os.pread(fd, min(size, stop - offset), offset)
        if offset + len(chunk) == stop:
            return chunk
        if end := chunk.rfind(b"\n") + 1:
            return chunk[:end]
    return b""


def _decide(cut: Cut, offset: int, lines: list[bytes], times: Times, cutoff: float) -> None:
    """Which of `lines` go; blank ones go with what stands before them."""
    known = [when for when in times if when is not None]
    newest = max(known, default=cut.newest)
    cut.newest = max(cut.newest, newest)
    if len(known) == len(lines) and newest < cutoff:
        cut.records += len(lines)
        cut.add(offset, offset + sum(map(len, lines)) + len(lines))
        return
    for line, when in zip(lines, times, strict=True):
        end = offset + len(line) + 1
        if when is not None:
            goes = when < cutoff
            cut.records += goes
        else:
            blank = not line.strip()
            cut.malformed += not blank
            goes = blank and cut.bounds[-1:] == array("q", (offset,))
        if goes:
            cut.add(offset, end)
        offset = end


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
    with open(found.open(), "rb") as file:
        cut = scan(file.fileno(), found.info.st_size, float("-inf"), Reader(name))
    if cut.malformed:
        raise LeftAloneError(f"{cut.malformed} lines without a clear time")
    return cut.newest if found.info.st_size else None


def prune(found: Found, cutoff: float, name: str, dry_run: bool) -> Cut:
    """Drop the records of one file from before `cutoff`; `name` is the key of their time. In place
    where that frees something, else by a new file, which needs that nobody writes. Raises
    LeftAloneError and OSError."""
    size, reader, fd = found.info.st_size, Reader(name), None
    with open(found.open(), "rb") as file:
        whole = file.fileno()
        stop = _end_of_old(whole, size, cutoff, reader)
        cut = scan(whole, stop, cutoff, reader)
        if stop < size and cut.newest >= cutoff:  # it is not in order
            cut = scan(whole, size, cutoff, reader)
    if not cut.records:
        return cut
    middle = cut.bounds[-1] < size or openfiles.writers(found.info)
    if middle and cut.size >= _BLOCK and len(cut.bounds) <= 2 * _MOST_PLACES:
        fd = inplace.open_in_place(found, dry_run)
    if fd is None:
        _rewrite(found, cut, dry_run)
        return cut
    with open(fd, "rb"):
        if not dry_run:
            backwards = zip(cut.bounds[-2::-2], cut.bounds[::-2], strict=True)
            inplace.drop(fd, backwards, found.info)
    return cut


def _rewrite(found: Found, cut: Cut, dry_run: bool) -> None:
    """Whoever wants to write the file meanwhile waits no longer than for one piece of the copy."""
    if found.info.st_nlink > 1:
        raise LeftAloneError("it has other names (hard links)")
    with Claim(found) as claim:
        if dry_run:
            return
        with temporary(found) as (fd, name):
            with open(fd, "wb", _CHUNK, closefd=False) as copy:
                copy.writelines(_survivors(claim, cut))
            finish(claim.fd, fd)
            claim.check()
            os.rename(name, found.name, src_dir_fd=found.directory, dst_dir_fd=found.directory)
            os.fsync(found.directory)
            _follow(claim.fd, found.info.st_size, fd)


def _survivors(claim: Claim, cut: Cut) -> Iterator[bytes]:
    """What stays, in pieces. Raises LeftAloneError when somebody wants to write the file."""
    edges, checked = chain([0], cut.bounds, [claim.found.info.st_size]), 0
    with open(claim.fd, "rb", _CHUNK, closefd=False) as file:
        for begin, end in zip(edges, edges, strict=True):
            file.seek(begin)
            while begin < end and (piece := file.read(min(_CHUNK, end - begin))):
                yield piece
                begin += len(piece)
                if begin > checked:
                    claim.check()
                    checked = begin + _CHUNK


def _follow(old: int, size: int, new: int) -> None:
    """Bring over what goes to the old file from a program that had it in hand at the rename."""
    with contextlib.suppress(OSError):  # where there are no leases, none is held
        fcntl.fcntl(old, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    for _ in range(10):
        time.sleep(0.01)
        while chunk := os.pread(old, _CHUNK, size):
            size += os.write(new, chunk)
