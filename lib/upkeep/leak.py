"""Whether a program leaks: the verdict on its memory over time.

One life of it, after a warm-up, is cut into twelve equal blocks; of each only the 20th percentile
counts, its floor, which a collector's teeth and bursts of work do not move. A leak is a floor that
rises steadily (Mann-Kendall), by an amount that matters (Sen's slope), neither in one step nor ever
more slowly, as a cache that fills does.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from upkeep.config import Config
from upkeep.samples import Point, Series, life_of
from upkeep.units import format_duration, format_size

DAY = 86400.0
WINDOW_SECONDS = 3 * DAY  # of the history that is looked at
WARM_UP_SECONDS = 1800.0
BLOCKS, LEAST_SAMPLES = 12, 18
LIVES = 5  # of a program that is restarted often, this many are judged together
SHORT_LIFE, HALF_DAY, WHOLE_DAY = 4 * 3600.0, 12 * 3600.0, 23 * 3600.0
LEAST_TREND = 2.33  # z of the one-sided Mann-Kendall test: p < 0.01
LEAST_GROWTH = float(1 << 20)  # bytes, in all and per day
_BOUND_Z = 1.645  # the bounds of the slope hold it with 90 %

Floor = tuple[float, float]  # (age in days, bytes)


class Verdict(NamedTuple):
    """leak, growing, steady, plateau, step or too_short; the slope of the floor and its bounds."""

    verdict: str
    growth_bytes_per_day: float | None = None
    growth_low_bytes_per_day: float | None = None
    growth_high_bytes_per_day: float | None = None
    time_to_limit_seconds: float | None = None
    limit_bytes: float | None = None


Verdicts = dict[str, Verdict]


def judge(points: Sequence[Point], limit_bytes: float | None, now: float) -> Verdict:
    """Judge one program. `points` are in the order of time; `now` is Unix seconds.

    `limit_bytes` counts where the last point names no limit of its own.
    """
    lives: dict[tuple[str, int, int], list[Point]] = {}
    for point in points:
        lives.setdefault(life_of(point), []).append(point)
    found = _judge_lives(list(lives.values())) if lives else Verdict("too_short")
    limit = (points[-1].limit_bytes if points else None) or limit_bytes
    found = found._replace(limit_bytes=limit)
    if found.verdict not in ("leak", "growing") or not found.growth_bytes_per_day or not limit:
        return found
    left = (limit - points[-1].rss_bytes) / found.growth_bytes_per_day * DAY
    passed = max(0.0, now - points[-1].time)
    return found._replace(time_to_limit_seconds=max(0.0, left - passed))


def describe(found: Verdict) -> str:
    """A verdict for people: "leak, 12 MiB a day, at its limit in 3 d 4 h"."""
    growth, left = found.growth_bytes_per_day, found.time_to_limit_seconds
    slope = f", {format_size(growth)} a day" if growth else ""
    verdict = found.verdict.replace("_", " ")
    return verdict + slope + (f", at its limit in {format_duration(left)}" if left else "")


def judge_all(
    settings: Config, series: Series, limits: dict[str, int], now: float, window: float
) -> Verdicts:
    """Judge every program of `limits` by its last `window` seconds.

    A task's max_rss goes before the limit (bytes) given here.
    """
    found = {}
    for name, limit in limits.items():
        task = settings.tasks.get(name)
        points = [point for point in series.get(name, []) if point.time >= now - window]
        found[name] = judge(points, (task and task.max_rss) or limit, now)
    return found


def _judge_lives(lives: Sequence[Sequence[Point]]) -> Verdict:
    """The last life's verdict, if that is a day long; else that of most of the last lives."""
    spans = [life[-1].age_seconds - max(WARM_UP_SECONDS, life[0].age_seconds) for life in lives]
    long_enough = [life for life, span in zip(lives, spans, strict=True) if span >= SHORT_LIFE]
    verdicts = [_judge_life(life) for life in long_enough[-LIVES:]]
    hits = [each for each in verdicts if each.verdict == "leak"]
    judged = [each for each in verdicts if each.verdict != "too_short"]  # that: full of gaps
    if spans[-1] < WHOLE_DAY and len(hits) >= max(2, 0.6 * len(judged)):
        return sorted(hits, key=lambda hit: hit.growth_bytes_per_day or 0)[len(hits) // 2]
    if spans[-1] < WHOLE_DAY and hits and (len(verdicts) > 1 or spans[-1] >= HALF_DAY):
        return hits[-1]._replace(verdict="growing")
    return verdicts[-1] if spans[-1] >= HALF_DAY else Verdict("too_short")


def _judge_life(life: Sequence[Point]) -> Verdict:
    floors = _floors(life)
    if len(floors) < BLOCKS * 2 // 3:
        return Verdict("too_short")
    values = [value for _, value in floors]
    trend, spread = _mann_kendall(values)
    slope, low, high = sen_slope(floors, spread)
    residual = _deviation(floors, slope)
    least = max(0.03 * _middle(values), LEAST_GROWTH)
    grown = slope * (floors[-1][0] - floors[0][0])
    rising = trend >= LEAST_TREND and low > LEAST_GROWTH and grown >= max(least, 3 * residual)
    kept = max(min(values[at:]) - max(values[:at]) for at in range(1, len(values)))
    if not rising and kept < least:  # nothing was gained that was not lost again
        verdict = "steady"
    elif _at_once(values if rising else [value for _, value in _floors(life, BLOCKS * 6)]):
        verdict = "step"
    else:
        verdict = "leak" if rising and not _flattens(floors, slope, residual) else "plateau"
    return Verdict(verdict, slope, low, high)


def _at_once(values: Sequence[float]) -> bool:
    rises = [after - before for before, after in itertools.pairwise(values)]
    return max(rises) > 0.45 * sum(rises)


def _floors(life: Sequence[Point], count: int = BLOCKS) -> list[Floor]:
    """The floor of each of `count` blocks that has samples; of the RSS where the PSS has gaps."""
    whole = all(point.pss_bytes is not None for point in life)
    warm = [point for point in life if point.age_seconds >= WARM_UP_SECONDS]
    if len(warm) < LEAST_SAMPLES:
        return []
    begin = warm[0].age_seconds
    width = (warm[-1].age_seconds - begin) / count or 1.0
    blocks: dict[int, list[int]] = {}
    for point in warm:
        index = min(count - 1, int((point.age_seconds - begin) / width))
        blocks.setdefault(index, []).append((whole and point.pss_bytes) or point.rss_bytes)
    return [
        ((begin + (index + 0.5) * width) / DAY, float(sorted(block)[len(block) // 5]))
        for index, block in sorted(blocks.items())
    ]


def _mann_kendall(values: Sequence[float]) -> tuple[float, float]:
    """(z, standard deviation of the statistic) of the test for a trend (Kendall 1975)."""
    n = len(values)
    score = sum((b > a) - (b < a) for a, b in itertools.combinations(values, 2))
    ties = sum(t * (t - 1) * (2 * t + 5) for t in map(values.count, set(values)))
    spread = math.sqrt(max(1.0, (n * (n - 1) * (2 * n + 5) - ties) / 18))
    return (score - (score > 0) + (score < 0)) / spread, spread


def sen_slope(floors: Sequence[Floor], spread: float = 0.0) -> tuple[float, float, float]:
    """The median slope of all pairs, per unit of the first coordinate, and bounds (Sen 1968)."""
    pairs = [(a, b) for a, b in itertools.combinations(floors, 2) if b[0] > a[0]]
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs) or [0.0]
    middle, half = len(slopes) / 2, _BOUND_Z * spread / 2
    low = slopes[max(0, math.floor(middle - half))]
    return _middle(slopes), low, slopes[min(len(slopes) - 1, math.ceil(middle + half))]


def _flattens(floors: Sequence[Floor], slope: float, residual: float) -> bool:
    """Whether growth dies down: less of it in the last half and third, or like a logarithm."""
    half, third = (sen_slope(floors[len(floors) * n // 6 :])[0] for n in (3, 4))
    begin = floors[0][0] - (floors[1][0] - floors[0][0]) / 2
    logarithmic = [(math.log(age - begin), value) for age, value in floors]
    like_log = _deviation(logarithmic, sen_slope(logarithmic)[0]) < 0.6 * residual
    return half < 0.6 * slope or third < 0.3 * slope or like_log


def _deviation(floors: Sequence[Floor], slope: float) -> float:
    """The median absolute deviation from a line of that slope."""
    rest = [value - slope * x for x, value in floors]
    return _middle([abs(value - _middle(rest)) for value in rest])


def _middle(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return (ordered[half] + ordered[~half]) / 2
