"""status.py: one table, aligned, honest about what it does not know."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.helpers.house import House, kill, worker


def test_shows_running_stopped_and_dead(house: House) -> None:
    house.task("db")
    house.task("web")
    pid = house.start("trader")
    kill(house.start("db"))
    house.run("stop", "web")
    rows = {row["task"]: row for row in house.rows("status", code=1)}
    assert [rows[name]["state"] for name in ("trader", "db", "web")] == [
        "running",
        "dead",
        "stopped",
    ]
    assert rows["trader"]["pid"] == pid and rows["trader"]["rss_bytes"] > 1 << 20
    assert rows["trader"]["uptime_seconds"] >= 0 and "pid" not in rows["db"]
    assert house.run("status", "trader").returncode == 0


def test_what_left_the_tree_is_counted_too(house: House) -> None:
    house.task("trader", worker("--orphan"))
    house.start("trader")
    row = house.rows("status", code=0)[0]
    assert row["processes"] == len(house.copies("trader")) == 2


def test_counts_restarts_and_names_the_last_reason(house: House) -> None:
    house.start("trader")
    house.run("restart", "trader", "--reason", "new version")
    row = house.rows("status", code=0)[0]
    assert (row["restarts_24h"], row["last_reason"]) == (1, "new version")
    assert sum(row["restarts"].values()) == 2


def test_the_table_is_aligned_also_with_wide_characters(house: House) -> None:
    house.task("取引ボット")
    house.start("取引ボット")
    house.start("trader")
    lines = house.run("status").stdout.splitlines()
    assert lines[0].split()[:3] == ["TASK", "STATE", "PID"]
    assert lines[1].startswith("trader      running") and lines[2].startswith("取引ボット  running")


def test_an_unknown_task_is_a_usage_error(house: House) -> None:
    assert house.run("status", "nobody").returncode == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("script", ["status", "stop"])
def test_missing_rights_are_one_line(house: House, script: str) -> None:
    house.start("trader")
    os.chmod(house.state, 0)
    bounded = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*bounded, sys.executable, ROOT / "bin" / f"{script}.py", "trader"]
    environment = {"UPKEEP_CONFIG": str(house.config), "PATH": "/usr/bin:/bin"}
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        os.chmod(house.state, 0o700)
    assert result.returncode == 1 and "Permission denied" in result.stderr
    assert "Traceback" not in result.stderr
