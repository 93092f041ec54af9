"""Fixtures that every test may use."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


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


def _kill_all_that_mention(text: str) -> None:
    needle = text.encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            known = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if needle in known or os.readlink(entry / "cwd").startswith(text):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue
