"""Stop, start and restart of one task, whose lock the caller holds.

The order of a restart: everything that can fail is tried and the new record is written beside the
old one; only then the old copy is stopped. A restart that is killed at any point leaves either
the old copy, or a record from which the next tick of the watchdog finishes the job.
"""

import contextlib
import dataclasses
import os
import secrets
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from upkeep import death, family, files, history, launch, pidfile, proc, ready, statefiles, units
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.outcome import Result
from upkeep.task import Record, Task, record_path

BY_HAND = "by hand"
_TAIL_LINES = 10


def plan(task: Task, old: proc.Identity | None, reason: str) -> list[str]:
    """What `restart` would do. Raises OperatorError where it could not even begin."""
    settings = task.settings
    launch.check(task.config, settings)
    stale = statefiles.remove(
        settings.state_files, settings.state_files_older_than, time.time(), dry_run=True
    )
    return [
        *plan_of_stop(task, old, reason),
        *(f"remove {path}" for path in stale),
        f"start: {shlex.join(settings.command)} ({reason})",
    ]


def plan_of_stop(task: Task, old: proc.Identity | None, reason: str) -> list[str]:
    """What `stop` would do."""
    if old is None:
        return []
    settings = task.settings
    name = signal.Signals(settings.stop_signal).name.removeprefix("SIG")
    grace = units.format_duration(settings.stop_timeout)
    others = [str(stat.pid) for stat in task.family().members() if stat.pid != old.pid]
    steps = [f"send {name} to pid {old.pid}, KILL after {grace} ({reason})"]
    if others:
        steps.append(f"then TERM, KILL to what is left of its family: {' '.join(others)}")
    return steps


def restart(task: Task, reason: str, category: str) -> Result:
    """Replace the running copy, or start one; `category` is counted in the record.

    Raises OperatorError and OSError when nothing could be begun; the old copy then runs on.
    """
    old = task.running()
    result = Result(task.name, event="restart" if old else "start", reason=reason)
    nonce = secrets.token_hex(8)
    with contextlib.ExitStack() as cleanup:
        waiting = cleanup.enter_context(launch.prepare(task.config, task.settings, nonce))
        fresh = _new_record(task, waiting, category)
        places = _stage(cleanup, task, fresh)
        stopped = _stop(task, old, reason, result)
        settings = task.settings
        statefiles.remove(
            settings.state_files, settings.state_files_older_than, time.time(), dry_run=False
        )
        for temporary, place in places:
            files.publish(temporary, place)
        task.record = fresh
        started = waiting.go()
        if stopped is not None:
            result.downtime_seconds = round(max(0.0, started - stopped.ended_at), 4)
        result.new_pid = fresh.pid
        _conclude(task, result, ready.failure(task, waiting))
    _remember(task, result)
    return result


def stop(task: Task, reason: str) -> Result:
    """End the running copy and remember that it is wanted down. Raises OperatorError, OSError."""
    known = task.record
    old = task.running()
    result = Result(task.name, "stopped" if old else "not_needed", reason=reason)
    was_down = known.down
    if not was_down or known.due or known.trouble:
        known.down, known.due, known.trouble = True, {}, {}
        task.save()
    _end(task, old, result)
    _remove_pid_file(task, known.pid)
    if old or not was_down:
        result.event = "stop"
        _remember(task, result)
    return result


def _new_record(task: Task, waiting: launch.Waiting, category: str) -> Record:
    """The record of the copy that is about to start; counts and an outage are carried on."""
    known, settings = task.record, task.settings
    boot, pid, ticks = waiting.identity
    trouble = {key: value for key, value in known.trouble.items() if key != "given_up"}
    return Record(
        boot_id=boot,
        pid=pid,
        start_ticks=ticks,
        session=pid,
        nonce=waiting.nonce,
        tag=f"{task.name}:{waiting.nonce}",
        command=list(settings.command),
        pid_file=str(settings.pid_file),
        started_at=time.time(),
        started_uptime=proc.uptime(),
        log_start=os.stat(settings.log).st_size,
        oom_kills=death.oom_kills(),
        trouble={} if category == BY_HAND else trouble,
        counts={**known.counts, category: known.counts.get(category, 0) + 1},
    )


