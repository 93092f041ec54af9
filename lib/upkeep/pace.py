"""How often messages may leave, so that the server need not refuse them with a 429.

core.telegram.org/bots/faq#my-bot-is-hitting-limits: about one a second to a chat, bursts apart, and
20 a minute to a group. The 30 a second in all are beyond what one sender over TLS can reach.
"""

import contextlib
from pathlib import Path

from upkeep import files, spare

BURST = 5  # messages that may leave at once
CHAT_SECONDS, GROUP_SECONDS = 1.0, 4.0  # between messages later on: at most 20 to a group in 60 s
RECORDS = files.records_of({"free_at": float})


class Pace:
    """When each chat has had its due (Unix seconds). Hold a lock of your own around its use."""

    def __init__(self, path: Path) -> None:
        self._path, self._records = path, spare.read_state(path, RECORDS)

    def pause(self, chat: str, now: float) -> float:
        """Seconds until the next message may go to `chat`."""
        return max(0.0, self._debt(chat, now) - (BURST - 1) * _interval(chat))

    def note(self, chat: str, now: float) -> None:
        """Remember that a message goes to `chat` now."""
        self._records[chat] = {"free_at": now + self._debt(chat, now) + _interval(chat)}

    def save(self, now: float) -> None:
        """Store what the next process has to know; without fsync, as a loss costs nothing."""
        kept = {chat: each for chat, each in self._records.items() if self._debt(chat, now)}
        temporary = self._path.with_name(f".{self._path.name}")
        with contextlib.suppress(OSError):
            temporary.write_bytes(files.state_text(kept))
            temporary.replace(self._path)

    def _debt(self, chat: str, now: float) -> float:
        debt = self._records[chat]["free_at"] - now if chat in self._records else 0.0
        return debt if 0 < debt < 100 * _interval(chat) else 0.0  # beyond: the clock was wrong


def _interval(chat: str) -> float:
    return GROUP_SECONDS if chat[:1] in ("-", "@") else CHAT_SECONDS
