"""Programs get the name of what they run; their processes are one row."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import is_running, wait_until
from upkeep import config, files, proc, programs

NAMES = [  # command line, name
    (["python3", "-u", "/srv/bot.py", "--fast"], "/srv/bot.py"),
    (["/usr/bin/python3.11", "-W", "error", "-X", "dev", "bot.py"], "bot.py"),
    (["python3", "-um", "http.server", "8000"], "http.server"),
    (["python3", "-m", "gunicorn", "-b", "0.0.0.0:80", "shop:app"], "shop:app"),
    (["/usr/bin/python3", "/usr/bin/gunicorn", "-w", "4", "shop:make()"], "shop:make()"),
    (["gunicorn:", "worker", "[shop:app]"], "shop:app"),
    (["uvicorn", "shop.main:app", "--port", "80"], "shop.main:app"),
    (["celery", "-A", "jobs", "worker"], "jobs"),
    (["streamlit", "run", "board.py"], "board.py"),
    (["python3", "-c", "import time\ntime.sleep(60)"], "python -c import time time.sleep(6"),
    (["python3"], "python3"),
    (["python3", "-"], "python3"),
    (["node", "-r", "dotenv/config", "/srv/web/server.js"], "/srv/web/server.js"),
    (["nodejs", "server.js"], "server.js"),
    (["java", "-Xmx1g", "-cp", "a.jar:b.jar", "org.acme.Main"], "org.acme.Main"),
    (["java", "-jar", "/srv/acme.jar"], "/srv/acme.jar"),
    (["php", "queue.php"], "queue.php"),
    (["ruby", "-w", "app.rb"], "app.rb"),
    (["python3", "-I", "-X", "dev", "-O", "bot.py"], "bot.py"),
    (["perl", "-w", "x.pl"], "x.pl"),
    (["sh", "-e", "/srv/run.sh"], "/srv/run.sh"),
    (["bash", "-lc", "exec  true"], "bash -lc exec true"),
    (["-bash"], "bash"),
    (["nginx:", "master", "process"], "nginx"),
    (["/usr/sbin/sshd", "-D"], "sshd"),
    (["php-fpm:", "pool", "www"], "php-fpm"),
    (["[celeryd:", "w@host]", "-active-"], "celeryd"),
    ([], "kernel-name"),
    ([""], "kernel-name"),
]


@pytest.mark.parametrize(("words", "name"), NAMES, ids=lambda value: str(value)[:30])
def test_a_command_line_is_named_by_what_it_runs(words: list[str], name: str) -> None:
    assert programs.program_name(words, "kernel-name") == name


def start(*command: str, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    """Run Python on `command`; the program says when it is up."""
    child = subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        **more,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    return child


NO_TASKS = config.Config(file=None, state=Path("/nonexistent"))


def by_name(settings: config.Config = NO_TASKS) -> dict[str, programs.Program]:
    return {each.name: each for each in programs.collect("/proc", settings, proc.boot_id())}


BODY = "import sys; print('up', flush=True); sys.stdin.read()"
FORKS = (
    "import os, sys\nfor _ in range(3):\n    if not os.fork(): sys.stdin.read(), os._exit(0)\n"
    + BODY
)
SPAWNS = """
import multiprocessing, sys, time
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    print("up", flush=True)
    sys.stdin.read()
    child.kill()
