"""The one door for alerts: one message when something breaks, one when it is over, no nagging.

An episode begins with the first `problem` of its key and ends with `recovered`. In between,
repeats are counted and not told, except for a reminder after `remind_after`.
"""

import time
import types
from typing import Any

from upkeep import cli, files, message, units
from upkeep.config import Config
from upkeep.errors import OperatorError
from upkeep.outbox import Letter
from upkeep.telegram import Account, Post, account, letters

_LOCK_WAIT_SECONDS = 5.0


class Alerts:
    """Use it around a script's work, outside of any lock; leaving it delivers.

        with Alerts(config) as alerts:
            alerts.problem("task:trader:dead", "trader is dead", "exit status 1")

    Messages are durable as soon as a method returns. No trouble with the delivery is ever raised:
    it is logged, and the message waits. Without a token the text goes to the log and stderr.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._file = config.state / "alerts.json"
        self._account: Account | None = None
        self._told = False

    def __enter__(self) -> "Alerts":
        return self

    def __exit__(
        self, *_: type[BaseException] | BaseException | types.TracebackType | None
    ) -> None:
        if self._told and self._account:
            post = Post(self._config, self._account)
            try:
                post.flush()
            except OSError as error:
                post.trouble = f"{error.filename}: {error.strerror}"
            if post.trouble:
                cli.log(self._config, f"alerts wait in the outbox: {post.trouble}")

    def problem(self, key: str, title: str, body: str = "", level: str = "warning") -> None:
        """Open the episode `key`, or continue it: told now, then every `remind_after`."""
        self.repeated(key, title, body, level, self._config.telegram.remind_after)

    def repeated(self, key: str, title: str, body: str, level: str, again_after: float) -> bool:
        """Like `problem`, told again after `again_after` seconds. Returns whether it was told."""
        now = time.time()
        with self._episodes() as episodes:
            open_one = episodes.get(key)
            if open_one and 0 <= now - open_one["told"] < again_after:
                open_one["count"] += 1
                return False
            if open_one:
                began = units.local_time(open_one["since"])
                body = f"{body}\nrepeated {open_one['count'] + 1}x since {began}".strip()
            self._tell(title, body, level)
            since = open_one["since"] if open_one else now
            episodes[key] = {"since": since, "told": now, "count": 0, "title": title}
        return True

    def recovered(self, key: str, title: str, body: str = "") -> None:
        """Close the episode `key` with one message, if it is open."""
        with self._episodes() as episodes:
            closed = episodes.pop(key, None)
            if closed:
                lasted = units.format_duration(max(0.0, time.time() - closed["since"]))
                repeats = f" ({closed['count']} repeats)" if closed["count"] else ""
                self._tell(title, f"{body}\nrecovered after {lasted}{repeats}".strip(), "info")

    def forget(self, key: str) -> None:
        """Close the episode `key`, if it is open, without a message."""
        with self._episodes() as episodes:
            episodes.pop(key, None)

    def inform(self, title: str, body: str = "", level: str = "info", kind: str = "") -> None:
        """Send a message that belongs to no episode; with kind "pre" its body keeps its columns."""
        self._tell(title, body, level, kind)

    def _episodes(self) -> "_Episodes":
        return _Episodes(self._config)

    def _tell(self, title: str, body: str, level: str, kind: str = "") -> None:
        cli.log(self._config, f"alert ({level}): {title}" + (f": {body}" if body else ""))
        try:
            self._account = self._account or account(self._config)
        except OperatorError as error:
            cli.warn(str(error))
        if not self._account or not self._account.chats:
            cli.warn(f"{title}: {body}" if body else title)
            return
        rich = message.report(title, message.whole(body, kind))
        ttl = self._config.telegram.expire_after
        post = Post(self._config, self._account)
        for letter in letters(rich, self._account.chats, Letter("", "", level=level, ttl=ttl)):
            try:
                post.outbox.put(letter)
                self._told = True
            except OSError as error:
                cli.warn(f"{error.filename}: {error.strerror}; not stored: {title}: {body}")


class _Episodes:
    """The open episodes, under a lock; stored when the block ends. Trouble is a warning."""

    def __init__(self, config: Config) -> None:
        self._file = config.state / "alerts.json"
        self._lock = files.lock(config.state / "lock" / "alerts.lock", _LOCK_WAIT_SECONDS)
        self._open: dict[str, Any] = {}
        self._before = ""

    def __enter__(self) -> dict[str, Any]:
        try:
            self._lock.__enter__()
            self._open = files.read_state(self._file)
        except (OSError, OperatorError) as error:
            cli.warn(f"{self._file}: {error}")
        self._before = repr(self._open)
        return self._open

    def __exit__(self, *_: object) -> None:
        try:
            if repr(self._open) != self._before:
                files.write_state(self._file, self._open)
            self._lock.__exit__(None, None, None)
        except OSError as error:
            cli.warn(f"{self._file}: {error.strerror}")
