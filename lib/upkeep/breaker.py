"""A circuit breaker that several processes share through one small file."""

import contextlib
import random
from pathlib import Path
from typing import Any

from upkeep import files


class Breaker:
    """Whether a service may be asked, or several in one file, by `name`. Times are Unix seconds.

    A failure closes it off for 30 s, each more for twice as long, up to 600 s; a success ends that.
    Without a writable file it works in this process only. Hold a lock of your own around changes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: dict[str, Any] = {}
        with contextlib.suppress(OSError):
            stored = files.read_state(path).items()
            self.records = {name: record for name, record in stored if isinstance(record, dict)}

    def open_until(self, now: float, name: str = "api") -> float:
        """Until when not to ask; 0.0: now. An end beyond 48 h comes from a wrong clock."""
        until = self.records.get(name, {}).get("until")
        return until if isinstance(until, float) and 0 < until - now <= 48 * 3600.0 else 0.0

    def failed(self, now: float, why: str, pause: float = 0.0, name: str = "api") -> None:
        """Count a failure; `pause` in seconds replaces the doubling one."""
        fails = self.records.get(name, {}).get("fails")
        fails = fails + 1 if isinstance(fails, int) else 1
        doubled = min(600.0, 30.0 * 2.0 ** min(fails - 1, 9)) * random.uniform(0.8, 1.2)
        self.records[name] = {"until": now + (pause or doubled), "why": why, "fails": fails}
        self._write()

    def succeeded(self, name: str = "api") -> None:
        """Close it."""
        if self.records.pop(name, None):
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            files.write_state(self._path, self.records)
