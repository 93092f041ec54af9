"""Cron expressions: what they mean, also in the two nights in which the clocks are changed."""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.helpers import LONG, ROOT, cron_machine, wait_until
from upkeep import files, proc, schedule


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _times(text: str, begin: str, end: str) -> list[str]:
    moments = (datetime.fromisoformat(each).timestamp() for each in (begin, end))
    found = schedule.times(text, *moments)
    return [datetime.fromtimestamp(each).astimezone().isoformat()[5:16] for each in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 4 * * *", ["02-01T04:00", "02-02T04:00"]),
        ("*/30 4 2 * *", ["02-02T04:00", "02-02T04:30"]),
        ("15-45/15 23 * 2 *", ["02-01T23:15", "02-01T23:30", "02-01T23:45", "02-02T23:15"]),
        ("5 4 * * 2", ["02-03T04:05"]),
        ("5 4 * * 7", ["02-01T04:05"]),
        ("5 4 3 * 0", ["02-01T04:05", "02-03T04:05"]),  # both days given: either is enough
        ("5 4 */2 * 7", ["02-01T04:05"]),  # a day that begins with *: both must hold
        ("0,20 4 3 * *", ["02-03T04:00", "02-03T04:20"]),
        ("*/90 4 3 * *", ["02-03T04:00"]),
        ("5 4 * FEB tue", ["02-03T04:05"]),
        ("5 4 * jan-mar Mon-wed", ["02-02T04:05", "02-03T04:05"]),
        ("5 4 * * sun", ["02-01T04:05"]),
        ("@daily", ["02-02T00:00", "02-03T00:00"]),
        ("@monthly", []),
        ("0 0 31 2 *", []),
    ],
)
def test_an_expression_starts_at(text: str, expected: list[str]) -> None:
    found = _times(text, "2026-02-01T00:00", "2026-02-03T12:00")
    assert found[: len(expected) or None] == expected


@pytest.mark.parametrize(
    "text",
    [
        "* * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "5/10 * * * *",
        "*/0 * * * *",
        "9-5 * * * *",
        "* * * jann *",
        "* * jan * *",
        "* * * * fri-sun",
        "* * * * monday",
        "0~59 4 * * *",
        "@every_minute",
        "",
        "1,,2 * * * *",
        "-5 * * * *",
        "² * * * *",
    ],
)
def test_a_wrong_expression_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        list(schedule.times(text, 0.0, 60.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["29T03:00"]),  # made up when the clocks jump from 02:00 to 03:00
        ("0,15,30 2 * * *", ["29T03:00"]),
        ("*/15 2 * * *", []),  # follows the wall clock, which had no such hour
        ("30 * * * *", ["29T01:30", "29T03:30"]),
        ("0 3 * * *", ["29T03:00"]),
        ("0 4 * * *", ["29T04:00"]),
    ],
)
def test_the_night_that_the_clocks_go_forward(text: str, expected: list[str]) -> None:
    found = _times(text, "2026-03-29T01:00", "2026-03-29T04:00")
    assert [each[3:] for each in found] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["25T02:30"]),  # once, not again in the second hour
        ("0 3 * * *", ["25T03:00"]),
        ("*/30 2 * * *", ["25T02:00", "25T02:30", "25T02:00", "25T02:30"]),
        ("0 2 * * *", ["25T02:00"]),
    ],
)
def test_the_night_that_the_clocks_go_back(text: str, expected: list[str]) -> None:
    found = _times(text, "2026-10-25T01:00", "2026-10-25T04:00")
    assert [each[3:] for each in found] == expected


def test_a_year_ahead_is_found() -> None:
    begin = datetime.fromisoformat("2026-03-01T00:00").timestamp()
    found = next(schedule.times("0 4 29 2 *", begin, begin + 3 * 365 * 86400))
    assert datetime.fromtimestamp(found).isoformat() == "2028-02-29T04:00:00"


