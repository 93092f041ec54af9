"""ansible/upkeep.yml, run by a real ansible-core in a mount namespace of its own."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, cron_machine
from tests.helpers.bot_api import CHAT, TOKEN, BotApi
from tests.helpers.cron_machine import Machine

PLAYBOOK = ROOT / "ansible" / "upkeep.yml"
SEARCHED = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin"
ANSIBLE = shutil.which("ansible-playbook", path=SEARCHED)
SHIPPED = ("bin", "lib", "cron", "logrotate", "upkeep.example.toml", ".gitignore")
CONFIG = """[task.sleeper]
command = "sleep 600"
cwd = "{place}"
verify = 0
"""
# The lists of apt are fresh and empty: what is not installed fails instead of being installed.
OWN_APT = 'mount --bind "$1" /var/lib/apt/lists && shift && exec "$@"'


def packages() -> list[str]:
    found = re.search(r"name: \[(git, .*)\]", PLAYBOOK.read_text())
    assert found
    return found[1].split(", ")


def require() -> None:
    if not ANSIBLE:
        pytest.skip("needs ansible-playbook")
    for package in (*packages(), "python3-apt"):
        query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
        found = subprocess.run(query, capture_output=True, text=True, check=False)
        if found.stdout != "installed":
            pytest.skip(f"needs the package {package}")


class Fleet:
    """One host, which is this one with crontabs of its own, and what is to be put on it."""

    def __init__(self, home: Path, host: Machine, api: BotApi) -> None:
        self.home, self.host, self.place = home, host, home / "opt" / "upkeep"
        self.place.parent.mkdir()
        (home / "lists").mkdir()
        self.repository = home / "repository"
        self.repository.mkdir()
        for name in SHIPPED:
            subprocess.run(["cp", "-r", ROOT / name, self.repository], check=True)
        self.commit()
        self.variables = {
            "upkeep_home": str(self.place),
            "upkeep_repository": str(self.repository),
            "upkeep_config": CONFIG.format(place=home),
            "upkeep_telegram_bot_token": TOKEN,
            "upkeep_telegram_chat_id": CHAT,
            "upkeep_env": f"TELEGRAM_API_BASE={api.base}",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_remote_tmp": str(home / "ansible"),
        }

    def commit(self) -> None:
        git = ["git", "-C", str(self.repository), "-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
        subprocess.run([*git, "add", "--all"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a version"], check=True)

    def play(self, *options: str) -> subprocess.CompletedProcess[str]:
        file = self.home / "variables.json"
        file.write_text(json.dumps(self.variables))
        assert ANSIBLE
        words = [ANSIBLE, "-i", "localhost,", "-c", "local", "-e", f"@{file}", *options, PLAYBOOK]
        env = {"HOME": str(self.home), "ANSIBLE_NOCOWS": "1", "LANG": "C.UTF-8", "PATH": SEARCHED}
        shell = ["unshare", "-m", "sh", "-c", OWN_APT, "sh", self.home / "lists"]
        return self.host.run(*shell, *words, env=env)


@pytest.fixture
def fleet(home: Path) -> Iterator[Fleet]:
    require()
    with BotApi() as api, cron_machine.machine(home / "machine") as host, host.cron():
        yield Fleet(home, host, api)


def changed(result: subprocess.CompletedProcess[str]) -> int:
    assert result.returncode == 0, result.stdout + result.stderr
    recap = re.search(r"changed=(\d+) +unreachable=0 +failed=0", result.stdout)
    assert recap, result.stdout
    return int(recap[1])


def test_a_bare_host_is_ready_after_one_run_and_a_second_changes_nothing(fleet: Fleet) -> None:
    first = fleet.play("-vvv")
    assert changed(first) == 5  # the checkout, two files, cron and logrotate, the task
    assert TOKEN not in first.stdout + first.stderr
    assert (fleet.place / "upkeep.toml").read_text() == CONFIG.format(place=fleet.home)
    assert (fleet.place / ".env").stat().st_mode & 0o777 == 0o600
    assert TOKEN in (fleet.place / ".env").read_text()
    assert str(fleet.place) in (fleet.host.place / "cron.d/upkeep").read_text()
    pid = int((fleet.place / "var/run/sleeper.pid").read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00"
    assert changed(fleet.play()) == 0
    assert int((fleet.place / "var/run/sleeper.pid").read_text()) == pid

    with (fleet.repository / "cron/upkeep").open("a") as file:
        file.write("1 1 * * * root /opt/upkeep/bin/status.py\n")
    fleet.commit()
    fleet.variables["upkeep_config"] += "\n[host]\nsamples = 2\n"
    assert changed(fleet.play()) == 3
    assert "bin/status.py" in (fleet.host.place / "cron.d/upkeep").read_text()
    assert "samples = 2" in (fleet.place / "upkeep.toml").read_text()


def test_what_is_not_in_order_fails_and_a_wrong_configuration_leaves_the_one_that_works(
    fleet: Fleet,
) -> None:
    fleet.variables["upkeep_telegram_bot_token"] = ""
    result = fleet.play()
    assert result.returncode != 0
    assert "FAIL  telegram" in result.stdout
    fleet.variables["upkeep_config"] = "[task.sleeper]\ncomand = 'sleep'\n"
    result = fleet.play()
    assert result.returncode != 0
    assert "comand" in result.stdout and "FAIL  " not in result.stdout
    assert (fleet.place / "upkeep.toml").read_text() == CONFIG.format(place=fleet.home)
