"""status.py: one table, aligned, honest about what it does not know."""

from pathlib import Path

import pytest

from tests.helpers.house import House, kill


@pytest.fixture
def house(home: Path) -> House:
    made = House(home)
    made.task("trader")
    return made


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
