#!/usr/bin/env python3
"""Free the disk of old JSONL, logs and state files, without losing a line that should stay.

Usage: cleanup.py [--rule NAME ...] [--dry-run] [--json] [--force]
       cleanup.py DIR ... --match GLOB --older-than D [--action ACTION] ...

    $ bin/cleanup.py --dry-run
    delete /srv/app/data/100.jsonl (4.0 KiB; 100.0 d > 90 d)
    old-jsonl: done: 1 of 4 files, 4.0 KiB, 0 skipped

Exit: 0 done · 1 something could not be handled, or a budget not be reached · 2 usage · 3 refused
(dangerous directory, the brake) · 4 another run is at work · 5 --max-runtime is over · 130/143.
"""

import argparse
import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli, config, files, guard, units
from upkeep.alerts import Alerts
from upkeep.errors import Exit, OperatorError
from upkeep.plan import Plan
from upkeep.report import MOST_SHOWN, Report
from upkeep.settings import CleanupSettings, keys
from upkeep.sweep import described, remove_empty, run
from upkeep.text import printable

EXAMPLES = """\
  cleanup.py --dry-run                     # what would the rules of upkeep.toml do tonight?
  cleanup.py /srv/app/data --match '*.jsonl' --older-than 30d --action prune   # old records
"""
NO_OPTIONS = ("paths", "allow_all", "remove_empty_dirs")
LIVE = ("run", "tasks", "outbox", "jobs", "memory", "lock")  # below <state>; logs may be cleaned
RULE_KEYS = {n: key for n, key in keys(CleanupSettings).items() if n not in NO_OPTIONS}


def parser() -> argparse.ArgumentParser:
    """Every key of a [cleanup.NAME] table is an option, except the switches that lift a guard."""
    made = cli.parser(__doc__, EXAMPLES)
    made.add_argument("paths", nargs="*", metavar="DIR", help="directory to clean")
    made.add_argument("--rule", action="append", metavar="NAME", help="only this rule")
    for name, key in RULE_KEYS.items():
        made.add_argument(
            "--" + name.replace("_", "-"),
            action="append" if name in ("match", "exclude") else "store",
            type=int if name == "keep_newest" else str,
            help=key.help.replace("%", "%%"),
        )
    cli.add_dry_run(made)
    cli.add_json(made)
    made.add_argument("--force", action="store_true", help="override the brake")
    made.add_argument("--max-runtime", type=cli.duration, help="begin no file after that time")
    return made


def chosen_rules(args: argparse.Namespace, settings: config.Config) -> list[CleanupSettings]:
    """The rule that the options describe, or those of upkeep.toml. Raises OperatorError."""
    options = {name: getattr(args, name) for name in ("paths", *RULE_KEYS)}
    given = {name: value for name, value in options.items() if value not in (None, [])}
    for name, value in given.items():
        if value == "":  # an unset variable must not drop a limit
            raise OperatorError(f'{name}: expected a value, got ""', Exit.USAGE)
    rules = settings.cleanups
    if given:
        rules = config.parse({"cleanup": {"command-line": given}}, Path("command line")).cleanups
    for name in args.rule or ():
        if name not in rules:
            shown, known = printable(name), ", ".join(rules) or "none is configured"
            raise OperatorError(f'no rule "{shown}"; known: {known}', Exit.USAGE)
    return [rule for name, rule in rules.items() if name in (args.rule or rules)]


class Stop:
    """Called before every file: whether a signal came or the time is over (then `status`)."""

    def __init__(self, max_runtime: float | None) -> None:
        self.status = Exit.DONE
        self._end = float("inf") if max_runtime is None else time.monotonic() + max_runtime
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "status", Exit.TERMINATED))
        signal.signal(signal.SIGINT, lambda *_: setattr(self, "status", Exit.INTERRUPTED))

    def __call__(self) -> bool:
        """Whether to begin no further file."""
        if not self.status and time.monotonic() >= self._end:
            self.status = Exit.LATER
        return bool(self.status)


class Progress:
    """Says on a terminal how far a long run is, ten times a second at most."""

    due = 0.0

    def __call__(self, folder: str, report: Report) -> None:
        """To be called whenever something was done."""
        if sys.stderr.isatty() and time.monotonic() >= self.due:
            self.due = time.monotonic() + 0.1
            files, freed = f"{report.matched} files", units.format_size(report.freed_bytes)
            sys.stderr.write(f"\r\x1b[K{report.rule}: {files}, {freed}, {printable(folder, 60)}\r")


