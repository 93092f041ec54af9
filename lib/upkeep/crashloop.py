"""The crash-loop breaker: how often a task died lately, and when it may be tried again.

Every unplanned death and every failed start counts, however long the copy had lived; restarts by
hand reset nothing. The count is taken from the history, so it outlives this tool and the host.
"""

import contextlib
import time

from upkeep import history, proc
from upkeep.task import Task


def deaths(known: Task) -> int:
    """Unplanned deaths and failed starts of the task within its crash_window."""
    boot, uptime = proc.boot_id(), proc.uptime()
    window = known.settings.crash_window
    events = history.since(known.config.state, window, time.time(), uptime, boot)
    mine = (event for event in events if event.get("task") == known.name)
    return sum(each.get("event") == "death" or each.get("outcome") == "failed" for each in mine)


def age(moment: history.Event) -> float:
    """Seconds since a moment stamped by `history.stamp`."""
    return history.age(moment, time.time(), proc.uptime(), proc.boot_id())


def cooled_down(known: Task) -> bool:
    """Whether a task that was given up may be tried once more."""
    opened = known.record.trouble.get("given_up")
    return not opened or age(opened) >= known.settings.crash_cooldown


def healthy_age(known: Task) -> float:
    """How long a copy must live for an outage to be over: dying no faster trips no limit."""
    return known.settings.crash_window / known.settings.crash_limit


def pause(count: int) -> float:
    """Seconds to wait before the start after the `count`th death in the window: 0, 1, 2, 4, ..."""
    return 0.0 if count < 2 else min(60.0, 2.0 ** (count - 2))


def note_death(known: Task, why: str, outage: float | None) -> None:
    """Put a death on record, once: a tick that is killed after it does not count it again."""
    event = {"task": known.name, "event": "death", "detail": why, "old_pid": known.record.pid}
    with contextlib.suppress(OSError):
        history.record(known.config.state, {**event, "downtime_seconds": outage}, time.time())
    known.record.pid = 0
    known.note_trouble()
