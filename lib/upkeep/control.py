"""Stop, start and restart of one task, whose lock the caller holds.

The order of a restart: everything that can fail is tried and the new record is written beside the
old one; only then the old copy is stopped. A restart that is killed at any point leaves either
the old copy, or a record from which the next tick of the watchdog finishes the job.
"""

import contextlib
import graphlib
import os
import shlex
import signal
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from upkeep import death, files, history, launch, manager, pidfile, proc, ready, rights, text, units
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.family import Processes
from upkeep.outcome import Result
from upkeep.record import Record, described
from upkeep.task import Task

BY_HAND = "by hand"
_MANAGER_SECONDS = 5.0


def plan(task: Task, old: proc.Identity | None, reason: str) -> list[str]:
    """What `restart` would do; it is prepared and given up. Raises like `restart`."""
    if task.settings.manager != "upkeep":
        return [f"have {task.settings.manager} restart it ({reason})"]
    with launch.prepared(task.config, task.settings, ""):
        stale = [f"remove {path}" for path in state_files(task, dry_run=True)]
        start = f"start: {shlex.join(task.settings.command)} ({reason})"
        return [*_plan_of_stop(task, old), *stale, start]


def _plan_of_stop(task: Task, old: proc.Identity | None) -> list[str]:
    if old is None:
        return ["nothing to stop"]
    name = signal.Signals(task.settings.stop_signal).name.removeprefix("SIG")
    grace = units.format_duration(task.settings.stop_timeout)
    rest = [f"send TERM, KILL to pid {each.pid} if left" for each in task.family().members()[1:]]
    return [f"send {name} to pid {old.pid}, KILL after {grace}", *rest]


def restart(task: Task, reason: str, category: str) -> Result:
    """Replace the running copy, or start one; `category` is counted in the record.

    Raises OperatorError and OSError when nothing could be begun: the old copy then runs on.
    """
    old, known, nonce = task.running(), task.record, os.urandom(8).hex()
    event = "restart" if old else "death" if category == "death" and known.pid else "start"
    result = Result(task.name, "restarted" if old else "started", event=event, reason=reason)
    result.facts["old_pid"] = known.pid or None
    if task.settings.manager != "upkeep":
        return _by_manager(task, old, result, category)
    with launch.prepared(task.config, task.settings, nonce) as (waiting, stack):
        fresh = _new_record(task, waiting, nonce, category)
        places = [(waiting.status, task.end_file), *_stage(stack, task, fresh)]
        if old:  # for the case that we are killed meanwhile
            known.stopping = reason
            task.save()
        ended_at = _end(task, old, result)
        state_files(task, dry_run=False)
        for temporary, place in places:  # made durable below: a power cut voids all PIDs anyway
            os.rename(temporary, place)
        task.record = fresh
        ready.forget_the_past(task)
        began = waiting.go()
        if ended_at is not None:
            result.facts["downtime_seconds"] = round(max(0.0, began - ended_at), 4)
        _conclude(task, result, ready.failure(task, waiting))
    remember(task, result)
    return result


def _by_manager(task: Task, old: proc.Identity | None, result: Result, category: str) -> Result:
    """Have pm2 or systemd restart or start the task, and see that it lives."""
    known, verify = task.record, task.settings.verify
    known.counts[category] = known.counts.get(category, 0) + 1
    known.trouble = {} if category == BY_HAND else known.trouble
    result.facts["rss_before_bytes"] = task.family().rss() or None
    manager.tell(task.settings, "restart" if old else "start")
    began = time.monotonic()
    while (spent := time.monotonic() - began) < verify or task.running() is None:
        if spent > verify + _MANAGER_SECONDS:
            break
        time.sleep(0.1)
    known.started, known.down, known.due, known.over = history.stamp(time.time()), False, {}, {}
    _conclude(task, result, None)
    remember(task, result)
    return result


def stop(task: Task, dry_run: bool) -> Result:
    """End the running copy and remember that it is wanted down. Raises OperatorError, OSError."""
    known, old = task.record, task.running()
    if dry_run:
        return Result(task.name, "planned", plan=_plan_of_stop(task, old))
    result = Result(task.name, "stopped" if old else "not_needed", reason=BY_HAND)
    was_down = known.down
    if old or not was_down or known.due or known.trouble:
        known.down, known.due, known.trouble, known.stopping = True, {}, {}, BY_HAND
        task.save()
    if task.settings.manager != "upkeep":
        manager.tell(task.settings, "stop")
    _end(task, old, result)
    if pidfile.plain_pid(task.settings.pid_file) == (known.pid or None):
        files.discard(task.settings.pid_file)
    if known.stopping:  # until here, the next tick of the watchdog finishes an interrupted stop
        known.stopping = ""
        task.note_trouble()
    if old or not was_down:
        result.facts["event"] = "stop"
        remember(task, result)
    return result


def state_files(task: Task, dry_run: bool) -> list[str]:
    """Remove the task's stale state files, never through a symlink; their paths."""
    if not task.settings.state_files:
        return []
    import glob

    limit = time.time() - task.settings.state_files_older_than
    paths = (path for pattern in task.settings.state_files for path in glob.glob(pattern))
    return [path for path in paths if _goes(path, limit, dry_run)]


