import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, run_script, wait_until

DAY = 86400
ESCAPES = b"a\nb\x1b[2J\xff-" + b"n" * 40 + b".jsonl"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def data(home: Path) -> Path:
    (home / "upkeep.toml").write_text("")
    place = home / "data"
    place.mkdir()
    return place


def make(path: Path | bytes, days: float, content: bytes = b"{}\n") -> None:
    with open(path, "wb") as file:
        file.write(content)
    when = time.time() - days * DAY
    os.utime(path, (when, when))


def clean(data: Path, *args: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return run_script("cleanup", "--config", data.parent / "upkeep.toml", *args, **more)


def rule(data: Path, text: str, name: str = "old") -> None:
    with open(data.parent / "upkeep.toml", "a") as file:
        file.write(f'[cleanup.{name}]\npaths = ["{data}"]\n{text}\n')


def rows(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.stdout)["results"]
    return found


def names(data: Path) -> list[str]:
    return sorted(path.name for path in data.rglob("*") if not path.is_dir())


OLD = ("--match", "*.jsonl", "--older-than", "90d")


def test_old_files_go_and_cron_gets_no_mail(data: Path) -> None:
    for days in (1, 89.9, 90.1, 400):
        make(data / f"{days}.jsonl", days)
    make(data / "400.log", 400)
    make(data / "keep-400.jsonl", 400)
    rule(data, 'match = ["*.jsonl"]\nexclude = ["keep-*"]\nolder_than = "90d"')
    result = clean(data)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert names(data) == ["1.jsonl", "400.log", "89.9.jsonl", "keep-400.jsonl"]


def test_a_dry_run_changes_nothing_and_names_what_the_real_run_takes(data: Path) -> None:
    for days in (1, 40, 100, 400):
        make(data / f"{days}.jsonl", days)
    before = {path: path.stat() for path in (data, *data.iterdir())}
    result = clean(data, data, *OLD, "--dry-run")
    assert result.returncode == 0
    assert {path: path.stat() for path in (data, *data.iterdir())} == before
    assert not (data.parent / "var" / "cleanup.json").exists()
    planned = {line.split()[1] for line in result.stdout.splitlines() if line[:7] == "delete "}
    assert "older than  90 d: 1 files" in result.stdout
    rest = set(map(str, data.iterdir()))
    assert clean(data, data, *OLD).returncode == 0
    assert rest - set(map(str, data.iterdir())) == planned
    assert len(planned) == 2


def test_json_has_a_row_for_each_rule(data: Path) -> None:
    make(data / "a.jsonl", 100, b"x" * 5000)
    make(data / "b.log", 100)
    rule(data, 'match = ["*.jsonl"]\nolder_than = "90d"')
    rule(data, 'match = ["*.log"]\nolder_than = "7d"', name="logs")
    result = clean(data, "--json", "--rule", "old", env={"UPKEEP_DRY_RUN": "1"})
    assert rows(result)[0]["deleted"] == 1 and len(names(data)) == 2
    first, second = rows(clean(data, "--json"))
    assert (first["rule"], first["outcome"], first["deleted"]) == ("old", "done", 1)
    assert first["freed_bytes"] == 8192 and first["errors"] == first["skipped"] == []
    assert first["age_histogram"][4] == {"older_than_days": 90, "files": 1, "bytes": 8192}
    assert (second["rule"], second["deleted"]) == ("logs", 1)


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["/", *OLD], 3, "refused"),
        (["/home", *OLD], 3, "refused"),
        (["/home/somebody", *OLD], 3, "refused"),
        (["/etc/cron.d", *OLD], 3, "refused"),
        (["/usr/share/doc", *OLD], 3, "refused"),
        (["/var/lib", *OLD], 3, "refused"),
        (["//srv/../etc", *OLD], 3, "refused"),
        ([os.path.expanduser("~"), *OLD], 3, "refused"),
        ([str(ROOT.parent), *OLD], 3, "is in it"),
        (["", *OLD], 2, "expected"),
        (["data", *OLD], 2, "expected absolute paths"),
        (["$DATA/x", *OLD], 2, "expected absolute paths"),
        (["/srv/$DATA", *OLD], 2, "expected absolute paths"),
        (["~/data", *OLD], 2, "expected absolute paths"),
        (["DATA", "--match", "*", "--older-than", "1d"], 2, "allow_all"),
        (["DATA", "--match", "*/**", "--older-than", "1d"], 2, "allow_all"),
        (["DATA", "--match", "*.jsonl"], 2, "expected a limit"),
        (["DATA", "--match", "*.jsonl", "--keep-newest", "3"], 2, "expected a limit"),
        (["DATA", "--older-than", "90d"], 2, '"match" is missing'),
        (["DATA", "--match", "", "--older-than", "90d"], 2, "expected"),
        (["--match", "*.jsonl", "--older-than", "90d"], 2, '"paths" is missing'),
        (["DATA", "--match", "*.x", "--older-than", "90y"], 2, "expected a duration"),
        (["DATA", "--match", "*.x", "--larger-than", "x"], 2, "expected a size"),
        (["DATA", "--match", "*.x", "--older-than", "1d", "--age", "atime"], 2, "one of mtime"),
        *(
            (["DATA", *OLD, f"--{name}", ""], 2, "expected a value")
            for name in ("older-than", "larger-than", "action", "age", "max-total", "min-free")
        ),
        (["DATA", *OLD, "--rule", "old"], 2, 'no rule "old"'),
        (["--rule", "none"], 2, 'no rule "none"'),
    ],
)
def test_what_is_dangerous_or_too_wide_is_refused(
    data: Path, args: list[str], status: int, message: str
) -> None:
    make(data / "a.jsonl", 400)
    result = clean(data, *(str(data) if arg == "DATA" else arg for arg in args))
    assert (result.returncode, result.stdout) == (status, "")
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert names(data) == ["a.jsonl"]


