import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers import is_running, wait_until
from upkeep import proc


def test_an_identity_is_of_one_process_only(child: "subprocess.Popen[bytes]") -> None:
    identity = proc.identify(child.pid)
    assert identity is not None
    assert proc.is_alive(identity)
    assert not proc.is_alive(identity._replace(start_ticks=identity.start_ticks + 1))
    assert not proc.is_alive(identity._replace(boot_id="another boot"))


@pytest.mark.parametrize(
    "name", ["plain", "two words", "a) S 1 1 1", "((", ") 0 (", "new\nline", "caf\udce9"]
)
def test_a_hostile_name_does_not_move_the_fields(name: str) -> None:
    line = f"42 ({name}) S 7 8 9 0 -1 4194304 1 2 3 4 50 60 0 0 20 0 1 0 12345 999 3 0\n"
    stat = proc.parse_stat(line.encode("utf-8", "surrogateescape"))
    assert stat is not None
    assert (stat.pid, stat.name, stat.state, stat.parent) == (42, name, "S", 7)
    assert (stat.group, stat.session, stat.start_ticks, stat.cpu_ticks) == (8, 9, 12345, 110)
    assert stat.rss_bytes == 3 * proc.PAGE_BYTES


@pytest.mark.parametrize("line", [b"", b"42 (x", b"42 (x) S 1", b"x (y) S " + b"z " * 30])
def test_a_torn_stat_line_is_no_process(line: bytes) -> None:
    assert proc.parse_stat(line) is None


def test_one_pass_finds_the_family() -> None:
    parent = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        table = proc.scan()
        assert parent.pid in proc.descendants(table, os.getpid())
        assert proc.descendants(table, parent.pid) == [grandchild]
        assert table[grandchild].parent == parent.pid
    finally:
        os.kill(grandchild, signal.SIGKILL)
        parent.kill()
        parent.wait()
    wait_until(lambda: not is_running(grandchild))


def test_what_a_process_shows_of_itself() -> None:
    child = subprocess.Popen(["sleep", "600"], env={"UPKEEP_TASK": "trader:abc"})
    try:
        wait_until(lambda: proc.command_line(child.pid) == ["sleep", "600"])
        assert proc.environment(child.pid) == {"UPKEEP_TASK": "trader:abc"}
        assert proc.owner(child.pid) == os.getuid()
        assert proc.count_fds(child.pid) == 3
        stat = proc.read_stat(child.pid)
        assert stat is not None and 0 <= proc.age_seconds(stat) < 60
    finally:
        child.kill()
        child.wait()
    assert proc.command_line(child.pid) == []
    assert proc.environment(child.pid) == {}
    assert proc.count_fds(child.pid) is None
    assert proc.owner(child.pid) is None


def test_the_kernels_own_figures_can_be_read_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("123.45 99.0\n")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (x) S 1 7 7 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 400 9 5 0")
    assert proc.uptime(str(tmp_path)) == 123.45
    assert proc.boot_id(str(tmp_path)) == ""
    assert proc.scan(str(tmp_path))[7].rss_bytes == 5 * proc.PAGE_BYTES
    assert len(proc.boot_id()) == 36
