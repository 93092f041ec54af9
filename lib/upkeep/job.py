"""One run of a command: never two at once, with a time limit, its output in a log of its own.

The lock names the session of the command. A wrapper that is killed frees its flock, but the next
one finds the session alive; a daemon that opened a session of its own holds nothing.
"""

import contextlib
import json
import os
import signal
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from upkeep import cli, files, pidfd, proc, text, units
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError

TIMED_OUT = 124
KILL_SECONDS = 5.0  # after KILL: the kernel may be slow to end a process
LOOK_SECONDS = 0.2  # between two looks at the log, or at the run before
NEWEST_BYTES = 1 << 20  # what is kept of a log that grew too large
SESSION_BYTES = 128  # written whole and in place, which works on a full disk too
# A shell waits at its stdin for a line, and ends when the wrapper does without having sent it.
GATE = 'unset UPKEEP_TASK; read -r go && exec "$@" </dev/null'


class Job(NamedTuple):
    """What to run, and how; durations in seconds."""

    name: str
    command: Sequence[str]
    timeout: float
    grace: float
    wait: float
    splay: float


class Run(NamedTuple):
    """When it began (Unix seconds), how it ended (as a shell says it), what it took."""

    time: float
    exit_status: int
    duration_seconds: float
    peak_rss_bytes: int


class Outcome(NamedTuple):
    """A run, None if it was skipped; why it is no success, if so; the end of its output then."""

    run: Run | None
    why: str = ""
    tail: str = ""


def lock_file(settings: Config, name: str) -> Path:
    """The lock of job `name`."""
    return settings.state / "lock" / f"job-{name}.lock"


def run(job: Job, settings: Config) -> Outcome:
    """Run `job`, unless another run of it goes on. A state that cannot be written stops nothing."""
    began, clock = time.time(), time.monotonic()
    try:
        return _run_alone(job, settings)
    except OperatorError as error:  # busy: nothing else is raised
        return Outcome(None, f"skipped: {error}")
    except (KeyboardInterrupt, SystemExit) as stop:  # which has ended the job too
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        seconds = time.monotonic() - clock
        return Outcome(Run(began, 128 + number, seconds, 0), f"stopped with {number.name}")


def delay(job: Job) -> float:
    """Seconds to start later by: always the same for one host and one name, less than `splay`."""
    return job.splay * zlib.crc32(f"{os.uname().nodename} {job.name}".encode()) / 2**32


def _run_alone(job: Job, settings: Config) -> Outcome:
    lock, deadline = lock_file(settings, job.name), time.monotonic() + job.wait
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(lock, job.wait, "the run before"))
        except OSError as error:
            cli.warn(f"{lock}: {error.strerror}; this run goes without it")
        while other := survivor(lock):
            if time.monotonic() >= deadline:
                raise OperatorError(f"busy: pid {other.pid} of the run before lives", Exit.BUSY)
            time.sleep(LOOK_SECONDS)
        time.sleep(delay(job))
        return _execute(job, settings, lock)


def _execute(job: Job, settings: Config, lock: Path) -> Outcome:
    log = _open_log(settings.state / "log" / f"job-{job.name}.log")
    offset, began, clock = os.fstat(log).st_size, time.time(), time.monotonic()
    leader, ended = None, False
    try:
        leader, gate = _prepare(job.command, log, lock)
        with contextlib.suppress(BrokenPipeError):  # killed already: its status tells
            os.write(gate, b"go\n")
        os.close(gate)
        ended = _wait_for_end(leader.pid, job.timeout, log, settings.jobs.log_max)
    finally:  # the time limit, or a signal to the wrapper: the job goes with it
        if leader and not ended:
            _end_all(job.grace, leader)
    _, status, usage = os.wait4(leader.pid, 0 if ended else os.WNOHANG)
    if ended or not _left_behind(leader):
        _name_session(lock, None)
    code, how = TIMED_OUT, "stopped at its time limit"
    if ended:
        code = os.waitstatus_to_exitcode(status)
        code = 128 - code if code < 0 else code
        how = f"exit status {code}"
    done = Run(began, code, time.monotonic() - clock, usage.ru_maxrss << 10)
    if not code:
        return Outcome(done)
    lines = [] if log == 2 else files.tail(log, 20, 3000, offset)  # what went to 2 was seen
    tail = "\n".join(map(text.printable, lines))
    return Outcome(done, f"{how} after {units.format_duration(done.duration_seconds)}", tail)


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


