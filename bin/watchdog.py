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

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, control, crashloop, death, files, limits, outcome, proc, ready, task
from upkeep.config import Config
from upkeep.errors import Exit
from upkeep.history import stamp
from upkeep.outcome import Result
from upkeep.task import Task
from upkeep.units import format_duration

EXAMPLES = """  watchdog.py               # what cron runs every minute
  watchdog.py --dry-run     # what would it do now?
  watchdog.py --linger 55   # react to a death within milliseconds until the next tick"""

Table = dict[int, proc.Stat]


class Step(NamedTuple):
    """What to do with a task, why, and as what a start counts. A `death` goes into the history."""

    action: str  # "leave", "start", "restart" or "give up"
    why: str = ""
    category: str = ""
    death: bool = False


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_dry_run(made)
    cli.add_json(made)
    made.add_argument("names", nargs="*", metavar="NAME", help="only these tasks")
    made.add_argument(
        "--linger", type=cli.duration, default=0.0, metavar="SECONDS", help="stay that long"
    )
    return made


def step_for_dead(known: Task, why: str, deaths: int, cooled: bool) -> Step:
    """What a task that does not run needs; `deaths` are those of the window before this one."""
    record = known.record
    if record.down:
        return Step("leave", "stopped on purpose")
    if known.given_up:
        return Step("start", "tried again", "probe") if cooled else Step("leave", "given up")
    if record.pid == 0 and not record.trouble:
        return Step("start", "it was not started before", "first")
    if record.pid and (record.boot_id != proc.boot_id() or death.interrupted(known)):
        return Step("start", why, "boot" if record.boot_id != proc.boot_id() else "restart")
    died = record.pid != 0
    why = f"died: {why}" if died else "the last start failed"
    if deaths + died >= known.settings.crash_limit or record.trouble.get("tripped"):
        return Step("give up", why, death=died)
    return Step("start", why, "death", died)


def step_for_running(known: Task, stat: proc.Stat, table: Table) -> Step:
    """What a task that runs needs."""
    record, due = known.record, known.record.due
    if stat.state in "Tt":
        return Step("leave", "frozen by a signal or a debugger; only restart.py restarts it")
    if record.stopping:
        return Step("restart", f"an interrupted restart is finished ({record.stopping})", "restart")
    if due and crashloop.age(due) >= due["wait"]:
        return Step("restart", f"{due['reason']}; the deadline has come", "due")
    if due and not limits.not_quiet(known.settings, known.config.host):
        return Step("restart", f"{due['reason']}; now the host is quiet", "due")
    category, why = limits.exceeded(known, stat, table) or ("", "")
    return Step("restart", why, category) if why else Step("leave")


def look_after(known: Task, table: Table, dry_run: bool) -> Result:
    """Decide what one task needs, and do it. Raises OperatorError and OSError."""
    before = str(known.record)
    alive = known.running()
    stat = proc.read_stat(alive.pid) if alive else None
    if stat:
        deaths, step = 0, step_for_running(known, stat, table)
    else:
        deaths = crashloop.deaths(known)
        step = step_for_dead(known, death.cause(known), deaths, crashloop.cooled_down(known))
    if dry_run:
        act = step.action in ("start", "restart")
        plan = control.plan(known, alive, step.why) if act else [f"{step.action}: {step.why}"]
        return Result(known.name, "planned", plan=plan)
    outage = death.outage(known) if step.death else None
    tail = files.tail(known.settings.log, start=known.record.log_start)
    if step.death:
        crashloop.note_death(known, step.why, outage)
    if step.action == "leave":
        result = rest(known, stat, step)
        if str(known.record) != before or known.renamed_from:
            known.save()
        return result
    if step.action == "give up":
        return give_up(known, step, tail)
    result = control.restart(known, step.why, step.category)
    if outage is not None and result.downtime_seconds is None:
        result.downtime_seconds = round(outage, 3)
    if deaths == 0 and (step.death or result.code or step.category in ("limit", "heartbeat")):
        tell(result, tail)
    return result


