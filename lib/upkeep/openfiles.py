"""Who has a file open for writing: a read lease (fcntl(2), F_SETLEASE), granted only while nobody
in any container has, tells whether; /proc tells who, and decides where leases are refused."""

import contextlib
import errno
import fcntl
import functools
import os
import signal
import stat

from upkeep.text import printable
from upkeep.tree import Found, LeftAloneError, freeable

Writer = tuple[int, str, bool]  # PID, name, whether it has the file open with O_APPEND
Table = dict[tuple[int, int], list[Writer]]  # by device and inode


def writers(info: os.stat_result, known: bool = False) -> list[Writer]:
    """Processes that have the file `info` is about open for writing, as far as /proc shows, or with
    `known` by the snapshot."""
    return (snapshot if known else _table)().get((info.st_dev, info.st_ino), [])


def _table() -> Table:
    table: Table = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid():
            _add_writers(pid, table)
    return table


@functools.cache
def snapshot() -> Table:
    """All writers as they were when first asked for in this run: fast, nothing to rely on."""
    return _table()


def _add_writers(pid: str, table: Table) -> None:
    with contextlib.suppress(OSError):  # it ended, or is another user's
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile; the others count nevertheless
                _add_writer(pid, number, table)


def _add_writer(pid: str, number: str, table: Table) -> None:
    link = f"/proc/{pid}/fd/{number}"
    if not os.lstat(link).st_mode & stat.S_IWUSR:  # the link's mode is that of opening
        return
    info = os.stat(link)
    with open(f"/proc/{pid}/fdinfo/{number}") as file:
        flags = int(file.read().split("flags:")[1].split()[0], 8)
    with open(f"/proc/{pid}/comm", errors="surrogateescape") as file:
        name = printable(file.read().rstrip())
    writer = (int(pid), name, bool(flags & os.O_APPEND))
    table.setdefault((info.st_dev, info.st_ino), []).append(writer)


def describe(found: list[Writer]) -> str:
    """ "open for writing by trader (pid 812)"."""
    names = ", ".join(f"{name} (pid {pid})" for pid, name, _ in found)
    return f"open for writing by {names or 'a process that is not visible'}"


def lease(fd: int, kind: int = fcntl.F_RDLCK) -> bool | None:
    """Take a lease on `fd`: True granted, False somebody has it open, None not possible here."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # tells who waits; ignored by default
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


class Claim:
    """A file that nobody writes, locked and open for reading as `fd` in a with block; whoever wants
    to write it waits, where leases work. Raises LeftAloneError and OSError."""

    def __init__(self, found: Found) -> None:
        self.found, self.fd = found, found.open(locked=True)
        try:
            self._leased = lease(self.fd)
            others = [] if self._leased else writers(found.info, known=True) or writers(found.info)
            if others or self._leased is False:
                raise LeftAloneError(describe(others))
        except BaseException:
            os.close(self.fd)
            raise

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def check(self) -> None:
        """Raise LeftAloneError when the name stands for another file by now, the file was changed,
        or somebody waits to open it. To be called directly before the name is taken away."""
        name, directory = self.found.name, self.found.directory
        try:
            now = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            raise LeftAloneError("gone meanwhile") from None
        self.found.refuse_changed(now)
        if self._leased and fcntl.fcntl(self.fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK:
            raise LeftAloneError("another program opens it for writing")


def delete(found: Found, dry_run: bool = False) -> int:
    """Remove a file that nobody writes; bytes freed. Raises LeftAloneError and OSError."""
    if dry_run and (others := writers(found.info, known=True)):
        raise LeftAloneError(describe(others))
    if not dry_run:
        with Claim(found) as claim:
            claim.check()
        # Closed by now: the journal of ext4 has twice the work with a file that is open.
        os.unlink(found.name, dir_fd=found.directory)
    return freeable(found.info)
