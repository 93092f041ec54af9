"""A circuit breaker that several processes share through one small file."""

import random
from pathlib import Path
from typing import Any

from upkeep import files, spare

API, LIMIT = "api", "limit"  # what the sender calls the Bot API, and the pause it asked for
MOST_SECONDS = 48 * 3600.0
RECORDS = files.records_of({"until": float, "why": str, "fails": int})


class Breaker:
    """Whether a service may be asked, or several in one file, by `name`. Times are Unix seconds.

    A failure closes it off for 30 s, each more for twice as long, up to 600 s; a success ends that.
    Hold a lock of your own around changes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: dict[str, Any] = spare.read_state(path, RECORDS)

    def open_until(self, now: float, name: str = API) -> float:
        """Until when not to ask; 0.0: now. An end beyond 48 h comes from a wrong clock."""
        until = self.records[name]["until"] if name in self.records else 0.0
        return until if 0 < until - now < MOST_SECONDS + 1 else 0.0

    def failed(self, now: float, why: str, pause: float = 0.0, name: str = API) -> None:
        """Count a failure; `pause` in seconds replaces the doubling one."""
        fails = self.records[name]["fails"] + 1 if name in self.records else 1
        doubled = min(600.0, 30.0 * 2.0 ** min(fails - 1, 9)) * random.uniform(0.8, 1.2)
        until = now + min(pause or doubled, MOST_SECONDS)
        self.records[name] = {"until": until, "why": why, "fails": fails}
        spare.write_state(self._path, self.records)

    def succeeded(self, name: str = API) -> None:
        """Close it."""
        if self.records.pop(name, None):
            spare.write_state(self._path, self.records)
