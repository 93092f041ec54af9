"""cleanup.py beside its peers in one run; prints ratios: bench_cleanup.py [--full] [--place DIR]

--full, or UPKEEP_LONG=1, takes the sizes that the ratios are meant for (500,000 files, 200 MB,
1 GB): half an hour.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import row  # noqa: E402
from tests.helpers import LONG  # noqa: E402

GOALS = {  # how long ours may take, in times of the first rival
    ("dry run", "cleanup --dry-run"): 1.6,
    ("dry run", "cleanup budget --dry-run"): 4.0,
    ("delete", "cleanup"): 1.6,
    ("compress", "cleanup compress"): 1.25,
    ("compress", "cleanup compress [fast]"): 0.3,
    ("daily", "cleanup prune"): 0.02,
    ("daily", "cleanup prune [fast]"): 0.02,
    ("keep", "cleanup prune"): 0.7,
    ("keep", "cleanup prune [fast]"): 0.35,
    ("unordered", "cleanup prune"): 0.6,
    ("unordered", "cleanup prune [fast]"): 0.35,
}
NAIVE = """
import json, os, sys, time
path, cutoff = sys.argv[1], float(sys.argv[2])
with open(path) as source, open(path + ".new", "w") as target:
    for line in source:
        if json.loads(line)["timestamp"] >= cutoff:
            target.write(line)
