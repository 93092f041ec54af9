"""How often messages may leave, so that the server need not refuse them with a 429.

core.telegram.org/bots/faq#my-bot-is-hitting-limits: about one a second to a chat, bursts apart,
20 a minute to a group, 30 a second in all. We stay below each.
"""

from pathlib import Path

from upkeep import spare

CHAT = (5, 5.0)  # messages, in as many seconds
GROUP = (18, 60.0)
ALL = (25, 1.0)
_KNOWN = max(most for most, _ in (CHAT, GROUP, ALL))


def fits(value: dict[str, object]) -> bool:
    """Whether `value` is what a file of times holds."""
    lists = [times for times in value.values() if isinstance(times, list)]
    good = all(isinstance(each, float) for times in lists for each in times)
    return len(lists) == len(value) and good


class Pace:
    """When what was sent, Unix seconds by chat. Hold a lock of your own around its use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sent: dict[str, list[float]] = spare.read_state(path, fits)

    def pause(self, chat: str, now: float) -> float:
        """Seconds until the next message may go to `chat`; a group's number is below zero."""
        group = [GROUP] if chat[:1] in ("-", "@") else []
        waits = [_wait(self._sent.get(chat, []), now, *limit) for limit in [CHAT, *group]]
        everything = sorted(each for times in self._sent.values() for each in times)
        return max(*waits, _wait(everything, now, *ALL))

    def note(self, chat: str, now: float) -> None:
        """Remember that a message goes to `chat` now."""
        self._sent[chat] = [*self._sent.get(chat, []), now][-_KNOWN:]

    def save(self, now: float) -> None:
        """Store what the next process has to know."""
        recent = {
            chat: [each for each in times if 0 <= now - each < GROUP[1]]
            for chat, times in self._sent.items()
        }
        spare.write_state(self._path, {chat: times for chat, times in recent.items() if times})


def _wait(times: list[float], now: float, most: int, seconds: float) -> float:
    past = [each for each in times if each <= now]  # the others are of a clock that was wrong
    return max(0.0, past[-most] + seconds - now) if len(past) >= most else 0.0
