"""Hosts that get in the way: full or read-only disks, a hidden /proc, missing rights, a program
that can't be killed. Each in a mount namespace of its own, with the kernel's real behaviour."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, is_running, wait_until
from tests.helpers.house import House, kill, worker

TRY = ["unshare", "--mount", "true"]
ALLOWED = os.geteuid() == 0 and not subprocess.run(TRY, capture_output=True).returncode
pytestmark = pytest.mark.skipif(not ALLOWED, reason="mount namespaces are not allowed here")
BIN = f"{sys.executable} {ROOT}/bin"


def in_namespace(house: House, script: str) -> subprocess.CompletedProcess[str]:
    """Run shell lines where mounts are nobody else's business; BIN/x.py are the scripts."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "UPKEEP_CONFIG": str(house.config)}
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script.replace("BIN/", f"{BIN}/")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_on_a_read_only_state_plans_are_made_and_nothing_is_restarted(house: House) -> None:
    pid = house.start("trader")
    read_only = f"mount --bind -o ro {house.state} {house.state} && "
    for script in ("restart.py trader", "stop.py trader", "watchdog.py"):
        result = in_namespace(house, f"{read_only} BIN/{script} --dry-run")
        assert result.returncode == 0, result.stderr
        assert "restart" not in script or f"send TERM to pid {pid}" in result.stdout
    assert in_namespace(house, f"{read_only} BIN/status.py").returncode == 0
    for script in ("restart.py trader", "stop.py trader"):
        result = in_namespace(house, f"{read_only} BIN/{script}")
        assert result.returncode == 1 and "Read-only file system" in result.stderr
    assert house.copies("trader") == [pid]


@pytest.mark.parametrize("free", [0, 2, 6])
def test_a_full_disk_leaves_a_running_copy_and_never_two(house: House, free: int) -> None:
    """Trap 10: what can't be put on record is not begun; `free` blocks of 4 KiB take some of it."""
    house.start("trader")
    script = f"""
        mount -t tmpfs -o size=4m,mode=700 tmpfs {house.state}
        BIN/restart.py trader -v
        dd if=/dev/zero of={house.state}/fill bs=1k 2>/dev/null
        truncate -s -{free * 4}k {house.state}/fill
        BIN/restart.py trader; echo "status $?"
        BIN/watchdog.py; echo "status $?"
        cat {house.state}/run/trader.pid"""
    house.run("stop", "trader")
    result = in_namespace(house, script)
    assert "Traceback" not in result.stderr, result.stderr
    statuses = [line for line in result.stdout.splitlines() if line.startswith("status")]
    assert set(statuses) <= {"status 0", "status 1"}
    assert free or (statuses[0] == "status 1" and "No space left" in result.stderr)
    assert house.copies("trader") == [int(result.stdout.split()[-1])]


def test_what_proc_hides_is_neither_dead_nor_ours(house: House, home: Path) -> None:
    """Mount option hidepid: a process that can't be seen is not taken for one that has ended."""
    pid = house.start("trader")
    for each in (home, *home.parents):
        if each != Path("/tmp") and str(each).startswith("/tmp"):
            each.chmod(0o711)
    subprocess.run(["chown", "-R", "nobody", house.state, house.config], check=True)
    hidden = (
        "mount -t proc -o hidepid=invisible proc /proc && HOME=/nonexistent"
        " exec setpriv --reuid=nobody --regid=nogroup --clear-groups"
    )
    for script in ("restart.py trader", "watchdog.py", "stop.py trader"):
        result = in_namespace(house, f"{hidden} BIN/{script}")
        assert result.returncode == 3, result.stderr
        assert f"/proc does not show its pid {pid}" in result.stderr
    result = in_namespace(house, f"{hidden} BIN/status.py --json")
    assert json.loads(result.stdout)["results"][0]["state"] == "unknown"
    (house.state / "tasks" / "trader.json").unlink()  # the PID file alone names it, too
    result = in_namespace(house, f"{hidden} BIN/restart.py trader")
    assert result.returncode == 3 and f"pid {pid}" in result.stderr
    assert house.copies("trader") == [pid]


