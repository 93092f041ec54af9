"""A new file beside an old one: complete and on the disk before it takes the old one's place."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator

ENDING = ".tmp"
_LEFTOVER = re.compile(r"\..*\.upkeep-\d+\.tmp", re.DOTALL)


@contextlib.contextmanager
def temporary(directory: int, name: str) -> Iterator[tuple[int, str]]:
    """Make an empty private file beside `name`: (descriptor for appending, its name).

    It goes when the block ends, unless it was renamed. Its flock tells a later run that it is in
    work; what a killed run left is not locked. Raises OSError.
    """
    short = os.fsdecode(os.fsencode(name)[:200])
    made = f".{short}.upkeep-{os.getpid()}.tmp"
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(made, flags, 0o600, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd, made
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made, dir_fd=directory)
        os.close(fd)


def is_leftover(name: str) -> bool:
    """Whether `name` is one that `temporary` makes."""
    return bool(_LEFTOVER.fullmatch(name))


def remove_leftover(directory: int, name: str) -> None:
    """Remove what a killed run left; a file that another run works on stays."""
    with contextlib.suppress(OSError):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=directory)
        finally:
            os.close(fd)


def finish(source: int, target: int) -> None:
    """Give `target` the owner, mode, attributes and mtime of `source`, and have it on the disk."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, info.st_mode & 0o7777)
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
    os.fsync(target)
