"""How often messages may leave: a burst, then a steady pace, shared by a file."""

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
    assert delays(tmp_path / "a", ["4242"] * 8) == [0.0] * 5 + [1.0, 2.0, 3.0]


@pytest.mark.parametrize("chat", ["-100", "@ops"])
def test_a_group_gets_no_more_than_twenty_in_a_minute(tmp_path: Path, chat: str) -> None:
    found = delays(tmp_path / "a", [chat] * 60)
    assert max(sum(begin <= each < begin + 60 for each in found) for begin in found) <= 20
    assert found[-1] < 240


def test_the_next_process_goes_on_and_old_times_go(tmp_path: Path) -> None:
    file = tmp_path / "a"
    delays(file, ["4242"] * 5)
    assert Pace(file).pause("4242", NOW) == 1.0
    assert Pace(file).pause("4242", NOW + 1) == 0.0
    assert Pace(file).pause("-100", NOW) == 0.0
    assert Pace(file).pause("4242", NOW - 86400) == 0.0  # a clock that was wrong
    Pace(file).save(NOW + 61)
    assert json.loads(file.read_text()) == {}


@pytest.mark.parametrize("content", ['{"1": 5}', '{"1": {"free_at": "x"}}', "[", "[1]"])
def test_a_foreign_file_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").write_text(content)
    assert Pace(tmp_path / "a").pause("1", NOW) == 0.0
