#!/usr/bin/env python3
"""Delete old JSONL, logs and state files, safely.

Usage: cleanup.py [--rule NAME ...] [--dry-run] [--json] [--force]
       cleanup.py DIR ... --match GLOB --older-than D [--exclude GLOB] ...

What is deleted stands in the [cleanup.NAME] tables of upkeep.toml, or is one rule given by options
of the same names. Files that are open for writing stay, symlinks are never followed, dangerous
directories are refused, and so is a run that would take far more than the last one (--force).

    $ bin/cleanup.py --dry-run
    delete /srv/app/data/100.jsonl (4.0 KiB; mtime 100.0 d > 90 d)
    delete /srv/app/data/200.jsonl (4.0 KiB; mtime 200.0 d > 90 d)
    old-jsonl: done: delete 2 of 4 files, 8.0 KiB

Exit: 0 done · 1 a file or directory could not be handled, or a budget not be reached · 2 usage ·
3 refused (dangerous directory, the brake) · 4 another run is at work · 5 --max-runtime is over ·
130/143 interrupted.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli, config, files, tree, units
from upkeep.alerts import Alerts
from upkeep.errors import Exit, OperatorError
from upkeep.openfiles import LeftAloneError
from upkeep.selection import brake, clock_brake
from upkeep.settings import CleanupSettings, Key, keys
from upkeep.sweep import Done, Item, Report, Sweep
from upkeep.text import printable

EXAMPLES = """\
  cleanup.py --dry-run                     # what would the rules of upkeep.toml do tonight?
  cleanup.py --rule old-jsonl -v           # run one of them, and say what was done
  cleanup.py /srv/app/data --match '*.jsonl' --older-than 90d --dry-run   # a rule of the moment
"""
Memory = dict[str, Any]  # of the last real run: "time", "deleted"
COMMAND_LINE = "command-line"


def parser() -> argparse.ArgumentParser:
    """Every key of a [cleanup.NAME] table is an option, except the switches that lift a guard."""
    made = cli.parser(__doc__, EXAMPLES)
    made.add_argument("paths", nargs="*", metavar="DIR", help="directory to clean")
    made.add_argument("--rule", action="append", metavar="NAME", help="only this rule")
    for name, key in rule_options().items():
        made.add_argument(
            "--" + name.replace("_", "-"),
            action="append" if name in ("match", "exclude") else "store",
            type=int if name == "keep_newest" else str,
            metavar="N" if name == "keep_newest" else name.upper(),
            help=key.help.replace("%", "%%"),
        )
    cli.add_dry_run(made)
    cli.add_json(made)
    made.add_argument("--force", action="store_true", help="override the brake")
    made.add_argument(
        "--max-runtime", type=cli.duration, metavar="D", help="begin no file after that time"
    )
    return made


def rule_options() -> dict[str, Key]:
    """The keys of a rule that can be given on the command line."""
    left_out = ("paths", "allow_all", "remove_empty_dirs")
    return {name: key for name, key in keys(CleanupSettings).items() if name not in left_out}


def chosen_rules(args: argparse.Namespace, settings: config.Config) -> list[CleanupSettings]:
    """The rule that the options describe, or those of upkeep.toml. Raises OperatorError."""
    names = ["paths", *rule_options()]
    given = {name: getattr(args, name) for name in names if getattr(args, name)}
    if given and args.rule:
        raise OperatorError("give either --rule or the options of one rule", Exit.USAGE)
    if given:
        document = {"cleanup": {COMMAND_LINE: given}}
        return list(config.parse(document, Path(COMMAND_LINE)).cleanups.values())
    unknown = set(args.rule or ()) - set(settings.cleanups)
    if unknown:
        known = ", ".join(settings.cleanups) or "none is configured"
        raise OperatorError(f'no rule "{printable(unknown.pop())}"; known: {known}', Exit.USAGE)
    return [rule for name, rule in settings.cleanups.items() if name in (args.rule or (name,))]


class Stop:
    """Tells when to begin no further file: a signal came, or the time is over."""

    def __init__(self, max_runtime: float | None) -> None:
        self.status: Exit | None = None
        self._deadline = time.monotonic() + max_runtime if max_runtime is not None else None
        signal.signal(signal.SIGTERM, lambda *_: self._set(Exit.TERMINATED))
        signal.signal(signal.SIGINT, lambda *_: self._set(Exit.INTERRUPTED))

    def _set(self, status: Exit) -> None:
        self.status = status

    def __call__(self) -> bool:
        """Whether it is time to stop."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self.status = self.status or Exit.LATER
        return self.status is not None


