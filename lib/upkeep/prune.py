"""Drop the old records of a JSONL file; what stays is kept byte for byte.

A large file whose records are in order of time is searched by bisection, so that only what goes is
read; any other is read whole. A line goes when it is one JSON object with a clear time, and that
is before the limit; whatever else stands there stays and is counted.
"""

import fcntl
import json
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from typing import Any

from upkeep import inplace, openfiles, scratch
from upkeep.openfiles import Claim, LeftAloneError
from upkeep.timestamps import record_time
from upkeep.tree import Found

_CHUNK = 1 << 20
_LONGEST_LINE = 8 << 20  # a longer one is not read, and kept
_SMALL = 16 << 20  # read whole, whatever the order
_PROBES = 64  # places of a large file that must be in order
_MOST_PLACES = 100  # taken out in place; with more the file is written anew
_MOST_BOUNDS = 1 << 20  # of memory; what is scattered wider goes by the next run
_WINDOW = 1 << 16
_BLOCK = 4096  # less is not taken out in place
_FOLLOW_SECONDS = 1.0
_QUIET_ROUNDS = 3
_BOM = b"\xef\xbb\xbf"

Time = Callable[[bytes], float | None]


@dataclass
class Cut:
    """What goes: the begins and ends of ranges of whole lines, in turn."""

    bounds: "array[int]" = field(default_factory=lambda: array("q"))
    records: int = 0
    malformed: int = 0

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """(begin, end) of each, in order."""
        return list(zip(self.bounds[::2], self.bounds[1::2], strict=True))

    @property
    def size(self) -> int:
        """Bytes that go."""
        return sum(self.bounds[1::2]) - sum(self.bounds[::2])


def time_reader(name: str) -> Time:
    """A function from a line to the time (Unix seconds) of its record, None when it is not clear.

    `name` is the key. An object with the same key twice has no clear time, nor has one that holds
    NaN. With the package msgspec (the extra "fast") most lines are read faster, to the same end.
    """
    quoted = json.dumps(name, ensure_ascii=False).encode()
    quick = _quick_reader(name)

    def careful(line: bytes) -> object:
        try:
            record = json.loads(
                line.decode(), parse_constant=_refuse, object_pairs_hook=_without_repeats
            )
        except (ValueError, RecursionError):
            return None
        return record.get(name) if isinstance(record, dict) else None

    def read(line: bytes) -> float | None:
        if line.count(quoted) != 1:
            return record_time(careful(line))
        try:
            return record_time(quick(line))
        except (ValueError, RecursionError, AttributeError):
            return record_time(careful(line))

    return read


def _quick_reader(name: str) -> Callable[[bytes], object]:
    try:
        import msgspec
    except ImportError:
        decoder = json.JSONDecoder(parse_constant=_refuse)

        def quick(line: bytes) -> object:
            text = line.decode().strip(" \t\r\n")
            record, end = decoder.raw_decode(text)
            if end != len(text):
                raise ValueError
            return record.get(name)

        return quick
    shape = msgspec.defstruct("Record", [("time", Any, msgspec.field(name=name, default=None))])
    decode = msgspec.json.Decoder(shape).decode

    def quicker(line: bytes) -> object:
        if not line.isascii():
            line.decode()  # what is no UTF-8 is no record
        return decode(line).time

    return quicker


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key twice")
    return record


def lines(fd: int, stop: int, unfinished: bool) -> Iterator[tuple[int, bytes | None]]:
    """(offset, line with its newline) up to `stop`; None for a line that is too long to read.

    `unfinished`: also a last line without a newline. What was read leaves the page cache.
    """
    begin, size = 0, _CHUNK
    while begin < stop:
        block = os.pread(fd, min(size, stop - begin), begin)
        whole = block.rfind(b"\n") + 1
        at_end = begin + len(block) >= stop
        if at_end and unfinished:
            whole = len(block)
        if not whole and not at_end and size < _LONGEST_LINE:
            size = _LONGEST_LINE
            continue
        if not whole:
            yield begin, None
            begin = inplace.next_line(fd, begin + len(block))
        for line in BytesIO(block[:whole]):
            yield begin, line
            begin += len(line)
        os.posix_fadvise(fd, begin - whole, whole, os.POSIX_FADV_DONTNEED)
        size = _CHUNK


def find_cut(fd: int, size: int, cutoff: float, time_of: Time, unfinished: bool) -> Cut:
    """What to drop from the first `size` bytes: records from before `cutoff` (Unix seconds)."""
    stop = _end_of_old(fd, size, cutoff, time_of)
    if stop < size:
        cut, newest = _scan(fd, stop, cutoff, time_of, False)
        if newest < cutoff:
            return cut
    return _scan(fd, size, cutoff, time_of, unfinished)[0]


