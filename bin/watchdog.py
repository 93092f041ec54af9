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
import gc
import itertools
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path

gc.disable()  # a short run without cycles: to look for them took a twentieth of it
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, control, death, history, limits, outcome, pidfd, proc, ready, task
from upkeep.config import Config
from upkeep.errors import Exit
from upkeep.family import Processes
from upkeep.outcome import Result
from upkeep.task import Task
from upkeep.units import format_duration, format_size

EXAMPLES = """  watchdog.py               # what cron runs every minute
  watchdog.py --dry-run     # what would it do now?
  watchdog.py --linger 55   # react to a death within milliseconds until the next tick"""

GIVE_UP = "give up"
TOLD = ("death", "limit", "heartbeat")  # a reboot or a restart that was asked for is not told
_LOOK_AGAIN_SECONDS = 0.5  # while a task waits, and may be started by somebody else meanwhile
Step = tuple[str, str]  # as what a start counts ("": leave it, GIVE_UP: no more starts), and why


def deaths(known: Task) -> int:
    """Unplanned deaths and failed starts within crash_window; nothing resets them."""
    events = history.since(known.config.state, known.settings.crash_window)
    mine = (each for each in events if each.get("task") == known.name)
    return sum(each.get("event") == "death" or each.get("outcome") == "failed" for each in mine)


def step_for_dead(known: Task, why: str, died: int) -> Step:
    """What a task that does not run needs, after `died` deaths in the window before this one."""
    record = known.record
    if record.down:
        return "", "stopped on purpose"
    if "given_up" in known.record.trouble:
        cooled = not 0 <= history.age(record.trouble["given_up"]) < known.settings.crash_cooldown
        return ("probe", "tried again") if cooled else ("", "given up")
    if record.pid and (record.boot_id != proc.boot_id() or "interrupted" in why):
        return "boot" if record.boot_id != proc.boot_id() else "restart", why
    if not record.pid and not record.trouble:
        return "first", "it was not started before"
    why = f"died: {why}" if record.pid else "the last start failed"
    too_often = died + bool(record.pid) >= known.settings.crash_limit
    return GIVE_UP if too_often or "tripped" in record.trouble else "death", why


def step_for_running(known: Task, stat: proc.Stat, processes: Processes) -> Step:
    """What a task that runs needs."""
    record, due = known.record, known.record.due
    if stat.state in proc.FROZEN_STATES:
        return "", "frozen by a signal or a debugger; only restart.py restarts it"
    if record.stopping:
        return "restart", f"an interrupted restart is finished ({record.stopping})"
    if due and history.age(due) >= due["wait"]:
        return "due", f"{due['reason']}; the deadline has come"
    if due and not limits.not_quiet(known.settings, known.config.host):
        return "due", f"{due['reason']}; now the host is quiet"
    if over := limits.exceeded(known, known.settings, stat, processes):
        return over
    why = limits.nearing(known)
    return ("limit", why) if why else ("", "")


def look_after(known: Task, processes: Processes, dry_run: bool) -> Result:
    """Decide what one task needs, and do it. Raises OperatorError and OSError."""
    if known.record.down and known.record.stopping:
        return control.stop(known, dry_run)
    before, alive = str(known.record), known.running()
    stat = proc.read_stat(alive.pid) if alive else None
    if stat:
        category, why = step_for_running(known, stat, processes)
    else:
        category, why = step_for_dead(known, death.cause(known), deaths(known))
    starts = category not in ("", GIVE_UP)
    if dry_run:
        plan = [f"{category or 'leave'}: {why or 'all is as wanted'}"]
        if starts:
            plan = control.plan(known, alive, why)
        return Result(known.name, "planned", plan=plan)
    if starts:
        return start(known, alive, why, category)
    if category == GIVE_UP:
        return give_up(known, why)
    if stat is None:
        code, outcome = (0, "stopped") if known.record.down else (Exit.GIVEN_UP, "given_up")
        return Result(known.name, outcome, code, detail=why)
    result = rest(known, stat, why)
    if str(known.record) != before or known.renamed_from:
        known.save()
    if known.settings.pid_file.is_relative_to(known.config.state):  # elsewhere it is the program's
        with contextlib.suppress(OSError):
            control.keep_pid_file(known, stat.pid)
    return result


def start(known: Task, alive: proc.Identity | None, why: str, category: str) -> Result:
    """Start or restart it; what nobody had asked for is told, with the last words of the dead."""
    tail = control.log_tail(known)
    if category == "limit" and alive:
        from upkeep import snapshot

        tail = snapshot.keep(known.config.state, known.name, alive) + tail
    result = control.restart(known, why, category)
    if category in TOLD and not result.code:
        seconds = result.facts.get("downtime_seconds")
        outage = "unknown" if seconds is None else format_duration(seconds)
        memory = last_memory(known, result.facts["old_pid"])
        result.facts["detail"] = f"outage {outage}{memory}{tail}"
        result.tell()
        known.note_trouble(told=history.stamp(time.time()))
    return result


