#!/usr/bin/env python3
"""Run one cron job: never two at once, with a time limit, and an alert only when it fails.

usage: run_job.py NAME [OPTION ...] -- COMMAND [ARG ...], or run_job.py --status [--json]

    job     last success               took  peak RSS  failed  skipped  missed  next run
    backup  2026-11-20T04:15:48+00:00  48 s  61 MiB    0       0        0       2026-11-21T04:15:00

Exit codes: the command's own (128+n: signal n), 124 time limit, 126, 127 not run, 4 busy, 2 usage.
"""

import argparse
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli, config, files, metrics, proc, text, units
from upkeep.errors import Exit, OperatorError

EXAMPLES = """\
  run_job.py feed --timeout 5m --alert-after 3 -- fetch    # may fail twice before it is told
  run_job.py --status                                      # which jobs fail, hang or never ran?
"""
TIMED_OUT, KILL_SECONDS, SKIPS_BEFORE_ALERT, RUNS_KEPT = 124, 5.0, 5, 100
NEWEST_BYTES = 1 << 20  # what is kept of a log that grew too large
SESSION_BYTES = 128  # written whole and in place, which works on a full disk too
HEAD = ("job", "last success", "took", "peak RSS", "failed", "skipped", "missed", "next run")
Run = tuple[float, int, float, int]  # Unix seconds, exit status, seconds, peak RSS in bytes


def parser() -> argparse.ArgumentParser:
    """The options; what stands behind ``--`` is the command."""
    made = cli.parser(__doc__, EXAMPLES)
    made.add_argument("name", nargs="?", metavar="NAME", help="letters, digits, '.', '_', '-'")
    made.add_argument("--timeout", type=cli.duration, default=float("inf"), metavar="D")
    made.add_argument("--grace", type=cli.duration, default=10.0, metavar="D", help="TERM to KILL")
    made.add_argument("--wait", type=cli.duration, default=0.0, metavar="D", help="for its turn")
    made.add_argument("--splay", type=cli.duration, default=0.0, metavar="D", help="start later")
    made.add_argument("--alert-after", type=int, default=1, metavar="N", help="failures in a row")
    made.add_argument("--ping-url", metavar="URL", help="fetched after a success, URL/fail else")
    made.add_argument("--status", action="store_true", help="the table of all jobs")
    cli.add_dry_run(made)
    cli.add_json(made)
    return made


def survivor(lock: Path) -> proc.Stat | None:
    """A live process of the session that `lock` names, if any."""
    try:
        boot, leader, ticks = json.loads(files.read_small(lock, SESSION_BYTES))
    except (OSError, ValueError, TypeError):
        return None
    table = proc.scan()
    head = table.get(leader)
    if boot != proc.boot_id() or (head and head.start_ticks != ticks):
        return None  # no PID is given out again while a session bears its number
    members = (each for each in table.values() if each.session == leader and not each.dead)
    return next(members, None)


def name_session(lock: Path, leader: proc.Identity | None) -> None:
    """Note in `lock` which session runs now."""
    with contextlib.suppress(OSError), open(lock, "r+b") as file:
        file.write((json.dumps(leader) if leader else "").ljust(SESSION_BYTES).encode())


def start(command: Sequence[str], log: int, lock: Path) -> int:
    """Start `command` in a session of its own, but not before `lock` names that session."""
    gate, opener = os.pipe()  # a shell waits at it, and ends when the wrapper does
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'unset UPKEEP_TASK; read -r go && exec "$@" </dev/null', "sh", *command],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in ((gate, 0), (log, 1), (log, 2))],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
    )
    os.close(gate)
    name_session(lock, proc.identify(pid))
    os.write(opener, b"go\n")
    os.close(opener)
    return pid


