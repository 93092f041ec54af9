"""The history: bounded, and nothing in it ever hides the rest."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import LONG
from upkeep import samples
from upkeep.proc import TICKS_PER_SECOND
from upkeep.samples import Point

NOW = 1_700_000_000.0


def line(time: float, programs: int = 2, **others: Any) -> dict[str, Any]:
    cells = [
        [f"program{n}.py", 30000 + n, 12345678 + n, 4, 123456 + n, 98765] for n in range(programs)
    ]
    uptime = 1_000_000 + time - NOW
    made = {"time": int(time), "boot_id": "b" * 36, "uptime": uptime, "used": 1234567890}
    made |= {"limit": 2147483648, "swap": 123456789, "swapped": 1234567890, "oom_kills": 0}
    return made | {"disks": {"/": [12345678901, 9876543210]}, "programs": cells} | others


def test_what_is_appended_is_read_again_in_its_window(tmp_path: Path) -> None:
    for hours in (80, 30, 2, 1):
        samples.append(tmp_path, line(NOW - hours * 3600))
    found, skipped = samples.read(tmp_path, 3 * 86400, NOW)
    assert skipped == 0 and [row["time"] for row in found] == [NOW - h * 3600 for h in (30, 2, 1)]
    series = samples.series(found)
    assert sorted(series) == ["program0.py", "program1.py"]
    point = series["program0.py"][-1]
    assert samples.life_of(point) == ("b" * 36, 30000, 12345678)
    assert (point.rss_bytes, point.pss_bytes) == (123456 << 10, 98765 << 10)
    assert point.age_seconds == 1_000_000 - 3600 - 12345678 / TICKS_PER_SECOND


def test_a_day_that_a_wrong_clock_made_hides_no_other(tmp_path: Path) -> None:
    for hours in (30, 2, 1, -24 * 4000):
        samples.append(tmp_path, line(NOW - hours * 3600))
    found, _ = samples.read(tmp_path, 2 * 86400, NOW)
    assert [NOW - row["time"] for row in found] == [h * 3600 for h in (30, 2, 1)]


@pytest.mark.parametrize(
    "junk",
    [
        b'{"time": 1700000000, "boot_id": "b", "upti',
        b"\0" * 5000,
        b"[1, 2]",
        b"7",
        b'{"time": NaN, "uptime": 1, "swapped": 0, "disks": {}, "programs": []}',
        b'{"time": 1e999, "uptime": 1, "swapped": 0, "disks": {}, "programs": []}',
        b'{"time": 1700000000, "uptime": "x", "swapped": 0, "disks": {}, "programs": []}',
        b'{"time": 1700000000, "uptime": 1, "swapped": 0, "disks": {}, "programs": [[1]]}',
        b'{"time": 1700000000, "uptime": 1, "swapped": 0, "disks": {}, "programs": {"a": 1}}',
        b'{"time": 1700000000, "uptime": 1, "swapped": 0, "disks": {}, "programs": ["abcdef"]}',
        b"[" * 20000,
        b"\xff\xfe{}",
    ],
)
def test_a_torn_or_foreign_line_never_hides_the_rest(tmp_path: Path, junk: bytes) -> None:
    samples.append(tmp_path, line(NOW - 600))
    (day,) = (tmp_path / "memory").iterdir()
    day.write_bytes(junk + b"\n\n" + day.read_bytes() + junk)
    samples.append(tmp_path, line(NOW - 300))
    found, skipped = samples.read(tmp_path, 86400, NOW)
    assert [row["time"] for row in found] == [NOW - 600, NOW - 300]
    assert skipped == 2


def test_the_history_of_a_month_of_twenty_programs_stays_within_ten_megabytes(
    tmp_path: Path,
) -> None:
    days = 40 if LONG else 33
    step = 300 if LONG else 3600
    for index in range(days * 86400 // step):
        samples.append(tmp_path, line(NOW + index * step, programs=20))
    files = sorted((tmp_path / "memory").iterdir())
    assert len(files) == samples.DAYS
    size = sum(path.stat().st_size for path in files)
    assert size / samples.DAYS * 30 * step / 300 <= samples.MOST_BYTES


def test_size_bounds_the_history_too_and_the_newest_day_always_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MOST_BYTES", 3000)
    for day in range(5):
        for _ in range(4):
            samples.append(tmp_path, line(NOW + day * 86400))
    names = [path.name for path in sorted((tmp_path / "memory").iterdir())]
    assert names[-1] == "2023-11-18.jsonl" and len(names) < 4


def test_a_clock_that_was_years_ahead_for_a_while_deletes_nothing(tmp_path: Path) -> None:
    for hours in (48, 24, 1):
        samples.append(tmp_path, line(NOW - hours * 3600))
    samples.append(tmp_path, line(NOW + 10 * 365 * 86400))
    samples.append(tmp_path, line(NOW))
    found, _ = samples.read(tmp_path, 3 * 86400, NOW)
    assert len([row for row in found if row["time"] <= NOW]) == 4


def test_an_empty_or_missing_history_is_an_empty_one(tmp_path: Path) -> None:
    assert samples.read(tmp_path, 86400, NOW) == ([], 0)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "2023-11-14.jsonl").touch()
    assert samples.read(tmp_path, 86400, NOW) == ([], 0)


def test_an_export_is_read_again_as_it_was() -> None:
    rng = random.Random(1)
    made = {
        name: [
            Point(NOW + n * 300, "b", 7, 5, rng.randrange(10**9), n * 300.0, pss, limit)
            for n in range(5)
        ]
        for name, pss, limit in (("trader", None, 10**9), ('e\x1b"vil\n\udcff', 5, None))
    }
    lines = list(samples.export(made))
    assert len(lines) == 10 and all("\n" not in each for each in lines)
    assert json.loads(lines[0])["time"] == NOW
    again, skipped = samples.parse(each.encode("utf-8", "surrogatepass") for each in lines)
    assert skipped == 0 and again["trader"] == made["trader"]


def test_a_foreign_history_may_hold_unknown_keys_and_lines_that_are_left_out() -> None:
    good = {"time": NOW, "boot_id": "b", "pid": 1, "start_ticks": 2, "name": "x", "more": []}
    good |= {"rss_bytes": 4096, "age_seconds": 30.0}
    lines = [json.dumps(good).encode(), b"", b"\0", b"{}", b"null", b'{"time": "x"}']
    lines += [json.dumps(good | {"rss_bytes": None}).encode()]
    lines += [json.dumps(good | {"age_seconds": "soon"}).encode()]
    found, skipped = samples.parse(lines)
    assert list(found) == ["x"] and found["x"] == [Point(NOW, "b", 1, 2, 4096, 30.0)]
    assert skipped == 6


def test_of_older_days_one_reading_an_hour_is_enough(tmp_path: Path) -> None:
    for minutes in range(6 * 1440, 0, -5):
        samples.append(tmp_path, line(NOW - minutes * 60, programs=1))
    found, _ = samples.read(tmp_path, 7 * 86400, NOW, dense=3 * 86400)
    times = [row["time"] for row in found]
    assert times == sorted(times)
    assert len([time for time in times if time >= NOW - 3 * 86400]) == 3 * 288
    assert len(times) < 4 * 288 + 3 * 24
    assert len(samples.read(tmp_path, 7 * 86400, NOW)[0]) == 6 * 288
