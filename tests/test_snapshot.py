"""One look at a process: connections by state, mappings, descendants; the watchdog keeps one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from bin import install
from tests.helpers.house import House, worker
from upkeep import proc, snapshot

MIB = 1 << 20


def identity(pid: int) -> proc.Identity:
    found = proc.identify(pid)
    assert found
    return found


def test_connections_are_counted_by_state() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = snapshot.connections(os.getpid())
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            found = snapshot.connections(os.getpid())
        with socket.create_connection(server.getsockname()) as left:
            server.accept()[0].close()
            assert left.recv(1) == b""
            ended = snapshot.connections(os.getpid())
    assert before and found and ended
    assert found["LISTEN"] == before["LISTEN"] >= 1
    assert found["ESTABLISHED"] == before.get("ESTABLISHED", 0) + 2
    assert ended["CLOSE_WAIT"] == before.get("CLOSE_WAIT", 0) + 1


def test_the_largest_mappings_and_descendants_come_first(targets) -> None:
    code = """
import subprocess, sys, time
children = [subprocess.Popen([sys.executable, *sys.argv[1:], size, "0"]) for size in ("5", "30")]
time.sleep(600)
"""
    growing = targets.start("20")
    parent = subprocess.Popen(
        [sys.executable, "-c", code, growing.args[1]], stdout=subprocess.PIPE, text=True
    )
    targets.started.append(parent)
    assert parent.stdout and [parent.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    found = snapshot.details(identity(parent.pid), 1)
    (child,) = found["children"]
    assert child["program"].endswith("growing.py") and child["rss_bytes"] > 30 * MIB
    assert len(snapshot.details(identity(parent.pid), 5)["children"]) == 2
    for each in snapshot.details(identity(parent.pid), 5)["children"]:
        os.kill(each["pid"], 9)
    mappings = snapshot.mappings(growing.pid, 1000)
    assert mappings
    sizes = [each["rss_bytes"] for each in mappings]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 20 * MIB
    assert len({each["name"] for each in mappings}) == len(mappings)
    status = Path(f"/proc/{growing.pid}/smaps_rollup").read_text()
    assert sum(sizes) == int(status.partition("Rss:")[2].split()[0]) << 10


def test_what_has_ended_has_no_details(targets) -> None:
    child = targets.start("1")
    known = identity(child.pid)
    assert snapshot.details(known._replace(start_ticks=known.start_ticks - 1), 5) == {}
    child.kill()
    child.wait()
    assert snapshot.details(known, 5) == {}


def test_the_watchdog_keeps_a_look_at_what_is_over_its_limit(home: Path) -> None:
    house = House(home)
    house.task("worker", max_rss="1M", max_rss_samples=2)
    pid = house.start("worker")
    file = house.state / "snapshots" / "worker.json"
    house.rows("watchdog", code=0)
    assert not file.exists(), "one sample over the limit is none too many"
    (row,) = house.rows("watchdog", code=0)
    assert row["outcome"] == "restarted" and row["old_pid"] == pid
    (message,) = house.messages()
    assert f"snapshot {file}" in message
    found = json.loads(file.read_text())
    assert (found["program"], found["pid"]) == ("worker", pid)
    assert found["rss_bytes"] > MIB and found["mappings"] and found["children"] == []
    assert found.keys() >= {"pss_bytes", "uss_bytes", "connections", "fds", "age_seconds"}
    left = {each.name.partition(".")[0] for each in house.state.iterdir()}
    assert left <= install.STATE, "a purge would refuse to remove it"


def test_a_look_that_cannot_be_kept_stops_no_restart(home: Path) -> None:
    house = House(home)
    house.task("worker", worker(), max_rss="1M", max_rss_samples=1)
    house.start("worker")
    (house.state / "snapshots").write_text("in the way")
    (row,) = house.rows("watchdog", code=0)
    assert row["outcome"] == "restarted"
    assert "snapshot" not in house.messages()[0]
