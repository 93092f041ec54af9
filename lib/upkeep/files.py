"""Files that must survive a crash: locks, atomic writes, appended lines, state as JSON."""

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from upkeep.errors import Exit, OperatorError

LOCK_POLL_SECONDS = 0.02
FOREIGN_ERRNOS = (errno.ELOOP, errno.EINVAL, errno.ENXIO)  # of `open_quietly`: a link, a FIFO, ...

set_aside: list[Path] = []  # damaged state files that this run moved away, for `cli` to report


def make_directory(path: Path) -> None:
    """Make a private directory (0700) and its parents, if they are not there."""
    if not path.parent.is_dir():
        make_directory(path.parent)  # Path.mkdir(parents=True) would make it open to all
    path.mkdir(mode=0o700, exist_ok=True)


def sync_directory(path: Path) -> None:
    """Have the names in directory `path` on the disk: a rename is durable only after this."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def atomic_write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data`: readers and a crash see the old or the new file, never a part.

    On any error the temporary file is removed. Raises OSError.
    """
    publish(stage(path, data, mode), path)


def stage(path: Path, data: bytes, mode: int = 0o600) -> Path:
    """Write `data`, durably, to a temporary file beside `path`; its name begins with a dot.

    From then on a full disk can't keep `publish` from working. Raises OSError.
    """
    make_directory(path.parent)
    # Whoever may write here too can't know the name and so lay a FIFO or a link in its place.
    temporary = path.with_name(f".{path.name[:200]}.{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        discard(temporary)
        raise
    return temporary


def publish(temporary: Path, path: Path) -> None:
    """Let a staged file take the place of `path`, durably. Raises OSError."""
    try:
        os.rename(temporary, path)
    except BaseException:
        discard(temporary)
        raise
    sync_directory(path.parent)


def discard(path: Path) -> None:
    """Remove `path` if it is there and can be removed."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def append_line(path: Path, line: str, mode: int = 0o600) -> None:
    """Append one line under the file's flock, so that lines of several processes never mix.

    The file is opened for every line: after a rotation the next line goes to the new file. A line
    torn by a full disk gets its newline first, so that it never swallows the next one.
    Raises OSError.
    """
    make_directory(path.parent)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(path, flags, mode)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        data = ("\n" if torn else "") + line.replace("\n", "\\n") + "\n"
        encoded = data.encode("utf-8", "backslashreplace")
        if os.write(fd, encoded) != len(encoded):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(fd)


def tail(path: Path | int, lines: int = 20, most_bytes: int = 8192, start: int = 0) -> list[str]:
    """The last `lines` lines of `path` behind offset `start`; [] when it cannot be read.

    A file that is open already, which may have lost its name, goes by its descriptor; closes it.
    At most `most_bytes` from the end are looked at; a first line cut by that is left out.
    """
    try:
        with open(path, "rb", opener=open_quietly) as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(start if start <= size else 0, size - most_bytes)
            file.seek(begin)
            data = file.read(most_bytes)
    except OSError:
        return []
    rows = data.split(b"\n")
    if begin > start and len(rows) > 1:
        rows = rows[1:]
    return [row.decode("utf-8", "replace") for row in rows if row.strip()][-lines:]


def open_quietly(path: str, flags: int) -> int:
    """Open without waiting for the other end of a FIFO and without following a symlink."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def read_small(path: Path, most_bytes: int) -> bytes:
    """At most `most_bytes` of the regular file `path`. Raises OSError, also for symlinks."""
    with open(path, "rb", opener=open_quietly) as file:
        return file.read(most_bytes)


def read_state(path: Path, fits: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
    """The JSON object in `path`; {} when there is none.

    What is torn, no file, or not what `fits` says yes to is moved to `<name>.corrupt-<time>`,
    counts as empty and is listed in `set_aside`, so that it is reported once.
    Raises OSError when it can't be read or moved.
    """
    value = None
    try:
        value = json.loads(read_small(path, 64 << 20))
    except FileNotFoundError:
        return {}
    except OSError as error:
        if error.errno not in FOREIGN_ERRNOS:
            raise
    except (ValueError, RecursionError):
        pass
    if isinstance(value, dict) and (fits is None or fits(value)):
        return value
    damaged = path.with_name(f"{path.name}.corrupt-{int(time.time())}")
    os.rename(path, damaged)
    set_aside.append(damaged)
    return {}


def records_of(shape: dict[str, type]) -> Callable[[dict[str, Any]], bool]:
    """A check for `read_state`: every value is an object with just these keys and types, and no
    number in it is below 0 or beyond 1e11, where no Unix time can be."""

    def fits(value: Any) -> bool:
        whole = (
            isinstance(value, dict) and {key: type(each) for key, each in value.items()} == shape
        )
        numbers = (
            [each for each in value.values() if isinstance(each, (int, float))] if whole else []
        )
        return whole and all(0 <= each < 1e11 for each in numbers)

    return lambda value: all(map(fits, value.values()))


def write_state(path: Path, value: dict[str, Any]) -> None:
    """Store `value` as JSON, durable and atomic. Raises OSError."""
    atomic_write(path, state_text(value))


def state_text(value: dict[str, Any]) -> bytes:
    """`value` as it stands in a state file."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return text.encode("utf-8", "backslashreplace") + b"\n"


@contextlib.contextmanager
def lock(path: Path, wait: float = 0.0, what: str = "another run") -> Iterator[None]:
    """Hold the flock of `path`, waiting at most `wait` seconds for it.

    The file is permanent: unlinking it would let two holders in. Its descriptor is close-on-exec,
    and the kernel frees it with the process. Raises OperatorError with Exit.BUSY.
    """
    make_directory(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    deadline = time.monotonic() + wait
    try:
        while not _try_lock(fd):
            if time.monotonic() >= deadline:
                raise OperatorError(f"busy: {what} holds {path}", Exit.BUSY)
            time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def writable_by_others(path: Path, user: int | None = None) -> str | None:
    """Why someone but root, this user and `user` could change what `path` names, or None.

    Looks at the path itself and at every directory above it, symlinks resolved. A sticky
    directory such as /tmp is accepted above, because others cannot rename what is ours in it.
    """
    resolved = path.resolve()
    for level, each in enumerate((resolved, *resolved.parents)):
        try:
            info = os.stat(each)
        except FileNotFoundError:
            continue
        sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX and level > 0
        if info.st_uid not in (0, os.geteuid(), user):
            return f"{each} belongs to user {info.st_uid}"
        if info.st_mode & stat.S_IWOTH and not sticky:
            return f"{each} is writable by everybody"
        if info.st_mode & stat.S_IWGRP and info.st_gid not in (0, os.getegid()) and not sticky:
            return f"{each} is writable by group {info.st_gid}"
    return None
