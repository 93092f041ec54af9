"""For your own long-running program: end well, sleep well, show that you live.

    with daemon.GracefulShutdown(save_positions) as shutdown:
        while not shutdown.requested:
            trade()
            daemon.heartbeat("/srv/trader/heartbeat")
            shutdown.sleep(60)

SIGKILL cannot be caught: save now and then in the loop too. docs/daemon.md has a whole program.
"""

import contextlib
import functools
import gc
import os
import select
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from upkeep import files, memory, metrics, proc
from upkeep.breaker import Breaker

__all__ = ["GracefulShutdown", "HealthCheck", "breaker", "heartbeat", "metrics", "retry"]

Function = TypeVar("Function", bound=Callable[..., Any])


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
        weakref.finalize(self, os.close, self._wake)  # when no thread can sleep on it any more
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


@contextlib.contextmanager
def breaker(path: Path) -> Iterator[Breaker]:
    """The breaker in `path` as all processes see it now, and nobody else while the block lasts.

    Raises OperatorError when it stays busy for 10 s, OSError.
    """
    with files.lock(path.with_name(f"{path.name}.lock"), 10.0):
        yield Breaker(path)


def heartbeat(path: str | Path) -> None:
    """Move the mtime of `path`, for the watchdog's `heartbeat_max_age`. Raises OSError."""
    Path(path).touch()


@dataclass
class HealthCheck:
    """Looks after the program's own memory, and saves now and then; call `check` in the loop."""

    limit: float = 0.80
    on_high: Callable[[float], object] = lambda share: None
    save: Callable[[], object] = lambda: None
    save_every: float = 300.0
    _saved: float = field(default_factory=time.monotonic)
    _acted: float = float("-inf")

    def check(self) -> float:
        """Returns the program's share of the host's or control group's memory, 0.0 to 1.0.

        Over `limit` it collects garbage and calls `on_high(share)`, once a minute at most. Every
        `save_every` seconds it calls `save()`. What a callback raises passes through.
        """
        now, stat = time.monotonic(), proc.read_stat(os.getpid())
        share = (stat.rss_bytes if stat else 0) / float(memory.read_host()["limit_bytes"])
        if share > self.limit and now - self._acted >= 60:
            self._acted = now
            gc.collect()
            self.on_high(share)
        if now - self._saved >= self.save_every:
            self.save()
            self._saved = now
        return share


def retry(
    tries: int = 3,
    delay: float = 1.0,
    backoff: float = 2.0,
    exceptions: tuple[type[Exception], ...] = (Exception,),
    sleep: Callable[[float], object] = time.sleep,
) -> Callable[[Function], Function]:
    """A decorator: `tries` calls in all while one of `exceptions` is raised, then the last passes.

    Pauses of `delay` seconds, times `backoff` after each; a `shutdown.sleep` ends the trying.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for failures in range(tries - 1):
                try:
                    return function(*args, **kwargs)
                except exceptions:
                    if sleep(delay * backoff**failures):
                        raise
            return function(*args, **kwargs)

        return cast(Function, call)

    return decorate
