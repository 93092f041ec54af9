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

from upkeep import death, family, files, history, launch, pidfile, proc, ready, units
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.outcome import Result
from upkeep.task import Record, Task, record_path

BY_HAND = "by hand"


def plan(task: Task, old: proc.Identity | None, reason: str) -> list[str]:
    """What `restart` would do; it is prepared and given up. Raises like `restart`."""
    with launch.prepared(task.config, task.settings, ""):
        stale = [f"remove {path}" for path in state_files(task, dry_run=True)]
        start = f"start: {shlex.join(task.settings.command)} ({reason})"
        return [*plan_of_stop(task, old, reason), *stale, start]


def plan_of_stop(task: Task, old: proc.Identity | None, reason: str) -> list[str]:
    """What `stop` would do."""
    if old is None:
        return [f"nothing to stop ({reason})"]
    name = signal.Signals(task.settings.stop_signal).name.removeprefix("SIG")
    grace = units.format_duration(task.settings.stop_timeout)
    others = [str(stat.pid) for stat in task.family().members() if stat.pid != old.pid]
    rest = [f"then TERM and KILL to its family: {' '.join(others)}"] if others else []
    return [f"send {name} to pid {old.pid}, KILL after {grace} ({reason})", *rest]


def restart(task: Task, reason: str, category: str) -> Result:
    """Replace the running copy, or start one; `category` is counted in the record.

    Raises OperatorError and OSError when nothing could be begun; the old copy then runs on.
    """
    old = task.running()
    result = Result(task.name, event="restart" if old else "start", reason=reason)
    nonce = secrets.token_hex(8)
    with (
        launch.prepared(task.config, task.settings, nonce) as waiting,
        contextlib.ExitStack() as leftovers,
    ):
        fresh = _new_record(task, waiting, category)
        places = _stage(leftovers, task, fresh)
        places.append((waiting.status, launch.end_file(task.config, task.name)))
        stopped = _stop_old(task, old, reason, result)
        state_files(task, dry_run=False)
        for temporary, place in places:
            files.publish(temporary, place)
        task.record = fresh
        began = waiting.go()
        if stopped is not None:
            result.facts["downtime_seconds"] = round(max(0.0, began - stopped.ended_at), 4)
        _conclude(task, result, ready.failure(task, waiting))
    _remember(task, result)
    return result


def stop(task: Task, reason: str) -> Result:
    """End the running copy and remember that it is wanted down. Raises OperatorError, OSError."""
    known, old = task.record, task.running()
    result = Result(task.name, "stopped" if old else "not_needed", reason=reason)
    was_down = known.down
    if not was_down or known.due or known.trouble:
        known.down, known.due, known.trouble = True, {}, {}
        task.save()
    _end(task, old, result)
    _remove_pid_file(task)
    if old or not was_down:
        result.facts["event"] = "stop"
        _remember(task, result)
    return result


def state_files(task: Task, dry_run: bool) -> list[str]:
    """Remove the task's stale state files, never through a symlink; their paths."""
    import glob
    import stat

    from upkeep import tree

    removed = []
    limit = time.time() - task.settings.state_files_older_than
    for path in sorted(
        {each for pattern in task.settings.state_files for each in glob.iglob(pattern)}
    ):
        folder, name = os.path.split(path)
        with contextlib.suppress(OSError), tree.opened(folder) as directory:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            link_or_folder = stat.S_ISLNK(info.st_mode) or stat.S_ISDIR(info.st_mode)
            if info.st_mtime <= limit and not link_or_folder:
                if not dry_run:
                    os.unlink(name, dir_fd=directory)
                removed.append(path)
    return removed


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


