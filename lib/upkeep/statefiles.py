"""Stale state files of a stopped program, removed without ever following a symlink."""

import contextlib
import fnmatch
import os
import stat
from pathlib import Path


def remove(patterns: tuple[str, ...], older_than: float, now: float, dry_run: bool) -> list[str]:
    """Remove the files that match `patterns` and are `older_than` seconds old; their paths.

    Directories are opened one below the other, so that a symlink put into the way, at whatever
    moment, ends that branch. Only files, sockets and FIFOs go.
    """
    removed: list[str] = []
    for pattern in patterns:
        with contextlib.suppress(OSError):
            root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            removed += _below(root, Path("/"), Path(pattern).parts[1:], now - older_than, dry_run)
    return removed


def _below(fd: int, at: Path, parts: tuple[str, ...], limit: float, dry_run: bool) -> list[str]:
    """Handle one level and close `fd`, the directory `at`."""
    found: list[str] = []
    try:
        for name in _matching(fd, parts[0]):
            with contextlib.suppress(OSError):
                if len(parts) > 1:
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    child = os.open(name, flags, dir_fd=fd)
                    found += _below(child, at / name, parts[1:], limit, dry_run)
                elif _stale(os.stat(name, dir_fd=fd, follow_symlinks=False), limit):
                    if not dry_run:
                        os.unlink(name, dir_fd=fd)
                    found.append(str(at / name))
    finally:
        os.close(fd)
    return found


def _matching(fd: int, pattern: str) -> list[str]:
    """Names in a directory as a shell's glob would find them: a leading dot must be asked for."""
    if not any(char in pattern for char in "*?["):
        return [pattern]
    names = (name for name in os.listdir(fd) if name[0] != "." or pattern[0] == ".")
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def _stale(info: os.stat_result, limit: float) -> bool:
    kinds = (stat.S_ISREG, stat.S_ISSOCK, stat.S_ISFIFO)
    return info.st_mtime <= limit and any(kind(info.st_mode) for kind in kinds)