def tell(result: Result, tail: list[str]) -> None:
    """Have it told what just happened; what follows within the window is only counted."""
    outage, last = result.downtime_seconds, result.log_tail or tail
    facts = [
        result.detail or "",
        f"outage {format_duration(outage)}" if outage is not None else "",
        *(["its last lines:", *last] if last else []),
    ]
    body = "\n".join(each for each in facts if each)
    result.note("problem", f"{result.task}: {result.outcome}: {result.reason}", body)


def give_up(known: Task, step: Step, tail: list[str]) -> Result:
    """Open the crash-loop breaker; after a failed probe, silently open it again."""
    settings = known.settings
    result = Result(known.name, "given_up", Exit.GIVEN_UP, detail=step.why, log_tail=tail)
    if not known.record.trouble.get("tripped"):
        window = format_duration(settings.crash_window)
        title = f"{known.name}: given up after {settings.crash_limit} deaths within {window}"
        again = f"next try in {format_duration(settings.crash_cooldown)}"
        result.event, body = "given_up", "\n".join([step.why, again, *tail])
        result.note("breaker", title, body)
    known.record.pid = 0
    known.note_trouble(given_up=stamp(time.time()), tripped=True)
    return result


def rest(known: Task, stat: proc.Stat | None, step: Step) -> Result:
    """Leave a task as it is; an outage that is over is told, as is one that is not."""
    record, name = known.record, known.name
    if stat is None:
        if record.down:
            return Result(name, "stopped", detail=step.why)
        return Result(name, "given_up", Exit.GIVEN_UP, detail=step.why)
    result = Result(name, "running", old_pid=stat.pid, detail=step.why or None)
    record.down = False
    if record.unready and known.settings.ready:
        record.unready = ready.unmet(known, known.settings.ready) or ""
    if record.unready or step.why:
        result.code, result.detail = Exit.PROBLEM, record.unready or step.why
    elif record.trouble and proc.age_seconds(stat) >= crashloop.healthy_age(known):
        lasted = {"lasted", "tripped", "blocked"} & record.trouble.keys()
        result.note("recovered" if lasted else "forget", f"{name} works again")
        record.trouble = {}
    return result


def tick(settings: Config, names: Sequence[str], dry_run: bool) -> list[Result]:
    """Look after each task; one that fails does not stop the others."""
    limited = any(settings.tasks[name].max_rss or settings.tasks[name].max_fds for name in names)
    table = proc.scan() if limited else {}
    results = [
        outcome.attempt(
            settings, name, 0.0, dry_run, lambda known: look_after(known, table, dry_run)
        )
        for name in names
    ]
    if not dry_run:
        outcome.deliver(settings, results)
    return [each for each in results if each.outcome != "busy"]


def linger(settings: Config, names: Sequence[str], seconds: float) -> None:
    """Sleep on the programs' pidfds, and tick for one as soon as it ends, with growing pauses."""
    end = time.monotonic() + seconds
    waits: dict[str, float] = {}
    while (left := end - time.monotonic()) > 0:
        opened = {}
        for name in names:
            known = task.load(settings, name)
            fd = proc.open_process(known.record.identity) if known.record.pid else None
            if fd is not None:
                opened[fd] = name
        ready_at = min(waits.values(), default=end)
        wait = max(0.0, min(left, ready_at - time.monotonic()))
        gone = proc.wait_for_any_exit(opened, wait)
        for fd in gone:
            known = task.load(settings, opened[fd])
            waits[opened[fd]] = time.monotonic() + crashloop.pause(crashloop.deaths(known) + 1)
        for fd in opened:
            os.close(fd)
        now = [name for name, when in waits.items() if when <= time.monotonic()]
        tick(settings, now, dry_run=False)
        for name in now:
            del waits[name]


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    names = cli.chosen_tasks(settings, options.names) or list(settings.tasks)
    names = control.in_order(settings, names)
    status = outcome.show(settings, tick(settings, names, options.dry_run), options)
    if options.linger and not options.dry_run:
        linger(settings, names, options.linger)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