def _name_session(lock: Path, leader: proc.Identity | None) -> None:
    with contextlib.suppress(OSError), open(lock, "r+b") as file:
        content = json.dumps(leader) if leader else ""
        file.write(content.ljust(SESSION_BYTES).encode())


def _open_log(path: Path) -> int:
    """The job's log, with a line on top of this run; stderr when it cannot be written."""
    try:
        files.append_line(path, f"--- {units.local_time(time.time())}")
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        cli.warn(f"{path}: {error.strerror}; the output of the job follows")
        return 2


def _prepare(command: Sequence[str], log: int, lock: Path) -> tuple[proc.Stat, int]:
    """A process in a session of its own that `lock` names; a line into the pipe starts `command`.

    A wrapper that ends before it wrote that line leaves nothing behind.
    """
    opened, gate = os.pipe()
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", GATE, "sh", *command],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, opened, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
    )
    os.close(opened)
    leader = proc.read_stat(pid)
    assert leader  # a child stays to be seen until it is waited for
    _name_session(lock, proc.Identity(proc.boot_id(), pid, leader.start_ticks))
    return leader, gate


def _wait_for_end(pid: int, seconds: float, log: int, log_max: int) -> bool:
    """Whether `pid` ends within `seconds`; its log is kept in bounds meanwhile."""
    leader, deadline = os.pidfd_open(pid), time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not pidfd.wait_for_exit([leader], min(left, LOOK_SECONDS)):
            _shorten(log, log_max)
            return True
        _shorten(log, log_max)
    return False


def _shorten(log: int, log_max: int) -> None:
    """Cut a log that grew beyond `log_max` bytes to its newest part; the job may go on writing."""
    size = os.fstat(log).st_size
    if log != 2 and size > log_max:
        newest = os.pread(log, NEWEST_BYTES, size - min(log_max // 2, NEWEST_BYTES))
        os.ftruncate(log, 0)
        os.write(log, newest)


def _left_behind(leader: proc.Stat) -> set[proc.Identity]:
    """All that came from the job, whose first process is `leader`; no daemons of restart.py.

    What is older was left to the wrapper by whoever called exec, and is not the job's.
    """
    table = proc.scan()
    mine = set(proc.descendants(table, os.getpid()))
    for pid in tuple(mine):
        started = "UPKEEP_TASK" in proc.environment(pid)
        started |= "upkeep-recorder" in proc.command_line(pid)
        if started or table[pid].start_ticks < leader.start_ticks:
            mine -= {pid, *proc.descendants(table, pid)}
    return {each for pid in mine if (each := proc.identify(pid))}


def _end_all(grace: float, leader: proc.Stat) -> None:
    """TERM to all that is left, KILL after `grace` seconds; to what was started meanwhile too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # see it through
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, KILL_SECONDS)):
        deadline, told = time.monotonic() + seconds, set[proc.Identity]()
        while (left := _left_behind(leader)) and time.monotonic() < deadline:
            for each in left - told:
                _send(each, number)
            told |= left
            time.sleep(files.LOCK_POLL_SECONDS)


def _send(process: proc.Identity, number: int) -> None:
    """Send a signal to this very process, if that is allowed."""
    if (fd := pidfd.open_process(process)) is not None:
        with contextlib.suppress(PermissionError):
            pidfd.send_signal(fd, number)
        os.close(fd)
