"""What samples and reports of memory cost beside their peers, in one run; prints the ratios.

usage: python -m tests.bench.bench_memory [PROCESSES [ROUNDS]]

400 processes by default, two in three of them sleep(1), the rest small Pythons; 3 days of history.
Peers that are not installed are left out. Only ratios to a peer gate; milliseconds are printed.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import bench
from tests.helpers import ROOT, traces
from upkeep import leak, page, proc, programs, samples
from upkeep.samples import Point

PSUTIL = "memory_full_info pid name username cmdline"
LOOP = f"import psutil\nfor each in psutil.process_iter({PSUTIL.split()!r}): each.info\n"
Cost = tuple[float, float]  # CPU seconds, peak MiB


RUNNER = """
import os, sys
quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(status != 0)
"""


def cost(command: list[str]) -> Cost:
    """What one run costs, its children included.

    A small process starts it: a child's peak is never less than what its parent had.
    """
    runner = [sys.executable, "-S", "-E", "-c", RUNNER, *command]
    cpu, peak = subprocess.run(runner, check=True, capture_output=True).stdout.split()
    return float(cpu), float(peak)


def told(name: str, value: float, goal: float, unit: str = "", gates: bool = True) -> bool:
    return bench.row(name, value, goal=goal, unit=unit) or not gates


def crowd(count: int) -> list[subprocess.Popen[bytes]]:
    code = "import json, re, time; time.sleep(600)"
    commands = [["sleep", "600"], ["sleep", "600"], [sys.executable, "-c", code]]
    return [subprocess.Popen(commands[number % 3]) for number in range(count)]


def write_history(state: Path, days: int) -> None:
    """Twenty programs, as memory_sample.py would have seen them every five minutes up to now."""
    rng = random.Random(1)
    made = [traces.trace([traces.noise(rng, 80)], 80, days * 24, rng) for _ in range(20)]
    now, boot, uptime = time.time(), proc.boot_id(), proc.uptime()
    for index in range(days * 288):
        age = (days * 288 - index) * 300
        row = {"time": round(now - age), "boot_id": boot, "uptime": round(uptime - age)}
        row |= {"used": 1, "limit": 2, "swap_used": 0, "swapped": 0, "oom_kills": 0, "disks": {}}
        cells = []
        for number, points in enumerate(made):
            rss = points[min(index, len(points) - 1)].rss_bytes >> 10
            cells.append([f"program{number}.py", 30_000 + number, 12345678, 4, rss, rss - 9])
        samples.append(state, row | {"programs": cells})


def compare(place: Path, rounds: int) -> list[bool]:
    """Whole runs, one after the other in turns; the median of each."""
    (place / "upkeep.toml").write_text('[host]\ntop = 15\n[paths]\nstate = "var"\n')
    bins = str(ROOT / "bin")
    options = ["--config", str(place / "upkeep.toml")]
    found = shutil.which("ps_mem") or shutil.which("ps_mem", path=Path(sys.executable).parent)
    commands = {
        "report": [sys.executable, f"{bins}/memory_report.py", *options],
        "sample": [sys.executable, f"{bins}/memory_sample.py", *options],
        "ps_mem": [found] if found else [],
        "smem": [smem] if (smem := shutil.which("smem")) else [],
        "psutil full info": [sys.executable, "-c", LOOP],
        "ps aux": ["ps", "aux", "--sort", "-rss"],
    }
    runs: dict[str, list[Cost]] = {name: [] for name, command in commands.items() if command}
    for _ in range(rounds):
        for name in runs:
            runs[name].append(cost(commands[name]))
    middle = {}
    for name, costs in runs.items():
        middle[name] = statistics.median(cpu for cpu, _ in costs)
        peak = statistics.median(peak for _, peak in costs)
        print(f"       {name}: {middle[name] * 1000:.0f} ms CPU, {peak:.1f} MiB")
    results = []
    for name in ("report", "sample"):
        for peer, goal in (("ps_mem", 0.75), ("smem", 0.25), ("psutil full info", 0.7)):
            if peer in middle:
                ours, theirs = 1000 * middle[name], 1000 * middle[peer]
                results.append(bench.row(name, ours, peer, theirs, goal, "ms CPU"))
        peak = statistics.median(peak for _, peak in runs[name])
        results.append(told(f"{name}, peak", peak, 20, "MiB", gates=False))
    results.append(told("a day of samples", middle["sample"] * 288, 20, "s CPU", gates=False))
    return results


def stall() -> None:
    """How long a process of the largest size that is asked for its PSS stands still for that."""
    code = f"keep = b'x' * {programs.PSS_MAX_RSS - (20 << 20)}; print('up', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as big:  # type: ignore[call-overload]
        big.stdout.readline()
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            Path(f"/proc/{big.pid}/smaps_rollup").read_bytes()
            times.append(time.perf_counter() - begin)
        big.communicate(b"\n")
    told(
        "PSS of the largest process that is asked",
        statistics.median(times) * 1000,
        12,
        "ms",
        gates=False,
    )


def verdicts() -> None:
    rng = random.Random(3)
    points = traces.leaking(rng, "linear", 72, 6.0)
    begin = time.perf_counter()
    for _ in range(100):
        leak.judge(points, 1e9, points[-1].time)
    each = (time.perf_counter() - begin) * 10
    told("one verdict on 72 h", each, 1, "ms", gates=False)


def corpus(seed: int = 20261121, count: int = 20, hours: float = 72.0) -> list[bool]:
    """Error rates of the verdict on made-up programs of a seed that the rule was not tuned on."""
    rng = random.Random(seed)

    def leaks(made: list[list[Point]]) -> float:
        found = [leak.judge(each, None, each[-1].time).verdict == "leak" for each in made]
        return 100 * sum(found) / len(found)

    single = [traces.harmless(rng, kind, hours) for kind in traces.BENIGN for _ in range(count)]
    several = [traces.composite(rng, hours, 400.0) for _ in range(count * 10)]
    rates = [traces.leak_rate(rng) for _ in range(count)]
    restarts = {"by_day": (0, 24)}
    leaky = [
        traces.leaking(rng, kind, hours, rate, restart)
        for kind in traces.LEAKS
        for restart in restarts.get(kind, (0, 6, 24))
        for rate in rates
    ]
    slopes, times = [], []
    for rate in rates * 5:
        base = rng.uniform(30, 60)
        points = traces.trace([traces.linear(rate), traces.noise(rng, base)], base, hours, rng)
        limit = (base + 2 * rate * hours) * traces.MIB  # as far away as it has come
        judged = leak.judge(points, limit, points[0].time + hours * 3600)
        slopes.append(100 * abs((judged.growth_bytes_per_day or 0) / rate / 24 / traces.MIB - 1))
        times.append(100 * abs((judged.time_to_limit_seconds or 0) / hours / 3600 - 1))
    return [
        told("leaks among harmless shapes", leaks(single), 1, "%"),
        told("leaks among several such shapes at once", leaks(several), 4, "%"),
        told("leaks that are missed", 100 - leaks(leaky), 2, "%"),
        told("error of the slope, worst of all", max(slopes), 5, "%"),
        told("error of the time to the limit, worst of all", max(times), 10, "%"),
    ]


def month(place: Path) -> list[bool]:
    """A page of twenty programs over thirty days, from the history on the disk."""
    write_history(place / "var", 30)
    size = sum(path.stat().st_size for path in (place / "var/memory").glob("*.jsonl"))
    results = [told("30 days of 20 programs", size / 1e6, 10, "MB")]
    begin = time.process_time()
    past, _ = samples.read(place / "var", 30 * 86400, time.time(), leak.WINDOW_SECONDS)
    series = samples.series(past)
    parsed = time.process_time()
    made = page.as_html("x", {name: (points, 1e9) for name, points in series.items()}, 30)
    told("the page itself", (time.process_time() - parsed) * 1000, 100, "ms CPU", gates=False)
    print(f"       reading 30 days: {(parsed - begin) * 1000:.0f} ms CPU")
    return [*results, told("the page", len(made) / 1000, 300, "KB")]


def main() -> int:
    count, rounds = (int(each) for each in [*sys.argv[1:], *("400", "7")[len(sys.argv) - 1 :]])
    children = crowd(count)
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o700)
        try:
            write_history(Path(name) / "var", 3)
            results = compare(Path(name), rounds)
        finally:
            for child in children:
                child.kill()
                child.wait()
        shutil.rmtree(Path(name) / "var")
        stall()
        verdicts()
        results += corpus()
        results += month(Path(name))
    print(json.dumps({"missed": results.count(False)}))
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
