"""Episodes: one alert when something breaks, one message when it is over."""

from pathlib import Path

import pytest

from tests.helpers.bot_api import BotApi
from upkeep import config
from upkeep.alerts import Alerts


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch):
    with BotApi() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


def settings(home: Path) -> config.Config:
    return config.Config(file=home / "upkeep.toml", state=home / "var")


def test_an_episode_is_told_once_and_its_end_once(home: Path, api: BotApi) -> None:
    for _ in range(3):
        with Alerts(settings(home)) as alerts:
            alerts.problem("task:trader:dead", "trader is dead", "exit status 1")
    assert len(api.texts) == 1
    assert api.texts[0].startswith("trader is dead\nexit status 1\n")
    for _ in range(2):
        with Alerts(settings(home)) as alerts:
            alerts.recovered("task:trader:dead", "trader is back")
    assert len(api.texts) == 2
    assert "(2 repeats)" in api.texts[1]


def test_without_a_token_the_alert_goes_to_stderr(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Alerts(settings(home)) as alerts:
        alerts.inform("something happened", "to somebody")
    assert "something happened to somebody" in capsys.readouterr().err
    assert "something happened" in (home / "var/log/upkeep.log").read_text()


def test_a_dead_api_is_no_trouble_of_the_caller(home: Path, api: BotApi) -> None:
    api.always = "reset"
    with Alerts(settings(home)) as alerts:
        alerts.problem("k", "title")
    assert len(list((home / "var/outbox/new").iterdir())) == 1
