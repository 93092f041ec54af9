"""prometheus/: rules, dashboard and examples, held against the real programs and real figures."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import HELPERS, ROOT, prometheus, wait_until
from tests.helpers.bot_api import CHAT, TOKEN, BotApi
from tests.helpers.house import House
from upkeep import metrics, samples

PLACE = ROOT / "prometheus"
RULES = (PLACE / "upkeep.rules.yml").read_text()
DASHBOARD = json.loads((PLACE / "upkeep.dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALERTS = re.findall(r"- alert: (\w+)", RULES)
# What a test cannot bring about within seconds: an hour's restarts, a kill by the kernel, a night.
RARE = {
    "UpkeepSampleStale",
    "UpkeepHostMemory",
    "UpkeepOutOfMemoryKill",
    "UpkeepRestartLoop",
    "UpkeepOutboxGrowing",
}


@pytest.fixture(autouse=True)
def _programs() -> None:
    prometheus.require()


def accepted(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_rule_fires_when_it_should_and_is_silent_on_a_healthy_host() -> None:
    assert "SUCCESS" in accepted("promtool", "test", "rules", PLACE / "upkeep.test.yml")
    cases = (PLACE / "upkeep.test.yml").read_text()
    for alert in ALERTS:
        fires = re.search(rf"alertname: {alert}\n +exp_alerts:\n +- exp_labels", cases)
        silent = f"alertname: {alert}}}" in cases
        assert fires and silent, alert


@pytest.mark.parametrize("rule", [0, 1, 2])
def test_the_case_of_the_healthy_host_notices_a_rule_that_is_too_eager(
    rule: int, tmp_path: Path
) -> None:
    limit = ["> 900", "> 0.8", "< 7 * 86400"][rule]
    eager = ["> 0", "> 0.1", "< 70 * 86400"][rule]
    (tmp_path / "upkeep.rules.yml").write_text(RULES.replace(limit, eager))
    (tmp_path / "t.yml").write_text((PLACE / "upkeep.test.yml").read_text())
    command = ["promtool", "test", "rules", tmp_path / "t.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 'expr: "count_over_time(ALERTS[3d])"' in done.stdout + done.stderr


def test_the_examples_are_what_the_programs_accept(tmp_path: Path) -> None:
    accepted("amtool", "check-config", PLACE / "alertmanager.example.yml")
    example = (PLACE / "prometheus.example.yml").read_text()
    assert "/opt/upkeep/prometheus/upkeep.rules.yml" in example
    (tmp_path / "p.yml").write_text(example.replace("/opt/upkeep", str(ROOT)))
    assert f"{len(ALERTS)} rules found" in accepted(
        "promtool", "check", "config", tmp_path / "p.yml"
    )


def test_a_host_that_is_gone_is_told_once(tmp_path: Path) -> None:
    config = (PLACE / "alertmanager.example.yml").read_text()
    with prometheus.alertmanager(tmp_path, config) as manager:
        for alert, instance in (
            ("UpkeepSampleStale", "gone"),
            ("UpkeepJobNotSucceeded", "gone"),
            ("UpkeepJobNotSucceeded", "other"),
        ):
            labels = [f"alertname={alert}", f"instance={instance}"]
            accepted("amtool", f"--alertmanager.url={manager}", "alert", "add", *labels)

        def told() -> set[tuple[str, str]]:
            alerts = json.loads(prometheus.fetch(f"{manager}/api/v2/alerts") or "[]")
            told = [each["labels"] for each in alerts if not each["status"]["inhibitedBy"]]
            return {(each["alertname"], each["instance"]) for each in told}

        wanted = {("UpkeepSampleStale", "gone"), ("UpkeepJobNotSucceeded", "other")}
        wait_until(lambda: told() == wanted)


def test_the_page_names_every_alert() -> None:
    page = (ROOT / "docs/prometheus.md").read_text()
    assert re.findall(r"\| `(Upkeep\w+)`", page) == ALERTS


def test_rules_and_dashboard_ask_for_nothing_that_upkeep_does_not_write() -> None:
    asked = set(re.findall(r"\bupkeep_\w+", RULES + "".join(QUERIES)))
    assert asked <= metrics.HELP.keys()


class Night:
    """A host with a program that leaks, one that crashes, a failing job, a message that waits."""

    def __init__(self, place: Path) -> None:
        self.house, self.textfiles = House(place), place / "textfiles"
        self.textfiles.mkdir()
        self.data = place / "data"
        self.data.mkdir()
        leak = [sys.executable, "-S", str(HELPERS / "growing.py"), "20", "8"]
        self.house.task("leaky", leak, max_rss="60M")
        crash = [sys.executable, "-S", "-c", "raise SystemExit(7)"]
        self.house.task("crashing", crash, crash_limit=2, crash_window="1h", verify="0s")
        with self.house.config.open("a") as file:
            file.write(f'[paths]\nprometheus = "{self.textfiles}"\n')
            file.write(f'[host]\ndata_dirs = ["{self.data}"]\n')
        os.chmod(place, 0o755)

    def live(self) -> None:
        """Leak, crash until it is given up, fail, and have a message that finds nobody."""
        self.remember_leaks()
        self.house.run("restart", "leaky")
        for _ in range(3):
            self.house.run("watchdog", "crashing")
        self.house.run("run_job", "backup", "--", "false")
        nobody = f"http://127.0.0.1:{prometheus.free_port()}"
        env = {"TELEGRAM_BOT_TOKEN": TOKEN, "TELEGRAM_CHAT_ID": CHAT, "TELEGRAM_API_BASE": nobody}
        self.house.run("telegram_alert", "nobody hears this", "--budget", "1s", env=env)

    def remember_leaks(self) -> None:
        """The samples of three earlier lives of `leaky`, a day each: 1 MiB more every hour."""
        now = time.time()
        for life in range(3):
            for index in range(20 * 12):
                at = now - (3 - life) * 86400 + index * 300
                row = {"time": round(at), "boot_id": f"boot {life}", "uptime": 1000 + index * 300}
                row |= {"used": 1, "limit": 2, "swap_used": 0, "swapped": 0, "disks": {}}
                size = (20 << 10) + int(index / 12 * 1024)
                row |= {"oom_kills": 0, "programs": [["leaky", 5, 90_000, 1, size, size]]}
                samples.append(self.house.state, row)

    def sample(self) -> bool:
        result = self.house.run("memory_sample")
        assert result.returncode == 0, result.stderr
        return True


@pytest.fixture
def night(home: Path) -> Iterator[Night]:
    made = Night(home)
    made.live()
    yield made


def without_delay(rules: str) -> str:
    """The rules as they are, but an alert fires as soon as its condition holds."""
    return re.sub(r"\bfor: \w+", "for: 0s", rules)


@contextlib.contextmanager
def watching(night: Night, manager: str, place: Path) -> Iterator[str]:
    """Prometheus, as in the example but in a hurry; its address."""
    place.mkdir()
    (place / "upkeep.rules.yml").write_text(without_delay(RULES))
    config = (PLACE / "prometheus.example.yml").read_text()
    with prometheus.node_exporter(night.textfiles) as exporter:
        for old, new in (
            ("interval: 1m", "interval: 200ms"),
            ("/opt/upkeep/prometheus/upkeep.rules.yml", str(place / "upkeep.rules.yml")),
            ('"vps1.example.org:9100", "vps2.example.org:9100"', exporter.removeprefix("http://")),
            ("127.0.0.1:9093", manager.removeprefix("http://")),
        ):
            assert old in config
            config = config.replace(old, new)
        with prometheus.prometheus(place, config) as base:
            yield base


def test_a_real_leak_ends_as_a_firing_alert_and_as_a_message(night: Night, tmp_path: Path) -> None:
    with BotApi() as api:
        config = (PLACE / "alertmanager.example.yml").read_text()
        for pattern, new in (
            (r'bot_token: ".*"', f'bot_token: "{TOKEN}"'),
            (r"chat_id: -?\d+", f"chat_id: {CHAT}"),
            (r"api_url: .*", f"api_url: {api.base}"),
            (r"group_wait: \w+", "group_wait: 1s"),
        ):
            assert re.search(pattern, config)
            config = re.sub(pattern, new, config)
        night.sample()
        (tmp_path / "manager").mkdir()
        with (
            prometheus.alertmanager(tmp_path / "manager", config) as manager,
            watching(night, manager, tmp_path / "watching") as base,
        ):
            wait_until(
                lambda: night.sample() and "UpkeepTaskOverLimit" in prometheus.firing(base),
                timeout=60,
            )
            told = wait_until(
                lambda: [text for text in api.texts if "leaky uses" in text and "backup" in text]
            )
            assert set(ALERTS) - prometheus.firing(base).keys() <= RARE
    assert "127.0.0.1: job backup has never succeeded\n" in told[0]
    assert re.search(r"127\.0\.0\.1: leaky uses [\d.]+MiB, more than its limit\n", told[0])


def test_every_query_of_the_dashboard_finds_real_figures(night: Night, tmp_path: Path) -> None:
    night.sample()
    with watching(night, "127.0.0.1:9", tmp_path / "watching") as base:
        hosts = DASHBOARD["templating"]["list"][1]["query"]["query"]
        name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", hosts).groups()
        wait_until(lambda: prometheus.query(base, name))
        assert prometheus.query(base, name)[0]["metric"][label] == "127.0.0.1"
        night.sample()
        for query in QUERIES:
            assert "$host" in query
            asked = query.replace("$host", "127.0.0.1")
            wait_until(lambda asked=asked: prometheus.query(base, asked))
            assert not prometheus.query(base, query.replace("$host", "another"))
