import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, wait_until
from tests.test_cleanup import clean, make, rows
from tests.test_prune import (
    LONG,
    can_collapse,
    data,
    numbers_in,
    record,
    start_appender,
    stop_appender,
)
from upkeep import inplace

__all__ = ["data"]
TRUNCATE = ("--match", "*.log", "--larger-than", "1K", "--action", "truncate", "--json")


@pytest.mark.parametrize("begin", [0, 3, 100, 5000, 8192])
@pytest.mark.parametrize("length", [1, 100, 4000, 4096, 9000, 70_000])
@pytest.mark.parametrize("behind", [0, 1, 5000])
def test_whole_lines_are_taken_out_of_any_place(
    tmp_path: Path, begin: int, length: int, behind: int
) -> None:
    if not can_collapse(tmp_path):
        pytest.skip("this file system cannot collapse")
    parts = [b"a" * (begin - 1) + b"\n" if begin else b""]
    parts += [b"b" * (length - 1) + b"\n", b"c" * (behind - 1) + b"\n" if behind else b""]
    (tmp_path / "x").write_bytes(b"".join(parts))
    fd = os.open(tmp_path / "x", os.O_RDWR)
    inplace.drop(fd, [(begin, begin + length)], os.fstat(fd))
    os.close(fd)
    found = (tmp_path / "x").read_bytes()
    assert found[:begin] == parts[0] and found[begin:].lstrip(b" ") == parts[2]
    assert len(found) <= begin + behind + 2 * 4096


@pytest.mark.parametrize("begin", [100, 4096])
@pytest.mark.parametrize("border", [4095, 4096, 4097, 8191, 8192, 8193])
def test_no_blank_line_stays_of_lines_that_end_at_the_border_of_a_block(
    tmp_path: Path, begin: int, border: int
) -> None:
    if not can_collapse(tmp_path):
        pytest.skip("this file system cannot collapse")
    ends = [begin, max(border, begin + 10), 16_000, 16_010]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    lines = [b"%d" % number * (size - 1) + b"\n" for number, size in enumerate(sizes)]
    (tmp_path / "x").write_bytes(b"".join(lines))
    fd = os.open(tmp_path / "x", os.O_RDWR)
    inplace.drop(fd, [(ends[0], ends[2])], os.fstat(fd))
    os.close(fd)
    left = (tmp_path / "x").read_bytes().splitlines(keepends=True)
    assert [line.lstrip(b" ") for line in left] == [lines[0], lines[3]]


def test_a_log_that_nobody_has_open_is_emptied(data: Path) -> None:
    make(data / "a.log", 100, b"line\n" * 1000)
    inode = (data / "a.log").stat().st_ino
    [row] = rows(clean(data, data, *TRUNCATE, "--dry-run"))
    assert row["truncated"] == 1 and (data / "a.log").stat().st_size == 5000
    [row] = rows(clean(data, data, *TRUNCATE))
    assert (row["truncated"], row["freed_bytes"]) == (1, 8192)
    assert ((data / "a.log").stat().st_size, (data / "a.log").stat().st_ino) == (0, inode)


def test_a_log_that_is_only_read_is_emptied_too(data: Path) -> None:
    make(data / "a.log", 100, b"line\n" * 1000)
    with open(data / "a.log"):  # as tail -f does
        [row] = rows(clean(data, data, *TRUNCATE))
    assert (row["truncated"], (data / "a.log").stat().st_size) == (1, 0)


def test_a_log_in_use_is_shortened_or_refused_but_loses_no_new_line(data: Path) -> None:
    path = data / "a.log"
    path.write_bytes(b"".join(record(50, -1) for _ in range(1000)))
    process = start_appender(path, "held")
    for _ in range(100 if LONG else 5):
        seen = (numbers_in(path) or [-1])[-1] if can_collapse(data) else -1
        [row] = rows(clean(data, data, *TRUNCATE))
        if not can_collapse(data):
            assert "cannot shorten it in place" in row["skipped"][0]["reason"]
        wait_until(lambda before=seen: (numbers_in(path) or [-1])[-1] > before)
    written = stop_appender(process)
    numbers = [number for number in numbers_in(path) if number >= 0]
    assert numbers == list(range(written - len(numbers), written))


def test_a_log_of_a_writer_that_does_not_append_is_left_alone(data: Path) -> None:
    code = "import sys; f = open(sys.argv[1], 'r+'); print('ready', flush=True); sys.stdin.read()"
    make(data / "a.log", 100, b"line\n" * 1000)
    with subprocess.Popen(
        [sys.executable, "-c", code, data / "a.log"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        [row] = rows(clean(data, data, *TRUNCATE))
        process.kill()
    assert (data / "a.log").stat().st_size == 5000
    assert f"(pid {process.pid})" in row["skipped"][0]["reason"]


def test_the_rule_for_logs_of_pm2_in_the_example(data: Path) -> None:
    logs = data / "home/.pm2/logs"
    logs.mkdir(parents=True)
    make(logs / "app-out.log", 0, b"line\n" * 3_000_000)
    make(logs / "app-error.log", 0, b"line\n")
    example = (ROOT / "upkeep.example.toml").read_text()
    table = example[example.index("[cleanup.pm2-logs]") :].split("\n\n")[0]
    text = table.replace("/home/USER/.pm2/logs", str(logs))
    (data.parent / "upkeep.toml").write_text(text)
    assert clean(data, "--rule", "pm2-logs").returncode == 0
    assert [(logs / f"app-{name}.log").stat().st_size for name in ("out", "error")] == [0, 5]
