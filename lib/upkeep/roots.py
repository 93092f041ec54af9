"""The directories that a cleanup begins at: which are refused, and what it emptied in them."""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from upkeep import tree
from upkeep.errors import Exit, OperatorError

_SYSTEM = re.compile(
    r"/((bin|boot|dev(?!/shm/.)|etc|lib(32|64|x32)?|proc|sbin|sys|usr)(/.*)?"
    r"|home(/[^/]*)?|media|mnt|opt|root|run|srv|var(/(cache|lib|spool))?"
    r"|var/(lib/(apt|dpkg)|spool/cron)(/.*)?)?",
    re.DOTALL,
)


def refuse(root: str, protected: Iterable[Path], own: Iterable[Path] = ()) -> None:
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


def outermost(paths: Iterable[str]) -> list[str]:
    """`paths` without those in another one of them; one that is not there stays, to be told."""
    plain = {os.path.normpath(path).rstrip("/") for path in paths}
    inner = {path for path in plain for other in plain if path.startswith(f"{other}/")}
    return sorted(plain - {path for path in inner if os.path.isdir(path)})


def remove_empty(roots: list[str], folders: set[str]) -> None:
    """Remove those of `folders` that are empty, and what is emptied by that, but no root."""
    for folder in sorted(folders, key=len, reverse=True):
        path = folder.rstrip("/")
        with contextlib.suppress(OSError):
            while path not in roots:
                above, _, name = path.rpartition("/")
                with tree.opened(above) as parent:
                    os.rmdir(name, dir_fd=parent)
                path = above