CLOCK = """#!/bin/sh
# Run a command by the clock of the cron daemon.
eval "$(tr '\\0' '\\n' <"/proc/$(cat /run/crond.pid)/environ" |
    sed -nE 's/^(LD_PRELOAD|TZ|FAKETIME[A-Z_]*)=(.*)/export \\1="\\2"/p')"
exec "$@"
"""
SPRING, AUTUMN = "2026-03-29", "2026-10-25"
DAILY = {"spring": "30 2", "three": "0 3", "four": "0 4"}
if LONG:  # those that are installed, too
    installed = (ROOT / "cron/upkeep").read_text()
    DAILY |= {f"line{n}": each for n, each in enumerate(re.findall(r"(?m)^\d+ \d+", installed))}


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime")
@pytest.mark.parametrize("day", [SPRING, AUTUMN])
def test_a_daily_job_runs_once_in_either_night_and_none_is_called_missed(
    home: Path, day: str
) -> None:
    begin, end, speed = f"{day} 01:58:00", "20 4", 600
    if LONG:  # from before all of them to after the last
        begin, end, speed = f"{day} 00:30:00", "30 9", 240
    (home / "upkeep.toml").touch()
    (home / "clock").write_text(CLOCK)
    (home / "uptime").write_text("8640000.00 0.00\n")
    with cron_machine.machine(home / "machine") as host:
        assert host.run("mount", "--bind", home / "uptime", "/proc/uptime").returncode == 0
        job = f"sh {home}/clock {sys.executable} {ROOT}/bin/run_job.py"
        options = f"--config {home}/upkeep.toml -- true"
        lines = [f"{at} * * * root {job} {name} {options}\n" for name, at in DAILY.items()]
        lines.append(f"{end} * * * root touch {home}/end\n")
        files.atomic_write(host.place / "cron.d/night", "".join(lines).encode(), 0o644)
        lost = f"15 3 * * * root {job} lost {options}\n".encode()
        files.atomic_write(host.place / "cron.d/ignored", lost, 0o666)  # by cron, for its mode
        long_ago = time.time() - 10.5 * 86400  # for whom goes by that clock, so long before begin
        for name in ("night", "ignored"):
            os.utime(host.place / "cron.d" / name, (long_ago, long_ago))
        with host.cron("faketime", "-f", f"@{begin} x{speed}", env={"TZ": "Europe/Berlin"}):
            wait_until((home / "end").exists, 300)
            words = f"--config {home}/upkeep.toml --status --json".split()
            shown = host.run("sh", home / "clock", *job.split()[2:], *words)
    rows = {row.pop("job"): row for row in json.loads(shown.stdout)["jobs"]}
    assert rows.pop("lost")["missed"] in (9, 10, 11)  # once a day since then: it is not blind
    found = {name: (len(row["runs"]), row["missed"], row["ok"]) for name, row in rows.items()}
    assert found == dict.fromkeys(DAILY, (1, 0, True))


def test_missed_runs_count_from_the_last_run_this_boot_and_the_installation() -> None:
    now = time.time()
    plans = [("job", "* * * * *", 0.0)]
    quiet = schedule.SLACK_SECONDS
    boot = now - proc.uptime()
    coming, missed = schedule.outlook(plans, "job", now, now)
    assert coming == int(now) // 60 * 60 + 60 and missed == 0
    assert (
        schedule.outlook(plans, "job", 0.0, now)[1] == 0
    )  # installed at an unknown time, never ran
    long_ago = schedule.outlook(plans, "job", 1.0, now)[1]
    assert abs(long_ago - max(0, (now - quiet - boot) / 60)) <= 1  # only while the host was up
    fresh = [("job", "* * * * *", now - quiet - 600)]
    assert schedule.outlook(fresh, "job", 1.0, now)[1] in range(min(9, long_ago), 11)
    assert schedule.outlook([("job", "nonsense", 1.0)], "job", 1.0, now) == (None, 0)


NIGHTS = [("2026-03-29 01:57:50", "2026-03-29 03:04", 60)]  # begin, end, how fast the clock goes
if LONG:
    NIGHTS += [("2026-10-25 01:57:50", "2026-10-25 03:04", 300)]
LINES = ("30 2 * * *", "15 2 * * *", "*/15 2 * * *", "58 1 * * *", "0 3 * * *", "*/2 * * * *")


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs faketime")
@pytest.mark.parametrize(("begin", "end", "speed"), NIGHTS)
def test_the_real_cron_agrees_when_clocks_are_changed(
    home: Path, begin: str, end: str, speed: int
) -> None:
    expected = [_times(each, begin, end) for each in LINES]
    last = home / "end"
    with cron_machine.machine(home / "machine") as host:
        lines = [f"{each} root echo x >>{home}/{n}\n" for n, each in enumerate(LINES)]
        stop = datetime.fromisoformat(end)
        lines.append(f"{stop.minute + 1} {stop.hour} * * * root touch {last}\n")
        files.atomic_write(host.place / "cron.d/night", "".join(lines).encode(), 0o644)
        zone = {"TZ": "Europe/Berlin"}
        with host.cron("faketime", "-f", f"@{begin} x{speed}", env=zone):
            wait_until(last.exists, 120)
    ran = [
        len((home / str(n)).read_text().split()) if (home / str(n)).exists() else 0
        for n in range(len(LINES))
    ]
    assert ran == [len(each) for each in expected]