os.replace(path + ".new", path)
"""
DAY = 86400.0
RUNS = 5


def timed(command: Sequence[str | Path]) -> list[float]:
    """Wall seconds, CPU seconds, peak MiB and MiB written to files of one command."""
    out = Path(tempfile.gettempdir()) / f"bench-{os.getpid()}.time"
    line = ["/usr/bin/time", "-f", "%U %S %M %O", "-o", out, *command]
    began = time.perf_counter()
    done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    wall = time.perf_counter() - began
    if done.returncode not in (0, 5):
        raise SystemExit(f"{command}: {done.returncode}: {done.stderr.decode()}")
    user, system, memory, blocks = map(float, out.read_text().split()[-4:])
    out.unlink()
    return [wall, user + system, memory / 1024, blocks / 2048]


def compare(title: str, made: Callable[[], object], rivals: dict[str, list[str | Path]]) -> None:
    """Run every rival RUNS times on fresh data, in turn; print medians and ratios to the first.

    The ratio of CPU time holds on a busy machine too, where the script's niceness costs it time.
    """
    results: dict[str, list[list[float]]] = {name: [] for name in rivals}
    for _ in range(RUNS):
        for name, command in rivals.items():
            made()
            results[name].append(timed(command))
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in results.items()
    }
    first = next(iter(medians.values()))
    for name, (wall, cpu, memory, written) in medians.items():
        ratios = f"wall x{wall / first[0]:.3f}  cpu x{cpu / max(first[1], 0.01):.3f}"
        room = f"{memory:6.1f} MiB  {written:7.1f} MiB written"
        print(f"{title:28} {name:26} {wall:7.2f} s  {ratios}  {room}", flush=True)
    print_rows(title, {name: wall for name, (wall, *_) in medians.items()})


def print_rows(title: str, walls: dict[str, float]) -> None:
    """A row for each of ours beside each peer; the goal is about the first."""
    peers = [name for name in walls if not name.startswith("cleanup")]
    for ours in [name for name in walls if name not in peers]:
        goals = (goal for (part, name), goal in GOALS.items() if part in title and name == ours)
        goal = next(goals, None)
        for peer in peers:
            wanted = goal if peer == peers[0] else None
            row(f"{title}: {ours}", walls[ours], peer, walls[peer], wanted, "s")


def without_extras(command: list[str | Path]) -> list[str | Path]:
    """The same command where the packages of the extra "fast" are not to be found."""
    code = (
        "import importlib.util as u, runpy, sys; find = u.find_spec;"
        "u.find_spec = lambda name: None if name in ('orjson', 'isal') else find(name);"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [command[0], "-c", code, *command[1:]]


def cleanup(config: Path, *args: str | Path) -> list[str | Path]:
    return [sys.executable, ROOT / "bin/cleanup.py", "--config", config, "--force", *args]


def make_files(place: Path, count: int) -> None:
    """`count` files of 1000 bytes, half of them old."""
    shutil.rmtree(place, ignore_errors=True)
    old = time.time() - 100 * DAY
    for folder in range(max(1, count // 500)):
        directory = place / str(folder)
        directory.mkdir(parents=True)
        for number in range(500):
            path = f"{directory}/{number}.jsonl"
            with open(path, "wb", 0) as file:
                file.write(b"x" * 1000)
            if number % 2:
                os.utime(path, (old, old))


def make_records(path: Path, size: int, ordered: bool) -> None:
    """Records of 330 bytes over 90 days, with as many digits as those of a market have."""
    now, count, chance = time.time(), size // 330, random.Random(1)
    with open(path, "wb", 1 << 20) as file:
        for number in range(count):
            share = number / count if ordered else chance.random()
            price = 61000 + round(chance.gauss(0, 300), 2)
            record = {"timestamp": round((now - 90 * DAY * (1 - share)) * 1000)}
            record |= {"symbol": "BTCUSDT", "open": price, "volume": round(chance.random() * 99, 3)}
            record |= {"levels": [round(price + chance.gauss(0, 99), 2) for _ in range(4)]}
            record |= {"kind": chance.choice(("support", "resistance")), "note": "n" * 120}
            record |= {"id": chance.getrandbits(40), "pad": "p" * 20}
            file.write(json.dumps(record).encode() + b"\n")


def files(place: Path, config: Path, full: bool) -> None:
    data = place / "tree"
    count = 500_000 if full else 100_000
    make_files(data, count)
    find = ["find", data, "-name", "*.jsonl", "-mtime", "+89", "-printf", "%p %s %T@\\n"]
    rule = [data, "--match", "*.jsonl", "--older-than", "90d"]
    compare(
        f"dry run, {count} files",
        lambda: None,
        {
            "find -printf": find,
            "cleanup --dry-run": cleanup(config, *rule, "--dry-run"),
            "cleanup budget --dry-run": cleanup(
                config, data, "--match", "*.jsonl", "--max-total", "1T", "--dry-run"
            ),
        },
    )
    count = 100_000 if full else 20_000
    rivals: dict[str, list[str | Path]] = {
        "find -delete": ["find", data, "-name", "*.jsonl", "-mtime", "+89", "-delete"],
        "cleanup": cleanup(config, *rule),
    }
    if shutil.which("tmpreaper"):
        rivals["tmpreaper"] = ["tmpreaper", "--mtime", "--runtime=0", "90d", data]
    if shutil.which("systemd-tmpfiles"):
        (place / "t.conf").write_text(f"e {data} - - - m:90d\n")
        rivals["systemd-tmpfiles"] = ["systemd-tmpfiles", "--clean", place / "t.conf"]
    compare(f"delete half of {count}", lambda: make_files(data, count), rivals)
    shutil.rmtree(data)


def archive(place: Path, config: Path, full: bool) -> None:
    data = place / "logs"
    data.mkdir()
    source, size = data / "a.log", (200 if full else 20) << 20
    make_records(place / "original", size, True)

    def fresh() -> None:
        (data / "a.log.gz").unlink(missing_ok=True)
        shutil.copy(place / "original", source)
        os.sync()

    command = cleanup(
        config, data, "--match", "*.log", "--larger-than", "1", "--action", "compress"
    )
    rivals: dict[str, list[str | Path]] = {
        "gzip -6": ["gzip", "-6", source],
        "cleanup compress": without_extras(command),
        "cleanup compress [fast]": command,
    }
    sizes = {}
    for name, each in rivals.items():
        fresh()
        with open(source, "rb") as file:  # its pages can be counted when its name is gone
            timed(each)
            print(f"{name}: {cached(file.fileno()) / size:.1%} of the source is left in the cache")
        sizes[name] = (data / "a.log.gz").stat().st_size
    compare(f"compress {size >> 20} MiB", fresh, rivals)
    theirs = sizes.pop("gzip -6") / 1e6
    for name, size_bytes in sizes.items():
        goal = None if "fast" in name else 1.01
        row(f"size of the archive: {name}", size_bytes / 1e6, "gzip -6", theirs, goal, "MB")
    shutil.rmtree(data)


def cached(fd: int) -> int:
    """Bytes of an open file that are in the page cache."""
    name = f"/proc/{os.getpid()}/fd/{fd}"
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", name]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


def records(place: Path, config: Path, full: bool) -> None:
    data = place / "records"
    data.mkdir()
    size = 1000 << 20 if full else 60 << 20
    path = data / "a.jsonl"
    for title, share, ordered in (
        ("daily 1.1 %", 0.011, True), ("keep 30 %", 0.7, True), ("unordered", 0.5, False),
    ):  # fmt: skip
        make_records(place / "original", size, ordered)
        limit = 90 * DAY * (1 - share)

        def fresh() -> None:
            shutil.copy(place / "original", path)
            os.sync()

        cutoff = (time.time() - limit) * 1000
        rule = [data, "--match", "*.jsonl", "--older-than", f"{limit:.0f}s", "--action", "prune"]
        command = cleanup(config, *rule)
        compare(
            f"prune {size >> 20} MiB, {title}",
            fresh,
            {
                "naive json.loads rewrite": [sys.executable, "-c", NAIVE, path, str(cutoff)],
                "cleanup prune": without_extras(command),
                "cleanup prune [fast]": command,
            },
        )
    shutil.rmtree(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", default=LONG)
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", choices=("files", "archive", "records"))
    parser.add_argument("--runs", type=int, default=RUNS)
    args = parser.parse_args()
    globals()["RUNS"] = args.runs
    with tempfile.TemporaryDirectory(dir=args.place) as name:
        place = Path(name)
        (place / "upkeep.toml").write_text("")
        for work in (files, archive, records):
            if args.only in (None, work.__name__):
                work(place, place / "upkeep.toml", args.full)


if __name__ == "__main__":
    main()
