"""Programs to be measured, ended when the test ends."""

import signal
import subprocess
import sys

from tests.helpers import HELPERS


class Targets:
    """Starts tests/helpers/growing.py and waits for its "ready"."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *args: str, name: str = "growing.py") -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, HELPERS / name, *args], stdout=subprocess.PIPE, text=True
        )
        self.started.append(child)
        assert child.stdout and child.stdout.readline() == "ready\n"
        return child

    def end(self) -> None:
        for child in self.started:
            child.send_signal(signal.SIGKILL)
            child.wait()
