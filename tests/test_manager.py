"""Tasks that pm2 or systemd runs: the real programs are asked and told."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import HELPERS, is_running, wait_until
from tests.helpers.house import House, kill

WORKER = str(HELPERS / "worker.py")


@pytest.fixture
def pm2(home: Path) -> Iterator[dict[str, str]]:
    if not shutil.which("pm2"):
        pytest.skip("pm2 is not installed (npm install --global pm2)")
    path = f"{Path(str(shutil.which('pm2'))).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "PM2_HOME": str(home / "pm2"), "HOME": str(home)}
    start = ["pm2", "start", WORKER, "--name", "flask-app", "--interpreter", sys.executable]
    subprocess.run(start, env=environment, check=True, stdout=subprocess.DEVNULL)
    yield environment
    subprocess.run(["pm2", "kill"], env=environment, check=True, stdout=subprocess.DEVNULL)


def test_a_task_of_pm2_is_shown_restarted_limited_and_stopped(
    home: Path, pm2: dict[str, str]
) -> None:
    house = House(home)
    house.tasks["web"] = (
        f'[task.web]\nmanager = "pm2"\napp = "flask-app"\nverify = 0.2\nenv = {json_table(pm2)}'
    )
    house.configure()
    row = house.rows("status", code=0)[0]
    first = row["pid"]
    assert row["state"] == "running" and is_running(first) and row["rss_bytes"] > 1 << 20
    assert house.rows("watchdog", code=0)[0]["old_pid"] == first
    row = house.rows("restart", "web", code=0)[0]
    assert (row["old_pid"], row["outcome"]) == (first, "restarted") and not is_running(first)
    row = house.rows("restart", "web", "--if-rss-above", "1M", code=0)[0]
    assert row["outcome"] == "restarted" and "> 1" in row["reason"]
    house.rows("stop", "web", code=0)
    assert not is_running(row["new_pid"])
    assert house.rows("watchdog", code=0)[0]["outcome"] == "stopped"
    row = house.rows("restart", "web", code=0)[0]
    assert row["outcome"] == "started" and is_running(row["new_pid"])


def json_table(values: dict[str, str]) -> str:
    return (
        "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items()) + " }"
    )


@pytest.mark.skipif(not Path("/run/systemd/system").is_dir(), reason="systemd is not PID 1 here")
def test_a_unit_of_systemd_is_restarted_and_a_scope_has_its_own_group(home: Path) -> None:
    house = House(home)
    unit = f"upkeep-test-{os.getpid()}.service"
    start = ["systemd-run", "--unit", unit, sys.executable, WORKER]
    subprocess.run(start, check=True, capture_output=True)
    try:
        house.tasks["unit"] = f'[task.unit]\nmanager = "systemd"\nunit = "{unit}"\nverify = 0.2'
        house.task("scoped", scope=True)
        first = house.rows("status", "unit", code=0)[0]["pid"]
        row = house.rows("restart", "unit", code=0)[0]
        assert row["old_pid"] == first and is_running(row["new_pid"])
        kill(row["new_pid"])
        wait_until(lambda: house.rows("watchdog", "unit")[0]["outcome"] != "given_up")
        pid = house.start("scoped")
        assert ".scope" in Path(f"/proc/{pid}/cgroup").read_text()
        house.rows("stop", "scoped", code=0)
        assert not is_running(pid)
    finally:
        subprocess.run(["systemctl", "stop", unit], check=False, capture_output=True)


def test_a_manager_that_is_not_there_is_one_line(home: Path) -> None:
    house = House(home)
    house.tasks["web"] = '[task.web]\nmanager = "pm2"\napp = "x"\nenv = { PATH = "/nowhere" }'
    house.configure()
    result = house.run("restart", "web")
    assert result.returncode == 1 and "pm2" in result.stderr and "Traceback" not in result.stderr
    house.tasks["web"] = '[task.web]\nmanager = "systemd"'
    house.configure()
    assert house.run("restart", "web").returncode == 2
