#!/usr/bin/env python3
"""One tick of care, every minute from cron: bring back the dead, restart what is over its limits.

usage: watchdog.py [NAME ...] [--linger SECONDS] [--dry-run] [--json]

    $ watchdog.py -v
    trader: started, pid 914, died: 137 (KILL); the kernel killed it because memory ran out (OOM)

A program that keeps dying is given up after crash_limit deaths within crash_window, whatever its
uptime, and tried once after each crash_cooldown. --linger stays and reacts to a death at once.

Exit codes: 0 all is as wanted; 1 something is not; 2 usage or configuration; 3 refused, identity
not proven; 6 something cannot be stopped; 7 something is given up.
"""

import contextlib
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import (
    cli,
    config,
    control,
    death,
    history,
    limits,
    outcome,
    proc,
    ready,
    task,
)
from upkeep.config import Config
from upkeep.errors import Exit
from upkeep.outcome import Result
from upkeep.task import Task
from upkeep.units import format_duration

EXAMPLES = """  watchdog.py               # what cron runs every minute
  watchdog.py --dry-run     # what would it do now?
  watchdog.py --linger 55   # react to a death within milliseconds until the next tick"""


class Step(NamedTuple):
    """What to do with a task, why, and as what a start counts."""

    action: str  # "leave", "start", "restart" or "give up"
    why: str = ""
    category: str = ""


def age(moment: history.Event) -> float:
    """Seconds since a moment that `history.stamp` made."""
    return history.age(moment, time.time(), proc.uptime(), proc.boot_id())


def deaths(known: Task) -> int:
    """Unplanned deaths and failed starts within crash_window; nothing resets them."""
    window, boot, uptime = known.settings.crash_window, proc.boot_id(), proc.uptime()
    events = history.since(known.config.state, window, time.time(), uptime, boot)
    mine = (each for each in events if each.get("task") == known.name)
    return sum(each.get("event") == "death" or each.get("outcome") == "failed" for each in mine)


def step_for_dead(known: Task, why: str, died_before: int) -> Step:
    """What a task that does not run needs."""
    record = known.record
    if record.down:
        return Step("leave", "stopped on purpose")
    if known.given_up:
        cooled = age(record.trouble["given_up"]) >= known.settings.crash_cooldown
        return Step("start", "tried again", "probe") if cooled else Step("leave", "given up")
    if record.pid == 0 and not record.trouble:
        return Step("start", "it was not started before", "first")
    if record.pid and (record.boot_id != proc.boot_id() or "interrupted" in why):
        return Step("start", why, "boot" if record.boot_id != proc.boot_id() else "restart")
    why = f"died: {why}" if record.pid else "the last start failed"
    died = died_before + bool(record.pid)
    given_up = died >= known.settings.crash_limit or "tripped" in record.trouble
    return Step("give up" if given_up else "start", why, "death")


def step_for_running(known: Task, stat: proc.Stat, table: dict[int, proc.Stat]) -> Step:
    """What a task that runs needs."""
    record, due = known.record, known.record.due
    if stat.state in "Tt":
        return Step("leave", "frozen by a signal or a debugger; only restart.py restarts it")
    if record.stopping:
        return Step("restart", f"an interrupted restart is finished ({record.stopping})", "restart")
    if due and age(due) >= due["wait"]:
        return Step("restart", f"{due['reason']}; the deadline has come", "due")
    if due and not limits.not_quiet(known.settings, known.config.host):
        return Step("restart", f"{due['reason']}; now the host is quiet", "due")
    category, why = limits.exceeded(known, stat, table) or ("", "")
    return Step("restart", why, category) if why else Step("leave")


def look_after(known: Task, table: dict[int, proc.Stat], dry_run: bool) -> Result:
    """Decide what one task needs, and do it. Raises OperatorError and OSError."""
    before, alive = str(known.record), known.running()
    stat = proc.read_stat(alive.pid) if alive else None
    if stat:
        step = step_for_running(known, stat, table)
    else:
        step = step_for_dead(known, death.cause(known), deaths(known))
    acts = step.action in ("start", "restart")
    if dry_run:
        plan = control.plan(known, alive, step.why) if acts else [f"{step.action} {step.why}"]
        return Result(known.name, "planned", plan=plan)
    tail = control.log_tail(known)
    if acts:
        result = control.restart(known, step.why, step.category)
        if not result.code and step.category in ("death", "limit", "heartbeat"):
            outage = format_duration(result.facts.get("downtime_seconds", 0.0))
            result.facts["detail"] = f"outage {outage}{tail}"
            result.tell()
        return result
    if step.action == "give up":
        return give_up(known, step.why, tail)
    result = rest(known, stat, step)
    if str(known.record) != before or known.renamed_from:
        known.save()
    return result


