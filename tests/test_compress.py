import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT, wait_until
from tests.test_cleanup import clean, data, make, names, rows, writer

__all__ = ["data", "writer"]
LONG = bool(os.environ.get("UPKEEP_LONG"))
COMPRESS = ("--match", "*.log", "--older-than", "7d", "--action", "compress")
TEXT = b"".join(b'{"time": %d, "price": 1.%d}\n' % (n, n * 7919 % 10000) for n in range(20_000))


def test_a_file_becomes_its_archive_with_mode_owner_and_time(data: Path) -> None:
    make(data / "a.log", 100, TEXT)
    os.chmod(data / "a.log", 0o640)
    before = (data / "a.log").stat()
    dry = rows(clean(data, data, *COMPRESS, "--dry-run", "--json"))[0]
    assert dry["compressed"] == 1 and names(data) == ["a.log"]
    [row] = rows(clean(data, data, *COMPRESS, "--json"))
    after = (data / "a.log.gz").stat()
    assert names(data) == ["a.log.gz"] and gzip.open(data / "a.log.gz").read() == TEXT
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode, before.st_uid, before.st_mtime_ns,
    )  # fmt: skip
    assert row["compressed"] == 1
    assert row["freed_bytes"] == (before.st_blocks - after.st_blocks) * 512
    assert subprocess.run(["gzip", "-t", data / "a.log.gz"], check=False).returncode == 0


def test_a_time_before_1970_is_kept_too(data: Path) -> None:
    make(data / "a.log", 365 * 60, TEXT)
    before = (data / "a.log").stat().st_mtime_ns
    assert clean(data, data, *COMPRESS).returncode == 0
    assert (data / "a.log.gz").stat().st_mtime_ns == before < 0


def test_what_cannot_be_made_smaller_misses_no_budget(data: Path) -> None:
    make(data / "a.log", 100, random.Random(1).randbytes(1 << 20))
    [row] = rows(clean(data, data, *COMPRESS, "--json"))
    assert (row["outcome"], row["reason"], names(data)) == ("done", "", ["a.log.gz"])


def test_no_archive_is_written_over(data: Path) -> None:
    make(data / "a.log", 100, TEXT)
    (data / "a.log.gz").write_bytes(gzip.compress(b"something else"))
    make(data / "b.log", 100, TEXT)
    (data / "b.log.gz").write_bytes(gzip.compress(TEXT))
    make(data / "c.log", 100, TEXT)
    (data / "c.log.gz").write_bytes(gzip.compress(TEXT)[:-9])
    for dry_run in (["--dry-run"], []):
        result = clean(data, data, *COMPRESS, "--json", *dry_run)
        [row] = rows(result)
        assert result.returncode == 1 and row["compressed"] == 1
    assert {error["path"] for error in row["errors"]} == {f"{data}/a.log", f"{data}/c.log"}
    assert names(data) == ["a.log", "a.log.gz", "b.log.gz", "c.log", "c.log.gz"]
    assert gzip.open(data / "a.log.gz").read() == b"something else"


