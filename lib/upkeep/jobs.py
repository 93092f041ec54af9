"""What run_job.py keeps of a cron job: its session, its log, its record.

`<state>/lock/job-NAME.lock` names the session of the run that is going on, `log/job-NAME.log` has
the output, `jobs/NAME.json` the last runs and the counters.
"""

import contextlib
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from upkeep import cli, config, files, proc, schedule, text, units
from upkeep.errors import OperatorError

Run = dict[str, Any]  # time (Unix seconds), status, duration_seconds, peak_rss_bytes
Record = dict[
    str, Any
]  # last_run, last_success (Unix seconds), failures and skipped (in a row), runs

RUNS_KEPT = 100
SLACK_SECONDS = 900.0  # how late a run may begin
HORIZON_SECONDS = 400 * 86400.0
TAIL_BYTES = 3000
_SESSION_BYTES = 128  # always written whole, in place: that works on a full disk too


def valid_name(name: str) -> bool:
    """Whether `name` is letters, digits, ".", "_", "-", and does not begin with a dot."""
    plain = name.replace(".", "").replace("_", "").replace("-", "")
    return plain.isalnum() and plain.isascii() and name[0] not in ".-" and len(name) <= 100


def record_session(lock: Path, leader: proc.Identity | None) -> None:
    """Note in the lock file which session runs now; None when none does."""
    with contextlib.suppress(OSError):
        fd = os.open(lock, os.O_WRONLY | os.O_CLOEXEC)
        content = json.dumps(leader) if leader else ""
        os.pwrite(fd, content.ljust(_SESSION_BYTES).encode(), 0)
        os.close(fd)


def survivor(lock: Path) -> proc.Stat | None:
    """A live process of the session that `lock` names, left by a wrapper that was killed."""
    try:
        boot, leader, ticks = json.loads(files.read_small(lock, _SESSION_BYTES))
    except (OSError, ValueError, TypeError):
        return None
    table = proc.scan()
    head = table.get(leader)
    if boot != proc.boot_id() or (head and head.start_ticks != ticks):
        return None  # no PID is given out again while a session bears its number
    members = (each for each in table.values() if each.session == leader and not each.dead)
    return next(members, None)


def open_log(path: Path) -> int:
    """The job's log, with a line on top of this run; stderr when it cannot be written."""
    try:
        files.append_line(path, f"--- {units.local_time(time.time())}")
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        cli.warn(f"{path}: {error.strerror}; the output of the job follows")
        return 2


def trim(log: int, most: float) -> None:
    """Cut the open file `log` to the newest half of `most` bytes once it is larger than `most`."""
    size = os.fstat(log).st_size
    if size <= most or log == 2:
        return
    plain = os.open(f"/proc/self/fd/{log}", os.O_RDWR | os.O_CLOEXEC)  # without O_APPEND
    source, target = size - int(most / 2), 0
    while target < most and (data := os.pread(plain, 1 << 20, source)):
        target += os.pwrite(plain, data, target)
        source += len(data)
    os.ftruncate(plain, target)
    os.close(plain)


def tail(log: int, begin: int) -> str:
    """The end of what was written to the open file `log` behind offset `begin`."""
    if log == 2:
        return ""
    size = os.fstat(log).st_size
    start = max(begin if begin <= size else 0, size - TAIL_BYTES)
    return os.pread(log, TAIL_BYTES, start).decode("utf-8", "replace").strip()


def read(settings: config.Config, name: str) -> Record:
    """The record of a job. What is missing, cannot be read or has a wrong type counts as none."""
    found: Record = {}
    with contextlib.suppress(OSError):
        found = files.read_state(settings.state / "jobs" / f"{name}.json")
    fresh: Record = {"last_run": 0.0, "last_success": 0.0, "failures": 0, "skipped": 0, "runs": []}
    return fresh | {key: found[key] for key in fresh if type(found.get(key)) is type(fresh[key])}


def merged(record: Record, run: Run) -> Record:
    """`record` after `run`: a success ends both rows, a skipped run is no failure."""
    after = {**record, "last_run": run["time"], "runs": [*record["runs"], run][-RUNS_KEPT:]}
    if run["outcome"] == "skipped":
        return {**after, "skipped": record["skipped"] + 1}
    if run["outcome"] != "done":
        return {**after, "skipped": 0, "failures": record["failures"] + 1}
    ended = run["time"] + run["duration_seconds"]
    return {**after, "skipped": 0, "failures": 0, "last_success": ended}


def store(settings: config.Config, name: str, run: Run) -> None:
    """Add `run` to the record. A record that cannot be written is told and stops nothing."""
    try:
        with files.lock(settings.state / "lock" / f"job-{name}.record.lock", 5.0):
            record = merged(read(settings, name), run)
            files.write_state(settings.state / "jobs" / f"{name}.json", record)
    except (OSError, OperatorError) as error:
        cli.warn(f"the record of {name} cannot be written: {error}")


def rows(settings: config.Config, now: float) -> list[dict[str, Any]]:
    """All jobs that ran or that a crontab starts: when they succeeded, what they missed.

    A run is missed when its time passed since the last run, since this boot and since the crontab
    was written, and nothing was started.
    """
    plans = list(schedule.installed())
    recorded = {path.stem for path in (settings.state / "jobs").glob("*.json")}
    boot = now - proc.uptime()
    return [
        _row(settings, name, [plan for plan in plans if plan[0] == name], boot, now)
        for name in sorted(recorded | {plan[0] for plan in plans})
    ]


def _row(
    settings: config.Config, name: str, plans: list[tuple[str, str, float]], boot: float, now: float
) -> dict[str, Any]:
    record = read(settings, name)
    runs = [run for run in record["runs"] if isinstance(run, dict) and "peak_rss_bytes" in run]
    took = [run["duration_seconds"] for run in runs]
    running = survivor(settings.state / "lock" / f"job-{name}.lock") is not None
    coming, missed = [], 0
    for _, expression, since in plans:
        with contextlib.suppress(ValueError):
            plan = schedule.parse(expression)
            coming.append(next(plan.times(now, now + HORIZON_SECONDS), None))
            begin = max(record["last_run"] or since, boot)
            missed += 0 if running else sum(1 for _ in plan.times(begin, now - SLACK_SECONDS))
    return {
        "job": name,
        "running": running,
        "last_success": record["last_success"] or None,
        "failures": record["failures"],
        "skipped": record["skipped"],
        "duration_seconds": statistics.median(took) if took else None,
        "peak_rss_bytes": max((run["peak_rss_bytes"] for run in runs), default=None),
        "next_run": min((each for each in coming if each), default=None),
        "missed": missed,
    }


def show(found: list[dict[str, Any]], now: float) -> None:
    """Print `rows` as a table."""
    head = ("job", "last success", "failed", "skipped", "missed", "median", "peak RSS", "next run")
    lines = []
    for row in found:
        took, rss, coming = row["duration_seconds"], row["peak_rss_bytes"], row["next_run"]
        ended = row["last_success"]
        ago = units.format_duration(now - ended) + " ago" if ended else "never"
        cells = [row["job"], "running" if row["running"] else ago]
        cells += [str(row["failures"]), str(row["skipped"]), str(row["missed"])]
        cells += ["-" if took is None else units.format_duration(took)]
        cells += ["-" if rss is None else units.format_size(rss)]
        lines.append([*cells, units.local_time(coming) if coming else "-"])
    print("\n".join(text.table(head, lines, "  >>>>>")))
