"""Fixtures that every test may use."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.house import House
from tests.helpers.targets import Targets

signal.signal(signal.SIGINT, signal.default_int_handler)  # `bin/test &` would leave it ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Under CI a test that skips for a missing program is a failure; .ci/run installs them all.

    Only a systemd as PID 1 and rights that the machine does not give can't be installed.
    """
    outcome = yield
    report = outcome.get_result()
    reason = str(report.longrepr)
    excused = "systemd" in reason or "not allowed here" in reason
    if report.skipped and os.environ.get("CI") and not excused:
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings, the token or the proxies of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(("UPKEEP_", "TELEGRAM_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A private directory for one installation; whatever was started below it is killed after."""
    place = tmp_path / "home"
    place.mkdir(mode=0o700)
    yield place
    _kill_all_that_mention(str(place))
    for kept in Path(f"/dev/shm/upkeep-{os.geteuid()}").glob(f"{os.fsencode(place).hex()}*"):
        shutil.rmtree(kept)


@pytest.fixture
def house(home: Path) -> House:
    """An installation with one task, "trader"."""
    made = House(home)
    made.task("trader")
    return made


@pytest.fixture
def full(home: Path) -> Iterator[Path]:
    """A state directory on a disk that takes nothing any more."""
    state = home / "var"
    state.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", state]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with contextlib.suppress(OSError), (state / "noise").open("wb", 0) as file:
            while True:
                file.write(bytes(4096))
        yield state
    finally:
        subprocess.run(["umount", state], check=True)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group (version 1) whose processes may have 30 MiB."""
    place = Path(f"/sys/fs/cgroup/memory/upkeep-test-{os.getpid()}")
    try:
        place.mkdir()
    except OSError:
        pytest.skip("control groups of version 1 are not allowed here")
    try:
        (place / "memory.limit_in_bytes").write_text(str(30 << 20))
        yield place
    finally:
        place.rmdir()


@pytest.fixture
def targets() -> Iterator[Targets]:
    """Programs whose memory is known, killed after the test."""
    made = Targets()
    yield made
    made.end()


def _kill_all_that_mention(text: str) -> None:
    """Kill until a whole look at /proc finds nothing: what was killed may just have forked."""
    while any(_kill_if_it_mentions(entry, text) for entry in Path("/proc").iterdir()):
        continue


def _kill_if_it_mentions(entry: Path, text: str) -> bool:
    if not entry.name.isdigit() or int(entry.name) == os.getpid():
        return False
    try:
        known = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        links = (os.readlink(entry / name) for name in ("cwd", "fd/1"))  # fd/1: its log
        found = text.encode() in known or any(link.startswith(text) for link in links)
        if found:
            os.kill(int(entry.name), signal.SIGKILL)
    except OSError:
        return False
    return found
