"""A new file beside an old one, complete and on the disk before it takes a name of its own."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from upkeep.tree import Found

_MARK, _END = ".upkeep-", ".tmp"


@contextlib.contextmanager
def temporary(found: Found) -> Iterator[tuple[int, str]]:
    """An empty private file beside `found`: (descriptor for appending, name). Raises OSError.

    It goes when the block ends, unless renamed. Its flock tells other runs that it is in work.
    """
    name = f".{found.name[:60]}{_MARK}{os.getpid()}{_END}"
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=found.directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd, name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=found.directory)
        os.close(fd)


def is_leftover(name: str) -> bool:
    """Whether `name` is one that `temporary` makes."""
    return name.endswith(_END) and name.startswith(".") and _MARK in name


def remove_leftover(found: Found) -> None:
    """Remove what a killed run left; a file that another run works on stays."""
    with contextlib.suppress(OSError), open(found.open(), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(found.name, dir_fd=found.directory)


def finish(source: int, target: int) -> None:
    """Give `target` the owner, mode, attributes and mtime of `source`, and have it on the disk."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, info.st_mode & 0o7777)
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
    os.fsync(target)
