"""Take lines out of a file while a program goes on appending to it: fallocate(2) collapses whole
blocks, the rest of the last one becomes blanks. Only a writer with O_APPEND follows."""

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Iterable

from upkeep.openfiles import Claim, Writer, describe, lease, writers
from upkeep.tree import Found, LeftAloneError

_COLLAPSE = 0x08
_WINDOW = 1 << 16
LONGEST_LINE = 2 << 20  # a longer one is no record and no line of a log


def open_in_place(found: Found, dry_run: bool) -> int | None:
    """A locked descriptor for `drop`; None when nobody writes, but the file system cannot do it.
    Raises LeftAloneError when somebody writes who is not visible or would not follow, and
    OSError."""
    others, able = _others(found), _can_collapse(found.directory)
    if not all(able and appends for _, _, appends in others):
        why = "without O_APPEND" if able else "and this file system cannot shorten it in place"
        raise LeftAloneError(f"{describe(others)}, {why}")
    return found.open(os.O_RDONLY if dry_run else os.O_RDWR, locked=True) if able else None


def _others(found: Found) -> list[Writer]:
    """Who writes it. Raises LeftAloneError when it is somebody who is not visible, and OSError."""
    try:
        with Claim(found):
            return []
    except LeftAloneError:
        if others := writers(found.info):
            return others
        raise


def _can_collapse(directory: int) -> bool:
    """Whether the file system can, tried on a file without a name: a trial on another one would
    change its mtime."""
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    try:
        with open(os.open(".", flags, 0o600, dir_fd=directory), "rb+", buffering=0) as file:
            block = os.fstatvfs(file.fileno()).f_bsize
            file.truncate(2 * block)
            _collapse(file.fileno(), 0, block)
    except OSError:
        return False
    return True


def _collapse(fd: int, begin: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, _COLLAPSE, ctypes.c_int64(begin), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def drop(fd: int, ranges: Iterable[tuple[int, int]], times: os.stat_result) -> None:
    """Take out `ranges` (begin, end) of whole lines, given in reverse order; it keeps the mtime of
    `times`. Durable. Raises OSError."""
    if os.fstat(fd).st_size < times.st_size:
        raise LeftAloneError("changed meanwhile")
    for begin, end in ranges:
        _drop(fd, begin, end)
    with contextlib.suppress(PermissionError):  # a file of another owner
        os.utime(fd, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.fsync(fd)


def _drop(fd: int, begin: int, end: int) -> None:
    """Lines are blanked as wholes before blocks go, so that a crash leaves no torn one."""
    block = os.fstatvfs(fd).f_bsize
    first = -(-begin // block) * block
    last = min(end, os.fstat(fd).st_size - 1) // block * block
    if last <= first:
        _blank(fd, begin, end)
        return
    if first > begin:
        _blank(fd, begin, next_line(fd, first + 1) - 1)
    if end > last:
        _blank(fd, max(begin, line_begin(fd, last)), end - 1)
    _collapse(fd, first, last - first)
    if end > last:
        end -= last - first
        _blank(fd, end - 1, end)


def _blank(fd: int, begin: int, end: int) -> None:
    for offset in range(begin, end, _WINDOW):
        os.pwrite(fd, b" " * min(_WINDOW, end - offset), offset)


def next_line(fd: int, offset: int) -> int:
    """Where the first line begins at `offset` or behind it, else the end of the file."""
    offset -= 1
    while chunk := os.pread(fd, _WINDOW, offset):
        if end := chunk.find(b"\n") + 1:
            return offset + end
        offset += len(chunk)
    return offset


def line_begin(fd: int, offset: int) -> int:
    """Where the line begins that `offset` lies in; 0 when it is too long to tell."""
    begin = max(0, offset - LONGEST_LINE)
    found = os.pread(fd, offset - begin, begin).rfind(b"\n")
    return begin + found + 1 if found >= 0 else 0


def truncate(found: Found, dry_run: bool) -> int:
    """Drop all lines that are complete by now: to size 0 where nobody writes it, else in place.
    Returns the bytes freed. Raises LeftAloneError and OSError."""
    flags = os.O_RDONLY if dry_run else os.O_RDWR
    with open(found.open(flags, locked=True), "rb") as file:
        if lease(file.fileno(), fcntl.F_WRLCK):  # nobody can open it until it is closed
            return _empty(file.fileno(), found, dry_run)
    fd = open_in_place(found, dry_run) if _others(found) else None
    with open(found.open(flags, locked=True) if fd is None else fd, "rb") as file:
        if fd is None:  # only read, as by tail -f: no lease keeps writers out
            return _empty(file.fileno(), found, dry_run)
        end = line_begin(fd, os.fstat(fd).st_size)
        if not dry_run and end:
            drop(fd, [(0, end)], found.info)
    return end


def _empty(fd: int, found: Found, dry_run: bool) -> int:
    found.refuse_changed(os.fstat(fd))
    if not dry_run:
        os.truncate(fd, 0)
    return found.info.st_blocks * 512
