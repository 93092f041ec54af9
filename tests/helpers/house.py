"""One installation with tasks in a private directory, and its scripts at hand."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers import HELPERS, is_running, run_script, wait_until

Row = dict[str, Any]


def worker(*options: str) -> list[str]:
    """The command of a worker."""
    return [sys.executable, "-S", "-u", str(HELPERS / "worker.py"), *options]


class House:
    """Tasks are added, scripts are run, and what they left behind is read."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.state = place / "var"
        self.config = place / "upkeep.toml"
        self.tasks: dict[str, str] = {}
        self.configure()

    def task(self, name: str, command: list[str] | str | None = None, **keys: object) -> None:
        """Add or replace a task; keys are TOML values as Python has them."""
        basic = {"verify": 0.05, "stop_timeout": 5, "env": {"PLACE": self.place}}
        keys = {"command": command or worker(), **basic, **keys}
        lines = [f"{key} = {toml(value)}" for key, value in keys.items()]
        self.tasks[name] = "\n".join([f'[task."{name}"]', *lines])
        self.configure()

    def remove(self, name: str) -> None:
        del self.tasks[name]
        self.configure()

    def configure(self) -> None:
        self.config.write_text("\n".join(self.tasks.values()) + "\n")

    def run(self, script: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        environment = {"UPKEEP_CONFIG": str(self.config), **options.pop("env", {})}
        return run_script(script, *args, env=environment, **options)

    def rows(self, script: str, *args: str, code: int | None = None) -> list[Row]:
        """Run a script with --json; its rows."""
        result = self.run(script, *args, "--json")
        assert result.stdout, result.stderr
        assert code is None or result.returncode == code, result.stdout + result.stderr
        assert "Traceback" not in result.stderr, result.stderr
        found: list[Row] = json.loads(result.stdout)["results"]
        return found

    def start(self, name: str) -> int:
        """Start a task by restart.py; its PID, when it has said that it is ready."""
        row = self.rows("restart", name, code=0)[0]
        pid = int(row["new_pid"])
        wait_until(lambda: f"ready {pid}\n" in self.log(name))
        return pid

    def record(self, name: str) -> Row:
        found: Row = json.loads((self.state / "tasks" / f"{name}.json").read_text())
        return found

    def change_record(self, name: str, **changes: object) -> None:
        path = self.state / "tasks" / f"{name}.json"
        path.write_text(json.dumps({**self.record(name), **changes}))

    def pid(self, name: str) -> int:
        return int((self.state / "run" / f"{name}.pid").read_text())

    def log(self, name: str) -> str:
        try:
            return (self.state / "log" / f"{name}.log").read_text()
        except FileNotFoundError:
            return ""

    def events(self, name: str, *kinds: str) -> list[Row]:
        path = self.state / "restarts.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [each for each in found if each["task"] == name and each.get("event") in kinds]

    def messages(self) -> list[str]:
        """What was told: without a token, an alert goes to the log."""
        path = self.state / "log" / "upkeep.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" alert ")[2] for line in lines if " alert (" in line]

    def copies(self, name: str) -> list[int]:
        """PIDs of the workers of a task that run now, by the tag in their environment."""
        entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        found = [int(entry.name) for entry in entries if self._is_copy(entry, name)]
        return [pid for pid in found if is_running(pid)]

    def _is_copy(self, entry: Path, name: str) -> bool:
        try:
            tagged = f"\0UPKEEP_TASK={name}:".encode() in b"\0" + (entry / "environ").read_bytes()
            mine = str(self.place).encode() in (entry / "environ").read_bytes()
            return tagged and mine and b"worker.py" in (entry / "cmdline").read_bytes()
        except OSError:
            return False


def toml(value: object) -> str:
    """`value` in TOML; JSON is close enough for all but tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def kill(pid: int) -> None:
    """Kill a worker and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(gone(pid))


def gone(pid: int) -> Callable[[], bool]:
    return lambda: not is_running(pid)