"""


def test_workers_of_one_script_are_one_row_and_two_scripts_are_two(home: Path) -> None:
    (home / "bot-é-1.py").write_text(BODY)
    (home / "bot2.py").write_text(FORKS)
    children = [start("-u", "bot-é-1.py", cwd=home), start(str(home / "bot2.py"), cwd=home)]
    found = wait_until(lambda: len((now := by_name())["bot2.py"].pids) > 3 and now)
    assert len(found["bot-é-1.py"].pids) == 1
    bot2 = found["bot2.py"]
    assert len(bot2.pids) == 4 and bot2.leader and bot2.leader.pid == children[1].pid
    assert not any(name.startswith("python") and "bot" in name for name in found)
    for child in children:
        child.communicate()


def test_workers_that_multiprocessing_spawned_belong_to_their_script(home: Path) -> None:
    (home / "pool.py").write_text(SPAWNS)
    child = start("pool.py", cwd=home)
    wait_until(lambda: len(by_name()["pool.py"].pids) >= 3)  # itself, the worker, the tracker
    child.communicate()


def test_two_scripts_of_one_name_are_told_apart_by_their_directories(home: Path) -> None:
    children = []
    for name in ("shop", "blog"):
        (home / name).mkdir()
        (home / name / "app.py").write_text(BODY)
        children.append(start("app.py", cwd=home / name))
    assert {"shop/app.py", "blog/app.py"} <= by_name().keys()
    for child in children:
        child.communicate()


def test_a_task_is_one_row_with_all_its_descendants_whatever_they_run(home: Path) -> None:
    (home / "job.py").write_text(
        "import subprocess, sys\nchild = subprocess.Popen(['sleep', '60'])\n" + BODY
    )
    child = start("job.py", cwd=home)
    (home / "upkeep.toml").write_text(
        '[task.night]\ncommand = ["true"]\n[task.gone]\ncommand = "x"'
    )
    settings = config.load(str(home / "upkeep.toml"))
    record = settings.state / "tasks" / "night.json"
    record.parent.mkdir(parents=True)
    stat = proc.read_stat(child.pid)
    assert stat
    boot = proc.boot_id()
    identity = {"boot_id": boot, "pid": child.pid, "start_ticks": stat.start_ticks}
    record.write_text(json.dumps(identity))
    found = by_name(settings)
    assert len(found["night"].pids) == 2
    assert not found["gone"].pids and found["gone"].leader is None
    for wrong in ({"start_ticks": 1}, {"boot_id": "other"}, {"pid": None}):
        record.write_text(json.dumps(identity | wrong))
        assert not by_name(settings)["night"].pids
    for pid in found["night"].pids:
        os.kill(pid, 9)
    child.communicate()


LEAVES = """
import os, subprocess, sys
orphan = "import os, sys; os.fork() and os._exit(0); {}; print('up', flush=True); sys.stdin.read()"
for leave in ("pass", "os.setsid()"):
    child = subprocess.Popen([sys.executable, "-c", orphan.format(leave)], stdout=subprocess.PIPE)
    child.wait()
    child.stdout.readline()
