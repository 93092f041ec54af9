"""restart.py: stops safely, starts cleanly, verifies, and puts on record what it did."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT, is_running, wait_until
from tests.helpers.house import House, gone, kill, worker


def test_starts_records_and_replaces(house: House) -> None:
    first = house.start("trader")
    assert house.pid("trader") == first == house.record("trader")["pid"]
    row = house.rows("restart", "trader", "--reason", "nightly", code=0)[0]
    assert (row["outcome"], row["old_pid"], row["reason"]) == ("restarted", first, "nightly")
    assert row["downtime_seconds"] < row["stop_seconds"] + 5 and row["rss_before_bytes"] > 1 << 20
    assert not is_running(first) and house.copies("trader") == [row["new_pid"]]
    assert [each["reason"] for each in house.events("trader", "restart")] == ["nightly"]


def test_is_silent_on_success(house: House) -> None:
    result = house.run("restart", "trader")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(house: House, closed: str) -> None:
    command = f"exec {sys.executable} {ROOT}/bin/restart.py --config {house.config} trader {closed}"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    wait_until(lambda: "ready" in house.log("trader"))
    held = sorted(Path(f"/proc/{house.pid('trader')}/fd").iterdir())
    log = str(house.state / "log" / "trader.log")
    assert [os.readlink(each) for each in held] == [os.devnull, log, log]


def test_dry_run_names_everything_and_changes_nothing(house: House) -> None:
    pid = house.start("trader")
    before = house.record("trader"), sorted(house.state.rglob("*"))
    result = house.run("restart", "trader", "--dry-run")
    assert result.returncode == 0
    assert f"send TERM to pid {pid}" in result.stdout and "worker.py" in result.stdout
    assert (house.record("trader"), sorted(house.state.rglob("*"))) == before and is_running(pid)


def test_the_program_gets_a_clean_slate(house: House, home: Path) -> None:
    """Traps 11 to 13: no ignored signal, no descriptor, no variable of the caller's reaches it."""
    (home / "secrets").write_text("FROM_FILE='a b'\nTZ=UTC\n")
    house.task(
        "clean",
        worker("--print-environment"),
        env={"PLACE": str(home), "TZ": "Asia/Tokyo"},
        env_file=home / "secrets",
        cwd=home,
    )
    script = (
        f"trap '' TERM INT HUP; exec 7</dev/null; exec {sys.executable} {ROOT}/bin/restart.py clean"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "UPKEEP_CONFIG": str(house.config),
        "TELEGRAM_BOT_TOKEN": "123456:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    }
    subprocess.run(["sh", "-c", script], env=environment, check=True, stdin=subprocess.DEVNULL)
    about = json.loads(wait_until(lambda: house.log("clean")).splitlines()[0])
    assert set(about["env"]) - {"LC_CTYPE"} == {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"),
        *("FROM_FILE", "TZ", "PLACE", "UPKEEP_TASK"),
    }
    assert (about["env"]["FROM_FILE"], about["env"]["TZ"]) == ("a b", "Asia/Tokyo")
    assert int(about["ignored"], 16) & ~0x1001000 == 0  # python itself ignores PIPE and XFSZ
    assert (about["cwd"], about["stdin"]) == (str(home), os.devnull)
    assert [fd for fd in about["fds"] if fd > 2] in ([3], [])  # 3: the listing itself


def test_arguments_arrive_as_they_are(house: House, home: Path) -> None:
    odd = "a b'c\"$HOME `id`\n\n日本語、 \\ * ;&|"
    code = "import sys; print(repr(sys.argv[1:]), flush=True); input() if 0 else None"
    house.task("odd", [sys.executable, "-c", code, odd, "", "-"], verify=0)
    house.run("restart", "odd")
    assert wait_until(lambda: house.log("odd").strip()) == repr([odd, "", "-"])


def test_a_program_that_ignores_term_is_killed_after_its_grace(house: House, home: Path) -> None:
    house.task("stub", worker("--ignore", "TERM"), stop_timeout=0.3)
    first = house.start("stub")
    row = house.rows("restart", "stub", code=0)[0]
    assert row["killed"] and row["stop_seconds"] >= 0.3 and not is_running(first)
    assert len(house.copies("stub")) == 1


def test_the_whole_family_goes_also_those_in_a_session_of_their_own(
    house: House, home: Path
) -> None:
    """Trap 5: children are found by tree and group, escapees by the tag in their environment."""
    house.task("tree", worker("--child"))
    house.task("away", worker("--setsid-child"))
    for name in ("tree", "away"):
        house.start(name)
        old = house.copies(name)
        assert len(old) == 2
        house.rows("restart", name, code=0)
        assert not any(map(is_running, old)), name
    main = house.pid("away")
    orphan = next(pid for pid in house.copies("away") if pid != main)
    kill(main)  # the tree is lost now
    house.rows("restart", "away", code=0)
    assert not is_running(orphan)


def test_an_orphan_is_known_by_the_session_and_its_own_executable(house: House) -> None:
    """Trap 5: like a worker of nginx it has no tag any more, and another log."""
    house.task("trader", worker("--hidden-child"))
    main = house.start("trader")
    lines = house.log("trader").splitlines()
    child = next(int(line.split()[1]) for line in lines if line.startswith("child"))
    wait_until(lambda: not Path(f"/proc/{child}/environ").read_bytes().strip(b"\0"))
    kill(main)
    house.rows("restart", "trader", code=0)
    assert not is_running(child)
    house.rows("stop", "trader", code=0)  # nothing else would find the new child


def test_a_frozen_program_is_stopped_within_its_grace(house: House) -> None:
    """Trap 14: TERM reaches a frozen process only when it is woken."""
    pid = house.start("trader")
    os.kill(pid, signal.SIGSTOP)
    row = house.rows("restart", "trader", code=0)[0]
    assert not row["killed"] and not is_running(pid)


def test_a_command_that_is_not_there_stops_nothing(house: House, home: Path) -> None:
    pid = house.start("trader")
    for command, why in ((["no-such-program"], "not there"), ([str(home)], "not executable")):
        house.task("trader", command)
        result = house.run("restart", "trader")
        assert result.returncode == 2 and why in result.stderr, result.stderr
        assert is_running(pid) and house.pid("trader") == pid
        assert house.run("restart", "trader", "--dry-run").returncode == 2


def test_a_start_that_fails_says_why_with_the_last_lines(house: House, home: Path) -> None:
    house.task("bad", ["sh", "-c", "echo no such pair >&2; exit 3"], verify=5)
    row = house.rows("restart", "bad", code=1)[0]
    assert "exit status 3" in row["detail"] and row["detail"].endswith("\nno such pair")
    assert not (house.state / "run" / "bad.pid").exists()
    assert len(house.messages()) == 1 and "exit status 3" in house.messages()[0]
    assert house.rows("status", "bad", code=1)[0]["state"] == "failing"


def test_a_reused_pid_is_nobody_we_know(house: House) -> None:
    """Traps 1 and 2: the same PID with other start ticks is another process."""
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        house.start("trader")
        house.run("stop", "trader")
        house.change_record("trader", pid=stranger.pid, down=False)
        (house.state / "run" / "trader.pid").write_text(f"{stranger.pid}\n")
        house.rows("restart", "trader", code=0)
        assert stranger.poll() is None and len(house.copies("trader")) == 1
    finally:
        stranger.kill()
        stranger.wait()


def test_a_record_of_another_boot_is_void(house: House) -> None:
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        house.start("trader")
        house.run("stop", "trader")
        stat = Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(stat[19])
        house.change_record(
            "trader", pid=stranger.pid, start_ticks=ticks, boot_id="other", down=False
        )
        house.rows("watchdog", code=0)
        assert stranger.poll() is None and len(house.copies("trader")) == 1
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize(
    "content",
    [b"-1\n", b"0\n", b"1\n", b"", b"text", b"12 34\n", b"\0" * 8, b"9" * 70, b"99999999\n"],
)
def test_an_odd_pid_file_is_refused(house: House, content: bytes) -> None:
    """Trap 7: nobody is signalled, nothing is started, nothing is removed."""
    path = house.state / "run" / "trader.pid"
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(content)
    for script in ("restart", "watchdog"):
        result = house.run(script, "trader")
        assert result.returncode == 3 and str(path) in result.stderr, result.stderr
        assert "not exactly one process number" in result.stderr
    assert path.read_bytes() == content and house.copies("trader") == []
    assert len(house.messages()) == 1
    assert house.rows("status", code=1)[0]["state"] == "unknown"


def test_a_pid_file_of_a_stranger_or_that_others_write_is_refused(house: House, home: Path) -> None:
    """Traps 8 and 9."""
    stranger = subprocess.Popen(["sleep", "1000"])
    path = house.state / "run" / "trader.pid"
    path.parent.mkdir(parents=True, mode=0o700)
    try:
        path.write_text(f"{stranger.pid}\n")
        assert house.run("restart", "trader").returncode == 3
        path.chmod(0o666)
        assert "everybody" in house.run("restart", "trader").stderr
        path.rename(home / "elsewhere")
        path.symlink_to(home / "elsewhere")
        assert "symbolic link" in house.run("restart", "trader").stderr
        assert stranger.poll() is None and house.copies("trader") == []
    finally:
        stranger.kill()
        stranger.wait()


def test_a_copy_started_by_hand_is_adopted_by_its_pid_file(house: House, home: Path) -> None:
    """Trap 9: user, time and command line must agree."""
    manual = subprocess.Popen(worker(), stdout=subprocess.DEVNULL)
    try:
        path = house.state / "run" / "trader.pid"
        path.parent.mkdir(parents=True, mode=0o700)
        path.write_text(f"{manual.pid}\n")
        assert house.rows("watchdog", code=0)[0]["old_pid"] == manual.pid
        assert house.rows("status", code=0)[0]["pid"] == manual.pid
        row = house.rows("restart", "trader", code=0)[0]
        assert row["old_pid"] == manual.pid and manual.wait(5) == -signal.SIGTERM
    finally:
        manual.kill()
        manual.wait()


def test_a_copy_that_outlived_the_state_directory_is_not_started_twice(house: House) -> None:
    pid = house.start("trader")
    shutil.rmtree(house.state)
    row = house.rows("watchdog", code=0)[0]
    assert (row["outcome"], row["old_pid"]) == ("running", pid)
    assert house.copies("trader") == [pid] == [house.pid("trader")]
    house.rows("restart", "trader", code=0)
    assert not is_running(pid) and len(house.copies("trader")) == 1


def test_copies_that_nobody_has_on_record_are_not_joined_by_another(house: House) -> None:
    first = house.start("trader")
    (house.state / "tasks/trader.json").unlink()
    (house.state / "run/trader.pid").unlink()
    (house.state / "log/trader.log").rename(house.state / "log/old")
    second = house.start("trader")
    (house.state / "log/old").rename(house.state / "log/trader.log")
    shutil.rmtree(house.state)
    assert "not on record" in house.rows("watchdog", code=3)[0]["detail"]
    assert sorted(house.copies("trader")) == sorted([first, second])


@pytest.mark.parametrize("doubt", ["command", "age", "user"])
def test_a_pid_file_is_doubted_when_something_disagrees(house: House, doubt: str) -> None:
    """Trap 9: each of the three proofs is needed."""
    command = ["sleep", "1000"] if doubt == "command" else worker()
    manual = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        path = house.state / "run" / "trader.pid"
        path.parent.mkdir(parents=True, mode=0o700)
        path.write_text(f"{manual.pid}\n")
        if doubt == "age":  # written before it started
            os.utime(path, (time.time() - 100,) * 2)
        if doubt == "user":
            if os.geteuid() != 0:
                pytest.skip("needs root")
            house.task("trader", user="daemon")
        result = house.run("restart", "trader")
        assert result.returncode == 3 and f"its pid {manual.pid}" in result.stderr
        assert manual.poll() is None and house.copies("trader") == []
    finally:
        manual.kill()
        manual.wait()


@pytest.mark.parametrize(
    "command", ["{worker}", "exec {worker}", "cd / && exec {worker}", "{worker}; true"]
)
def test_a_shell_command_has_the_pid_of_its_program(house: House, command: str) -> None:
    """Trap 15: the PID is the program's where the shell can be replaced, else the shell's."""
    house.task("trader", command.format(worker=" ".join(worker())), shell=True)
    pid = house.start("trader") if not command.endswith("true") else 0
    row = house.rows("restart", "trader", code=0)[0]
    wait_until(gone(pid)) if pid else None
    program = os.path.realpath(f"/proc/{row['new_pid']}/exe")
    assert (program == os.path.realpath("/bin/sh")) == command.endswith("true")
    house.rows("stop", "trader", code=0)
    assert house.copies("trader") == []


def test_a_stale_pid_file_is_no_process(house: House) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    path = house.state / "run" / "trader.pid"
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_text(f"{ended.pid}\n")
    house.rows("restart", "trader", code=0)
    assert len(house.copies("trader")) == 1


@pytest.mark.parametrize("pid_file", ["own", "none"])
def test_a_program_that_daemonises_itself_is_followed(
    house: House, home: Path, pid_file: str
) -> None:
    """Trap 15: the first process ends with 0, its grandchild goes on."""
    own = home / "own.pid"
    options = {"pid_file": own} if pid_file == "own" else {}
    options |= {"verify": 1}
    command = worker("--daemon", str(own) if pid_file == "own" else "-")
    house.task("daemon", command, **options)
    row = house.rows("restart", "daemon", code=0)[0]
    assert house.copies("daemon") == [row["new_pid"]]
    second = house.rows("restart", "daemon", code=0)[0]
    assert second["old_pid"] == row["new_pid"] and len(house.copies("daemon")) == 1
    kill(second["new_pid"])
    assert house.rows("watchdog", "daemon", code=0)[0]["outcome"] == "started"


def test_state_files_go_only_while_stopped_and_never_through_symlinks(
    house: House, home: Path
) -> None:
    kept, stale = home / "kept", home / "stale"
    for place in (kept, stale):
        place.mkdir()
        (place / "old").write_text("x")
        os.utime(place / "old", (1, 1))
    (stale / "new").write_text("x")
    (stale / "link").symlink_to(kept / "old")
    (home / "way").symlink_to(kept)
    house.task("trader", state_files=[f"{home}/stale/*", f"{home}/way/*"])
    assert str(stale / "old") in house.run("restart", "trader", "--dry-run").stdout
    assert (stale / "old").exists()
    house.start("trader")
    assert sorted(each.name for each in stale.iterdir()) == ["link", "new"]
    assert (kept / "old").exists()


def test_conditions_decide_whether_it_restarts(house: House) -> None:
    pid = house.start("trader")
    row = house.rows("restart", "trader", "--if-rss-above", "4G", "--if-older-than", "1d", code=0)
    assert row[0]["outcome"] == "not_needed" and is_running(pid)
    row = house.rows("restart", "trader", "--if-rss-above", "1M", code=0)
    assert row[0]["outcome"] == "restarted" and "> 1" in row[0]["reason"]
    row = house.rows("restart", "trader", "--if-older-than", "0.01s", code=0)
    assert row[0]["outcome"] == "restarted" and "age" in row[0]["reason"]
    kill(house.pid("trader"))
    row = house.rows("restart", "trader", "--if-rss-above", "4G", code=0)
    assert row[0]["outcome"] == "started"


@pytest.mark.parametrize("condition", ["--if-rss-above=1G", "--if-older-than=1d", "--when-quiet"])
def test_a_condition_never_starts_what_was_stopped_on_purpose(house: House, condition: str) -> None:
    house.start("trader")
    house.run("stop", "trader")
    assert house.rows("restart", "trader", condition, code=0)[0]["outcome"] == "not_needed"
    assert house.copies("trader") == []


def test_when_quiet_leaves_a_mark_that_the_watchdog_honours(house: House) -> None:
    house.task("trader", quiet_load=0)
    first = house.start("trader")
    row = house.rows("restart", "trader", "--when-quiet", "--deadline", "1h", code=5)[0]
    assert row["outcome"] == "deferred" and is_running(first)
    assert house.rows("watchdog", code=0)[0]["old_pid"] == first and is_running(first)
    house.task("trader", quiet_load=1000)
    row = house.rows("watchdog", code=0)[0]
    assert row["outcome"] == "restarted" and "quiet" in row["reason"]
    house.task("trader", quiet_load=0)
    house.rows("restart", "trader", "--when-quiet", "--deadline", "0s", code=5)
    assert "deadline" in house.rows("watchdog", code=0)[0]["reason"]
    assert house.rows("watchdog", code=0)[0]["outcome"] == "running"  # once


def test_a_second_mark_comes_due_sooner_but_never_later(house: House) -> None:
    house.task("trader", quiet_load=0)
    house.start("trader")
    for deadline in ("2h", "1h", "3h"):
        house.rows("restart", "trader", "--when-quiet", "--deadline", deadline, code=5)
    record = json.loads((house.state / "tasks" / "trader.json").read_text())
    assert record["due"]["wait"] == 3600.0


def test_all_passes_over_tasks_that_are_down_and_orders_by_depends(house: House) -> None:
    house.task("web", depends=["db"])
    house.task("db")
    house.run("stop", "trader")
    rows = house.rows("restart", "--all", code=0)
    assert [(row["task"], row["outcome"]) for row in rows] == [
        ("trader", "not_needed"),
        ("db", "started"),
        ("web", "started"),
    ]
    house.task("db", depends=["web"])
    assert "circle" in house.run("restart", "--all").stderr


def test_every_trap_of_the_docs_names_its_test() -> None:
    named = re.findall(r"`(test_\w+)` \|$", (ROOT / "docs/restart.md").read_text(), re.MULTILINE)
    code = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) == 20 and [name for name in named if f"def {name}(" not in code] == []


