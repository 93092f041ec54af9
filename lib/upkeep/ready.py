"""Whether a freshly started program does its work: a port, a log line, a file or a command.

A port counts only when the program's own processes listen on it, never when an old copy or a
stranger does.
"""

import contextlib
import os
import re
import sys
import time

from upkeep import files, proc, rights, text, units
from upkeep.launch import Waiting
from upkeep.settings import Ready
from upkeep.task import Task

_POLL_SECONDS = 0.05
_DAEMON_SECONDS = 1.0  # from the end of a daemon's first process to the PID file of its second
_MOST_LOG = 1 << 20
_LISTEN = "0A"  # TCP_LISTEN of <net/tcp_states.h>


def failure(task: Task, started: Waiting) -> str | None:
    """Wait until the started program is proven to work; why it is not, or None."""
    wanted, began = task.settings.ready, time.monotonic()
    if not started.lives(task.settings.verify) and not _goes_on(task):
        spent = units.format_duration(time.monotonic() - began)
        return f"it ended within {spent}{_port_taken(wanted)}"
    while wanted and (missing := unmet(task, wanted)):
        spent = units.format_duration(time.monotonic() - began)
        if time.monotonic() - began > wanted.timeout:
            return f"{missing} after {spent}"
        if not started.lives(_POLL_SECONDS) and not _goes_on(task):
            return f"it ended after {spent}{_port_taken(wanted)}"
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
    if ready.tcp and (missing := _port_missing(task, *ready.tcp)):
        return missing
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


def _port_missing(task: Task, host: str, port: int) -> str | None:
    """Why the port does not prove that the program works: who else has it, if anybody has."""
    sockets = _listening(task.record.pid, host, port)
    if any(_holds(stat.pid, sockets) for stat in task.family().members()):
        return None
    missing = f"none of its processes listens on {host}:{port}"
    return f"{missing}: {_holder(sockets)} has it" if sockets else missing


def _port_taken(ready: Ready | None) -> str:
    """Who has the port that a program which has ended would have needed; "" if nobody has."""
    sockets = _listening("self", *ready.tcp) if ready and ready.tcp else None
    return f" while {_holder(sockets)} had its port" if sockets else ""


def _holder(sockets: set[str]) -> str:
    for stat in proc.scan().values():
        if _holds(stat.pid, sockets):
            return f"pid {stat.pid} ({text.printable(stat.name)})"
    return "somebody else's process"


def _listening(pid: int | str, host: str, port: int) -> set[str]:
    """The sockets that listen there, as /proc/PID/fd names them (proc(5), /proc/net/tcp), in the
    network that `pid` sees; on all addresses counts, too."""
    hosts = ["::", host] if ":" in host else ["::", "0.0.0.0", host, f"::ffff:{host}"]
    wanted = {f"{_in_words(each)}:{port:04X}" for each in hosts}
    tables = (proc.read_file(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6"))
    rows = (line.split() for table in tables for line in table.decode("ascii").splitlines()[1:])
    return {f"socket:[{row[9]}]" for row in rows if row[1] in wanted and row[3] == _LISTEN}


def _in_words(host: str) -> str:
    """An address in the kernel's notation: words of four bytes in the machine's order."""
    import socket

    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _holds(pid: int, sockets: set[str]) -> bool:
    with contextlib.suppress(OSError):
        fds = os.listdir(f"/proc/{pid}/fd")
        return any(proc.link(pid, f"fd/{fd}") in sockets for fd in fds)
    return False


def _command_fails(task: Task, ready: Ready) -> str | None:
    """Why the check does not say yes; it has the task's rights, and timeout(1) ends its group."""
    import subprocess

    null, (account, group) = subprocess.DEVNULL, rights.user_of(task.settings)
    done = subprocess.run(
        ["/usr/bin/timeout", "--signal=KILL", f"{ready.timeout:f}", *ready.command],
        stdin=null,
        stdout=null,
        stderr=null,
        env=rights.environment(task.config, task.settings),
        cwd=task.settings.cwd,
        preexec_fn=lambda: rights.become(account, group),
        check=False,
    )
    return f"{ready.command[0]} said {done.returncode}" if done.returncode else None
