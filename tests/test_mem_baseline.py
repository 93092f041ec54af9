"""A regression is told when it is one, and only then; anything else is refused by its name."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bin import mem_baseline
from tests.helpers import run_script
from tests.helpers.house import House
from upkeep import proc

MIB = 1 << 20


def baseline(
    values: list[float], age: float = 2000.0, program: str = "app.py", **more: Any
) -> dict[str, Any]:
    """Readings of so many MiB, one a minute from `age` on."""
    readings = [
        {"age_seconds": age + 60 * index, "rss_bytes": value * MIB, "pss_bytes": None, "fds": None}
        for index, value in enumerate(values)
    ]
    return {"mem_baseline": 2, "program": program, "metrics": {}, "readings": readings, **more}


def noisy(middle: float, spread: float, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    return baseline([middle * (1 + chance.gauss(0, spread)) for _ in range(60)])


def regressed(old: dict[str, Any], new: dict[str, Any], percent: float = 15.0) -> bool:
    rows = mem_baseline.compare(old, new, percent)
    assert len(rows) == 1
    return bool(rows[0]["regression"])


def test_the_same_program_with_noise_is_no_regression():
    old = noisy(100, 0.03, 0)
    assert not any(regressed(old, noisy(100, 0.03, seed)) for seed in range(1, 201))


def test_a_third_more_is_always_a_regression():
    old = noisy(100, 0.03, 0)
    assert all(regressed(old, noisy(130, 0.03, seed)) for seed in range(1, 201))


@pytest.mark.parametrize(
    ("old", "new", "percent", "expected"),
    [
        ([100.0], [115.0], 15.0, False),  # not more than the threshold
        ([100.0], [115.1], 15.0, True),
        ([100.0], [60.0], 15.0, False),  # less is no regression
        ([2.0], [2.9], 15.0, False),  # below 1 MiB it does not matter
        ([2.0], [3.1], 15.0, True),
        ([100.0, 130.0] * 9, [140.0], 15.0, False),  # it changed to and fro as much before
        ([100.0, 150.0, 100.0] * 7, [150.0, 100.0, 150.0] * 7, 15.0, False),
        (([100.0] * 6 + [200.0]) * 3, [140.0] * 20, 15.0, True),  # a few peaks are no noise
        ([100.0] * 20, [100.0 + index * 5 for index in range(20)], 15.0, True),  # nor is a leak
        ([100.0], [200.0], 150.0, False),
    ],
)
def test_threshold_noise_and_size_must_all_be_exceeded(old, new, percent, expected):
    assert regressed(baseline(old), baseline(new), percent) is expected


def test_the_figures_of_a_metric():
    figures = mem_baseline.metric([10, 20, 30, 40, 100], [0, 60, 120, 180, 240])
    assert (figures["n"], figures["min"], figures["median"], figures["max"]) == (5, 10, 30, 100)
    assert (figures["p95"], figures["spread"]) == (100, 20)
    assert figures["slope_per_hour"] == pytest.approx(1200)
    assert mem_baseline.metric([5], [1])["slope_per_hour"] == 0


def files(place: Path, **contents: Any) -> list[Path]:
    made = []
    for name, content in contents.items():
        made.append(place / f"{name}.json")
        text = content if isinstance(content, str) else json.dumps(content)
        made[-1].write_text(text)
    return made


def test_two_files_are_compared_with_no_target(tmp_path):
    old, new = files(tmp_path, old=baseline([100.0] * 9), new=baseline([140.0] * 9))
    result = run_script("mem_baseline", "--compare", old, new)
    assert result.returncode == 1
    assert "rss_bytes" in result.stdout and "140 MiB" in result.stdout and "True" in result.stdout
    assert run_script("mem_baseline", "--compare", new, old).returncode == 0
    assert run_script("mem_baseline", "--compare", old, new, "--threshold", "50").returncode == 0
    row = json.loads(run_script("mem_baseline", "--compare", old, new, "--json").stdout)["results"][
        0
    ]
    assert (row["metric"], row["rise"], row["regression"]) == ("rss_bytes", 40 * MIB, True)


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"mem_baseline": 2, "program": "app.py", "met',
        "[]",
        "7",
        "{}",
        json.dumps(baseline([1.0], mem_baseline=1)),
        json.dumps(baseline([])),
        json.dumps(baseline([1.0], readings=5)),
        json.dumps(baseline([1.0], readings=[{"age_seconds": "old", "rss_bytes": 1}])),
        json.dumps(baseline([1.0], readings=[{"age_seconds": 5.0}])),
        json.dumps(baseline([1.0], readings=[baseline([1])["readings"][0] | {"rss_bytes": "x"}])),
        json.dumps(baseline([1.0, 2.0])).replace("1048576.0", "1" * 400),
        json.dumps(baseline([1.0], program=5)),
        json.dumps(baseline([1.0], program="another.py")),
        "[" * 100_000,
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path, content):
    good, bad = files(tmp_path, good=baseline([1.0]), bad=content)
    for pair in ((good, bad), (bad, good)):
        result = run_script("mem_baseline", "--compare", *pair)
        assert result.returncode == 2, result.stdout
        assert len(result.stderr.splitlines()) == 1, result.stderr
    for other in (tmp_path / "missing", tmp_path, "/dev/zero"):
        assert run_script("mem_baseline", "--compare", good, other).returncode == 2


def test_equal_ages_are_compared(tmp_path):
    """Both warm up from 50 MiB in 20 minutes: only an equal age says which needs more."""
    warming = [50.0 + 5 * min(index, 20) for index in range(60)]
    early, late = baseline(warming[:15], age=0), baseline(warming[10:29], age=600)
    assert mem_baseline.compare(early, late, 15.0)[0]["rise"] == 0
    settled = baseline(warming, age=0), baseline(warming[40:], age=2400)
    assert mem_baseline.compare(*settled, 15.0)[0]["rise"] == 0
    more = baseline([value * 1.3 for value in warming[10:29]], age=600)
    assert mem_baseline.compare(early, more, 15.0)[0]["regression"] is True


def test_different_ages_are_told(tmp_path):
    young, old = files(tmp_path, young=baseline([1.0], age=5), old=baseline([1.0]))
    result = run_script("mem_baseline", "--compare", old, young)
    assert result.returncode == 0 and "ages, 33 min 20 s to" in result.stderr


def test_a_fresh_measurement_is_saved_and_compared(targets, tmp_path):
    small, file = targets.start("20"), tmp_path / "baseline.json"
    often = ("--duration", "1s", "--interval", "0.2s")
    result = run_script("mem_baseline", "--pid", str(small.pid), *often, "--save", file)
    assert result.returncode == 0, result.stderr
    saved = json.loads(file.read_text())
    assert saved["program"] == "growing.py"
    assert saved["metrics"]["rss_bytes"]["n"] == 6
    assert saved["metrics"].keys() == {"rss_bytes", "pss_bytes", "fds"}
    same = run_script("mem_baseline", "--pid", str(small.pid), *often, "--compare", file)
    assert same.returncode == 0, same.stdout
    large = targets.start("40")
    more = run_script("mem_baseline", "--pid", str(large.pid), *often, "--compare", file)
    assert more.returncode == 1
    assert "rss_bytes" in more.stdout


def history(house: House, pid: int, megabytes: list[float]) -> None:
    """Samples of the last hours, one every five minutes, as memory_sample.py writes them."""
    taken = house.run("memory_sample")
    assert taken.returncode == 0, taken.stderr
    (path,) = (house.state / "memory").glob("2*.jsonl")
    line = json.loads(path.read_text().splitlines()[-1])
    now, uptime = line["time"], line["uptime"]
    stat = proc.read_stat(pid)
    assert stat
    rows = []
    for index, size in enumerate(reversed(megabytes)):
        programs = [["worker", pid, stat.start_ticks - 10**9, 1, int(size * 1024)]]
        earlier = {"time": now - 300 * index, "uptime": uptime, "programs": programs}
        rows.append(json.dumps({**line, **earlier}))
    path.write_text("\n".join(reversed(rows)) + "\n")


def test_the_history_needs_no_new_sampling(home, tmp_path):
    house = House(home)
    house.task("worker")
    pid, file = house.start("worker"), tmp_path / "day.json"
    options = ("--task", "worker", "--from-history", "24h")
    assert house.run("mem_baseline", *options).returncode == 1, "there is no sample yet"
    history(house, pid, [50.0] * 24)
    assert house.run("mem_baseline", *options, "--save", str(file)).returncode == 0
    figures = json.loads(file.read_text())["metrics"]["rss_bytes"]
    assert (figures["n"], figures["median"]) == (24, 50 * MIB)
    history(house, pid, [70.0] * 24)
    compared = house.run("mem_baseline", *options, "--compare", str(file))
    assert compared.returncode == 1
    assert "70 MiB" in compared.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--pid", "1"],
        ["--duration", "1s"],
        ["--compare", "a", "b", "c"],
        ["--pid", "1", "--duration", "soon"],
        ["--compare", "a", "b", "--threshold", "-5"],
        ["--compare", "a", "b", "--threshold", "nan"],
    ],
)
def test_what_is_missing_is_a_usage_error(arguments):
    result = run_script("mem_baseline", *arguments)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
