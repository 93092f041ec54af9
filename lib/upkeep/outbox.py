"""Messages that were accepted and are not delivered yet: files in <state>/outbox/new, in order.

".maybe" is added to a name right before a request, so that a kill can't hide a delivery.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from upkeep import files

MOST_LETTERS = 500
GARBAGE_SECONDS = 3600.0
_MAYBE = ".maybe"


@dataclass
class Letter:
    """One message to one chat; a long text is several. `ttl` in seconds; 0: it never expires."""

    chat: str = ""
    text: str = ""
    thread: str = ""
    style: str = ""  # "bold": the first line; "pre", "HTML": all of it
    upload: str = ""  # "document" or "photo": the file `file_name` goes with it
    file_name: str = ""
    silent: bool = False
    ttl: float = 0.0
    time: float = 0.0
    why: str = ""
    path: Path | None = None

    @property
    def maybes(self) -> int:
        """How many requests with it may have arrived without an answer."""
        return self.path.name.count(_MAYBE) if self.path else 0

    @property
    def attachment(self) -> Path:
        """Where the content of its file lies, beside it."""
        path = self.path or Path()
        return path.with_name(f".{path.name.partition('.')[0]}.file")

    def age(self, now: float) -> float:
        """Seconds since it was written; 0.0 beyond 30 days: the clock was set in between."""
        return now - self.time if 0 < now - self.time < 30 * 86400.0 else 0.0

    def encoded(self) -> bytes:
        """As it is stored."""
        record = asdict(replace(self, path=None))
        return json.dumps({key: value for key, value in record.items() if value}).encode()


class Outbox:
    """The outbox in directory `root`. Methods raise OSError when the disk refuses."""

    def __init__(self, root: Path) -> None:
        self.new, self.dead = root / "new", root / "dead"

    def names(self) -> list[str]:
        """The files that wait, in order."""
        found = os.listdir(self.new) if self.new.is_dir() else []
        return sorted(name for name in found if not name.startswith("."))

    def put(
        self, letter: Letter, now: float, name: str = "", attached: bytes | None = None
    ) -> Letter:
        """Store `letter` durably, behind all others; only then is it accepted."""
        name = name or f"{time.time_ns():020}-{os.getpid()}-{os.urandom(2).hex()}"
        stored = replace(letter, time=now, path=self.new / f"{name}.json")
        if attached is not None:
            files.atomic_write(stored.attachment, attached)
        files.atomic_write(self.new / f"{name}.json", stored.encoded())
        return stored

    def letters(self) -> list[Letter]:
        """All that waits, in order. A torn or foreign file goes to dead/ and is reported."""
        return [letter for name in self.names() if (letter := self._read(self.new / name))]

    def _read(self, path: Path) -> Letter | None:
        try:
            letter = Letter(**json.loads(files.read_small(path, 100_000)), path=path)
            whole = all(type(letter.__dict__[key]) is kind for key, kind in _TYPES.items())
            lost = letter.upload and not letter.attachment.is_file()
            if lost or not whole or not 0 <= letter.time < 1e11:  # where no Unix time can be
                raise ValueError
        except FileNotFoundError:  # delivered or given up by another process
            return None
        except (OSError, ValueError, TypeError, RecursionError):
            files.make_directory(self.dead)
            with contextlib.suppress(FileNotFoundError):
                files.set_aside.append(path.rename(self.dead / path.name))
            return None
        return letter

    def mark(self, letters: Iterable[Letter], *, maybe: bool) -> None:
        """Note on the disk whether a request with these may be on its way."""
        for letter in letters:
            if letter.path:
                bare = str(letter.path) if maybe else str(letter.path).removesuffix(_MAYBE)
                letter.path = letter.path.rename(bare + _MAYBE * maybe)
                files.sync_directory(self.new)

    def end(self, letters: Iterable[Letter], why: str = "") -> None:
        """Forget what is delivered; or, with `why`, give it up: dead/ keeps the newest hundred."""
        for letter in letters:
            if letter.path and why:
                files.atomic_write(self._grave(letter), replace(letter, why=why).encoded())
                for name in sorted(os.listdir(self.dead))[:-100]:
                    (self.dead / name).unlink(missing_ok=True)
            if letter.path:
                letter.path.unlink(missing_ok=True)
                letter.attachment.unlink(missing_ok=True)

    def tidy(self, now: float) -> None:
        """Give up what is too old, too much or unanswered, silent ones first. The chat is told."""
        known = {name.partition(".")[0] for name in self.names()}
        for path in self.new.glob(".*"):  # what a killed sender left
            if path.name.lstrip(".").partition(".")[0] not in known:
                with contextlib.suppress(FileNotFoundError):
                    if now - path.stat().st_mtime > GARBAGE_SECONDS:
                        path.unlink()
        letters = sorted(self.letters(), key=lambda each: not each.silent)
        for number, letter in enumerate(letters):
            why = "the outbox was full" if len(letters) - number > MOST_LETTERS else ""
            why = "expired" if 0 < letter.ttl < letter.age(now) else why
            why = "sent three times without an answer" if letter.maybes >= 3 else why
            if why:
                self.end([letter], why)
                since = time.strftime("%F %R", time.localtime(letter.time))
                text = f"Messages since {since} were given up ({why}), see {self.dead}"
                if not (self.new / f"0-{letter.chat}.json").exists():
                    self.put(Letter(letter.chat, text), now, f"0-{letter.chat}")

    def fate(self, letter: Letter) -> str | None:
        """Why `letter` was given up, "" while it waits, None when it was delivered."""
        if not letter.path:  # it went out directly
            return None
        stem = letter.path.name.partition(".")[0]  # of its halves, too
        if any(name.startswith(stem) for name in self.names()):
            return ""
        grave = next(self.dead.glob(f"{stem}*"), None)
        return str(json.loads(grave.read_bytes())["why"]) if grave else None

    def _grave(self, letter: Letter) -> Path:
        return self.dead / (letter.path.name.replace(_MAYBE, "") if letter.path else "none")


_TYPES = {key: type(value) for key, value in Letter().__dict__.items() if key != "path"}
