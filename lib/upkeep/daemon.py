"""For your own long-running program: end well, sleep well, show that you live.

    with daemon.GracefulShutdown(save_positions) as shutdown:
        while not shutdown.requested:
            trade()
            daemon.heartbeat("/srv/trader/heartbeat")
            shutdown.sleep(60)

SIGKILL cannot be caught: save now and then in the loop too.
"""

import contextlib
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from upkeep import metrics
from upkeep.breaker import Breaker

__all__ = ["Breaker", "GracefulShutdown", "heartbeat", "metrics"]


class GracefulShutdown:
    """A block that SIGTERM, SIGINT and SIGHUP ask to end, and that saves once when it is left.

    The callbacks run in order when the block is left, by whatever way: each exactly once, all of
    them even when one raises, undisturbed by further signals, never in a forked child. An ignored
    SIGHUP (nohup) stays so. Enter it in the main thread, else ValueError is raised.
    """

    def __init__(self, *callbacks: Callable[[], object]) -> None:
        self.callbacks = callbacks
        self.requested = False
        self._old: dict[int, Any] = {}

    def sleep(self, seconds: float) -> bool:
        """Sleep, in any thread; only a shutdown ends it early. Returns whether one is asked."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.poll(min(max(0.0, seconds), 2e6) * 1000)  # goes on over other signals (PEP 475)
        return self.requested

    def __enter__(self) -> "GracefulShutdown":
        self._pid = os.getpid()
        # No threading.Event: set() in a handler may wait for a lock of the wait() it interrupted.
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._old[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, _frame: object) -> None:
        if os.getpid() == self._pid:
            self.requested = True
            os.eventfd_write(self._wake, 1)
        else:  # a forked worker dies of it, as without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __exit__(self, *_error: object) -> None:
        if os.getpid() == self._pid:
            with contextlib.ExitStack() as last_first:
                for number, handler in self._old.items():
                    last_first.callback(signal.signal, number, handler)
                for callback in reversed(self.callbacks):
                    last_first.callback(callback)


def heartbeat(path: str | Path) -> None:
    """Move the mtime of `path`, for the watchdog's `heartbeat_max_age`. Raises OSError."""
    Path(path).touch()