"""


# Orphans become its children instead of those of the first process, as with `systemd --user`.
REAPER = """
import ctypes, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.call([sys.executable, "job.py"], start_new_session=True)
"""


@pytest.mark.parametrize("reaper", [False, True])
def test_children_that_left_the_tree_or_even_the_session_belong_to_their_task(
    home: Path, reaper: bool
) -> None:
    (home / "job.py").write_text(LEAVES + BODY)
    (home / "reaper.py").write_text(REAPER)
    (home / "upkeep.toml").write_text('[task.night]\ncommand = ["true"]\n')
    settings = config.load(str(home / "upkeep.toml"))
    environment = {**os.environ, "UPKEEP_TASK": "night:5eed"}
    script = "reaper.py" if reaper else "job.py"
    child = start(script, cwd=home, env=environment, start_new_session=True)
    pid = proc.descendants(proc.scan(), child.pid)[0] if reaper else child.pid
    stat = proc.read_stat(pid)
    assert stat
    record = {"boot_id": proc.boot_id(), "pid": pid, "start_ticks": stat.start_ticks}
    record |= {"session": pid, "tag": "night:5eed"}
    files.write_state(settings.state / "tasks/night.json", record)
    assert len(by_name(settings)["night"].pids) == 3
    files.write_state(settings.state / "tasks/night.json", record | {"tag": "night:other"})
    assert len(by_name(settings)["night"].pids) == 2
    files.write_state(settings.state / "tasks/night.json", record | {"session": 0, "tag": ""})
    assert list(by_name(settings)["night"].pids) == [pid]
    child.communicate()


@pytest.mark.parametrize("junk", ["", "[1]", '{"pid": []}', '{"pid": 1, "start_ticks": {}}', "7"])
def test_a_damaged_record_is_a_task_that_does_not_run(home: Path, junk: str) -> None:
    (home / "upkeep.toml").write_text('[task.night]\ncommand = ["true"]\n')
    settings = config.load(str(home / "upkeep.toml"))
    files.make_directory(settings.state / "tasks")
    (settings.state / "tasks/night.json").write_text(junk)
    assert not by_name(settings)["night"].pids


def test_another_program_with_the_name_of_a_task_is_not_mixed_up_with_it(home: Path) -> None:
    (home / "night").write_text(BODY)
    child = start(str(home / "night"), cwd=home)
    (home / "upkeep.toml").write_text('[task.night]\ncommand = ["true"]\n')
    found = by_name(config.load(str(home / "upkeep.toml")))
    assert not found["night"].pids
    assert list(found["night (no task)"].pids) == [child.pid]
    child.communicate()


def test_hostile_names_and_endless_command_lines_are_shown_harmlessly(home: Path) -> None:
    name = b"e\x1b[2Jvil\n\xff<b>.py"
    (home / os.fsdecode(name)).write_text(BODY)
    child = start(os.fsdecode(name), "x" * 100_000, cwd=home)
    shown = [each for each in by_name() if "vil" in each]
    assert shown == ["e\\x1b[2Jvil\\n\\xff<b>.py"]
    child.communicate()


def test_pss_and_descriptors_are_those_of_the_kernel_and_large_processes_are_spared(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "fat.py").write_text("keep = b'x' * (30 << 20)\n" + BODY)
    child = start("fat.py", cwd=home)
    fat = by_name()["fat.py"]
    programs.read_details([fat], "/proc")
    assert fat.pss_bytes and 30 << 20 < fat.pss_bytes <= fat.rss_bytes
    assert fat.fds == len(os.listdir(f"/proc/{child.pid}/fd"))
    monkeypatch.setattr(programs, "PSS_MAX_RSS", 20 << 20)
    fat = by_name()["fat.py"]
    programs.read_details([fat], "/proc")
    assert fat.pss_bytes is None and fat.fds
    child.communicate()
    assert not is_running(child.pid)


def test_a_program_of_very_many_processes_keeps_no_other_from_being_looked_at(
    tmp_path: Path,
) -> None:
    (tmp_path / "7/fd").mkdir(parents=True)
    (tmp_path / "7/smaps_rollup").write_text("Pss:   300 kB\n")
    crowd = programs.Program("crowd", pids=dict.fromkeys(range(100, 300), 1))
    small = programs.Program("small", pids={7: 1})
    programs.read_details([crowd, small], str(tmp_path))
    assert (crowd.pss_bytes, small.pss_bytes, small.fds) == (None, 300 << 10, 0)


def test_pss_is_one_exact_key_and_unknown_where_one_process_hides_it(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    rollup = "Rss: 900 kB\nPss_Dirty: 1 kB\nPss_Anon:  2 kB\nPss:      300 kB\nSwapPss:  4 kB\n"
    (tmp_path / "7" / "smaps_rollup").write_text(rollup)
    (tmp_path / "7/fd").mkdir()
    known, hidden = programs.Program("x", pids={7: 1}), programs.Program("y", pids={7: 1, 8: 1})
    programs.read_details([known, hidden], str(tmp_path))
    assert (known.pss_bytes, known.swap_bytes) == (300 << 10, 4 << 10)
    assert (hidden.pss_bytes, hidden.fds) == (None, None)
