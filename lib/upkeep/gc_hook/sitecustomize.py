"""Imported by every Python that has this directory on PYTHONPATH: counts its collections.

Needs Python 3.10; an older one prints one line of "Error in sitecustomize" and goes on.
The file is a Python literal, padded and written in place. It is opened each time: the program
could close a descriptor that is kept, and its number come to mean a file of the program's own.
"""

import atexit
import gc
import math
import os
import sys
import time

STEPS = 16  # of the histogram for each doubling of the pause: half a step is 2 %


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
        self.begin()
        if self.main:
            self.write(self.began)
        gc.callbacks.append(self.observe)
        os.register_at_fork(after_in_child=self.begin)
        atexit.register(self.end)

    def begin(self) -> None:
        """Count from zero, for this process."""
        pid = str(os.getpid())
        self.main = pid == os.environ.get("UPKEEP_GC_PID")
        self.file = os.environ["UPKEEP_GC_SAVE"] + ("" if self.main else f".{pid}")
        self.began, self.written = time.perf_counter_ns(), 0
        names = ("collections", "collected", "wall_ns", "cpu_ns", "max_ns")
        self.totals = [dict.fromkeys(names, 0) for _ in range(3)]
        self.pauses: list[dict[int, int]] = [{}, {}, {}]

    def observe(self, phase: str, info: dict[str, int]) -> None:
        """The callback of every collection (see gc.callbacks)."""
        if phase == "start":
            self.cpu, self.wall = time.thread_time_ns(), time.perf_counter_ns()
            return
        now = time.perf_counter_ns()
        wall, cpu = now - self.wall, time.thread_time_ns() - self.cpu
        found, pauses = self.totals[info["generation"]], self.pauses[info["generation"]]
        found["collections"] += 1
        found["collected"] += info["collected"]
        found["wall_ns"] += wall
        found["cpu_ns"] += cpu
        found["max_ns"] = max(found["max_ns"], wall)
        step = round(math.log2(max(1, wall)) * STEPS)
        pauses[step] = pauses.get(step, 0) + 1
        if now - self.written > 20_000_000 or info["generation"] == 2:
            self.write(now)
        if self.freeze and info["generation"] == 2:
            self.freeze = False
            gc.freeze()

    def write(self, now: int) -> None:
        """Bring the file up to date. The program never notices that it can't be."""
        self.written = now
        about = (tuple(sys.version_info[:3]), " ".join(sys.orig_argv[1:])[:200], now - self.began)
        try:
            fd = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(fd, ascii((*about, self.totals, self.pauses)).ljust(8192).encode(), 0)
            os.close(fd)
        except OSError:
            pass

    def end(self) -> None:
        """Write at the program's regular end, after its own atexit functions."""
        if self.observe in gc.callbacks:
            gc.callbacks.remove(self.observe)
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
