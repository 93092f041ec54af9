"""Whether a freshly started program does its work: a port, a log line, a file or a command.

A port counts only when the program's own processes listen on it (the socket's inode in
/proc/net/tcp is among their descriptors, proc(5)), never when an old copy or a stranger does.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from upkeep import files, proc, units
from upkeep.launch import Waiting
from upkeep.settings import Ready
from upkeep.task import Task

_POLL_SECONDS = 0.05
_LISTEN = "0A"
_MOST_LOG = 1 << 20


def failure(task: Task, started: Waiting) -> str | None:
    """Wait until the started program is proven to work; why it is not, or None."""
    settings, began = task.settings, time.monotonic()
    if not started.lives(settings.verify) and not _went_on(task):
        return f"it ended within {units.format_duration(time.monotonic() - began)}"
    if settings.ready is None:
        return None
    while (missing := unmet(task, settings.ready)) is not None:
        if time.monotonic() - began > settings.ready.timeout:
            return f"{missing} after {units.format_duration(settings.ready.timeout)}"
        if not started.lives(_POLL_SECONDS) and task.running() is None:
            return f"it ended after {units.format_duration(time.monotonic() - began)}"
    return None


def _went_on(task: Task) -> bool:
    """Whether a program that ended with status 0 goes on in the background (may take a moment)."""
    limit = time.monotonic() + max(1.0, task.settings.verify)
    while task.ended_well():
        if task.running() is not None:
            return True
        if time.monotonic() > limit:
            break
        time.sleep(_POLL_SECONDS)
    return False


def unmet(task: Task, ready: Ready) -> str | None:
    """What is still missing; None when the program is ready."""
    if ready.tcp:
        pids = [stat.pid for stat in task.family().members()]
        if not listens(*ready.tcp, pids):
            return f"none of its processes listens on {ready.tcp[0]}:{ready.tcp[1]}"
    if ready.log and not _logged(task, ready.log):
        return f'its log has no line that matches "{ready.log}"'
    if ready.file and not _written(task, ready.file):
        return f"{ready.file} was not written"
    return _command_fails(ready.command, ready.timeout) if ready.command else None


def listens(host: str, port: int, pids: Iterable[int]) -> bool:
    """Whether one of `pids` listens on `port` at `host` or at all addresses."""
    wanted = {f"socket:[{inode}]" for inode in _listening(host, port)}
    return bool(wanted) and any(wanted & _links(pid) for pid in pids)


def _listening(host: str, port: int) -> Iterable[str]:
    for table in ("tcp", "tcp6"):
        for line in proc.read_file(f"/proc/net/{table}").decode("ascii").splitlines()[1:]:
            fields = line.split()
            address, _, number = fields[1].rpartition(":")
            any_or_same = not int(address, 16) or address.endswith(_hex(host))
            if fields[3] == _LISTEN and int(number, 16) == port and any_or_same:
                yield fields[9]


def _hex(host: str) -> str:
    """`host` as /proc/net/tcp writes it: 32-bit words in the machine's own byte order."""
    import socket
    import sys

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host)
    words = (packed[i : i + 4] for i in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


def _links(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(fd.path))
    return found


def _logged(task: Task, pattern: str) -> bool:
    lines = files.tail(task.settings.log, 10_000, _MOST_LOG, task.record.log_start)
    return any(re.search(pattern, line) for line in lines)


def _written(task: Task, path: Path) -> bool:
    """Whether `path` was written since the start (a second is allowed for coarse clocks)."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime >= task.record.started_at - 1
    return False


def _command_fails(command: tuple[str, ...], seconds: float) -> str | None:
    """Why the check `command` does not say yes; it is ended, with its group, after `seconds`."""
    import subprocess

    try:
        check = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return f"{command[0]} cannot be run: {error.strerror}"
    try:
        status = check.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(check.pid, signal.SIGKILL)  # not reaped yet: the group is surely our own
        check.wait()
        return f"{command[0]} gave no answer"
    return f"{command[0]} said {status}" if status else None
