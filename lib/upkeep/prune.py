"""Drop the old records of a JSONL file; what stays is kept byte for byte.

A line goes when it is one JSON object with a clear time, and that is before the limit; all else
stays and is counted. A large file in order of time is searched by bisection, any other read whole.
"""

import fcntl
import importlib.util
import json
import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from upkeep import inplace, openfiles, scratch
from upkeep.openfiles import Claim, LeftAloneError
from upkeep.timestamps import record_time
from upkeep.tree import Found

_CHUNK = 1 << 20
_LONGEST_LINE = 8 << 20  # a longer one is no record
_SMALL = 16 << 20  # read whole, whatever the order
_PROBES = 64  # places of a large file that must be in order
_WINDOW = 1 << 16  # read at each of them
_MOST_PLACES = 100  # taken out while a program writes
_BLOCK = 4096  # less is not taken out in place
_FOLLOW_SECONDS, _QUIET_ROUNDS = 1.0, 3

Time = Callable[[bytes], float | None]


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


def _refuse(constant: str) -> object:
    raise ValueError(constant)  # NaN and Infinity are no JSON


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key twice")
    return record


_decode = json.JSONDecoder(parse_constant=_refuse).raw_decode
_strict = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_without_repeats).decode


def _quick(text: str) -> Any:
    record, end = _decode(text)
    if text[end:].strip():
        raise ValueError("more than one value")
    return record


def time_reader(name: str) -> Time:
    """A function from a line to the time (Unix seconds) in its key `name`, None when not clear.

    With orjson (the extra "fast") most lines are read faster, to the same end.
    """
    quoted = json.dumps(name, ensure_ascii=False).encode()
    fast = importlib.util.find_spec("orjson")
    quick = importlib.import_module("orjson").loads if fast else _quick

    def read(line: bytes) -> float | None:
        # A key twice, in an inner object or written with escapes needs the strict parser.
        for parse in (quick, _strict) if line.count(quoted) == 1 else (_strict,):
            try:
                return record_time(parse(line.decode())[name])
            except (ValueError, RecursionError, TypeError, LookupError):
                continue
        return None

    return read


def scan(fd: int, stop: int, cutoff: float, time_of: Time, unfinished: bool = True) -> Cut:
    """Look at all lines up to `stop`. Blank ones go with what stands before them.

    `unfinished`: a last line without newline counts too. What was read leaves the page cache.
    """
    cut, dropping, end, inside, freed = Cut(), False, 0, False, 0
    with open(fd, "rb", _CHUNK, closefd=False) as file:
        file.seek(0)
        while end < stop and (line := file.readline(min(_LONGEST_LINE, stop - end))):
            complete = line.endswith(b"\n") or (unfinished and end + len(line) == stop)
            when = time_of(line) if complete and not inside else None
            goes = when is not None and when < cutoff
            if when is not None:
                cut.newest = max(cut.newest, when)
                cut.records += goes
            elif line.isspace():
                goes = dropping
            else:
                cut.malformed += not inside
            if goes != dropping:
                cut.bounds.append(end)
                dropping = goes
            end += len(line)
            inside = not complete
            if end - freed > _LONGEST_LINE:
                os.posix_fadvise(fd, freed, end - freed, os.POSIX_FADV_DONTNEED)
                freed = end
    if dropping:
        cut.bounds.append(end)
    return cut


def find_cut(fd: int, size: int, cutoff: float, time_of: Time, unfinished: bool) -> Cut:
    """What to drop from the first `size` bytes: records from before `cutoff` (Unix seconds)."""
    stop = _end_of_old(fd, size, cutoff, time_of)
    if stop < size:
        cut = scan(fd, stop, cutoff, time_of)
        if cut.newest < cutoff:
            return cut
    return scan(fd, size, cutoff, time_of, unfinished)


