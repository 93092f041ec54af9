"""How often messages may leave: windows by chat, by group and for all, shared by a file."""

import json
from pathlib import Path

import pytest

from upkeep.pace import Pace

NOW = 1_800_000_000.0


def delays(path: Path, chats: list[str]) -> list[float]:
    """When each message could leave, in seconds from the first."""
    pace, now, found = Pace(path), NOW, []
    for chat in chats:
        now += pace.pause(chat, now)
        pace.note(chat, now)
        found.append(now - NOW)
    pace.save(now)
    return found


def test_five_at_once_to_a_chat_then_one_a_second(tmp_path: Path) -> None:
    found = delays(tmp_path / "a", ["4242"] * 15)
    assert found == [0.0] * 5 + [5.0] * 5 + [10.0] * 5


@pytest.mark.parametrize("chat", ["-100", "@ops"])
def test_a_group_gets_eighteen_in_a_minute(tmp_path: Path, chat: str) -> None:
    found = delays(tmp_path / "a", [chat] * 40)
    for begin in found:
        assert sum(begin <= each < begin + 60 for each in found) <= 18


def test_all_chats_get_twenty_five_in_a_second(tmp_path: Path) -> None:
    found = delays(tmp_path / "a", [str(number) for number in range(60)])
    assert found == [0.0] * 25 + [1.0] * 25 + [2.0] * 10


def test_the_next_process_goes_on_and_old_times_go(tmp_path: Path) -> None:
    file = tmp_path / "a"
    delays(file, ["4242"] * 5)
    assert Pace(file).pause("4242", NOW + 1) == 4.0
    assert Pace(file).pause("4242", NOW + 6) == 0.0
    assert Pace(file).pause("4242", NOW - 86400) == 0.0  # a clock that was wrong
    Pace(file).save(NOW + 61)
    assert json.loads(file.read_text()) == {}


@pytest.mark.parametrize("content", ['{"1": 5}', '{"1": ["x"]}', '{"1": [true]}', "[", "[1]"])
def test_a_foreign_file_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").write_text(content)
    assert Pace(tmp_path / "a").pause("1", NOW) == 0.0
