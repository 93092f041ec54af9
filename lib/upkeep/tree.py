"""A walk over a directory tree that no symlink, rename or mount leads outside: every directory is
opened relative to its root, a component at a time (openat(2), O_NOFOLLOW)."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

BLOCK = 512  # bytes, of st_blocks
QUIETLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LeftAloneError(Exception):
    """A file or directory is not touched, for the reason that this says; nothing is wrong."""


Wanted = Callable[[str], Callable[[str], object]]  # of a folder below the root: which names
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

    def open(self, flags: int = os.O_RDONLY, locked: bool = False) -> int:
        """A descriptor of this very file, with its flock if `locked`. Raises OSError, and
        LeftAloneError when another has its name by now, or somebody else the flock."""
        try:
            fd = os.open(self.name, flags | QUIETLY, dir_fd=self.directory)
        except FileNotFoundError:
            raise LeftAloneError("gone meanwhile") from None
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
        then = self.info
        stamp = now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns
        if stamp != (then.st_dev, then.st_ino, then.st_size, then.st_mtime_ns):
            raise LeftAloneError("changed meanwhile")


def freeable(info: os.stat_result) -> int:
    """Bytes on the disk that removing a file frees: none while it has another name."""
    return info.st_blocks * BLOCK if info.st_nlink == 1 else 0


# Files of one directory, as in a Found, which is made of those only that need one. The directory
# is open, and its flock ours, until the walk goes on.
Batch = tuple[int, str, list[tuple[str, os.stat_result]]]


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


@dataclass
class Walk:
    """Files of any kind on the file system of `root` that are wanted, at most `at_once` in a batch;
    a directory that somebody holds an flock on is left alone."""

    root: str
    wanted: Wanted
    at_once: int
    trouble: Trouble
    stopped: Callable[[], bool]

    def __iter__(self) -> Iterator[Batch]:
        try:
            with opened(self.root) as top:
                yield from self._below(top)
        except OSError as error:
            self.trouble(self.root, error)

    def _below(self, top: int) -> Iterator[Batch]:
        mount, pending = _mount(top), [""]
        while pending and not self.stopped():
            below = pending.pop()
            shown = f"{self.root}/{below}"
            try:
                with opened(below, top) as fd, os.scandir(fd) as entries:
                    _refuse(fd, mount)
                    while not self.stopped() and (some := list(islice(entries, self.at_once))):
                        yield fd, shown, self._files(some, below, pending)
            except FileNotFoundError:  # it went meanwhile
                continue
            except (LeftAloneError, OSError) as error:
                self.trouble(shown, error)

    def _files(
        self, entries: "list[os.DirEntry[str]]", below: str, pending: list[str]
    ) -> list[tuple[str, os.stat_result]]:
        files, wanted = [], self.wanted(below)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{below}{entry.name}/")
            elif wanted(entry.name):
                try:
                    files.append((entry.name, entry.stat(follow_symlinks=False)))
                except FileNotFoundError:  # it went meanwhile
                    continue
        return files


def _refuse(directory: int, mount: tuple[int, bytes]) -> None:
    if _mount(directory) != mount:
        raise LeftAloneError("another file system, or mounted from elsewhere")
    lock(directory)


def lock(fd: int) -> None:
    """Hold the flock of a file or directory until `fd` is closed. Raises LeftAloneError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LeftAloneError("locked by another program (flock)") from None


def _mount(directory: int) -> tuple[int, bytes]:
    """The file system, and the mount by which it is seen: a bind mount has one of its own."""
    with open(f"/proc/self/fdinfo/{directory}", "rb", buffering=0) as file:
        mount = file.read(200).partition(b"mnt_id:")[2].partition(b"\n")[0]
    return os.fstat(directory).st_dev, mount
