"""What is broken now and was told: one record for each key, in <state>/alerts.json."""

from pathlib import Path
from typing import Any

from upkeep import files, spare, units

SHAPE = {
    "since": float,  # Unix seconds, like `told`
    "told": float,
    "count": int,  # of the repeats since it was told
    "quiet_after": float,  # seconds without a repeat, then the count is told; 0.0: with the next
    "title": str,
    "chat": str,
    "thread": str,
}
FITS = files.records_of(SHAPE)


def read(state: Path) -> dict[str, Any]:
    """The open episodes by key."""
    return spare.read_state(state / "alerts.json", FITS)


def went_quiet(episodes: dict[str, Any], now: float) -> list[str]:
    """The keys whose counted repeats have to be told, as no more came."""
    return [
        key
        for key, each in episodes.items()
        if each["count"] and each["quiet_after"] and now - each["told"] >= each["quiet_after"]
    ]


def repeats(episode: dict[str, Any], more: int = 0) -> str:
    """How often it happened since it began, in words."""
    return f"repeated {episode['count'] + more}x since {units.local_time(episode['since'])}"
