"""How a program is started: its own session, a clean slate, and a recorder of its end as parent.

    upkeep's script --fork--> recorder (sh) --fork--> sh, waits for the command --exec--> program

The waiting shell tells its PID and blocks until the command comes through a pipe: all that can
fail is tried, and the PID goes on record, before anything runs and before an old copy is stopped.
When the script is killed meanwhile, the pipe closes and the shell ends without starting anything.
"""

import contextlib
import fcntl
import os
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from upkeep import files, pidfd, proc, rights
from upkeep.config import Config
from upkeep.settings import TaskSettings

UNSTARTED = "unstarted"
_EXEC_SECONDS = 2.0
_TOOLS = Path("/usr/bin")  # the task's PATH need not lead there
_BEFORE = (["upkeep-recorder"], [f"{_TOOLS}/setsid"], [f"{_TOOLS}/systemd-run"])  # until then
_RECORDER_SECONDS = 0.2  # how long after a program's end its recorder may take to write

# Descriptors: 1 the log, 3 the PID, 4 the command, 5 the exit status. The traps are empty commands,
# not ignored signals, so that the child gets the default actions back. Its variables have names
# that no task uses.
_RECORDER = """trap : HUP INT TERM
upkeep_newline='
'
(
read -r upkeep_pid upkeep_line </proc/self/stat
echo "$upkeep_pid" >&3
IFS= read -r upkeep_line <&4 || { echo "$1 unstarted" >&5; exit; }
exec 2>&1 3>&- 4<&- 5>&-
eval "$upkeep_line"
)
echo "$1 $?" >&5
"""


@dataclass
class Waiting:
    """A process that is set up and waits for its command. Its end will be written to `status`."""

    identity: proc.Identity
    status: Path
    pid_fd: int
    command_fd: int
    command: str

    def go(self) -> float:
        """Let it run its command; time.monotonic() when it did."""
        with open(self.command_fd, "wb", closefd=False) as pipe:
            pipe.write(os.fsencode(self.command))
        limit = time.monotonic() + _EXEC_SECONDS
        while proc.command_line(self.identity.pid)[:1] in _BEFORE and time.monotonic() < limit:
            self.lives(0.0005)
        return time.monotonic()

    def lives(self, seconds: float) -> bool:
        """Whether it still runs after `seconds`; returns at once when it ends."""
        return bool(pidfd.wait_for_exit([self.pid_fd], seconds))


Prepared = tuple[Waiting, contextlib.ExitStack]


@contextlib.contextmanager
def prepared(config: Config, task: TaskSettings, nonce: str) -> Iterator[Prepared]:
    """A process that needs only its command to be the task, and the stack of what else is undone
    at the end of the block; unused, it ends there. Without a `nonce` it is a mere try, which
    writes nothing anywhere. Raises OperatorError and OSError."""
    variables = rights.environment(config, task)
    status = config.state / "tasks" / f"{task.name}.next"
    with contextlib.ExitStack() as stack:
        if nonce:
            stack.callback(files.discard, status)
            log, end = _open_log(task), _open_status(status)
        else:
            log, end = os.memfd_create("log"), os.memfd_create("status")
        (told, pid_pipe), (command_pipe, command) = os.pipe(), os.pipe()
        stack.callback(os.close, command)
        if os.fork() == 0:
            _become_recorder(task, variables, nonce, [log, pid_pipe, command_pipe, end])
        for fd in (log, pid_pipe, command_pipe, end):
            os.close(fd)
        identity, pid_fd = _introduced(task, told)
        stack.callback(os.close, pid_fd)
        line = _command(task, f"{task.name}:{nonce}")
        yield Waiting(identity, status, pid_fd, command, line), stack


def _open_log(task: TaskSettings) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with rights.lent_for(task, task.log):
        files.make_directory(task.log.parent)
        return os.open(task.log, flags, 0o600)


def _open_status(path: Path) -> int:
    """A new file, so large that a full disk can't keep the status out later."""
    files.make_directory(path.parent)
    files.discard(path)
    end = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.pwrite(end, b" " * 64, 0)
    return end


