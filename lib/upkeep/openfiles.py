"""Who has a file open for writing: a read lease tells whether, /proc tells who.

A read lease (fcntl(2), F_SETLEASE) is granted only while nobody has the file open for writing,
in any container and through any mapping; until the descriptor is closed, whoever wants to open it
for writing waits. Where leases are not granted (another owner's file, some file systems), /proc
decides, which shows an ordinary user only processes of their own.
"""

import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterable
from typing import NamedTuple

from upkeep.text import printable

_SCAN_SECONDS = 1.0  # how long one pass over /proc is good for the lease's stand-in


class Writer(NamedTuple):
    """A process that has a file open for writing. `appends`: with O_APPEND."""

    pid: int
    name: str
    appends: bool


Key = tuple[int, int]
_scan: tuple[float, dict[Key, list[Writer]]] = (float("-inf"), {})


def writers(info: os.stat_result, most_seconds_old: float = _SCAN_SECONDS) -> list[Writer]:
    """Processes that have the file `info` is about open for writing, as far as /proc shows."""
    global _scan
    if time.monotonic() - _scan[0] >= most_seconds_old:
        _scan = (time.monotonic(), _pass_over_proc())
    return _scan[1].get((info.st_dev, info.st_ino), [])


def _pass_over_proc() -> dict[Key, list[Writer]]:
    found: dict[Key, list[Writer]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            for number in os.listdir(f"/proc/{pid}/fd"):
                _note_writer(pid, number, found)
        except OSError:  # ended, or another user's
            continue
    return found


def _note_writer(pid: str, number: str, found: dict[Key, list[Writer]]) -> None:
    link = f"/proc/{pid}/fd/{number}"
    if not os.lstat(link).st_mode & stat.S_IWUSR:  # the link's mode is the mode of opening
        return
    info = os.stat(link)
    if not stat.S_ISREG(info.st_mode):
        return
    with open(f"/proc/{pid}/comm", "rb") as file:
        name = printable(file.read().rstrip(b"\n"))
    with open(f"/proc/{pid}/fdinfo/{number}", "rb") as file:
        flags = next(int(line[6:], 8) for line in file if line.startswith(b"flags:"))
    writer = Writer(int(pid), name, bool(flags & os.O_APPEND))
    found.setdefault((info.st_dev, info.st_ino), []).append(writer)


def describe(found: Iterable[Writer]) -> str:
    """ "open for writing by trader (pid 812)"."""
    names = ", ".join(f"{writer.name} (pid {writer.pid})" for writer in found)
    return f"open for writing by {names or 'a process that is not visible'}"


def lease(fd: int, kind: int = fcntl.F_RDLCK) -> bool | None:
    """Take a lease on `fd`: True granted, False somebody has it open, None not possible here.

    The wish of another process to open the file is told by SIGURG, which is ignored by default.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


def lease_wanted(fd: int) -> bool:
    """Whether somebody waits to open the file that `fd` holds a lease of, or it was taken away."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK


class LeftAloneError(Exception):
    """A file is not touched, for the reason that this says; nothing is wrong."""


def claim(directory: int, name: str, info: os.stat_result) -> int:
    """Open the file that `info` was about for reading, and hold its lease where that is possible.

    Raises LeftAloneError when somebody writes it or it is another one by now, and OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=directory)
    try:
        granted = lease(fd)
        found = [] if granted else writers(info, 0.0 if granted is False else _SCAN_SECONDS)
        if found or granted is False:
            raise LeftAloneError(describe(found))
        if state(os.fstat(fd)) != state(info):
            raise LeftAloneError("changed meanwhile")
    except BaseException:
        os.close(fd)
        raise
    return fd


def state(info: os.stat_result) -> tuple[int, ...]:
    """What differs when a file was replaced or written."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns
