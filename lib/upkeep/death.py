"""Why a program died, as far as it can be known afterwards."""

import os
import re
import signal

from upkeep import launch, proc
from upkeep.task import Task

_REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_KMSG_BYTES = 8192  # the longest record that /dev/kmsg gives out


def cause(task: Task) -> str:
    """How the recorded copy ended, and who ended it if that can be told."""
    known = task.record
    status, _ended = task.how_it_ended()
    if known.boot_id != proc.boot_id():
        return "the host was rebooted"
    if known.stopping or status == launch.UNSTARTED:
        return f"a restart was interrupted ({known.stopping or 'before the start'})"
    if status is None:
        return f"its exit status is unknown; {_who_killed(known.pid, known.oom_kills)}"
    if int(status) - 128 not in set(signal.Signals):
        return f"exit status {status}"
    number = signal.Signals(int(status) - 128)
    shown = f"{status} ({number.name.removeprefix('SIG')})"
    if number == signal.SIGKILL:
        return f"{shown}; {_who_killed(known.pid, known.oom_kills)}"
    return f"{shown}; sent by somebody, not by upkeep" if number in _REQUESTS else shown


def _who_killed(pid: int, kills_before: int) -> str:
    lines = kernel_log() if oom_kills() > kills_before else []
    if lines is None:
        return (
            "likely by the kernel, which killed somebody for want of memory (OOM) since its start"
        )
    if any(re.search(rf"[Kk]illed process {pid} ", line) for _when, line in lines):
        return "the kernel killed it because memory ran out (OOM)"
    return "not by the kernel for want of memory (OOM)"


def kernel_log() -> list[tuple[float, str]] | None:
    """(seconds since boot, line) of the kernel's log; None when it may not be read."""
    lines: list[tuple[float, str]] = []
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    while True:
        try:
            head, _, line = os.read(log, _KMSG_BYTES).decode("utf-8", "replace").partition(";")
            lines.append((int(head.split(",")[2]) / 1e6, line))
        except BrokenPipeError:  # overwritten while we read: the next one is there
            continue
        except OSError:
            os.close(log)
            return lines


def oom_kills() -> int:
    """The kernel's count of OOM kills since boot (proc(5), vmstat)."""
    for line in proc.read_file("/proc/vmstat").splitlines():
        if line.startswith(b"oom_kill "):
            return int(line.split()[1])
    return 0
