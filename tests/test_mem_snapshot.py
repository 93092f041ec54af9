"""A closer look: what the memory is made of, and whether it grows; valid whatever ends it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bin import mem_snapshot
from tests.helpers import ROOT, run_script, wait_until

MIB = 1 << 20


def readings(values: list[float], seconds: float) -> list[dict[str, Any]]:
    step = seconds / (len(values) - 1) if len(values) > 1 else 0
    return [
        {"age_seconds": 100 + index * step, "rss_bytes": int(value * MIB)}
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "seconds", "verdict"),
    [
        ([100.0], 0, "not_judged"),
        ([100 + i for i in range(30)], 599, "not_judged"),
        ([100 + i * 2 for i in range(23)], 3600, "not_judged"),
        ([100 + i * 0.5 for i in range(24)], 600, "growing"),
        ([100 + i * 0.5 for i in range(2000)], 3600, "growing"),
        ([100 + i * 0.1 for i in range(24)], 600, "steady"),
        ([100.0 + 8 * (i % 2) for i in range(60)], 3600, "steady"),
        ([100.0 - i for i in range(60)], 3600, "steady"),
        ([100.0] * 50 + [130.0] * 10, 3600, "steady"),
    ],
)
def test_growth_is_judged_only_with_enough(values, seconds, verdict):
    assert mem_snapshot.growth(readings(values, seconds))["verdict"] == verdict


def test_the_slope_does_not_depend_on_the_interval():
    for count in (25, 150, 3601):
        values = [100 + 36.0 * index / (count - 1) for index in range(count)]
        found = mem_snapshot.growth(readings(values, 3600))
        assert found["samples"] == count
        assert found["growth_bytes"] == 36 * MIB
        assert found["growth_bytes_per_hour"] == pytest.approx(36 * MIB, rel=0.01)


def test_readings_of_one_moment_are_no_error():
    same = [{"age_seconds": 5.0, "rss_bytes": MIB}] * 3
    assert mem_snapshot.growth(same)["growth_bytes_per_hour"] == 0


def test_one_look_says_what_the_memory_is_made_of(targets, tmp_path):
    child = targets.start("20")
    file = tmp_path / "snapshot.json"
    result = run_script("mem_snapshot", "--pid", str(child.pid), "--json", "--save", file)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found == json.loads(file.read_text())
    assert os.path.basename(found["program"]) == "growing.py" and found["pid"] == child.pid
    assert found["rss_bytes"] > 20 * MIB
    assert {"pss_bytes", "uss_bytes", "swap_bytes", "fds", "threads"} <= found.keys()
    assert found["connections"] == {}
    assert not {"growth_bytes", "mappings", "children"} & found.keys()


def test_a_dry_run_by_the_environment_saves_nothing(targets, tmp_path):
    child, dry = targets.start("5"), {"UPKEEP_DRY_RUN": "1"}
    words = "--pid", str(child.pid), "--save", tmp_path / "x.json"
    assert "rss_bytes" in run_script("mem_snapshot", *words, env=dry).stdout
    words += "--duration", "0.2s", "--interval", "0.1s"
    assert "rss_bytes" in run_script("mem_baseline", *words, env=dry).stdout
    assert list(tmp_path.glob("*.json")) == []


def test_people_read_sizes(targets):
    child = targets.start("20")
    result = run_script("mem_snapshot", "--pid", str(child.pid), "--top", "3")
    assert result.returncode == 0
    assert re.search(r"(?m)^rss_bytes: \d+ MiB$", result.stdout)
    assert "\nconnections: none\n" in result.stdout and "\nchildren: none\n" in result.stdout
    _, _, tables = result.stdout.partition("\nmappings:\n")
    assert tables.startswith("name ") and len(tables.split("\n\n")[0].splitlines()) == 4 + 1


def test_growth_of_a_growing_program_is_measured(targets):
    child = targets.start("10", "8")
    result = run_script(
        "mem_snapshot",
        "--pid",
        str(child.pid),
        "--continuous",
        "2s",
        "--interval",
        "0.2s",
        "--json",
    )
    found = json.loads(result.stdout)
    assert (found["samples"], found["ended"], found["verdict"]) == (11, "complete", "not_judged")
    assert found["growth_bytes"] > 8 * MIB
    assert found["growth_bytes_per_hour"] == pytest.approx(8 * MIB * 3600, rel=0.3)


def test_progress_is_shown_on_a_terminal_only(targets):
    child = targets.start("5")
    controller, terminal = os.openpty()
    command = [sys.executable, ROOT / "bin/mem_snapshot.py", "--pid", str(child.pid), "--json"]
    done = subprocess.run(
        [*command, "--continuous", "0.2s", "--interval", "0.1s"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        check=True,
    )
    os.close(terminal)
    shown = os.read(controller, 4096).decode()
    os.close(controller)
    assert "2 of 3: RSS " in shown and shown.endswith("\r\x1b[K")
    assert json.loads(done.stdout)["samples"] == 3


class Continuous:
    """A mem_snapshot.py that goes on for an hour, waited for until it has measured."""

    def __init__(self, pid: int) -> None:
        options = ["--pid", str(pid), "--continuous", "5m", "--interval", "0.1s", "--json"]
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "bin/mem_snapshot.py", *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: self._sleeps() > 30)  # one for every reading, hardly any before

    def _sleeps(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])

    def document(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_it_has(targets, number):
    child = targets.start("5")
    snapshot = Continuous(child.pid)
    for _ in range(50):  # somebody who is impatient
        snapshot.process.send_signal(number)
    found = snapshot.document()
    assert found["ended"] == "interrupted" and found["samples"] >= 1
    assert child.poll() is None, "the target was harmed"


def test_the_end_of_the_target_ends_it_with_what_it_has(targets):
    child = targets.start("5")
    snapshot = Continuous(child.pid)
    child.kill()
    found = snapshot.document()
    assert found["ended"] == "the target ended" and found["samples"] >= 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["--pid", "1", "--match", "x"], 2),
        (["--pid", "x"], 2),
        (["--pid", str(os.getpid()), "--top", "0"], 2),
        (["--pid", "4194304000"], 1),
        (["--task", "nobody"], 2),
        (["--match", "("], 2),
        (["--match", "no such program anywhere"], 1),
        (["--pid", str(os.getpid()), "--continuous", "soon"], 2),
        (["--pid", str(os.getpid()), "--save", "/proc/nothing/here"], 2),
    ],
)
def test_bad_input_is_one_line_and_the_documented_code(arguments, code):
    result = run_script("mem_snapshot", *arguments)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr and result.stderr
