"""The breaker: pauses that double, shared through a file, and no trap for a wrong clock."""

import json
from pathlib import Path

import pytest

from upkeep import spare
from upkeep.breaker import Breaker

NOW = 1_800_000_000.0


def test_pauses_double_up_to_ten_minutes_and_success_closes(tmp_path: Path) -> None:
    file = tmp_path / "breaker.json"
    pauses = []
    for _ in range(12):
        Breaker(file).failed(NOW, "no connection")
        pauses.append(Breaker(file).open_until(NOW) - NOW)
    assert 24 <= pauses[0] <= 36 and 48 <= pauses[1] <= 72
    assert all(480 <= pause <= 720 for pause in pauses[5:])
    Breaker(file).succeeded()
    assert Breaker(file).open_until(NOW) == 0.0
    Breaker(file).failed(NOW, "again")
    assert Breaker(file).open_until(NOW) - NOW <= 36


def test_names_are_independent_and_a_given_pause_is_kept(tmp_path: Path) -> None:
    breaker = Breaker(tmp_path / "b.json")
    breaker.failed(NOW, "x", 6775.0, "one")
    assert breaker.open_until(NOW, "one") == NOW + 6775
    assert breaker.open_until(NOW + 6775, "one") == 0.0
    assert breaker.open_until(NOW, "two") == 0.0


def test_an_end_beyond_two_days_is_a_wrong_clock(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    Breaker(file).failed(NOW, "x", 47 * 3600.0)
    assert Breaker(file).open_until(NOW)
    assert Breaker(file).open_until(NOW - 10 * 365 * 86400) == 0.0


def test_a_longer_pause_lasts_two_days(tmp_path: Path) -> None:
    for now in (NOW, NOW + 0.1234567):
        Breaker(tmp_path / "b.json").failed(now, "x", 1e9)
        assert Breaker(tmp_path / "b.json").open_until(now) == now + 48 * 3600.0


ODD = (
    {"api": {"until": "x"}},
    {"api": {"until": NOW + 100}},
    {"api": {"until": 1.0, "why": "x", "fails": "x"}},
    {"api": {"until": float("nan"), "why": "x", "fails": 1}},
    {"api": {"until": 1e300, "why": "x", "fails": True}},
)


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    for content in ("{", "[]", json.dumps({"api": 5}), *map(json.dumps, ODD)):
        file.write_text(content)
        breaker = Breaker(file)
        assert breaker.open_until(NOW) == 0.0
        breaker.failed(NOW, "x")
        assert breaker.open_until(NOW) > NOW


def test_where_nothing_can_be_written_it_holds_for_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "ROOT", tmp_path / "none")
    (tmp_path / "none").symlink_to("/proc/nothing")
    breaker = Breaker(tmp_path / "none" / "b.json")
    breaker.failed(NOW, "x")
    assert breaker.open_until(NOW) > NOW
    assert Breaker(tmp_path / "none" / "b.json").open_until(NOW) == 0.0