def _scan(fd: int, stop: int, cutoff: float, time_of: Time, unfinished: bool) -> tuple[Cut, float]:
    """The cut, and the newest time found. Blank lines go with what stands before them."""
    cut, dropping, newest, end = Cut(), False, float("-inf"), 0
    for begin, line in lines(fd, stop, unfinished):
        if line is not None and begin == 0 and line.startswith(_BOM):
            begin, line = len(_BOM), line[len(_BOM) :]
        when = time_of(line) if line else None
        goes = when is not None and when < cutoff
        if when is not None:
            newest = when if when > newest else newest
            cut.records += goes
        elif line is not None and not line.strip():
            goes = dropping
        else:
            cut.malformed += 1
        if goes != dropping:
            if goes and len(cut.bounds) >= _MOST_BOUNDS:
                break
            cut.bounds.append(begin)
            dropping = goes
        end = begin + len(line or b"")
    if dropping:
        cut.bounds.append(end)
    return cut, newest


def _end_of_old(fd: int, size: int, cutoff: float, time_of: Time) -> int:
    """Where the first line from `cutoff` on begins; `size` for a file that must be read whole."""

    def time_at(offset: int) -> float:
        window = os.pread(fd, _WINDOW, max(0, offset - 1))
        times = (time_of(line) for line in window.split(b"\n")[1 if offset else 0 : -1])
        return next((when for when in times if when is not None), float("inf"))

    if size <= _SMALL:
        return size
    probes = [time_at(size * number // _PROBES) for number in range(_PROBES)]
    if probes != sorted(probes) or probes[-1] == float("inf"):
        return size
    first = bisect_left(range(size), cutoff, key=time_at)
    return min(size, inplace.next_line(fd, first)) if first else 0


def newest_record(found: Found, name: str, enough: float) -> float | None:
    """The newest time inside a file, or one from its end that is at least `enough`.

    None for a file without lines. Raises LeftAloneError for one with a line without a clear time.
    """
    time_of = time_reader(name)
    with open(_open(found), "rb") as file:
        file.seek(max(0, found.info.st_size - _WINDOW))
        for line in file.read(_WINDOW).split(b"\n")[1:]:
            when = time_of(line)
            if when is not None and when >= enough:
                return when
        cut, newest = _scan(file.fileno(), found.info.st_size, float("-inf"), time_of, True)
    if cut.malformed:
        raise LeftAloneError(f"{cut.malformed} lines without a clear time")
    return newest if newest > float("-inf") else None


def _open(found: Found) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(found.name, flags, dir_fd=found.directory)


def prune(found: Found, cutoff: float, name: str, dry_run: bool) -> Cut:
    """Drop the records of one file from before `cutoff`; `name` is the key of their time.

    In place where a program writes or it is simple; else by a new file in its place, which needs
    that nobody writes. Raises LeftAloneError and OSError.
    """
    others = inplace.who_writes(found)
    with open(_open(found), "rb") as file:
        size = found.info.st_size
        cut = find_cut(file.fileno(), size, cutoff, time_reader(name), not others)
    if not cut.records or (cut.size == size and inplace.empty(found, dry_run)):
        return cut
    at_head = len(cut.bounds) == 2 and _BLOCK <= cut.bounds[1] < size and cut.bounds[0] <= len(_BOM)
    fd = inplace.open_in_place(found, others) if others or at_head else None
    if fd is None:
        _rewrite(found, cut, dry_run)
        return cut
    try:
        if len(cut.bounds) > 2 * _MOST_PLACES:
            raise LeftAloneError("its old records are scattered, and a program writes it")
        if not dry_run:
            inplace.drop(fd, reversed(cut.ranges), None if others else found.info)
    finally:
        os.close(fd)
    return cut


def _rewrite(found: Found, cut: Cut, dry_run: bool) -> None:
    if found.info.st_nlink > 1:
        raise LeftAloneError("it has other names (hard links)")
    with Claim(found.directory, found.name, found.info) as claim:
        if dry_run:
            return
        with scratch.temporary(found.directory, found.name) as (fd, name):
            _copy_rest(claim, fd, cut, found.info.st_size)
            scratch.finish(claim.fd, fd)
            claim.check()
            os.rename(name, found.name, src_dir_fd=found.directory, dst_dir_fd=found.directory)
            os.fsync(found.directory)
            _follow(claim.fd, found.info.st_size, fd)


def _copy_rest(claim: Claim, target: int, cut: Cut, size: int) -> None:
    """Write all that stays; a program that wants to open the file need not wait longer than for
    one chunk."""
    edges = chain([0], cut.bounds, [size])
    checked = 0
    with (
        open(claim.fd, "rb", _CHUNK, closefd=False) as source,
        open(target, "wb", _CHUNK, closefd=False) as copy,
    ):
        for begin, end in zip(edges, edges, strict=True):
            source.seek(begin)
            while begin < end:
                chunk = source.read(min(_CHUNK, end - begin))
                copy.write(chunk)
                begin += len(chunk)
                if begin >= checked:
                    claim.check()
                    checked = begin + _CHUNK
    os.posix_fadvise(claim.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _follow(old: int, size: int, new: int) -> None:
    """Bring over what goes to the old file from a program that had it in hand at the rename."""
    quiet, deadline = 0, time.monotonic() + _FOLLOW_SECONDS
    while quiet < _QUIET_ROUNDS and time.monotonic() < deadline:
        fcntl.fcntl(old, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        time.sleep(_FOLLOW_SECONDS / 100)
        while chunk := os.pread(old, _CHUNK, size):
            os.write(new, chunk)
            size += len(chunk)
        quiet = quiet + 1 if openfiles.lease(old) else 0
