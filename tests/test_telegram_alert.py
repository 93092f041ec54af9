"""bin/telegram_alert.py against the stand-in of the Bot API."""

from pathlib import Path

import pytest

from tests.helpers import run_script
from tests.helpers.bot_api import TOKEN, BotApi


@pytest.fixture
def config(home: Path) -> Path:
    file = home / "upkeep.toml"
    file.write_text('[telegram]\nconnect_timeout = "2s"\ntimeout = "2s"\nbudget = "15s"\n')
    return file


def waiting(home: Path) -> list[str]:
    place = home / "var" / "outbox" / "new"
    return [each.name for each in place.iterdir()] if place.is_dir() else []


def test_a_message_is_delivered_and_leaves_the_outbox(home: Path, config: Path) -> None:
    with BotApi() as api:
        done = run_script("telegram_alert", "disk <full>", "--config", config, env=api.env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert api.texts[0].startswith("disk <full>\n")
    assert waiting(home) == []


def test_a_failed_send_is_queued_and_delivered_by_a_later_flush(home: Path, config: Path) -> None:
    with BotApi() as api:
        api.always = "reset"
        done = run_script("telegram_alert", "lost?", "--config", config, env=api.env)
        assert done.returncode == 5
        assert len(waiting(home)) == 1
        (home / "var/outbox/breaker.json").unlink()
        api.always = "ok"
        done = run_script("telegram_alert", "--flush", "--config", config, env=api.env)
        assert (done.returncode, done.stderr) == (0, "")
    assert api.texts[0].startswith("lost?")
    assert waiting(home) == []


def test_two_502_are_ridden_out_with_growing_waits(config: Path) -> None:
    with BotApi() as api:
        api.script("502", "502")
        done = run_script("telegram_alert", "x", "--config", config, env=api.env)
        times = [each["time"] for each in api.sends]
    assert done.returncode == 0
    assert len(api.messages) == 1
    assert times[1] - times[0] >= 0.95
    assert times[2] - times[1] >= 1.95


def test_without_a_token_the_text_is_printed(config: Path) -> None:
    done = run_script("telegram_alert", "hello", "--config", config)
    assert (done.returncode, done.stdout) == (2, "hello\n")
    assert "TELEGRAM_BOT_TOKEN" in done.stderr


def test_a_wrong_token_keeps_the_message(home: Path, config: Path) -> None:
    with BotApi() as api:
        env = {**api.env, "TELEGRAM_BOT_TOKEN": "1:AAwrong-wrong-wrong-wrong-wrong"}
        done = run_script("telegram_alert", "x", "--config", config, env=env)
        assert len(waiting(home)) == 1
        assert done.returncode in (1, 5)
        done = run_script("telegram_alert", "--flush", "--config", config, env=api.env)
        assert done.returncode == 0
    assert len(api.messages) == 1
    assert TOKEN not in done.stderr
