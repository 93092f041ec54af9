import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import HELPERS, ROOT, run_script, wait_until
from upkeep import openfiles, prune, timestamps, tree

DAY = 86400.0
NOW = time.time()
LONG = bool(os.environ.get("UPKEEP_LONG"))


@pytest.fixture(autouse=True)
def _now() -> None:
    global NOW
    NOW = time.time()


@pytest.fixture(params=["disk", "memory"])
def data(request: pytest.FixtureRequest, home: Path) -> Iterator[Path]:
    """A directory on the disk's file system, and one where no file can be shortened in place."""
    (home / "upkeep.toml").write_text("")
    if request.param == "disk":
        (home / "data").mkdir()
        yield home / "data"
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        (Path(place) / "data").mkdir()
        (Path(place) / "upkeep.toml").write_text("")
        yield Path(place) / "data"


def can_collapse(place: Path) -> bool:
    """Whether files are shortened in place here; tried on one."""
    with tempfile.NamedTemporaryFile(dir=place) as file:
        file.truncate(8192)
        command = ["fallocate", "--collapse-range", "--length", "4096", file.name]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def record(days: float, number: int = 0, **more: object) -> bytes:
    return json.dumps({"timestamp": NOW - days * DAY, "number": number, **more}).encode() + b"\n"


def pruned(data: Path, *args: str, status: int = 0) -> dict[str, Any]:
    result = run_script(
        "cleanup", "--config", data.parent / "upkeep.toml", data, "--match", "*.jsonl",
        "--older-than", "30d", "--action", "prune", "--json", *args,
    )  # fmt: skip
    assert result.returncode == status, result.stderr
    row: dict[str, Any] = json.loads(result.stdout)["results"][0]
    return row


def kept(path: Path) -> bytes:
    """The content without the blanks that shortening in place leaves before a line."""
    return b"".join(line.lstrip(b" ") for line in path.read_bytes().splitlines(keepends=True))


def test_old_records_go_and_the_rest_is_not_touched(data: Path) -> None:
    old = [record(100 - number / 100, number) for number in range(1000)]
    new = [record(20 - number / 100, number) for number in range(1000)]
    (data / "a.jsonl").write_bytes(b"".join(old + new))
    os.chmod(data / "a.jsonl", 0o640)
    os.utime(data / "a.jsonl", (1e9, 1e9))
    before = (data / "a.jsonl").stat()
    plan = pruned(data, "--dry-run")
    assert plan["pruned_records"] == 1000 and plan["freed_bytes"] == len(b"".join(old))
    assert (data / "a.jsonl").read_bytes() == b"".join(old + new)
    row = pruned(data)
    assert (row["pruned_records"], row["kept_malformed"], row["outcome"]) == (1000, 0, "done")
    assert kept(data / "a.jsonl") == b"".join(new)
    assert all(json.loads(line) for line in (data / "a.jsonl").open())
    after = (data / "a.jsonl").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert (after.st_ino == before.st_ino) == can_collapse(data)
    assert os.listdir(data) == ["a.jsonl"]
    assert pruned(data)["pruned_records"] == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_records_in_no_order_are_filtered_in_their_order(data: Path, share: float) -> None:
    chance = random.Random(7)
    lines = [record(10 if chance.random() < share else 50, number) for number in range(3000)]
    (data / "a.jsonl").write_bytes(b"".join(lines))
    new = [line for line in lines if json.loads(line)["timestamp"] > NOW - 30 * DAY]
    assert pruned(data)["pruned_records"] == 3000 - len(new)
    assert kept(data / "a.jsonl") == b"".join(new)


