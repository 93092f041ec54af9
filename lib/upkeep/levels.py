"""Everything about memory that has a limit: how it stands, and for how many samples."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from upkeep import leak
from upkeep.config import Config
from upkeep.reading import Reading
from upkeep.units import format_size

CLEAR_BELOW = 0.05  # a disk is well again this far below its limit


class Level(NamedTuple):
    """One comparison with a limit; what is neither over nor clear lies between."""

    key: str
    text: str
    over: bool
    clear: bool
    in_a_row: int


def compare(
    settings: Config, now: Reading, leaks: dict[str, leak.Verdict], within: float
) -> Iterator[Level]:
    """Memory, disks, tasks, and leaks that reach the limit `within` so many seconds."""
    limits, host = settings.host, now.host
    shares = [("memory", host["used_bytes"], host["available_bytes"], limits.memory_alert)]
    shares += [(f"disk {p}", *sizes, limits.disk_alert) for p, sizes in now.disks.items()]
    for what, used, free, limit in shares:
        share = used / max(1, used + free)
        below = limits.memory_clear if what == "memory" else limit - CLEAR_BELOW
        text = f"{what} {share:.1%} of {format_size(used + free)} in use, limit {limit:.0%}"
        yield Level(what, text, share > limit, share < below, limits.samples)
    for each in now.programs:
        task = settings.tasks.get(each.name)
        if task and task.max_rss:
            size, limit = each.pss_bytes or each.rss_bytes, task.max_rss
            text = f"{each.name} {format_size(size)} in use, limit {format_size(limit)}"
            key = f"task:{each.name}:memory"
            yield Level(key, text, size > limit, size <= limit, task.max_rss_samples)
    for name, verdict in leaks.items():
        left = verdict.time_to_limit_seconds
        over = verdict.verdict == "leak" and left is not None and left < within
        yield Level(f"leak:{name}", f"{name}: {leak.describe(verdict)}", over, not over, 2)


def count_on(counts: dict[str, int], seen: Iterable[Level]) -> dict[str, int]:
    """How many samples in a row every level has been over (positive) or clear (negative)."""
    fresh = dict(counts)
    for level in seen:
        before = counts.get(level.key, 0)
        up, down = max(0, before) + 1, min(0, before) - 1
        fresh[level.key] = up if level.over else down if level.clear else 0
    return fresh
