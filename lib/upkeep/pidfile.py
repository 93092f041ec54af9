"""PID files: what counts as one, whose word is taken, and which process it may name.

A PID file is a hint written by somebody at some time. It is believed only when nobody but root,
this user and the task's user could have written it, and when the process it names started before
it was written and looks like the task.
"""

import errno
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

from upkeep import proc
from upkeep.errors import Exit, OperatorError
from upkeep.settings import TaskSettings

_MOST_BYTES = 64


class Claim(NamedTuple):
    """What a PID file says: a PID (None: something else), by whom, and when (Unix seconds)."""

    pid: int | None
    owner: int
    written_at: float


def process(task: TaskSettings, user: int | None) -> proc.Identity | None:
    """The running process that the task's PID file names and that is proven to be the task.

    None when there is no file or it is left over from a process that ended or from before the
    boot. `user` is the uid that the task must run as, if any. Raises OperatorError (refused).
    """
    claim = read(task.pid_file, {0, os.geteuid(), *(() if user is None else (user,))})
    if claim is None:
        return None
    fresh = claim.written_at >= time.time() - proc.uptime()
    if claim.pid is None:
        if fresh:
            _refuse(task.pid_file, "it does not hold exactly one process number")
        return None
    found = proc.read_stat(claim.pid)
    if found is None and proc.is_hidden(claim.pid):
        _refuse(task.pid_file, f"pid {claim.pid} exists, but /proc does not show it to this user")
    if found is None or found.dead:
        return None
    return _judged(task, claim, found, user, fresh)


def _judged(
    task: TaskSettings, claim: Claim, found: proc.Stat, user: int | None, fresh: bool
) -> proc.Identity | None:
    identity = proc.Identity(proc.boot_id(), found.pid, found.start_ticks)
    started_before = time.time() - proc.age_seconds(found) <= claim.written_at + 1
    expected = user if user is not None else claim.owner or None
    stranger = expected is not None and proc.owner(found.pid) != expected
    if looks_like(found.pid, task.command) and not stranger:
        if started_before and fresh:
            return identity
        _refuse(task.pid_file, f"pid {found.pid} looks like it, but started after it was written")
    if started_before and fresh:
        _refuse(task.pid_file, f"pid {found.pid} ({found.name}) is not the task's program")
    return None  # the number was given to another process since


def looks_like(pid: int, command: tuple[str, ...]) -> bool:
    """Whether `pid` runs `command`, an interpreter put in front or its title rewritten."""
    shown = proc.command_line(pid)
    if not shown:
        return False
    name = os.path.basename(command[0])
    own_title = shown[0].strip() and len([word for word in shown if word]) == 1
    if own_title and os.path.basename(proc.executable(pid)) == name:
        return os.path.basename(shown[0].split()[0]).rstrip(":") == name
    last = shown[-len(command) :]
    return os.path.basename(last[0]) == name and last[1:] == list(command[1:])


def plain_pid(path: Path) -> int | None:
    """The number in `path`, whoever wrote it: good only to choose among processes of ours."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return _parse(file.read(_MOST_BYTES))
    except OSError:
        return None


def read(path: Path, trusted: set[int]) -> Claim | None:
    """The claim of the PID file at `path`; None when there is none. Raises OperatorError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        link = error.errno == errno.ELOOP
        _refuse(path, "it is a symbolic link" if link else f"{error.strerror}")
    with open(fd, "rb", buffering=0) as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            _refuse(path, "it is not a regular file")
        for place, about in ((path, info), (path.parent, os.stat(path.parent))):
            if (reason := untrusted(about, trusted)) is not None:
                _refuse(path, f"{place} {reason}")
        return Claim(_parse(file.read(_MOST_BYTES)), info.st_uid, info.st_mtime)


def untrusted(info: os.stat_result, trusted: set[int]) -> str | None:
    """Why somebody outside `trusted` (uids) could have written there; None when nobody could."""
    sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX
    if info.st_uid not in trusted:
        return f"belongs to user {info.st_uid}"
    if info.st_mode & stat.S_IWOTH and not sticky:
        return "is writable by everybody"
    if info.st_mode & stat.S_IWGRP and info.st_gid not in (0, os.getegid()) and not sticky:
        return f"is writable by group {info.st_gid}"
    return None


def _parse(data: bytes) -> int | None:
    text = data.strip(b" \t\r\n")
    if not text.isdigit() or len(data) == _MOST_BYTES:
        return None
    return int(text) if 2 <= int(text) <= proc.pid_max() else None


def _refuse(path: Path, reason: str) -> NoReturn:
    raise OperatorError(
        f"{path}: not taken as a PID file: {reason}; nobody was signalled and nothing started."
        f" If no copy runs: rm {path}",
        Exit.REFUSED,
    )
