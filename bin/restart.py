#!/usr/bin/env python3
"""Restart tasks safely: stop, clear state files, start, verify, put on record, tell a failure.

usage: restart.py NAME ... | --all  [options]

    $ restart.py trader --dry-run
    trader: send TERM to pid 812, KILL after 30 s (by hand)
    trader: start: python3 -u trader.py (by hand)

Exit codes: 0 done, or not needed; 1 not started or not verified; 2 usage or configuration;
3 refused, identity not proven; 4 another run holds the task; 5 due later, the host is not quiet;
6 it cannot be stopped.
"""

import gc
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

gc.disable()  # a short run without cycles: to look for them took a twentieth of it
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, control, history, limits, outcome, proc
from upkeep.errors import Exit, OperatorError
from upkeep.family import Processes
from upkeep.outcome import Result
from upkeep.readers import command_words
from upkeep.settings import TaskSettings
from upkeep.task import Task

EXAMPLES = """  restart.py trader                       # a fresh copy, now
  restart.py --all --if-older-than 7d     # nightly: whoever runs for more than a week
  restart.py trader --if-rss-above 300M   # only when it has grown
  restart.py trader --when-quiet          # when the host is quiet, at the deadline at the latest"""


def conditional(options: Namespace) -> bool:
    """Whether it is restarted only if something holds."""
    given = (options.if_rss_above, options.if_older_than)
    return given != (None, None) or bool(options.if_leaking)


def condition_met(known: Task, stat: proc.Stat, options: Namespace) -> str | None:
    """Why a running task is restarted; None when no condition holds."""
    if not conditional(options):
        return str(options.reason)
    asked = TaskSettings(
        known.name,
        command_words("-"),
        max_rss=options.if_rss_above,
        max_rss_samples=1,
        max_age=options.if_older_than,
    )
    if over := limits.exceeded(known, asked, stat, Processes()):
        return over[1]
    return limits.leaking(known) if options.if_leaking else None


def restart(known: Task, options: Namespace) -> Result:
    """Restart one task as the options want it. Raises OperatorError and OSError."""
    bare = not conditional(options) and not options.when_quiet
    if not (bare and options.names) and (known.record.down or "given_up" in known.record.trouble):
        return Result(known.name, "not_needed", detail="stopped on purpose, or given up")
    alive = known.running()
    stat = proc.read_stat(alive.pid) if alive else None
    reason = condition_met(known, stat, options) if stat else options.reason
    if reason is None:
        return Result(known.name, "not_needed", old_pid=stat and stat.pid)
    wait = known.settings.deadline if options.deadline is None else options.deadline
    busy = limits.not_quiet(known.settings, known.config.host) if options.when_quiet else None
    if options.dry_run:
        plan = control.plan(known, alive, f"{reason}; {busy}: due later" if busy else reason)
        return Result(known.name, "planned", plan=plan)
    if not alive or not busy:
        return control.restart(known, reason, control.BY_HAND)
    due = known.record.due
    if not due or wait < due["wait"] - history.age(due):  # a mark may come due sooner, never later
        known.record.due = {**history.stamp(time.time()), "wait": wait, "reason": reason}
        known.save()
    return Result(known.name, "deferred", Exit.LATER, reason=f"{reason}; {busy}")


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_dry_run(made)
    cli.add_json(made)
    add = made.add_argument
    add("names", nargs="*", metavar="NAME", help="tasks of upkeep.toml")
    add("--all", action="store_true", help="all tasks that are not down on purpose")
    add("--reason", default=control.BY_HAND, metavar="TEXT", help="for the history")
    add("--when-quiet", action="store_true", help="or later, by the watchdog")
    add("--deadline", type=cli.duration, metavar="D", help="of --when-quiet")
    add("--if-rss-above", type=cli.size, metavar="SIZE", help="of all its processes")
    add("--if-older-than", type=cli.duration, metavar="D", help="age of the process")
    made.add_argument("--if-leaking", action="store_true", help="by the trend of its memory")
    return made


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    if bool(options.names) == options.all:
        raise OperatorError("give the names of tasks, or --all", Exit.USAGE)
    names = control.in_order(
        settings, cli.chosen_tasks(settings, options.names or list(settings.tasks))
    )
    return outcome.by_hand(settings, names, options, lambda known: restart(known, options))


if __name__ == "__main__":
    raise SystemExit(main())
