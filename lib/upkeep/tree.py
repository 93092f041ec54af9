"""A walk over a directory tree that no symlink, rename or mount can lead outside.

Every directory is opened relative to the descriptor of its root, a component at a time, and no
symlink is followed (openat(2), O_NOFOLLOW). Few descriptors are open at once, however deep it is.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from upkeep.errors import Exit, OperatorError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SYSTEM = re.compile(
    r"/((bin|boot|dev(?!/shm/.)|etc|lib(32|64|x32)?|proc|sbin|sys|usr)(/.*)?"
    r"|home(/[^/]*)?|media|mnt|opt|root|run|srv|var(/(cache|lib|spool))?)?",
    re.DOTALL,
)

Trouble = Callable[[str, str | Exception], None]  # path, why it is left alone or what failed


class Found(NamedTuple):
    """A file: `directory` is a descriptor, open until the walk goes on; `folder` ends with a /."""

    directory: int
    folder: str
    name: str
    info: os.stat_result

    @property
    def path(self) -> str:
        """For people; what is done goes through `directory` and `name`."""
        return self.folder + self.name

    def open(self, flags: int = os.O_RDONLY) -> int:
        """A descriptor of this very file. Raises OSError."""
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self.name, flags, dir_fd=self.directory)


def refuse_root(root: str, protected: Iterable[Path]) -> None:
    """Raise OperatorError for a system or home directory, a symlink, or one above `protected`."""
    plain = "/" + os.path.normpath(root).strip("/")
    real = os.path.realpath(plain)
    why = f'it is a symlink; name the directory itself: "{real}"' if real != plain else ""
    if _SYSTEM.fullmatch(real):
        why = "a system or home directory is not cleaned"
    for path in protected:
        if path.resolve().is_relative_to(real):
            why = f"{path} is in it"
    if why:
        raise OperatorError(f"{root}: refused: {why}", Exit.REFUSED)
    if os.path.lexists(plain) and not os.path.isdir(plain):
        raise OperatorError(f"{root}: not a directory; name the one it lies in", Exit.USAGE)


@contextlib.contextmanager
def opened(path: str, top: int | None = None) -> Iterator[int]:
    """The descriptor of directory `path` below descriptor `top`, or below /. Raises OSError."""
    directory = os.open("/" if top is None else ".", _DIRECTORY, dir_fd=top)
    try:
        for name in filter(None, path.split("/")):
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        yield directory
    finally:
        os.close(directory)


def walk(
    root: str, wanted: Callable[[str, str], bool], trouble: Trouble, stopped: Callable[[], bool]
) -> Iterator[Found]:
    """Files of any kind below `root` whose `wanted(folder below the root, name)` is true.

    Stays on the root's file system and leaves directories alone that somebody holds an flock on.
    """
    with opened(root) as top:
        pending = [""]
        while pending and not stopped():
            folder = pending.pop()
            shown = f"{root}/{folder}"
            try:
                with opened(folder, top) as directory:
                    reason = _off_limits(directory, top)
                    if reason:
                        trouble(shown, reason)
                    else:
                        yield from _files(directory, shown, folder, wanted, pending)
            except FileNotFoundError:  # it went meanwhile
                continue
            except OSError as error:
                trouble(shown, error)


def _files(
    directory: int,
    shown: str,
    folder: str,
    wanted: Callable[[str, str], bool],
    pending: list[str],
) -> Iterator[Found]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{folder}{entry.name}/")
            elif wanted(folder, entry.name):
                with contextlib.suppress(FileNotFoundError):
                    info = entry.stat(follow_symlinks=False)
                    yield Found(directory, shown, entry.name, info)


def _off_limits(directory: int, top: int) -> str | None:
    if os.fstat(directory).st_dev != os.fstat(top).st_dev:
        return "another file system"
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "locked by another program (flock)"
    return None