def wait_for_end(pid: int, seconds: float, log: int, log_max: int) -> bool:
    """Whether `pid` ends within `seconds`; its log is kept in bounds meanwhile."""
    pidfd, deadline, ended = os.pidfd_open(pid), time.monotonic() + seconds, False
    while not ended and (left := max(0.0, deadline - time.monotonic())):
        ended = not proc.wait_for_exit([pidfd], min(left, 0.2))
        if log != 2 and (size := os.fstat(log).st_size) > log_max:
            newest = os.pread(log, NEWEST_BYTES, size - min(log_max // 2, NEWEST_BYTES))
            os.ftruncate(log, 0)
            os.write(log, newest)
    return ended


def sessions() -> set[int]:
    """Those of the wrapper and its descendants: before the start none that the job can be in."""
    table = proc.scan()
    inherited = proc.descendants(table, os.getpid())  # whoever called exec left them to us
    return {os.getsid(0), *(table[pid].session for pid in inherited)}


def left_behind(foreign: set[int]) -> set[proc.Identity]:
    """All that came from the job, in any session but `foreign` ones; no daemons of restart.py."""
    table = proc.scan()
    mine = set(proc.descendants(table, os.getpid()))
    for pid in tuple(mine):
        spared = "UPKEEP_TASK" in proc.environment(pid) or table[pid].session in foreign
        if spared or "upkeep-recorder" in proc.command_line(pid):
            mine -= {pid, *proc.descendants(table, pid)}
    return {each for pid in mine if (each := proc.identify(pid))}


def send(process: proc.Identity, number: int) -> None:
    """Send a signal to this very process, if that is allowed."""
    if (pidfd := proc.open_process(process)) is not None:
        with contextlib.suppress(PermissionError):
            proc.send_signal(pidfd, number)
        os.close(pidfd)


def end_all(grace: float, foreign: set[int]) -> None:
    """TERM to all that is left, KILL after `grace` seconds; to what was started meanwhile too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # see it through
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, KILL_SECONDS)):
        deadline, told = time.monotonic() + seconds, set[proc.Identity]()
        while (left := left_behind(foreign)) and time.monotonic() < deadline:
            for each in left - told:
                send(each, number)
            told |= left
            time.sleep(files.LOCK_POLL_SECONDS)


def open_log(path: Path) -> int:
    """The job's log, with a line on top of this run; stderr when it cannot be written."""
    try:
        files.append_line(path, f"--- {units.local_time(time.time())}")
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        cli.warn(f"{path}: {error.strerror}; the output of the job follows")
        return 2


def run_alone(
    options: argparse.Namespace, command: Sequence[str], settings: config.Config
) -> tuple[Run, str, str]:
    """One run, why it is no success if so, its last output. Unwritable state stops nothing."""
    name, lock = options.name, settings.state / "lock" / f"job-{options.name}.lock"
    path = settings.state / "log" / f"job-{name}.log"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(lock, options.wait, "the run before"))
        except OSError as error:
            cli.warn(f"{lock}: {error.strerror}; this run goes without it")
        if old := survivor(lock):
            raise OperatorError(f"busy: pid {old.pid} of the run before lives", Exit.BUSY)
        time.sleep(options.splay * zlib.crc32(f"{os.uname().nodename} {name}".encode()) / 2**32)
        log, foreign = open_log(path), sessions()
        began, started, clock, ended = os.fstat(log).st_size, time.time(), time.monotonic(), False
        try:
            pid = start(command, log, lock)
            ended = wait_for_end(pid, options.timeout, log, settings.jobs.log_max)
        finally:  # the time limit, or a signal to the wrapper: the job goes with it
            if not ended:
                end_all(options.grace, foreign)
        _, status, usage = os.wait4(pid, 0 if ended else os.WNOHANG)
        if ended or not left_behind(foreign):
            name_session(lock, None)
    code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - clock
    code = TIMED_OUT if not ended else 128 - code if code < 0 else code
    own = path if log == 2 else os.dup(log)  # it may be rotated: the path may name another
    how = f"exit status {code}" if ended else "stopped at its time limit"
    why = f"{how} after {units.format_duration(seconds)}" if code else ""
    tail = "\n".join(map(text.printable, files.tail(own, 20, 3000, began))) if code else ""
    return (started, code, seconds, usage.ru_maxrss << 10), why, tail


def run_or_excuse(
    options: argparse.Namespace, command: Sequence[str], settings: config.Config
) -> tuple[Run | None, str, str]:
    """What `run_alone` gives; as much of it as there is for a run that was skipped or stopped."""
    began, clock = time.time(), time.monotonic()
    try:
        return run_alone(options, command, settings)
    except OperatorError as error:  # busy: nothing else is raised
        return None, f"skipped: {error}", ""
    except (KeyboardInterrupt, SystemExit) as stop:  # the job was ended by it too
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        run = (began, 128 + number, time.monotonic() - clock, 0)
        return run, f"stopped with {number.name}", ""


def fits(record: dict[str, Any]) -> bool:
    """Whether `record` is one that `conclude` wrote."""
    head = [record.get("last_success"), record.get("failures"), 0.0, record.get("skipped")]
    runs = record.get("runs")
    return isinstance(runs, list) and all(map(is_run, [head, *runs]))


def is_run(row: Any) -> bool:
    """Whether `row` is a `Run`, its times such as can be shown."""
    if not isinstance(row, list) or [*map(type, row)] != [float, int, float, int]:
        return False
    return all(0 <= each < 1e11 for each in row[:3]) and 0 <= row[3] < 1 << 60


def read(settings: config.Config, name: str) -> dict[str, Any]:
    """The record of a job: its last runs, and how many failed or were skipped in a row."""
    with contextlib.suppress(OSError):
        if found := files.read_state(settings.state / "jobs" / f"{name}.json", fits):
            return found
    return {"last_success": 0.0, "failures": 0, "skipped": 0, "runs": []}


def conclude(
    settings: config.Config, options: argparse.Namespace, run: Run | None, why: str, tail: str
) -> None:
    """Tell and record `run`; told first, so that whatever kills us in between loses no alert."""
    name, job = options.name, read(settings, options.name)
    broken = job["failures"] or job["skipped"]
    if run is None:
        job["skipped"] += 1
    else:
        job |= {"skipped": 0, "failures": job["failures"] + 1 if why else 0}
        job["last_success"] = job["last_success"] if why else run[0] + run[2]
        job["runs"] = [*job["runs"], run][-RUNS_KEPT:]
    if why:
        cli.log(settings, f"{name}: {why}")
    if why or broken:
        from upkeep.alerts import Alerts

        with Alerts(settings) as alerts:
            if not why:
                alerts.recovered(f"job:{name}", f"Job {name} works again")
            elif job["failures"] >= options.alert_after or job["skipped"] >= SKIPS_BEFORE_ALERT:
                alerts.problem(f"job:{name}", f"Job {name}: {why}", tail)
    try:
        files.write_state(settings.state / "jobs" / f"{name}.json", job)
        if settings.prometheus:
            last = {("job", name): job["last_success"]}
            figures = {"upkeep_job_last_success_timestamp_seconds": last}
            metrics.write(settings.prometheus / f"upkeep_job_{name}.prom", figures)
    except OSError as error:
        cli.warn(f"{name}: not recorded: {error}")
    if why:
        cli.print_error(f"job {name}: {why}\n{tail}".strip())


def show(settings: config.Config, as_json: bool, now: float) -> int:
    """Print the table of all jobs, with the figures of the last run; 1 when one fails."""
    from upkeep import schedule

    plans, rows, lines = list(schedule.installed()), [], []
    recorded = {path.stem for path in (settings.state / "jobs").glob("*.json")}
    for name in sorted(recorded | {plan[0] for plan in plans}):
        running = survivor(settings.state / "lock" / f"job-{name}.lock") is not None
        job = {"job": name, "running": running, **read(settings, name)}
        began, _, took, peak = job["runs"][-1] if job["runs"] else (0.0, 0, 0.0, 0)
        coming, missed = schedule.outlook(plans, name, now if running else began + took, now)
        rows.append(job | {"next_run": coming, "missed": missed})
        ended = units.local_time(job["last_success"]) if job["last_success"] else "never"
        cost = (units.format_duration(took), units.format_size(peak))
        counts = (str(job["failures"]), str(job["skipped"]), str(missed))
        lines.append((name, ended, *cost, *counts, units.local_time(coming) if coming else "-"))
    cli.print_json({"jobs": rows}) if as_json else print("\n".join(text.table(HEAD, lines)))
    bad = (job["missed"] or (job["failures"] and not job["running"]) for job in rows)
    return Exit.PROBLEM if any(bad) else Exit.DONE


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command behind ``--``, or show the table."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    options, command = parser().parse_args(words[:split]), words[split + 1 :]
    settings = config.load(options.config)
    if options.status:
        return show(settings, options.json, time.time())
    named = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", options.name or "")
    if not named or not command or options.alert_after < 1:
        raise OperatorError("expected NAME [OPTION ...] -- COMMAND ...; see --help", Exit.USAGE)
    if options.dry_run:  # a script of the suite prints its own plan
        if any(Path(word).resolve().parent == CHECKOUT / "bin" for word in command[:2]):
            os.execvpe(command[0], command, {**os.environ, "UPKEEP_DRY_RUN": "1"})
        print("would run:", text.printable(" ".join(command)))
        return Exit.DONE
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become ours
    run, why, tail = run_or_excuse(options, command, settings)
    conclude(settings, options, run, why, tail)
    if options.ping_url and run:
        from urllib.request import urlopen

        with contextlib.suppress(Exception):  # whatever happens, the job is over
            urlopen(f"{options.ping_url}/fail" if why else options.ping_url, timeout=10).close()
    return run[1] if run else Exit.BUSY


if __name__ == "__main__":
    raise SystemExit(main())
