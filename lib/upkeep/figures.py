"""What Prometheus is told about this host: values for the names that `metrics` describes."""

import collections
from pathlib import Path
from typing import Any

from upkeep import __version__, proc
from upkeep.breaker import Breaker
from upkeep.config import Config
from upkeep.metrics import Figures
from upkeep.outbox import Outbox
from upkeep.programs import Program, record_of
from upkeep.reading import MOST_PROGRAMS, Reading

DAY = 86400.0


def of_host(settings: Config, now: Reading, state: dict[str, Any]) -> Figures:
    """All figures but those of the script itself; `state` is that of memory_sample.py.

    Programs beyond the number that is exported are one group, "other". No PID and no command line
    becomes a label. What is not known is left out.
    """
    made: Figures = collections.defaultdict(dict)
    made["upkeep_build_info"]["version", __version__] = 1
    for name in ("limit_bytes", "available_bytes"):
        made[f"upkeep_memory_{name}"]["", ""] = now.host[name]
    if now.host["oom_kills"] is not None:
        made["upkeep_oom_kills_total"]["", ""] = now.host["oom_kills"]
    for path, (size,) in state.get("directories", {}).items():
        made["upkeep_directory_size_bytes"]["path", path] = size
    for program in _groups(now.programs):
        for name, value in _of_group(settings, program, state).items():
            if value is not None:
                made[f"upkeep_process{name}"]["group", program.name] = value
    return made | _of_outbox(settings.state / "outbox", now.time)


def _groups(programs: list[Program]) -> list[Program]:
    if len(programs) <= MOST_PROGRAMS:
        return programs
    first, rest = programs[: MOST_PROGRAMS - 1], programs[MOST_PROGRAMS - 1 :]
    return [*first, Program("other", pids={k: v for each in rest for k, v in each.pids.items()})]


def _of_group(settings: Config, program: Program, state: dict[str, Any]) -> dict[str, float | None]:
    judged = state.get("leaks", {}).get(program.name) or [None] * 6
    verdict, growth, _low, _high, left, _limit = judged
    task, leader = settings.tasks.get(program.name), program.leader
    known = record_of(settings, program.name) if task else {}
    counted = known.get("counts") if task and task.manager == "upkeep" else None
    return {
        "es": len(program.pids),
        "_resident_memory_bytes": program.rss_bytes,
        "_proportional_memory_bytes": program.pss_bytes,
        "_swap_bytes": program.swap_bytes,
        "_open_fds": program.fds,
        "_start_time_seconds": leader
        and state["booted"] + leader.start_ticks / proc.TICKS_PER_SECOND,
        "_memory_limit_bytes": task and task.max_rss,
        "_restarts_total": sum(counted.values()) if counted else None,
        "_given_up": "given_up" in known.get("trouble", ()) if task else None,
        "_memory_growth_bytes_per_second": None if growth is None else growth / DAY,
        "_leak_suspected": None if verdict in (None, "too_short") else verdict == "leak",
        "_time_to_limit_seconds": left,
    }


def _of_outbox(place: Path, now: float) -> Figures:
    letters = Outbox(place).letters()
    oldest = max((each.age(now) for each in letters), default=0.0)
    held = Breaker(place / "breaker.json").open_until(now) > now
    names = ("outbox_messages", "outbox_oldest_age_seconds", "delivery_breaker_open")
    values = (len(letters), oldest, held)
    return {f"upkeep_{name}": {("", ""): value} for name, value in zip(names, values, strict=True)}
