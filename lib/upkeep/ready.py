"""Whether a freshly started program does its work: a port, a log line, a file or a command.

A port counts only when the program's own processes listen on it, never when an old copy or a
stranger does.
"""

import contextlib
import re
import time

from upkeep import files, launch, units
from upkeep.launch import Waiting
from upkeep.settings import Ready
from upkeep.task import Task

_POLL_SECONDS = 0.05
_DAEMON_SECONDS = 1.0  # from the end of a daemon's first process to the PID file of its second
_MOST_LOG = 1 << 20


def failure(task: Task, started: Waiting) -> str | None:
    """Wait until the started program is proven to work; why it is not, or None."""
    wanted, began = task.settings.ready, time.monotonic()
    if not started.lives(task.settings.verify) and not _goes_on(task):
        return f"it ended within {units.format_duration(time.monotonic() - began)}"
    while wanted and (missing := unmet(task, wanted)):
        spent = units.format_duration(time.monotonic() - began)
        if time.monotonic() - began > wanted.timeout:
            return f"{missing} after {spent}"
        if not started.lives(_POLL_SECONDS) and not _goes_on(task):
            return f"it ended after {spent}"
    return None


def _goes_on(task: Task) -> bool:
    """Whether a program whose first process ended with status 0 goes on in the background."""
    limit = time.monotonic() + _DAEMON_SECONDS
    while task.running() is None:
        if not task.ended_well() or time.monotonic() > limit:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def unmet(task: Task, ready: Ready) -> str | None:
    """What is still missing; None when the program is ready."""
    members = task.family().members() if ready.tcp else []
    if ready.tcp and not any(_listens(stat.pid, *ready.tcp) for stat in members):
        return f"none of its processes listens on {ready.tcp[0]}:{ready.tcp[1]}"
    lines = files.tail(task.settings.log, 10_000, _MOST_LOG, task.record.log_start)
    if ready.log and not any(re.search(ready.log, line) for line in lines):
        return f'its log has no line that matches "{ready.log}"'
    if ready.file and _written(ready) == task.record.file_before:
        return f"{ready.file} was not written"
    return _command_fails(task, ready) if ready.command else None


def forget_the_past(task: Task) -> None:
    """Let nothing that was written until now, by the old copy, prove the new one."""
    with contextlib.suppress(OSError):
        task.record.log_start = task.settings.log.stat().st_size
        task.record.file_before = _written(task.settings.ready)


def _written(ready: Ready | None) -> int:
    """When its file was written, in nanoseconds; 0 when there is none."""
    path = ready and ready.file
    return path.stat().st_mtime_ns if path and path.exists() else 0


def _listens(pid: int, host: str, port: int) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        sockets = getattr(process, "net_connections", None) or process.connections
        places = [each.laddr for each in sockets("tcp") if each.status == psutil.CONN_LISTEN]
        hosts = (host, f"::ffff:{host}", "0.0.0.0", "::")
        return any(ip in hosts and at == port for ip, at in places)
    return False


def _command_fails(task: Task, ready: Ready) -> str | None:
    """Why the check does not say yes; it has the task's rights, and timeout(1) ends its group."""
    import subprocess

    null, (account, group) = subprocess.DEVNULL, launch.user_of(task.settings)
    done = subprocess.run(
        ["/usr/bin/timeout", "--signal=KILL", f"{ready.timeout:f}", *ready.command],
        stdin=null,
        stdout=null,
        stderr=null,
        env=launch.environment(task.config, task.settings),
        cwd=task.settings.cwd,
        preexec_fn=lambda: launch.become(account, group),
        check=False,
    )
    return f"{ready.command[0]} said {done.returncode}" if done.returncode else None
