"""A walk over a directory tree that no symlink, rename or mount can lead outside.

Every directory is opened relative to the descriptor of its root, one component at a time, and no
symlink is ever followed (openat(2), O_NOFOLLOW). Only two descriptors are open at once, so a tree
may be deeper than the limit of open files.
"""

import contextlib
import fcntl
import os
import re
import stat
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

Trouble = Callable[[str, str, bool], None]  # path, reason, whether it is an error


class Found(NamedTuple):
    """One file. `directory` is a descriptor, open until the walk goes on."""

    directory: int
    folder: str  # "/srv/data/", always with the slash
    name: str
    info: os.stat_result

    @property
    def path(self) -> str:
        """For people; what is done goes through `directory` and `name`."""
        return self.folder + self.name


def refuse_root(root: str, protected: Iterable[Path]) -> None:
    """Raise OperatorError when cleaning in `root` could take the system or its users' homes apart.

    `protected` are paths that must not lie inside: the home directory, this program, its state.
    """
    plain = "/" + os.path.normpath(root).strip("/")
    real = os.path.realpath(plain)
    why = "a system or home directory is not cleaned" if _SYSTEM.fullmatch(real) else ""
    inside = [path for path in protected if path.resolve().is_relative_to(real)]
    if inside:
        why = f"{inside[0]} is in it"
    elif real != plain:
        why = why or f'a symlink is not followed; name the directory itself: "{real}"'
    if why:
        raise OperatorError(f"{root}: refused: {why}", Exit.REFUSED)
    if os.path.lexists(plain) and not os.path.isdir(plain):
        raise OperatorError(f"{root}: not a directory; name the one it lies in", Exit.USAGE)


def open_below(top: int, folder: str) -> int:
    """A descriptor of directory `folder` ("" or "a/b/") below descriptor `top`. Raises OSError."""
    directory = os.open(".", _DIRECTORY, dir_fd=top)
    for name in folder.split("/")[:-1]:
        outer = directory
        try:
            directory = os.open(name, _DIRECTORY, dir_fd=outer)
        finally:
            os.close(outer)
    return directory


@contextlib.contextmanager
def opened(root: str) -> Iterator[int]:
    """The descriptor of directory `root`; a symlink on the way is an OSError."""
    slash = os.open("/", _DIRECTORY)
    try:
        top = open_below(slash, root.strip("/") + "/")
    finally:
        os.close(slash)
    try:
        yield top
    finally:
        os.close(top)


def walk(
    root: str, wanted: Callable[[str, str], bool], trouble: Trouble, stopped: Callable[[], bool]
) -> Iterator[Found]:
    """Regular files below `root` whose `wanted(folder below the root, name)` is true.

    Stays on the root's file system and leaves directories alone that somebody holds an flock on.
    What cannot be read goes to `trouble`; `stopped` is asked at every directory.
    """
    with opened(root) as top:
        device = os.fstat(top).st_dev
        pending = [""]
        while pending and not stopped():
            folder = pending.pop()
            shown = f"{root.rstrip('/')}/{folder}"
            try:
                directory = open_below(top, folder)
            except OSError as error:
                trouble(shown, str(error.strerror), not isinstance(error, FileNotFoundError))
                continue
            try:
                reason = _off_limits(directory, device)
                if reason:
                    trouble(shown, reason, False)
                else:
                    yield from _files(directory, folder, shown, wanted, pending, trouble)
            finally:
                os.close(directory)


def _off_limits(directory: int, device: int) -> str | None:
    if os.fstat(directory).st_dev != device:
        return "another file system"
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "locked by another program (flock)"
    except OSError:  # a file system without locks
        pass
    return None


def _files(
    directory: int,
    folder: str,
    shown: str,
    wanted: Callable[[str, str], bool],
    pending: list[str],
    trouble: Trouble,
) -> Iterator[Found]:
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{folder}{name}/")
            elif wanted(folder, name):
                try:
                    info = entry.stat(follow_symlinks=False)
                except OSError as error:  # a file that vanished meanwhile is nobody's trouble
                    if not isinstance(error, FileNotFoundError):
                        trouble(shown + name, str(error.strerror), True)
                    continue
                if stat.S_ISREG(info.st_mode):
                    yield Found(directory, shown, name, info)
                else:
                    trouble(shown + name, "not a regular file", False)


def remove_empty(root: str, folders: Iterable[str]) -> None:
    """Remove those of `folders` (paths with a slash at the end) that are empty, and what is
    emptied by that, but never `root` itself."""
    for folder in sorted(folders, key=len, reverse=True):
        with contextlib.suppress(OSError):
            while folder.startswith(f"{root}/") and folder != f"{root}/":
                above, _, name = folder[:-1].rpartition("/")
                with opened(above) as parent:
                    os.rmdir(name, dir_fd=parent)
                folder = f"{above}/"
