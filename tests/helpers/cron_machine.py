"""A real cron daemon that sees only the crontabs of a test: in a mount namespace of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import wait_until

_MOUNTS = """
set -e
mount --make-rprivate /
mount --bind "$1/cron.d" /etc/cron.d
mount --bind "$1/logrotate.d" /etc/logrotate.d
mount --bind "$1/crontab" /etc/crontab
mount --bind "$1/spool" /var/spool/cron/crontabs
mount --bind "$1/run" /run
shift
exec "$@"
"""


@dataclass
class Machine:
    """Private copies of the places that cron reads, and a process that keeps the namespace."""

    place: Path
    keeper: subprocess.Popen[bytes]

    def command(self, *words: str | Path) -> list[str]:
        """`words` as a command that runs on this machine."""
        return ["nsenter", "-t", str(self.keeper.pid), "-m", "--wd=/", "--", *map(str, words)]

    def run(
        self, *words: str | Path, env: dict[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `words` on this machine, with cron's small environment and `env`."""
        small = {"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": "/root", "LOGNAME": "root"}
        return subprocess.run(
            self.command(*words),
            env={**small, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=120,
            check=False,
        )

    @contextlib.contextmanager
    def cron(self, *prefix: str, env: dict[str, str] | None = None) -> Iterator[None]:
        """Run the cron daemon, by `prefix` if given."""
        daemon = subprocess.Popen(
            self.command(*prefix, "cron", "-f", "-L", "15"),
            env={"PATH": "/usr/bin:/bin:/usr/sbin", **(env or {})},
            start_new_session=True,
        )
        try:
            wait_until((self.place / "run/crond.pid").exists)
            yield
        finally:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


def require() -> None:
    """Skip the test where no mount namespace can be made or cron is missing."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root and unshare(1) with mount namespaces")
    for program in ("cron", "crontab", "logrotate"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin"):
            pytest.skip(f"needs {program}")


@contextlib.contextmanager
def machine(place: Path) -> Iterator[Machine]:
    """A machine whose crontabs and run-time files lie below `place`."""
    require()
    for name in ("cron.d", "logrotate.d", "spool", "run"):
        (place / name).mkdir(parents=True)
    (place / "crontab").touch()
    shutil.chown(place / "spool", "root", "crontab")
    (place / "spool").chmod(0o1730)
    keeper = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", _MOUNTS, "sh", place, "sh", "-c", "echo ready; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == b"ready\n"
    try:
        yield Machine(place, keeper)
    finally:
        keeper.kill()
        keeper.communicate()