def give_up(known: Task, why: str, tail: str) -> Result:
    """Open the crash-loop breaker; after a failed probe, silently open it again."""
    record, settings = known.record, known.settings
    window, wait = map(format_duration, (settings.crash_window, settings.crash_cooldown))
    detail = f"{settings.crash_limit} deaths within {window}; next try in {wait}{tail}"
    result = Result(known.name, "given_up", Exit.GIVEN_UP, reason=why, detail=detail)
    if "tripped" not in record.trouble:
        result.tell("repeated", 0.0)
    if record.pid:
        result.facts.update(event="death", old_pid=record.pid)
        control.remember(known, result)
    record.pid = 0
    known.note_trouble(given_up=history.stamp(time.time()), tripped=True)
    return result


def rest(known: Task, stat: proc.Stat | None, step: Step) -> Result:
    """Leave a task as it is; the end of an outage is told."""
    record, settings = known.record, known.settings
    if stat is None:
        code = Exit.DONE if record.down else Exit.GIVEN_UP
        return Result(known.name, "stopped" if record.down else "given_up", code, detail=step.why)
    if record.unready:
        record.unready = (settings.ready and ready.unmet(known, settings.ready)) or ""
    wrong, record.down = record.unready or step.why, False
    code = Exit.PROBLEM if wrong else Exit.DONE
    result = Result(known.name, "running", code, old_pid=stat.pid, detail=wrong or None)
    lasted = {"lasted", "tripped"} & record.trouble.keys()
    # A copy that lives for so long could not fill the window with deaths.
    calm = proc.age_seconds(stat) >= settings.crash_window / settings.crash_limit
    if record.trouble and not wrong and (calm if lasted else not deaths(known)):
        result.note = ("recovered", f"{known.name} works again") if lasted else ("forget",)
        record.trouble = {}
    return result


def tick(settings: Config, names: Sequence[str], dry_run: bool) -> list[Result]:
    """Look after each task; one that fails does not stop the others."""
    limited = any(settings.tasks[name].max_rss or settings.tasks[name].max_fds for name in names)
    table = proc.scan() if limited else {}

    def care(known: Task) -> Result:
        return look_after(known, table, dry_run)

    results = [outcome.attempt(settings, name, 0.0, dry_run, care) for name in names]
    outcome.deliver(settings, results)
    return [each for each in results if each.outcome != "busy"]


def linger(settings: Config, names: Sequence[str], seconds: float) -> None:
    """Sleep on the programs' pidfds and tick for one that ends, after 0, 1, 2, 4, ... s."""
    end = time.monotonic() + seconds
    due: dict[str, float] = {}
    while (now := time.monotonic()) < end:
        with contextlib.ExitStack() as opened:
            watched = {}
            for name in names:
                known = task.load(settings, name)
                fd = proc.open_process(known.record.identity) if known.record.pid else None
                if fd is not None:
                    opened.callback(os.close, fd)
                    watched[fd] = known
            ended = proc.wait_for_any_exit(watched, min(end, *due.values(), end) - now)
            for known in (watched[fd] for fd in ended):
                pause = 2.0 ** (deaths(known) - 1) if deaths(known) else 0.0
                due[known.name] = time.monotonic() + min(60.0, pause)
        ripe = [name for name, when in due.items() if when <= time.monotonic()]
        tick(settings, ripe, dry_run=False)
        due = {name: when for name, when in due.items() if name not in ripe}


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_dry_run(made)
    cli.add_json(made)
    made.add_argument("names", nargs="*", metavar="NAME", help="only these tasks")
    made.add_argument("--linger", type=cli.duration, default=0.0, metavar="SECONDS")
    return made


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    chosen = cli.chosen_tasks(settings, options.names) or list(settings.tasks)
    names = control.in_order(settings, chosen)
    status = outcome.show(settings, tick(settings, names, options.dry_run), options)
    if options.linger and not options.dry_run:
        linger(settings, names, options.linger)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
