"""A circuit breaker that several processes share through one small file."""

import random
from pathlib import Path

from upkeep import files

FIRST_SECONDS = 30.0
MOST_SECONDS = 600.0
_FURTHEST_SECONDS = 2 * 3600.0


class Breaker:
    """Stops asking a service that fails: 30 s after the first failure, doubling up to 600 s.

    Failures are counted in the file `path`, whoever met them. Once the pause is over the next
    caller may try; one success closes the breaker. Methods raise OSError when the file can't be
    read or written. Changes are not atomic across processes: callers hold a lock of their own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._record = files.read_state(path)

    @property
    def why(self) -> str:
        """What the last failure was; "" when there is none."""
        return str(self._record.get("why", ""))

    @property
    def mark(self) -> str:
        """What the caller noted with the last failure."""
        return str(self._record.get("mark", ""))

    def open_until(self, now: float) -> float:
        """Until when not to ask (Unix seconds); 0.0 when asking is allowed.

        An end implausibly far ahead comes from a clock that was wrong, and is no end.
        """
        until = self._record.get("until", 0.0)
        sound = isinstance(until, (int, float)) and now < until < now + _FURTHEST_SECONDS
        return float(until) if sound else 0.0

    def failed(self, now: float, why: str, pause: float = 0.0, mark: str = "") -> None:
        """Count a failure; `pause` in seconds replaces the doubling one."""
        fails = min(int(self._record.get("fails", 0)) + 1, 32)
        doubled = min(MOST_SECONDS, FIRST_SECONDS * 2 ** (fails - 1)) * random.uniform(0.8, 1.2)
        until = now + (pause or doubled)
        self._record = {"fails": fails, "until": until, "why": why, "mark": mark}
        files.write_state(self._path, self._record)

    def succeeded(self) -> None:
        """Close it."""
        if self._record:
            self._record = {}
            self._path.unlink(missing_ok=True)