def _end_of_old(fd: int, size: int, cutoff: float, time_of: Time) -> int:
    """Where the first line from `cutoff` on begins; `size` for a file that must be read whole."""

    def time_at(offset: int) -> float:
        window = os.pread(fd, _WINDOW, max(0, offset - 1))
        times = map(time_of, window.split(b"\n")[1 if offset else 0 : -1])
        return next((when for when in times if when is not None), float("inf"))

    if size <= _SMALL:
        return size
    probes = [time_at(size * number // _PROBES) for number in range(_PROBES)]
    if probes != sorted(probes) or probes[-1] == float("inf"):
        return size
    first = bisect_left(range(size), cutoff, key=time_at)
    return min(size, inplace.next_line(fd, first)) if first else 0


def newest_record(found: Found, name: str) -> float | None:
    """The newest time inside a file; None for one without lines.

    Raises LeftAloneError for one with a line without a clear time, and OSError.
    """
    with open(found.open(), "rb") as file:
        size = found.info.st_size
        cut = scan(file.fileno(), size, float("-inf"), time_reader(name))
    if cut.malformed:
        raise LeftAloneError(f"{cut.malformed} lines without a clear time")
    return cut.newest if size else None


def prune(found: Found, cutoff: float, name: str, dry_run: bool) -> Cut:
    """Drop the records of one file from before `cutoff`; `name` is the key of their time.

    In place where a program writes or it is simple; else by a new file in its place, which needs
    that nobody writes. Raises LeftAloneError and OSError.
    """
    others, size = inplace.who_writes(found), found.info.st_size
    with open(found.open(), "rb") as file:
        cut = find_cut(file.fileno(), size, cutoff, time_reader(name), not others)
    if not cut.records or (cut.size == size and inplace.empty(found, dry_run)):
        return cut
    at_head = len(cut.bounds) == 2 and cut.bounds[0] == 0 and _BLOCK <= cut.size < size
    fd = inplace.open_in_place(found, others) if others or at_head else None
    if fd is None:
        _rewrite(found, cut, dry_run)
        return cut
    try:
        if len(cut.bounds) > 2 * _MOST_PLACES:
            raise LeftAloneError(f"{openfiles.describe(others)}; its old records are scattered")
        if not dry_run:
            backwards = list(zip(cut.bounds[-2::-2], cut.bounds[::-2], strict=True))
            inplace.drop(fd, backwards, None if others else found.info)
    finally:
        os.close(fd)
    return cut


def _rewrite(found: Found, cut: Cut, dry_run: bool) -> None:
    if found.info.st_nlink > 1:
        raise LeftAloneError("it has other names (hard links)")
    with Claim(found) as claim:
        if dry_run:
            return
        with scratch.temporary(found) as (fd, name):
            _copy_rest(claim, fd, cut, found.info.st_size)
            scratch.finish(claim.fd, fd)
            claim.check()
            os.rename(name, found.name, src_dir_fd=found.directory, dst_dir_fd=found.directory)
            os.fsync(found.directory)
            _follow(claim.fd, found.info.st_size, fd)


def _copy_rest(claim: Claim, target: int, cut: Cut, size: int) -> None:
    """Write all that stays; whoever wants to open the file waits no longer than for a chunk."""
    edges, checked = chain([0], cut.bounds, [size]), 0
    with (
        open(claim.fd, "rb", _CHUNK, closefd=False) as source,
        open(target, "wb", _CHUNK, closefd=False) as copy,
    ):
        for begin, end in zip(edges, edges, strict=True):
            source.seek(begin)
            while begin < end:
                begin += copy.write(source.read(min(_CHUNK, end - begin)))
                if begin > checked:
                    claim.check()
                    checked = begin + _CHUNK


def _follow(old: int, size: int, new: int) -> None:
    """Bring over what goes to the old file from a program that had it in hand at the rename."""
    quiet, deadline = 0, time.monotonic() + _FOLLOW_SECONDS
    while quiet < _QUIET_ROUNDS and time.monotonic() < deadline:
        fcntl.fcntl(old, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        time.sleep(_FOLLOW_SECONDS / 100)
        while chunk := os.pread(old, _CHUNK, size):
            size += os.write(new, chunk)
        quiet = quiet + 1 if openfiles.lease(old) else 0
