"""stop.py: ends a task, and lets it stay down."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, is_running, wait_until
from tests.helpers.house import House, worker


def test_a_stopped_task_stays_down_until_it_is_started_by_name(house: House) -> None:
    pid = house.start("trader")
    assert house.rows("stop", "trader", code=0)[0]["old_pid"] == pid
    assert not is_running(pid) and not (house.state / "run" / "trader.pid").exists()
    assert house.rows("status", code=0)[0]["state"] == "stopped"
    assert house.rows("watchdog", code=0)[0]["outcome"] == "stopped"
    assert house.rows("restart", "--all", code=0)[0]["outcome"] == "not_needed"
    house.change_record("trader", boot_id="another boot")
    assert house.rows("watchdog", code=0)[0]["outcome"] == "stopped"
    house.start("trader")
    assert house.rows("status", code=0)[0]["state"] == "running"


def test_the_history_remembers_a_stop_when_the_record_is_lost(house: House) -> None:
    """Trap 20: a torn record is set aside and rebuilt; it must not revive what was stopped."""
    house.start("trader")
    house.run("stop", "trader")
    (house.state / "tasks" / "trader.json").write_bytes(b"\0" * 40)
    result = house.run("watchdog")
    assert result.returncode == 0 and "set aside" in result.stderr
    assert house.copies("trader") == []
    assert list((house.state / "tasks").glob("trader.json.corrupt-*"))


def test_a_torn_record_of_a_running_task_is_rebuilt_from_the_pid_file(house: House) -> None:
    pid = house.start("trader")
    (house.state / "tasks" / "trader.json").write_text('{"pid": ')
    assert house.rows("watchdog", code=0)[0]["old_pid"] == pid
    assert house.record("trader")["pid"] == pid and house.record("trader")["nonce"] == ""
    house.rows("stop", "trader", code=0)
    assert not is_running(pid)


@pytest.mark.parametrize("command", [[""], ["a\0b"]])
def test_a_record_whose_command_cannot_be_one_is_set_aside(
    house: House, command: list[str]
) -> None:
    house.start("trader")
    house.change_record("trader", command=command)
    result = house.run("stop", "trader", "--dry-run")
    assert result.returncode == 0 and "set aside" in result.stderr


def test_dry_run_and_a_second_stop(house: House) -> None:
    pid = house.start("trader")
    assert f"TERM to pid {pid}" in house.run("stop", "trader", "--dry-run").stdout
    assert is_running(pid)
    house.run("stop", "trader")
    assert house.rows("stop", "trader", code=0)[0]["outcome"] == "not_needed"
    assert len(house.events("trader", "stop")) == 1


def test_an_unknown_task_is_a_usage_error(house: House) -> None:
    assert house.run("stop", "nobody").returncode == 2
    assert house.run("stop").returncode == 2


def test_the_stop_signal_is_the_tasks_own(house: House, home: Path) -> None:
    code = "trap 'echo got it; exit 0' USR1; echo ready $$; while :; do sleep 0.05; done"
    house.task("odd", ["sh", "-c", code], stop_signal="USR1")
    house.start("odd")
    row = house.rows("stop", "odd", code=0)[0]
    assert "got it" in house.log("odd") and not row["killed"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_stop_is_finished_by_the_next_tick(house: House, number: int) -> None:
    house.task("slow", worker("--ignore", "TERM"), stop_timeout=1)
    pid = house.start("slow")
    environment = {**os.environ, "UPKEEP_CONFIG": str(house.config)}
    script = ROOT / "bin" / "stop.py"
    caller = subprocess.Popen([sys.executable, script, "slow"], env=environment)
    wait_until(lambda: house.record("slow")["down"])
    caller.send_signal(number)
    caller.wait()
    assert is_running(pid)
    for _ in range(2):
        assert house.rows("watchdog", "slow", code=0)[0]["outcome"] == "stopped"
    assert house.copies("slow") == [] and house.rows("status", "slow")[0]["state"] == "stopped"


@pytest.mark.parametrize(
    "values",
    [
        {"pid": 10**21},
        {"pid": -5},
        {"log_start": -1},
        {"started": {"time": "x"}},
        {"due": {"wait": "long"}},
        {"trouble": {"given_up": {}}},
        {"trouble": {"given_up": 7}},
        {"command": [1, 2]},
        {"counts": {"x": "y"}},
    ],
)
def test_a_record_that_cannot_be_ours_is_set_aside(house: House, values: dict[str, Any]) -> None:
    pid = house.start("trader")
    house.change_record("trader", **values)
    result = house.run("watchdog")
    assert result.returncode == 0 and "set aside" in result.stderr
    assert "Traceback" not in result.stderr and house.copies("trader") == [pid]
    assert house.record("trader")["pid"] == pid
    assert house.run("watchdog").stderr == ""


def test_a_task_whose_user_is_unknown_can_be_put_down(house: House) -> None:
    house.task("trader", user="nosuch")
    house.rows("stop", "trader", code=0)
    assert house.record("trader")["down"]
