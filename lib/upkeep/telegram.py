"""Messages to Telegram: into the outbox first, then sent, by one sender of the host at a time."""

import contextlib
import errno
import time
from collections.abc import Iterator
from dataclasses import replace

from upkeep import account, cli, config, message, spare
from upkeep.breaker import API, LIMIT
from upkeep.delivery import UNANSWERED, Clock, Delivery
from upkeep.errors import Exit, OperatorError
from upkeep.outbox import Letter, Outbox

MOST_PARTS = 4  # a longer text becomes a document
HEAD_UNITS, TAIL_UNITS = 3000, 500  # of it are shown above the document
LONGEST_BUDGET_SECONDS = 86400.0
LOCK_WAIT_SECONDS = 1.5  # it comes on top of the budget


def send(
    text: str,
    level: str = "warning",
    config_file: str | None = None,
    budget: float | None = None,
) -> tuple[bool, str]:
    """For programs: send `text`, for `budget` seconds at most. Whether it arrived, or why not.

    Trouble is never raised: what can't be sent now waits, and is sent by the next flush.
    """
    try:
        settings = config.load(config_file)
        post, ttl = Post(settings), settings.telegram.expire_after
        written = post.write(Letter(text=text, silent=level == "info", ttl=ttl))
    except OperatorError as error:
        return False, str(error)
    if not written:
        return False, "nothing to send: the text is empty"
    post.flush(budget)
    why = "; ".join({why for code, why in map(post.fate, written) if code})
    return not why, why


def check(config_file: str | None = None) -> tuple[bool, str]:
    """For programs, at their start: whether token and chats are good, or what is wrong."""
    try:
        findings = Post(config.load(config_file)).check()
    except OperatorError as error:
        return False, str(error)
    wrong = [f"{name}: {why}" for name, why in findings.items() if why]
    return not wrong, "; ".join(wrong)


class Post:
    """Accepts messages and delivers what waits. Raises OperatorError without token or chat."""

    def __init__(self, settings: config.Config, clock: Clock = time.time) -> None:
        self.account = account.load(settings)
        self.outbox = Outbox(settings.state / "outbox")
        self._settings, self._clock = settings, clock
        self._run = self._new_run()

    def _new_run(self, budget: float | None = None) -> Delivery:
        budget = self._settings.telegram.budget if budget is None else budget
        end = time.monotonic() + min(budget, LONGEST_BUDGET_SECONDS)
        return Delivery(self.account, self._settings, self._clock, end)

    def write(self, model: Letter, attached: bytes | None = None) -> list[Letter]:
        """Store letters like `model`, one for each chat and part; without a disk, send them.

        The content of its file goes with the last; a very long text is such a file itself.
        """
        cleaned = [message.clean(each) for each in (model.text, model.file_name)]
        model = replace(model, text=cleaned[0], file_name=cleaned[1])
        html = model.style == "HTML"
        parts = message.split(model.text, html=html) or [""] * (attached is not None)
        if len(parts) > MOST_PARTS and attached is None:
            whole = message.plain(model.text) if html else model.text
            attached, parts = whole.encode(), [message.ends(whole, HEAD_UNITS, TAIL_UNITS)]
            style = "" if html else model.style
            model = replace(model, style=style, upload="document", file_name="message.txt")
        if attached is not None and message.units(parts[-1]) > message.CAPTION_MOST:
            parts.append("")
        written = []
        for chat, thread in [(model.chat, model.thread)] if model.chat else self.account.chats:
            for number, part in enumerate(parts, 1):
                letter = replace(model, chat=chat, thread=thread, text=part)
                if number > 1 and model.style == "bold":
                    letter.style = ""
                file = attached if number == len(parts) else None
                letter.upload = model.upload if file is not None else ""
                written.append(self._accept(letter, file))
        return written

    def _accept(self, letter: Letter, file: bytes | None) -> Letter:
        try:
            return self.outbox.put(letter, self._clock(), "", file)
        except OSError as error:
            cli.warn(f"{self.outbox.new}: {error.strerror}; the message is sent directly")
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        if full:
            with contextlib.suppress(OSError):
                return self.outbox.put_in_memory(letter, self._clock(), file)
        run, unstored = self._new_run(), replace(letter, upload="")
        unstored.why = self.account.unsafe or run.why_held(letter.chat) or run.deliver([unstored])
        return unstored

    def flush(self, budget: float | None = None) -> None:
        """Deliver what waits, in order, as far as that is allowed now, for `budget` seconds."""
        try:
            with self._only_sender(budget) as run:
                run.run()
        except (OperatorError, OSError) as error:
            self._run.why = str(error)

    @contextlib.contextmanager
    def _only_sender(self, budget: float | None = None) -> Iterator[Delivery]:
        """A run that no other one on this host disturbs. Raises OperatorError when one does."""
        if self.account.unsafe:
            raise OperatorError(self.account.unsafe)
        lock = self._settings.state / "lock/outbox.lock"
        with spare.lock(lock, LOCK_WAIT_SECONDS, "another sender"):
            self._run = self._new_run(budget)
            yield self._run

    def fate(self, letter: Letter) -> tuple[Exit, str]:
        """What became of `letter`: 0 delivered, 5 it waits, 1 it was refused; and why."""
        why = letter.why or self.outbox.fate(letter)
        if why is None:
            return Exit.DONE, ""
        if why:
            return Exit.PROBLEM, why
        held = self.account.unsafe or self._run.why_held(letter.chat)
        refused = self._run.held(letter.chat) == self.account.name
        return (Exit.PROBLEM if refused else Exit.LATER), held or self._run.why

    def check(self) -> dict[str, str]:
        """What is wrong with the way to Telegram, the token and each chat, "" if nothing is.

        Asks also where the breaker is open, but not where the server named a time.
        """
        try:
            with self._only_sender() as run:
                return self._findings(run)
        except OperatorError as error:
            return {"sending": str(error)}

    def _findings(self, run: Delivery) -> dict[str, str]:
        if run.held() == LIMIT:
            return {"network": run.why_held()}
        verdict = run.ask("getMe")
        if verdict.action in UNANSWERED:
            return {"network": verdict.why}
        if verdict.action != "delivered":
            return {"token": verdict.why}
        for name in (API, self.account.name):
            run.breaker.succeeded(name)
        found = {"token": ""}
        for chat, _ in self.account.chats:
            limited = run.held(chat).startswith(LIMIT)
            why = run.why_held(chat) if limited else run.ask("getChat", {"chat_id": chat}).why
            if not why:
                run.breaker.succeeded(chat)
            found[f"chat {chat}"] = why
        return found
