"""A walk over a directory tree that no symlink, rename or mount leads outside: every directory is
opened relative to its root, a component at a time (openat(2), O_NOFOLLOW)."""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from upkeep.errors import Exit, OperatorError

QUIETLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SYSTEM = re.compile(
    r"/((bin|boot|dev(?!/shm/.)|etc|lib(32|64|x32)?|proc|sbin|sys|usr)(/.*)?"
    r"|home(/[^/]*)?|media|mnt|opt|root|run|srv|var(/(cache|lib|spool))?"
    r"|var/(lib/(apt|dpkg)|spool/cron)(/.*)?)?",
    re.DOTALL,
)


class LeftAloneError(Exception):
    """A file or directory is not touched, for the reason that this says; nothing is wrong."""


Wanted = Callable[[str, str], object]  # folder below the root, name
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

    @property
    def freeable(self) -> int:
        """Bytes on the disk that removing it frees: none while it has another name."""
        return self.info.st_blocks * 512 if self.info.st_nlink == 1 else 0

    def open(self, flags: int = os.O_RDONLY, locked: bool = False) -> int:
        """A descriptor of this very file, with its flock if `locked`. Raises OSError, and
        LeftAloneError when another has its name by now, or somebody else the flock."""
        fd = os.open(self.name, flags | QUIETLY, dir_fd=self.directory)
        try:
            if not os.path.samestat(os.fstat(fd), self.info):
                raise LeftAloneError("replaced meanwhile")
            if locked:
                lock(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def refuse_changed(self, now: os.stat_result) -> None:
        """Raise LeftAloneError when `now` is another file's, or this one has changed."""
        stamps = [(i.st_dev, i.st_ino, i.st_size, i.st_mtime_ns) for i in (now, self.info)]
        if stamps[0] != stamps[1]:
            raise LeftAloneError("changed meanwhile")


def refuse_root(root: str, protected: Iterable[Path], own: Iterable[Path] = ()) -> None:
    """Raise OperatorError for a system or home directory, a symlink, one above `protected`, and
    one in or below `own`, the suite's code and live records."""
    plain = "/" + os.path.normpath(root).strip("/")
    real = os.path.realpath(plain)
    why = f'it is a symlink; name the directory itself: "{real}"' if real != plain else ""
    if _SYSTEM.fullmatch(real):
        why = "a system or home directory is not cleaned"
    for path in protected:
        if path.resolve().is_relative_to(real):
            why = f"{path} is in it"
    for path in own:
        if Path(real).is_relative_to(path.resolve()):
            why = "it is upkeep's own"
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
    root: str, wanted: Wanted, trouble: Trouble, stopped: Callable[[], bool]
) -> Iterator[Found]:
    """Files of any kind on the file system of `root` that are wanted; a directory that somebody
    holds an flock on is left alone."""
    try:
        with opened(root) as top:
            yield from _below(root, top, wanted, trouble, stopped)
    except OSError as error:
        trouble(root, error)


def _below(
    root: str, top: int, wanted: Wanted, trouble: Trouble, stopped: Callable[[], bool]
) -> Iterator[Found]:
    mount, pending = _mount(top), [""]
    while pending and not stopped():
        folder = pending.pop()
        shown = f"{root}/{folder}"
        try:
            with opened(folder, top) as directory:
                _refuse(directory, mount)
                yield from _files(directory, shown, folder, wanted, pending)
        except FileNotFoundError:  # it went meanwhile
            continue
        except (LeftAloneError, OSError) as error:
            trouble(shown, error)


def _refuse(directory: int, mount: tuple[int, str]) -> None:
    if _mount(directory) != mount:
        raise LeftAloneError("another file system, or mounted from elsewhere")
    lock(directory)


def lock(fd: int) -> None:
    """Hold the flock of a file or directory until `fd` is closed. Raises LeftAloneError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LeftAloneError("locked by another program (flock)") from None


def _mount(directory: int) -> tuple[int, str]:
    """The file system, and the mount by which it is seen: a bind mount has one of its own."""
    with open(f"/proc/self/fdinfo/{directory}") as file:
        return os.fstat(directory).st_dev, file.read().partition("mnt_id:")[2].partition("\n")[0]


def _files(
    directory: int, shown: str, folder: str, wanted: Wanted, pending: list[str]
) -> Iterator[Found]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{folder}{entry.name}/")
            elif wanted(folder, entry.name) and (info := _info(entry)):
                yield Found(directory, shown, entry.name, info)


def _info(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # it went meanwhile
        return None
