"""How a program is started: its own session, a clean slate, and a recorder of its end as parent.

    upkeep's script --fork--> recorder (sh) --fork--> sh, waits for the command --exec--> program

The recorder is a few hundred KiB of /bin/sh that waits for the program and writes how it ended
into `<state>/tasks/<task>.exit`. Its child tells its PID, then blocks until the command comes
through a pipe: all that can fail is tried, and the PID goes on record, before anything runs and
before an old copy is stopped. When the script is killed meanwhile, the pipe closes and the child
ends without having started anything.
"""

import contextlib
import fcntl
import grp
import os
import pwd
import resource
import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from upkeep import files, proc
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.settings import TaskSettings

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_EXEC_SECONDS = 2.0
_RECORDER_SECONDS = 0.2  # how long after a program's end its recorder may take to write
_UNSTARTED = "unstarted"

# Descriptors: 1 the log, 3 the child's PID, 4 the command, 5 the exit status. The traps are empty
# commands, not ignored signals, so that the child gets the default actions back. Setting the
# session by setsid(1) keeps the PID, because the child is not a group leader.
_RECORDER = """trap : HUP INT TERM
n='
'
(
read -r pid _ </proc/self/stat
echo "$pid" >&3
IFS= read -r line <&4 || { echo "$1 unstarted" >&5; exit; }
exec 2>&1 3>&- 4<&- 5>&-
eval "$line"
)
echo "$1 $?" >&5
"""
_COMPLEX = frozenset(";&|(){}\n")


@dataclass
class Waiting:
    """A process that is set up and waits for its command. Leave the with block to give it up."""

    identity: proc.Identity
    nonce: str
    command: str
    command_fd: int
    pid_fd: int
    status: tuple[Path, Path]

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.pid_fd)
        if self.command_fd >= 0:
            os.close(self.command_fd)
            files.discard(self.status[0])

    def go(self) -> float:
        """Let it run its command; time.monotonic() when it did. Raises OSError."""
        files.publish(*self.status)
        with open(self.command_fd, "wb") as pipe:
            self.command_fd = -1
            pipe.write(os.fsencode(self.command))
        limit = time.monotonic() + _EXEC_SECONDS
        while self._not_yet() and time.monotonic() < limit:
            time.sleep(0.0005)
        return time.monotonic()

    def _not_yet(self) -> bool:
        shown = proc.command_line(self.identity.pid)[:1]
        return shown in (["upkeep-recorder"], ["setsid"]) and self.lives(0)

    def lives(self, seconds: float) -> bool:
        """Whether it still runs after `seconds`; returns at once when it ends."""
        return bool(proc.wait_for_exit([self.pid_fd], seconds))


def user_of(task: TaskSettings) -> pwd.struct_passwd:
    """The account the task runs as. Raises OperatorError."""
    try:
        account = pwd.getpwnam(task.user) if task.user else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise _fault(task, f'user: there is no user "{task.user}"') from None
    if os.geteuid() not in (0, account.pw_uid):
        raise _fault(task, f'user: only root can start it as "{task.user}"')
    return account


def _group_of(task: TaskSettings, account: pwd.struct_passwd) -> int:
    try:
        return grp.getgrnam(task.group).gr_gid if task.group else account.pw_gid
    except KeyError:
        raise _fault(task, f'group: there is no group "{task.group}"') from None


def environment(config: Config, task: TaskSettings) -> dict[str, str]:
    """All that the program gets to see; nothing is inherited. Raises OperatorError."""
    account = user_of(task)
    basic = {
        "PATH": PATH,
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
    }
    return {**basic, **_from_file(config, task), **task.env}


