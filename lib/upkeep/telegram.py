"""Messages to Telegram: into the outbox first, then sent, by one sender of the host at a time."""

import hashlib
import os
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from upkeep import files, message, text, units
from upkeep.botapi import Answer, Limits, Verdict, judge
from upkeep.breaker import Breaker
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.message import Rich
from upkeep.outbox import Letter, Outbox

LOCK_WAIT_SECONDS = 2.0
LONGEST_HOLD_SECONDS = 48 * 3600.0
TOKEN_PAUSE_SECONDS = 3600.0
DIGEST_FROM = 6  # letters
DIGEST_AGE_SECONDS = 600.0
_CHAT = re.compile(r"(-?\d+|@\w+)(?::(\d+))?")


@dataclass(frozen=True)
class Account:
    """The bot and its chats, as (chat, thread). `unsafe` is why the file of secrets is not."""

    token: str = field(repr=False)
    chats: tuple[tuple[str, str], ...]
    base: str = "https://api.telegram.org"
    proxies: dict[str, str] = field(default_factory=dict, repr=False)
    unsafe: str = ""

    @property
    def fingerprint(self) -> str:
        """Eight digits that change with the token and do not tell it."""
        return hashlib.sha256(self.token.encode()).hexdigest()[:8]


def account(config: Config) -> Account | None:
    """The account in the environment or in .env, the environment first; None without a token.

    Raises OperatorError for a chat that is none.
    """
    known, unsafe = _secrets(config.env_file)
    token = known.get("TELEGRAM_BOT_TOKEN", "").strip()
    if not token:
        return None
    text.remember_secret(token)
    thread = known.get("TELEGRAM_THREAD_ID", "")
    chats = [each for each in known.get("TELEGRAM_CHAT_ID", "").split(",") if each.strip()]
    proxy = known.get("HTTPS_PROXY") or known.get("https_proxy")
    return Account(
        token,
        tuple(parse_chat(each, thread) for each in chats),
        (known.get("TELEGRAM_API_BASE") or Account.base).rstrip("/"),
        {"https": proxy} if proxy else {},
        unsafe,
    )


def _secrets(file: Path) -> tuple[dict[str, str], str]:
    unsafe, stored = "", {}
    if file.is_file():
        from dotenv import dotenv_values

        info = file.stat()
        if info.st_mode & 0o006 or info.st_uid not in (0, os.geteuid()):
            unsafe = f"{file}: other users can read or change the token; chmod 600 {file}"
        stored = {k: v for k, v in dotenv_values(file, interpolate=False).items() if v}
    return {**stored, **os.environ}, unsafe


def parse_chat(value: str, thread: str = "") -> tuple[str, str]:
    """Chat and thread in "ID" or "ID:THREAD". Raises OperatorError."""
    match = _CHAT.fullmatch(value.strip())
    if not match:
        shown = text.printable(value, 40)
        raise OperatorError(
            f'"{shown}": not a chat; expected a number, @channel or ID:THREAD', Exit.USAGE
        )
    return match[1], match[2] or thread


class Sent(NamedTuple):
    """What became of a message: 0 delivered, 5 queued, 1 refused or lost; and why."""

    code: Exit
    why: str = ""


def letters(rich: Rich, chats: Sequence[tuple[str, str]], model: Letter) -> list[Letter]:
    """One letter like `model` for each chat and part of `rich`."""
    parts = message.split(rich)
    made = []
    for chat, thread in chats:
        for number, part in enumerate(parts, 1):
            label = f"{number}/{len(parts)}" if len(parts) > 1 else ""
            made.append(
                replace(
                    model,
                    chat=chat,
                    thread=thread,
                    text=part.text,
                    entities=part.entities,
                    part=label,
                )
            )
    return made


class Post:
    """Accepts letters and delivers what waits, within `budget` seconds from now."""

    def __init__(self, config: Config, account: Account, budget: float | None = None) -> None:
        self.settings = config.telegram
        self.account = account
        self.outbox = Outbox(config.state / "outbox")
        self._lock = config.state / "lock" / "outbox.lock"
        self._end = time.monotonic() + (self.settings.budget if budget is None else budget)
        self._state: dict[str, Any] = {}
        self.trouble = ""

    def flush(self) -> None:
        """Deliver what waits. Afterwards `trouble` says why something still waits."""
        if self.account.unsafe or self.outbox.is_empty():
            self.trouble = self.account.unsafe
            return
        try:
            with files.lock(self._lock, LOCK_WAIT_SECONDS, "another sender"):
                self._flush_locked()
        except OperatorError as error:
            self.trouble = str(error)

    def _flush_locked(self) -> None:
        breaker = Breaker(self.outbox.root / "breaker.json")
        until = breaker.open_until(time.time())
        if until and breaker.mark in ("", self.account.fingerprint):
            self.trouble = f"{breaker.why}; asked again after {units.local_time(until)}"
            return
        while waiting := self.outbox.letters():
            if time.monotonic() > self._end:
                self.trouble = "the time budget of this run is used up"
                return
            verdict = self._send(waiting[:1])
            if verdict.action == "delivered":
                breaker.succeeded()
                self.outbox.remove(waiting[:1])
            elif verdict.action in ("chat", "refused"):
                self.outbox.bury(waiting[0], verdict.why)
            else:
                fatal = verdict.action == "token"
                pause = TOKEN_PAUSE_SECONDS if fatal else verdict.seconds
                mark = self.account.fingerprint if fatal else ""
                breaker.failed(time.time(), verdict.why, pause, mark)
                self.trouble = verdict.why
                return

    def _send(self, batch: list[Letter]) -> Verdict:
        """Try `batch` until there is a verdict or no time."""
        for number in range(1, self.settings.tries + 1):
            verdict = judge(self._post(batch))
            if verdict.action != "maybe":
                self.outbox.unmark(batch)
            if verdict.action not in ("retry", "maybe") or (
                verdict.action == "maybe" and number > 1
            ):
                return verdict
            if number < self.settings.tries:
                pause = 2.0 ** (number - 1) * random.uniform(1, 1.25)
                if time.monotonic() + pause > self._end:
                    break
                time.sleep(pause)
        return verdict

    def _post(self, batch: list[Letter]) -> Answer:
        from upkeep.wire import Call

        limits = Limits(self.settings.connect_timeout, self.settings.timeout, self._end)
        letter = batch[0]
        foot = f"{os.uname().nodename} | #{letter.id}" + (f" {letter.part}" if letter.part else "")
        if letter.maybes:
            foot += " (may be a repeat)"
        rich = message.joined(Rich(letter.text, letter.entities), message.whole("\n" + foot))
        content = {
            "chat_id": letter.chat,
            "text": rich.text,
            "entities": message.for_api(rich),
            "disable_notification": letter.silent or letter.level == "info",
            "link_preview_options": {"is_disabled": True},
        }
        if letter.thread and letter.thread != "1":
            content["message_thread_id"] = int(letter.thread)
        url = f"{self.account.base}/bot{self.account.token}/sendMessage"
        call = Call(limits, lambda: self.outbox.mark(batch))
        return call.post(url, self.account.proxies, json=content)

    def fate(self, letter: Letter) -> Sent:
        """What became of `letter`."""
        if self.outbox.waits(letter):
            return Sent(Exit.LATER, self.trouble)
        why = self.outbox.why_dead(letter)
        return Sent(Exit.PROBLEM, why) if why else Sent(Exit.DONE)
