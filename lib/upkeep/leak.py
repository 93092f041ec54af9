"""Whether a program leaks: the verdict on its memory over time.

The idea: look at the floor of memory, not at its peaks. One life of a program, after half an hour
of warming up, is cut into twelve equal blocks, and of each only the 20th percentile counts, which
a garbage collector's teeth and bursts of work do not move. A leak is a floor that rises steadily
(Mann-Kendall test), by an amount that matters (lower bound of Sen's slope), neither in one step
nor ever more slowly, as a cache that fills or a process that warms up does.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from upkeep.config import Config
from upkeep.samples import Point, Reading
from upkeep.units import format_duration, format_size

DAY = 86400.0
WINDOW_SECONDS = 3 * DAY  # of the history that is looked at
WARM_UP_SECONDS = 1800.0
BLOCKS = 12
LEAST_SAMPLES = 24
SHORT_LIFE, HALF_LIFE, FULL_LIFE = 4 * 3600.0, 12 * 3600.0, 24 * 3600.0 - 3600.0
SAME_TIME_SECONDS = 60.0
LIVES = 5  # of a program that is restarted often, this many are judged together
LEAST_TREND = 2.33  # z of the one-sided Mann-Kendall test: p < 0.01
LEAST_SLOPE = float(1 << 20)  # bytes per day
_BOUND_Z = 1.645  # both bounds of the slope together hold it with 90 %

Floor = tuple[float, float]  # (age in days, bytes)


class Verdict(NamedTuple):
    """`verdict` is leak, growing, steady, plateau, step or too_short.

    The slope with its bounds is None when there is too little to tell.
    """

    verdict: str
    growth_bytes_per_day: float | None = None
    growth_low: float | None = None
    growth_high: float | None = None
    time_to_limit_seconds: float | None = None

    @property
    def severity(self) -> int:
        """Orders verdicts: the larger, the worse."""
        order = ("too_short", "steady", "plateau", "step", "growing", "leak")
        return order.index(self.verdict)


def judge(points: Sequence[Point], limit_bytes: float | None, now: float) -> Verdict:
    """Judge one program. `points` are in the order of time; `now` in Unix seconds.

    `limit_bytes` counts where the last point names no limit of its own. Of several lives at one
    time (workers sampled one by one) the one that looks worst counts.
    """
    lives: dict[tuple[str, int, int], list[Point]] = {}
    for point in points:
        lives.setdefault(point.life, []).append(point)
    if not lives:
        return Verdict("too_short")
    last = points[-1]
    together = [life for life in lives.values() if life[-1].time > last.time - SAME_TIME_SECONDS]
    if len(together) > 1:
        verdict = max((_of_lives([life]) for life in together), key=lambda each: each.severity)
    else:
        verdict = _of_lives(list(lives.values()))
    limit = last.limit_bytes or limit_bytes
    slope = verdict.growth_bytes_per_day
    if verdict.verdict not in ("leak", "growing") or not limit or not slope:
        return verdict
    left = (limit - last.rss_bytes) / slope * DAY - (now - last.time)
    return verdict._replace(time_to_limit_seconds=max(0.0, left))


def describe(verdict: dict[str, Any]) -> str:
    """A verdict (its _asdict) for people: "leak, 12 MiB a day, at its limit in 3 d 4 h"."""
    words = [verdict["verdict"].replace("_", " ")]
    growth, left = verdict["growth_bytes_per_day"], verdict["time_to_limit_seconds"]
    if verdict["verdict"] in ("leak", "growing") and growth:
        words.append(f"{format_size(growth)} a day")
    if left is not None:
        words.append(f"at its limit in {format_duration(left)}")
    return ", ".join(words)


def limits(settings: Config, reading: Reading) -> dict[str, float]:
    """What every program of `reading` may use: the task's max_rss, else all that is left."""
    available = reading.host.available_bytes
    tasks = settings.tasks
    return {
        each.name: (tasks[each.name].max_rss if each.task else None) or each.rss_bytes + available
        for each in reading.programs
    }


