"""Helpers of the tests: real processes, started with a handshake and polled, never slept for."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
LONG = os.environ.get("UPKEEP_LONG") == "1"  # run with the full counts, not with the small ones

T = TypeVar("T")


def wait_until(check: Callable[[], T], timeout: float = 20.0, interval: float = 0.01) -> T:
    """Call `check` until it returns something true; fail with its last result at the timeout."""
    deadline = time.monotonic() + timeout
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{check} still gave {result!r} after {timeout} s")
        time.sleep(interval)


def run_script(
    name: str,
    *args: str | Path,
    env: dict[str, str] | None = None,
    stdin: str | bytes = "",
    timeout: float = 120.0,
    cwd: Path | str = "/",
) -> subprocess.CompletedProcess[str]:
    """Run bin/`name`.py as cron would: from /, with cron's own small environment plus `env`."""
    small = {
        "PATH": "/usr/bin:/bin",
        "HOME": os.environ.get("HOME", "/root"),
        "LOGNAME": os.environ.get("LOGNAME", "root"),
        "SHELL": "/bin/sh",
    }
    return subprocess.run(
        [sys.executable, ROOT / "bin" / f"{name}.py", *args],
        env={**small, **(env or {})},
        input=stdin.decode("utf-8", "surrogateescape") if isinstance(stdin, bytes) else stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout,
        cwd=cwd,
        check=False,
    )


def is_running(pid: int) -> bool:
    """Whether `pid` runs: a zombie does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X")
