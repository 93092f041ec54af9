"""Samples: one line each, and alerts that come once and go once."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, run_script
from tests.helpers.bot_api import BotApi
from tests.helpers.fake_proc import BOOT_ID, FakeProc
from upkeep import files, proc, samples


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as server:
        yield server


class Host:
    """A made-up host that is sampled."""

    def __init__(self, home: Path, api: BotApi) -> None:
        self.home, self.api = home, api
        self.uptime = 100_000.0
        self.configure()

    def configure(self, toml: str = "") -> None:
        (self.home / "upkeep.toml").write_text(toml)

    def sample(self, *args: str, code: int = 0, **state: Any) -> str:
        self.uptime += 300
        fake = FakeProc(self.home / "proc", uptime=self.uptime, **state)
        fake.process(10, ["python3", "/srv/bot.py"], rss_pages=30_000, pss_kib=100_000)
        result = run_script(
            "memory_sample",
            *("--config", self.home / "upkeep.toml", "--proc-root", self.home / "proc", *args),
            env=self.api.env,
        )
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        return result.stdout + result.stderr

    def history(self) -> list[dict[str, Any]]:
        days = sorted((self.home / "var/memory").glob("*-*.jsonl"))
        return [json.loads(line) for day in days for line in day.read_text().splitlines()]


@pytest.fixture
def host(home: Path, api: BotApi) -> Host:
    return Host(home, api)


def test_a_sample_is_silent_and_leaves_one_line(host: Host) -> None:
    assert host.sample() == ""
    assert host.sample(available=500_000) == ""
    first, second = host.history()
    assert (first["boot_id"], first["limit"]) == (BOOT_ID, 2048000 << 10)
    assert second["used"] == 1548000 << 10
    page = os.sysconf("SC_PAGE_SIZE") // 1024
    assert second["programs"] == [["bot.py", 10, 5000, 1, 30_000 * page, 100_000]]
    assert host.api.texts == []


def test_a_healthy_sample_imports_nothing_that_sends(host: Host) -> None:
    FakeProc(host.home / "proc")
    command = [sys.executable, "-X", "importtime", ROOT / "bin/memory_sample.py", "--config"]
    command += [host.home / "upkeep.toml", "--proc-root", host.home / "proc"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "upkeep.samples" in done.stderr
    for name in ("upkeep.telegram", "upkeep.outbox", "requests", "psutil", "subprocess"):
        assert name not in done.stderr


def test_memory_over_its_level_is_one_alert_and_one_recovery(host: Host) -> None:
    full, between, fine = ({"available": kib} for kib in (300_000, 450_000, 900_000))
    for state in (full, full, between, full, full):
        host.sample(**state)
    assert host.api.texts == []  # never three in a row
    for state in (full, full, full, between, between, fine, fine):
        host.sample(**state)
    (alert,) = host.api.texts
    assert alert.startswith("memory 85.4% of 2.0 GiB in use, limit 80%\n3 samples in a row")
    host.sample(**fine)
    assert len(host.api.texts) == 2
    assert "recovered after" in host.api.texts[1]
    for state in (fine, fine, fine):
        host.sample(**state)
    assert len(host.api.texts) == 2


def test_a_full_swap_alone_never_alarms(host: Host) -> None:
    for _ in range(4):
        host.sample(swap_free=0)
    assert host.api.texts == []


def test_a_full_disk_and_a_task_over_its_limit_alarm(host: Host) -> None:
    host.configure(
        '[host]\ndisk_alert = "0%"\nsamples = 1\n'
        '[task.bot]\ncommand = ["x"]\nmax_rss = "80M"\nmax_rss_samples = 2\n'
    )
    record = {"boot_id": BOOT_ID, "pid": 10, "start_ticks": 5000}
    files.write_state(host.home / "var/tasks/bot.json", record)
    host.sample()
    host.sample()
    disk, task = host.api.texts
    assert disk.startswith("disk / ") and "limit 0%" in disk
    assert task.startswith("bot 98 MiB in use, limit 80 MiB\n2 samples in a row")


def test_every_kill_for_want_of_memory_is_reported_once(host: Host) -> None:
    host.sample(oom_kills=5)  # before the first sample: nobody's news
    host.sample(oom_kills=5)
    assert host.api.texts == []
    host.sample(oom_kills=7)
    host.sample(oom_kills=7)
    (text,) = host.api.texts
    assert text.startswith("out of memory: the kernel killed 2 process(es)\n")
    (host.home / "var/memory/state.json").write_text(
        (host.home / "var/memory/state.json").read_text().replace(BOOT_ID, "an older boot")
    )
    host.sample(oom_kills=1)
    assert "killed 1 process" in host.api.texts[1]
    host.sample(oom_kills=None)
    host.sample(oom_kills=1)
    assert len(host.api.texts) == 2


def leaky_history(home: Path, days: int) -> None:
    """A history of bot.py that grows by 2 MiB an hour up to now."""
    now = time.time()
    for index in range(days * 288):
        age = (days * 288 - index) * 300
        rss = 30_000 + int(index / 12 * 2048)
        row = {"time": round(now - age), "boot_id": BOOT_ID, "uptime": 100_000 + days * 86400 - age}
        row |= {"used": 1, "limit": 2, "swap": 0, "swapped": 0, "oom_kills": 0, "disks": {}}
        row["programs"] = [["bot.py", 10, 5000, 1, rss], ["gone.py", 11, 1, 1, rss]]
        samples.append(home / "var", row)


def test_a_leak_that_reaches_the_limit_within_a_week_alarms_at_the_second_verdict(
    host: Host,
) -> None:
    leaky_history(host.home, 3)
    host.configure('[host]\nmemory_alert = "100%"\n')
    host.uptime += 3 * 86400
    state = host.home / "var/memory/state.json"
    host.sample(available=200_000)
    host.sample(available=200_000)  # within the hour: not judged again
    assert host.api.texts == []
    state.write_text(re.sub(r'"measured_at": [\d.]+', '"measured_at": 1', state.read_text()))
    host.sample(available=200_000)
    (text,) = host.api.texts
    assert re.match(r"bot\.py: leak, 4[78] MiB a day, at its limit in (3 d 23|4 d)", text)


def test_only_one_sample_is_taken_at_a_time(host: Host) -> None:
    host.sample()
    with files.lock(host.home / "var/lock/memory.lock"):
        assert "busy" in host.sample(code=4)


def test_a_dry_run_says_what_is_over_and_writes_nothing(host: Host) -> None:
    shown = host.sample("--dry-run", available=100_000)
    assert shown.startswith("over: memory 95.1% of 2.0 GiB in use, limit 80%\ndisk /")
    assert not (host.home / "var/memory").exists()
    assert host.api.texts == []


def test_json_is_what_was_read_and_what_is_over(host: Host) -> None:
    found = json.loads(host.sample("--json", available=100_000))
    assert found["over"] == ["memory 95.1% of 2.0 GiB in use, limit 80%"]
    assert [line["used"] for line in host.history()] == [found["host"]["used_bytes"]]
    rss = 30_000 * os.sysconf("SC_PAGE_SIZE")
    program = {"name": "bot.py", "processes": 1, "rss_bytes": rss, "pss_bytes": 100_000 << 10}
    assert [program] == [
        {key: row[key] for key in program} for row in found["programs"] if row["name"] == "bot.py"
    ]


def test_a_state_that_cannot_be_written_is_a_warning_and_the_alert_still_goes_out(
    host: Host,
) -> None:
    host.configure("[host]\nsamples = 1\n")
    host.sample()
    path = host.home / "var/memory"
    path.rename(path.with_name("memory-was"))
    path.write_text("a file where a directory was")
    shown = host.sample(available=100_000, code=1)
    assert "/var/memory" in shown
    assert host.api.texts[0].startswith("memory 95.1%")


def test_a_damaged_state_is_set_aside_once(host: Host) -> None:
    host.sample()
    state = host.home / "var/memory/state.json"
    state.write_bytes(b'{"counts": {"host:mem')
    assert "set aside" in host.sample()
    assert host.sample() == ""
    assert [path.name for path in state.parent.glob("state.json.corrupt-*")]


def test_a_full_disk_does_not_make_the_same_kill_news_again(host: Host, full: Path) -> None:
    host.sample(oom_kills=5, code=1)
    for _ in range(3):
        host.sample(oom_kills=6, code=1)
    assert sum("out of memory" in text for text in host.api.texts) == 1
    (full / "noise").unlink()
    host.sample(oom_kills=6)
    assert sum("out of memory" in text for text in host.api.texts) == 1


def test_a_real_kill_by_the_kernel_names_its_victim(host: Host, group: Path) -> None:
    before = proc.uptime()
    code = (
        f"open('{group}/cgroup.procs', 'w').write(str(__import__('os').getpid()));"
        "keep = [b'x' * (1 << 20) for _ in range(200)]"
    )
    child = subprocess.run(["/usr/bin/python3", "-c", code], check=False)
    assert child.returncode == -9
    host.sample(oom_kills=0)
    state = host.home / "var/memory/state.json"
    values = json.loads(state.read_text()) | {"uptime": before - 1}
    state.write_text(json.dumps(values))
    host.sample(oom_kills=1)
    assert re.search(r"Killed process \d+ \(python3\)|not known", host.api.texts[0])


@pytest.mark.parametrize(
    "odd", [{"counts": 5}, {"counts": {"x": "y"}}, {"measured_at": "x"}, {"written_by": "me"}]
)
def test_an_odd_state_is_set_aside_and_told_once(host: Host, odd: dict[str, Any]) -> None:
    host.sample()
    state = host.home / "var/memory/state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | odd))
    assert "set aside" in host.sample()
    assert host.sample() == ""


def test_a_history_that_cannot_be_read_leaves_a_whole_state(host: Host) -> None:
    (host.home / "var").mkdir(mode=0o700)
    (host.home / "var/memory/2020-01-01.jsonl").mkdir(parents=True, mode=0o700)
    assert "2020-01-01.jsonl: " in host.sample(code=1)
    (host.home / "var/memory/2020-01-01.jsonl").rmdir()
    assert host.sample() == ""


def test_when_counts_cannot_be_kept_one_sample_is_enough(host: Host) -> None:
    (host.home / "var").mkdir(mode=0o700)
    (host.home / "var/memory").write_text("a file where the directory should be")
    host.sample(available=300_000, code=1)
    assert host.api.texts and host.api.texts[0].startswith("memory 85.4%")


def test_odd_lines_of_the_history_are_passed_over(host: Host) -> None:
    host.sample()
    (day,) = (host.home / "var/memory").glob("*-*.jsonl")
    row = json.loads(day.read_text())
    for odd in ({"disks": {"/": 5}}, {"dirs": {"/x": 7}}, {"dirs": ["/x"]}, {"dirs": 7}):
        day.write_text(day.read_text() + json.dumps(row | odd) + "\n")
    options = ("--config", host.home / "upkeep.toml", "--proc-root", host.home / "proc")
    result = run_script("memory_report", *options)
    assert result.returncode in (0, 1) and "Traceback" not in result.stderr, result.stderr
