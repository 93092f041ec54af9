"""Messages to Telegram: into the outbox first, then sent, by one sender of the host at a time."""

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from upkeep import cli, config, files, message, text, units
from upkeep.breaker import Breaker
from upkeep.errors import Exit, OperatorError
from upkeep.outbox import Letter, Outbox

API = "api"  # names in the breaker: this, one of the token, and the chats'
MOVED = files.records_of({"to": str})  # groups that were given a new number
SETTLED = ("delivered", "refused", "divided")
PAUSES = {"token": 3600.0, "chat": 6 * 3600.0}  # after what only an operator can mend
MOST_DIVISIONS = 3  # of one letter: each adds a "-" to the two in its name
BACKLOG_LETTERS = 6
BACKLOG_SECONDS = 600.0


def secrets(file: Path) -> tuple[dict[str, str], str]:
    """The environment over what stands in .env, and why others may know that; "": they can't."""
    try:
        if not file.is_file():
            return dict(os.environ), ""
        cli.require("dotenv")
        from dotenv import dotenv_values

        stored = {k: v for k, v in dotenv_values(file, interpolate=False).items() if v}
    except (OSError, UnicodeError) as error:
        raise OperatorError(f"{file}: cannot be read: {error}", Exit.USAGE) from None
    unsafe = f"{file}: every user can read the token; mend it by: chmod 600 {file}"
    return stored | dict(os.environ), unsafe if file.stat().st_mode & 0o006 else ""


def parse_chat(value: str, thread: str = "") -> tuple[str, str]:
    """Chat and thread of "ID" or "ID:THREAD". Raises OperatorError."""
    match = re.fullmatch(r"\s*(-?\d+|@\w+)(?::(\d+))?\s*", value)
    if not match:
        raise OperatorError(f"{value!r}: expected a chat: ID, @name or ID:THREAD", Exit.USAGE)
    thread = match[2] or thread
    return match[1], "" if thread == "1" else thread  # the general topic has to be left out


def choose(waiting: list[Letter], now: float, alone: bool) -> list[Letter]:
    """What goes out as one message: the first letter, of a backlog as many as fit to one chat."""
    first = waiting[0]
    same = [each for each in waiting if (each.chat, each.thread) == (first.chat, first.thread)]
    same = list(itertools.takewhile(lambda each: not each.upload, same))
    if alone or (len(same) < BACKLOG_LETTERS and first.age(now) < BACKLOG_SECONDS):
        return [first]
    sizes = itertools.accumulate(message.units(each.text) + 40 for each in same)
    fitting = sum(size <= message.TEXT_MOST for size in sizes)
    return same[:fitting] or [first]


def compose(batch: list[Letter], now: float, formatted: bool = True) -> dict[str, Any]:
    """The text that sends `batch`: what is late has its own time, what may be a repeat says so."""
    html = formatted and any(letter.style == "HTML" for letter in batch)
    first, age = batch[0], batch[0].age(now)
    late = len(batch) > 1 or age >= BACKLOG_SECONDS
    lines = [f"{len(batch)} messages, up to {units.format_duration(age)} late"] if late else []
    for letter in batch:
        when = time.strftime("[%m-%d %H:%M] ", time.localtime(letter.time)) if late else ""
        body = letter.text
        if (letter.style == "HTML") != html:
            body = escape(body) if html else message.plain(body)
        lines.append(when + body + (" (may be a repeat)" if letter.maybes else ""))
    number = first.path.name.partition(".")[0][-4:] if first.path else "unstored"
    content = {
        "chat_id": first.chat,
        "message_thread_id": first.thread,
        "disable_notification": all(letter.silent for letter in batch),
        "link_preview_options": {"is_disabled": True},
        "text": "\n".join([*lines, f"{os.uname().nodename} | #{number}"]),
    }
    length = message.units(first.text if first.style == "pre" else first.text.partition("\n")[0])
    if html:
        content["parse_mode"] = "HTML"
    elif formatted and first.style in ("bold", "pre") and length and not late:
        content["entities"] = [{"type": first.style, "offset": 0, "length": length}]
    return content


def send(text: str, level: str = "warning", config_file: str | None = None) -> tuple[bool, str]:
    """For programs: send `text`. Returns whether it arrived, or why it waits or was refused."""
    settings = config.load(config_file)
    post, ttl = Post(settings), settings.telegram.expire_after
    written = post.write(Letter(text=message.clean(text), silent=level == "info", ttl=ttl))
    if not written:
        return False, "nothing to send: the text is empty"
    post.flush()
    why = "; ".join({why for code, why in map(post.fate, written) if code})
    return not why, why


