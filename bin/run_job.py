#!/usr/bin/env python3
"""Run one cron job: never two at once, with a time limit, and an alert only when it fails.

usage: run_job.py NAME [OPTION ...] -- COMMAND [ARG ...], or run_job.py --status [--json]

    job     last success               took  p50   p95   peak RSS  failed  skipped  missed  ...
    backup  2026-11-20T04:15:48+00:00  48 s  47 s  61 s  61 MiB    0       0        0       ...

Exit codes: the command's own (128+n: signal n), 124 time limit, 126, 127 not run, 4 busy, 2 usage.
"""

import argparse
import contextlib
import ctypes
import gc
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

gc.disable()  # a wrapper imports, starts its job and waits: looking for cycles took 5 % of that
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli, config, files, job, metrics, text, units
from upkeep.errors import Exit, OperatorError

EXAMPLES = """\
  run_job.py feed --timeout 5m --alert-after 3 -- fetch    # may fail twice before it is told
  run_job.py --status                                      # which jobs fail, hang or never ran?
"""
SKIPS_BEFORE_ALERT, RUNS_KEPT = 5, 100
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
HEAD = ["job", "last success", "took", "p50", "p95", "peak RSS"]
HEAD += ["failed", "skipped", "missed", "next run"]


def parser() -> argparse.ArgumentParser:
    """The options; what stands behind ``--`` is the command."""
    made = cli.parser(__doc__, EXAMPLES)
    made.add_argument("name", nargs="?", metavar="NAME", help="letters, digits, '.', '_', '-'")
    made.add_argument("--timeout", type=cli.duration, default=float("inf"), metavar="D")
    made.add_argument("--grace", type=cli.duration, default=10.0, metavar="D", help="TERM to KILL")
    made.add_argument("--wait", type=cli.duration, default=0.0, metavar="D", help="for its turn")
    made.add_argument("--splay", type=cli.duration, default=0.0, metavar="D", help="start later")
    made.add_argument("--alert-after", type=cli.count, default=1, metavar="N", help="failures")
    made.add_argument("--ping-url", metavar="URL", help="fetched after a success, URL/fail else")
    made.add_argument("--status", action="store_true", help="the table of all jobs")
    cli.add_dry_run(made)
    cli.add_json(made)
    return made


def fits(record: dict[str, Any]) -> bool:
    """Whether `record` is one that `conclude` wrote, with figures that can be shown."""
    counts, runs = [record.get("failures"), record.get("skipped")], record.get("runs")
    whole = is_time(record.get("last_success")) and [*map(type, counts)] == [int, int]
    return whole and isinstance(runs, list) and all(map(is_run, runs))


def is_run(row: Any) -> bool:
    """Whether `row` is a `job.Run` as JSON has it."""
    if not isinstance(row, list) or [*map(type, row)] != [float, int, float, int]:
        return False
    return is_time(row[0]) and is_time(row[2]) and 0 <= row[3] < 1 << 60


def is_time(value: Any) -> bool:
    """Whether `value` is in seconds, no NaN, and not beyond all calendars."""
    return isinstance(value, float) and 0 <= value < 1e11


def read(settings: config.Config, name: str) -> dict[str, Any]:
    """The record of a job: its last runs, and how many failed or were skipped in a row."""
    with contextlib.suppress(OSError):
        if found := files.read_state(settings.state / "jobs" / f"{name}.json", fits):
            return found
    return {"last_success": 0.0, "failures": 0, "skipped": 0, "runs": []}


def counted(record: dict[str, Any], outcome: job.Outcome) -> dict[str, Any]:
    """`record` with one more run, or one more that was skipped."""
    run = outcome.run
    if run is None:
        return {**record, "skipped": record["skipped"] + 1}
    after = {**record, "skipped": 0, "runs": [*record["runs"], run][-RUNS_KEPT:]}
    if outcome.why:
        return {**after, "failures": record["failures"] + 1}
    return {**after, "failures": 0, "last_success": run.time + run.duration_seconds}


def conclude(settings: config.Config, name: str, alert_after: int, outcome: job.Outcome) -> None:
    """Tell and record a run; told first, so that whatever kills us in between loses no alert."""
    before = read(settings, name)
    after = counted(before, outcome)
    if outcome.why:
        cli.log(settings, f"{name}: {outcome.why}")
    if outcome.why or before["failures"] or before["skipped"]:
        from upkeep.alerts import Alerts

        with Alerts(settings) as alerts:
            if not outcome.why:
                alerts.recovered(f"job:{name}", f"Job {name} works again")
            elif after["failures"] >= alert_after or after["skipped"] >= SKIPS_BEFORE_ALERT:
                alerts.problem(f"job:{name}", f"Job {name}: {outcome.why}", outcome.tail)
    try:
        files.write_state(settings.state / "jobs" / f"{name}.json", after)
        if settings.prometheus:
            last = {("job", name): after["last_success"]}
            figures = {"upkeep_job_last_success_timestamp_seconds": last}
            metrics.write(settings.prometheus / f"upkeep_job_{name}.prom", figures)
    except OSError as error:
        cli.warn(f"{name}: not recorded: {error}")
    if outcome.why:
        cli.print_error(f"job {name}: {outcome.why}\n{outcome.tail}".strip())