def test_one_bad_rule_stops_all_before_anything_is_touched(data: Path) -> None:
    make(data / "a.jsonl", 400)
    rule(data, 'match = ["*.jsonl"]\nolder_than = "90d"')
    (data.parent / "link").symlink_to(data)
    rule(data.parent / "link", 'match = ["*.jsonl"]\nolder_than = "90d"', name="other")
    result = clean(data)
    assert result.returncode == 3 and f'name the directory itself: "{data}"' in result.stderr
    assert names(data) == ["a.jsonl"]


def test_a_root_that_is_not_there_is_reported_and_the_rest_goes_on(data: Path) -> None:
    make(data / "a.jsonl", 400)
    result = clean(data, data.parent / "none", data, *OLD)
    assert result.returncode == 1 and "none: No such file" in result.stderr
    assert names(data) == []
    make(data / "file", 1)
    assert clean(data, data / "file", *OLD).returncode == 2


def test_hostile_names_go_and_are_shown_escaped(data: Path) -> None:
    place = os.fsencode(data)
    hostile = [ESCAPES, b"-rf.jsonl", b" .jsonl", b"\xff\xfe.jsonl", b"x" * 249 + b".jsonl"]
    for name in hostile:
        make(place + b"/" + name, 400)
    result = clean(data, data, *OLD, "--dry-run")
    assert "\x1b" not in result.stdout and r"a\nb\x1b[2J\xff-" in result.stdout
    assert len(result.stdout.splitlines()) == len(hostile) + 7
    assert clean(data, data, *OLD).returncode == 0
    assert os.listdir(data) == []


def test_only_regular_files_go_and_symlinks_are_not_followed(data: Path) -> None:
    outside = data.parent / "outside"
    outside.mkdir()
    make(outside / "a.jsonl", 400)
    (data / "dir.jsonl").symlink_to(outside)
    (data / "file.jsonl").symlink_to(outside / "a.jsonl")
    (data / "loop.jsonl").symlink_to("loop.jsonl")
    (data / "gone.jsonl").symlink_to("nothing")
    os.mkfifo(data / "fifo.jsonl")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(data / "socket.jsonl"))
    (data / "real.jsonl").mkdir()
    make(data / "real.jsonl" / "a.jsonl", 400)
    for path in data.iterdir():
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    [row] = rows(clean(data, data, *OLD, "--json"))
    bound.close()
    assert row["deleted"] == 1 and len(row["skipped"]) == 6 and row["outcome"] == "done"
    assert (outside / "a.jsonl").exists() and len(list(data.iterdir())) == 7


