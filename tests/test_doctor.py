"""doctor.py: a night that is in order, and what is found when it is not."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, cron_machine, run_script
from tests.helpers.bot_api import BotApi

CHECKS = {"configuration and state", "telegram", "cron and logrotate", "programs", "jobs"}


def _failing(home: Path, env: dict[str, str]) -> dict[str, str]:
    result = run_script("doctor", "--config", home / "upkeep.toml", "--json", env=env)
    found = json.loads(result.stdout)["checks"]
    failing = {each["check"]: each["detail"] for each in found if not each["ok"]}
    assert {each["check"] for each in found} == CHECKS
    assert result.returncode == (1 if failing else 0)
    assert all(each["mend"] for each in found)
    return failing


@pytest.fixture
def place(home: Path) -> Path:
    (home / "upkeep.toml").write_text(
        f'[task.sleeper]\ncommand = "sleep 600"\nverify = 0\ncwd = "{home}"\n'
    )
    return home


def test_what_is_wrong_is_named(place: Path) -> None:
    config = ("--config", place / "upkeep.toml")
    run_script("run_job", *config, "backup", "--", "false")
    assert run_script("restart", *config, "sleeper").returncode == 0
    os.kill(int((place / "var/run/sleeper.pid").read_text()), signal.SIGKILL)
    failing = _failing(place, {})
    assert {"telegram", "programs", "jobs"} <= failing.keys()
    assert "TELEGRAM_BOT_TOKEN" in failing["telegram"]
    assert "configuration and state" not in failing


def test_lines_are_for_people(place: Path) -> None:
    result = run_script("doctor", "--config", place / "upkeep.toml")
    assert "ok    jobs\n" in result.stdout
    assert "FAIL  telegram: " in result.stdout and " -> cp .env.example .env" in result.stdout


def test_a_wrong_configuration_is_found(place: Path) -> None:
    (place / "upkeep.toml").write_text("[nonsense]\n")
    assert "nonsense" in _failing(place, {})["configuration and state"]


def test_a_night_in_order_and_a_message_that_arrives(place: Path) -> None:
    config = ("--config", place / "upkeep.toml")
    with BotApi() as api, cron_machine.machine(place / "machine") as host, host.cron():
        (place / ".env").write_text("".join(f"{name}={each}\n" for name, each in api.env.items()))
        (place / ".env").chmod(0o600)
        assert host.run(sys.executable, ROOT / "bin/restart.py", *config, "sleeper").returncode == 0
        assert host.run(sys.executable, ROOT / "bin/install.py", *config).returncode == 0
        result = host.run(sys.executable, ROOT / "bin/doctor.py", *config, "--send-test")
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.count("ok    ") == len(CHECKS)
        assert any("a test" in text for text in api.texts)


def test_a_doctor_that_failed_as_a_job_does_not_ail_from_itself(place: Path) -> None:
    config = ("--config", place / "upkeep.toml")
    inner = f"{sys.executable} {ROOT}/bin/run_job.py --config {place}/upkeep.toml --status"
    run_script("run_job", *config, "doctor", "--", "false")
    assert run_script("run_job", *config, "--status").returncode == 1
    assert run_script("run_job", *config, "doctor", "--", "sh", "-c", inner).returncode == 0
    assert run_script("run_job", *config, "--status").returncode == 0
