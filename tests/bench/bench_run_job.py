"""What run_job.py costs: python -m tests.bench.bench_run_job

Prints one row for each figure and ends with 1 when a goal is missed. The peer is the chain that
people write by hand: chronic flock -n LOCK timeout 9 COMMAND.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import row
from tests.helpers import ROOT

TURNS = 31
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


def seconds(*command: str | Path) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def overhead(job: tuple[str | Path, ...], lock: Path) -> bool:
    """Both in turns, so that the noise of the machine hits both alike."""
    pairs = [
        (seconds("chronic", "flock", "-n", lock, "timeout", "9", "true"), seconds(*job, "true"))
        for _ in range(TURNS)
    ]
    peer, ours = (statistics.median(each) for each in zip(*pairs, strict=True))
    return row("wrapping true", ours * 1000, "chronic flock timeout", peer * 1000, 1.2)


def memory(job: tuple[str | Path, ...], log: Path) -> list[bool]:
    """Peak RSS of the wrapper itself (VmHWM, read again and again) while its job writes 1 GB."""
    wrapper, peak, largest = subprocess.Popen([*job, "head", "-c", "1G", "/dev/zero"]), 0, 0
    while wrapper.poll() is None:
        status = Path(f"/proc/{wrapper.pid}/status").read_text().splitlines()
        peak = max([peak, *(int(each.split()[1]) for each in status if "VmHWM" in each)])
        largest = max(largest, log.stat().st_size if log.exists() else 0)
        time.sleep(0.01)
    left = log.stat().st_size / 2**20
    print(f"       the log was at most {largest / 2**20:.0f} MiB large meanwhile")
    return [
        row("peak RSS with 1 GB of output", peak / 1024, goal=20.0, unit="MiB"),
        row("size of the log after 1 GB of output", left, goal=64.0, unit="MiB"),
    ]


def time_limit(job: tuple[str | Path, ...]) -> bool:
    """How long the wrapper takes beyond limit and grace, with a child that is deaf and hides."""
    deaf = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & wait"
    limited = (*job[:-1], "--timeout", "1s", "--grace", "1s", "--", "sh", "-c", deaf)
    slowest = 0.0
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(limited, check=False, stderr=subprocess.DEVNULL)
        slowest = max(slowest, time.perf_counter() - began - 2.0)
    return row("beyond a time limit of 1 s and a grace of 1 s", slowest, goal=1.0, unit="s")


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "upkeep.toml").touch()
        script = ROOT / "bin/run_job.py"
        job = (PYTHON, script, "--config", place / "upkeep.toml", "bench", "--")
        log = place / "var/log/job-bench.log"
        good = [overhead(job, place / "lock"), *memory(job, log), time_limit(job)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
