"""One checkout, three ways to run it: distribution packages, .venv, pip install."""

import shutil
import subprocess
import sys
import venv
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.helpers import ROOT

BARE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def commands() -> list[str]:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    return [line.partition(" = ")[0] for line in lines]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked tree, without the developer's .venv."""
    copy = tmp_path_factory.mktemp("copy") / "upkeep"
    skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", "build", "var")
    shutil.copytree(ROOT, copy, ignore=skipped)
    return copy


def test_pip_install_gives_every_command(checkout: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    pip = [tmp_path / "venv/bin/pip", "install", "-q", "--disable-pip-version-check", checkout]
    subprocess.run(pip, check=True, capture_output=True, timeout=300)
    for command in commands():
        result = subprocess.run(
            [tmp_path / "venv/bin" / command, "--help"],
            env=BARE,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "examples:" in result.stdout
    assert len(commands()) >= 6


def test_a_checkout_uses_the_venv_that_lies_in_it(checkout: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = checkout / ".venv" / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (packages / "marker_of_this_test.py").write_text("")
    code = "import sys; sys.path.insert(0, 'lib'); import upkeep, marker_of_this_test as marker"
    result = subprocess.run(
        [sys._base_executable, "-c", f"{code}; print(marker.__file__)"],
        env=BARE,
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(checkout / ".venv")
    assert result.stdout.strip() == str(packages / "marker_of_this_test.py"), result.stderr


def run_without_packages(
    checkout: Path, home: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    (home / "upkeep.toml").touch()
    script = [checkout / "bin/telegram_alert.py", "the text", "--config", home / "upkeep.toml"]
    return subprocess.run(
        [sys._base_executable, "-I", "-S", *script],
        env={**BARE, **env},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_requests_a_message_waits_and_the_commands_are_named(
    checkout: Path, home: Path
) -> None:
    env = {"TELEGRAM_BOT_TOKEN": "123456:" + "A" * 35, "TELEGRAM_CHAT_ID": "1"}
    result = run_without_packages(checkout, home, env)
    assert result.returncode == 5
    assert result.stderr.count("\n") == 1
    for part in ("requests", "apt install python3-requests", "bin/setup", "pip install"):
        assert part in result.stderr
    assert len(list((home / "var/outbox/new").iterdir())) == 1


def test_without_dotenv_a_file_of_secrets_names_the_commands(checkout: Path, home: Path) -> None:
    (home / ".env").touch(0o600)
    result = run_without_packages(checkout, home, {})
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "apt install python3-dotenv" in result.stderr
