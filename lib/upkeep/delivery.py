"""One run of the sender: what waits goes out, in order, as far as that is allowed now."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from upkeep import cli, digest, files, message, spare, units
from upkeep.account import Account
from upkeep.breaker import API, LIMIT, Breaker
from upkeep.config import Config
from upkeep.outbox import Letter, Outbox
from upkeep.pace import Pace

if TYPE_CHECKING:  # it imports requests
    from upkeep.botapi import Verdict

# Names in the breaker: API, LIMIT, the account's, each chat's, and "limit " with a chat. Before
# the end of a limit nobody may ask; the others may be tried by hand, to see if they are mended.
UNANSWERED = ("retry", "maybe", "stop", "wait")  # verdicts without a word on what was asked
MOVED = files.records_of({"to": str})  # groups that were given a new number
PAUSES = {"token": 3600.0, "chat": 6 * 3600.0}  # after what only an operator can mend
WHOLE_TOKEN_SECONDS = 60.0  # the server's longer pauses hold for every chat
LONGEST_WAIT = 10.0  # within a run
MOST_DIVISIONS = 3  # of one letter: each adds a "-" to the two in its name


Clock = Callable[[], float]  # Unix seconds


class Delivery:
    """One run until `end` (monotonic). Hold the lock of the outbox around it, if there can be one.

    `why` tells what keeps back the letters that nothing in the breaker holds.
    """

    def __init__(self, account: Account, settings: Config, clock: Clock, end: float) -> None:
        self.account, self.clock, self.end = account, clock, end
        self.outbox = Outbox(settings.state / "outbox")
        self.limits, self._root = settings.telegram, self.outbox.root
        self.breaker = Breaker(self._root / "breaker.json")
        self._pace = Pace(self._root / "sent.json")
        self.why = "the time of this run was used up"
        self._moved = spare.read_state(self._root / "moved.json", MOVED)
        self._skipped: set[str] = set()  # chats that this run offers nothing more
        self._limited: set[str] = set()  # chats that the server asked to spare
        self._apart: set[str] = set()  # letters that are not to be joined with others

    def run(self) -> None:
        """Deliver what waits. Raises OSError when the disk refuses."""
        self.outbox.tidy(self.clock())
        if API in self.breaker.records and not self.held():
            self._probe()
        while time.monotonic() < self.end and (batch := self._next()):
            self.deliver(batch)
        self._pace.save(self.clock())

    def _probe(self) -> None:
        """After a failure, ask something harmless first: a lost answer costs no message then."""
        verdict = self.ask("getMe")
        if verdict.action in UNANSWERED:
            name = LIMIT if verdict.action == "wait" else API
            self.breaker.failed(self.clock(), verdict.why, verdict.seconds, name)

    def held(self, chat: str = "") -> str:
        """What in the breaker keeps letters to `chat`, or to any, back; "" if nothing does."""
        names = self._names(chat)
        return next((each for each in names if self.breaker.open_until(self.clock(), each)), "")

    def why_held(self, chat: str = "") -> str:
        """The same in words, with the time when it ends."""
        if not (name := self.held(chat)):
            return ""
        until = units.local_time(self.breaker.open_until(self.clock(), name))
        return f"{self.breaker.records[name]['why']}; not asked again before {until}"

    def _names(self, chat: str) -> tuple[str, ...]:
        return (LIMIT, API, self.account.name, f"{LIMIT} {chat}", chat)

    def _next(self) -> list[Letter]:
        letters = [each for each in self.outbox.letters() if each.chat not in self._skipped]
        waiting = [each for each in letters if not self.held(each.chat)]
        if not waiting:
            return []
        return digest.choose(waiting, self.clock(), waiting[0].stem in self._apart)

    def deliver(self, batch: list[Letter]) -> str:
        """Send `batch` as one message and see to what follows; why it did not arrive, or ""."""
        chat = batch[0].chat
        pause = self._pace.pause(chat, self.clock())
        if pause > max(0.0, self._patience()):
            self.why = f"the chat {chat} takes no more messages in this minute"
            self._skipped.add(chat)
            return self.why
        time.sleep(pause)
        verdict = self._attempt(batch)
        if verdict.action == "delivered":
            self.outbox.end(batch)
            for name in self._names(chat):
                self.breaker.succeeded(name)
        elif verdict.action == "unanswered":
            self.outbox.end(batch, verdict.why)
        elif verdict.action in ("refused", "change", "split"):
            self._refused(batch, verdict)
        else:
            self._hold(batch, verdict)
        return verdict.why

    def _refused(self, batch: list[Letter], verdict: "Verdict") -> None:
        """Try in a smaller form what can be: each letter alone, in halves, without its file."""
        first = batch[0]
        if len(batch) > 1:
            self._apart |= {letter.stem for letter in batch}
        elif verdict.action == "split" and self._divide(first):
            return
        elif first.upload:
            cli.warn(f"{first.file_name}: not sent: {verdict.why}")
            self.outbox.drop_file(first, verdict.why)
        else:
            self.outbox.end(batch, verdict.why)

    def _patience(self) -> float:
        """The longest pause, in seconds, that this run can afford."""
        return min(LONGEST_WAIT, self.end - time.monotonic())

    def _hold(self, batch: list[Letter], verdict: "Verdict") -> None:
        """Nothing more to this chat in this run; the breaker knows until when nobody asks."""
        chat, action = batch[0].chat, verdict.action
        self._skipped.add(chat)
        if action == "chat":
            self.outbox.end(batch, verdict.why)
        if time.monotonic() >= self.end and action in ("retry", "maybe"):
            self.why = f"{verdict.why}; then the time of this run was used up"
            return  # no failure of theirs
        name = {"token": self.account.name, "chat": chat}.get(action, API)
        if action == "wait":
            self._limited.add(chat)
            alone = len(self._limited) == 1 and verdict.seconds <= WHOLE_TOKEN_SECONDS
            name = f"{LIMIT} {chat}" if alone else LIMIT
        pause = verdict.seconds or PAUSES.get(action, 0.0)
        self.breaker.failed(self.clock(), verdict.why, pause, name)

    def _divide(self, letter: Letter) -> bool:
        """Store what the server found too long in halves, without their file if it has one."""
        if not letter.path or letter.stem.count("-") >= 2 + MOST_DIVISIONS:
            return False
        most = message.units(letter.text) // 2 + 1
        parts = message.split(letter.text, most, html=letter.style == "HTML")
        for number, part in enumerate(parts):
            half = replace(letter, text=part, upload="")
            self.outbox.put(half, letter.time, f"{letter.stem}-{number}")
        if letter.upload:
            content = letter.attachment.read_bytes()
            self.outbox.put(replace(letter, text=""), letter.time, f"{letter.stem}-9", content)
        self.outbox.end([letter])
        return True

    def _attempt(self, batch: list[Letter]) -> "Verdict":
        """Send `batch` until there is a verdict: three tries, but one more after a lost answer."""
        changes: dict[str, str] = {}
        tries = maybes = 0
        while True:
            verdict = self._send(batch, changes)
            if self._mend(batch, verdict, changes):
                continue
            tries += verdict.action in ("retry", "maybe")
            maybes += verdict.action == "maybe"
            if maybes > 1 and self._answers():  # a third request could deliver it a third time
                return verdict._replace(action="unanswered", why=f"{verdict.why}, twice")
            pause = _pause(verdict, tries)
            if tries >= self.limits.tries or maybes > 1 or pause > self._patience():
                return verdict
            time.sleep(pause)
            if verdict.action == "maybe" and not self._answers():
                return verdict

    def _mend(self, batch: list[Letter], verdict: "Verdict", changes: dict[str, str]) -> bool:
        """Whether another form may be taken, which is then noted in `changes` or the letter."""
        if verdict.action == "refused" and batch[0].upload == "photo":
            batch[0].upload = "document"
            return True
        if verdict.action != "change" or verdict.change.keys() <= changes.keys():
            return False
        changes |= verdict.change
        if "chat_id" in changes:
            self._move(batch[0].chat, changes["chat_id"])
        return True

    def _move(self, chat: str, number: str) -> None:
        if self._moved.get(chat) == {"to": number}:
            return
        cli.warn(f"the chat {chat} has the number {number} now: mend TELEGRAM_CHAT_ID")
        self._moved[chat] = {"to": number}
        spare.write_state(self._root / "moved.json", self._moved)

    def _send(self, batch: list[Letter], changes: dict[str, str]) -> "Verdict":
        """One request that sends `batch`; a lost answer leaves its mark."""
        first = batch[0]
        content = {**digest.compose(batch, self.clock(), "parse_mode" not in changes), **changes}
        content["chat_id"] = self._moved.get(first.chat, {}).get("to", first.chat)
        self._pace.note(first.chat, self.clock())
        if not first.upload:
            return self.ask("sendMessage", content, batch)
        upload = {first.upload: (first.file_name, first.attachment.read_bytes())}
        return self.ask(f"send{first.upload.title()}", digest.caption(content), batch, upload)

    def _answers(self) -> bool:
        """Whether the API answers something harmless: if not, a message is not worth its risk."""
        return self.ask("getMe").action not in UNANSWERED

    def ask(
        self, method: str, content: Any = None, batch: Sequence[Letter] = (), files: Any = None
    ) -> "Verdict":
        """Call `method` with what is set in `content`. `batch` is marked while its fate is open."""
        cli.require("requests")
        from upkeep import botapi

        content = {key: value for key, value in (content or {}).items() if value}
        fields = {"data": content, "files": files} if files else {"json": content}
        timeouts = (self.limits.connect_timeout, self.limits.timeout)
        call = botapi.Call(timeouts, lambda: self.outbox.mark(batch, maybe=True))
        url = f"{self.account.base}/bot{quote(self.account.token, safe=':')}/{method}"
        verdict = call.post(url, self.account.proxies, self.end, **fields)
        if call.maybe_sent and verdict.action not in ("maybe", "delivered"):
            self.outbox.mark(batch, maybe=False)
        return verdict


def _pause(verdict: "Verdict", tries: int) -> float:
    """Seconds to wait before the next try, never less than was asked for; infinite: none."""
    if verdict.action == "wait":
        return verdict.seconds + random.uniform(0, 0.3)
    if verdict.action in ("retry", "maybe"):
        return 2.0 ** (tries - 1) * random.uniform(1, 1.25)
    return math.inf
