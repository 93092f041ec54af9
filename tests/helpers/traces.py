"""Memory over time of made-up programs, harmless and leaking, from a seeded generator.

A trace is a list of Points, one every five minutes, of which two in a hundred are lost. Shapes
are functions of the time since the start of the trace, in hours, that give MiB on top of a base.
"""

import math
import random
from collections.abc import Callable

from upkeep.samples import Point

MIB = 1 << 20
Shape = Callable[[float], float]
Maker = Callable[[random.Random, float], Shape]  # gets the base in MiB


def noise(rng: random.Random, base: float) -> Shape:
    level = base * rng.uniform(0.002, 0.02)
    return lambda _hour: rng.gauss(0, level)


def flat(rng: random.Random, base: float) -> Shape:
    return lambda _hour: 0.0


def step(rng: random.Random, base: float) -> Shape:
    at, size = rng.uniform(5, 65), base * rng.uniform(0.1, 0.8)
    return lambda hour: size if hour > at else 0.0


def steps_early(rng: random.Random, base: float) -> Shape:
    steps = [(rng.uniform(0.5, 16), base * rng.uniform(0.03, 0.2)) for _ in range(3)]
    return lambda hour: sum(size for at, size in steps if hour > at)


def step_down(rng: random.Random, base: float) -> Shape:
    at, size = rng.uniform(5, 65), base * rng.uniform(0.1, 0.5)
    return lambda hour: 0.0 if hour > at else size


def sawtooth(rng: random.Random, base: float) -> Shape:
    period, size = rng.uniform(0.4, 9), base * rng.uniform(0.1, 0.9)
    shift = rng.uniform(0, period)
    return lambda hour: size * ((hour + shift) % period) / period


def ragged_sawtooth(rng: random.Random, base: float) -> Shape:
    size, state = base * rng.uniform(0.2, 0.8), [0.0]

    def shape(_hour: float) -> float:
        state[0] = 0.0 if rng.random() < 0.03 else min(1.0, state[0] + rng.uniform(0, 0.06))
        return size * state[0]

    return shape


def warm_up(rng: random.Random, base: float) -> Shape:
    size, hours = base * rng.uniform(0.2, 1.5), rng.uniform(0.5, 9)
    return lambda hour: size * (1 - math.exp(-hour / hours))


def bounded_cache(rng: random.Random, base: float) -> Shape:
    size, hours = base * rng.uniform(0.3, 2), rng.uniform(3, 20)
    return lambda hour: size * min(1.0, hour / hours)


def fragmentation(rng: random.Random, base: float) -> Shape:
    size = base * rng.uniform(0.02, 0.12)
    return lambda hour: size * math.log1p(hour * 4)


def diurnal(rng: random.Random, base: float) -> Shape:
    size, shift = base * rng.uniform(0.05, 0.6), rng.uniform(0, 24)
    return lambda hour: size * (1 + math.sin((hour + shift) / 24 * 2 * math.pi)) / 2


def working_day(rng: random.Random, base: float) -> Shape:
    size, shift = base * rng.uniform(0.1, 0.8), rng.uniform(0, 24)
    return lambda hour: size if (hour + shift) % 24 > 15 else 0.0


def bursts(rng: random.Random, base: float) -> Shape:
    size, often = base * rng.uniform(0.2, 2), rng.uniform(0.01, 0.12)
    return lambda _hour: size * rng.random() if rng.random() < often else 0.0


def nightly_job(rng: random.Random, base: float) -> Shape:
    size, shift, long = base * rng.uniform(0.3, 2), rng.uniform(0, 24), rng.uniform(0.5, 3)
    return lambda hour: size if (hour + shift) % 24 < long else 0.0


def wandering(rng: random.Random, base: float) -> Shape:
    size, state = base * rng.uniform(0.01, 0.05), [0.0]

    def shape(_hour: float) -> float:
        state[0] = state[0] * 0.97 + rng.gauss(0, 0.25)
        return size * state[0]

    return shape


