"""One managed program: what is configured, what is on record about it, and which process it is.

The record, `<state>/tasks/<task>.json`, is the truth about the running copy; the PID file beside
it serves other programs, and serves us where there is no record.
"""

import contextlib
import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from upkeep import files, history, launch, manager, pidfile, proc
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.family import TAG, Family
from upkeep.settings import TaskSettings, command_words


@dataclass
class Record:
    """What is remembered about a task.

    `trouble` is what was told and is not over: when a restart was ("told"), that an outage
    "lasted", that the breaker has "tripped", and when it was "given_up" last. `due` is a restart
    that waits for a quiet host, `over` the samples in a row over a limit, `counts` the starts by
    cause.
    """

    boot_id: str = ""
    pid: int = 0  # 0: none, or one whose death is accounted for
    start_ticks: int = 0
    session: int = 0  # the session that our start opened; 0: somebody else started it
    heir: bool = False  # it is not the process that we started, but took over from that
    nonce: str = ""
    tag: str = ""
    exe: str = ""
    command: list[str] = field(default_factory=list)
    place: list[str] = field(default_factory=list)  # its user, directory and manager
    started: dict[str, Any] = field(default_factory=dict)  # by history.stamp
    log_start: int = 0
    file_before: int = 0  # of `ready`, at the start
    oom_kills: int = 0
    down: bool = False
    stopping: str = ""
    unready: str = ""
    due: dict[str, Any] = field(default_factory=dict)
    trouble: dict[str, Any] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def identity(self) -> proc.Identity:
        """The process that was last known to be the task."""
        return proc.Identity(self.boot_id, self.pid, self.start_ticks)

    @property
    def outage(self) -> bool:
        """Whether it was down or wrong for so long that the end of that is told."""
        return not {"lasted", "tripped"}.isdisjoint(self.trouble)


class Task:
    """A task together with its record.

    `renamed_from` is the name that the record has yet. `rival` says which running copy of a task
    that left upkeep.toml could be this one.
    """

    renamed_from = ""
    rival = ""

    def __init__(self, config: Config, settings: TaskSettings, record: Record) -> None:
        self.config, self.settings, self.record = config, settings, record
        self.name = settings.name
        self.record_file = config.state / "tasks" / f"{self.name}.json"
        self.end_file = config.state / "tasks" / f"{self.name}.exit"  # written by its recorder

    def save(self) -> None:
        """Store the record. Raises OSError."""
        files.write_state(self.record_file, dataclasses.asdict(self.record))
        if self.renamed_from:
            old, self.renamed_from = self.renamed_from, ""
            with contextlib.suppress(OSError):
                os.rename(self.end_file.with_name(f"{old}.exit"), self.end_file)
            files.discard(self.config.state / "run" / f"{old}.pid")
            if not self.settings.pid_file.exists():
                files.atomic_write(self.settings.pid_file, b"%d\n" % self.record.pid, 0o644)
            files.discard(self.record_file.with_name(f"{old}.json"))

    def note_trouble(self, **facts: object) -> None:
        """Remember that something is wrong, so that its end can be told; never fails."""
        self.record.trouble |= facts
        with contextlib.suppress(OSError):
            self.save()

    def family(self) -> Family:
        """The processes that belong to the recorded copy."""
        known = self.record
        log = os.path.realpath(self.settings.log)
        return Family(known.identity, known.session, known.tag, known.exe, log)

    def running(self) -> proc.Identity | None:
        """The copy that runs now, or None. One that was not on record is put there, in memory.

        Raises OperatorError (refused) where it can't be told.
        """
        known = self.record
        alive = proc.is_alive(known.identity)
        if self.rival:
            self._refuse(self.rival)
        if alive and known.place[2:] not in ([], [self.settings.manager]):
            why = f'its pid {known.pid} was started with manager = "{known.place[2]}"'
            self._refuse(f"{why}: end it by that first")
        if self.settings.manager != "upkeep":
            return self._managed()
        if alive:
            return known.identity
        if known.boot_id == proc.boot_id() and known.pid and proc.is_hidden(known.pid):
            why = f"/proc does not show its pid {known.pid} to this user"
            self._refuse(f"{why}; run as root, or without hidepid")
        return self._successor() or self._adopted()

    def ended_well(self) -> bool:
        """Whether the started process ended with status 0, as a daemon's first one does."""
        return launch.how_it_ended(self.end_file, self.record.nonce)[0] == 0

    def how_it_ended(self) -> tuple[int | str | None, float]:
        """The same for the recorded copy: nobody waits for a daemon's second process."""
        return launch.how_it_ended(self.end_file, "" if self.record.heir else self.record.nonce)

    def _refuse(self, why: str) -> NoReturn:
        raise OperatorError(f"{self.name}: {why}", Exit.REFUSED)

    def _managed(self) -> proc.Identity | None:
        """The copy that pm2 or systemd runs."""
        found = proc.identify(manager.main_pid(self.settings))
        if found and found != self.record.identity:
            self._put_on_record(found, ours=False)
        return found

    def _successor(self) -> proc.Identity | None:
        """The process that goes on when a program of ours has put itself into the background."""
        if not self._may_have_gone_on():
            return None
        relatives = {stat.pid: stat for stat in self.family().members()}
        heads = [stat for stat in relatives.values() if stat.parent not in relatives]
        named = relatives.get(pidfile.plain_pid(self.settings.pid_file) or 0)
        chosen = named or (heads[0] if len(heads) == 1 else None)
        if chosen is None:
            return None
        found = proc.Identity(self.record.boot_id, chosen.pid, chosen.start_ticks)
        return self._put_on_record(found, ours=True)

    def _adopted(self) -> proc.Identity | None:
        """The process that the PID file names and proves to be the task."""
        known, path = self.record, self.settings.pid_file
        ended = known.boot_id == proc.boot_id() and pidfile.plain_pid(path) == known.pid
        if ended or not os.path.lexists(path):  # ended: by the record, so that the PID is reused
            return None
        user = launch.user_of(self.settings)[0].pw_uid if self.settings.user else None
        found = pidfile.process(self.settings, user)
        if found is None:
            return None
        after_ours = found.start_ticks >= known.start_ticks
        return self._put_on_record(found, ours=after_ours and self._may_have_gone_on())

    def _may_have_gone_on(self) -> bool:
        known = self.record
        return bool(known.session) and known.boot_id == proc.boot_id() and self.ended_well()

    def _put_on_record(self, found: proc.Identity, ours: bool) -> proc.Identity:
        """Take over `found`; where our start led to it, a session that it leads is its own."""
        known, stat = self.record, proc.read_stat(found.pid)
        tag = proc.variable(found.pid, TAG)
        if tag.startswith(f"{self.name}:"):
            known.tag, ours = tag, True
        leads = stat is not None and stat.session == stat.pid
        known.session = found.pid if ours and leads else 0
        known.boot_id, known.pid, known.start_ticks = found
        known.heir, known.exe = True, proc.executable(found.pid)
        known.command, known.place = described(self.settings)
        return found