def _stage(leftovers: contextlib.ExitStack, task: Task, fresh: Record) -> list[tuple[Path, Path]]:
    """Write record and PID file beside their places, so that a full disk shows up here."""
    account, group = launch.user_of(task.settings)
    pid_file = task.settings.pid_file
    files.make_directory(pid_file.parent)
    directory = os.stat(pid_file.parent)
    if reason := pidfile.untrusted(directory, {0, os.geteuid(), account.pw_uid}):
        raise OperatorError(f"{pid_file}: not written: {reason}", Exit.REFUSED)
    record = files.state_text(dataclasses.asdict(fresh))
    place = record_path(task.config, task.name)
    places = [(files.stage(place, record), place)]
    leftovers.callback(files.discard, places[0][0])
    places.append((files.stage(pid_file, b"%d\n" % fresh.pid, 0o644), pid_file))
    leftovers.callback(files.discard, places[1][0])
    if os.geteuid() == 0 and directory.st_uid == account.pw_uid:  # it may rewrite its own
        os.chown(places[1][0], account.pw_uid, group, follow_symlinks=False)
    return places


def _stop_old(
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
        raise


def _end(task: Task, old: proc.Identity | None, result: Result) -> family.Stopped | None:
    """Stop the whole family, also what a dead program left behind."""
    if task.record.boot_id != proc.boot_id():
        return None
    relatives = task.family()
    if old:
        result.facts.update(old_pid=old.pid, rss_before_bytes=_rss(task))
    stopped = relatives.stop(task.settings.stop_signal, task.settings.stop_timeout)
    if old:
        result.facts.update(stop_seconds=round(stopped.seconds, 3), killed=stopped.killed)
    return stopped if old else None


def _rss(task: Task) -> int:
    return family.total_rss(task.family().members())


def _remove_pid_file(task: Task) -> None:
    """Remove the PID file if it still names the copy that has ended."""
    if pidfile.plain_pid(task.settings.pid_file) == (task.record.pid or None):
        files.discard(task.settings.pid_file)


def _conclude(task: Task, result: Result, why: str | None) -> None:
    """Judge the start and bring the record up to date."""
    known, alive = task.record, task.running()
    result.outcome = "restarted" if result.facts["event"] == "restart" else "started"
    result.facts["new_pid"] = known.pid
    if alive:
        known.exe = proc.executable(alive.pid)
        result.facts["rss_after_bytes"] = _rss(task)
    if why is not None:
        result.outcome, result.code = "failed", Exit.PROBLEM
        tail = files.tail(task.settings.log, 10, start=known.log_start)
        detail = why if alive else f"{why}: {death.cause(task)}"
        result.facts.update(detail=detail, log_tail=tail)
        known.unready = why if alive else ""
        known.trouble = {"since": time.time(), **known.trouble, "lasted": True}
    if not alive:
        _remove_pid_file(task)
        known.pid = 0  # this death is told, and counted as a failed start
    with contextlib.suppress(OSError):  # what is on the disk names the right process already
        task.save()
        if alive and pidfile.plain_pid(task.settings.pid_file) != alive.pid:
            files.atomic_write(task.settings.pid_file, b"%d\n" % alive.pid, 0o644)


def _remember(task: Task, result: Result) -> None:
    """Append to the history; a history that can't be written undoes nothing."""
    event = {key: value for key, value in result.row().items() if key != "log_tail"}
    with contextlib.suppress(OSError):
        history.record(task.config.state, event, time.time())


def in_order(config: Config, names: Sequence[str]) -> list[str]:
    """`names` with every task behind those of them it depends on. Raises OperatorError."""
    ordered: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        unknown = [each for each in config.tasks[name].depends if each not in config.tasks]
        if unknown or name in above:
            why = f"there is no task {unknown[0]}" if unknown else f"a circle with {above}"
            raise OperatorError(f"{config.file}: [task.{name}] depends: {why}", Exit.USAGE)
        for needed in config.tasks[name].depends:
            visit(needed, (*above, name))
        if name in names and name not in ordered:
            ordered.append(name)

    for name in names:
        visit(name, ())
    return ordered
