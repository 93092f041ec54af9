"""Stop, start and restart of one task, whose lock the caller holds.

The order of a restart: everything that can fail is tried and the new record is written beside the
old one; only then the old copy is stopped. A restart that is killed at any point leaves either
the old copy, or a record from which the next tick of the watchdog finishes the job.
"""

import contextlib
import dataclasses
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from upkeep import death, family, files, history, launch, pidfile, proc, ready, statefiles
from upkeep.errors import Exit, OperatorError
from upkeep.task import Record, Task, record_path

_TAIL_LINES = 10


@dataclass
class Result:
    """What happened to one task; the fields but `code` are the row of --json and of history."""

    task: str
    outcome: str = ""
    code: int = Exit.DONE
    event: str | None = None
    reason: str | None = None
    old_pid: int | None = None
    new_pid: int | None = None
    stop_seconds: float | None = None
    downtime_seconds: float | None = None
    rss_before_bytes: int | None = None
    rss_after_bytes: int | None = None
    killed: bool | None = None
    detail: str | None = None
    log_tail: list[str] | None = None

    def row(self) -> dict[str, object]:
        """The known fields as JSON wants them."""
        pairs = dataclasses.asdict(self).items()
        return {key: value for key, value in pairs if value is not None and key != "code"}


def attempt(name: str, action: Callable[[], Result]) -> Result:
    """Do `action`; what an operator can mend becomes a result of its own, with its exit code."""
    outcomes = {
        Exit.REFUSED: "refused",
        Exit.BUSY: "busy",
        Exit.CANNOT_STOP: "cannot_stop",
    }
    try:
        return action()
    except OperatorError as error:
        return Result(name, outcomes.get(error.code, "failed"), error.code, detail=str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        detail = f"{where}{error.strerror or error}; nothing was stopped or started"
        return Result(name, "failed", Exit.PROBLEM, detail=detail)


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
        why = ready.failure(task, waiting)
        _conclude(task, waiting, result, why)
    _remember(task, result)
    return result


def stop(task: Task, reason: str) -> Result:
    """End the running copy and remember that it is wanted down. Raises OperatorError, OSError."""
    known = task.record
    old = task.running()
    result = Result(task.name, "stopped" if old else "not_needed", reason=reason)
    before = (known.down, known.due, known.trouble)
    known.down, known.due, known.trouble = True, {}, {}
    if before != (True, {}, {}):
        task.save()
    _end(task, old, result)
    _remove_pid_file(task, known.pid)
    if old or not before[0]:
        result.event = "stop"
        _remember(task, result)
    return result


def _new_record(task: Task, waiting: launch.Waiting, category: str) -> Record:
    """The record of the copy that is about to start; troubles and counts are carried on."""
    known, settings = task.record, task.settings
    boot, pid, ticks = waiting.identity
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
        trouble=known.trouble,
        counts={**known.counts, category: known.counts.get(category, 0) + 1},
    )


def _stage(cleanup: contextlib.ExitStack, task: Task, fresh: Record) -> list[tuple[Path, Path]]:
    """Write record and PID file beside their places, so that a full disk shows up here."""
    owner = launch.user_of(task.settings)
    pid_file = task.settings.pid_file
    files.make_directory(pid_file.parent)
    reason = pidfile.untrusted(os.stat(pid_file.parent), {0, os.geteuid(), owner.pw_uid})
    if reason:
        raise OperatorError(f"{pid_file}: not written: {pid_file.parent} {reason}", Exit.REFUSED)
    record = record_path(task.config, task.name)
    contents = (
        (record, files.state_text(dataclasses.asdict(fresh)), 0o600),
        (pid_file, b"%d\n" % fresh.pid, 0o644),
    )
    places = []
    for place, data, mode in contents:
        temporary = files.stage(place, data, mode)
        cleanup.callback(files.discard, temporary)
        places.append((temporary, place))
    if os.geteuid() == 0 and os.stat(pid_file.parent).st_uid == owner.pw_uid:
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


def _conclude(task: Task, waiting: launch.Waiting, result: Result, why: str | None) -> None:
    """Judge the start and bring the record up to date."""
    known = task.record
    alive = task.running()
    if alive:
        result.new_pid = alive.pid
        known.exe = proc.executable(alive.pid)
        if pidfile.plain_pid(task.settings.pid_file) != alive.pid:
            files.atomic_write(task.settings.pid_file, b"%d\n" % alive.pid, 0o644)
        result.rss_after_bytes = family.total_rss(task.family().members())
    if why is None:
        result.outcome = "restarted" if result.event == "restart" else "started"
    else:
        result.outcome, result.code = "failed", Exit.PROBLEM
        ended = "" if alive else f": {death.cause(task)}"
        result.detail = why + ended
        result.log_tail = files.tail(task.settings.log, _TAIL_LINES, start=known.log_start)
        known.unready = why if alive else ""
        known.trouble = {"since": time.time(), **known.trouble, "lasted": True}
        if not alive:
            known.pid = 0  # this death is told and counted with the failed start
            _remove_pid_file(task, waiting.identity.pid)
    with contextlib.suppress(OSError):  # the record on the disk names the right process already
        task.save()


def _remember(task: Task, result: Result) -> None:
    """Append to the history; a history that can't be written undoes nothing."""
    event = {key: value for key, value in result.row().items() if key != "log_tail"}
    with contextlib.suppress(OSError):
        history.record(task.config.state, event, time.time())
