import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, wait_until
from upkeep import files
from upkeep.errors import Exit, OperatorError


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "state.json"
    files.atomic_write(target, b"one")
    first = target.stat().st_ino
    files.atomic_write(target, b"two")
    assert target.read_bytes() == b"two"
    assert target.stat().st_ino != first
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["state.json"]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "state"
    target.write_bytes(b"old")
    code = (
        "import resource, signal, sys; sys.path.insert(0, 'lib')\n"
        "from pathlib import Path\nfrom upkeep import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "files.atomic_write(Path(sys.argv[1]), b'x' * 5000)\n"
    )
    command = [sys.executable, "-c", code, str(target)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "OSError" in result.stderr
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_appended_lines_of_many_processes_never_mix(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(_append_many, [(log, str(number)) for number in range(4)])
    lines = log.read_text().splitlines()
    assert len(lines) == 800
    assert all(len(set(line)) == 1 and len(line) == 300 for line in lines)


def _append_many(log: Path, digit: str) -> None:
    for _ in range(200):
        files.append_line(log, digit * 300)


def test_a_torn_last_line_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b'{"whole": 1}\n{"torn": ')
    files.append_line(log, '{"next": 2}')
    assert log.read_text().splitlines()[-1] == '{"next": 2}'


def test_a_newline_in_a_line_cannot_forge_another(tmp_path: Path) -> None:
    files.append_line(tmp_path / "log", "a\nb \udcff")
    assert (tmp_path / "log").read_bytes() == b"a\\nb \\udcff\n"


def test_nothing_is_appended_through_a_symlink_or_to_a_fifo(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("keep\n")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links") as caught:
        files.append_line(tmp_path / "link", "x")
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "target").read_text() == "keep\n"


def test_tail_gives_the_last_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(1000)) + b"caf\xe9")
    assert files.tail(log, 3) == ["line 998", "line 999", "caf�"]
    assert files.tail(log, 100, most_bytes=30)[0].startswith("line 99")
    assert files.tail(log, 5, start=log.stat().st_size - 4) == ["caf�"]
    assert files.tail(tmp_path / "none") == []


def test_tail_does_not_wait_on_a_fifo_nor_follow_a_symlink(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert files.tail(tmp_path / "fifo") == []
    assert files.tail(tmp_path / "link") == []


@pytest.mark.parametrize(
    "damage", [b"", b'{"torn": ', b"\0" * 100, b"[1]", b"\xff\xfe", b"[" * 9999]
)
def test_a_damaged_state_file_is_set_aside_and_reported(tmp_path: Path, damage: bytes) -> None:
    state = tmp_path / "alerts.json"
    state.write_bytes(damage)
    files.set_aside.clear()
    assert files.read_state(state) == {}
    assert not state.exists()
    assert [path.read_bytes() for path in files.set_aside] == [damage]
    files.set_aside.clear()


def test_state_survives_a_round_trip_with_any_text(tmp_path: Path) -> None:
    value = {"täsk": "日本 \udce9 \x00", "n": 1.5}
    files.write_state(tmp_path / "s.json", value)
    assert json.loads((tmp_path / "s.json").read_bytes())["n"] == 1.5
    assert files.read_state(tmp_path / "s.json")["täsk"].startswith("日本")
    assert files.read_state(tmp_path / "missing.json") == {}


def test_a_lock_lets_one_in_and_is_free_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "lock" / "task-x.lock"
    code = (
        "import sys, time; sys.path.insert(0, 'lib')\n"
        "from pathlib import Path\nfrom upkeep import files\n"
        "with files.lock(Path(sys.argv[1])):\n"
        "    print('ready', flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
        inode = path.stat().st_ino
        with pytest.raises(OperatorError, match="busy") as caught, files.lock(path, wait=0.1):
            pass
        assert caught.value.code == Exit.BUSY
    finally:
        holder.kill()
        holder.wait()
    with files.lock(path):
        assert path.stat().st_ino == inode


def test_a_lock_is_not_inherited_by_a_started_program(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with files.lock(path):
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        with files.lock(path):
            assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_what_others_can_write_is_named(tmp_path: Path) -> None:
    private = tmp_path / "etc"
    private.mkdir(mode=0o700)
    config = private / "upkeep.toml"
    config.write_text("")
    assert files.writable_by_others(config) is None
    config.chmod(0o666)
    assert files.writable_by_others(config) == f"{config} is writable by everybody"
    config.chmod(0o600)
    private.chmod(0o777)
    assert files.writable_by_others(config) == f"{private} is writable by everybody"
    private.chmod(0o1777)
    assert files.writable_by_others(config) is None
    assert files.writable_by_others(private / "not-there-yet") is None
    assert files.writable_by_others(private) == f"{private} is writable by everybody"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_user_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    os.chown(tmp_path / "f", 12345, 0)
    assert files.writable_by_others(tmp_path / "f") == f"{tmp_path / 'f'} belongs to user 12345"


def test_wait_until_reports_the_last_result() -> None:
    with pytest.raises(AssertionError, match="still gave 0"):
        wait_until(lambda: 0, timeout=0.05)


def test_what_others_laid_out_does_not_hang_a_write(tmp_path: Path) -> None:
    """Whoever may write in the directory must not be able to guess the temporary name."""
    code = (
        "import os, sys; from pathlib import Path; from upkeep import files;"
        "place = Path(sys.argv[1]);"
        "[os.mkfifo(place / f'.x.pid.{os.getpid()}-{n}.tmp') for n in range(100)];"
        "files.atomic_write(place / 'x.pid', b'1')"
    )
    environment = {"PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, "-c", code, tmp_path]
    subprocess.run(command, env=environment, timeout=20, check=True)
    assert (tmp_path / "x.pid").read_bytes() == b"1"


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_no_file_is_set_aside(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.json"
    made = {"link": lambda: path.symlink_to("y"), "directory": path.mkdir}
    made.get(kind, lambda: os.mkfifo(path))()
    assert files.read_state(path) == {} and not os.path.lexists(path)
    assert len(list(tmp_path.glob("x.json.corrupt-*"))) == 1
    files.set_aside.clear()
