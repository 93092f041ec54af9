"""Imported by every Python that has this directory on PYTHONPATH: counts its collections.

Needs Python 3.10; an older one prints one line of "Error in sitecustomize" and goes on.
The file has the counts as they lie in memory, then what `about` says. It is opened each time: the
program could close a descriptor that is kept, and its number come to mean a file of its own.
"""

import atexit
import gc
import os
import sys
import time
from collections.abc import Callable

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO is not waited for
MAGIC = "upkeep-gc"
ROW = 1024  # counts of one generation: the totals, and behind them the steps of a histogram
FIRST_STEP = 96
TOTALS = ("collections", "collected", "wall_ns", "cpu_ns", "max_ns")
SIZE = 8 * (3 * ROW + 1)  # bytes: three generations, and for how many ns it ran


def pause_ns(step: int, part: float) -> float:
    """The pause at a part, 0.0 to 1.0, of a step: every doubling has sixteen, 3 to 6 % wide."""
    return float((16 + step % 16 + part) * 2 ** (step // 16 - 5))


def observer(
    counts: memoryview, write: Callable[[int], None]
) -> tuple[Callable[..., None], Callable[[], None]]:
    """The callback of every collection (see gc.callbacks), and what adds its last to `counts`.

    After a collection the caches are cold: with attributes in place of these names, a program that
    makes garbage took 11 % more CPU time instead of 5 %. Only the next collection counts the last
    one, because behind it other callbacks may wait to read their clocks; not so for a full one.
    """
    wall_time, cpu_time, full = time.perf_counter_ns, time.thread_time_ns, 2 * ROW
    wall = cpu = took = spent = row = collected = due = 0

    def observe(phase: str, info: dict[str, int]) -> None:
        nonlocal wall, cpu, took, spent, row, collected, due
        if phase == "start":
            count()
            cpu, wall = cpu_time(), wall_time()
            return
        took = wall_time() - wall
        spent = cpu_time() - cpu
        row, collected = info["generation"] * ROW, info["collected"]
        if row == full:
            due = 0
            count()

    def count() -> None:
        nonlocal took, due
        if not took:
            return
        counts[row] += 1
        counts[row + 1] += collected
        counts[row + 2] += took
        counts[row + 3] += spent
        if took > counts[row + 4]:
            counts[row + 4] = took
        power = (took | 32).bit_length()
        counts[row + power * 16 + (took >> power - 5) % 16] += 1
        end, took = wall + took, 0
        if end > due:
            due = end + 20_000_000
            write(end)

    return observe, count


class Recorder:
    """Records into UPKEEP_GC_SAVE; a process other than UPKEEP_GC_PID adds its PID to the name.

    UPKEEP_GC_TRY sets thresholds ("10000,10,10"), or is "freeze": what survives the first full
    collection is never looked at again. UPKEEP_GC_END is a shell command for the regular end.
    """

    def __init__(self) -> None:
        setting = os.environ.get("UPKEEP_GC_TRY", "default")
        self.freeze = setting == "freeze"
        if setting[0].isdigit():
            gc.set_threshold(*map(int, setting.split(",")))
        self.counts = memoryview(bytearray(SIZE)).cast("q")
        self.begin()
        self.write(self.began)
        self.observe, self.count = observer(self.counts, self.write)
        gc.callbacks.append(self.observe)
        os.register_at_fork(before=self.count, after_in_child=self.begin)
        atexit.register(self.end)

    def begin(self) -> None:
        """Count from zero, for this process."""
        pid = str(os.getpid())
        self.main = pid == os.environ.get("UPKEEP_GC_PID")
        self.file = os.environ["UPKEEP_GC_SAVE"] + ("" if self.main else f".{pid}")
        words = (MAGIC, *sys.version_info[:3], *sys.orig_argv[1:])
        about = " ".join(map(str, words))[:200].encode("ascii", "backslashreplace")
        self.about = about.ljust(2048)  # of one length: it may replace a longer one
        self.counts[:] = memoryview(bytes(SIZE)).cast("q")
        self.began = time.perf_counter_ns()

    def write(self, now: int) -> None:
        """Bring the file up to date. The program never notices that it can't be."""
        self.counts[3 * ROW] = now - self.began
        try:
            fd = os.open(self.file, FLAGS, 0o600)
            os.pwritev(fd, (self.counts, self.about), 0)
            os.close(fd)
        except OSError:
            pass
        if self.freeze and self.counts[2 * ROW]:
            self.freeze = False
            gc.freeze()

    def end(self) -> None:
        """Write at the program's regular end, after its own atexit functions."""
        if self.observe in gc.callbacks:
            gc.callbacks.remove(self.observe)
        self.count()
        self.write(time.perf_counter_ns())
        command = os.environ.get("UPKEEP_GC_END")
        if self.main and command:
            os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", command], {}), 0)


if __name__ == "sitecustomize":
    if "UPKEEP_GC_SAVE" in os.environ:
        Recorder()
    sys.path.remove(os.path.dirname(__file__))
    del sys.modules[__name__]
    __import__("sitecustomize")  # the one this hides; none is an error that site.py expects
