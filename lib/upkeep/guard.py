"""What a cleanup refuses: dangerous roots, to take far more than the last one did, and a clock that
cannot be right."""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from upkeep import files, units
from upkeep.errors import Exit, OperatorError
from upkeep.report import DAY, Report

_BRAKED = ("delete", "truncate")
_FILES, _TIMES, _DAYS = 100, 10, 30
_SYSTEM = re.compile(
    r"/((bin|boot|dev(?!/shm/.)|etc|lib(32|64|x32)?|proc|sbin|sys|usr)(/.*)?"
    r"|home(/[^/]*)?|media|mnt|opt|root|run|srv|var(/(cache|lib|spool))?"
    r"|var/(lib/(apt|dpkg)|spool/cron)(/.*)?)?",
    re.DOTALL,
)


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


class Brake:
    """What the last runs left in the state file `path`; `now` is this run's time."""

    def __init__(self, path: Path, now: float) -> None:
        self._path, self._now = path, now
        self._memory: dict[str, Any] = {}
        with contextlib.suppress(OSError):  # a full disk is what a cleanup is for
            self._memory = files.read_state(path, _fits)
        self._memory = self._memory or {"deleted": {}}

    def refusal(self, report: Report) -> str:
        """Why the chosen files are not touched, else ""."""
        taken, matched = report.chosen, report.matched
        if not taken:
            return ""
        most = _FILES + _TIMES * self._memory["deleted"].get(report.rule, 0)
        why = self._wrong_clock(report)
        if not why and report.action in _BRAKED and taken > most and taken * 2 > matched:
            why = f"it would take {taken} of {matched} files, more than half and more than {most}"
        return why and f"{why}; nothing was done; --force overrides"

    def _wrong_clock(self, report: Report) -> str:
        """Why this run's time is not believed, else ""."""
        last_run, now = self._memory.get("time", self._now), self._now
        days = (now - max(last_run, report.newest)) / DAY
        if now < last_run:
            return f"the clock ({units.local_time(now)}) is before the last run"
        far = f"the clock ({units.local_time(now)}) is {days:.0f} d past the last run and all files"
        return far if days > _DAYS else ""

    def remember(self, report: Report, forced: bool) -> None:
        """Leave what the next run must know; a clock that is not believed only when `forced`."""
        if self._wrong_clock(report) and not forced:
            return
        self._memory["deleted"][report.rule] = report.done * (report.action in _BRAKED)
        with contextlib.suppress(OSError):
            files.write_state(self._path, {**self._memory, "time": self._now})


def _fits(memory: dict[str, Any]) -> bool:
    """Whether what the last run left is as `remember` writes it."""
    deleted = memory.get("deleted")
    numbers = isinstance(deleted, dict) and all(type(each) is int for each in deleted.values())
    return numbers and isinstance(memory.get("time"), float)
