"""The breakers: pauses that double, shared through a file, and no trap for a wrong clock."""

import json
from pathlib import Path

from upkeep.breaker import Breakers

NOW = 1_800_000_000.0


def test_pauses_double_up_to_ten_minutes_and_success_closes(tmp_path: Path) -> None:
    file = tmp_path / "breakers.json"
    pauses = []
    for _ in range(12):
        Breakers(file).failed("api", NOW, "no connection")
        pauses.append(Breakers(file).open_until("api", NOW) - NOW)
    assert 24 <= pauses[0] <= 36 and 48 <= pauses[1] <= 72
    assert all(480 <= pause <= 720 for pause in pauses[5:])
    Breakers(file).succeeded("api")
    assert Breakers(file).open_until("api", NOW) == 0.0
    Breakers(file).failed("api", NOW, "again")
    assert Breakers(file).open_until("api", NOW) - NOW <= 36


def test_names_are_independent_and_a_given_pause_is_kept(tmp_path: Path) -> None:
    breakers = Breakers(tmp_path / "b.json")
    breakers.failed("one", NOW, "x", 6775.0)
    assert breakers.open_until("one", NOW) == NOW + 6775
    assert breakers.open_until("one", NOW + 6775) == 0.0
    assert breakers.open_until("two", NOW) == 0.0


def test_an_end_beyond_two_days_is_a_wrong_clock(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    Breakers(file).failed("api", NOW, "x", 47 * 3600.0)
    assert Breakers(file).open_until("api", NOW)
    assert Breakers(file).open_until("api", NOW - 10 * 365 * 86400) == 0.0


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    for content in ("{", "[]", json.dumps({"api": 5}), json.dumps({"api": {"until": "x"}})):
        file.write_text(content)
        breakers = Breakers(file)
        assert breakers.open_until("api", NOW) == 0.0
        breakers.failed("api", NOW, "x")
        assert breakers.open_until("api", NOW) > NOW


def test_where_nothing_can_be_written_it_holds_for_this_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    breakers = Breakers(tmp_path / "file2" / "b.json")
    (tmp_path / "file2").symlink_to("/proc/nothing")
    breakers.failed("api", NOW, "x")
    assert breakers.open_until("api", NOW) > NOW