def _of_lives(lives: Sequence[Sequence[Point]]) -> Verdict:
    """One verdict on the lives of a program, oldest first."""
    long_enough = [life for life in lives if _span(life) >= SHORT_LIFE][-LIVES:]
    verdicts = [_judge_life(life) for life in long_enough]
    hits = [each for each in verdicts if each.verdict == "leak"]
    last_span = _span(lives[-1])
    if last_span >= FULL_LIFE:
        return verdicts[-1]
    if len(hits) >= 2 and len(hits) >= 0.6 * len(verdicts):
        return sorted(hits, key=lambda hit: hit.growth_bytes_per_day or 0)[len(hits) // 2]
    if hits and (len(verdicts) > 1 or last_span >= HALF_LIFE):
        return hits[-1]._replace(verdict="growing")
    return verdicts[-1] if last_span >= HALF_LIFE else Verdict("too_short")


def _span(life: Sequence[Point]) -> float:
    """Seconds of a life that can be judged."""
    return life[-1].age_seconds - max(WARM_UP_SECONDS, life[0].age_seconds)


def _judge_life(life: Sequence[Point]) -> Verdict:
    """Judge one life by itself."""
    floors = _floors(life)
    if len(floors) < BLOCKS * 2 // 3:
        return Verdict("too_short")
    values = [value for _, value in floors]
    trend, spread = _mann_kendall(values)
    slope, low, high = sen_slope(floors, spread)
    middle = _median(values)
    residual = _deviation([value - slope * x for x, value in floors])
    growth = slope * (floors[-1][0] - floors[0][0])
    rising = trend >= LEAST_TREND and low > LEAST_SLOPE
    if not rising or growth < max(0.03 * middle, LEAST_SLOPE, 3 * residual):
        verdict = "steady"
    elif _is_step(values):
        verdict = "step"
    elif _flattens(floors, slope, residual):
        verdict = "plateau"
    else:
        verdict = "leak"
    return Verdict(verdict, slope, low, high)


def _floors(life: Sequence[Point]) -> list[Floor]:
    """The 20th percentile of each block: (age in days, bytes). Blocks without samples are left out.

    The PSS counts where every sample has one, else the RSS: never a mixture.
    """
    whole = all(point.pss_bytes is not None for point in life)
    warm = [point for point in life if point.age_seconds >= WARM_UP_SECONDS]
    if len(warm) < LEAST_SAMPLES:
        return []
    begin = warm[0].age_seconds
    width = (warm[-1].age_seconds - begin) / BLOCKS or 1.0
    blocks: list[list[float]] = [[] for _ in range(BLOCKS)]
    for point in warm:
        index = min(BLOCKS - 1, int((point.age_seconds - begin) / width))
        blocks[index].append(point.pss_bytes if whole and point.pss_bytes else point.rss_bytes)
    return [
        ((begin + (index + 0.5) * width) / DAY, sorted(block)[len(block) // 5])
        for index, block in enumerate(blocks)
        if block
    ]


def _mann_kendall(values: Sequence[float]) -> tuple[float, float]:
    """(z, standard deviation of the statistic) of the test for a trend (Kendall 1975)."""
    n = len(values)
    pairs = [(a, b) for index, a in enumerate(values) for b in values[index + 1 :]]
    score = sum((b > a) - (b < a) for a, b in pairs)
    ties = (values.count(value) for value in set(values))
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    spread = math.sqrt(max(variance, 1.0))
    return (score - (score > 0) + (score < 0)) / spread, spread


def sen_slope(floors: Sequence[Floor], spread: float = 0.0) -> tuple[float, float, float]:
    """The median slope of all pairs, with its bounds (Sen 1968), in bytes per day.

    `spread` is the standard deviation of the Mann-Kendall statistic; 0 gives no bounds.
    """
    slopes = sorted(
        (later[1] - each[1]) / (later[0] - each[0])
        for index, each in enumerate(floors)
        for later in floors[index + 1 :]
    )
    half = _BOUND_Z * spread / 2
    low = slopes[max(0, math.floor(len(slopes) / 2 - half))]
    high = slopes[min(len(slopes) - 1, math.ceil(len(slopes) / 2 + half))]
    return _median(slopes), low, high


def _is_step(values: Sequence[float]) -> bool:
    """Whether most of the growth came at once."""
    rises = [later - each for each, later in itertools.pairwise(values)]
    return max(rises) > 0.45 * (values[-1] - values[0])


def _flattens(floors: Sequence[Floor], slope: float, residual: float) -> bool:
    """Whether growth dies down: less of it in the last half and third, or like a logarithm."""
    half, third = floors[len(floors) // 2 :], floors[len(floors) * 2 // 3 :]
    if sen_slope(half)[0] < 0.6 * slope or sen_slope(third)[0] < 0.3 * slope:
        return True
    logarithmic = [(math.log(age), value) for age, value in floors]
    like_log = sen_slope(logarithmic)[0]
    return _deviation([value - like_log * x for x, value in logarithmic]) < 0.6 * residual


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _deviation(values: Sequence[float]) -> float:
    """The median absolute deviation from the median."""
    middle = _median(values)
    return _median([abs(value - middle) for value in values])
