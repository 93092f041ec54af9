"""When cron starts a job: expressions as Debian's cron reads them (crontab(5)).

A job whose minute or hour begins with * follows the wall clock. Any other is run once in the
night the clocks go back, and made up at once in the night they go forward (cron(8)).
"""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ALIASES = {"@hourly": "0 * * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
ALIASES |= dict.fromkeys(("@daily", "@midnight"), "0 0 * * *")
ALIASES |= dict.fromkeys(("@yearly", "@annually"), "0 0 1 1 *")
LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_NAMES = {12: "jan feb mar apr may jun jul aug sep oct nov dec", 7: "sun mon tue wed thu fri sat"}
_JOB = re.compile(r"(?m)^\s*(@\w+|[^\s#]\S*(?:\s+\S+){4})\s.*run[_-]job\S*\s+(\w[\w.-]*)", re.ASCII)
_QUARTER = 900  # clocks are changed at a full quarter of an hour


@dataclass(frozen=True)
class Schedule:
    """The minutes, hours, days, months and weekdays of one expression."""

    fields: tuple[frozenset[int], ...]
    either_day: bool  # both days are restricted: one of them is enough
    wall_clock: bool

    def times(self, begin: float, end: float) -> Iterator[int]:
        """The Unix times behind `begin`, up to `end`, at which cron starts the job."""
        moment = int(begin) // 60 * 60 + 60
        while moment <= end:
            here = time.localtime(moment)
            if self._fires(moment, here):
                yield moment
            in_hour = here.tm_hour in self.fields[1] and self._on_day(here)
            moment += 60 if in_hour else _QUARTER - moment % _QUARTER

    def _fires(self, moment: int, here: time.struct_time) -> bool:
        if self.wall_clock:
            return self._matches(here)
        if any(time.localtime(moment - back)[:5] == here[:5] for back in (1800, 3600)):
            return False  # the clocks went back: this was its turn before
        offset = time.localtime(moment - 60).tm_gmtoff  # what a jump forward left out is made up
        shown = range(moment + offset, moment + here.tm_gmtoff + 1, 60)
        return any(self._matches(time.gmtime(each)) for each in shown)

    def _matches(self, at: time.struct_time) -> bool:
        minutes, hours = self.fields[:2]
        return at.tm_min in minutes and at.tm_hour in hours and self._on_day(at)

    def _on_day(self, at: time.struct_time) -> bool:
        _, _, days, months, weekdays = self.fields
        on = (at.tm_mday in days, (at.tm_wday + 1) % 7 in weekdays)
        return at.tm_mon in months and (any(on) if self.either_day else all(on))


def parse(text: str) -> Schedule:
    """Read five fields or an alias such as "@daily". Raises ValueError ("expected ...")."""
    words = ALIASES.get(text, text).lower().split()
    if len(words) != len(LIMITS):
        raise ValueError(f'expected five fields or an alias such as "@daily", got "{text}"')
    sets = [_field(*pair) for pair in zip(words, LIMITS, strict=True)]
    sets[4] = frozenset(day % 7 for day in sets[4])
    star = [word.startswith("*") for word in words]
    return Schedule(tuple(sets), not (star[2] or star[4]), star[0] or star[1])


def _field(text: str, limits: tuple[int, int]) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        match = re.fullmatch(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?", item, re.ASCII)
        low, high = limits
        if match and match[1]:
            low, high = _value(match[1], limits), _value(match[2] or match[1], limits)
        step = int(match[3] or 1) if match else 0
        if not match or low > high or step < 1 or (match[3] and match[1] and not match[2]):
            raise ValueError(f'expected a cron field such as "*/5" or "1-5", got "{text}"')
        found.update(range(low, high + 1, step))
    return frozenset(found)


def _value(text: str, limits: tuple[int, int]) -> int:
    low, high = limits
    names = _NAMES.get(high, "").split()
    number = names.index(text) + low if text in names else int(text) if text.isdecimal() else -1
    if not low <= number <= high:
        raise ValueError(f'expected {low} to {high} in a cron field, got "{text}"')
    return number


def installed() -> Iterator[tuple[str, str, float]]:
    """The jobs of run_job.py in the crontabs that can be read: name, expression, since when.

    Since when a line stands in the user's own crontab is not known: infinity.
    """
    import subprocess

    texts = []
    for file in (Path("/etc/crontab"), *sorted(Path("/etc/cron.d").glob("*"))):
        with contextlib.suppress(OSError):
            if re.fullmatch(r"[\w-]+", file.name, re.ASCII):  # cron reads no others
                texts.append((file.read_text(errors="replace"), file.stat().st_mtime))
    with contextlib.suppress(OSError):
        own = subprocess.run(["crontab", "-l"], capture_output=True, text=True, errors="replace")
        texts.append((own.stdout, float("inf")))
    for text, since in texts:
        yield from ((name, expression, since) for expression, name in _JOB.findall(text))
