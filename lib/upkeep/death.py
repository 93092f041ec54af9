"""Why a program died, as far as it can be known afterwards."""

import contextlib
import errno
import os
import re
import signal
import time

from upkeep import launch, proc
from upkeep.task import Task

_KMSG_BYTES = 8192  # the longest record that /dev/kmsg gives out


def cause(task: Task) -> str:
    """How the recorded copy ended: its exit status or signal, who sent it if that can be told."""
    known = task.record
    if known.boot_id != proc.boot_id():
        return "the host was rebooted"
    if known.stopping:
        return f"stopped for a restart that was interrupted ({known.stopping})"
    status = launch.exit_status(task.config, task.name, known.nonce)
    if status == "unstarted":
        return "its start was interrupted"
    shown = "its exit status is unknown" if status is None else describe(int(status))
    if status in (None, 128 + signal.SIGKILL):
        return f"{shown}; {_who_killed(task)}"
    return shown


def interrupted(task: Task) -> bool:
    """Whether it ended because a restart or a start of ours was killed half-way."""
    unstarted = launch.exit_status(task.config, task.name, task.record.nonce) == "unstarted"
    return bool(task.record.stopping) or unstarted


def describe(status: int) -> str:
    """An exit status for people: "exit status 3", "137 (KILL)"."""
    if status <= 128 or status - 128 not in set(signal.Signals):
        return f"exit status {status}"
    return f"{status} ({signal.Signals(status - 128).name.removeprefix('SIG')})"


def died_at(task: Task) -> float | None:
    """When it ended (Unix seconds), by the recorder's file; None when that is unknown."""
    if launch.exit_status(task.config, task.name, task.record.nonce) is None:
        return None
    with contextlib.suppress(OSError):
        return launch.record_of_end(task.config, task.name).stat().st_mtime
    return None


def _who_killed(task: Task) -> str:
    lines = kernel_log()
    if lines is not None:
        needle = re.compile(rf"[Kk]illed process {task.record.pid} ")
        since = task.record.started_uptime - 1
        if any(when >= since and needle.search(line) for when, line in lines):
            return "the kernel killed it because memory ran out (OOM)"
        return "not the kernel's OOM killer: somebody's kill"
    kills = oom_kills() - task.record.oom_kills
    if kills > 0:
        return f"the kernel's OOM killer struck {kills} times since its start: probably it"
    return "no OOM kill was counted since its start"


def kernel_log() -> list[tuple[float, str]] | None:
    """(seconds since boot, line) of the kernel's log; None when it may not be read."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    lines: list[tuple[float, str]] = []
    with contextlib.closing(os.fdopen(fd, "rb", buffering=0)) as log:
        while True:
            try:
                record = os.read(log.fileno(), _KMSG_BYTES).decode("utf-8", "replace")
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten while we read: the next is there
                    continue
                return lines
            head, _, line = record.partition(";")
            lines.append((int(head.split(",")[2]) / 1e6, line))


def oom_kills() -> int:
    """The kernel's count of OOM kills since boot (proc(5), vmstat)."""
    for line in proc.read_file("/proc/vmstat").splitlines():
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0


def outage(task: Task) -> float | None:
    """Seconds since it ended, if that is known."""
    ended = died_at(task)
    return None if ended is None else max(0.0, time.time() - ended)
