import json
from pathlib import Path

from upkeep import history, proc


def test_events_come_back_newest_first_across_blocks(tmp_path: Path) -> None:
    for number in range(300):
        event = {"task": "täsk", "event": "restart", "detail": f"{number}-" + "x" * 500}
        history.record(tmp_path, event, 1000.0 + number)
    found = [int(event["detail"].partition("-")[0]) for event in history.newest_first(tmp_path)]
    assert found == list(range(299, -1, -1))
    assert (tmp_path / history.FILE).stat().st_size > 2 * history._BLOCK_BYTES


def test_torn_and_foreign_lines_lose_nothing_else(tmp_path: Path) -> None:
    history.record(tmp_path, {"task": "a", "event": "start"}, 1.0)
    with open(tmp_path / history.FILE, "ab") as file:
        file.write(b'{"time": 2, "task": "to\n\0\0\0\n[1]\n{"no": "time"}\n\xff\n' + b"[" * 9000)
    history.record(tmp_path, {"task": "b", "event": "stop", "reason": None}, 3.0)
    found = list(history.newest_first(tmp_path))
    assert [event["task"] for event in found] == ["b", "a"]
    assert "reason" not in found[0]


def test_no_history_is_an_empty_one(tmp_path: Path) -> None:
    assert list(history.newest_first(tmp_path)) == []


def test_a_window_does_not_move_with_the_wall_clock(tmp_path: Path) -> None:
    boot, up = proc.boot_id(), 10_000.0
    rows = [
        {"time": 100.0, "task": "other boot, old"},
        {"time": 9_000.0, "boot_id": "other", "uptime": 5.0, "task": "other boot, recent"},
        {"time": 5.0, "boot_id": boot, "uptime": up - 90, "task": "this boot, clock was wrong"},
        {"time": 9_999.0, "boot_id": boot, "uptime": up - 10, "task": "this boot"},
    ]
    (tmp_path / history.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = history.since(tmp_path, 1_500, {"time": 10_000.0, "uptime": up, "boot_id": boot})
    assert [event["task"] for event in found] == [
        "other boot, recent",
        "this boot, clock was wrong",
        "this boot",
    ]
    found = history.since(tmp_path, 60, {"time": 10_000.0, "uptime": up, "boot_id": boot})
    assert [event["task"] for event in found] == ["this boot"]