def ping(url: str, failed: bool) -> None:
    """Tell a monitor; whatever happens to that, the job is over."""
    from urllib.request import urlopen

    with contextlib.suppress(Exception):
        urlopen(f"{url}/fail" if failed else url, timeout=10).close()


def rows(settings: config.Config, now: float) -> list[dict[str, Any]]:
    """What is known of every job that was run or stands in a crontab that can be read."""
    from upkeep import schedule

    plans, found = list(schedule.installed()), []
    recorded = {path.stem for path in (settings.state / "jobs").glob("*.json")}
    for name in sorted(recorded | {plan[0] for plan in plans}):
        record = read(settings, name)
        runs = [job.Run(*run) for run in record["runs"]] or [job.Run(0.0, 0, 0.0, 0)]
        running = job.survivor(job.lock_file(settings, name)) is not None
        last = now if running else runs[-1].time + runs[-1].duration_seconds
        coming, missed = schedule.outlook(plans, name, last, now)
        took = sorted(run.duration_seconds for run in runs)  # percentiles by nearest rank
        shares = {f"p{n}_seconds": took[(len(took) * n - 1) // 100] for n in (50, 95)}
        row = {"job": name, "running": running, **record, **shares}
        row["runs"] = [run._asdict() for run in runs if run.time]
        row |= {"next_run": coming, "missed": missed}
        found.append({**row, "ok": is_well(row)})
    return found


def cells(row: dict[str, Any]) -> list[str]:
    """A row as people read it."""
    ended, coming = row["last_success"], row["next_run"]
    costs = ["-"] * 4
    if row["runs"]:
        last = row["runs"][-1]
        durations = last["duration_seconds"], row["p50_seconds"], row["p95_seconds"]
        costs = [*map(units.format_duration, durations), units.format_size(last["peak_rss_bytes"])]
    return [
        row["job"],
        units.local_time(ended) if ended else "never",
        *costs,
        *(str(row[count]) for count in ("failures", "skipped", "missed")),
        units.local_time(coming) if coming else "-",
    ]


def is_well(row: dict[str, Any]) -> bool:
    """Whether a job does what it should: it did not fail, hangs not, and was started."""
    failed = row["failures"] > 0 and not row["running"]
    return not failed and row["missed"] == 0 and row["skipped"] < SKIPS_BEFORE_ALERT


def show(settings: config.Config, as_json: bool) -> int:
    """Print the table of all jobs; 1 when one of them is bad."""
    found = rows(settings, time.time())
    if as_json:
        cli.print_json({"jobs": found})
    else:
        print("\n".join(text.table(HEAD, map(cells, found))))
    return Exit.DONE if all(row["ok"] for row in found) else Exit.PROBLEM


def rehearse(command: list[str]) -> int:
    """Print what would be run; a script of the suite prints its own plan instead."""
    if any(Path(word).resolve().parent == CHECKOUT / "bin" for word in command[:2]):
        os.execvpe(command[0], command, {**os.environ, "UPKEEP_DRY_RUN": "1"})
    print("would run:", text.printable(" ".join(command)))
    return Exit.DONE


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command behind ``--``, or show the table."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    options, command = parser().parse_args(words[:split]), words[split + 1 :]
    settings = config.load(options.config)
    if options.status:
        return show(settings, options.json)
    name = options.name or ""
    if not name or not command:
        raise OperatorError("expected NAME [OPTION ...] -- COMMAND ...; see --help", Exit.USAGE)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        allowed = "up to 100 letters, digits, '.', '_', '-', not beginning with '.' or '-'"
        raise OperatorError(f'job name "{text.printable(name)}": expected {allowed}', Exit.USAGE)
    if options.dry_run:
        return rehearse(command)
    # What the job leaves becomes a child of this process, not of init.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    durations = options.timeout, options.grace, options.wait, options.splay
    outcome = job.run(job.Job(name, command, *durations), settings)
    conclude(settings, name, options.alert_after, outcome)
    if options.ping_url and outcome.run:
        ping(options.ping_url, bool(outcome.why))
    return outcome.run.exit_status if outcome.run else Exit.BUSY


if __name__ == "__main__":
    raise SystemExit(main())
