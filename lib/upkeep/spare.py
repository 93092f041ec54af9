"""A place in memory for what must be kept while the disk takes nothing, being full or read-only."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from upkeep import files

ROOT = Path("/dev/shm")
_LONGEST_NAME = 200


def place(directory: Path, *, make: bool = False) -> Path:
    """What stands in for `directory`. Raises OSError where it is not there or not private."""
    mine = ROOT / f"upkeep-{os.geteuid()}"
    if make:
        files.make_directory(mine)
    info = os.lstat(mine)  # anybody could have made it
    private = stat.S_ISDIR(info.st_mode) and not info.st_mode & 0o077
    if info.st_uid != os.geteuid() or not private:
        raise PermissionError(errno.EPERM, "it is not this user's alone", str(mine))
    return mine / os.fsencode(directory).hex()[-_LONGEST_NAME:]


def newest(file: Path) -> Path:
    """What stands in for `file` now, or `file` itself."""
    with contextlib.suppress(OSError):
        kept = place(file.parent) / file.name
        if kept.exists():
            return kept
    return file


def read_state(file: Path, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Like files.read_state, preferring what stands in for `file`; {} where it can't be read."""
    with contextlib.suppress(OSError):
        return files.read_state(newest(file), fits)
    return {}


def write_state(file: Path, value: dict[str, Any]) -> OSError | None:
    """Like files.write_state; what the disk does not take is kept in memory until it does.

    Where that is impossible, too, it is lost. Returns the disk's error instead of raising it.
    """
    try:
        files.write_state(file, value)
    except OSError as error:
        with contextlib.suppress(OSError):
            files.write_state(place(file.parent, make=True) / file.name, value)
        return error
    with contextlib.suppress(OSError):
        (place(file.parent) / file.name).unlink()
    return None


@contextlib.contextmanager
def lock(path: Path, wait: float, what: str) -> Iterator[None]:
    """Like files.lock; where the file can't be made, one in memory is locked."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(path, wait, what))
        except OSError:
            kept = place(path.parent, make=True) / path.name
            stack.enter_context(files.lock(kept, wait, what))
        yield