ODD = [
    b"\n",
    b"not json\n",
    b'{"timestamp": "2021-24-02"}\n',
    b'{"timestamp": NaN}\n',
    b'{"timestamp": 1000000000, "x": NaN}\n',
    b'{"timestamp": null}\n',
    b'{"timestamp": [1000000000]}\n',
    b'{"time": 1000000000}\n',
    b'{"inner": {"timestamp": 1000000000}}\n',
    b'{"timestamp": 1000000000, "timestamp": 2000000000}\n',
    b'{"timestamp": 2000000000, "timestamp": 1000000000}\n',
    b'{"timestamp": 2000000000, "t\\u0069mestamp": 1000000000}\n',
    b'{"timestamp": 1000000000}{"timestamp": 1000000000}\n',
    b'{"timestamp": 1000000000, "text": "\xff"}\n',
    b"\0" * 5000 + b"\n",
    b'{"timestamp": 1000000000, "torn": "\n',
    b"[1000000000]\n",
    b'[["timestamp", 1000000000], ["a", "timestamp"]]\n',
    b"1000000000\n",
    b'{"a":' + b"[" * 100_000 + b"\n",
]
GOOD = [
    b'{"timestamp": 1000000000}\r\n',
    b'   {"timestamp": "1000000000000"}   \n',
    b'{"time\\u0073tamp": 1000000000}\n',
    b'{"inner": {"timestamp": 2000000000}, "timestamp": 1000000000}\n',
    b'{"text": "\\"timestamp\\"", "timestamp": "2001-09-09T01:46:40Z"}\n',
    b'{"timestamp": 1000000000, "note": "caf\xc3\xa9", "big": 1' + b"0" * 400 + b"}\n",
    b'{"timestamp": 1000000000, "lone": "\\ud800", "large": 1e400}\n',
    b'{"timestamp":\r1000000000, "text": "\xe2\x80\xa8 \xc2\x85 \x7f"}\n',
]


