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
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli, config, files, tree, units
from upkeep.alerts import Alerts
from upkeep.errors import Exit, OperatorError
from upkeep.settings import CleanupSettings, keys
from upkeep.sweep import AGE_BUCKETS, DAY, DONE, Report, Sweep
from upkeep.text import printable
from upkeep.tree import Found

EXAMPLES = """\
  cleanup.py --dry-run                     # what would the rules of upkeep.toml do tonight?
  cleanup.py /srv/app/data --match '*.jsonl' --older-than 30d --action prune   # old records
"""
COUNTS = ("matched", "pruned_records", "kept_malformed", "freed_bytes")
MOST_SHOWN = 20  # files in the text report
NO_OPTIONS = ("paths", "allow_all", "remove_empty_dirs")
LIVE = ("run", "tasks", "outbox", "jobs", "memory", "lock")  # below <state>; logs may be cleaned
BRAKED = ("delete", "truncate")
BRAKE_FILES, BRAKE_TIMES, BRAKE_DAYS = 100, 10, 30
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


def sweep(work: Sweep, args: argparse.Namespace, memory: dict[str, Any]) -> Report:
    """Clean up by one rule, or only show how. `memory`: what the last run left for the brake."""
    work.prepare()
    report = Report(work.rule.name, work.rule.action)
    if not args.dry_run and not args.force:
        held = Report(work.rule.name, work.rule.action)
        for _ in replace(work).plan(held):
            pass
        held.refused = brake(work, held, memory)
        if held.refused:
            return held
    for step in work.run(report):
        if args.dry_run and not args.json:
            print(work.describe(step))
    if args.dry_run and not args.force:
        report.refused = brake(work, report, memory)
    if not args.dry_run:
        remove_empty(work.roots, report.folders)
    missing = work.needed_bytes - report.freed_bytes
    if work.needed_bytes and missing > 0 and not work.stopped():
        report.unreached = f"{units.format_size(missing)} more than the budget cannot be freed"
    return report


def wrong_clock(now: float, report: Report, memory: dict[str, Any]) -> str:
    """Why `now` is not believed, else ""."""
    last_run = memory.get("time", now)
    days = (now - max(last_run, report.newest)) / DAY
    if now < last_run:
        return f"the clock ({units.local_time(now)}) is before the last run"
    far = f"the clock ({units.local_time(now)}) is {days:.0f} d past the last run and all files"
    return far if days > BRAKE_DAYS else ""


def brake(work: Sweep, report: Report, memory: dict[str, Any]) -> str:
    """Why the chosen files are not touched, else ""."""
    taken, matched = report.chosen, report.matched
    if not taken:
        return ""
    most = BRAKE_FILES + BRAKE_TIMES * memory["deleted"].get(work.rule.name, 0)
    why = wrong_clock(work.now, report, memory)
    if not why and work.rule.action in BRAKED and taken > most and taken * 2 > matched:
        why = f"it would take {taken} of {matched} files, more than half and more than {most}"
    return why and f"{why}; nothing was done; --force overrides"


def remove_empty(roots: list[str], folders: set[str]) -> None:
    """Remove those of `folders` that are empty, and what is emptied by that, but no root."""
    for folder in sorted(folders, key=len, reverse=True):
        path = folder.rstrip("/")
        with contextlib.suppress(OSError):
            while path not in roots:
                above, _, name = path.rpartition("/")
                with tree.opened(above) as parent:
                    os.rmdir(name, dir_fd=parent)
                path = above


def show_progress(found: Found, report: Report) -> None:
    """Say on a terminal how far a long run is."""
    if sys.stderr.isatty():
        freed = units.format_size(report.freed_bytes)
        line = f"{report.rule}: {report.matched} files, {freed}, {printable(found.folder, 60)}"
        sys.stderr.write(f"\r\x1b[K{line}\r")


def step_aside() -> None:
    """Give way to other programs: nice, and idle I/O (ioprio_set(2), this process, class 3)."""
    os.nice(10)
    number = {"x86_64": 251, "aarch64": 30}.get(os.uname().machine)
    if number:
        ctypes.CDLL(None).syscall(number, 1, 0, 3 << 13)


def histogram(report: Report) -> Iterator[tuple[int, int, int]]:
    """(days, files that are older but not as old as those of the next line, their bytes)."""
    return zip(AGE_BUCKETS, report.ages, report.age_bytes, strict=True)


