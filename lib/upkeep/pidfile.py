"""PID files: what counts as one, whose word is taken, and which process it may name.

It is believed only when nobody but root, this user and the task's user could have written it, and
when the process that it names started before it was written and looks like the task.
"""

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import NoReturn

from upkeep import files, pidfd, proc, rights, text
from upkeep.errors import Exit, OperatorError
from upkeep.settings import TaskSettings

_MOST_BYTES = 64


def process(task: TaskSettings, user: int | None) -> proc.Identity | None:
    """The running process that the PID file names and that is proven to be the task, or None.

    `user` is the uid that it must have, if any. Raises OperatorError (refused).
    """
    path = task.pid_file
    try:
        info, data = path.lstat(), files.read_small(path, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        _refuse(path, "a symbolic link" if error.errno == errno.ELOOP else str(error.strerror))
    if reason := files.writable_by_others(path, user):
        _refuse(path, reason)
    return _judged(task, _parse(data), info, user)


def _judged(
    task: TaskSettings, pid: int | None, info: os.stat_result, user: int | None
) -> proc.Identity | None:
    fresh = info.st_mtime >= time.time() - proc.uptime()
    if pid is None and fresh:
        _refuse(task.pid_file, "not exactly one process number")
    if pid and pidfd.is_hidden(pid):
        _refuse(task.pid_file, f"/proc does not show its pid {pid} to this user")
    found = proc.read_stat(pid) if pid else None
    if found is None or found.dead:
        return None
    before = fresh and time.time() - proc.age_seconds(found) <= info.st_mtime + 1
    expected = user if user is not None else info.st_uid or None
    same_user = expected is None or proc.owner(found.pid) == expected
    ours = same_user and looks_like(found.pid, task.command)
    if before != ours:  # with neither, the number was given to another process since
        why = (
            "started after it was written"
            if ours
            else f"({text.printable(found.name)}) is another program"
        )
        _refuse(task.pid_file, f"its pid {found.pid} {why}")
    return proc.Identity(proc.boot_id(), found.pid, found.start_ticks) if ours else None


def looks_like(pid: int, command: tuple[str, ...]) -> bool:
    """Whether `pid` runs `command`: behind an interpreter, or with a title of its own."""
    shown = [word for word in proc.command_line(pid) if word]
    name = os.path.basename(command[0])
    places = (os.path.join(each, command[0]) for each in rights.PATH.split(":"))
    executed = proc.executable(pid) in map(os.path.realpath, places)  # through links, too
    if len(shown) == 1 and executed:  # "nginx: master ..."
        return os.path.basename(shown[0].split()[0]).rstrip(":") == name
    last = shown[-len(command) :]
    wanted = [word for word in command[1:] if word]
    return bool(last) and os.path.basename(last[0]) == name and last[1:] == wanted


def plain_pid(path: Path) -> int | None:
    """The number in `path`, whoever wrote it: good only to choose among processes of ours."""
    with contextlib.suppress(OSError):
        return _parse(files.read_small(path, _MOST_BYTES))
    return None


def _parse(data: bytes) -> int | None:
    digits = data.strip(b" \t\r\n")
    if not digits.isdigit() or len(data) == _MOST_BYTES:
        return None
    return int(digits) if 2 <= int(digits) <= proc.PID_LIMIT else None


def _refuse(path: Path, reason: str) -> NoReturn:
    raise OperatorError(
        f"{path}: not trusted: {reason}; nobody was signalled, nothing started."
        f" If no copy runs: rm {path}",
        Exit.REFUSED,
    )