def last_memory(known: Task, pid: int | None) -> str:
    """The last reading of the copy that ended, from the samples of the last hour."""
    from upkeep import samples

    rows = samples.read(known.config.state, 3600, time.time())[0]
    points = [point for row in rows for name, point in row["programs"] if name == known.name]
    last = points[-1] if points and points[-1].pid == pid else None
    return f"; last memory reading {format_size(last.rss_bytes)}" if last else ""


def give_up(known: Task, why: str) -> Result:
    """Open the crash-loop breaker; after a failed probe, silently open it again."""
    record, settings = known.record, known.settings
    window, wait = map(format_duration, (settings.crash_window, settings.crash_cooldown))
    detail = f"{settings.crash_limit} deaths within {window}; next try in {wait}"
    detail += control.log_tail(known)
    result = Result(known.name, "given_up", Exit.GIVEN_UP, reason=why, detail=detail)
    if "tripped" not in record.trouble:
        result.tell("repeated", 0.0)
    if record.pid:
        result.facts.update(event="death", old_pid=record.pid)
        control.remember(known, result)
    record.pid = 0
    known.note_trouble(given_up=history.stamp(time.time()), tripped=True)
    return result


def rest(known: Task, stat: proc.Stat, why: str) -> Result:
    """Leave a task that runs; the end of an outage is told."""
    record, settings = known.record, known.settings
    unready = ready.unmet(known, settings.ready) if record.unready and settings.ready else None
    record.unready, record.down, wrong = unready or "", False, unready or why
    code = Exit.PROBLEM if wrong else Exit.DONE
    result = Result(known.name, "running", code, old_pid=stat.pid, detail=wrong or None)
    if why:
        record.trouble["lasted"] = True
        result.tell()
    if record.trouble and not wrong and is_over(known, stat):
        result.tell_the_end(record.outage)
        record.trouble = {}
    return result


def is_over(known: Task, stat: proc.Stat) -> bool:
    """Whether the trouble of a task that works now is past, so that a new one is told again."""
    settings, told = known.settings, known.record.trouble.get("told")
    if known.record.outage:  # a copy that lives for so long can't fill the window with deaths
        return proc.age_seconds(stat) >= settings.crash_window / settings.crash_limit
    return told is None or not 0 <= history.age(told) < settings.crash_window


def tick(settings: Config, names: Sequence[str], dry_run: bool) -> list[Result]:
    """Look after each task; one that fails does not stop the others."""
    processes = Processes()

    def care(known: Task) -> Result:
        return look_after(known, processes, dry_run)

    results = [outcome.attempt(settings, name, 0.0, dry_run, care) for name in names]
    outcome.deliver(settings, results)
    return [each for each in results if each.outcome != "busy"]


def linger(settings: Config, names: Sequence[str], seconds: float) -> Iterator[list[Result]]:
    """Sleep on the programs' pidfds; a task without its process is looked after at once, then
    after pauses of its own of 1, 2, 4, ... s. The results of each such tick."""
    end, pauses, later = time.monotonic() + seconds, dict.fromkeys(names, 1.0), dict[str, float]()
    while (left := end - time.monotonic()) > 0:
        records = {name: task.load(settings, name).record for name in names}
        wanted = {name: pidfd.open_process(each.identity) for name, each in records.items()}
        opened = [fd for fd in wanted.values() if fd is not None]
        lost = [name for name in names if wanted[name] is None and not records[name].down]
        now = [name for name in lost if later.get(name, 0.0) <= time.monotonic()]
        if not now:
            pidfd.wait_for_any_exit(opened, min(left, _LOOK_AGAIN_SECONDS) if lost else left)
        for fd in opened:
            os.close(fd)
        if now:
            yield tick(settings, now, dry_run=False)
        for name in now:
            later[name], pauses[name] = time.monotonic() + pauses[name], pauses[name] * 2


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
    names = cli.chosen_tasks(settings, options.names) or list(settings.tasks)
    names = control.in_order(settings, names)
    first = [tick(settings, names, options.dry_run)]
    later = linger(settings, names, 0.0 if options.dry_run else options.linger)
    codes: dict[str, int] = {}
    for results in itertools.chain(first, later):
        outcome.show(settings, results, options)
        codes |= {each.task: each.code for each in results}
    return max(codes.values(), default=Exit.DONE)


if __name__ == "__main__":
    raise SystemExit(main())
