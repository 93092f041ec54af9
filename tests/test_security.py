"""What root refuses to run, to believe and to tell, all in one place. SECURITY.md says why."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, is_running, wait_until
from tests.helpers.bot_api import TOKEN, BotApi
from tests.helpers.house import House, worker

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="these rules are for root")

STRANGER = 12345  # a user id that is neither root's nor a task's
SCRIPTS = {
    "cleanup": ["--dry-run"],
    "gc_profile": ["env"],
    "mem_baseline": ["--pid", "1", "--duration", "0.1s"],
    "mem_snapshot": ["--pid", "1"],
    "memory_report": [],
    "memory_sample": [],
    "restart": ["trader"],
    "run_job": ["job", "--", "touch", "{place}/ran"],
    "status": [],
    "stop": ["trader"],
    "telegram_alert": ["hello"],
    "watchdog": [],
    "install": ["--dry-run"],
}


class Place:
    """A checkout of its own, beside it a configuration whose task leaves a mark when it runs."""

    def __init__(self, home: Path) -> None:
        self.home, self.checkout = home, home / "opt" / "upkeep"
        for part in ("bin", "lib", "cron", "logrotate"):
            shutil.copytree(ROOT / part, self.checkout / part)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.packages = self.checkout / ".venv" / "lib" / version / "site-packages"
        self.packages.mkdir(parents=True)
        self.etc = home / "etc"
        self.etc.mkdir()
        self.config = self.etc / "upkeep.toml"
        command = f'["/bin/sh", "-c", "touch {home}/ran; sleep 600"]'
        self.config.write_text(f"[task.trader]\ncommand = {command}\nverify = 0\n")
        self.state = self.etc / "var"
        self.state.mkdir(mode=0o700)

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, self.checkout / f"bin/{script}.py", "--config", self.config]
        if script == "run_job":
            command[-2:] = []
        environment = {"PATH": "/usr/bin:/bin", "UPKEEP_CONFIG": str(self.config)}
        whole = [*command, *(word.format(place=self.home) for word in words)]
        return subprocess.run(whole, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def place(home: Path) -> Place:
    return Place(home)


def open_to_all(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o022)


def given_away(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


UNTRUSTED: dict[str, Callable[[Place], object]] = {
    "the configuration is writable by all": lambda at: open_to_all(at.config),
    "the configuration is another user's": lambda at: given_away(at.config),
    "its directory is writable by all": lambda at: open_to_all(at.etc),
    "its directory is another user's": lambda at: given_away(at.etc),
    "the state is writable by all": lambda at: open_to_all(at.state),
    "the state is another user's": lambda at: given_away(at.state),
    "the scripts are writable by all": lambda at: open_to_all(at.checkout / "bin"),
    "the modules are another user's": lambda at: given_away(at.checkout / "lib/upkeep"),
    "the packages in .venv are another user's": lambda at: given_away(at.packages),
    "a directory above the checkout is writable by all": lambda at: open_to_all(at.home / "opt"),
}


def test_every_script_is_held_against_the_rules() -> None:
    assert {*SCRIPTS, "doctor"} == {path.stem for path in (ROOT / "bin").glob("*.py")}


@pytest.mark.parametrize("what", UNTRUSTED)
def test_root_runs_nothing_that_others_can_write(place: Place, what: str) -> None:
    UNTRUSTED[what](place)
    for script, words in SCRIPTS.items():
        result = place.run(script, *words)
        assert (result.returncode, result.stdout) == (3, ""), (script, result)
        (line,) = result.stderr.splitlines()
        assert "not trusted by root" in line and "mend it by: chown root:" in line, line
    assert not (place.home / "ran").exists()
    assert list(place.state.iterdir()) == []


def test_what_only_root_and_its_group_can_write_is_trusted(place: Place) -> None:
    place.config.chmod(0o660)
    place.home.chmod(0o1777)  # as /tmp: nobody can rename what is root's there
    for script in ("status", "memory_sample", "cleanup"):
        assert place.run(script).returncode in (0, 1), script


def test_a_link_is_as_trusted_as_what_it_leads_to(place: Place) -> None:
    elsewhere = place.home / "elsewhere"
    elsewhere.mkdir()
    shutil.move(place.config, elsewhere)
    place.config.symlink_to(elsewhere / "upkeep.toml")
    assert place.run("status").returncode == 1
    elsewhere.chmod(0o777)
    assert place.run("status").returncode == 3


@pytest.fixture
def house(home: Path) -> House:
    made = House(home)
    made.task("trader", worker("--print-environment"))
    return made


def test_a_pid_file_that_others_could_have_written_is_not_believed(house: House) -> None:
    pid = house.start("trader")
    (house.state / "tasks/trader.json").unlink()
    pid_file = house.state / "run/trader.pid"
    for hurt, mend in ((0o666, 0o644), (None, None)):
        pid_file.chmod(hurt) if hurt else os.chown(pid_file, STRANGER, STRANGER)
        for script in ("restart", "stop", "watchdog"):
            assert house.run(script, "trader").returncode == 3, script
        assert is_running(pid)
        pid_file.chmod(mend) if mend else None


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as server:
        yield server


def write_secrets(house: House, api: BotApi, mode: int) -> None:
    env = house.place / ".env"
    env.write_text("".join(f"{name}={value}\n" for name, value in api.env.items()))
    env.chmod(mode)


def test_a_token_that_every_user_can_read_is_not_used(house: House, api: BotApi) -> None:
    write_secrets(house, api, 0o644)
    result = house.run("telegram_alert", "hello")
    assert result.returncode == 3 and "chmod 600" in result.stderr
    house.run("run_job", "job", "--", "false")
    assert api.requests == []
    assert len(list((house.state / "outbox/new").iterdir())) == 2
    (house.place / ".env").chmod(0o640)
    assert house.run("telegram_alert", "--flush").returncode == 0
    assert len(api.texts) == 2


def test_the_token_is_told_to_nobody(house: House, api: BotApi) -> None:
    write_secrets(house, api, 0o600)
    house.task("trader", worker("--print-environment"), env_file=house.place / ".env")
    pid = house.start("trader")
    api.always = "404"
    for script, *words in (
        ("telegram_alert", "hello", "-v", "--budget", "1s"),
        ("telegram_alert", "--check", "-v"),
        ("run_job", "job", "--", "sh", "-c", f"cat {house.place}/.env; false"),
        ("status", "--json"),
        ("doctor",),
    ):
        result = house.run(script, *words)
        assert TOKEN not in result.stderr + result.stdout, (script, words)
    secret = TOKEN.encode()
    assert secret not in Path(f"/proc/{pid}/environ").read_bytes()
    assert TOKEN not in house.log("trader")
    assert wait_until(lambda: (house.state / "log/upkeep.log").exists())
    assert secret not in (house.state / "log/upkeep.log").read_bytes()
    for path in house.state.rglob("*.json"):
        assert secret not in path.read_bytes(), path


def test_what_is_written_is_for_root_alone_but_pid_files_and_figures(house: House) -> None:
    before = os.umask(0)
    try:
        textfiles = house.place / "textfiles"
        textfiles.mkdir(mode=0o755)
        with house.config.open("a") as file:
            file.write(f'[paths]\nprometheus = "{textfiles}"\n')
        house.start("trader")
        house.run("memory_sample")
        house.run("run_job", "job", "--", "false")
        house.run("watchdog")
    finally:
        os.umask(before)
    for path in house.state.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = 0o700 if path.is_dir() else 0o644 if path.suffix == ".pid" else 0o600
        assert mode == wanted, f"{path}: {mode:o}"
    assert {stat.S_IMODE(path.stat().st_mode) for path in textfiles.iterdir()} == {0o644}


def test_no_shell_reads_a_command_and_no_name_leaves_the_state(house: House) -> None:
    mark = house.place / "mark"
    odd = ["$(touch {0})", "`touch {0}`", "; touch {0}", "| touch {0}", "\n touch {0}"]
    words = [each.format(mark) for each in odd]
    house.task("trader", [*worker(), "--ignore", "HUP"], env={"ODD": words[0]})
    assert house.run("run_job", "job", "--", "printf", "%s", *words).returncode == 0
    house.start("trader")
    assert not mark.exists()
    for name in ("../x", "a/b", ".x", "-x", "x\ny", "$(id)", ""):
        assert house.run("run_job", name, "--", "touch", str(mark)).returncode == 2, name
        house.config.write_text(f"[task.{json.dumps(name)}]\ncommand = 'true'\n")
        assert house.run("status").returncode == 2, name
    assert not mark.exists()
