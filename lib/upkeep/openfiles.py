"""Who has a file open for writing: a read lease tells whether, /proc tells who.

A lease (fcntl(2), F_SETLEASE) is granted only while nobody has the file open for writing, in any
container; until its descriptor is closed, whoever wants to do so waits. Where leases are refused
(another owner's file, some file systems) /proc decides, which shows a user only their own programs.
"""

import errno
import fcntl
import os
import signal
import stat
import time
from typing import NamedTuple

from upkeep.text import printable
from upkeep.tree import Found


class Writer(NamedTuple):
    """A process that has a file open for writing. `appends`: with O_APPEND."""

    pid: int
    name: str
    appends: bool


_scan: tuple[float, dict[tuple[int, int], list[Writer]]] = (float("-inf"), {})


def writers(info: os.stat_result, most_seconds_old: float = 1.0) -> list[Writer]:
    """Processes that have the file `info` is about open for writing, as far as /proc shows."""
    global _scan
    if time.monotonic() - _scan[0] >= most_seconds_old:
        found: dict[tuple[int, int], list[Writer]] = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) != os.getpid():
                _look_at(pid, found)
        _scan = (time.monotonic(), found)
    return _scan[1].get((info.st_dev, info.st_ino), [])


def _look_at(pid: str, found: dict[tuple[int, int], list[Writer]]) -> None:
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            link = f"/proc/{pid}/fd/{number}"
            if not os.lstat(link).st_mode & stat.S_IWUSR:  # the link's mode is that of opening
                continue
            info = os.stat(link)
            if stat.S_ISREG(info.st_mode):
                with (
                    open(f"/proc/{pid}/comm", "rb") as comm,
                    open(link.replace("/fd/", "/fdinfo/")) as f,
                ):
                    flags = int(f.read().split("flags:")[1].split()[0], 8)
                    writer = Writer(
                        int(pid), printable(comm.read().rstrip()), bool(flags & os.O_APPEND)
                    )
                found.setdefault((info.st_dev, info.st_ino), []).append(writer)
    except OSError:  # it ended, or is another user's
        return


def describe(found: list[Writer]) -> str:
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
    """A file that nobody writes, open for reading as `fd`, with its lease where that is possible.

    For a with block. Raises LeftAloneError when somebody writes it or it has changed, and OSError.
    """

    def __init__(self, found: Found) -> None:
        self._info = found.info
        self.fd = found.open()
        try:
            self._leased = lease(self.fd)
            others = [] if self._leased else writers(found.info, 0.0)
            if others or self._leased is False:
                raise LeftAloneError(describe(others))
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
        now, then = os.fstat(self.fd), self._info
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (
            then.st_ino,
            then.st_size,
            then.st_mtime_ns,
        ):
            raise LeftAloneError("changed meanwhile")