def sweep(work: Sweep, args: argparse.Namespace, last: Memory) -> Report:
    """Clean up by one rule, or only show how; `last` is what is known of its last run."""
    selected = work.select()
    if not args.dry_run and not args.force:
        trial = Report(work.rule.name)
        taken = sum(1 for _ in work.plan(replace(selected), trial))
        trial.refused = held_back(trial, taken, work.now, last)
        if trial.refused:
            return trial
    report = Report(work.rule.name)
    for item in work.plan(selected, report):
        attempt(work, item, report, args.json)
    if args.dry_run and not args.force:
        report.refused = held_back(report, report.done.total(), work.now, last)
    elif work.rule.remove_empty_dirs and not args.dry_run:
        for root in work.roots:
            tree.remove_empty(root, report.folders)
    missing = selected.needed_bytes - report.freed_bytes
    if missing > 0 and not work.stopped():
        report.unreached = f"{units.format_size(missing)} more than the budget cannot be freed"
    return report


def held_back(report: Report, taken: int, now: float, last: Memory) -> str:
    """Why the brake refuses that `taken` files are taken, else ""."""
    why = clock_brake(now, last["time"], report.newest) if "time" in last else ""
    why = why or brake(taken, report.matched, last.get("deleted", 0))
    return why and f"{why}; nothing was done; --force overrides"


def attempt(work: Sweep, item: Item, report: Report, as_json: bool) -> None:
    """Do one step of the plan, or show it; what goes wrong with a file concerns that file only."""
    try:
        done = work.carry_out(item)
    except LeftAloneError as error:
        report.trouble(item.found.path, str(error), False)
    except OSError as error:
        report.trouble(item.found.path, str(error.strerror), True)
    else:
        report.add(item, done)
        if work.dry_run and (done.pruned_records or item.action != "prune"):
            show(item, done, report, as_json)


def show(item: Item, done: Done, report: Report, as_json: bool) -> None:
    """Print a step of the plan, or keep it for --json."""
    size, records = done.freed_bytes, done.pruned_records
    if as_json:
        step = {"path": item.found.path, "action": item.action, "reason": item.why}
        report.plan.append({**step, "freed_bytes": size, "pruned_records": records})
        return
    what = f"{records} records, " if records else ""
    size = size or item.found.info.st_size  # what an archive will free is not known yet
    print(
        f"{item.action} {printable(item.found.path)} ({what}{units.format_size(size)}; {item.why})"
    )


def run_rules(
    rules: list[CleanupSettings], args: argparse.Namespace, settings: config.Config, stop: Stop
) -> list[Report]:
    """Run all rules against one clock; a real run leaves what the next run's brake must know."""
    now, path = time.time(), settings.state / "cleanup.json"
    memory = files.read_state(path)
    known: dict[str, int] = memory.get("deleted", {})
    reports = []
    for rule in rules:
        identity = " ".join((rule.name, *rule.paths))
        last = {"deleted": known.get(identity, 0)}
        if "time" in memory:
            last["time"] = memory["time"]
        report = sweep(Sweep(rule, now, stop, args.dry_run), args, last)
        if not report.refused:
            known[identity] = report.done["delete"]
        reports.append(report)
    if not args.dry_run and not all(report.refused for report in reports):
        files.write_state(path, {"time": now, "deleted": known})
    return reports


def tell(report: Report, args: argparse.Namespace, settings: config.Config, alerts: Alerts) -> None:
    """Print, log and alert what one rule did."""
    if not args.json and (args.dry_run or args.verbose or sys.stdout.isatty()):
        print("\n".join(report.lines(args.dry_run)))
    if args.dry_run:
        return
    cli.log(settings, next(report.lines(False)))
    for problem in report.problems():
        cli.warn(f"{report.rule}: {problem}")
    key = f"cleanup:{report.rule}"
    if report.refused:
        alerts.problem(key, f"cleanup {report.rule} refused", report.refused, "critical")
    elif report.unreached:
        alerts.problem(key, f"cleanup {report.rule}: budget not reached", report.unreached)
    else:
        alerts.recovered(key, f"cleanup {report.rule} works again")


def status(reports: list[Report], stop: Stop) -> int:
    """The exit status: the largest of all."""
    codes = [Exit.REFUSED if report.refused else Exit.DONE for report in reports]
    codes += [Exit.PROBLEM for report in reports if report.errors or report.unreached]
    return max((*codes, stop.status or Exit.DONE), default=Exit.DONE)


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Clean up."""
    args = parser().parse_args(argv)
    settings = config.load(args.config)
    rules = chosen_rules(args, settings)
    home = Path(os.path.expanduser("~"))
    for root in (root for rule in rules for root in rule.paths):
        tree.refuse_root(root, (home, CHECKOUT, Path(sys.executable), settings.state))
    stop = Stop(args.max_runtime)
    with Alerts(settings) as alerts:
        lock = files.lock(settings.state / "lock" / "cleanup.lock", what="another cleanup")
        with contextlib.nullcontext() if args.dry_run else lock:
            reports = run_rules(rules, args, settings, stop)
        for report in reports:
            tell(report, args, settings, alerts)
    if args.json:
        cli.print_json({"dry_run": args.dry_run, "results": [report.row() for report in reports]})
    return status(reports, stop)


if __name__ == "__main__":
    raise SystemExit(main())