def _goes(path: str, limit: float, dry_run: bool) -> bool:
    """Remove a file that was written before `limit`; whether it is, or would be, gone."""
    from upkeep import tree

    folder, name = os.path.split(path)
    with contextlib.suppress(OSError), tree.opened(folder) as directory:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if info.st_mtime > limit or stat.S_ISDIR(info.st_mode):
            return False
        if not dry_run:
            os.unlink(name, dir_fd=directory)
        return True
    return False


def _new_record(task: Task, waiting: launch.Waiting, nonce: str, category: str) -> Record:
    """The record of the copy that is about to start; counts and an outage are carried on."""
    known, (command, place) = task.record, described(task.settings)
    trouble = {key: value for key, value in known.trouble.items() if key != "given_up"}
    return Record(
        *waiting.identity,
        session=waiting.identity.pid,
        nonce=nonce,
        tag=f"{task.name}:{nonce}",
        command=command,
        place=place,
        started=history.stamp(time.time()),
        oom_kills=death.oom_kills(),
        trouble={} if category == BY_HAND else trouble,
        counts={**known.counts, category: known.counts.get(category, 0) + 1},
    )


def _stage(stack: contextlib.ExitStack, task: Task, fresh: Record) -> list[tuple[Path, Path]]:
    """Write record and PID file beside their places, so that a full disk shows up here."""
    (account, group), pid_file = rights.user_of(task.settings), task.settings.pid_file
    files.make_directory(pid_file.parent)
    if reason := files.writable_by_others(pid_file.parent, account.pw_uid):
        raise OperatorError(f"{pid_file}: not written: {reason}", Exit.REFUSED)
    record = files.stage(task.record_file, files.state_text(vars(fresh)))
    stack.callback(files.discard, record)
    number = files.stage(pid_file, b"%d\n" % fresh.pid, 0o644)
    stack.callback(files.discard, number)
    if pid_file.parent.stat().st_uid not in (0, os.geteuid()):  # the program may rewrite its own
        os.chown(number, account.pw_uid, group, follow_symlinks=False)
    return [(record, task.record_file), (number, pid_file)]


def _end(task: Task, old: proc.Identity | None, result: Result) -> float | None:
    """Stop the family, also what a dead program left behind; when that ended (monotonic)."""
    if task.record.boot_id != proc.boot_id():
        return None
    family, before = task.family(), Processes()
    if old:
        result.facts.update(old_pid=old.pid, rss_before_bytes=family.rss(before))
    began = time.monotonic()
    at, killed = family.stop(task.settings.stop_signal, task.settings.stop_timeout, before)
    if old:
        result.facts.update(stop_seconds=round(at - began, 3), killed=killed)
        return at
    status, ended = task.how_it_ended()
    return None if status is None else time.monotonic() - max(0.0, time.time() - ended)


def _conclude(task: Task, result: Result, why: str | None) -> None:
    """Judge the start and bring the record up to date."""
    known, alive, pid_file = task.record, task.running(), task.settings.pid_file
    result.facts.update(new_pid=known.pid, rss_after_bytes=task.family().rss())
    if why or not alive:
        result.outcome, result.code = "failed", Exit.PROBLEM
        known.unready = (why or "") if alive else ""
        cause = known.unready or f"{why or 'it ended'}: {death.cause(task)}"
        result.facts["detail"] = cause + log_tail(task)
        known.trouble["lasted"] = True
        result.tell()
    with contextlib.suppress(OSError):  # what is on the disk names the right process already
        if alive:
            known.exe = proc.executable(alive.pid)
        else:
            known.pid = 0  # this death is told, and counted as a failed start
            files.discard(pid_file)
        task.save()
        if alive:
            keep_pid_file(task, alive.pid)


def keep_pid_file(task: Task, pid: int) -> None:
    """Have the PID file name the program, whatever became of it. Raises OSError."""
    if pidfile.plain_pid(task.settings.pid_file) != pid:
        files.atomic_write(task.settings.pid_file, b"%d\n" % pid, 0o644)


def log_tail(task: Task) -> str:
    """The last lines of its log, to stand behind a cause; "" without any."""
    lines = files.tail(task.settings.log, 10, start=task.record.log_start)
    return "\n".join(["; its last lines:", *map(text.printable, lines)]) if lines else ""


def remember(task: Task, result: Result) -> None:
    """Append to the history; a history that can't be written undoes nothing."""
    with contextlib.suppress(OSError):
        history.record(task.config.state, result.row(), time.time())


def in_order(config: Config, names: Sequence[str]) -> list[str]:
    """`names` with every task behind those of them it depends on. Raises OperatorError."""
    wanted = {name: set(config.tasks[name].depends) & set(names) for name in names}
    try:
        return list(graphlib.TopologicalSorter(wanted).static_order())
    except graphlib.CycleError as error:
        why = f"{config.file}: depends: a circle: {' -> '.join(error.args[1])}"
        raise OperatorError(why, Exit.USAGE) from None