def test_a_zombie_that_nobody_reaps_is_not_waited_for(house: House) -> None:
    """Trap 3: PID 1 waits only for the scripts, as in a container without an init."""
    house.task("trader", worker("--daemon", "-"), verify=1, stop_timeout=60)
    first = "import subprocess, sys\nfor line in sys.argv[1:]: subprocess.run(line.split())"
    new_namespaces = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    order = ("restart", "restart", "kill", "watchdog", "stop")
    scripts = [f"{BIN}/{name}.py trader --json" for name in order]
    scripts[2] = f"pkill -KILL -F {house.state}/run/trader.pid"
    result = subprocess.run(
        [*new_namespaces, sys.executable, "-c", first, *scripts],
        env={"UPKEEP_CONFIG": str(house.config), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    documents = result.stdout.replace("}\n{", "}\0{").split("\0")
    rows = [json.loads(each)["results"][0] for each in documents]
    outcomes = [row["outcome"] for row in rows]
    assert outcomes == ["started", "restarted", "started", "stopped"], result.stderr
    assert [row.get("killed") for row in rows] == [None, False, None, False]


def test_without_the_right_to_signal_nothing_is_started(house: House) -> None:
    house.task("trader", user="daemon")
    for each in (house.place, *house.place.parents):
        if str(each).startswith("/tmp/"):
            each.chmod(0o711)
    pid = house.start("trader")
    for script in ("restart", "stop"):
        result = in_namespace(house, f"exec setpriv --bounding-set=-kill BIN/{script}.py trader")
        assert result.returncode == 6, result.stderr
        assert f"not allowed to signal pid {pid}" in result.stderr
    assert house.copies("trader") == [pid]


@pytest.mark.parametrize("log", ["readable", "hidden"])
def test_a_kill_by_the_kernel_for_want_of_memory_is_told_as_such(
    house: House, group: Path, log: str
) -> None:
    code = (
        f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()));"
        "keep = [b'x' * (1 << 20) for _ in range(200)]"
    )
    house.task("trader", [sys.executable, "-c", code], verify=0)
    house.run("restart", "trader")
    wait_until(lambda: not is_running(house.record("trader")["pid"]))
    hide = "mount --bind /dev/kmsg /dev/kmsg && mount -o remount,bind,nodev /dev/kmsg && "
    house.task("trader")
    result = in_namespace(house, f"{hide if log == 'hidden' else ''} BIN/watchdog.py -v")
    kernel = "the kernel killed it" if log == "readable" else "likely by the kernel"
    assert f"137 (KILL); {kernel}" in result.stdout, result.stdout + result.stderr


@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="mkfs.ext4 is not installed")
def test_a_program_stuck_in_the_kernel_gets_no_second_copy(house: House, home: Path) -> None:
    """Trap 4: it writes to a frozen file system, which no signal ends."""
    disk, place = home / "disk", home / "mounted"
    place.mkdir()
    disk.write_bytes(b"")
    os.truncate(disk, 4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    if subprocess.run(["mount", "-o", "loop", disk, place], check=False).returncode:
        pytest.skip("loop devices are not allowed here")
    try:
        house.task("trader", worker("--append", str(place / "data")), stop_timeout=0.2)
        pid = house.start("trader")
        subprocess.run(["fsfreeze", "--freeze", place], check=True)
        state = Path(f"/proc/{pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "D")
        result = house.run("restart", "trader")
        assert result.returncode == 6, result.stderr
        assert f"pid {pid} survives SIGKILL, state D" in result.stderr
        assert house.copies("trader") == [pid] and len(house.messages()) == 1
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", place], check=False)
        subprocess.run(["umount", "--lazy", place], check=True)
    wait_until(lambda: not is_running(pid))
    assert house.rows("watchdog", "trader")[0]["outcome"] == "started"
    kill(house.pid("trader"))
