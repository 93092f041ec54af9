"""doctor.py: a night that is in order, and what is found when it is not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT, cron_machine, run_script
from tests.helpers.bot_api import BotApi
from upkeep import proc

CHECKS = {
    "packages", "state directory", "clock", "telegram", "cron", "logrotate", "samples",
    "programs", "jobs",
}  # fmt: skip


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
    for name in ("backup", "doctor"):
        run_script("run_job", *config, name, "--", "false")
    assert run_script("restart", *config, "sleeper").returncode == 0
    os.kill(int((place / "var/run/sleeper.pid").read_text()), signal.SIGKILL)
    failing = _failing(place, {})
    assert failing["programs"] == "sleeper is dead"
    assert failing["jobs"] == "backup (1 failed, 0 skipped, 0 missed)"
    assert not {"packages", "state directory", "clock", "telegram", "samples"} & failing.keys()


def test_without_a_token_that_is_noted_and_is_no_failure(place: Path) -> None:
    shown = run_script("doctor", "--config", place / "upkeep.toml").stdout.splitlines()
    assert "ok    jobs" in shown
    line = next(line for line in shown if "telegram" in line)
    assert line.startswith("note  telegram: no token: alerts go to the log and stderr only -> cp")
    tested = run_script("doctor", "--config", place / "upkeep.toml", "--send-test").stdout
    assert "FAIL  message: TELEGRAM_BOT_TOKEN is not set" in tested


def test_a_token_without_a_chat_or_open_to_all_is_found(place: Path) -> None:
    (place / ".env").write_text(f"TELEGRAM_BOT_TOKEN=123456:{'x' * 35}\n")
    (place / ".env").chmod(0o600)
    assert "TELEGRAM_CHAT_ID is not set" in _failing(place, {})["telegram"]
    (place / ".env").chmod(0o644)
    assert f"chmod 600 {place}/.env" in _failing(place, {})["telegram"]


@pytest.mark.parametrize("method", ["getMe", "getChat"])
def test_a_token_or_chat_that_telegram_refuses_is_found(place: Path, method: str) -> None:
    with BotApi(chats=("1",)) as api:
        wrong = {"getMe": {"TELEGRAM_BOT_TOKEN": f"999999:{'y' * 35}"}}
        wrong["getChat"] = {"TELEGRAM_CHAT_ID": "-1009999999999"}
        failing = _failing(place, {**api.env, **wrong[method]})
        assert "telegram" in failing
        assert failing["telegram"].count(":") and "y" * 35 not in failing["telegram"]
        assert api.texts == []


def test_messages_that_wait_are_noted(place: Path) -> None:
    config = ("--config", place / "upkeep.toml")
    with BotApi() as api:
        api.always = "reset"
        assert run_script("telegram_alert", *config, "hello", env=api.env).returncode == 5
        api.always = ""
        shown = run_script("doctor", *config, env=api.env).stdout
    assert "note  telegram: 1 messages wait, 0 were refused -> " in shown


def test_a_wrong_configuration_is_told_as_everywhere(place: Path) -> None:
    (place / "upkeep.toml").write_text("[nonsense]\n")
    result = run_script("doctor", "--config", place / "upkeep.toml")
    assert result.returncode == 2 and "nonsense" in result.stderr


def test_a_missing_package_is_named(place: Path) -> None:
    bare = [sys.executable, "-I", "-S", ROOT / "bin/doctor.py", "--config", place / "upkeep.toml"]
    copy = place / "copy"
    for name in ("bin", "lib", "cron", "logrotate"):  # without the checkout's .venv
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    bare[3] = copy / "bin/doctor.py"
    (copy / "bin/install.py").write_text("raise SystemExit(9)")  # without a word
    shown = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert "FAIL  cron: install.py: exit status 9 -> " in shown.stdout
    assert "FAIL  packages: missing: psutil, requests, dotenv; install by: apt" in shown.stdout


def test_a_clock_that_went_back_and_samples_that_stopped_are_found(place: Path) -> None:
    config = ("--config", place / "upkeep.toml")
    assert run_script("memory_sample", *config).returncode == 0
    sample = next((place / "var/memory").glob("*.jsonl"))
    os.utime(sample, (time.time() + 7200,) * 2)
    assert f"2 h behind the time of {sample}" in _failing(place, {})["clock"]
    os.utime(sample, (time.time() - 7200,) * 2)
    if proc.uptime() > 1000:
        assert str(sample) in _failing(place, {})["samples"]
    (place / "upkeep.toml").write_text(f'[paths]\nprometheus = "{place}"\n')
    assert "upkeep_memory.prom" in _failing(place, {})["samples"]


def test_a_state_that_is_open_or_cannot_be_written_is_found(place: Path) -> None:
    cron_machine.require()
    run_script("run_job", "--config", place / "upkeep.toml", "quick", "--", "true")
    (place / "var").chmod(0o755)
    assert "is open to others" in _failing(place, {})["state directory"]
    shutil.rmtree(place / "var")
    (place / "var").mkdir(mode=0o700)
    shared = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o "$1" x "$2" && shift 2 && "$@"', "sh"]
    doctor = [sys.executable, ROOT / "bin/doctor.py", "--config", place / "upkeep.toml"]
    for options, why in (("ro,mode=700", "can't be written"), ("size=1M,mode=700", "are free")):
        words = [*shared, options, place / "var", *doctor]
        shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        assert f"FAIL  state directory: {place}/var" in shown and why in shown
    (place / "var").rmdir()
    (place / "var").touch()
    assert "var" in _failing(place, {})["state directory"]


def test_a_night_in_order_and_a_message_that_arrives(place: Path) -> None:
    config = ("--config", place / "upkeep.toml")
    with BotApi() as api, cron_machine.machine(place / "machine") as host, host.cron():
        (place / ".env").write_text("".join(f"{name}={each}\n" for name, each in api.env.items()))
        (place / ".env").chmod(0o600)
        assert host.run(sys.executable, ROOT / "bin/restart.py", *config, "sleeper").returncode == 0
        assert host.run(sys.executable, ROOT / "bin/install.py", *config).returncode == 0
        result = host.run(sys.executable, ROOT / "bin/doctor.py", *config, "--send-test")
        assert result.returncode == 0, result.stdout + result.stderr
        assert "FAIL" not in result.stdout
        assert result.stdout.count("\n") == len(CHECKS) + 1
        assert any("test message" in text for text in api.texts)


def test_a_doctor_that_failed_as_a_job_does_not_ail_from_itself(place: Path) -> None:
    config = ("--config", place / "upkeep.toml")
    inner = f"{sys.executable} {ROOT}/bin/run_job.py --config {place}/upkeep.toml --status"
    run_script("run_job", *config, "doctor", "--", "false")
    assert run_script("run_job", *config, "--status").returncode == 1
    assert run_script("run_job", *config, "doctor", "--", "sh", "-c", inner).returncode == 0
    assert run_script("run_job", *config, "--status").returncode == 0