def step_aside() -> None:
    """Give way to other programs: nice, and idle I/O (ioprio_set(2), this process, class 3)."""
    os.nice(10)
    number = {"x86_64": 251, "aarch64": 30}.get(os.uname().machine)
    if number:
        ctypes.CDLL(None).syscall(number, 1, 0, 3 << 13)


def tell(report: Report, settings: config.Config, alerts: Alerts | None) -> None:
    """What went wrong goes to stderr; a real run is logged, and may open or close an alert."""
    failed = [f"cannot handle {printable(path)}: {why}" for path, why in report.errors]
    for problem in filter(None, (report.refused, report.unreached, *failed[:MOST_SHOWN])):
        cli.warn(f"{report.rule}: {problem}")
    if not alerts:
        return
    cli.log(settings, next(report.lines()))
    key = f"cleanup:{report.rule}"
    if report.refused:
        alerts.problem(key, f"cleanup {report.rule} refused", report.refused, "critical")
    elif report.unreached:
        alerts.problem(key, f"cleanup {report.rule}: budget not reached", report.unreached)
    elif not report.cut:
        alerts.recovered(key, f"cleanup {report.rule} works again")


def run_rule(plan: Plan, brake: guard.Brake, args: argparse.Namespace) -> Report:
    """Clean up by one rule, or only show how."""
    plan.prepare()
    report = plan.report()
    if not args.dry_run and not args.force:
        for _ in plan.chosen(report):  # only to count them
            pass
        report.refused = brake.refusal(report)
        if report.refused:
            return report
        report = plan.report()
    steps = run(plan, report)
    if args.dry_run and not args.json:
        lines = described(plan, steps)
        while block := list(islice(lines, plan.at_once)):
            print("\n".join(block))
    for _ in steps:
        pass
    if args.dry_run and not args.force:
        report.refused = brake.refusal(report)
    if not args.dry_run:
        remove_empty(plan.roots, report.folders)
    missing = plan.needed_bytes - report.freed_bytes
    if plan.needed_bytes and missing > 0 and not plan.stopped():
        report.unreached = f"{units.format_size(missing)} more than the budget cannot be freed"
    return report


def run_rules(
    rules: list[CleanupSettings], args: argparse.Namespace, state: Path, stop: Stop
) -> Iterator[Report]:
    """Run all rules against one clock."""
    now, progress = time.time(), Progress()
    brake = guard.Brake(state / "cleanup.json", now)
    for rule in rules:
        report = run_rule(Plan(rule, now, stop, args.dry_run, progress), brake, args)
        report.cut = bool(stop.status)
        if not (report.refused or args.dry_run):
            brake.remember(report, args.force)
        yield report


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Clean up."""
    gc.disable()  # no cycles are made, and there may be millions of files
    args = parser().parse_args(argv)
    settings = config.load(args.config)
    rules = chosen_rules(args, settings)
    protected = (Path(os.path.expanduser("~")), CHECKOUT, Path(sys.executable), settings.state)
    own = [*(settings.state / name for name in LIVE), CHECKOUT / "bin", CHECKOUT / "lib"]
    for root in (root for rule in rules for root in rule.paths):
        guard.refuse_root(root, protected, own)
    stop, reports = Stop(args.max_runtime), []
    with Alerts(settings) as alerts, contextlib.ExitStack() as stack:
        step_aside()
        if not args.dry_run:
            lock = files.lock(settings.state / "lock" / "cleanup.lock", what="another cleanup")
            with contextlib.suppress(OSError):  # a full disk is what this script is for
                stack.enter_context(lock)
        with stack:
            reports = list(run_rules(rules, args, settings.state, stop))
        for report in reports:
            tell(report, settings, None if args.dry_run else alerts)
    if args.json:
        cli.print_json({"dry_run": args.dry_run, "results": [each.row() for each in reports]})
    elif args.dry_run or args.verbose or sys.stdout.isatty():
        print("\n".join(line for each in reports for line in each.lines()))
    bad, refused = any(each.outcome != "done" for each in reports), any(r.refused for r in reports)
    return max(stop.status, Exit.PROBLEM * bad, Exit.REFUSED * refused)


if __name__ == "__main__":
    raise SystemExit(main())
