"""Tasks that pm2 or systemd runs: asked after, started and stopped through those programs."""

import json
import os

from upkeep.errors import Exit, OperatorError
from upkeep.settings import TaskSettings

_SECONDS = 120.0  # systemd waits for a unit to stop; pm2 answers within a second


def main_pid(task: TaskSettings) -> int:
    """The PID of the program, 0 when it does not run. Raises OperatorError."""
    if task.manager == "systemd":
        return int(_run(task, "systemctl", "show", "-P", "MainPID", "--", task.unit) or 0)
    try:
        apps = json.loads(_run(task, "pm2", "jlist").splitlines()[-1])
        return int(next((each["pid"] for each in apps if each["name"] == task.app), 0) or 0)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise OperatorError(f"{task.name}: pm2 jlist: not understood: {error!r}") from None


def tell(task: TaskSettings, verb: str) -> None:
    """Have the program started, restarted or stopped (`verb`). Raises OperatorError."""
    if task.manager == "systemd":
        _run(task, "systemctl", verb, "--", task.unit)
    else:
        _run(task, "pm2", "restart" if verb == "start" else verb, task.app)


def _run(task: TaskSettings, *command: str) -> str:
    import subprocess

    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/local/bin", **task.env}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperatorError(f"{task.name}: {command[0]}: {error}", Exit.PROBLEM) from None
    if done.returncode:
        why = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise OperatorError(f"{task.name}: {' '.join(command)}: {why}", Exit.PROBLEM)
    return done.stdout
