"""What Prometheus is told about this host: values for the names that `metrics` describes."""

import collections
import itertools
import re
from typing import Any

from upkeep import __version__, proc
from upkeep.breaker import API, LIMIT, Breaker
from upkeep.config import Config
from upkeep.metrics import Figures
from upkeep.outbox import Outbox
from upkeep.programs import Program, record_of
from upkeep.reading import MOST_PROGRAMS, Reading

DAY = 86400.0
_TEXT = re.compile(r"\w+ -\w*[ce]\b")  # "bash -c curl ..."


def collect(settings: Config, now: Reading, state: dict[str, Any], seconds: float) -> Figures:
    """All figures of one sample that took `seconds`; `state` is what it leaves for the next one.

    No PID and no command line becomes a label. What is not known is left out.
    """
    made: Figures = collections.defaultdict(dict)

    def put(name: str, value: float | None, label: str = "", text: str = "") -> None:
        if value is not None:
            made[f"upkeep_{name}"][label, text] = value

    put("build_info", 1, "version", __version__)
    put("last_success_timestamp_seconds", state["succeeded_at"], "script", "memory_sample")
    put("run_duration_seconds", seconds, "script", "memory_sample")
    put("memory_limit_bytes", now.host["limit_bytes"])
    put("memory_available_bytes", now.host["available_bytes"])
    put("oom_kills_total", now.host["oom_kills"])
    for path, (size,) in state["directories"].items():
        put("directory_size_bytes", size, "path", path)
    for program in _groups(now.programs):
        for name, value in _of_group(settings, program, state).items():
            put(f"process{name}", value, "group", program.name)
    outbox = settings.state / "outbox"
    ages = [letter.age(now.time) for letter in Outbox(outbox).letters()]
    put("outbox_messages", len(ages))
    put("outbox_oldest_age_seconds", max(ages, default=0.0))
    breaker = Breaker(outbox / "breaker.json")
    closed_until = max(breaker.open_until(now.time, name) for name in (API, LIMIT))
    put("delivery_breaker_open", closed_until > 0)
    return made


def _groups(programs: list[Program]) -> list[Program]:
    """As many as are exported. What is left, and all that has no name but a command's text, is one
    group, "other"."""
    named = [each for each in programs if not _TEXT.match(each.name)]
    if len(named) == len(programs) <= MOST_PROGRAMS:
        return programs
    first = named[: MOST_PROGRAMS - 1]
    rest = [each.pids.items() for each in programs if each not in first]
    return [*first, Program("other", pids=dict(itertools.chain(*rest)))]


def _of_group(settings: Config, program: Program, state: dict[str, Any]) -> dict[str, float | None]:
    judged = state["leaks"].get(program.name) or [None] * 6
    verdict, growth, _low, _high, left, _limit = judged
    task, leader = settings.tasks.get(program.name), program.leader
    known = record_of(settings, program.name) if task else {}
    age = leader and leader.start_ticks / proc.TICKS_PER_SECOND  # since boot
    return {
        "es": len(program.pids),
        "_resident_memory_bytes": program.rss_bytes,
        "_proportional_memory_bytes": program.pss_bytes,
        "_swap_bytes": program.swap_bytes,
        "_open_fds": program.fds,
        "_start_time_seconds": None if age is None else state["booted"] + age,
        "_memory_limit_bytes": task and task.max_rss,
        "_restarts_total": known.get("starts") if task and task.manager == "upkeep" else None,
        "_given_up": known.get("given_up", False) if task else None,
        "_memory_growth_bytes_per_second": None if growth is None else growth / DAY,
        "_leak_suspected": None if verdict in (None, "too_short") else verdict == "leak",
        "_time_to_limit_seconds": left,
    }
