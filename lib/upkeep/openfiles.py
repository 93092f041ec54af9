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

    That another process waits to open the file is told by SIGURG, which is ignored by default.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


class LeftAloneError(Exception):
    """A file is not touched, for the reason that this says; nothing is wrong."""


class Claim:
    """A file that nobody writes, opened for reading (`fd`), with its lease where that is possible.

    Use it in a with block. Raises LeftAloneError when somebody writes the file or it is no longer
    the one that `info` was about, and OSError.
    """

    def __init__(self, directory: int, name: str, info: os.stat_result) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._info = info
        self.fd = os.open(name, flags, dir_fd=directory)
        try:
            self._leased = lease(self.fd)
            found = [] if self._leased else writers(info, 0.0)
            if found or self._leased is False:
                raise LeftAloneError(describe(found))
            self.check()
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def check(self) -> None:
        """Raise LeftAloneError when the file was changed, or somebody waits to open it."""
        if self._leased and fcntl.fcntl(self.fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK:
            raise LeftAloneError("another program opens it for writing")
        if _state(os.fstat(self.fd)) != _state(self._info):
            raise LeftAloneError("changed meanwhile")


def _state(info: os.stat_result) -> tuple[int, ...]:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns
