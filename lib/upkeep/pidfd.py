"""Signals to this very process and no other, and its end noticed at once: through a pidfd.

See pidfd_open(2) and pidfd_send_signal(2).
"""

import os
import select
import signal
import time
from collections.abc import Iterable

from upkeep import proc


def open_process(identity: proc.Identity) -> int | None:
    """A pidfd that refers to this very process, or None when it has ended.

    The pidfd comes first and the identity is compared after it: from then on the descriptor can
    mean no other process, even when the PID is given out again. Close it with os.close.
    Raises PermissionError where pidfds are forbidden.
    """
    try:
        fd = os.pidfd_open(identity.pid)
    except (ProcessLookupError, ValueError):
        return None
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return None  # EINVAL: the number of a thread, not of a process
    if proc.is_alive(identity):
        return fd
    os.close(fd)
    return None


def send_signal(pidfd: int, number: int) -> bool:
    """Send a signal; False when the process has ended. Raises PermissionError."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def wait_for_exit(pidfds: Iterable[int], seconds: float) -> set[int]:
    """Those of `pidfds` whose processes still run after at most `seconds`."""
    running, deadline = set(pidfds), time.monotonic() + seconds
    while running:
        ended = wait_for_any_exit(running, max(0.0, deadline - time.monotonic()))
        if not ended:
            break
        running -= ended
    return running


def wait_for_any_exit(pidfds: Iterable[int], seconds: float) -> set[int]:
    """Those of `pidfds` whose processes have ended, as soon as one has or `seconds` are over.

    A pidfd becomes readable when its process ends, also while it stays a zombie that nobody
    reaps (pidfd_open(2)): there is no interval of polling.
    """
    poller = select.poll()
    for fd in pidfds:
        poller.register(fd, select.POLLIN)
    return {fd for fd, _event in poller.poll(seconds * 1000)}


def is_hidden(pid: int) -> bool:
    """Whether `pid` runs although /proc does not show it to this user (mount option hidepid)."""
    if proc.read_stat(pid) is not None:
        return False
    try:
        fd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return False
    try:
        return bool(wait_for_exit([fd], 0))
    finally:
        os.close(fd)
