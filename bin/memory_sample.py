#!/usr/bin/env python3
"""Take one reading of this host's memory and its programs: for history, alerts and Prometheus.

usage: memory_sample.py [--dry-run] [--json] [--proc-root DIR]

Run it every five minutes. With --dry-run or -v it prints what it compared:

    over: memory 91.3% of 2.0 GiB in use, limit 80%
    disk / 22.3% of 40 GiB in use, limit 90%

exit codes: 0 done, also over a limit; 1 something could not be read or written; 2 usage or
configuration; 4 another run is at it.
"""

import contextlib
import functools
import gc
import math
import re
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

gc.disable()  # a short run without cycles: to look for them took a twentieth of it
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, leak, levels, memory, metrics, samples, spare
from upkeep.config import Config
from upkeep.errors import Exit
from upkeep.levels import Level
from upkeep.reading import MOST_PROGRAMS, Reading, take
from upkeep.samples import Row

if TYPE_CHECKING:
    from upkeep.alerts import Alerts

EXAMPLES = """  memory_sample.py            # what cron runs every five minutes
  memory_sample.py --dry-run  # what is compared with which limit?"""
HOUR, DAY = 3600.0, 86400.0
Door = Callable[[], "Alerts"]  # called when there is something to tell: a healthy host imports less


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_dry_run(made)
    cli.add_json(made)
    made.add_argument("--proc-root", metavar="DIR", default="/proc", help="read DIR, not /proc")
    return made


def tell(alerts: Door, seen: Iterable[Level], counts: dict[str, int], forgetful: bool) -> None:
    """Open and close the episodes that are due; if counts can't be kept, one sample will do."""
    for level in seen:
        if counts[level.key] >= (1 if forgetful else level.in_a_row):
            alerts().problem(level.key, level.text, f"{level.in_a_row} samples in a row")
        elif counts[level.key] == -level.in_a_row:
            alerts().recovered(level.key, level.text)


def new_kills(row: Row, last: Row) -> int:
    """How many processes the kernel killed for want of memory since the sample that left `last`."""
    if row["oom_kills"] is None or last.get("oom_kills") is None:
        return 0  # not counted by this kernel, or never looked at before
    before: int = last["oom_kills"] if last["boot_id"] == row["boot_id"] else 0
    return max(0, int(row["oom_kills"]) - before)


def tell_kills(alerts: Door, kills: int, since: float) -> None:
    """Report kills, with the victims that the kernel's log names `since` so long after boot."""
    from upkeep import death

    lines = [line for when, line in death.kernel_log() or [] if when >= since]
    names = re.findall(r"Killed process \d+ \(.*?\)", "\n".join(lines))
    title = f"out of memory: the kernel killed {kills} process(es)"
    alerts().inform(title, "\n".join(names) or "which one is not known", level="critical")


def is_ours(state: Row) -> bool:
    """Whether `state` is whole and of this script: what the last sample left for this one."""
    number, maybe = (int, float), (int, float, type(None))
    kinds: dict[str, Any] = {"boot_id": str, "uptime": number, "measured_at": number}
    kinds |= dict.fromkeys(("oom_kills", "booted", "succeeded_at"), maybe)
    kinds |= dict.fromkeys(("counts", "leaks", "directories"), dict)
    return (
        state.get("written_by") == "memory_sample"
        and all(isinstance(state.get(name), kind) for name, kind in kinds.items())
        and all(isinstance(count, int) for count in state["counts"].values())
        and all(isinstance(row, list) and len(row) == 6 for row in state["leaks"].values())
        and all(isinstance(row, list) and len(row) == 1 for row in state["directories"].values())
    )


def attempt(action: Callable[[], object]) -> int:
    """Read or write; what cannot be done is a warning. Returns the exit status."""
    try:
        action()
    except OSError as error:
        cli.warn(f"{error.filename or 'the state directory'}: {error.strerror}")
        return Exit.PROBLEM
    return Exit.DONE


def measure(settings: Config, now: Reading) -> Row:
    """What is done once an hour: judge every trend, measure data directories. Raises OSError."""
    past, _skipped = samples.read(settings.state, leak.WINDOW_SECONDS, now.time)
    leaks = leak.judge_all(settings, samples.series(past), now.limits, now.time, math.inf)
    sizes = memory.directory_sizes(settings.host.data_dirs)
    return {"measured_at": now.time, "leaks": leaks, "directories": sizes}


