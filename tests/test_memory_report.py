"""The report: its first line is the verdict, and it is made in any state of the host."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, run_script
from tests.helpers.fake_proc import BOOT_ID, FakeProc
from upkeep import files, proc


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    made = FakeProc(tmp_path / "proc")
    made.process(2, [], rss_pages=0)
    made.process(10, ["/usr/bin/python3", "/srv/shop/app.py"], 60_000, pss_kib=230_000)
    made.process(11, ["/usr/bin/python3", "/srv/shop/app.py"], 1000, pss_kib=3000)
    made.process(12, ["node", "/srv/blog/server.js"], 2000)
    made.process(13, ["gone"], 0, state="Z")
    return made


def report(home: Path, *args: str | Path, toml: str = "") -> "subprocess.CompletedProcess[str]":
    config = home / "upkeep.toml"
    config.write_text(toml)
    return run_script("memory_report", "--config", config, *args)


def document(home: Path, *args: str | Path, toml: str = "") -> dict[str, Any]:
    result = report(home, "--json", *args, toml=toml)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_first_line_is_the_verdict(home: Path, fake: FakeProc) -> None:
    result = report(home, "--proc-root", fake.root)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "OK: 50% of 2.0 GiB in use, 1000 MiB available"
    assert lines[1] == "! app.py: 238 MiB, 0 restarts in 24 h"
    assert max(map(len, lines)) <= 80
    FakeProc(fake.root, available=100_000)
    result = report(home, "--proc-root", fake.root)
    assert result.stdout.startswith("PROBLEM: memory 95.1% of 2.0 GiB in use, limit 80%\n")
    assert result.returncode == 0


def test_swap_that_is_full_is_no_problem_by_itself(home: Path, fake: FakeProc) -> None:
    FakeProc(fake.root, swap_free=1000)
    result = report(home, "--proc-root", fake.root)
    assert result.stdout.startswith("OK: ")
    assert "swap 499 MiB of 500 MiB" in result.stdout


def test_a_full_disk_is_a_problem(home: Path, fake: FakeProc) -> None:
    toml = '[host]\ndisks = ["/"]\ndisk_alert = "0%"'
    result = report(home, "--proc-root", fake.root, toml=toml)
    assert result.stdout.startswith("PROBLEM: disk / ")


def test_json_says_the_same_in_bytes(home: Path, fake: FakeProc) -> None:
    found = document(home, "--proc-root", fake.root)
    assert found["host"]["limit_bytes"] == 2048000 << 10
    assert found["host"]["limit_source"] == "host" and found["host"]["boot_id"] == BOOT_ID
    assert found["coverage"] == {"pss_known": 2, "processes": 3}
    first, second = found["programs"]
    assert (first["name"], first["processes"]) == ("app.py", 2)
    assert first["rss_bytes"] == 61_000 * os.sysconf("SC_PAGE_SIZE")
    assert first["pss_bytes"] == 233_000 << 10
    assert (second["name"], second["pss_bytes"]) == ("server.js", None)


def test_restarts_of_a_task_are_counted_by_window(home: Path) -> None:
    toml = '[task.night]\ncommand = ["x"]\n[task.idle]\ncommand = ["x"]'
    stat = proc.read_stat(os.getpid())
    assert stat
    record = {"boot_id": proc.boot_id(), "pid": stat.pid, "start_ticks": stat.start_ticks}
    files.write_state(home / "var/tasks/night.json", record)
    ages = [(5 * 86400, "restart"), (3 * 3600, "start"), (3600, "death"), (3590, "start")]
    events = [{"time": time.time() - age, "task": "night", "event": kind} for age, kind in ages]
    lines = [json.dumps(event) + "\n" for event in events]
    (home / "var/restarts.jsonl").write_text("".join(lines) + "torn {")
    rows = {row["name"]: row for row in document(home, toml=toml)["programs"] if row["task"]}
    assert (rows["night"]["restarts_24h"], rows["night"]["restarts_7d"]) == (1, 2)
    assert rows["night"]["processes"] >= 1
    assert (rows["idle"]["processes"], rows["idle"]["rss_bytes"]) == (0, 0)


def test_data_directories_are_listed(home: Path, fake: FakeProc) -> None:
    (home / "data").mkdir()
    (home / "data" / "x.jsonl").write_bytes(b"x" * 300_000)
    toml = f'[host]\ndata_dirs = ["{home}/data", "/no/such/directory"]'
    found = document(home, "--proc-root", fake.root, toml=toml)
    assert [row["path"] for row in found["directories"]] == [f"{home}/data"]
    assert 300_000 <= found["directories"][0]["size_bytes"] < 400_000


@pytest.fixture
def public() -> Iterator[Path]:
    """A copy of the suite that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        for part in ("bin", "lib"):
            shutil.copytree(ROOT / part, Path(name, part))
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_without_rights_what_cannot_be_read_is_left_open_and_said(public: Path) -> None:
    result = subprocess.run(
        ["/usr/bin/python3", public / "bin/memory_report.py", "--json"],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd="/",
        user=65534,
        group=65534,
        extra_groups=[],
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["coverage"]["pss_known"] < found["coverage"]["processes"]
    assert any(row["pss_bytes"] is None for row in found["programs"])


@pytest.mark.parametrize("value", ["0", "-1", "x", "1e3"])
def test_a_bad_number_of_rows_is_a_usage_error(home: Path, value: str) -> None:
    result = report(home, f"--top={value}")
    assert result.returncode == 2 and "expected a whole number" in result.stderr


def test_a_directory_that_is_no_proc_is_one_line(home: Path, tmp_path: Path) -> None:
    result = report(home, "--proc-root", tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and "cannot be read as /proc" in result.stderr
