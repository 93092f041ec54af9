"""Budgets: the oldest files go until the others, or the disk, fit."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from upkeep.settings import CleanupSettings

_DAY = 86400


@dataclass
class Border:
    """Where the budgets end: they take what is older than `second`, and `left` bytes of that."""

    second: float = -math.inf
    left: int = 0

    def takes(self, when: float, size: int) -> bool:
        """Whether a file from the Unix time `when` goes, and is counted as gone."""
        if when // 1 != self.second:
            return when < self.second
        self.left -= size
        return self.left + size > 0


def border(seconds: Sequence[int], sizes: Sequence[int], missing: int) -> Border:
    """How old the oldest files are that make `missing` bytes together. First by days: sums for all
    seconds would need 50 MB for 500,000 files."""
    if missing <= 0 or not seconds:
        return Border()
    days = (second // _DAY for second in seconds)
    day, missing = _reach(zip(days, sizes, strict=True), missing)
    files = zip(seconds, sizes, strict=True)
    return Border(*_reach((each for each in files if each[0] // _DAY == day), missing))


def _reach(sizes: Iterable[tuple[int, int]], missing: int) -> tuple[int, int]:
    """The time by which `missing` bytes are reached, else the last; how many of them it gives."""
    sums: Counter[int] = Counter()
    for when, size in sizes:
        sums[when] += size
    *earlier, last = sorted(sums)
    for when in earlier:
        if sums[when] >= missing:
            return when, missing
        missing -= sums[when]
    return last, missing


def missing_bytes(rule: CleanupSettings, place: str, total: int) -> int:
    """Bytes that must go so that `total` and the free space on the disk of `place` are as told."""
    disk, target = os.statvfs(place), rule.min_free or 0
    target = target * disk.f_blocks * disk.f_frsize if isinstance(target, float) else target
    over = 0 if rule.max_total is None else total - rule.max_total
    return max(over, int(target) - disk.f_bavail * disk.f_frsize, 0)