def next_state(last: Row, now: Reading, seen: Sequence[Level], whole: bool) -> Row:
    """What this sample leaves for the next one; `whole`: nothing has failed so far."""
    state = {"measured_at": 0.0, "leaks": {}, "directories": {}} | last
    state |= {"written_by": "memory_sample"}
    state |= {name: now.row[name] for name in ("boot_id", "uptime", "oom_kills")}
    if last.get("booted") is None or last["boot_id"] != state["boot_id"]:
        state["booted"] = now.time - now.host["uptime_seconds"]  # kept: the clock may be mended
    counts = levels.count_on(last.get("counts", {}), seen)
    if last.get("measured_at") == now.time:  # all that there is was compared
        counts = {level.key: counts[level.key] for level in seen}
    return state | {"counts": counts, "succeeded_at": now.time if whole else last["succeeded_at"]}


def remember(file: Path, state: Row) -> None:
    """Store what the next sample must know, in memory where the disk refuses. Raises OSError."""
    if error := spare.write_state(file, state):
        raise error


def export(settings: Config, now: Reading, state: Row, began: float) -> None:
    """Write the textfile for Prometheus, if one is wanted. Raises OSError."""
    if settings.prometheus:
        from upkeep import figures

        made = figures.collect(settings, now, state, time.monotonic() - began)
        metrics.write(settings.prometheus / "upkeep_memory.prom", made)


def sample(
    settings: Config, now: Reading, alerts: Door | None, began: float
) -> tuple[Row, list[Level], int]:
    """Compare, alert and store; without `alerts` only compare."""
    last: Row = {"succeeded_at": None}
    hourly: Row = {}
    file = settings.state / "memory/state.json"
    status = attempt(lambda: last.update(files.read_state(spare.newest(file), is_ours)))
    if not 0 <= now.time - last.get("measured_at", -HOUR) < HOUR:
        status |= attempt(lambda: hourly.update(measure(settings, now)))
    row = now.row | ({"dirs": hourly["directories"]} if hourly else {})
    seen = list(levels.compare(settings, now, hourly.get("leaks", {}), 7 * DAY))
    if alerts is None:
        return row, seen, status
    status |= attempt(lambda: samples.append(settings.state, row))
    state = next_state(last | hourly, now, seen, whole=not status)
    if kills := new_kills(row, last):  # told first: if we are killed too, told twice, not never
        tell_kills(alerts, kills, last["uptime"])
    forgotten = attempt(lambda: remember(file, state))
    tell(alerts, seen, state["counts"], bool(forgotten))
    state["succeeded_at"] = last["succeeded_at"] if forgotten else state["succeeded_at"]
    return row, seen, status | forgotten | attempt(lambda: export(settings, now, state, began))


def document(now: Reading, directories: dict[str, list[int]], seen: list[Level]) -> Row:
    """The JSON document: what was read, and what is over its limit."""
    programs = (each for each in now.programs if each.leader)
    return {
        "time": now.time,
        "host": now.host,
        "disks": [
            {"path": path, "used_bytes": used, "free_bytes": free}
            for path, (used, free) in now.disks.items()
        ],
        "directories": [
            {"path": path, "size_bytes": size} for path, (size,) in directories.items()
        ],
        "programs": [
            {
                "name": each.name,
                "processes": len(each.pids),
                "rss_bytes": each.rss_bytes,
                "pss_bytes": each.pss_bytes,
                "swap_bytes": each.swap_bytes,
                "fds": each.fds,
            }
            for each in programs
        ],
        "over": [level.text for level in seen if level.over],
    }


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Take one sample. Returns the exit status."""
    options, began = parser().parse_args(argv), time.monotonic()
    settings = config.load(options.config)
    with contextlib.ExitStack() as delivery, contextlib.ExitStack() as stack:

        @functools.cache
        def alerts() -> "Alerts":
            from upkeep.alerts import Alerts

            return delivery.enter_context(Alerts(settings))

        if not options.dry_run:
            attempt(lambda: stack.enter_context(files.lock(settings.state / "lock/memory.lock")))
        now = take(settings, options.proc_root, MOST_PROGRAMS)
        row, seen, status = sample(settings, now, None if options.dry_run else alerts, began)
    if options.json:
        cli.print_json(document(now, row.get("dirs", {}), seen))
    elif options.dry_run or options.verbose or sys.stdout.isatty():
        print("\n".join(("over: " if level.over else "") + level.text for level in seen))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