def test_what_is_compressed_linked_or_open_stays(
    data: Path, writer: "subprocess.Popen[bytes]"
) -> None:
    make(data / "a.log.gz", 100, gzip.compress(TEXT))
    make(data / "b.log", 100, TEXT)
    os.link(data / "b.log", data / "b.other")
    os.utime(data / "live.jsonl", (1e9, 1e9))
    match = ("--match", "*.jsonl", "--match", "*.gz")
    [row] = rows(clean(data, data, *COMPRESS, *match, "--json"))
    reasons = {os.path.basename(item["path"]): item["reason"] for item in row["skipped"]}
    assert "compressed already" in reasons["a.log.gz"] and "other names" in reasons["b.log"]
    assert f"(pid {writer.pid})" in reasons["live.jsonl"]
    assert names(data) == ["a.log.gz", "b.log", "b.other", "live.jsonl"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_full_disk_leaves_the_file_as_it_was(data: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", data]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        noise = random.Random(1).randbytes(200_000)
        make(data / "a.log", 100, noise)
        result = clean(data, data, *COMPRESS)
        assert result.returncode == 1 and "No space left" in result.stderr
        assert names(data) == ["a.log"] and (data / "a.log").read_bytes() == noise
    finally:
        subprocess.run(["umount", data], check=True)


def test_a_program_that_writes_during_the_verification_finds_its_file(data: Path) -> None:
    """Its opening waits for the lease, then no archive is left that differs from the file."""
    noise = random.Random(1).randbytes(60 << 20)
    for _ in range(20):
        make(data / "a.log", 100, noise)
        wanted = (data / "a.log").stat().st_mtime_ns
        with start(data, *COMPRESS, "--json") as process:
            temporary = data / ".a.log.upkeep-tmp"
            wait_until(temporary.exists, interval=0.001)
            while temporary.exists() and mtime(temporary) != wanted:  # it is not written yet
                time.sleep(0.0005)
            try:
                with open(data / "a.log", "r+b") as file:
                    file.seek(0, os.SEEK_END)
                    file.write(b"new")
            except FileNotFoundError:  # too late: once more
                (data / "a.log.gz").unlink(missing_ok=True)
                continue
            process.communicate()
        assert names(data) == ["a.log"] and (data / "a.log").read_bytes() == noise + b"new"
        return
    pytest.fail("never came in time")


def mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def test_killed_at_any_point_nothing_is_lost(data: Path) -> None:
    rounds = 50 if LONG else 8
    chance = random.Random(5)
    command = [sys.executable, ROOT / "bin/cleanup.py", "--config", data.parent / "upkeep.toml"]
    for _ in range(rounds):
        make(data / "a.log", 100, TEXT * 10)
        with subprocess.Popen([*command, data, *COMPRESS]) as process:
            time.sleep(0.05 + chance.random() * 0.4)  # the random point, not a wait
            process.send_signal(signal.SIGKILL)
        found = names(data)
        if "a.log" not in found:
            assert gzip.open(data / "a.log.gz").read() == TEXT * 10
        assert clean(data, data, *COMPRESS).returncode == 0
        assert names(data) == ["a.log.gz"]
        assert gzip.open(data / "a.log.gz").read() == TEXT * 10
        (data / "a.log.gz").unlink()


def test_what_a_killed_run_left_goes_though_its_file_is_gone(data: Path) -> None:
    make(data / "a.log.gz", 1, gzip.compress(TEXT))
    os.link(data / "a.log.gz", data / ".a.log.upkeep-tmp")
    assert clean(data, data, *COMPRESS, "--dry-run").returncode == 0
    assert names(data) == [".a.log.upkeep-tmp", "a.log.gz"]
    result = clean(data, data, *COMPRESS)
    assert (result.returncode, names(data)) == (0, ["a.log.gz"])


def start(data: Path, *args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, ROOT / "bin/cleanup.py", "--config", data.parent / "upkeep.toml"]
    return subprocess.Popen([*command, data, *args], text=True, stdout=subprocess.PIPE)


def test_a_new_file_that_takes_the_name_meanwhile_stays(data: Path) -> None:
    make(data / "a.log", 100, random.Random(1).randbytes(60 << 20))
    size = (data / "a.log").stat().st_size
    with start(data, *COMPRESS, "--json") as process:
        wait_until((data / ".a.log.upkeep-tmp").exists, interval=0.001)
        os.rename(data / "a.log", data / "a.log.1")  # as log rotation does
        (data / "a.log").write_bytes(b"precious")
        out, _ = process.communicate()
    [row] = json.loads(out)["results"]
    assert process.returncode == 0 and row["skipped"][0]["reason"] == "changed meanwhile"
    assert (data / "a.log").read_bytes() == b"precious"
    assert names(data) == ["a.log", "a.log.1"] and (data / "a.log.1").stat().st_size == size