def _from_file(config: Config, task: TaskSettings) -> dict[str, str]:
    if task.env_file is None:
        return {}
    from dotenv import dotenv_values

    try:
        with open(task.env_file, encoding="utf-8") as file:
            values = dotenv_values(stream=file, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise _fault(task, f"env_file: {task.env_file}: {error}") from None
    if task.env_file.resolve() == config.env_file.resolve():
        values.pop("TELEGRAM_BOT_TOKEN", None)  # the token is upkeep's, not the task's
    return {name: value for name, value in values.items() if value is not None}


def check(config: Config, task: TaskSettings) -> None:
    """Find the faults of the configuration that can be seen without forking. OperatorError."""
    _group_of(task, user_of(task))
    try:
        _require_program(task, environment(config, task)["PATH"])
    except OSError as error:
        raise _fault(task, str(error)) from None


def prepare(config: Config, task: TaskSettings, nonce: str) -> Waiting:
    """Fork a process that needs only its command to be the task. Raises OperatorError, OSError."""
    variables = environment(config, task)
    account = user_of(task)
    ids = (account, _group_of(task, account))
    status = record_of_end(config, task.name)
    files.make_directory(task.log.parent)
    temporary = files.stage(status, b"")
    pid_pipe, command_pipe = os.pipe(), os.pipe()
    opened = [os.open(temporary, os.O_WRONLY | os.O_CLOEXEC), _open_log(task.log)]
    child = os.fork()
    if child == 0:
        _become_recorder(task, ids, variables, nonce, (pid_pipe[1], command_pipe[0], *opened))
    for fd in (pid_pipe[1], command_pipe[0], *opened):
        os.close(fd)
    with open(pid_pipe[0], "rb") as pipe:
        answer = pipe.readline().decode("utf-8", "replace").strip()
    identity = proc.identify(int(answer)) if answer.isdigit() else None
    pid_fd = proc.open_process(identity) if identity else None
    if identity is None or pid_fd is None:
        os.close(command_pipe[1])
        files.discard(temporary)
        raise _fault(task, answer or "/bin/sh could not be started")
    line = _command_line(task, f"{task.name}:{nonce}")
    return Waiting(identity, nonce, line, command_pipe[1], pid_fd, (temporary, status))


def _open_log(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    os.set_blocking(fd, True)
    return fd


def _become_recorder(
    task: TaskSettings,
    ids: tuple[pwd.struct_passwd, int],
    variables: Mapping[str, str],
    nonce: str,
    fds: tuple[int, ...],
) -> NoReturn:
    """In the forked child: drop all that was inherited and become /bin/sh, or tell why not."""
    pid_pipe, command_pipe, status, log = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in fds)
    try:
        os.setsid()
        _reset_signals()
        _take_limits(task)
        _become_user(ids)
        os.chdir(task.cwd)
        _require_program(task, variables.get("PATH", PATH))
        null = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD, 10)
        for source, fd in enumerate((null, log, null, pid_pipe, command_pipe, status)):
            os.dup2(fd, source)
        os.closerange(6, pid_pipe)
        os.closerange(pid_pipe, os.sysconf("SC_OPEN_MAX"))
        argv = ["upkeep-recorder", "-c", _RECORDER, "upkeep-recorder", nonce]
        os.execve("/bin/sh", argv, variables)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(pid_pipe, f"{error}\n".encode("utf-8", "replace"))
    os._exit(127)


def _reset_signals() -> None:
    """Default actions and an empty mask: nohup, `&` and Python itself leave signals ignored."""
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _take_limits(task: TaskSettings) -> None:
    os.umask(task.umask)
    if task.nice:
        os.setpriority(os.PRIO_PROCESS, 0, task.nice)
    for name, value in task.limits.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
        except (OSError, ValueError) as error:
            raise OSError(f"limits: {name} = {value}: {error}") from None


def _become_user(ids: tuple[pwd.struct_passwd, int]) -> None:
    account, group = ids
    if os.geteuid() == 0:
        os.initgroups(account.pw_name, group)
        os.setgid(group)
        os.setuid(account.pw_uid)


def _require_program(task: TaskSettings, path: str) -> None:
    name = "/bin/sh" if task.shell else task.command[0]
    places = [name] if "/" in name else [os.path.join(each, name) for each in path.split(":")]
    if not any(os.path.isfile(each) and os.access(each, os.X_OK) for each in places):
        found = next((each for each in places if os.path.exists(each)), None)
        why = f"{found} is not executable" if found else f'"{name}" is not there'
        raise OSError(f"command: {why} (as {task.user or 'this user'}, in {task.cwd}, PATH={path})")


def _command_line(task: TaskSettings, tag: str) -> str:
    """The line the waiting shell runs: tag it, then become the program in a session of its own."""
    words = list(task.command)
    if task.shell:
        simple = not _COMPLEX & set(task.command.text) and "=" not in words[0]
        words = ["/bin/sh", "-c", ("exec " if simple else "") + task.command.text]
    unset = "" if "PWD" in task.env else "unset PWD; "
    quoted = (shlex.quote(word).replace("\n", "'\"$n\"'") for word in words)
    return f"{unset}export UPKEEP_TASK={shlex.quote(tag)}; exec setsid {' '.join(quoted)}\n"


def record_of_end(config: Config, name: str) -> Path:
    """The file into which the recorder of the task writes how it ended, when it did (mtime)."""
    return config.state / "tasks" / f"{name}.exit"


def exit_status(config: Config, name: str, nonce: str) -> int | str | None:
    """How the start `nonce` ended: a status (128 + n for signal n), "unstarted", None if unknown.

    Only the file of that very start counts: every start makes a new one.
    """
    limit = time.monotonic() + _RECORDER_SECONDS
    with contextlib.suppress(OSError, ValueError):
        while not (text := files.read_small(record_of_end(config, name), 256)):
            if time.monotonic() > limit:  # the recorder was killed before the program
                return None
            time.sleep(0.001)
        whose, status = text.decode("ascii").split("\n")[0].split(" ")
        if nonce and whose == nonce:
            return status if status == _UNSTARTED else int(status)
    return None


def _fault(task: TaskSettings, reason: str) -> OperatorError:
    return OperatorError(f"{task.name}: cannot be started: {reason}", Exit.USAGE)
