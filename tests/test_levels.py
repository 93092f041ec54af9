"""Limits: what is over, what is clear, and for how many samples in a row."""

from pathlib import Path

import pytest

from tests.helpers.fake_proc import FakeProc
from upkeep import config, leak, levels, reading
from upkeep.leak import Verdict
from upkeep.levels import Level

FIRST = Level("k", "t", over=True, clear=False, in_a_row=3)
BETWEEN = FIRST._replace(over=False)
CLEAR = FIRST._replace(over=False, clear=True)


@pytest.mark.parametrize(
    ("seen", "count"),
    [
        ([FIRST], 1),
        ([FIRST] * 5, 5),
        ([FIRST, FIRST, BETWEEN, FIRST], 1),
        ([FIRST, FIRST, CLEAR], -1),
        ([CLEAR] * 9, -9),
        ([CLEAR, CLEAR, BETWEEN, CLEAR], -1),
    ],
)
def test_samples_in_a_row_are_counted(seen: list[Level], count: int) -> None:
    counts: dict[str, int] = {"other": 2}
    for level in seen:
        counts = levels.count_on(counts, [level])
    assert counts == {"other": 2, "k": count}


@pytest.mark.parametrize(
    ("available", "over", "clear"),
    [(2048 * 199, True, False), (2048 * 201, False, False), (2048 * 300, False, True)],
)
def test_between_the_alert_and_the_clear_level_nothing_changes(
    tmp_path: Path, available: int, over: bool, clear: bool
) -> None:
    FakeProc(tmp_path, available=available)
    settings = config.Config(file=None, state=tmp_path / "var")
    now = reading.take(settings, str(tmp_path), 0)
    memory, _disk = levels.compare(settings, now, {}, 7 * leak.DAY)
    assert (memory.over, memory.clear) == (over, clear)


@pytest.mark.parametrize(
    ("verdict", "days", "over"),
    [("leak", 6, True), ("leak", 8, False), ("leak", None, False), ("growing", 1, False)],
)
def test_a_leak_is_over_when_it_reaches_its_limit_within_the_time(
    tmp_path: Path, verdict: str, days: float | None, over: bool
) -> None:
    FakeProc(tmp_path)
    settings = config.Config(file=None, state=tmp_path / "var")
    now = reading.take(settings, str(tmp_path), 0)
    left = None if days is None else days * leak.DAY
    found = {"bot": Verdict(verdict, 1e6, time_to_limit_seconds=left)}
    level = list(levels.compare(settings, now, found, 7 * leak.DAY))[-1]
    assert (level.key, level.over, level.clear) == ("leak:bot", over, not over)