def test_usage_errors(house: House) -> None:
    assert house.run("restart").returncode == 2
    assert house.run("restart", "--all", "trader").returncode == 2
    assert 'no task "nobody"' in house.run("restart", "nobody").stderr


@pytest.mark.parametrize("who", ["own", "stranger", "nobody"])
def test_a_port_counts_only_when_the_program_itself_listens(
    house: House, home: Path, who: str
) -> None:
    """Trap 16: an old copy or a stranger on the port proves nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if who != "stranger":
            server.close()
        options = ["--listen", str(port)] if who == "own" else []
        ready = {"tcp": f"127.0.0.1:{port}", "timeout": 20 if who == "own" else 0.3}
        house.task("web", worker(*options), ready=ready)
        row = house.rows("restart", "web", code=0 if who == "own" else 1)[0]
    if who != "own":
        assert f"listens on 127.0.0.1:{port}" in row["detail"]
        named = f"pid {os.getpid()} (" in row["detail"] and ") has it" in row["detail"]
        assert named == (who == "stranger")
        assert house.rows("status", "web", code=1)[0]["state"] == "failing"
        assert house.rows("watchdog", "web", code=1)[0]["outcome"] == "running"


def test_whoever_has_the_port_of_a_program_that_ended_is_named(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            "import socket, sys\ntry: socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
            "except OSError as error: sys.exit(str(error))"
        )
        command = [sys.executable, "-c", code, str(port)]
        house.task("web", command, verify=5, ready={"tcp": f"127.0.0.1:{port}"})
        detail = house.rows("restart", "web", code=1)[0]["detail"]
    assert "exit status 1" in detail and "Address already in use" in detail
    assert f"pid {os.getpid()} (" in detail and ") had its port" in detail


def test_ready_by_log_file_and_command(house: House, home: Path) -> None:
    house.task("log", ready={"log": "^ready", "timeout": 20})
    house.rows("restart", "log", code=0)
    house.rows("restart", "log", code=0)
    house.task("log", ready={"log": "^never", "timeout": 0.2})
    assert "no line that matches" in house.rows("restart", "log", code=1)[0]["detail"]
    house.task("file", ["sh", "-c", f"echo > {home}/up; sleep 100"], ready={"file": home / "up"})
    house.rows("restart", "file", code=0)
    house.task("command", ready={"command": ["false"], "timeout": 0.2})
    assert "false said 1" in house.rows("restart", "command", code=1)[0]["detail"]


def test_a_log_line_of_an_earlier_copy_proves_nothing(house: House) -> None:
    """Trap 16."""
    house.start("trader")
    house.task("trader", ["sleep", "1000"], ready={"log": "^ready", "timeout": 0.2})
    assert "no line that matches" in house.rows("restart", "trader", code=1)[0]["detail"]


def test_rights_and_limits_are_the_tasks_own(house: House, home: Path) -> None:
    code = "umask; ulimit -n; id -un; id -Gn; cut -d' ' -f19 /proc/self/stat; exec sleep 1000"
    keys = {"umask": "027", "nice": 5, "limits": {"nofile": 77}}
    root = os.geteuid() == 0
    house.task("own", ["sh", "-c", code], **keys, **({"user": "nobody"} if root else {}))
    house.rows("restart", "own", code=0)
    lines = wait_until(lambda: house.log("own").splitlines()[:5])
    assert (lines[0], lines[1], lines[4]) == ("0027", "77", "5")
    if root:
        assert (lines[2], lines[3]) == ("nobody", "nogroup")
    house.task("own", ["sh"], user="no-such-user")
    assert house.run("restart", "own").returncode == 2


def test_signals_reach_only_the_adopted_process_and_its_children(house: House, home: Path) -> None:
    """Trap 6: an adopted program may sit in a group with strangers; no group is ever signalled."""
    house.task("trader", worker("--child"))
    code = f"exec {' '.join(worker('--child'))} > {home}/out"
    shell = subprocess.Popen(["sh", "-c", code], process_group=0)
    neighbour = subprocess.Popen(["sleep", "1002"], process_group=shell.pid)
    try:
        wait_until(lambda: (home / "out").exists() and "ready" in (home / "out").read_text())
        path = house.state / "run" / "trader.pid"
        path.parent.mkdir(parents=True, mode=0o700)
        path.write_text(f"{shell.pid}\n")
        house.rows("stop", "trader", code=0)
        assert shell.wait(5) == -signal.SIGTERM and neighbour.poll() is None
        lines = (home / "out").read_text().splitlines()
        child = next(int(line.split()[1]) for line in lines if line.startswith("child"))
        assert not is_running(child)
    finally:
        neighbour.kill()
        neighbour.wait()
        shell.kill()
        shell.wait()


def test_a_renamed_task_is_taken_over_and_not_started_twice(house: House) -> None:
    pid = house.start("trader")
    house.remove("trader")
    house.task("bot")
    rows = house.rows("watchdog", code=0)
    assert [(row["task"], row["old_pid"]) for row in rows] == [("bot", pid)]
    assert house.rows("status", code=0)[0]["pid"] == pid
    house.rows("restart", "bot", code=0)
    assert not is_running(pid) and house.copies("trader") == []


def test_a_removed_task_is_shown_and_can_be_stopped(house: House) -> None:
    pid = house.start("trader")
    house.remove("trader")
    row = house.rows("status")[0]
    assert row["pid"] == pid and "no longer in upkeep.toml" in row["detail"]
    house.rows("stop", "trader", code=0)
    assert not is_running(pid)


def test_many_callers_at_once_make_one_copy(house: House) -> None:
    environment = {**os.environ, "UPKEEP_CONFIG": str(house.config)}
    script = ROOT / "bin" / "restart.py"
    callers = [
        subprocess.Popen([sys.executable, script, "trader"], env=environment, stderr=-3)
        for _ in range(12)
    ]
    assert {caller.wait(60) for caller in callers} <= {0, 4}
    assert len(house.copies("trader")) == 1


def test_a_full_disk_leaves_the_old_copy_alone(house: House) -> None:
    """Trap 10: what cannot be put on record is not begun."""
    pid = house.start("trader")
    (house.state / "tasks").rename(house.state / "away")
    (house.state / "tasks").write_text("in the way")
    result = house.run("restart", "trader")
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert is_running(pid) and len(house.copies("trader")) == 1


def test_a_killed_restart_is_finished_by_the_next_tick(house: House, home: Path) -> None:
    house.task("slow", worker("--ignore", "TERM"), stop_timeout=1)
    first = house.start("slow")
    environment = {**os.environ, "UPKEEP_CONFIG": str(house.config)}
    caller = subprocess.Popen(
        [sys.executable, ROOT / "bin" / "restart.py", "slow"], env=environment
    )
    wait_until(lambda: house.record("slow")["stopping"])
    kill(caller.pid)
    caller.wait()
    row = house.rows("watchdog", "slow", code=0)[0]
    assert row["outcome"] == "restarted" and not is_running(first)
    assert len(house.copies("slow")) == 1 and house.events("slow", "death") == []


def test_restart_from_inside_the_task_works(house: House, home: Path) -> None:
    """The script is a descendant of what it stops: it must not stop itself."""
    inner = f"UPKEEP_CONFIG={house.config} {sys.executable} {ROOT}/bin/restart.py me"
    marker = home / "done"
    code = f"[ -e {marker} ] || {{ touch {marker}; {inner}; }}; sleep 1000"
    house.task("me", ["sh", "-c", code])
    first = house.rows("restart", "me", code=0)[0]["new_pid"]
    wait_until(gone(first))
    wait_until(lambda: house.pid("me") != first and is_running(house.pid("me")))


def test_the_log_is_appended_to_and_time_is_told(house: House) -> None:
    house.start("trader")
    began = time.time()
    house.start("trader")
    assert house.log("trader").count("ready") == 2
    assert house.events("trader", "restart")[0]["time"] >= began - 1


def test_what_a_program_wrote_cannot_move_the_cursor(house: House) -> None:
    house.task("evil", ["sh", "-c", r"printf '\033[2Jgone\n'; exit 3"], verify=5)
    result = house.run("restart", "evil")
    assert "\x1b" not in result.stderr and r"\x1b[2Jgone" in result.stderr


def test_a_leak_is_a_reason_to_restart(house: House) -> None:
    pid = house.start("trader")
    row = house.rows("restart", "trader", "--if-leaking", code=0)[0]
    assert row["outcome"] == "not_needed"
    write_trend(house, "trader", pid)
    row = house.rows("restart", "trader", "--if-leaking", code=0)[0]
    assert row["old_pid"] == pid and "leak" in row["reason"]
    row = house.rows("restart", "trader", "--if-leaking", code=0)[0]
    assert row["outcome"] == "not_needed"  # that was the trend of the earlier copy
    write_trend(house, "trader", house.pid("trader"))
    house.task("trader", max_rss="4G", restart_before_limit="1h", quiet_load=1000)
    assert house.rows("watchdog", code=0)[0]["outcome"] == "running"
    house.change_record("trader", over={})
    house.task("trader", max_rss="4G", restart_before_limit="999d", quiet_load=1000)
    assert "at its limit in" in house.rows("watchdog", code=0)[0]["reason"]
    assert house.rows("watchdog", code=0)[0]["outcome"] == "running"


def write_trend(house: House, name: str, pid: int) -> None:
    """Samples of a day in which the program grew by 2 MiB every five minutes."""
    rows = []
    for number in range(288):
        programs = [[name, pid, 10_000_000, 1, 50_000 + 2048 * number]]
        at = {"time": time.time() - 300 * (288 - number), "uptime": 100_000 + 300 * number}
        row = {**at, "boot_id": "b", "swapped": 0, "disks": {}, "programs": programs}
        rows.append(json.dumps(row))
    (house.state / "memory").mkdir(mode=0o700, exist_ok=True)
    file = house.state / "memory" / f"{time.strftime('%Y-%m-%d')}.jsonl"
    file.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("name", ["line", "pid", "n", "_", "PATH"])
def test_every_variable_reaches_the_program(house: House, home: Path, name: str) -> None:
    """Also one that the shell which waits for the command could have used itself."""
    house.task("vars", worker("--print-environment"), env={name: "mine", "PLACE": str(home)})
    house.rows("restart", "vars", code=0)
    about = json.loads(wait_until(lambda: house.log("vars")).splitlines()[0])
    assert about["env"][name] == "mine"


def test_a_variable_that_cannot_be_passed_on_is_refused(house: House, home: Path) -> None:
    (home / "secrets").write_text("API.KEY=1\n")
    house.task("trader", env_file=home / "secrets")
    result = house.run("restart", "trader")
    assert result.returncode == 2 and "API.KEY" in result.stderr and house.copies("trader") == []
    (home / "secrets").write_bytes(b"KEY=\xff\n")
    result = house.run("restart", "trader")
    assert result.returncode == 2 and f"env_file {home / 'secrets'}: " in result.stderr


def test_a_key_that_cannot_be_fulfilled_is_named(house: House, home: Path) -> None:
    pid = house.start("trader")
    (home / "env").write_bytes(b"\xff")
    for keys, why in (
        ({"limits": {"nofile": 1 << 40}}, "limits: nofile = 1099511627776"),
        ({"env_file": home / "env"}, f"env_file {home}/env"),
        ({"cwd": home / "nowhere"}, f"{home}/nowhere"),
    ):
        house.task("trader", **keys)
        result = house.run("restart", "trader")
        assert result.returncode == 2 and why in result.stderr, result.stderr
    assert house.copies("trader") == [pid]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
class TestAnotherUser:
    """What the user of a task lays out must not lead root astray."""

    @pytest.fixture
    def theirs(self, home: Path) -> Path:
        for each in (home, *home.parents[:3]):
            if each.stat().st_uid == 0 and each != Path("/tmp"):
                each.chmod(0o711)
        place = home / "theirs"
        place.mkdir()
        os.chown(place, 65534, 65534)
        return place

    def test_the_check_has_the_rights_and_variables_of_the_task(
        self, house: House, theirs: Path
    ) -> None:
        script = "(id -un; id -Gn; pwd; env) > out"
        keys = {"user": "nobody", "cwd": theirs, "env": {"PLACE": str(theirs)}}
        house.task("web", ["sleep", "1000"], ready={"command": ["sh", "-c", script]}, **keys)
        result = house.run("restart", "web", env={"TELEGRAM_CHAT_ID": "77"})
        assert result.returncode == 0, result.stderr
        lines = (theirs / "out").read_text().splitlines()
        assert lines[:3] == ["nobody", "nogroup", str(theirs)]
        assert f"PLACE={theirs}" in lines and "TELEGRAM_CHAT_ID=77" not in lines

    def test_links_are_followed_only_with_the_rights_of_the_task(
        self, house: House, theirs: Path, home: Path
    ) -> None:
        (home / "secret").write_text("KEY=secret\n")
        (home / "secret").chmod(0o600)
        (theirs / "env").symlink_to(home / "secret")
        os.chown(theirs / "env", 65534, 65534, follow_symlinks=False)
        (theirs / "logs").symlink_to(house.state)
        os.chown(theirs / "logs", 65534, 65534, follow_symlinks=False)
        for keys in ({"env_file": theirs / "env"}, {"log": theirs / "logs" / "new.log"}):
            house.task("web", ["sleep", "1000"], user="nobody", **keys)
            result = house.run("restart", "web")
            assert result.returncode != 0 and "ermission denied" in result.stderr, result.stderr
        assert not (house.state / "new.log").exists()
        os.chown(home / "secret", 1, 1)  # in a directory of root's it stays what root has named
        keys = {"env_file": home / "secret", "log": theirs / "own.log"}
        house.task("web", ["sleep", "1000"], user="nobody", **keys)
        assert house.run("restart", "web").returncode == 0
        assert (theirs / "own.log").stat().st_uid == 65534


@pytest.mark.parametrize("change", ["place", "program", "user"])
def test_a_task_that_may_be_the_running_one_is_not_started(
    house: House, home: Path, change: str
) -> None:
    """Renamed and moved at the same time: it could be a second copy, so a person decides."""
    house.task("trader", cwd=home)
    house.task("other", cwd="/usr")
    house.start("other")
    pid = house.start("trader")
    house.remove("trader")
    cwd, user = ("/" if change == "place" else home), ("nobody" if change == "user" else "")
    house.task("bot", worker("--child") if change == "program" else None, cwd=cwd, user=user)
    for script in ("watchdog", "restart", "stop"):
        result = house.run(script, "bot")
        assert result.returncode == 3 and f"pid {pid}" in result.stderr, result.stderr
        assert "stop.py trader" in result.stderr
    assert is_running(pid) and house.copies("bot") == [] and len(house.messages()) == 1
    rows = {row["task"]: row for row in house.rows("status", code=1)}
    assert rows["bot"]["state"] == "unknown" and "stop.py trader" in rows["bot"]["detail"]
    house.rows("stop", "trader", code=0)
    house.task("bot", cwd=home)
    assert house.rows("watchdog", "bot", code=0)[0]["outcome"] == "started"


def test_what_is_taken_over_by_another_task_holds_up_no_third(house: House, home: Path) -> None:
    house.task("web", worker("--child"), cwd=home)
    house.start("web")
    house.remove("web")
    house.task("a-new-one", cwd=home)
    house.task("web2", worker("--child"), cwd=home)
    rows = {row["task"]: row["outcome"] for row in house.rows("watchdog", code=0)}
    assert (rows["a-new-one"], rows["web2"]) == ("started", "running")


def test_another_manager_does_not_start_what_still_runs(house: House) -> None:
    pid = house.start("trader")
    house.tasks["trader"] = '[task.trader]\nmanager = "pm2"\napp = "trader"'
    house.configure()
    for script in ("watchdog", "restart", "stop"):
        result = house.run(script, "trader")
        assert result.returncode == 3 and f"pid {pid}" in result.stderr, result.stderr
    assert is_running(pid)


def test_a_rename_takes_all_files_along(house: House) -> None:
    pid = house.start("trader")
    house.remove("trader")
    house.task("bot")
    house.rows("watchdog", code=0)
    assert house.pid("bot") == pid and not (house.state / "run" / "trader.pid").exists()
    kill(pid)
    assert "137 (KILL)" in house.rows("watchdog", code=0)[0]["reason"]


def test_what_the_dying_copy_wrote_proves_nothing(house: House, home: Path) -> None:
    code = f"trap 'touch {home}/up; echo disconnected; exit' TERM; echo ready $$; "
    house.task("bot", ["sh", "-c", code + "while :; do sleep 0.05; done"])
    for ready in ({"log": "connected"}, {"file": home / "up"}):
        house.task("bot", ["sh", "-c", code + "while :; do sleep 0.05; done"])
        house.start("bot")
        house.task("bot", ["sleep", "1000"], ready={**ready, "timeout": 0.3})
        assert house.rows("restart", "bot", code=1)[0]["detail"]
        assert "disconnected" in house.log("bot")


def test_a_listener_on_a_mapped_address_counts(house: House) -> None:
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::ffff:127.0.0.1", 0))
        port = server.getsockname()[1]
    code = (
        "import socket, time; s = socket.socket(socket.AF_INET6);"
        f"s.bind(('::ffff:127.0.0.1', {port})); s.listen(); time.sleep(1000)"
    )
    house.task("java", [sys.executable, "-c", code], ready={"tcp": f"127.0.0.1:{port}"})
    house.rows("restart", "java", code=0)


@pytest.mark.parametrize(
    ("key", "value"), [("state_files", ["relative/*"]), ("depends", ["nobody"])]
)
def test_what_could_never_work_is_refused(house: House, key: str, value: list[str]) -> None:
    house.task("trader", **{key: value})
    result = house.run("restart", "trader")
    assert result.returncode == 2 and key in result.stderr


def test_a_dry_run_of_what_never_ran_writes_nothing(house: House, home: Path) -> None:
    house.task("trader", log=home / "elsewhere" / "new.log")
    result = house.run("restart", "trader", "--dry-run")
    assert result.returncode == 0 and "start:" in result.stdout
    assert not (home / "elsewhere").exists()
    assert {each.name for each in house.state.iterdir()} <= {"lock", "log"}
