"""What a closer look costs and how right it is: python -m tests.bench.bench_closer [SECONDS]

Prints one row for each figure and ends with 1 when a goal is missed.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bin import gc_profile
from tests import bench
from tests.helpers import ROOT
from tests.helpers.targets import Targets

MIB = 1 << 20


def told(name: str, value: float, limit: float, unit: str) -> bool:
    return bench.row(name, value, goal=limit, unit=unit)


def snapshot(seconds: int, rate: float, targets: Targets) -> list[bool]:
    """A continuous snapshot every second, of a program that grows at a known rate."""
    child = targets.start("60", str(rate))
    command = [sys.executable, ROOT / "bin/mem_snapshot.py", "--pid", str(child.pid), "--json"]
    process = subprocess.Popen(
        [*command, "--continuous", f"{seconds}s", "--interval", "1s"], stdout=subprocess.PIPE
    )
    assert process.stdout
    found = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    truth = rate * MIB * 3600
    wrong = abs(found["growth_bytes_per_hour"] - truth) / truth * 100
    cpu = (usage.ru_utime + usage.ru_stime) / seconds * 100
    return [
        told("mem_snapshot --continuous at 1 s, its own start included", cpu, 1.0, "% of one CPU"),
        told("mem_snapshot --continuous, peak RSS", usage.ru_maxrss / 1024, 20.0, "MiB"),
        told(f"growth of a program that grows by {rate:g} MiB/s, error", wrong, 10.0, "%"),
    ]


def baseline(targets: Targets, megabytes: str, *options: str) -> int:
    child = targets.start(megabytes)
    often = ["--duration", "1s", "--interval", "0.1s"]
    command = [sys.executable, ROOT / "bin/mem_baseline.py", "--pid", str(child.pid)]
    done = subprocess.run([*command, *often, *options], stdout=subprocess.DEVNULL, check=False)
    child.kill()
    return done.returncode


def regressions(times: int, targets: Targets) -> list[bool]:
    """The same program again and again with 3 % more or less, and with 30 % more."""
    file = f"/tmp/bench_closer.{os.getpid()}.json"
    baseline(targets, "100", "--save", file)
    same = [baseline(targets, str(97 + turn % 7), "--compare", file) for turn in range(times)]
    more = [baseline(targets, str(127 + turn % 7), "--compare", file) for turn in range(times)]
    os.unlink(file)
    return [
        told(f"regressions told of {times} runs with 3 % noise", sum(same), 0, "runs"),
        told(f"of {times} runs with 30 % more, not told", times - more.count(1), 0, "runs"),
    ]


JOB = """
class Node:
    pass

held = [[number] for number in range(400_000)]
for number in range(6_000_000):
    one, other = Node(), Node()
    one.peer, other.peer = other, one
"""


def cpu_seconds(command: list[str]) -> float:
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


OBSERVED = """
import gc, json, time
pauses = [[], [], []]
def observe(phase, info):
    global begin
    if phase == "start":
        begin = time.perf_counter_ns()
    else:
        pauses[info["generation"]].append(time.perf_counter_ns() - begin)
gc.callbacks.append(observe)
"""


def pauses() -> list[bool]:
    """Each generation's pauses beside those that the same run measured by itself."""
    with tempfile.TemporaryDirectory() as place:
        job, file = Path(place, "job.py"), Path(place, "gc")
        job.write_text(OBSERVED + JOB + "gc.callbacks.clear()\nprint(json.dumps(pauses))")
        wrapped = [sys.executable, ROOT / "bin/gc_profile.py", "run", "--save", file, job]
        done = subprocess.run(wrapped, stdout=subprocess.PIPE, check=True)
        found = gc_profile.read(file)["generations"]
    results = []
    for number, own in enumerate(map(sorted, json.loads(done.stdout))):
        # The tail of the short ones is where the callbacks themselves run with cold caches.
        for share in (0.5, 0.95) if number == 2 else (0.5,):
            truth = own[math.ceil(share * len(own)) - 1] / 1e6
            wrong = abs(gc_profile.quantile_ms(found[number], share) / truth - 1) * 100
            name = f"generation {number}, pause that {share:.0%} do not exceed, {truth:.3f} ms"
            results.append(told(f"{name}, error", wrong, 10.0, "%"))
    return results


def profiling(rounds: int) -> list[bool]:
    """The CPU time of a program that makes garbage, with the profiler and without, in turns."""
    with tempfile.TemporaryDirectory() as place:
        job = Path(place, "job.py")
        job.write_text(JOB)
        plain = [sys.executable, str(job)]
        wrapped = [sys.executable, str(ROOT / "bin/gc_profile.py"), "run", "--save", f"{place}/gc"]
        seconds = [
            (cpu_seconds(plain), cpu_seconds([*wrapped, str(job)]), cpu_seconds(plain))
            for _ in range(rounds)
        ]
    ratios = [2 * profiled / (before + after) for before, profiled, after in seconds]
    least, _, most = statistics.quantiles(ratios)
    told(
        f"the middle half of {rounds} rounds is {least:.3f} to {most:.3f}; half its width",
        (most - least) / 2,
        0.05,
        "",
    )
    return [
        told("gc_profile.py run, its own start included", statistics.median(ratios), 1.10, "x CPU")
    ]


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    targets = Targets()
    try:
        results = snapshot(seconds, 0.5, targets) + regressions(20, targets)
        results += pauses() + profiling(15)
    finally:
        targets.end()
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