def row(report: Report) -> dict[str, object]:
    """A report for --json."""
    return {
        "rule": report.rule,
        "outcome": report.outcome,
        "reason": report.refused or report.unreached,
        **{name: getattr(report, name) for name in COUNTS},
        **{name: report.done * (action == report.action) for action, name in DONE.items()},
        "skipped": [{"path": path, "reason": reason} for path, reason in report.skipped],
        "errors": [{"path": path, "reason": reason} for path, reason in report.errors],
        "age_histogram": [
            {"older_than_days": days, "files": count, "bytes": size}
            for days, count, size in histogram(report)
        ],
    }


def lines(report: Report) -> Iterator[str]:
    """A report for people."""
    freed, skipped = units.format_size(report.freed_bytes), f"{len(report.skipped)} skipped"
    files = f"{report.done} of {report.matched} files"
    yield f"{report.rule}: {report.outcome}: {files}, {freed}, {skipped}"
    if report.kept_malformed:
        yield f"  kept {report.kept_malformed} lines that are no record with a clear time"
    for path, reason in report.skipped[:MOST_SHOWN]:
        yield f"  skipped {printable(path)}: {reason}"
    for days, count, size in histogram(report):
        yield f"  older than {days:3} d: {count} files, {units.format_size(size)}"


def tell(report: Report, settings: config.Config, alerts: Alerts | None) -> None:
    """What went wrong goes to stderr; a real run is logged, and may open or close an alert."""
    failed = [f"cannot handle {printable(path)}: {why}" for path, why in report.errors]
    for problem in filter(None, (report.refused, report.unreached, *failed[:MOST_SHOWN])):
        cli.warn(f"{report.rule}: {problem}")
    if not alerts:
        return
    cli.log(settings, next(lines(report)))
    key = f"cleanup:{report.rule}"
    if report.refused:
        alerts.problem(key, f"cleanup {report.rule} refused", report.refused, "critical")
    elif report.unreached:
        alerts.problem(key, f"cleanup {report.rule}: budget not reached", report.unreached)
    elif not report.cut:
        alerts.recovered(key, f"cleanup {report.rule} works again")


def fits(memory: dict[str, Any]) -> bool:
    """Whether what the last run left is as `run_rules` writes it."""
    deleted = memory.get("deleted")
    numbers = isinstance(deleted, dict) and all(type(each) is int for each in deleted.values())
    return numbers and isinstance(memory.get("time"), float)


def run_rules(
    rules: list[CleanupSettings], args: argparse.Namespace, state: Path, stop: Stop
) -> Iterator[Report]:
    """Run all rules against one clock; a real run leaves what the next one's brake must know."""
    now, memory = time.time(), {}
    with contextlib.suppress(OSError):  # a full disk is what this script is for
        memory = files.read_state(state / "cleanup.json", fits)
    memory = memory or {"deleted": {}}
    for rule in rules:
        report = sweep(Sweep(rule, now, stop, args.dry_run, show_progress), args, memory)
        report.cut = bool(stop.status)
        wrong = wrong_clock(now, report, memory) and not args.force
        if not (report.refused or args.dry_run or wrong):
            memory["deleted"][rule.name] = report.done * (rule.action in BRAKED)
            with contextlib.suppress(OSError):
                files.write_state(state / "cleanup.json", {**memory, "time": now})
        yield report


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Clean up."""
    args = parser().parse_args(argv)
    settings = config.load(args.config)
    rules = chosen_rules(args, settings)
    protected = (Path(os.path.expanduser("~")), CHECKOUT, Path(sys.executable), settings.state)
    own = [*(settings.state / name for name in LIVE), CHECKOUT / "bin", CHECKOUT / "lib"]
    for root in (root for rule in rules for root in rule.paths):
        tree.refuse_root(root, protected, own)
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
        cli.print_json({"dry_run": args.dry_run, "results": [row(each) for each in reports]})
    elif args.dry_run or args.verbose or sys.stdout.isatty():
        print("\n".join(line for each in reports for line in lines(each)))
    bad, refused = any(each.outcome != "done" for each in reports), any(r.refused for r in reports)
    return max(stop.status, Exit.PROBLEM * bad, Exit.REFUSED * refused)


if __name__ == "__main__":
    raise SystemExit(main())