def _introduced(task: TaskSettings, told: int) -> tuple[proc.Identity, int]:
    """The waiting process, by the PID or the complaint that comes through `told`; its pidfd."""
    with open(told, "rb") as pipe:
        answer = pipe.readline().decode("utf-8", "replace").strip()
    identity = proc.identify(int(answer)) if answer.isdigit() else None
    pid_fd = pidfd.open_process(identity) if identity else None
    if identity is None or pid_fd is None:
        raise rights.fault(task, answer or "/bin/sh did not run")
    return identity, pid_fd


def _become_recorder(
    task: TaskSettings, variables: dict[str, str], nonce: str, fds: list[int]
) -> NoReturn:
    """In the forked child: drop all that was inherited and become /bin/sh, or tell why not."""
    report = fds[1]
    try:
        log, *others = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in fds)
        report = others[0]
        os.setsid()
        os.set_blocking(log, True)
        for number in signal.valid_signals():  # nohup, `&` and Python itself leave some ignored
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        rights.take(task)
        os.chdir(task.cwd)
        _require_program(task, variables.get("PATH", rights.PATH))
        null = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD, 10)
        for wanted, fd in enumerate((null, log, null, *others)):
            os.dup2(fd, wanted)
        os.closerange(6, os.sysconf("SC_OPEN_MAX"))
        os.execve("/bin/sh", ["upkeep-recorder", "-c", _RECORDER, "sh", nonce], variables)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(report, f"{error}\n".encode("utf-8", "replace"))
    os._exit(127)


def _require_program(task: TaskSettings, path: str) -> None:
    name = "/bin/sh" if task.shell else task.command[0]
    places = [name] if "/" in name else [os.path.join(each, name) for each in path.split(":")]
    if not any(os.path.isfile(each) and os.access(each, os.X_OK) for each in places):
        why = "is not executable" if any(map(os.path.exists, places)) else "is not there"
        raise OSError(f"{name} {why} (for user {os.geteuid()}, in {task.cwd}, PATH={path})")


def _command(task: TaskSettings, tag: str) -> str:
    """The line for the waiting shell: tag it, then become the program, leader of a session.

    setsid(1) keeps the PID, because the shell's child leads no group.
    """
    words = list(task.command)
    if task.shell:  # exec keeps the PID; it can't stand before more than a simple command
        plain = "=" not in words[0] and words[0] not in ("exec", "eval", ".")
        simple = plain and not set(";&|(){}\n") & set(task.command.text)
        words = ["/bin/sh", "-c", "exec " * simple + task.command.text]
    if rights.in_scope(task):  # systemd-run needs root, its program does not; the PID stays
        account, group = rights.user_of(task)
        ids = [f"--reuid={account.pw_uid}", f"--regid={group}", "--init-groups", "--"]
        user = [f"{_TOOLS}/setpriv", *ids] if os.geteuid() == 0 else []
        words = [f"{_TOOLS}/systemd-run", "--scope", "--quiet", "--collect", "--", *user, *words]
    quoted = (shlex.quote(word).replace("\n", "'\"$upkeep_newline\"'") for word in words)
    unset = "" if "PWD" in task.env else "unset PWD; "
    return (
        f"{unset}export UPKEEP_TASK={shlex.quote(tag)}; exec {_TOOLS}/setsid {' '.join(quoted)}\n"
    )


def how_it_ended(path: Path, nonce: str) -> tuple[int | str | None, float]:
    """The status of the ended start `nonce` (128 + n for signal n, UNSTARTED, None if unknown),
    and when its recorder wrote it to `path` (Unix seconds). Every start has a new file."""
    limit = time.monotonic() + _RECORDER_SECONDS
    with contextlib.suppress(OSError, ValueError):
        while not (text := files.read_small(path, 256).strip()) and time.monotonic() < limit:
            time.sleep(0.001)
        whose, status = text.decode("ascii").split("\n")[0].split(" ")
        if nonce and whose == nonce:
            return status if status == UNSTARTED else int(status), path.stat().st_mtime
    return None, time.time()
