"""Faults at random points: never two copies, never a stranger hurt, all well after two ticks."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import LONG, ROOT, is_running, wait_until
from tests.helpers.house import House, kill, worker

ROUNDS = 200 if LONG else 20


@pytest.fixture
def house(home: Path) -> House:
    made = House(home)
    command = worker("--setsid-child")
    made.task("trader", command, verify=0, stop_timeout=0.5, crash_limit=1000)
    return made


def begin(house: House, script: str) -> subprocess.Popen[bytes]:
    environment = {"PATH": "/usr/bin:/bin", "UPKEEP_CONFIG": str(house.config)}
    command = [sys.executable, ROOT / "bin" / f"{script}.py", "trader"]
    null = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdout=null, stderr=null)


def killed_script(house: House, chance: random.Random) -> None:
    """SIGKILL hits restart.py or watchdog.py somewhere on its way."""
    caller = begin(house, chance.choice(["restart", "restart", "watchdog"]))
    time.sleep(chance.uniform(0.02, 0.3))
    caller.kill()
    caller.wait()


def killed_worker(house: House, chance: random.Random) -> None:
    pids = house.copies("trader")
    if pids:
        kill(chance.choice(pids))


def frozen_worker(house: House, chance: random.Random) -> None:
    for pid in house.copies("trader"):
        os.kill(pid, signal.SIGSTOP)
    house.run("restart", "trader")


def zombie_worker(house: House, chance: random.Random) -> None:
    """It has ended, but its recorder is frozen: nobody reaps it or knows its status."""
    pid = house.record("trader")["pid"]
    if is_running(pid):
        recorder = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if Path(f"/proc/{recorder}/cmdline").read_bytes().startswith(b"upkeep-recorder"):
            os.kill(recorder, signal.SIGSTOP)
        kill(pid)


def full_disk(house: House, chance: random.Random) -> None:
    """Some of the files that restart.py writes can't be written."""
    size = chance.choice([0, 10, 100, 500, 2000])
    environment = {"PATH": "/usr/bin:/bin", "UPKEEP_CONFIG": str(house.config)}
    script = [sys.executable, ROOT / "bin" / "restart.py", "trader"]
    command = ["prlimit", f"--fsize={size}:unlimited", *script]
    null = subprocess.DEVNULL
    subprocess.run(command, env=environment, check=False, stdout=null, stderr=null, timeout=60)


def many_callers(house: House, chance: random.Random) -> None:
    callers = [begin(house, chance.choice(["restart", "watchdog"])) for _ in range(12)]
    victim = chance.choice(callers)
    time.sleep(chance.uniform(0.1, 0.5))
    victim.kill()
    assert {caller.wait(120) for caller in callers} <= {0, 1, 4, -9}


def reused_pid(house: House, chance: random.Random) -> None:
    """The record names a stranger's PID, as after a wrap of the PIDs or a reboot."""
    house.run("stop", "trader")
    null = subprocess.DEVNULL
    stranger = subprocess.Popen(worker(), stdout=null, start_new_session=True)
    try:
        boot = chance.choice([{}, {"boot_id": "another boot"}])
        house.change_record("trader", pid=stranger.pid, session=stranger.pid, down=False, **boot)
        for script in ("watchdog", "restart"):
            assert house.run(script, "trader").returncode == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


FAULTS = [killed_script] * 6 + [killed_worker] * 2
FAULTS += [frozen_worker, zombie_worker, full_disk, many_callers, reused_pid]


def families(house: House) -> int:
    """How many first processes run: those whose parent is none of the task's."""
    copies = house.copies("trader")
    try:
        stats = [Path(f"/proc/{pid}/stat").read_text() for pid in copies]
    except OSError:
        return 0
    return sum(int(stat.rpartition(")")[2].split()[1]) not in copies for stat in stats)


def test_faults_at_random_points(house: House) -> None:
    seed = int(os.environ.get("UPKEEP_SEED", time.time()))
    chance = random.Random(seed)
    stranger = subprocess.Popen(worker(), stdout=subprocess.DEVNULL)  # the same program, not ours
    try:
        house.start("trader")
        for number in range(ROUNDS):
            fault = chance.choice(FAULTS)
            fault(house, chance)
            about = f"seed {seed}, round {number}, {fault.__name__}"
            for _ in range(2):
                house.run("watchdog")
            wait_until(lambda: house.copies("trader"))
            assert families(house) == 1, about
            assert is_running(house.record("trader")["pid"]), about
            assert house.pid("trader") == house.record("trader")["pid"], about
            assert stranger.poll() is None, about
    finally:
        stranger.kill()
        stranger.wait()


def test_a_stranger_on_a_reused_pid_and_session_survives(house: House) -> None:
    """The same number, the same session, the same interpreter: still somebody else."""
    house.start("trader")
    house.run("stop", "trader")
    null = subprocess.DEVNULL
    stranger = subprocess.Popen(worker(), stdout=null, start_new_session=True, env={"PATH": "/bin"})
    exe = os.readlink(f"/proc/{stranger.pid}/exe")
    try:
        house.change_record(
            "trader", pid=stranger.pid, session=stranger.pid, exe=exe, start_ticks=1, down=False
        )
        house.rows("watchdog")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
