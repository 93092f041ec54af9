"""Drop the old records of a JSONL file: lines that are one JSON object with a clear time before a
limit. All else stays byte for byte, and what is no such object is counted."""

import contextlib
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

from upkeep import inplace, openfiles
from upkeep.compress import finish, temporary
from upkeep.openfiles import Claim, LeftAloneError
from upkeep.timestamps import record_time
from upkeep.tree import Found

_CHUNK = 1 << 20
_SMALL = 16 << 20  # read whole, whatever the order
_PROBES = 64  # places of a large file that must be in order
_WINDOW = 1 << 16  # read at each of them
_MOST_PLACES = 100  # taken out while a program writes
_BLOCK = 4096  # less is not taken out in place

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


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object] | None:
    return dict(pairs) if len(dict(pairs)) == len(pairs) else None


_decode = json.JSONDecoder(parse_constant=_refuse).raw_decode
_strict = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_without_repeats).decode


def _quick(text: str) -> Any:
    record, end = _decode(text)
    return None if text[end:].strip() else record


def time_reader(name: str) -> Time:
    """A function from a line to the time (Unix seconds) in its key `name`, None when not clear.
    With orjson (the extra "fast") most lines are read faster, to the same end."""
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


def scan(fd: int, stop: int, cutoff: float, time_of: Time) -> Cut:
    """Look at all lines up to `stop`; blank ones go with what stands before them. What was read
    leaves the page cache."""
    cut, dropping, end, inside, freed = Cut(), False, 0, False, 0
    with open(fd, "rb", _CHUNK, closefd=False) as file:
        file.seek(0)
        while end < stop and (line := file.readline(min(inplace.LONGEST_LINE, stop - end))):
            complete = line.endswith(b"\n") or end + len(line) == stop
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
            if end - freed > inplace.LONGEST_LINE:
                os.posix_fadvise(fd, freed, end - freed, os.POSIX_FADV_DONTNEED)
                freed = end
    if dropping:
        cut.bounds.append(end)
    return cut


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
    """The newest time inside a file, None for an empty one. Raises OSError, and LeftAloneError for
    one with a line without a clear time."""
    with open(found.open(), "rb") as file:
        cut = scan(file.fileno(), found.info.st_size, float("-inf"), time_reader(name))
    if cut.malformed:
        raise LeftAloneError(f"{cut.malformed} lines without a clear time")
    return cut.newest if found.info.st_size else None


def prune(found: Found, cutoff: float, name: str, dry_run: bool) -> Cut:
    """Drop the records of one file from before `cutoff`; `name` is the key of their time. In place
    where that frees something, else by a new file, which needs that nobody writes. Raises
    LeftAloneError and OSError."""
    size, time_of, fd = found.info.st_size, time_reader(name), None
    with open(found.open(), "rb") as file:
        whole = file.fileno()
        stop = _end_of_old(whole, size, cutoff, time_of)
        cut = scan(whole, stop, cutoff, time_of)
        if stop < size and cut.newest >= cutoff:  # it is not in order
            cut = scan(whole, size, cutoff, time_of)
    if not cut.records:
        return cut
    middle = cut.bounds[-1] < size or openfiles.writers(found.info)
    if middle and cut.size >= _BLOCK and len(cut.bounds) <= 2 * _MOST_PLACES:
        fd = inplace.open_in_place(found)
    if fd is None:
        _rewrite(found, cut, dry_run)
        return cut
    with open(fd, "rb+", buffering=0):
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
            size, checked = found.info.st_size, 0
            edges = chain([0], cut.bounds, [size])
            with open(fd, "wb", _CHUNK, closefd=False) as copy:
                for begin, end in zip(edges, edges, strict=True):
                    while begin < end:
                        begin += copy.write(os.pread(claim.fd, min(_CHUNK, end - begin), begin))
                        if begin > checked or begin == size:
                            claim.check()
                            checked = begin + _CHUNK
            finish(claim.fd, fd)
            claim.check()
            os.rename(name, found.name, src_dir_fd=found.directory, dst_dir_fd=found.directory)
            os.fsync(found.directory)
            _follow(claim.fd, size, fd)


def _follow(old: int, size: int, new: int) -> None:
    """Bring over what goes to the old file from a program that had it in hand at the rename."""
    with contextlib.suppress(OSError):  # where there are no leases, none is held
        fcntl.fcntl(old, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    for _ in range(10):
        time.sleep(0.01)
        while chunk := os.pread(old, _CHUNK, size):
            size += os.write(new, chunk)
