"""With which rights and in which environment a task runs: nothing is inherited from the caller."""

import contextlib
import grp
import os
import pwd
import resource
from collections.abc import Iterator
from pathlib import Path

from upkeep import files
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.settings import TaskSettings

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def user_of(task: TaskSettings) -> tuple[pwd.struct_passwd, int]:
    """The account and the group id that the task runs as. Raises OperatorError."""
    try:
        account = pwd.getpwnam(task.user) if task.user else pwd.getpwuid(os.geteuid())
        group = grp.getgrnam(task.group).gr_gid if task.group else account.pw_gid
    except KeyError:
        raise fault(task, f'no such user or group: "{task.user}" "{task.group}"') from None
    if os.geteuid() not in (0, account.pw_uid):
        raise fault(task, f'only root can start it as "{task.user}"')
    return account, group


def environment(config: Config, task: TaskSettings) -> dict[str, str]:
    """All that the program gets to see; nothing is inherited. Raises OperatorError."""
    name, _, _, _, _, home, shell = user_of(task)[0]
    basic = {"PATH": PATH, "HOME": home, "USER": name, "LOGNAME": name, "SHELL": shell or "/bin/sh"}
    values: dict[str, str | None] = {**basic, "LANG": os.environ.get("LANG", "C.UTF-8")}
    if task.env_file is not None:
        from dotenv import dotenv_values

        try:
            with lent_for(task, task.env_file), open(task.env_file, encoding="utf-8") as file:
                values |= dotenv_values(stream=file, interpolate=False)
        except (OSError, UnicodeDecodeError) as error:
            raise fault(task, f"env_file {task.env_file}: {error}") from None
        if task.env_file.resolve() == config.env_file.resolve():
            values.pop("TELEGRAM_BOT_TOKEN", None)  # the token is upkeep's, not the task's
    for odd in (name for name in values if not (name.isascii() and name.isidentifier())):
        raise fault(task, f"env_file: no shell passes on a variable of this name: {odd!r}")
    return {name: value for name, value in {**values, **task.env}.items() if value is not None}


def take(task: TaskSettings) -> None:
    """Have the task's mask, priority, limits and account, for good. Raises OSError."""
    account, group = user_of(task)
    os.umask(task.umask)
    os.setpriority(os.PRIO_PROCESS, 0, task.nice or os.getpriority(os.PRIO_PROCESS, 0))
    for name, value in task.limits.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
        except (OSError, ValueError) as error:
            raise OSError(f"limits: {name} = {value}: {error}") from None
    if not in_scope(task):
        become(account, group)


def become(account: pwd.struct_passwd, group: int) -> None:
    """Have the rights of `account`, for good; without root's, they are had already."""
    if os.geteuid() == 0:
        os.initgroups(account.pw_name, group)
        os.setgid(group)
        os.setuid(account.pw_uid)


@contextlib.contextmanager
def lent_for(task: TaskSettings, path: Path) -> Iterator[None]:
    """Where somebody else could have laid `path`, look at it only with the task's own rights."""
    (account, group), groups, own = user_of(task), os.getgroups(), os.getegid()
    way = [each for each in path.parents if os.path.isdir(each)] + [path] * path.is_symlink()
    laid = {each.lstat().st_uid for each in way} != {0}
    limited = os.geteuid() == 0 and (laid or files.writable_by_others(path.resolve().parent))
    try:
        if limited:
            os.initgroups(account.pw_name, group)
            os.setegid(group)
            os.seteuid(account.pw_uid)
        yield
    finally:
        if limited:
            os.seteuid(0)
            os.setegid(own)
            os.setgroups(groups)


def in_scope(task: TaskSettings) -> bool:
    """Whether it gets a control group of its own: asked for, and systemd runs this host."""
    return task.scope and os.path.isdir("/run/systemd/system")


def fault(task: TaskSettings, reason: str) -> OperatorError:
    """Why the configuration keeps the task from being started."""
    return OperatorError(f"{task.name}: cannot be started: {reason}", Exit.USAGE)
