"""Messages that were accepted and are not delivered yet: one file each, on the disk first.

<state>/outbox/tmp/    being written
               new/    <time>-<pid>-<random>.json, in the order of sending; ".maybe" is added
                       right before every request, so that a kill can't hide a delivery
               dead/   given up, with the reason
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from upkeep import files, proc
from upkeep.message import Entity

MOST_LETTERS = 500
MOST_BYTES = 5_000_000
MOST_ATTACHED_BYTES = 200_000_000
MOST_MAYBES = 3
_DEAD_KEPT = 100
_DEAD_KEPT_SECONDS = 14 * 86400.0
_SANE_TIME = 1.7e9  # earlier than any upkeep: the clock was not set yet
_MAYBE = ".maybe"
LEVELS = ("info", "warning", "critical")


@dataclass
class Letter:
    """One message to one chat; a long text is several. `ttl` is in seconds, 0 is forever."""

    chat: str
    text: str
    thread: str = ""
    entities: list[Entity] = field(default_factory=list)
    level: str = "warning"
    silent: bool = False
    ttl: float = 0.0
    upload: str = ""  # "document" or "photo"
    file_name: str = ""
    part: str = ""
    id: str = ""
    time: float = 0.0
    boot_id: str = ""
    uptime: float = 0.0
    lost: int = 0  # of a notice: how many it tells about
    why: str = ""
    path: Path | None = field(default=None, compare=False)

    @property
    def maybes(self) -> int:
        """How many requests with it may have arrived, without an answer."""
        return self.path.name.count(_MAYBE) if self.path else 0

    @property
    def attachment(self) -> Path | None:
        """The file that goes with it."""
        return (
            self.path.with_name(_stem(self.path) + ".file") if self.path and self.upload else None
        )

    def age(self, now: float) -> float:
        """Seconds since it was written; a clock that was set in between does not count."""
        if self.boot_id and self.boot_id == proc.boot_id():
            return proc.uptime() - self.uptime
        return max(0.0, now - self.time) if self.time > _SANE_TIME else 0.0


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


class Outbox:
    """The outbox in directory `root`. Methods raise OSError when the disk refuses."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.new, self.dead = root / "new", root / "dead"

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._names()

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.new) if ".json" in name)
        except FileNotFoundError:
            return []

    def put(self, letter: Letter, attached: bytes | Path = b"") -> Letter:
        """Store `letter` durably, behind all others; only then is it accepted."""
        name = f"{time.time_ns():020}-{os.getpid()}-{os.urandom(3).hex()}"
        stored = replace(
            letter,
            id=letter.id or os.urandom(2).hex(),
            time=letter.time or time.time(),
            boot_id=proc.boot_id(),
            uptime=proc.uptime(),
        )
        if letter.upload:
            self._store(f"{name}.file", attached)
        stored.path = self._store(f"{name}.json", _encoded(stored))
        return stored

    def _store(self, name: str, content: bytes | Path) -> Path:
        temporary = self.root / "tmp" / name
        files.make_directory(temporary.parent)
        files.make_directory(self.new)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                if isinstance(content, Path):
                    import shutil

                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self.new / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        files.sync_directory(self.new)
        return self.new / name

    def letters(self) -> list[Letter]:
        """All that waits, in order. A file that is none of ours goes to dead/."""
        return [letter for name in self._names() if (letter := self._read(self.new / name))]

    def _read(self, path: Path) -> Letter | None:
        known = {each.name: each.type for each in fields(Letter)}
        try:
            record = json.loads(files.read_small(path, 1 << 20))
            letter = Letter(**{k: v for k, v in record.items() if k in known}, path=path)
            example = Letter("", "")
            for name in known:
                if name != "path" and not isinstance(
                    getattr(letter, name), (type(getattr(example, name)), int)
                ):
                    raise ValueError(name)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            files.make_directory(self.dead)
            damaged = self.dead / path.name
            os.rename(path, damaged)
            files.set_aside.append(damaged)
            return None
        return letter

    def mark(self, letters: Iterable[Letter]) -> None:
        """Note on the disk that these may be on the wire from now on."""
        for letter in letters:
            self._rename(letter, lambda name: name + _MAYBE)
        files.sync_directory(self.new)

    def unmark(self, letters: Iterable[Letter]) -> None:
        """Take the last note back: they were certainly not delivered."""
        for letter in letters:
            if letter.maybes:
                self._rename(letter, lambda name: name.removesuffix(_MAYBE))

    def _rename(self, letter: Letter, change: Any) -> None:
        if letter.path:
            target = letter.path.with_name(change(letter.path.name))
            os.rename(letter.path, target)
            letter.path = target

    def remove(self, letters: Iterable[Letter]) -> None:
        """They are delivered."""
        for letter in letters:
            for path in (letter.path, letter.attachment):
                if path:
                    path.unlink(missing_ok=True)

    def bury(self, letter: Letter, why: str) -> None:
        """Give `letter` up: it is kept in dead/ for a while, with the reason."""
        if not letter.path:
            return
        files.make_directory(self.dead)
        name = f"{_stem(letter.path)}.json"
        files.atomic_write(self.dead / name, _encoded(replace(letter, why=why)))
        if letter.attachment:
            with contextlib.suppress(FileNotFoundError):
                os.rename(letter.attachment, self.dead / letter.attachment.name)
        letter.path.unlink(missing_ok=True)
        self._forget_old_dead()

    def _forget_old_dead(self) -> None:
        names = sorted(os.listdir(self.dead))
        oldest = f"{int((time.time() - _DEAD_KEPT_SECONDS) * 1e9):020}"
        for name in names[:-_DEAD_KEPT] + [name for name in names if name < oldest]:
            (self.dead / name).unlink(missing_ok=True)

    def why_dead(self, letter: Letter) -> str | None:
        """Why `letter` was given up; None when it was not."""
        if not letter.path:
            return None
        try:
            return str(json.loads((self.dead / f"{_stem(letter.path)}.json").read_bytes())["why"])
        except (OSError, ValueError, KeyError):
            return None

    def waits(self, letter: Letter) -> bool:
        """Whether `letter` is still to be delivered."""
        stem = _stem(letter.path) if letter.path else ""
        return any(name.startswith(f"{stem}.") for name in self._names())


def _encoded(letter: Letter) -> bytes:
    record = {key: value for key, value in asdict(letter).items() if value and key != "path"}
    return json.dumps({"v": 1, "chat": letter.chat, "text": letter.text, **record}).encode()