def swapped_out(rng: random.Random, base: float) -> Shape:
    start, size = rng.uniform(3, 40), base * rng.uniform(0.1, 0.6)
    gone, back = rng.uniform(2, 15), rng.uniform(1, 12)
    end = start + gone

    def shape(hour: float) -> float:
        if hour < start or hour > end + back:
            return 0.0
        return -size if hour < end else -size * (1 - (hour - end) / back)

    return shape


def shrinking(rng: random.Random, base: float) -> Shape:
    size, hours = base * rng.uniform(0.1, 0.5), rng.uniform(2, 50)
    return lambda hour: size * math.exp(-hour / hours)


BENIGN: dict[str, Maker] = {
    each.__name__: each
    for each in (
        flat, step, steps_early, step_down, sawtooth, ragged_sawtooth, warm_up, bounded_cache,
        fragmentation, diurnal, working_day, bursts, nightly_job, wandering, swapped_out, shrinking,
    )
}  # fmt: skip


def linear(per_hour: float) -> Shape:
    return lambda hour: per_hour * hour


def by_day(per_hour: float) -> Shape:
    """A leak that follows the load of the day."""
    return lambda hour: per_hour * (hour - math.sin(hour / 24 * 2 * math.pi) * 24 / 2 / math.pi)


def stairs(per_hour: float) -> Shape:
    """A leak that grows by one piece every half an hour."""
    return lambda hour: per_hour * 0.5 * math.floor(hour * 2)


def with_warm_up(per_hour: float) -> Shape:
    return lambda hour: per_hour * hour + 8 * (1 - math.exp(-hour / 3))


LEAKS: dict[str, Callable[[float], Shape]] = {
    each.__name__: each for each in (linear, by_day, stairs, with_warm_up)
}


def trace(
    shapes: list[Shape],
    base: float,
    hours: float,
    rng: random.Random,
    restart_hours: float = 0.0,
    minutes: float = 5.0,
) -> list[Point]:
    """A trace of `shapes` on `base` MiB; with `restart_hours` the shapes begin anew that often."""
    points, start = [], 1_700_000_000.0
    for index in range(int(hours * 60 / minutes)):
        hour = index * minutes / 60
        life, own = divmod(hour, restart_hours) if restart_hours else (0, hour)
        value = base + sum(shape(own) for shape in shapes)
        if rng.random() < 0.02:
            continue
        pages = max(256, int(value * 256))
        pid, ticks = 1000 + int(life), int(life * restart_hours * 360_000)
        points.append(Point(start + hour * 3600, "b", pid, ticks, pages * 4096, own * 3600))
    return points


def harmless(rng: random.Random, kind: str, hours: float) -> list[Point]:
    """One benign shape. A nightly restart is added to a quarter of those that it does not hide."""
    base = rng.uniform(30, 60)
    nightly = kind not in ("bounded_cache", "fragmentation") and rng.random() < 0.25
    shapes = [BENIGN[kind](rng, base), noise(rng, base)]
    return trace(shapes, base, hours, rng, restart_hours=24.0 if nightly else 0.0)


def composite(rng: random.Random, hours: float, most_base: float, rate: float = 0.0) -> list[Point]:
    """Two or three benign shapes on any base, and a leak of `rate` MiB per hour below them."""
    base = 15 * (most_base / 15) ** rng.random()
    kinds = rng.sample(sorted(BENIGN), rng.choice((2, 3)))
    shapes = [BENIGN[kind](rng, base) for kind in kinds]
    return trace([linear(rate), noise(rng, base), *shapes], base, hours, rng)


def leaking(
    rng: random.Random, kind: str, hours: float, rate: float, restart_hours: float = 0.0
) -> list[Point]:
    """A leak of `rate` MiB per hour; half of them under a shape that hides it a little."""
    base = rng.uniform(30, 60)
    shapes = [LEAKS[kind](rate), noise(rng, base)]
    if rng.random() < 0.5:
        over = rng.choice((sawtooth, ragged_sawtooth, diurnal, bursts, wandering))
        shapes.append(over(rng, base))
    return trace(shapes, base, hours, rng, restart_hours)


def leak_rate(rng: random.Random) -> float:
    """0.1 to 0.5 MB per minute, in MiB per hour."""
    return 0.1 * 5.0 ** rng.random() * 60 * 1e6 / MIB
