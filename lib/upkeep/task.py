"""One managed program: what is configured, what is on record about it, and which process it is."""

import contextlib
import os
from pathlib import Path
from typing import NoReturn

from upkeep import files, history, launch, manager, pidfd, pidfile, proc, record, rights
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.family import TAG, Family
from upkeep.readers import command_words
from upkeep.record import Record
from upkeep.settings import TaskSettings


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
        files.write_state(self.record_file, vars(self.record))
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
        return Family(known.identity, known.session, known.tag, known.exe, self.settings.log)

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
        if known.boot_id == proc.boot_id() and known.pid and pidfd.is_hidden(known.pid):
            why = f"/proc does not show its pid {known.pid} to this user"
            self._refuse(f"{why}; run as root, or without hidepid")
        return self._successor() or self._adopted() or self._forgotten()

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
        user = rights.user_of(self.settings)[0].pw_uid if self.settings.user else None
        found = pidfile.process(self.settings, user)
        if found is None:
            return None
        after_ours = found.start_ticks >= known.start_ticks
        return self._put_on_record(found, ours=after_ours and self._may_have_gone_on())

    def _forgotten(self) -> proc.Identity | None:
        """The copy whose record and PID file are lost: it has our tag and writes our log."""
        if self.record.boot_id:
            return None
        log = os.path.realpath(self.settings.log)

        def is_ours(pid: int) -> bool:
            tagged = proc.variable(pid, TAG).startswith(f"{self.name}:")
            if not tagged or log not in (proc.link(pid, f"fd/{fd}") for fd in (1, 2)):
                return False
            user = rights.user_of(self.settings)[0].pw_uid
            return proc.owner(pid) == user and pidfile.looks_like(pid, self.settings.command)

        found = {pid: stat for pid, stat in proc.scan().items() if not stat.dead and is_ours(pid)}
        heads = [stat for stat in found.values() if stat.parent not in found]
        if len(heads) > 1:
            pids = ", ".join(str(stat.pid) for stat in heads)
            self._refuse(f"copies run that are not on record, pid {pids}: end them first")
        for head in heads:
            identity = proc.Identity(proc.boot_id(), head.pid, head.start_ticks)
            return self._put_on_record(identity, ours=True)
        return None

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
        known.command, known.place = record.described(self.settings)
        return found


def load(config: Config, name: str) -> Task:
    """The task `name` with its record. Raises OSError.

    Without a record, the history tells whether it was stopped on purpose.
    """
    known = record.read(config.state, name)
    settings = config.tasks.get(name) or _removed(config, name, known)
    if known and known.boot_id:  # it has run
        return Task(config, settings, known)
    events = (each for each in history.newest_first(config.state) if each.get("task") == name)
    fresh = Record(down=next(events, {}).get("event") == "stop")
    task = Task(config, settings, known or fresh)
    _look_for_a_rename(task)
    return task


def _removed(config: Config, name: str, known: Record | None) -> TaskSettings:
    """What can be said of a task that is no longer in upkeep.toml."""
    command = command_words((known and known.command) or ["unknown"])
    log, pid_file = config.state / "log" / f"{name}.log", config.state / "run" / f"{name}.pid"
    return TaskSettings(name, command, log=log, pid_file=pid_file)


def _look_for_a_rename(task: Task) -> None:
    """A copy that runs under a name that upkeep.toml no longer has may be this very task.

    It is, when program and place are the same; then it is taken over. When only one of them is,
    nobody can tell, and a second copy must not be started.
    """
    program, place = record.described(task.settings)
    others = [record.described(each) for each in task.config.tasks.values()]
    for old in set(record.names(task.config.state)) - task.config.tasks.keys():
        known = record.read(task.config.state, old)
        if known is None or not proc.is_alive(known.identity):
            continue
        if (known.command, known.place) == (program, place):
            task.record, task.renamed_from, task.rival = known, old, ""
            return
        at_home = known.place[:2] == place[:2] and task.settings.cwd != Path("/")
        taken_over = (known.command, known.place) in others
        if (known.command == program or at_home) and not taken_over:
            task.rival = (
                f'"{old}", which is no longer in upkeep.toml, runs the same program or in the same'
                f" place, pid {known.pid}: end it first by stop.py {old}"
            )
