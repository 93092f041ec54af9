"""What happened to the tasks: `<state>/restarts.jsonl`, one line per start, stop and death.

Every event keeps the wall clock and (boot id, seconds since boot), so that a clock that was
stepped does not move it in or out of a window.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from upkeep import files, proc

FILE = "restarts.jsonl"
Event = dict[str, Any]

_BLOCK_BYTES = 1 << 16
_CLOCK_SLACK_SECONDS = 60.0


def record(state: Path, event: Event, now: float) -> None:
    """Append `event`, stamped with `now` (Unix seconds) and the time since boot.

    Its keys are task, event (start, stop, restart, death), reason, old_pid, new_pid,
    stop_seconds, downtime_seconds, rss_before_bytes, rss_after_bytes, killed, outcome and detail,
    as far as they are known. Raises OSError.
    """
    known = {key: value for key, value in event.items() if value is not None}
    files.append_line(state / FILE, json.dumps({**stamp(now), **known}, ensure_ascii=False))


def stamp(now: float) -> Event:
    """A moment that survives a stepped clock: the wall clock, and the time since which boot."""
    return {"time": round(now, 3), "boot_id": proc.boot_id(), "uptime": round(proc.uptime(), 3)}


def is_stamp(value: object) -> bool:
    """Whether `value`, read from a file, can be a stamp of ours."""
    kinds = {"time": float, "boot_id": str, "uptime": float}
    return isinstance(value, dict) and all(type(value.get(k)) is t for k, t in kinds.items())


def age(moment: Event, here: Event | None = None) -> float:
    """Seconds from a stamped `moment` to `here`, or to now: by the time since boot where it is
    the same boot, else by the clock."""
    here = here or stamp(time.time())
    same_boot = moment.get("boot_id") == here["boot_id"] and isinstance(moment.get("uptime"), float)
    key = "uptime" if same_boot else "time"
    return float(here[key] - moment[key])


def newest_first(state: Path) -> Iterator[Event]:
    """Events from the last one back; torn and foreign lines are passed over."""
    try:
        file = open(state / FILE, "rb", opener=files.open_quietly)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in files.FOREIGN_ERRNOS:
            raise
        return
    with file:
        position, rest = file.seek(0, os.SEEK_END), b""
        while position > 0:
            size = min(_BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            rest, *lines = (file.read(size) + rest).split(b"\n")
            yield from _parsed(reversed(lines))
        yield from _parsed(iter([rest]))


def _parsed(lines: Iterator[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("time"), (int, float)):
            yield event


def since(state: Path, seconds: float, here: Event | None = None) -> list[Event]:
    """Events of the last `seconds` before `here` (a stamp; now), oldest first."""
    here, found = here or stamp(time.time()), []
    for event in newest_first(state):
        if (old := age(event, here)) > seconds:
            break
        if old >= -_CLOCK_SLACK_SECONDS:  # else it comes from a wrong clock of an earlier boot
            found.append(event)
    return found[::-1]


def count_restarts(events: Iterable[Event], task: str) -> int:
    """How often `task` was started again: restarts, and starts after a death.

    `events` are oldest first. A first start and one after a deliberate stop are none.
    """
    count, died = 0, False
    for event in events:
        if event.get("task") != task:
            continue
        kind = event.get("event")
        if (
            kind == "restart"
            or (kind == "start" and died)
            or (kind == "death" and "new_pid" in event)
        ):
            count, died = count + 1, False
        else:
            died = kind == "death"
    return count
