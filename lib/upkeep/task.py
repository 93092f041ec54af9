"""One managed program: what is configured, what is on record about it, and which process it is.

The record, `<state>/tasks/<task>.json`, is the truth about the running copy; the PID file beside
it serves other programs, and serves us where there is no record.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upkeep import family, files, history, launch, pidfile, proc
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.settings import TaskSettings, command_words


@dataclass
class Record:
    """What is remembered about a task. Times are Unix seconds, uptimes seconds since boot.

    `trouble` describes an outage that goes on ("since", "told", "given_up"), `due` a restart that
    waits for a quiet host, `over` how many samples in a row a limit was exceeded, `counts` the
    starts by cause; nothing but the removal of the file resets them.
    """

    boot_id: str = ""
    pid: int = 0
    start_ticks: int = 0
    session: int = 0  # the session that our start opened; 0: somebody else started it
    nonce: str = ""
    tag: str = ""
    exe: str = ""
    command: list[str] = field(default_factory=list)
    pid_file: str = ""
    started_at: float = 0.0
    started_uptime: float = 0.0
    log_start: int = 0
    oom_kills: int = 0
    down: bool = False
    stopping: str = ""
    unready: str = ""
    due: dict[str, Any] = field(default_factory=dict)
    trouble: dict[str, Any] = field(default_factory=dict)
    over: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def identity(self) -> proc.Identity:
        """The process that was last known to be the task."""
        return proc.Identity(self.boot_id, self.pid, self.start_ticks)


@dataclass
class Task:
    """A task of the configuration together with its record."""

    config: Config
    settings: TaskSettings
    record: Record
    renamed_from: str = ""

    @property
    def name(self) -> str:
        """Its name in upkeep.toml."""
        return self.settings.name

    @property
    def given_up(self) -> bool:
        """Whether the crash-loop breaker is open."""
        return bool(self.record.trouble.get("given_up"))

    def save(self) -> None:
        """Store the record. Raises OSError."""
        files.write_state(record_path(self.config, self.name), dataclasses.asdict(self.record))
        if self.renamed_from:
            files.discard(record_path(self.config, self.renamed_from))

    def note_trouble(self, **facts: object) -> None:
        """Remember that something is wrong, so that its end can be told; never fails."""
        self.record.trouble = {"since": time.time(), **self.record.trouble, **facts}
        with contextlib.suppress(OSError):
            self.save()

    def family(self) -> family.Family:
        """The processes that belong to the recorded copy."""
        known = self.record
        return family.Family(known.identity, known.session, known.tag, known.exe)

    def running(self) -> proc.Identity | None:
        """The copy that runs now, or None; one that the PID file proves goes on record.

        The record in memory then names it; nothing is written. Raises OperatorError (refused)
        where it can't be told.
        """
        known = self.record
        if known.boot_id == proc.boot_id() and known.pid:
            if proc.is_alive(known.identity):
                return known.identity
            if proc.is_hidden(known.pid):
                raise OperatorError(
                    f"{self.name}: pid {known.pid} exists, but /proc does not show it to this"
                    " user; run as root, or mount /proc without hidepid",
                    Exit.REFUSED,
                )
        found = self._successor() or self._adopted()
        if found:
            self._put_on_record(found)
        return found

    def ended_well(self) -> bool:
        """Whether the recorded process ended with status 0, as a daemon's first one does."""
        return launch.exit_status(self.config, self.name, self.record.nonce) == 0

    def _successor(self) -> proc.Identity | None:
        """The process that goes on when a program of ours has put itself into the background."""
        known = self.record
        if not known.session or known.boot_id != proc.boot_id() or not self.ended_well():
            return None
        relatives = self.family().members()
        named = pidfile.plain_pid(self.settings.pid_file)
        for stat in relatives:
            if stat.pid == named:
                return proc.Identity(known.boot_id, stat.pid, stat.start_ticks)
        pids = {stat.pid for stat in relatives}
        heads = [stat for stat in relatives if stat.parent not in pids]
        only = heads[0] if len(heads) == 1 else None
        return proc.Identity(known.boot_id, only.pid, only.start_ticks) if only else None

    def _adopted(self) -> proc.Identity | None:
        known = self.record
        if (
            known.boot_id == proc.boot_id()
            and pidfile.plain_pid(self.settings.pid_file) == known.pid
        ):
            return None  # the record says that this very start has ended: the PID is reused
        user = launch.user_of(self.settings)
        return pidfile.process(self.settings, user.pw_uid if self.settings.user else None)

    def _put_on_record(self, found: proc.Identity) -> None:
        known, stat = self.record, proc.read_stat(found.pid)
        tag = proc.environment(found.pid).get("UPKEEP_TASK", "")
        ours = tag.startswith(self.name + ":")
        known.tag = tag if ours else known.tag
        known.session = stat.session if stat and stat.session == stat.pid and ours else 0
        known.boot_id, known.pid, known.start_ticks = found
        known.exe = proc.executable(found.pid)
        known.command = list(self.settings.command)
        known.pid_file = str(self.settings.pid_file)


def record_path(config: Config, name: str) -> Path:
    """Where the record of the task `name` lies."""
    return config.state / "tasks" / f"{name}.json"


def load(config: Config, name: str) -> Task:
    """The task `name` with its record. Raises OSError.

    Without a record, the history tells whether it was stopped on purpose; and a copy that runs
    under a name that upkeep.toml no longer has, with this very command, is this task renamed.
    """
    record = _read(config, name)
    settings = config.tasks.get(name) or _removed(config, name, record)
    if record is not _EMPTY:
        return Task(config, settings, record)
    for other in recorded_names(config):
        old = _read(config, other)
        same = old.command == list(settings.command)
        if other not in config.tasks and same and proc.is_alive(old.identity):
            return Task(config, settings, old, renamed_from=other)
    events = (each for each in history.newest_first(config.state) if each.get("task") == name)
    return Task(config, settings, Record(down=next(events, {}).get("event") == "stop"))


def _read(config: Config, name: str) -> Record:
    stored = files.read_state(record_path(config, name))
    known = {key: value for key, value in stored.items() if _fits(key, value)}
    return Record(**known) if known else _EMPTY


def _removed(config: Config, name: str, record: Record) -> TaskSettings:
    """Stands for the table of a task that was taken out of upkeep.toml while it ran."""
    return TaskSettings(
        name=name,
        command=command_words(record.command or ["unknown"]),
        log=config.state / "log" / f"{name}.log",
        pid_file=Path(record.pid_file or config.state / "run" / f"{name}.pid"),
    )


def _fits(key: str, value: object) -> bool:
    default = getattr(_EMPTY, key, None)
    if isinstance(default, float) and isinstance(value, int):
        return True
    return default is not None and type(value) is type(default)


_EMPTY = Record()


@contextlib.contextmanager
def locked(config: Config, name: str, wait: float) -> Iterator[None]:
    """Hold the task's lock: one restart, stop or tick of it at a time. Raises OperatorError."""
    path = config.state / "lock" / f"task-{name}.lock"
    with files.lock(path, wait, f"another restart, stop or tick of {name}"):
        yield


def recorded_names(config: Config) -> list[str]:
    """Tasks that have a record, whether they are still configured or not."""
    with contextlib.suppress(OSError):
        names = os.listdir(config.state / "tasks")
        return sorted(name[:-5] for name in names if name.endswith(".json") and name[0] != ".")
    return []