class Post:
    """Accepts messages and delivers what waits. Raises OperatorError without token or chat."""

    def __init__(self, settings: config.Config, clock: Callable[[], float] = time.time) -> None:
        known, self.unsafe = secrets(settings.env_file)
        token = known.get("TELEGRAM_BOT_TOKEN", "").strip()
        text.remember_secret(token)
        chats = [each for each in known.get("TELEGRAM_CHAT_ID", "").split(",") if each.strip()]
        for value, name in ((token, "TELEGRAM_BOT_TOKEN"), (chats, "TELEGRAM_CHAT_ID")):
            if not value:
                raise OperatorError(f"{name} is not set in {settings.env_file}", Exit.USAGE)
        self.chats = [parse_chat(each, known.get("TELEGRAM_THREAD_ID", "")) for each in chats]
        base = known.get("TELEGRAM_API_BASE") or "https://api.telegram.org"
        self._url = f"{base.rstrip('/')}/bot{token}/"
        self._proxies = {"https": known["HTTPS_PROXY"]} if "HTTPS_PROXY" in known else {}
        self._bot = "token " + hashlib.sha256(token.encode()).hexdigest()[:8]
        self._settings, self._clock, self._state = settings.telegram, clock, settings.state
        self.outbox = Outbox(settings.state / "outbox")
        self.breaker = Breaker(settings.state / "outbox/breaker.json")
        self._end = time.monotonic() + self._settings.budget
        self._moved: dict[str, Any] = {}
        self._skipped: set[str] = set()  # chats that this run offers nothing more
        self._why, self._alone = "the time of this run was used up", 0

    def write(self, model: Letter, attached: bytes | None = None) -> list[Letter]:
        """Store letters like `model`, one for each chat and part; without a disk, send them.

        The content of its file goes with the last; a very long text is such a file itself.
        """
        html = model.style == "HTML"
        written, parts = [], message.split(model.text, html=html) or [""] * (attached is not None)
        if len(parts) > 4 and attached is None:
            attached, parts = (message.plain if html else str)(model.text).encode(), parts[:1]
            model = replace(model, upload="document", file_name="message.txt")
        if attached is not None and message.units(parts[-1]) > message.CAPTION_MOST:
            parts.append("")
        for chat, thread in [(model.chat, model.thread)] if model.chat else self.chats:
            for number, part in enumerate(parts, 1):
                style = "" if number > 1 and model.style == "bold" else model.style
                letter = replace(model, chat=chat, thread=thread, text=part, style=style)
                file = attached if number == len(parts) else None
                letter.upload = model.upload if file is not None else ""
                try:
                    written.append(self.outbox.put(letter, self._clock(), "", file))
                except OSError as error:
                    cli.warn(f"{self._state}: {error.strerror}; the message is sent directly")
                    letter.upload = ""
                    written.append(replace(letter, why=self._try([letter]).why))
        return written

    def flush(self, budget: float | None = None) -> None:
        """Deliver what waits, in order, as far as that is allowed now, for `budget` seconds."""
        self._end = time.monotonic() + (self._settings.budget if budget is None else budget)
        try:
            if self.unsafe:
                raise OperatorError(self.unsafe)
            with files.lock(self._state / "lock/outbox.lock", 2.0, "another sender"):
                self.breaker = Breaker(self._state / "outbox/breaker.json")
                self._moved = files.read_state(self._state / "outbox/moved.json", MOVED)
                self._skipped.clear()
                self.outbox.tidy(self._clock())
                self._probe()
                while time.monotonic() < self._end and (batch := self._next()):
                    self._deliver(batch)
        except (OperatorError, OSError) as error:
            self._why = str(error)

    def check(self) -> dict[str, str]:
        """What is wrong with the token and with each chat, "" if nothing is; asked in any case."""
        found = {chat: self._ask("getChat", {"chat_id": chat}).why for chat, _ in self.chats}
        found = {self._bot: self._ask("getMe", {}).why, **found}
        for name in [name for name, why in found.items() if not why]:
            self.breaker.succeeded(name)
        return found

    def _probe(self) -> None:
        """After a failure, ask something harmless first: a lost answer costs no message then."""
        if API in self.breaker.records and not self._held(""):
            action, why, seconds, _ = self._ask("getMe", {})
            if action in ("retry", "maybe", "stop", "wait"):
                self.breaker.failed(self._clock(), why, seconds)

    def _next(self) -> list[Letter]:
        found = [each for each in self.outbox.letters() if each.chat not in self._skipped]
        waiting = [each for each in found if not self._held(each.chat)]
        self._alone -= self._alone > 0
        return choose(waiting, self._clock(), self._alone > 0) if waiting else []

    def _held(self, chat: str) -> str:
        """What in the breaker keeps letters to `chat` back; "" if nothing does."""
        names = (API, self._bot, chat)
        return next((each for each in names if self.breaker.open_until(self._clock(), each)), "")

    def _deliver(self, batch: list[Letter]) -> None:
        action, why, seconds, _ = self._try(batch)
        chat = batch[0].chat
        if action == "split":
            action = "divided" if len(batch) == 1 and self._divide(batch[0]) else "refused"
        if action == "refused" and len(batch) > 1:
            self._alone = len(batch)
        elif action in ("delivered", "chat", "refused"):
            self.outbox.end(batch, why)
        for name in (API, self._bot, chat) if action == "delivered" else ():
            self.breaker.succeeded(name)
        if time.monotonic() >= self._end and action in ("retry", "maybe"):
            self._why = f"{why}; then the time of this run was used up"  # no failure of theirs
        elif action not in SETTLED:
            names = {"token": self._bot, "chat": chat, "wait": chat if seconds <= 60 else API}
            pause = seconds or PAUSES.get(action, 0.0)
            self.breaker.failed(self._clock(), why, pause, names.get(action, API))
            self._skipped.add(chat)

    def _divide(self, letter: Letter) -> bool:
        """Store what the server found too long in halves, without their file if it has one."""
        stem = letter.path.name.partition(".")[0] if letter.path else ""
        if not stem or stem.count("-") >= 2 + MOST_DIVISIONS:
            return False
        most = message.units(letter.text) // 2 + 1
        parts = message.split(letter.text, most, html=letter.style == "HTML")
        for number, part in enumerate(parts):
            self.outbox.put(replace(letter, text=part, upload=""), letter.time, f"{stem}-{number}")
        if letter.upload:
            content = letter.attachment.read_bytes()
            self.outbox.put(replace(letter, text=""), letter.time, f"{stem}-9", content)
        self.outbox.end([letter])
        return True

    def _move(self, chat: str, number: str) -> None:
        cli.warn(f"the chat {chat} has the number {number} now: mend TELEGRAM_CHAT_ID")
        self._moved[chat] = {"to": number}
        with contextlib.suppress(OSError):
            files.write_state(self._state / "outbox/moved.json", self._moved)

    def _try(self, batch: list[Letter]) -> Any:
        """Send `batch` until there is a verdict: three tries, but one more after a lost answer."""
        changes: dict[str, str] = {}
        tries = maybes = 0
        while True:
            content = {**compose(batch, self._clock(), "parse_mode" not in changes), **changes}
            content["chat_id"] = self._moved.get(batch[0].chat, {}).get("to", batch[0].chat)
            verdict = self._ask("sendMessage", content, batch)
            action, _, seconds, change = verdict
            if action not in ("maybe", "delivered"):
                self.outbox.mark(batch, maybe=False)
            if action == "change" and not change.keys() <= changes.keys():
                changes |= change
                if "chat_id" in change:
                    self._move(batch[0].chat, change["chat_id"])
                continue
            if action == "refused" and batch[0].upload == "photo":
                batch[0].upload = "document"
                continue
            tries += action in ("retry", "maybe")
            maybes += action == "maybe"
            pause = (seconds or 2.0 ** (tries - 1)) * random.uniform(1, 1.25)
            left = min(10.0, self._end - time.monotonic())
            over = tries >= self._settings.tries or maybes > 1 or pause > left
            if over or action not in ("retry", "maybe", "wait"):
                return verdict._replace(action="refused") if action == "change" else verdict
            time.sleep(pause)

    def _ask(self, method: str, content: dict[str, Any], batch: Sequence[Letter] = ()) -> Any:
        """Call `method`; where a file goes with the only letter, send that, the text under it."""
        cli.require("requests")
        from upkeep import botapi

        timeouts = (self._settings.connect_timeout, self._settings.timeout)
        content = {key: value for key, value in content.items() if value}
        fields: dict[str, Any] = {"json": content}
        if batch and batch[0].upload:
            letter, method = batch[0], f"send{batch[0].upload.title()}"
            content["caption"] = content.pop("text")
            content["caption_entities"] = json.dumps(content.pop("entities", []))
            del content["link_preview_options"]
            file = (letter.file_name, letter.attachment.read_bytes())
            fields = {"data": content, "files": {letter.upload: file}}
        call = botapi.Call(timeouts, lambda: self.outbox.mark(batch, maybe=True))
        return call.post(self._url + method, self._proxies, self._end, **fields)

    def fate(self, letter: Letter) -> tuple[Exit, str]:
        """What became of `letter`: 0 delivered, 5 it waits, 1 it was refused; and why."""
        why, held = letter.why or self.outbox.fate(letter), self._held(letter.chat)
        if why == "" and held:
            until = units.local_time(self.breaker.open_until(self._clock(), held))
            why = f"{self.breaker.records[held]['why']}; not asked again before {until}"
            return Exit.PROBLEM if held == self._bot else Exit.LATER, why
        if why == "":
            return Exit.LATER, self._why
        return (Exit.PROBLEM, why) if why else (Exit.DONE, "")
