"""watchdog.py: brings back the dead and says why they died, and gives up on what keeps dying."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT, is_running, wait_until
from tests.helpers.house import House, kill, worker


def test_a_killed_program_comes_back_with_its_cause(house: House) -> None:
    kill(house.start("trader"))
    row = house.rows("watchdog", code=0)[0]
    assert row["outcome"] == "started" and "137 (KILL)" in row["reason"]
    assert house.copies("trader") == [row["new_pid"]]
    death = house.events("trader", "death")[0]
    assert "137 (KILL)" in death["reason"] and death["downtime_seconds"] >= 0
    message = house.messages()
    assert len(message) == 1 and "137 (KILL)" in message[0] and "ready" in message[0]


def test_the_last_memory_reading_of_the_dead_is_told(house: House) -> None:
    pid = house.start("trader")
    assert house.run("memory_sample").returncode == 0
    kill(pid)
    assert "last memory reading" in house.rows("watchdog", code=0)[0]["detail"]


def test_deaths_in_the_window_are_one_message_and_a_later_one_is_told_again(house: House) -> None:
    house.task("trader", crash_window="3s", crash_limit=9)
    house.start("trader")
    for _ in range(2):
        kill(house.pid("trader"))
        assert house.rows("watchdog", code=0)[0]["outcome"] == "started"
    assert len(house.messages()) == 1
    wait_until(
        lambda: not house.run("watchdog").returncode and not house.record("trader")["trouble"]
    )
    kill(house.pid("trader"))
    house.rows("watchdog", code=0)
    assert len(house.messages()) == 2 and "137 (KILL)" in house.messages()[1]
    kill(house.pid("trader"))
    house.rows("restart", "trader", code=0)  # its death was mended before: no recovery is told
    assert len(house.messages()) == 2


@pytest.mark.parametrize("content", [None, "", "1\n", "nonsense"])
def test_a_pid_file_that_lost_its_number_is_written_again(
    house: House, content: str | None
) -> None:
    pid = house.start("trader")
    file = house.state / "run/trader.pid"
    file.unlink()
    if content is not None:
        file.write_text(content)
    house.rows("watchdog", code=0)
    assert (house.pid("trader"), house.copies("trader")) == (pid, [pid])


def test_an_exit_status_is_told(house: House) -> None:
    house.task("job", worker("--exit", "3", "--after", "0.2"))
    house.start("job")
    wait_until(lambda: house.copies("job") == [])
    assert "exit status 3" in house.rows("watchdog", "job")[0]["reason"]


def test_an_end_that_somebody_asked_for_is_told_as_such(house: House) -> None:
    pid = house.start("trader")
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_running(pid))
    assert "143 (TERM); sent by somebody" in house.rows("watchdog", code=0)[0]["reason"]


def test_a_status_survives_the_death_of_the_recorder(house: House) -> None:
    pid = house.start("trader")
    recorder = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert b"worker" not in Path(f"/proc/{recorder}/cmdline").read_bytes()
    kill(recorder)
    assert is_running(pid)
    kill(pid)
    assert "unknown" in house.rows("watchdog", code=0)[0]["reason"]


def test_a_reboot_is_no_crash(house: House) -> None:
    """Trap 18."""
    kill(house.start("trader"))
    house.change_record("trader", boot_id="an earlier boot")
    row = house.rows("watchdog", code=0)[0]
    assert "rebooted" in row["reason"] and house.events("trader", "death") == []
    assert house.record("trader")["counts"]["boot"] == 1


def test_a_healthy_tick_is_silent_and_writes_nothing(house: House) -> None:
    house.task("trader", max_rss="1G", max_fds=500, max_age="9d")
    house.start("trader")

    def picture() -> list[tuple[str, int]]:
        paths = sorted(path for path in house.state.rglob("*") if path.is_file())
        return [(str(path), path.stat().st_mtime_ns) for path in paths]

    before = picture()
    result = house.run("watchdog")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert picture() == before


def test_a_healthy_tick_imports_no_heavy_module(house: House) -> None:
    house.start("trader")
    environment = {"UPKEEP_CONFIG": str(house.config), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "bin" / "watchdog.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not names & {"psutil", "requests", "dotenv", "logging", "subprocess", "socket"}


def test_a_crash_loop_is_three_messages(house: House, home: Path) -> None:
    """Trap 17: first death, breaker, recovery; whatever the uptime, and no more starts than set."""
    flag = home / "mended"
    code = f"echo ready $$; [ -e {flag} ] && exec sleep 1000; sleep 0.1; exit 1"
    house.task(
        "loop",
        ["sh", "-c", code],
        crash_limit=3,
        crash_window=60,
        crash_cooldown=1,
    )
    house.remove("trader")
    house.start("loop")
    for _ in range(3):
        wait_until(lambda: not any(map(is_running, [house.record("loop")["pid"]])))
        code_of_tick = house.run("watchdog").returncode
    assert code_of_tick == 7 and house.rows("status", code=7)[0]["state"] == "given_up"
    assert house.log("loop").count("ready") == 3  # crash_limit starts, not one more
    assert house.run("watchdog").returncode == 7
    wait_until(lambda: house.run("watchdog").returncode != 7)  # the probe after the cooldown
    wait_until(lambda: not any(map(is_running, [house.record("loop")["pid"]])))
    assert house.run("watchdog").returncode == 7  # a failed probe is not told
    flag.touch()
    wait_until(lambda: house.run("watchdog").returncode != 7)
    house.task("loop", ["sh", "-c", code], crash_limit=60, crash_window=60)
    wait_until(
        lambda: house.run("watchdog").returncode == 0 and not house.record("loop")["trouble"]
    )
    told = house.messages()
    assert len(told) == 3, told
    assert "exit status 1" in told[0] and "given_up" in told[1] and "works again" in told[2]
    assert house.record("loop")["counts"]["by hand"] == 1


def test_a_manual_restart_makes_no_death_forgotten(house: House) -> None:
    """Trap 17."""
    house.task("trader", crash_limit=2)
    kill(house.start("trader"))
    assert house.rows("watchdog", code=0)[0]["outcome"] == "started"
    house.start("trader")
    kill(house.pid("trader"))
    assert house.rows("watchdog", code=7)[0]["outcome"] == "given_up"


def test_a_start_that_keeps_failing_is_given_up_too(house: House) -> None:
    house.task("bad", ["sh", "-c", "exit 3"], verify=5, crash_limit=3)
    codes = [house.run("watchdog", "bad").returncode for _ in range(5)]
    assert codes == [1, 1, 1, 7, 7] and len(house.messages()) == 2
    house.rows("restart", "--all")
    assert house.rows("status", "bad", code=7)[0]["state"] == "given_up"
    house.task("bad")
    house.rows("restart", "bad", code=0)
    assert house.rows("status", "bad", code=0)[0]["state"] == "running"
    assert len(house.messages()) == 3


def test_a_trouble_that_was_told_but_could_not_be_recorded_has_an_end(house: House) -> None:
    house.start("trader")
    house.task("trader", ["no-such-program"])
    house.rows("restart", "trader", code=2)
    house.change_record("trader", trouble={})  # as on a full disk, or by SIGKILL before it
    house.task("trader")
    house.rows("restart", "trader", code=0)
    house.task("trader", ["no-such-program"])
    house.rows("restart", "trader", code=2)
    first, end, second = house.messages()
    assert "no-such-program" in first and "works again" in end and "no-such-program" in second


def test_one_broken_task_does_not_stop_the_others(house: House) -> None:
    house.task("a-broken", ["no-such-program"])
    assert [row["outcome"] for row in house.rows("watchdog", code=2)] == ["started", "failed"]
    house.rows("watchdog", code=2)
    assert len(house.messages()) == 1


def test_limits_need_their_samples_in_a_row(house: House, home: Path) -> None:
    house.task("big", worker("--grow", "60"), max_rss="50M", max_rss_samples=2)
    house.task("fds", worker("--fds", "60"), max_fds=50, max_rss_samples=1)
    first = house.start("big")
    house.start("fds")
    rows = {row["task"]: row for row in house.rows("watchdog")}
    assert rows["big"]["outcome"] == "running"
    assert "descriptors > 50" in rows["fds"]["reason"]
    row = house.rows("watchdog", "big", code=0)[0]
    assert row["old_pid"] == first and "MiB > 50 MiB for 2 samples" in row["reason"]
    house.task("old", max_age="0.01s")
    house.start("old")
    assert "age" in house.rows("watchdog", "old", code=0)[0]["reason"]


def test_memory_that_processes_share_is_counted_once(house: House) -> None:
    """The sum of the RSS is over the limit, the PSS is not."""
    house.task("big", worker("--grow", "60", "--child"), max_rss="110M", max_rss_samples=1)
    house.start("big")
    assert house.rows("status", "big", code=0)[0]["rss_bytes"] > 120 << 20
    assert house.rows("watchdog", "big", code=0)[0]["outcome"] == "running"
    house.task("big", worker("--grow", "60", "--child"), max_rss="50M", max_rss_samples=1)
    reason = house.rows("watchdog", "big", code=0)[0]["reason"]
    assert reason.startswith("RSS 1") and "PSS" in reason and reason.endswith("> 50 MiB")


def test_a_silent_heartbeat_restarts_but_not_before_its_time(house: House, home: Path) -> None:
    beat = home / "beat"
    beat.touch()
    os.utime(beat, (1, 1))  # from before the start: the start is the floor
    house.task("hung", heartbeat=beat, heartbeat_max_age=2)
    house.start("hung")
    assert house.rows("watchdog", "hung", code=0)[0]["outcome"] == "running"
    wait_until(lambda: house.rows("watchdog", "hung", code=0)[0]["outcome"] == "restarted")
    assert "silent" in house.events("hung", "restart")[0]["reason"]


def test_a_heartbeat_of_the_future_is_given_time(house: House, home: Path) -> None:
    beat = home / "beat"
    house.task("hung", heartbeat=beat, heartbeat_max_age=1)
    house.start("hung")
    beat.touch()
    os.utime(beat, (time.time() + 9999,) * 2)
    wait_until(lambda: house.rows("watchdog", "hung", code=0)[0]["outcome"] == "restarted")


@pytest.mark.skipif(not shutil.which("faketime"), reason="faketime is not installed")
@pytest.mark.parametrize("step", ["+5h", "-5h"])
def test_a_step_of_the_clock_restarts_nobody(house: House, home: Path, step: str) -> None:
    """Trap 2: a process is known by ticks since boot; a heartbeat gets a second look."""
    beat = home / "beat"
    house.task("trader", heartbeat=beat, heartbeat_max_age="1s", max_age="3h")
    pid = house.start("trader")
    wait_until(lambda: house.rows("status", code=0)[0]["uptime_seconds"] > 1)
    beat.touch()
    command = ["faketime", "-f", step, sys.executable, ROOT / "bin" / "watchdog.py"]
    environment = {"PATH": "/usr/bin:/bin", "UPKEEP_CONFIG": str(house.config)}
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert house.copies("trader") == [pid]


def test_a_frozen_program_is_left_to_whoever_froze_it(house: House) -> None:
    """Trap 14."""
    house.task("trader", max_age="0.01s")
    pid = house.start("trader")
    os.kill(pid, signal.SIGSTOP)
    row = house.rows("watchdog", code=1)[0]
    assert row["outcome"] == "running" and "frozen" in row["detail"] and is_running(pid)


def test_dry_run_says_what_it_would_do(house: House) -> None:
    kill(house.start("trader"))
    before = house.record("trader")
    result = house.run("watchdog", "--dry-run")
    assert "start:" in result.stdout and "137 (KILL)" in result.stdout and result.returncode == 0
    assert house.record("trader") == before and house.copies("trader") == []


def test_linger_reacts_at_once_and_ends(house: House) -> None:
    first = house.start("trader")
    environment = {**os.environ, "UPKEEP_CONFIG": str(house.config)}
    script = ROOT / "bin" / "watchdog.py"
    lingering = subprocess.Popen([sys.executable, script, "--linger", "4"], env=environment)
    wait_until(lambda: "poll" in Path(f"/proc/{lingering.pid}/wchan").read_text())
    kill(first)
    wait_until(lambda: house.record("trader")["pid"] not in (0, first))
    assert lingering.poll() is None
    assert lingering.wait(60) == 0
    assert len(house.copies("trader")) == 1
    log = (house.state / "log" / "upkeep.log").read_text()
    assert "watchdog trader: started" in log


def test_linger_ends_with_the_status_of_its_end(house: House) -> None:
    house.task("trader", ["sh", "-c", "sleep 0.1; exit 1"], verify=0, crash_limit=2)
    result = house.run("watchdog", "--linger", "3")
    assert result.returncode == 7 and "given_up" in result.stderr


def test_a_wrong_clock_of_an_earlier_boot_blocks_nothing(house: House) -> None:
    """Deaths of the future are not recent, and a breaker that opens in the future is over."""
    house.task("trader", crash_limit=2)
    future = {"time": time.time() + 9e6, "boot_id": "earlier", "uptime": 1.0}
    kill(house.start("trader"))
    lines = [json.dumps({**future, "task": "trader", "event": "death"})] * 5
    with open(house.state / "restarts.jsonl", "a") as file:
        file.write("\n".join(lines) + "\n")
    assert house.rows("watchdog", code=0)[0]["outcome"] == "started"
    kill(house.pid("trader"))
    trouble = {"tripped": True, "given_up": future}
    house.change_record("trader", pid=0, trouble=trouble)
    assert house.rows("watchdog")[0]["outcome"] == "started"


def test_a_frozen_program_is_told_once_and_status_says_so(house: House) -> None:
    house.task("trader", crash_window="0.1s")
    pid = house.start("trader")
    os.kill(pid, signal.SIGSTOP)
    for _ in range(2):
        house.rows("watchdog", code=1)
    assert len(house.messages()) == 1 and "frozen" in house.messages()[0]
    row = house.rows("status", code=1)[0]
    assert row["state"] == "failing" and "frozen" in row["detail"]
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: house.run("watchdog").returncode == 0)
    assert len(house.messages()) == 2 and "works again" in house.messages()[1]


def test_linger_keeps_a_task_that_was_restarted_by_hand(house: House) -> None:
    """Its own tick is busy then; a loop of another task delays nobody."""
    house.task("loop", ["false"], verify=0, crash_limit=1000)
    house.start("trader")
    environment = {**os.environ, "UPKEEP_CONFIG": str(house.config)}
    command = [sys.executable, ROOT / "bin" / "watchdog.py", "--linger", "60"]
    null = subprocess.DEVNULL
    lingering = subprocess.Popen(command, env=environment, stdout=null, stderr=null)
    try:
        wait_until(lambda: len(house.events("loop", "start", "death")) >= 4)
        house.task("trader", verify=1)
        second = house.start("trader")
        began = time.monotonic()
        kill(second)
        wait_until(lambda: house.record("trader")["pid"] not in (0, second), timeout=30)
        assert time.monotonic() - began < 4 and lingering.poll() is None
    finally:
        lingering.terminate()
        lingering.wait()


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis is not installed")
def test_a_child_that_hides_where_it_comes_from_is_stopped_too(house: House) -> None:
    """redis-server overwrites its environment; its starter is lost, but both wrote one log."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code = f"import subprocess; subprocess.run(['redis-server', '--port', '{port}', '--save', ''])"
    ready = {"tcp": f"127.0.0.1:{port}"}
    house.task("db", [sys.executable, "-c", code], ready=ready)
    for script in ("stop", "watchdog"):
        house.rows("restart", "db", code=0)
        kill(house.pid("db"))
        house.run(script, "db")
        if script == "watchdog":
            assert house.rows("status", "db", code=0)[0]["processes"] == 2
            continue
        with socket.create_server(("127.0.0.1", port)):
            pass  # nobody holds the port
    house.run("stop", "db")


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis is not installed")
def test_a_daemon_with_a_pid_file_and_a_title_of_its_own_is_adopted(
    house: House, home: Path
) -> None:
    """Debian's redis-server is a link to another program; its second process has no status."""
    own = home / "redis.pid"
    options = ["--port", "0", "--unixsocket", f"{home}/s", "--save", "", "--daemonize", "yes"]
    subprocess.run(["redis-server", *options, "--pidfile", own], check=True, capture_output=True)
    wait_until(lambda: own.exists() and own.read_text().strip())
    first = int(own.read_text())
    house.task("db", ["redis-server", *options, "--pidfile", str(own)], pid_file=own)
    assert house.rows("watchdog", "db", code=0)[0]["old_pid"] == first
    row = house.rows("restart", "db", code=0)[0]
    assert row["old_pid"] == first and not is_running(first)
    kill(row["new_pid"])
    reason = house.rows("watchdog", "db")[0]["reason"]
    assert "unknown" in reason and "status 0" not in reason
    house.run("stop", "db")
