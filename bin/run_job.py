#!/usr/bin/env python3
"""Run one cron job: never two at once, with a time limit, and an alert only when it fails.

usage: run_job.py NAME [OPTION ...] -- COMMAND [ARG ...], or run_job.py --status [--json]

    $ run_job.py backup --timeout 1h -- /root/backup.sh

Output goes to <state>/log/job-NAME.log, its end to stderr when the job fails. Exit codes: the
command's own (128+n: signal n), 124 time limit, 126 or 127 it could not be run, 4 the previous
run is still going, 2 usage.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli, config, files, jobs, proc, text, units
from upkeep.errors import Exit, OperatorError

EXAMPLES = """\
  run_job.py backup -- /root/backup.sh                   # did last night's backup work?
  run_job.py feed --timeout 5m --alert-after 3 -- fetch    # may fail twice before it is told
  run_job.py --status                                      # which jobs fail, hang or never ran?
"""
TIMED_OUT = 124
KILL_SECONDS = 5.0
SKIPS_BEFORE_ALERT = 5
PING_SECONDS = 10.0
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


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


@contextlib.contextmanager
def alone(lock: Path, wait: float) -> Iterator[None]:
    """Be the only run: hold `lock`, and nothing is left of a run whose wrapper was killed."""
    deadline = time.monotonic() + wait
    with files.lock(lock, wait, "another run"):
        while old := jobs.survivor(lock):
            if time.monotonic() >= deadline:
                age = units.format_duration(proc.age_seconds(old))
                raise OperatorError(f"busy: pid {old.pid} of a run {age} old lives", Exit.BUSY)
            time.sleep(files.LOCK_POLL_SECONDS)
        yield


def start(command: Sequence[str], output: int, lock: Path) -> int:
    """Start `command` in a session of its own, but not before `lock` records that session.

    A shell waits for the word; when the wrapper dies before it gives it, the shell ends.
    """
    gate, opener = os.pipe()
    environment = {name: os.environ[name] for name in os.environ if name != "UPKEEP_TASK"}
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *command],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, gate, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
    )
    os.close(gate)
    jobs.record_session(lock, proc.identify(pid))
    os.write(opener, b"go\n")
    os.close(opener)
    return pid


def wait_for_end(pid: int, seconds: float, log: int, log_max: int) -> bool:
    """Whether `pid` ends within `seconds`; its log is kept in bounds meanwhile."""
    pidfd, deadline = os.pidfd_open(pid), time.monotonic() + seconds
    while left := max(0.0, deadline - time.monotonic()):
        ended = not proc.wait_for_exit([pidfd], min(left, 1.0))
        jobs.trim(log, log_max)
        if ended:
            return True
    return False


def left_behind() -> set[proc.Identity]:
    """All that came from the job, in any session; daemons of restart.py and theirs excepted."""
    table = proc.scan()
    mine = set(proc.descendants(table, os.getpid()))
    for pid in tuple(mine):
        if "UPKEEP_TASK" in proc.environment(pid) or "upkeep-recorder" in proc.command_line(pid):
            mine -= {pid, *proc.descendants(table, pid)}
    return {each for pid in mine if (each := proc.identify(pid))}


def end_all(grace: float) -> None:
    """TERM to all that is left, KILL after `grace` seconds; to what was started meanwhile too."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, KILL_SECONDS)):
        deadline, told = time.monotonic() + seconds, set[proc.Identity]()
        while (left := left_behind()) and time.monotonic() < deadline:
            for each in left - told:
                if pidfd := proc.open_process(each):
                    with contextlib.suppress(PermissionError):
                        proc.send_signal(pidfd, number)
                    os.close(pidfd)
            told |= left
            time.sleep(files.LOCK_POLL_SECONDS)