def described(settings: TaskSettings) -> tuple[list[str], list[str]]:
    """What tells a task from others, whatever it is called: its program, and its place."""
    program = list(settings.command) or [settings.unit or settings.app]
    return program, [settings.user, str(settings.cwd), settings.manager]


def load(config: Config, name: str) -> Task:
    """The task `name` with its record. Raises OSError.

    Without a record, the history tells whether it was stopped on purpose.
    """
    record, log = _read(config, name), config.state / "log" / f"{name}.log"
    command = command_words((record and record.command) or ["unknown"])
    removed = TaskSettings(name, command, log=log, pid_file=config.state / "run" / f"{name}.pid")
    settings = config.tasks.get(name, removed)
    if record and record.boot_id:  # it has run
        return Task(config, settings, record)
    events = (each for each in history.newest_first(config.state) if each.get("task") == name)
    fresh = Record(down=next(events, {}).get("event") == "stop")
    task = Task(config, settings, record or fresh)
    _look_for_a_rename(task)
    return task


def _look_for_a_rename(task: Task) -> None:
    """A copy that runs under a name that upkeep.toml no longer has may be this very task.

    It is, when program and place are the same; then it is taken over. When only one of them is,
    nobody can tell, and a second copy must not be started.
    """
    wanted = described(task.settings)
    others = [described(each) for each in task.config.tasks.values()]
    for old in set(recorded_names(task.config)) - task.config.tasks.keys():
        record = _read(task.config, old)
        if record is None or not proc.is_alive(record.identity):
            continue
        if (record.command, record.place) == wanted:
            task.record, task.renamed_from, task.rival = record, old, ""
            return
        if (record.command, record.place) in others:
            continue
        at_home = record.place[:2] == wanted[1][:2] and task.settings.cwd != Path("/")
        if record.command == wanted[0] or at_home:
            task.rival = (
                f'"{old}", which is no longer in upkeep.toml, runs the same program or in the same'
                f" place, pid {record.pid}: end it first by stop.py {old}"
            )


def _read(config: Config, name: str) -> Record | None:
    """The record; None when there is none, or one that can't be ours."""
    stored = files.read_state(config.state / "tasks" / f"{name}.json", _fits)
    usual = dataclasses.asdict(Record())
    return Record(**{key: stored[key] for key in usual if key in stored}) if stored else None


def _fits(stored: dict[str, Any]) -> bool:
    """Whether all values have the types and ranges that a record of ours has."""
    usual = dataclasses.asdict(Record())
    known = {key: stored.get(key, value) for key, value in usual.items()}
    if any(type(known[key]) is not type(value) for key, value in usual.items()):
        return False
    due, trouble = known["due"], known["trouble"]
    told, given_up = (trouble.get(key, {}) for key in ("told", "given_up"))
    return (
        all(type(each) is int for each in (*known["counts"].values(), *known["over"].values()))
        and all(isinstance(each, str) for each in (*known["command"], *known["place"]))
        and all(value >= 0 for value in known.values() if type(value) is int)
        and known["pid"] <= proc.PID_LIMIT
        and all(
            each == {} or history.is_stamp(each) for each in (known["started"], due, told, given_up)
        )
        and (not due or (isinstance(due.get("wait"), float) and isinstance(due.get("reason"), str)))
        and trouble.get("given_up") != {}
    )


def recorded_names(config: Config) -> list[str]:
    """Tasks that have a record, whether they are still configured or not."""
    return sorted(path.stem for path in (config.state / "tasks").glob("[!.]*.json"))
