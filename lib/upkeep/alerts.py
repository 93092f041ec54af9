"""The one door for alerts: one message when something breaks, one when it is over.

In between, an episode, repeats are counted; a reminder tells them every `remind_after`.
"""

import contextlib
import html
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from upkeep import cli, episodes, message, spare, units
from upkeep.config import Config
from upkeep.errors import OperatorError
from upkeep.outbox import Letter
from upkeep.telegram import Post
from upkeep.text import redact

LONGEST_SECONDS = 1e9  # 30 years: less than what a Unix time is now, more than anybody waits


class Alerts:
    """Use it with `with` around a script's work, outside of any lock; leaving it delivers.

    A message is on the disk when a method returns; without a token it goes to log and stderr only.
    """

    def __init__(self, settings: Config, post: Post | None = None) -> None:
        self._settings, self._post = settings, post
        self.model = Letter(style="bold", ttl=settings.telegram.expire_after)
        self.attached: bytes | None = None
        self.written: list[Letter] = []

    def __enter__(self) -> "Alerts":
        return self

    def __exit__(self, *_: object) -> None:
        if self._post and self.written:
            self._post.flush()
            if self._post.account.unsafe:
                cli.warn(self._post.account.unsafe)

    def problem(self, key: str, title: str, body: str = "", level: str = "warning") -> None:
        """Open the episode `key`, or continue it: told now, then every `remind_after`."""
        self._tell(key, title, body, level, self._settings.telegram.remind_after, 0.0)

    def repeated(self, key: str, title: str, body: str, level: str, again_after: float) -> None:
        """Like `problem`, told again `again_after` seconds after it was told.

        Repeats that were only counted are told by `tell_quiet` when no more come.
        """
        self._tell(key, title, body, level, again_after, again_after)

    def _tell(
        self, key: str, title: str, body: str, level: str, again_after: float, quiet_after: float
    ) -> None:
        now = time.time()
        new = {
            "since": now,
            "told": 0.0,
            "count": 0,
            "quiet_after": min(quiet_after, LONGEST_SECONDS),
            "title": (title or body).partition("\n")[0][:200],
            "chat": self.model.chat,
            "thread": self.model.thread,
        }
        with self._episodes() as open_now:
            episode = open_now.setdefault(key, new)
            if 0 <= now - episode["told"] < min(again_after, LONGEST_SECONDS):
                episode["count"] += 1
                return
            if episode["told"]:
                body = f"{body}\n{episodes.repeats(episode, 1)}".lstrip()
            self.inform(title, body, level)
            episode.update(told=now, count=0)

    def tell_quiet(self) -> None:
        """Tell the counted repeats of what went quiet."""
        with self._episodes() as open_now:
            for key in episodes.went_quiet(open_now, time.time()):
                episode = open_now[key]
                self.model = replace(self.model, chat=episode["chat"], thread=episode["thread"])
                self.inform(episode["title"], f"{episodes.repeats(episode)}, quiet now")
                episode["count"] = 0

    def recovered(self, key: str, title: str, body: str = "") -> None:
        """Close the episode `key` with one message, if it is open."""
        with self._episodes() as open_now:
            if (episode := open_now.pop(key, None)) and title + body:
                lasted = units.format_duration(max(0.0, time.time() - episode["since"]))
                body = f"{body}\nrecovered after {lasted} ({episode['count']} repeats)".lstrip()
                self.inform(title, body)

    def forget(self, key: str) -> None:
        """Close the episode `key` without a message."""
        self.recovered(key, "")

    def inform(self, title: str, body: str = "", level: str = "info", kind: str = "") -> None:
        """Send a message outside of any episode. Level info is silent, kind "pre" keeps columns."""
        silent, style = self.model.silent or level == "info", kind or self.model.style
        if title and style == "HTML":
            title = f"<b>{html.escape(title)}</b>"
        text = redact(message.clean("\n".join(part for part in (title, body) if part)))
        cli.log(self._settings, f"alert ({level}): {text[:500]}")
        try:
            self._post = self._post or Post(self._settings)
            letter = replace(self.model, text=text, silent=silent, style=style)
            self.written += self._post.write(letter, self.attached)
        except OperatorError as error:
            cli.warn(f"{text} (not sent: {error})")

    @contextlib.contextmanager
    def _episodes(self) -> Iterator[dict[str, Any]]:
        """The open episodes, to be changed."""
        lock = spare.lock(self._settings.state / "lock/alerts.lock", 2.0, "another alert")
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, OperatorError):  # without it, one may be told twice
                stack.enter_context(lock)
            found = episodes.read(self._settings.state)
            before = repr(found)
            yield found
            if repr(found) != before:
                spare.write_state(self._settings.state / "alerts.json", found)
