"""How a program is started: nothing may run before it is on record, whoever dies meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT, is_running, wait_until
from tests.helpers.house import House, gone, kill

STARTER = """
import sys, time
from pathlib import Path
sys.path.insert(0, "lib")
from upkeep import config, launch
settings = config.load(sys.argv[1])
with launch.prepared(settings, settings.tasks["trader"], "some-nonce") as (waiting, stack):
    waiting.status.rename(waiting.status.with_name("kept"))
    print(waiting.identity.pid, flush=True)
    time.sleep(1000)
"""


def test_a_starter_that_is_killed_starts_nothing(home: Path) -> None:
    """Trap 10: the waiting process ends with it, and the file for its status says so."""
    house = House(home)
    house.task("trader")
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, house.config], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    waiting = int(starter.stdout.readline())
    assert is_running(waiting)
    kill_and_reap(starter)
    wait_until(gone(waiting))
    kept = house.state / "tasks" / "kept"
    wait_until(lambda: kept.read_text().startswith("some-nonce unstarted\n"))
    assert house.log("trader") == "" and house.copies("trader") == []


def kill_and_reap(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_what_was_not_started_is_no_death(home: Path) -> None:
    """A restart that was killed once the new record had its place is finished and not told."""
    house = House(home)
    house.task("trader")
    kill(house.start("trader"))
    nonce = house.record("trader")["nonce"]
    end = house.state / "tasks" / "trader.exit"
    wait_until(lambda: end.read_text().strip())
    end.write_text(f"{nonce} unstarted\n")
    row = house.rows("watchdog", code=0)[0]
    assert "interrupted" in row["reason"] and house.events("trader", "death") == []
    assert house.messages() == []


def test_a_dead_starter_leaves_no_descriptor_behind(home: Path) -> None:
    """The recorder holds the log and its status file, and nothing of the script's."""
    house = House(home)
    house.task("trader")
    pid = house.start("trader")
    recorder = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    held = {os.readlink(each) for each in Path(f"/proc/{recorder}/fd").iterdir()}
    ours = {str(house.state / "tasks" / "trader.exit"), str(house.state / "log" / "trader.log")}
    assert {each for each in held if each.startswith("/")} == {os.devnull, *ours}
    assert json.loads((house.state / "tasks" / "trader.json").read_text())["pid"] == pid
