"""Which files a cleanup rule means: globs, limits, the newest of a group, budgets, the brake.

Everything here decides from plain values; nothing on the disk is changed.
"""

import heapq
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate

from upkeep import openfiles, units
from upkeep.settings import CleanupSettings
from upkeep.timestamps import without_date
from upkeep.tree import Found

DAY = 86400.0
_CLOCK_SLACK_DAYS = 30
_BRAKE_FREE, _BRAKE_TIMES = 100, 10
_SIZE_BITS = 40
_SIZE_MASK = (1 << _SIZE_BITS) - 1


class Globs:
    """Shell patterns: for the base name, or, with a / in them, for the path below the root.

    In a path * and ? stay within one directory; ** stands for any number of them.
    """

    def __init__(self, globs: Sequence[str], whole_trees: bool = False) -> None:
        plain = [translate(glob) for glob in globs if "/" not in glob]
        self._name = re.compile("|".join(plain) or "(?!)").match
        self._paths = [glob.strip("/").split("/") for glob in globs if "/" in glob]
        self._whole_trees = whole_trees  # a pattern also means all that lies below its match

    def match(self, folder: str, name: str) -> bool:
        """Whether file `name` in `folder` ("" or "a/b/") matches one of them."""
        if self._name(name):
            return True
        parts = f"{folder}{name}".split("/") if self._paths else []
        return any(self._fits(parts, path) for path in self._paths)

    def _fits(self, parts: list[str], path: list[str]) -> bool:
        if not path:
            return self._whole_trees or not parts
        if path[0] == "**":
            return any(self._fits(parts[skip:], path[1:]) for skip in range(len(parts) + 1))
        fits = bool(parts) and fnmatchcase(parts[0], path[0])
        return fits and self._fits(parts[1:], path[1:])


def freeable(found: Found) -> int:
    """Bytes on the disk that removing this name frees: none while the file has another name."""
    return found.info.st_blocks * 512 if found.info.st_nlink == 1 else 0


def over_limit(rule: CleanupSettings, found: Found, when: float, now: float) -> str | None:
    """Why the file goes by `older_than` and `larger_than`; with both given, both must hold.

    A file to be pruned has no age of its own: its records have.
    """
    reasons = []
    if rule.older_than is not None and rule.action == "prune":
        reasons.append(f"records older than {rule.older_than / DAY:g} d")
    elif rule.older_than is not None:
        if not now - when > rule.older_than:
            return None
        reasons.append(f"{rule.age} {(now - when) / DAY:.1f} d > {rule.older_than / DAY:g} d")
    if rule.larger_than is not None:
        if found.info.st_size <= rule.larger_than:
            return None
        sizes = map(units.format_size, (found.info.st_size, rule.larger_than))
        reasons.append("size " + " > ".join(sizes))
    return ", ".join(reasons) or None


Dated = Iterable[tuple[Found, float]]


@dataclass
class Selection:
    """What must be known of all files of a rule before one of them is chosen."""

    newest: frozenset[str] = frozenset()  # paths that keep_newest protects
    needed_bytes: int = 0  # to be freed for the budgets
    border: float = -math.inf  # they take what is older than this second, ...
    border_bytes: int = 0  # ... and so much of that very second

    def choose(self, rule: CleanupSettings, found: Found, when: float, now: float) -> str | None:
        """Why the file goes; None when it stays. Counts down what the budgets still need."""
        if self.newest and found.path in self.newest:
            return None
        reason = over_limit(rule, found, when, now)
        if reason or when // 1 > self.border or now - when <= rule.min_age:
            return reason
        if when // 1 == self.border:
            if self.border_bytes <= 0:
                return None
            self.border_bytes -= freeable(found)
        return f"over the budget, {(now - when) / DAY:.1f} d old"

    def fit_budget(
        self, rule: CleanupSettings, files: Dated, free: int, disk: int, now: float
    ) -> None:
        """Find how far the budgets reach into the files that the limits leave, oldest first.

        `free` of the file system's `disk` bytes are free. Needs little memory: the second and the
        bytes of a file are one number, so that 500,000 files take 22 MB.
        """
        total, going, rest = 0, 0, []
        for found, when in files:
            size = freeable(found)
            total += size
            if found.path in self.newest or openfiles.writers(found.info):
                continue
            if over_limit(rule, found, when, now):
                going += size
            elif now - when > rule.min_age:
                rest.append(int(when // 1) << _SIZE_BITS | size)
        target = rule.min_free or 0
        target = int(target * disk) if isinstance(target, float) else target
        over = 0 if rule.max_total is None else total - rule.max_total
        self.needed_bytes = max(over, target - free, 0)
        rest.sort()
        self._draw_border(rest, self.needed_bytes - going)

    def _draw_border(self, packed: list[int], missing: int) -> None:
        for second, size in ((each >> _SIZE_BITS, each & _SIZE_MASK) for each in packed):
            if missing <= 0:
                return
            if second != self.border:
                self.border, self.border_bytes = second, missing
            missing -= size


def newest_of_groups(files: Dated, keep: int) -> frozenset[str]:
    """Paths of the `keep` newest files of each group: one directory, one name without its date."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for found, when in files:
        group = groups.setdefault(found.folder + without_date(found.name), [])
        push = heapq.heappush if len(group) < keep else heapq.heappushpop
        push(group, (when, found.path))
    return frozenset(path for group in groups.values() for _, path in group)


def brake(deleted: int, matched: int, last_deleted: int) -> str:
    """Why so many deletions are refused, else ""; `last_deleted` is what its last run deleted."""
    most = _BRAKE_FREE + _BRAKE_TIMES * last_deleted
    if deleted > most and deleted * 2 > matched:
        return (
            f"it would take {deleted} of {matched} files, more than half of them and more than"
            f" {most} ({_BRAKE_FREE} + {_BRAKE_TIMES} x the last run's {last_deleted})"
        )
    return ""


def clock_brake(now: float, last_run: float, newest: float) -> str:
    """Why the clock is not believed, else "": it was put back, or is far past all that is known."""
    if now < last_run:
        return f"the clock ({units.local_time(now)}) is before the last run"
    days = (now - max(last_run, newest)) / DAY
    if days > _CLOCK_SLACK_DAYS:
        return (
            f"the clock ({units.local_time(now)}) is {days:.0f} d past the last run and all files"
        )
    return ""