def test_a_directory_swapped_for_a_symlink_leads_nowhere(data: Path) -> None:
    """The folder is exchanged for a link to another tree, again and again, during the runs."""
    outside, inner, away = (data.parent / name for name in ("outside", "data/inner", "away"))
    outside.mkdir()
    for number in range(50):
        make(outside / f"{number}.jsonl", 400)
    swapper = f"""if True:
        import ctypes, os
        libc = ctypes.CDLL(None)
        os.symlink({str(outside)!r}, {str(away)!r})
        print("ready", flush=True)
        while True:
            libc.renameat2(-100, {os.fsencode(inner)!r}, -100, {os.fsencode(away)!r}, 2)
        """
    inner.mkdir()
    with subprocess.Popen([sys.executable, "-c", swapper], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        taken = 0
        for _ in range(15):
            for number in range(20):
                for place in (inner, away):
                    if not place.is_symlink():
                        with open_quietly(place, f"{number}.jsonl"):
                            pass
            result = clean(data, data, *OLD, "--json")
            taken += sum(row["deleted"] for row in rows(result))
        process.kill()
    assert len(list(outside.glob("[0-9].jsonl"))) == 10 and len(list(outside.iterdir())) == 50
    assert taken > 0


class open_quietly:  # noqa: N801
    """Make an old file in `place`, which may be a symlink at any moment: then nothing is made."""

    def __init__(self, place: Path, name: str) -> None:
        self.place, self.name = place, name

    def __enter__(self) -> None:
        try:
            fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return
        with open(os.open(self.name, os.O_CREAT | os.O_WRONLY, dir_fd=fd), "w"):
            os.utime(self.name, (1e9, 1e9), dir_fd=fd)
        os.close(fd)

    def __exit__(self, *_: object) -> None:
        return None


def test_a_deep_tree_needs_few_descriptors(data: Path) -> None:
    fd = os.open(data, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("deeper-and-deeper", dir_fd=fd)
        inner = os.open("deeper-and-deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("a.jsonl", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.utime("a.jsonl", (1e9, 1e9), dir_fd=fd)
    os.close(fd)
    command = f"ulimit -n 64; exec {sys.executable} {ROOT}/bin/cleanup.py"
    line = f"{command} --config {data.parent}/upkeep.toml {data} --match '*.jsonl' --older-than 1d"
    result = subprocess.run(
        ["sh", "-c", f"{line} --json"], capture_output=True, text=True, check=False
    )
    assert rows(result)[0]["deleted"] == 1, result.stderr


@as_root
@pytest.mark.parametrize("action", ["delete", "compress", "truncate", "prune"])
def test_what_may_not_be_read_or_removed_is_reported(data: Path, action: str) -> None:
    content = b'{"timestamp": 1000000000}\n' * 1000 + b'{"timestamp": 9999999999}\n'
    make(data / "a.jsonl", 400, content)
    make(data / "b.jsonl", 400, content)
    if subprocess.run(["chattr", "+i", data / "a.jsonl"], check=False).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        [row] = rows(clean(data, data, *OLD, "--action", action, "--json"))
        done = {"compress": "compressed"}.get(action, f"{action}d")
        assert row["outcome"] == "partly" and row[done] == 1
        assert row["errors"] == [
            {"path": str(data / "a.jsonl"), "reason": "Operation not permitted"}
        ]
        assert (data / "a.jsonl").read_bytes() == content
        assert [name for name in names(data) if name[0] != "b"] == ["a.jsonl"]
    finally:
        subprocess.run(["chattr", "-i", data / "a.jsonl"], check=True)


@pytest.fixture
def writer(data: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that holds data/live.jsonl open for appending."""
    code = (
        "import sys; sys.stdout.flush(); f = open(sys.argv[1], 'a');"
        "print('ready', flush=True); sys.stdin.read()"
    )
    make(data / "live.jsonl", 400)
    with subprocess.Popen(
        [sys.executable, "-c", code, data / "live.jsonl"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def test_a_file_that_is_open_for_writing_stays(data: Path, writer: subprocess.Popen[bytes]) -> None:
    make(data / "quiet.jsonl", 400)
    with open(data / "quiet.jsonl"):  # a reader does not matter
        result = clean(data, data, *OLD, "--json")
    [row] = rows(result)
    assert result.returncode == 0 and row["outcome"] == "done"
    assert names(data) == ["live.jsonl"]
    assert row["skipped"][0]["path"] == str(data / "live.jsonl")
    assert f"(pid {writer.pid})" in row["skipped"][0]["reason"]


def test_a_locked_directory_is_left_alone(data: Path) -> None:
    (data / "sub").mkdir()
    make(data / "sub" / "a.jsonl", 400)
    make(data / "b.jsonl", 400)
    fd = os.open(data / "sub", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    [row] = rows(clean(data, data, *OLD, "--json"))
    os.close(fd)
    assert names(data) == ["a.jsonl"] and "flock" in row["skipped"][0]["reason"]


@pytest.mark.parametrize("action", ["delete", "compress", "truncate", "prune"])
def test_a_locked_file_is_left_alone(data: Path, action: str) -> None:
    content = b'{"timestamp": 1000000000}\n' * 1000 + b'{"timestamp": 9999999999}\n'
    make(data / "a.jsonl", 400, content)
    args = (data, *OLD, "--action", action, "--json")
    with open(data / "a.jsonl") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        result = clean(data, *args)
        assert result.returncode == 0 and "flock" in rows(result)[0]["skipped"][0]["reason"]
        assert (data / "a.jsonl").read_bytes() == content and names(data) == ["a.jsonl"]
    [row] = rows(clean(data, *args))
    assert row["skipped"] == [] and row["freed_bytes"] > 0


@as_root
@pytest.mark.parametrize("how", [["-t", "tmpfs", "none"], ["--bind", "elsewhere"]])
def test_what_is_mounted_below_the_root_is_left_alone(data: Path, how: list[str]) -> None:
    (data.parent / "elsewhere").mkdir()
    (data / "sub").mkdir()
    mount = ["mount", *how, data / "sub"]
    if subprocess.run(mount, cwd=data.parent, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        make(data / "sub" / "a.jsonl", 400)
        [row] = rows(clean(data, data, *OLD, "--json"))
        assert names(data) == ["a.jsonl"]
        assert row["skipped"][0]["reason"].startswith("another file system")
    finally:
        subprocess.run(["umount", data / "sub"], check=True)


def test_a_second_run_at_the_same_time_is_busy(data: Path) -> None:
    lock = data.parent / "var" / "lock" / "cleanup.lock"
    lock.parent.mkdir(parents=True, mode=0o700)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert clean(data, data, *OLD).returncode == 4
        assert clean(data, data, *OLD, "--dry-run").returncode == 0
    assert clean(data, data, *OLD).returncode == 0


def test_dates_in_names(data: Path) -> None:
    today = time.strftime("%Y-%m-%d")
    old = ["x-2020-01-31.log", "20200131.log", "a20200131-20200201b.log"]
    kept = [f"2020-01-01_{today}.log", "2020-24-02.log", "2020-02-31.log", "120200131.log", "n.log"]
    for name in (*old, *kept):
        make(data / name, 400)
    args = (data, "--match", "*.log", "--older-than", "90d", "--age", "name")
    [row] = rows(clean(data, *args, "--json"))
    assert names(data) == sorted(kept)
    assert (row["matched"], row["deleted"]) == (4, 3)


def test_a_day_in_a_name_is_old_when_it_has_ended_that_long_ago(data: Path) -> None:
    day = time.strftime("%Y%m%d", time.localtime(time.time() - 3 * DAY))
    make(data / f"{day}.log", 0)
    name = (data, "--match", "*.log", "--age", "name", "--json", "--dry-run", "--older-than")
    assert rows(clean(data, *name, "3d"))[0]["deleted"] == 0
    assert rows(clean(data, *name, "47h"))[0]["deleted"] == 1


def test_the_newest_of_each_group_stay(data: Path) -> None:
    for series in ("api", "my-api"):
        for day in range(1, 6):
            make(data / f"{series}-2020010{day}.log", 400 + 10 - day)
    args = (data, "--match", "*.log", "--older-than", "90d", "--keep-newest", "2")
    assert clean(data, *args).returncode == 0
    assert names(data) == [
        f"{series}-2020010{day}.log" for series in ("api", "my-api") for day in (4, 5)
    ]


def test_larger_than_and_older_than_must_both_hold(data: Path) -> None:
    make(data / "old-big.log", 100, b"x" * 2000)
    make(data / "old-small.log", 100, b"x" * 1000)
    make(data / "new-big.log", 1, b"x" * 2000)
    args = (data, "--match", "*.log", "--larger-than", "1000")
    assert clean(data, *args, "--older-than", "9d").returncode == 0
    assert names(data) == ["new-big.log", "old-small.log"]
    assert clean(data, *args).returncode == 0
    assert names(data) == ["old-small.log"]


def test_a_budget_takes_the_oldest_first_and_no_young_file(data: Path) -> None:
    for days in (0.5, 2, 3, 4, 5):
        make(data / f"{days}.log", days, b"x" * 4096)
    args = (data, "--match", "*.log", "--max-total", "12K")
    assert clean(data, *args).returncode == 0
    assert names(data) == ["0.5.log", "2.log", "3.log"]
    result = clean(data, *args[:-1], "2K", "--json")
    assert result.returncode == 1
    assert names(data) == ["0.5.log"]
    assert "budget" in rows(result)[0]["reason"] and rows(result)[0]["outcome"] == "partly"
    assert "budget not reached" in result.stderr  # without a token the alert goes here
    assert "works again" in clean(data, *args).stderr


def test_a_budget_counts_real_blocks_and_no_hard_linked_file_twice(data: Path) -> None:
    with open(data / "sparse.log", "wb") as file:
        file.truncate(1 << 30)
    os.utime(data / "sparse.log", (1e9, 1e9))
    make(data / "a.log", 10, b"x" * 4096)
    os.link(data / "a.log", data / "b.log")
    assert clean(data, data, "--match", "*.log", "--max-total", "4K").returncode == 0
    assert len(names(data)) == 3


def test_free_space_as_a_target(data: Path) -> None:
    make(data / "a.log", 10, b"x" * 4096)
    args = (data, "--match", "*.log", "--min-free")
    assert clean(data, *args, "0%").returncode == 0
    assert names(data) == ["a.log"]
    result = clean(data, *args, "100%")
    assert result.returncode == 1 and names(data) == []


def test_the_brake_holds_a_mass_deletion_back(data: Path) -> None:
    for number in range(101):
        make(data / f"{number}.jsonl", 400)
    dry = clean(data, data, *OLD, "--dry-run")
    assert dry.returncode == 3 and "101 of 101" in dry.stderr
    result = clean(data, data, *OLD, "--json")
    assert result.returncode == 3 and len(names(data)) == 101
    assert rows(result)[0]["outcome"] == "refused" and "--force" in rows(result)[0]["reason"]
    assert "cleanup command-line refused" in result.stderr  # the alert, as there is no token
    assert clean(data, data, *OLD, "--force").returncode == 0
    assert names(data) == []
    for number in range(1000):  # less than 100 + 10 x 101
        make(data / f"{number}.jsonl", 400)
    assert clean(data, data, *OLD).returncode == 0


def test_no_brake_holds_back_what_deletes_no_file(data: Path) -> None:
    for number in range(150):
        make(data / f"{number}.jsonl", 400)
    for action, count in (("prune", 0), ("compress", 150)):
        result = clean(data, data, *OLD, "--action", action, "--json")
        assert result.returncode == 0 and rows(result)[0]["compressed"] == count


def test_many_files_go_when_they_are_the_smaller_part(data: Path) -> None:
    for number in range(150):
        make(data / f"{number}.jsonl", 400)
        make(data / f"new-{number}.jsonl", 1)
    assert clean(data, data, *OLD).returncode == 0
    assert len(names(data)) == 150


@pytest.mark.parametrize(("shift", "message"), [("-2h", "before the last run"), ("+40d", "past")])
def test_a_clock_that_cannot_be_right_stops_everything(
    data: Path, shift: str, message: str
) -> None:
    make(data / "a.jsonl", 80)
    make(data / "new.jsonl", 0)
    args = (data, *OLD)
    assert clean(data, *args).returncode == 0
    make(data / "old.jsonl", 400)
    if subprocess.run(["which", "faketime"], capture_output=True, check=False).returncode:
        pytest.skip("faketime is not installed")
    script = ROOT / "bin/cleanup.py"
    command = ["faketime", "-f", shift, sys.executable, script, "--config"]
    result = subprocess.run(
        [*command, data.parent / "upkeep.toml", *args], capture_output=True, text=True, check=False
    )
    assert result.returncode == 3 and message in result.stderr
    assert len(names(data)) == 3


def test_a_state_directory_that_is_no_help_stops_nothing(data: Path) -> None:
    make(data / "a.jsonl", 400)
    (data.parent / "var").write_text("a file where the state directory should be")
    assert clean(data, data, *OLD).returncode == 0
    assert names(data) == []


@pytest.mark.parametrize(
    "text",
    ['{"time": "x"}', '{"time": 1.0, "deleted": []}', '{"time": 1.0, "deleted": {"a": "b"}}'],
)
def test_a_foreign_memory_is_set_aside_and_reported_once(data: Path, text: str) -> None:
    (data.parent / "var").mkdir(mode=0o700)
    (data.parent / "var/cleanup.json").write_text(text)
    make(data / "a.jsonl", 400)
    first, second = clean(data, data, *OLD), clean(data, data, *OLD)
    assert first.returncode == second.returncode == 0 and names(data) == []
    assert "set aside" in first.stderr and second.stderr == ""


def test_a_late_run_with_nothing_to_do_is_none_to_refuse(data: Path) -> None:
    (data.parent / "var").mkdir(mode=0o700)
    memory = {"time": time.time() - 31 * DAY, "deleted": {}}
    (data.parent / "var/cleanup.json").write_text(json.dumps(memory))
    assert clean(data, data, *OLD).returncode == 0
    make(data / "a.jsonl", 400)  # a clock that was not believed is not remembered as right
    assert clean(data, data, *OLD).returncode == 3 and names(data) == ["a.jsonl"]


@pytest.mark.parametrize("name", ["tasks", "outbox/new", "run", "jobs", "memory", "lock"])
def test_the_suites_live_records_are_no_root(data: Path, name: str) -> None:
    own = data.parent / "var" / name
    own.mkdir(parents=True)
    (data.parent / "var").chmod(0o700)
    make(own / "1.jsonl", 400)
    done = clean(data, own, *OLD, "--force")
    assert (done.returncode, "refused: it is upkeep's own" in done.stderr) == (3, True)
    assert names(own) == ["1.jsonl"]


@pytest.mark.parametrize(
    "root", ["/var/lib/dpkg/info", "/var/lib/apt/lists", "/var/spool/cron", str(ROOT / "lib")]
)
def test_more_that_a_host_cannot_do_without_is_refused(data: Path, root: str) -> None:
    assert clean(data, root, *OLD, "--dry-run").returncode == 3


def test_a_missing_root_within_another_is_reported_too(data: Path) -> None:
    make(data / "a.jsonl", 400)
    done = clean(data, data, data / "gone", *OLD)
    assert (done.returncode, f"{data}/gone" in done.stderr, names(data)) == (1, True, [])


def test_a_run_that_was_cut_short_closes_no_alert(data: Path) -> None:
    make(data / "a.jsonl", 0)
    budget = ("--match", "*.jsonl", "--max-total", "0")
    assert clean(data, data, *budget).returncode == 1
    cut = clean(data, data, *budget, "--max-runtime", "0", "--json")
    assert (cut.returncode, rows(cut)[0]["outcome"], cut.stderr) == (5, "partly", "")
    assert "works again" in clean(data, data, "--match", "*.jsonl", "--max-total", "1G").stderr


def test_a_refusal_is_told_before_a_missing_root(data: Path) -> None:
    for number in range(101):
        make(data / f"{number}.jsonl", 400)
    result = clean(data, data, data.parent / "none", *OLD, "--json")
    assert result.returncode == 3 and rows(result)[0]["outcome"] == "refused"


def test_future_and_ancient_files(data: Path) -> None:
    make(data / "ancient.jsonl", 365 * 60)
    make(data / "future.jsonl", -30)
    [row] = rows(clean(data, data, *OLD, "--json"))
    assert names(data) == ["future.jsonl"]
    assert row["skipped"][0]["reason"] == "dated in the future"


def test_emptied_directories_go_when_asked_for(data: Path) -> None:
    for folder in ("a/b/c", "a/kept", "empty"):
        (data / folder).mkdir(parents=True)
    make(data / "a/b/c/x.jsonl", 400)
    make(data / "a/kept/x.jsonl", 1)
    rule(data, 'match = ["*.jsonl"]\nolder_than = "90d"\nremove_empty_dirs = true')
    assert clean(data).returncode == 0
    assert sorted(path.name for path in data.rglob("*")) == ["a", "empty", "kept", "x.jsonl"]
    make(data / "a/kept/x.jsonl", 400)
    assert clean(data).returncode == 0
    assert data.is_dir() and [path.name for path in data.rglob("*")] == ["empty"]


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("sub/*.log", ["sub/a.log", "sub/deep/a.log"]),
        ("/sub/a.log", ["sub/a.log"]),
        ("*/a.log", ["sub/a.log", "sub/deep/a.log"]),
        ("[a-c].log", ["a.log", "sub/a.log", "sub/deep/a.log"]),
        ("A.log", []),
    ],
)
def test_globs(data: Path, glob: str, found: list[str]) -> None:
    (data / "sub/deep").mkdir(parents=True)
    for name in ("a.log", "sub/a.log", "sub/deep/a.log"):
        make(data / name, 400)
    result = clean(data, data, "--older-than", "1d", "--dry-run", "--match", glob)
    steps = [line.split()[1] for line in result.stdout.splitlines() if line[:6] == "delete"]
    assert sorted(steps) == [f"{data}/{name}" for name in found]


def test_an_excluded_folder_is_excluded_with_all_below_it(data: Path) -> None:
    (data / "sub/deep").mkdir(parents=True)
    make(data / "sub/deep/a.log", 400)
    args = (data, "--older-than", "1d", "--match", "*.log", "--exclude")
    assert clean(data, *args, "sub/*").returncode == 0
    assert names(data) == ["a.log"]


def test_the_time_limit_and_a_signal_end_the_run_between_files(data: Path) -> None:
    make(data / "a.jsonl", 400)
    result = clean(data, data, *OLD, "--max-runtime", "0", "--json")
    assert result.returncode == 5 and names(data) == ["a.jsonl"]
    for number in range(20_000):
        (data / str(number)).mkdir()
    lock = data.parent / "var/lock/cleanup.lock"
    command = [sys.executable, ROOT / "bin/cleanup.py", "--config", data.parent / "upkeep.toml"]

    def interrupted() -> bool:
        lock.unlink(missing_ok=True)
        with subprocess.Popen([*command, data, *OLD, "--json"], stdout=subprocess.PIPE) as process:
            wait_until(lock.exists)
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=60)
        assert json.loads(out)["results"][0]["rule"] == "command-line"
        return process.returncode == 143

    assert wait_until(interrupted)