@pytest.fixture(params=["json", "orjson"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> timestamps.Reader:
    if request.param == "orjson":
        pytest.importorskip("orjson")
    else:
        monkeypatch.setitem(sys.modules, "orjson", None)
    return timestamps.Reader("timestamp")


def test_what_is_no_clear_record_is_none_with_any_parser(reader: timestamps.Reader) -> None:
    assert [line for line in ODD if reader.time(line) is not None] == []
    assert [reader.time(line) for line in GOOD] == [1e9] * len(GOOD)


JOINED = [  # with a comma between them they would be JSON
    [b'{"timestamp": 1000000000, "a": [1', b'{"timestamp": 1000000000}]}'],
    [b'{"timestamp": 1000000000, "a": "', b'", "b": {"timestamp": 1000000000}}'],
    [b'{"timestamp": 1000000000}, {"x": [1', b'{"timestamp": 1000000000}]}'],
    [b'{"timestamp": 1000000000}', b'{"timestamp": 1000000000}, {}'],
    [b'{"timestamp": 1000000000}]', b'[{"timestamp": 1000000000}'],
]


@pytest.mark.parametrize("torn", JOINED)
def test_lines_that_are_read_together_are_judged_each_for_itself(
    torn: list[bytes], reader: timestamps.Reader
) -> None:
    good = b'{"timestamp": 1000000000}'
    for lines in (torn, [good, *torn, good], [*torn, *torn]):
        assert reader.times(lines) == [reader.time(line) for line in lines]
        assert None in reader.times(lines)
    assert reader.times([good] * 3) == [1e9] * 3


def test_a_line_does_not_change_what_its_neighbours_are(reader: timestamps.Reader) -> None:
    good = b'{"timestamp": 1000000000}\n'
    for odd in ODD:
        assert reader.times([good, odd, good]) == [1e9, None, 1e9]
    for line in GOOD:
        assert reader.times([good, line, line]) == [1e9] * 3


@pytest.mark.parametrize(
    ("name", "spelled"), [("a/b", b"a\\/b"), ("zeit-\xe4", b"zeit-\\u00e4"), ("\u65f6", b"\\u65f6")]
)
def test_a_key_twice_is_found_however_it_is_spelled(name: str, spelled: bytes) -> None:
    line = b'{"%s": 2000000000, "%s": 1000000000}\n' % (name.encode(), spelled)
    assert timestamps.Reader(name).times([line] * 3) == [None] * 3
    assert timestamps.Reader(name).times([b'{"%s": 1000000000}\n' % spelled]) == [1e9]


def test_what_is_no_clear_record_stays_where_it_is(data: Path) -> None:
    lines = [record(100)]
    for odd in ODD[1:]:
        lines += [odd, record(90), record(80), record(1)]
    (data / "a.jsonl").write_bytes(b"".join([*GOOD, *lines]))
    shown = run_script(
        "cleanup", "--config", data.parent / "upkeep.toml", data, "--match", "*.jsonl",
        "--older-than", "30d", "--action", "prune", "--dry-run",
    )  # fmt: skip
    assert f"kept {len(ODD) - 1} lines that are no record" in shown.stdout
    row = pruned(data)
    assert row["kept_malformed"] == len(ODD) - 1
    why = f"{len(ODD) - 1} lines without a clear time stay in it"
    assert [each["reason"] for each in row["skipped"]] == [why]
    assert row["pruned_records"] == 1 + 2 * (len(ODD) - 1) + len(GOOD)
    rest = [line for line in lines if line not in (record(90), record(80), record(100))]
    assert kept(data / "a.jsonl") == b"".join(rest)


@pytest.mark.parametrize("last", [b'{"timestamp": 1000000000}', b'{"timestamp": 10000', b"  "])
def test_a_last_line_without_its_end(data: Path, last: bytes) -> None:
    (data / "a.jsonl").write_bytes(record(50) + record(1) + last)
    pruned(data)
    complete = last.endswith(b"}")
    assert kept(data / "a.jsonl").rstrip() == (record(1) + (b"" if complete else last)).rstrip()


def test_a_byte_order_mark_and_windows_lines_stay(data: Path) -> None:
    crlf = [record(days).replace(b"\n", b"\r\n") for days in (50, 40, 2, 1)]
    (data / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"".join(crlf))
    row = pruned(data)
    assert (row["pruned_records"], row["kept_malformed"]) == (1, 1)
    assert kept(data / "a.jsonl") == b"\xef\xbb\xbf" + crlf[0] + b"".join(crlf[2:])


def test_a_fully_pruned_file_stays_empty(data: Path) -> None:
    (data / "a.jsonl").write_bytes(b"".join(record(50, number) for number in range(500)))
    assert pruned(data)["pruned_records"] == 500
    assert (data / "a.jsonl").stat().st_size == 0


def test_a_huge_line_needs_no_memory_and_stays(data: Path) -> None:
    size = (1 << 30) if LONG else (100 << 20)
    with open(data / "a.jsonl", "wb") as file:
        file.write(record(50))
        file.seek(size, os.SEEK_CUR)
        file.write(b"\n" + record(40) + record(1))
    command = f"ulimit -v {160 << 10}; exec {sys.executable} {ROOT}/bin/cleanup.py"
    line = f"{command} --config {data.parent}/upkeep.toml {data} --match '*.jsonl'"
    result = subprocess.run(
        ["sh", "-c", f"{line} --older-than 30d --action prune --json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    row = json.loads(result.stdout)["results"][0]
    assert (row["pruned_records"], row["kept_malformed"]) == (2, 1)
    assert (data / "a.jsonl").read_bytes()[-len(record(1)) :] == record(1)
    assert (data / "a.jsonl").stat().st_size > size


@pytest.mark.parametrize("length", [65_000, 65_536, 300_000, (2 << 20) - 100])
def test_long_records_are_records_too(data: Path, length: int) -> None:
    long = [record(days, pad="x" * length) for days in (60, 50, 2, 1)]
    (data / "a.jsonl").write_bytes(record(70) + b"".join(long) + record(0))
    assert pruned(data)["pruned_records"] == 3
    assert kept(data / "a.jsonl") == b"".join(long[2:]) + kept(data / "a.jsonl")[-len(record(0)) :]
    assert kept(data / "a.jsonl").count(b"\n") == 3


def test_a_large_file_in_order_is_not_read_whole(data: Path) -> None:
    """What lies far behind the border may be anything: it is not even looked at."""
    lines = [record(60 - (number + 0.5) / 500, number, pad="x" * 200) for number in range(100_000)]
    with open(data / "a.jsonl", "wb") as file:
        file.writelines(lines)
    assert file.name and (data / "a.jsonl").stat().st_size > 24 << 20
    assert pruned(data, "--older-than", "59d")["pruned_records"] == 500
    assert kept(data / "a.jsonl") == b"".join(lines[500:])


def test_a_large_file_with_young_records_among_the_old_ones(data: Path) -> None:
    lines = [record(60 - (number + 0.5) / 500, number, pad="x" * 200) for number in range(100_000)]
    lines[100] = record(1, 100)
    lines[200] = b"torn\n"
    (data / "a.jsonl").write_bytes(b"".join(lines))
    row = pruned(data, "--older-than", "59d")
    assert (row["pruned_records"], row["kept_malformed"]) == (498, 1)
    assert kept(data / "a.jsonl") == b"".join([lines[100], lines[200], *lines[500:]])


def test_a_file_that_is_emptied_while_it_is_read_ends_the_scan(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(record(50) * 10_000)
    with open(path, "rb") as file:
        size, reader = path.stat().st_size, timestamps.Reader("timestamp")
        parts = prune.scan(file.fileno(), size, NOW, reader, prune.Cut())
        next(parts)
        os.truncate(path, 0)
        with pytest.raises(tree.LeftAloneError, match="changed meanwhile"):
            list(parts)


def start_appender(path: Path, how: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, HELPERS / "appender.py", path, how], stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdout.readline() == b"ready\n"
    return process


def stop_appender(process: "subprocess.Popen[bytes]") -> int:
    """How many records it has written."""
    process.terminate()
    out, _ = process.communicate(timeout=60)
    return int(out)


def numbers_in(path: Path) -> list[int]:
    """Of all complete lines: of the one being written a reader may see the first half."""
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1].splitlines()
    return [json.loads(line)["number"] for line in complete if line.strip()]


@pytest.mark.parametrize("how", ["held", "reopened"])
def test_a_program_that_appends_loses_no_line(data: Path, how: str) -> None:
    runs, least = (100, 1_000_000) if LONG else (5, 5000)
    path, dropped = data / "a.jsonl", 0
    path.write_bytes(b"".join(record(50, -1) for _ in range(1000)))
    process = start_appender(path, how)
    for run in range(runs):
        row = pruned(data, "--older-than", "0.2s")
        dropped += row["pruned_records"] if not row["skipped"] else 0
        if how == "held" and not can_collapse(data):
            assert f"(pid {process.pid})" in row["skipped"][0]["reason"], run
    wait_until(lambda: (numbers_in(path) or [0])[-1] >= least, timeout=600, interval=1)
    written = stop_appender(process)
    numbers = numbers_in(path)
    assert dropped + len(numbers) == 1000 + written
    assert numbers[-written:] == list(range(written - len(numbers), written))[-written:]


def test_a_writer_that_does_not_append_is_left_alone(data: Path) -> None:
    path = data / "a.jsonl"
    content = b"".join(record(50) for _ in range(1000)) + record(1)
    path.write_bytes(content)
    with open(path, "r+b") as file:
        [skipped] = pruned(data)["skipped"]
    assert file.closed and path.read_bytes() == content
    assert f"(pid {os.getpid()})" in skipped["reason"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_full_disk_leaves_the_file_as_it_was(home: Path) -> None:
    data = home / "data"
    data.mkdir()
    (home / "upkeep.toml").write_text("")
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", data]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        content = record(50) + b"".join(record(1, pad="x" * 1000) for _ in range(180))
        (data / "a.jsonl").write_bytes(content)
        row = pruned(data, status=1)
        assert row["errors"][0]["reason"] == "No space left on device"
        assert os.listdir(data) == ["a.jsonl"] and (data / "a.jsonl").read_bytes() == content
    finally:
        subprocess.run(["umount", data], check=True)


def test_a_second_name_keeps_its_content(data: Path) -> None:
    chance = random.Random(3)
    content = b"".join(record(chance.choice((1, 50))) for _ in range(100))
    (data / "a.jsonl").write_bytes(content)
    os.link(data / "a.jsonl", data / "b.other")
    assert "other names" in pruned(data)["skipped"][0]["reason"]
    assert (data / "a.jsonl").read_bytes() == content


@pytest.mark.parametrize("ordered", [True, False])
def test_killed_at_any_point_nothing_is_lost(data: Path, ordered: bool) -> None:
    rounds = 50 if LONG else 8
    chance = random.Random(5)
    days = [chance.choice((1.0, 50.0)) for _ in range(40_000)]
    days = sorted(days, reverse=True) if ordered else days
    lines = [record(each, number, pad="x" * 100) for number, each in enumerate(days)]
    new = [line for line in lines if json.loads(line)["timestamp"] > NOW - 30 * DAY]
    command = [
        sys.executable, ROOT / "bin/cleanup.py", "--config", data.parent / "upkeep.toml", data,
        "--match", "*.jsonl", "--older-than", "30d", "--action", "prune",
    ]  # fmt: skip
    for _ in range(rounds):
        (data / "a.jsonl").write_bytes(b"".join(lines))
        with subprocess.Popen(command) as process:
            time.sleep(0.1 + chance.random() * 0.5)  # the random point, not a wait
            process.send_signal(signal.SIGKILL)
        numbers = {
            json.loads(line)["number"] for line in kept(data / "a.jsonl").splitlines() if line
        }
        assert numbers >= {json.loads(line)["number"] for line in new}
        row = pruned(data)
        assert row["kept_malformed"] == 0
        assert kept(data / "a.jsonl") == b"".join(new)
        assert os.listdir(data) == ["a.jsonl"]


def test_a_file_is_as_old_as_its_newest_record(data: Path) -> None:
    (data / "old.jsonl").write_bytes(record(50) + record(40))
    (data / "mixed.jsonl").write_bytes(record(50) + record(1) + record(50))
    (data / "unclear.jsonl").write_bytes(record(50) + b"torn\n")
    (data / "empty.jsonl").write_bytes(b"")
    row = pruned(data, "--action", "delete", "--age", "records")
    assert sorted(os.listdir(data)) == ["empty.jsonl", "mixed.jsonl", "unclear.jsonl"]
    assert "1 lines without a clear time" in row["skipped"][0]["reason"]


def test_a_file_that_gets_a_record_while_it_is_read_is_not_deleted(data: Path) -> None:
    path = data / "a.jsonl"
    path.write_bytes(b"".join(record(50, pad="x" * 20) for _ in range(300_000)))
    command = [
        sys.executable, ROOT / "bin/cleanup.py", "--config", data.parent / "upkeep.toml", data,
        "--match", "*.jsonl", "--older-than", "30d", "--age", "records", "--force",
    ]  # fmt: skip

    def reads() -> bool:
        with contextlib.suppress(FileNotFoundError):  # one that was closed just now
            links = Path(f"/proc/{process.pid}/fd").iterdir()
            return any(os.path.realpath(link) == str(path) for link in links)
        return False

    with subprocess.Popen(command) as process:
        wait_until(reads, interval=0.001)
        with open(path, "ab") as file:
            file.write(record(0))
    assert process.returncode == 0 and path.read_bytes().endswith(record(0))


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_claim_holds_for_the_name_too(data: Path, change: str) -> None:
    path = data / "a.jsonl"
    path.write_bytes(record(50))
    for fd, folder, [file] in tree.Walk(str(data), lambda _: str, 9, print, lambda: False):
        with openfiles.Claim(tree.Found(fd, folder, *file)) as claim:
            claim.check()
            path.rename(data.parent / "moved")
            if change == "replaced":
                path.write_bytes(record(50))
            with pytest.raises(tree.LeftAloneError, match="meanwhile"):
                claim.check()


def test_the_key_of_the_time_can_be_named(data: Path) -> None:
    (data / "a.jsonl").write_bytes(b'{"@timestamp": "2020-01-01T00:00:00Z"}\n' * 3)
    assert pruned(data)["kept_malformed"] == 3
    assert pruned(data, "--timestamp-field", "@timestamp")["pruned_records"] == 3