def run_alone(
    options: argparse.Namespace, command: Sequence[str], settings: config.Config
) -> tuple[jobs.Run, str]:
    """What came of one run, and the end of its output. State that fails to be written is told."""
    name, lock = options.name, settings.state / "lock" / f"job-{options.name}.lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone(lock, options.wait))
        except OSError as error:
            cli.warn(f"{lock}: {error.strerror}; this run goes without it")
        time.sleep(options.splay * zlib.crc32(f"{os.uname().nodename} {name}".encode()) / 2**32)
        log = jobs.open_log(settings.state / "log" / f"job-{name}.log")
        begin, started, clock = os.fstat(log).st_size, time.time(), time.monotonic()
        try:
            pid = start(command, log, lock)
            ended = wait_for_end(pid, options.timeout, log, settings.jobs.log_max)
        except BaseException:  # a signal to the wrapper: the job goes with it
            end_all(options.grace)
            raise
        if not ended:
            end_all(options.grace)
        _, status, usage = os.wait4(pid, 0 if ended else os.WNOHANG)
        if ended or not left_behind():
            jobs.record_session(lock, None)
    code = os.waitstatus_to_exitcode(status)
    code = 128 - code if code < 0 else code
    run = {
        "time": round(started, 3),
        "outcome": "timeout" if not ended else "failed" if code else "done",
        "status": code if ended else TIMED_OUT,
        "duration_seconds": round(time.monotonic() - clock, 3),
        "peak_rss_bytes": usage.ru_maxrss << 10,
    }
    return run, jobs.tail(log, begin)


def reason(run: jobs.Run) -> str:
    """Why `run` is no success: "exit status 7 after 3 s"; "" when it is one."""
    after = units.format_duration(run.get("duration_seconds", 0))
    if run["outcome"] == "timeout":
        return f"stopped at its time limit, after {after}"
    if run["outcome"] == "skipped":
        return "skipped: the run before it is still going"
    if run["status"] > 128 and run["status"] - 128 in signal.valid_signals():
        return f"ended by {signal.Signals(run['status'] - 128).name} after {after}"
    return f"exit status {run['status']} after {after}" if run["status"] else ""


def tell(settings: config.Config, options: argparse.Namespace, run: jobs.Run, output: str) -> None:
    """One alert when the row of failures is long enough, one message when it is over.

    It comes before the record: whatever kills the wrapper in between, no alert is lost.
    """
    why, before = reason(run), jobs.read(settings, options.name)
    after = jobs.merged(before, run)
    key, title = f"job:{options.name}", f"Job {options.name}: {why or 'works again'}"
    if why:
        cli.log(settings, f"{options.name}: {why}")
        print(text.redact(f"{title}\n{output}".strip()), file=sys.stderr)
    elif not (before["failures"] or before["skipped"]):
        return
    from upkeep.alerts import Alerts

    with Alerts(settings) as alerts:
        if not why:
            alerts.recovered(key, title)
        elif after["failures"] >= options.alert_after or after["skipped"] >= SKIPS_BEFORE_ALERT:
            alerts.problem(key, title, output)


def ping(url: str, done: bool) -> None:
    """Tell a dead-man service how the run went; it not answering changes nothing."""
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        urlopen(url if done else f"{url}/fail", timeout=PING_SECONDS).close()
    except (OSError, ValueError, HTTPException) as error:
        cli.warn(f"--ping-url: {error}")


def dry_run(command: list[str]) -> int:
    """Print the command; a script of the suite is run instead, as it prints its own plan."""
    if Path(command[0]).resolve().parent == CHECKOUT / "bin":
        os.environ["UPKEEP_DRY_RUN"] = "1"
        os.execv(command[0], command)
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
        now = time.time()
        found = jobs.rows(settings, now)
        cli.print_json({"jobs": found}) if options.json else jobs.show(found, now)
        return Exit.DONE
    if not jobs.valid_name(options.name or "-") or not command or options.alert_after < 1:
        wanted = "NAME (letters, digits, '.', '_', '-'), options, then -- and the command"
        raise OperatorError(f"expected {wanted}", Exit.USAGE)
    if options.dry_run:
        return dry_run(command)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        run, output = run_alone(options, command, settings)
    except OperatorError as error:
        if error.code != Exit.BUSY:
            raise
        run, output = {"time": time.time(), "outcome": "skipped", "status": Exit.BUSY}, str(error)
    tell(settings, options, run, output)
    jobs.store(settings, options.name, run)
    if options.ping_url and run["outcome"] != "skipped":
        ping(options.ping_url, run["outcome"] == "done")
    return int(run["status"])


if __name__ == "__main__":
    raise SystemExit(main())
