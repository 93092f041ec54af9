"""Messages that were accepted and are not delivered yet: files in <state>/outbox/new, in order.

".maybe" is added to a name right before a request, so that a kill can't hide a delivery.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from upkeep import files, spare

MOST_LETTERS = 500
MOST_BYTES = 5_000_000
MOST_DEAD = 100
GARBAGE_SECONDS = 3600.0
MOST_MAYBES = 3
FULL = "the outbox was full"
NO_ROOM = "no room for its file"
NOTICE = "0-"  # begins the names of notices: they stand in front of all others
_MAYBE = ".maybe"
_LOSS = re.compile(r"(\d+) message\(s\) since (.{16}) were given up \((.*?)\)")


@dataclass
class Letter:
    """One message to one chat; a long text is several. `ttl` in seconds; 0: it never expires.

    `maybes` counts the requests with it that may have arrived without an answer.
    """

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
    path: Path | None = None  # these two are told by the file's name, not by its content
    maybes: int = 0

    @property
    def stem(self) -> str:
        """Its name in the outbox, whatever is marked; "" where it has no file."""
        return self.path.name.partition(".")[0] if self.path else ""

    @property
    def attachment(self) -> Path:
        """Where the content of its file lies, beside it."""
        return (self.path or Path("unstored")).with_name(f".{self.stem}.file")

    def age(self, now: float) -> float:
        """Seconds since it was written; 0.0 beyond 30 days: the clock was set in between."""
        return now - self.time if 0 < now - self.time < 30 * 86400.0 else 0.0

    def encoded(self) -> bytes:
        """As it is stored."""
        record = asdict(replace(self, path=None, maybes=0))
        return json.dumps({key: value for key, value in record.items() if value}).encode()


class Outbox:
    """The outbox in directory `root`. Methods raise OSError when the disk refuses."""

    def __init__(self, root: Path) -> None:
        self.root, self.new, self.dead = root, root / "new", root / "dead"

    def paths(self) -> list[Path]:
        """The files that wait, in order, those in memory among them."""
        places = [self.new]
        with contextlib.suppress(OSError):
            places.append(spare.place(self.root) / "new")
        found = [path for place in places if place.is_dir() for path in place.iterdir()]
        return sorted((each for each in found if each.name[0] != "."), key=lambda each: each.name)

    def put(
        self, letter: Letter, now: float, name: str = "", attached: bytes | None = None
    ) -> Letter:
        """Store `letter` durably, behind all others; only then is it accepted."""
        place = letter.path.parent if letter.path else self.new
        name = name or f"{time.time_ns():020}-{os.getpid()}-{os.urandom(2).hex()}"
        stored = replace(letter, time=now, path=place / f"{name}.json", maybes=0)
        if attached is not None:
            files.atomic_write(stored.attachment, attached)
        files.atomic_write(place / f"{name}.json", stored.encoded())
        return stored

    def put_in_memory(self, letter: Letter, now: float, attached: bytes | None = None) -> Letter:
        """The same until the next reboot, for a disk that takes nothing."""
        place = spare.place(self.root, make=True) / "new"
        return self.put(replace(letter, path=place / "it"), now, "", attached)

    def letters(self) -> list[Letter]:
        """All that waits, in order. A torn or foreign file goes to dead/ and is reported."""
        return [letter for path in self.paths() if (letter := self._read(path))]

    def _read(self, path: Path) -> Letter | None:
        try:
            letter = Letter(**json.loads(files.read_small(path, 100_000)))
            whole = all(type(letter.__dict__[key]) is kind for key, kind in _TYPES.items())
            letter.path, letter.maybes = path, path.name.count(_MAYBE)
            lost = letter.upload and not letter.attachment.is_file()
            odd = letter.upload not in ("", "document", "photo")
            if odd or lost or not whole or not 0 <= letter.time < 1e11:  # no Unix time beyond
                raise ValueError
        except FileNotFoundError:  # delivered or given up by another process
            return None
        except (OSError, ValueError, TypeError, RecursionError):
            with contextlib.suppress(FileNotFoundError):
                files.set_aside.append(self._bury(path))
            return None
        return letter

    def _bury(self, path: Path) -> Path:
        """Move a file to dead/, beside the newest hundred; that needs no room on the disk."""
        dead = path.parent.parent / "dead"
        files.make_directory(dead)
        for name in sorted(os.listdir(dead))[: 1 - MOST_DEAD]:
            files.discard(dead / name)
        return path.rename(dead / path.name.replace(_MAYBE, ""))

    def mark(self, letters: Iterable[Letter], *, maybe: bool) -> None:
        """Note, also on the disk, that a request with these may arrive; or that it did not."""
        for letter in letters:
            letter.maybes += 1 if maybe else -1
            if letter.path:
                marked = f"{letter.stem}.json{_MAYBE * letter.maybes}"
                letter.path = letter.path.rename(letter.path.with_name(marked))
                files.sync_directory(letter.path.parent)

    def end(self, letters: Iterable[Letter], why: str = "") -> None:
        """Forget what is delivered; or, with `why`, give it up: dead/ keeps the newest hundred."""
        for letter in letters:
            if not letter.path:
                continue
            if why:
                with contextlib.suppress(OSError):  # on a full disk it goes without the reason
                    files.atomic_write(letter.path, replace(letter, why=why).encoded())
                self._bury(letter.path)
            else:
                letter.path.unlink(missing_ok=True)
            letter.attachment.unlink(missing_ok=True)

    def tidy(self, now: float) -> None:
        """Give up what is too old, too much or unanswered, and tell each chat how much it was."""
        self._sweep(now)
        lost: dict[str, list[Letter]] = {}
        for letter, why in reasons(self.letters(), now):
            if why == NO_ROOM:
                self.drop_file(letter, FULL)
                continue
            self.end([letter], why)
            if not letter.stem.startswith(NOTICE):
                lost.setdefault(letter.chat, []).append(replace(letter, why=why))
        for chat, letters in lost.items():
            with contextlib.suppress(OSError):  # on a full disk dead/ has to tell it
                self._tell_loss(chat, letters, now)

    def _sweep(self, now: float) -> None:
        """Remove what killed senders left half written."""
        known = {path.name.partition(".")[0] for path in self.paths()}
        for path in self.new.glob(".*"):
            if path.name.lstrip(".").partition(".")[0] not in known:
                with contextlib.suppress(FileNotFoundError):
                    if now - path.stat().st_mtime > GARBAGE_SECONDS:
                        path.unlink()

    def drop_file(self, letter: Letter, why: str) -> None:
        """Let the text go on without its file, and say so in it."""
        text = f"{letter.text}\n({letter.file_name} could not be sent: {why})".lstrip()
        try:
            if letter.path:
                files.atomic_write(letter.path, replace(letter, text=text, upload="").encoded())
                letter.attachment.unlink(missing_ok=True)
        except OSError:  # on a full disk
            self.end([letter], why)

    def _tell_loss(self, chat: str, letters: list[Letter], now: float) -> None:
        """One notice for a chat, in front of all that waits; it grows with every run's losses."""
        name = f"{NOTICE}{chat}"
        count, reasons = len(letters), {each.why for each in letters}
        since = time.strftime("%F %R", time.localtime(min(each.time for each in letters)))
        notice = self._read(self.new / f"{name}.json")
        if notice and (before := _LOSS.match(notice.text)):
            count, since = count + int(before[1]), min(since, before[2])
            reasons |= set(before[3].split(", "))
        why = ", ".join(sorted(reasons))
        text = f"{count} message(s) since {since} were given up ({why}), see {self.dead}"
        self.put(Letter(chat, text), now, name)

    def fate(self, letter: Letter) -> Any:
        """Why `letter` was given up, "" while it waits, None when it was delivered."""
        if not letter.path:  # it went out directly
            return None
        if any(path.name.startswith(letter.stem) for path in self.paths()):  # or halves of it
            return ""
        grave = next((letter.path.parent.parent / "dead").glob(f"{letter.stem}*"), None)
        return json.loads(grave.read_bytes()).get("why", "it was refused") if grave else None


def reasons(letters: list[Letter], now: float) -> list[tuple[Letter, str]]:
    """Which of `letters`, oldest first, can't stay, and why. Silent and old ones make room first.

    Texts and files have MOST_BYTES each; the newest file may be larger.
    """
    found, text_bytes, file_bytes = [], 0, 0
    newest_first = letters[::-1]
    for number, letter in enumerate(sorted(newest_first, key=lambda each: each.silent)):
        file_size = letter.attachment.stat().st_size if letter.upload else 0
        text_bytes += len(letter.encoded())
        crowded = file_bytes > 0 and file_bytes + file_size > MOST_BYTES
        if 0 < letter.ttl < letter.age(now):
            found.append((letter, "expired"))
        elif letter.maybes >= MOST_MAYBES:
            found.append((letter, f"sent {letter.maybes} times without an answer"))
        elif number >= MOST_LETTERS or text_bytes > MOST_BYTES:
            found.append((letter, FULL))
        elif file_size and crowded:
            found.append((letter, NO_ROOM))
        else:
            file_bytes += file_size
    return found


_TYPES = {key: type(value) for key, value in Letter().__dict__.items() if key != "path"}
