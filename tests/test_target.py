"""The target is the process that was named, and no other."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from tests.helpers import ROOT, is_running, wait_until
from tests.helpers.house import House
from upkeep import proc, target
from upkeep.daemon import GracefulShutdown
from upkeep.errors import Exit, OperatorError


def named(**given: object) -> Namespace:
    return Namespace(
        **{"config": None, "task": None, "pid": None, "pid_file": None, "match": None} | given
    )


def refused(**given: object) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        target.find(named(**given))
    return caught.value


def test_a_pid_is_named_by_its_script(targets):
    child = targets.start("1")
    identity, name = target.find(named(pid=child.pid))
    assert identity == proc.identify(child.pid)
    assert os.path.basename(name) == "growing.py"  # others may run a copy


def test_a_pid_file_leads_to_its_process(targets, tmp_path):
    child = targets.start("1")
    (tmp_path / "pid").write_text(f"{child.pid}\n")
    assert target.find(named(pid_file=tmp_path / "pid"))[0].pid == child.pid


@pytest.mark.parametrize("content", ["", "no number", "4194305 1", "99999999999"])
def test_a_pid_file_without_a_process_is_refused(tmp_path, content):
    (tmp_path / "pid").write_text(content)
    assert refused(pid_file=tmp_path / "pid").code == Exit.PROBLEM
    assert refused(pid_file=tmp_path / "missing").code == Exit.PROBLEM


def test_match_finds_one_but_never_us_or_our_parents(targets):
    child = targets.start("1", "0.25")
    assert target.find(named(match=r"growing\.py 1 0\.25$"))[0].pid == child.pid
    word = os.urandom(8).hex()  # only the script and the shell that starts it have it
    line = f"{sys.executable} {ROOT}/bin/mem_snapshot.py --match {word}; exit $?"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"mem_snapshot: {word}: no such process runs\n")


def test_several_matches_are_listed(targets):
    children = [targets.start("1", "0.125"), targets.start("1", "0.125")]
    error = refused(match=r"growing\.py 1 0\.125$")
    assert error.code == Exit.USAGE
    assert all(str(child.pid) in str(error) for child in children)


def test_a_broken_pattern_is_a_usage_error():
    assert refused(match="(").code == Exit.USAGE


def test_an_ended_process_and_a_zombie_do_not_run(targets):
    child = targets.start("1")
    child.kill()
    wait_until(lambda: Path(f"/proc/{child.pid}/stat").read_bytes().split()[2] == b"Z")
    assert refused(pid=child.pid).code == Exit.PROBLEM
    child.wait()
    assert refused(pid=child.pid).code == Exit.PROBLEM
    assert refused(pid=-1).code == refused(pid=0).code == Exit.PROBLEM


def test_a_task_is_named_by_its_name(home):
    house = House(home)
    house.task("worker")
    assert refused(task="worker", config=str(house.config)).code == Exit.PROBLEM
    assert refused(task="another", config=str(house.config)).code == Exit.USAGE
    pid = house.start("worker")
    identity, name = target.find(named(task="worker", config=str(house.config)))
    assert (identity.pid, name) == (pid, "worker")


def test_a_reading_agrees_with_the_kernel(targets):
    child = targets.start("30")
    identity = proc.identify(child.pid)
    assert identity
    reading = target.read(identity)
    assert reading
    assert 30 << 20 < reading["uss_bytes"] <= reading["pss_bytes"] <= reading["rss_bytes"]
    assert reading["anonymous_bytes"] > 30 << 20 and reading["peak_bytes"] >= reading["rss_bytes"]
    parts = reading["anonymous_bytes"] + reading["file_bytes"] + reading["shared_bytes"]
    assert parts == reading["rss_bytes"]
    assert reading["threads"] == 1 and reading["fds"] >= 3 and reading["age_seconds"] >= 0


def test_a_reused_pid_is_not_the_target(targets):
    child = targets.start("1")
    identity = proc.identify(child.pid)
    assert identity
    assert target.read(identity._replace(start_ticks=identity.start_ticks - 1)) is None


def test_a_kernel_thread_has_no_memory_and_is_no_error():
    if not Path("/proc/2/stat").exists() or proc.command_line(2):
        pytest.skip("looking at kernel threads is not allowed here")
    identity = proc.identify(2)
    assert identity
    assert target.read(identity) is None


def test_what_may_not_be_read_is_none(targets):
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    child = targets.start("1")
    identity = proc.identify(child.pid)
    assert identity
    read, write = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.setuid(65534)
        found = target.read(identity) or {}
        os.write(write, f"{found['rss_bytes']} {found['pss_bytes']} {found['fds']}".encode())
        os._exit(0)
    os.waitpid(worker, 0)
    rss, pss, fds = os.read(read, 1000).decode().split()
    os.close(read), os.close(write)
    assert int(rss) > 1 << 20 and (pss, fds) == ("None", "None")


def test_readings_end_with_the_target(targets):
    child = targets.start("1")
    identity = proc.identify(child.pid)
    assert identity
    with GracefulShutdown() as shutdown:
        readings, ended = target.follow(identity, 0.3, 0.1, shutdown)
        assert (len(readings), ended) == (4, "complete")
        child.kill()
        wait_until(lambda: not is_running(child.pid))
        assert target.follow(identity, 60, 0.1, shutdown) == ([], "the target ended")


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot be written"):
        target.save(tmp_path / "file" / "below", {})
    target.save(None, {})
