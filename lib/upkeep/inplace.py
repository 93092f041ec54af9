"""Take parts out of a file in place, while a program goes on appending to it.

fallocate(2) with FALLOC_FL_COLLAPSE_RANGE (ext4, XFS) takes whole blocks out of a file; what was
appended meanwhile moves along. What is left of the last block is overwritten by blanks. Only a
writer with O_APPEND follows: any other would go on at its old offset and leave a hole.
"""

import ctypes
import fcntl
import os
from collections.abc import Iterable

from upkeep import openfiles
from upkeep.openfiles import LeftAloneError
from upkeep.tree import Found

_COLLAPSE = 0x08
_ABLE = ("ext4", "xfs", "f2fs")
_WINDOW = 1 << 16


def _collapse(fd: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, _COLLAPSE, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _file_system(device: int) -> str:
    """The type of a mounted file system. To try it out would change the mtime of the file."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        mounts = (line.split() for line in file)
        types = (row[row.index("-") + 1] for row in mounts if row[2] == wanted)
        return next(types, "")


def who_writes(found: Found) -> list[openfiles.Writer]:
    """Who has the file open for writing. Raises LeftAloneError when somebody not visible has."""
    try:
        with openfiles.Claim(found.directory, found.name, found.info):
            return []
    except LeftAloneError:
        others = openfiles.writers(found.info)
        if not others:
            raise
        return others


def open_in_place(found: Found, others: list[openfiles.Writer]) -> int | None:
    """A descriptor for `drop`; None when nobody writes, but the file system cannot collapse.

    Raises LeftAloneError when one of `others`, who write, would not follow, and OSError.
    """
    fd = _open(found)
    able = _file_system(found.info.st_dev) in _ABLE
    if able and all(writer.appends for writer in others):
        return fd
    os.close(fd)
    if others:
        why = "without O_APPEND" if able else "and this file system cannot shorten it in place"
        raise LeftAloneError(f"{openfiles.describe(others)}, {why}")
    return None


def _open(found: Found) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(found.name, flags, dir_fd=found.directory)
    if not os.path.samestat(os.fstat(fd), found.info):
        os.close(fd)
        raise LeftAloneError("replaced meanwhile")
    return fd


def drop(fd: int, ranges: Iterable[tuple[int, int]], times: os.stat_result | None = None) -> None:
    """Take out `ranges` of whole lines, given as (begin, end), the last one first. Durable.

    `times`: whose atime and mtime the file gets, for one that nobody else writes.
    """
    for begin, end in ranges:
        _drop(fd, begin, end)
    if times:
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
        _blank(fd, begin, next_line(fd, first) - 1)
    if end == last:
        _collapse(fd, first, last - first)
        return
    _blank(fd, _line_begin(fd, last), end - 1)
    _collapse(fd, first, last - first)
    _blank(fd, end - 1 - (last - first), end - (last - first))


def _blank(fd: int, begin: int, end: int) -> None:
    for offset in range(begin, end, _WINDOW):
        os.pwrite(fd, b" " * min(_WINDOW, end - offset), offset)


def next_line(fd: int, offset: int) -> int:
    """Where the first line begins behind the one that `offset` lies in."""
    offset -= 1
    while window := os.pread(fd, _WINDOW, offset):
        found = window.find(b"\n")
        if found >= 0:
            return offset + found + 1
        offset += len(window)
    return offset


def _line_begin(fd: int, offset: int) -> int:
    """Where the line begins that `offset` lies in."""
    while offset > 0:
        begin = max(0, offset - _WINDOW)
        found = os.pread(fd, offset - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        offset = begin
    return 0


def empty(found: Found, dry_run: bool) -> bool:
    """Empty a file that no other program has open; False when one has, or the file has grown."""
    fd = _open(found)
    try:
        alone = openfiles.lease(fd, fcntl.F_WRLCK)  # nobody can open it until it is closed
        if not alone or os.fstat(fd).st_size != found.info.st_size:
            return False
        if not dry_run:
            os.ftruncate(fd, 0)
            os.fsync(fd)
        return True
    finally:
        os.close(fd)


def truncate(found: Found, dry_run: bool) -> int:
    """Drop all lines that are complete by now. Returns the bytes freed.

    Raises LeftAloneError and OSError.
    """
    if empty(found, dry_run):
        return found.info.st_blocks * 512
    fd = open_in_place(found, who_writes(found))
    if fd is None:
        raise LeftAloneError("open in another program; it cannot be shortened in place")
    try:
        end = _line_begin(fd, os.fstat(fd).st_size)
        if not dry_run and end:
            drop(fd, [(0, end)])
        return end
    finally:
        os.close(fd)