def _stage(cleanup: contextlib.ExitStack, task: Task, fresh: Record) -> list[tuple[Path, Path]]:
    """Write record and PID file beside their places, so that a full disk shows up here."""
    owner = launch.user_of(task.settings)
    pid_file = task.settings.pid_file
    files.make_directory(pid_file.parent)
    directory = os.stat(pid_file.parent)
    if reason := pidfile.untrusted(directory, {0, os.geteuid(), owner.pw_uid}):
        raise OperatorError(f"{pid_file}: not written: {pid_file.parent} {reason}", Exit.REFUSED)
    record = files.state_text(dataclasses.asdict(fresh))
    places = []
    for place, data, mode in (
        (record_path(task.config, task.name), record, 0o600),
        (pid_file, b"%d\n" % fresh.pid, 0o644),
    ):
        temporary = files.stage(place, data, mode)
        cleanup.callback(files.discard, temporary)
        places.append((temporary, place))
    if os.geteuid() == 0 and directory.st_uid == owner.pw_uid:  # it may rewrite its own PID file
        os.chown(places[1][0], owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    return places


def _stop(
    task: Task, old: proc.Identity | None, reason: str, result: Result
) -> family.Stopped | None:
    """Stop the old copy; the record says so first, for the case that we are killed meanwhile."""
    if old:
        task.record.stopping = reason
        task.save()
    try:
        return _end(task, old, result)
    except OperatorError:
        task.record.stopping = ""
        with contextlib.suppress(OSError):
            task.save()
        raise


def _end(task: Task, old: proc.Identity | None, result: Result) -> family.Stopped | None:
    """Stop the whole family, also what a dead program left behind."""
    if task.record.boot_id != proc.boot_id():
        return None
    relatives = task.family()
    if old:
        result.old_pid = old.pid
        result.rss_before_bytes = family.total_rss(relatives.members())
    stopped = relatives.stop(task.settings.stop_signal, task.settings.stop_timeout)
    if not old:
        return None
    result.stop_seconds, result.killed = round(stopped.seconds, 3), stopped.killed
    return stopped


def _remove_pid_file(task: Task, ended: int) -> None:
    """Remove the PID file if it still names the copy that has ended."""
    if ended and pidfile.plain_pid(task.settings.pid_file) == ended:
        files.discard(task.settings.pid_file)


def _conclude(task: Task, result: Result, why: str | None) -> None:
    """Judge the start and bring the record up to date."""
    known = task.record
    alive = task.running()
    with contextlib.suppress(OSError):  # what is on the disk names the right process already
        if alive:
            result.new_pid = alive.pid
            known.exe = proc.executable(alive.pid)
            result.rss_after_bytes = family.total_rss(task.family().members())
            if pidfile.plain_pid(task.settings.pid_file) != alive.pid:
                files.atomic_write(task.settings.pid_file, b"%d\n" % alive.pid, 0o644)
        if why is None:
            result.outcome = "restarted" if result.event == "restart" else "started"
        else:
            _conclude_failure(task, result, why, alive is not None)
        task.save()


def _conclude_failure(task: Task, result: Result, why: str, alive: bool) -> None:
    known = task.record
    result.outcome, result.code = "failed", Exit.PROBLEM
    result.detail = why if alive else f"{why}: {death.cause(task)}"
    result.log_tail = files.tail(task.settings.log, _TAIL_LINES, start=known.log_start)
    known.trouble = {"since": time.time(), **known.trouble, "lasted": True}
    known.unready = why if alive else ""
    if not alive:
        _remove_pid_file(task, known.pid)
        known.pid = 0  # this death is told, and counted as a failed start


def _remember(task: Task, result: Result) -> None:
    """Append to the history; a history that can't be written undoes nothing."""
    event = {key: value for key, value in result.row().items() if key != "log_tail"}
    with contextlib.suppress(OSError):
        history.record(task.config.state, event, time.time())


def in_order(config: Config, names: Sequence[str]) -> list[str]:
    """`names` with every task behind those of them it depends on. Raises OperatorError."""
    ordered: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join((*above, name))
            raise OperatorError(f"{config.file}: depends: a circle: {circle}", Exit.USAGE)
        for needed in config.tasks[name].depends:
            if needed not in config.tasks:
                where = f"{config.file}: [task.{name}] depends"
                raise OperatorError(f'{where}: there is no task "{needed}"', Exit.USAGE)
            visit(needed, (*above, name))
        if name in names and name not in ordered:
            ordered.append(name)

    for name in names:
        visit(name, ())
    return ordered
