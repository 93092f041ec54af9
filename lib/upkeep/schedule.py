"""When cron starts a job: expressions as Debian's cron reads them (crontab(5), cron(8)).

A minute or hour with * follows the wall clock; else clock changes neither repeat nor lose a run.
"""

import contextlib
import itertools
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from upkeep import proc

ALIASES = {"@hourly": "0 * * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}
ALIASES |= dict.fromkeys(("@daily", "@midnight"), "0 0 * * *")
ALIASES |= dict.fromkeys(("@yearly", "@annually"), "0 0 1 1 *")
MONTHS, WEEKDAYS = "jan feb mar apr may jun jul aug sep oct nov dec", "sun mon tue wed thu fri sat"
FIELDS = ((0, 59, ""), (0, 23, ""), (1, 31, ""), (1, 12, MONTHS), (0, 7, WEEKDAYS))
SLACK_SECONDS = STEP_SECONDS = 900  # how late a run may begin; clocks change at full quarters
HORIZON_SECONDS = 400 * 86400.0
_JOB = re.compile(r"(?m)^\s*(@\w+|[^\s#]\S*(?:\s+\S+){4})\s.*run[_-]job\S*\s+(\w[\w.-]*)", re.ASCII)

Plan = tuple[str, str, float]  # a job, its expression, since when it is installed (Unix seconds)


def installed() -> Iterator[Plan]:
    """The jobs in the crontabs that can be read; 0 where since when is not known."""
    for file in (Path("/etc/crontab"), *Path("/etc/cron.d").glob("*")):
        with contextlib.suppress(OSError):
            if re.fullmatch(r"[\w-]+", file.name, re.ASCII):  # cron reads no others
                for expression, name in _JOB.findall(file.read_text(errors="replace")):
                    yield name, expression, file.stat().st_mtime

    with contextlib.suppress(OSError):
        own = subprocess.run(["crontab", "-l"], capture_output=True, text=True, errors="replace")
        yield from ((name, each, 0.0) for each, name in _JOB.findall(own.stdout))


def outlook(plans: list[Plan], name: str, last: float, now: float) -> tuple[int | None, int]:
    """When cron starts job `name` next, and how often it did not since `last` and this boot."""
    coming, missed, boot = list[int](), 0, now - proc.uptime()
    for _, expression, since in (plan for plan in plans if plan[0] == name):
        with contextlib.suppress(ValueError):
            coming += itertools.islice(times(expression, now, now + HORIZON_SECONDS), 1)
            begin = max(last, since, boot) if last or since else now
            missed += len(list(times(expression, begin, now - SLACK_SECONDS)))
    return min(coming, default=None), missed


def times(expression: str, begin: float, end: float) -> Iterator[int]:
    """The times behind `begin`, up to `end`, at which cron starts a job. Raises ValueError."""
    words = ALIASES.get(expression, expression).split()
    if len(words) != len(FIELDS):
        raise ValueError(f'expected five fields or an alias such as "@daily", got "{expression}"')
    minutes, hours, days, months, weekdays = map(_field, words, FIELDS)
    either = not (words[2].startswith("*") or words[4].startswith("*"))
    wall_clock = words[0].startswith("*") or words[1].startswith("*")

    def matches(at: time.struct_time) -> bool:
        on = (at.tm_mday in days, not weekdays.isdisjoint({(at.tm_wday + 1) % 7, at.tm_wday + 1}))
        at_time = at.tm_min in minutes and at.tm_hour in hours
        return at_time and at.tm_mon in months and (any(on) if either else all(on))

    moment = int(min(begin, end)) // 60 * 60 + 60
    while moment <= end:
        here, before = time.localtime(moment), time.localtime(moment - 60)
        again = any(time.localtime(moment - back)[:5] == here[:5] for back in (1800, 3600))
        offset = here.tm_gmtoff if wall_clock else before.tm_gmtoff
        shown = range(moment + offset, moment + here.tm_gmtoff + 1, 60)  # with what was left out
        if (wall_clock or not again) and any(map(matches, map(time.gmtime, shown))):
            yield moment
        moment += 60 if here.tm_hour in hours else STEP_SECONDS - moment % STEP_SECONDS


def _field(text: str, kind: tuple[int, int, str]) -> set[int]:
    """The numbers that a field of `kind` (least, most, names) stands for. Raises ValueError."""
    least, most, names = kind
    numbers, found = text.lower(), set[int]()
    for number, name in enumerate(names.split(), least):
        numbers = re.sub(rf"\b{name}\b", str(number), numbers)
    for item in numbers.split(","):
        match = re.fullmatch(r"(\d+)|(?:\*|(\d+)-(\d+))(?:/(\d+))?", item, re.ASCII)
        one, first, last, step = match.groups() if match else (None, None, None, "0")
        low, high = int(one or first or least), int(one or last or most)
        if step == "0" or not least <= low <= high <= most:
            raise ValueError(f'expected a cron field such as "*/5" or "1-5", got "{text}"')
        found.update(range(low, high + 1, int(step or 1)))
    return found
