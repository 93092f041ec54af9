"""Figures for Prometheus, checked by its own tool and scraped by a real node_exporter."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.helpers import ROOT, run_script, wait_until
from tests.helpers.fake_proc import BOOT_ID, FakeProc
from upkeep import __version__, files, metrics, samples
from upkeep.outbox import Letter, Outbox

PROMTOOL = shutil.which("promtool")
EXPORTER = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
HOSTILE = 'e"v\\il\n<b>\udcff.py'


def lint(text: str) -> None:
    if not PROMTOOL:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_labels_are_escaped_and_the_file_is_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "upkeep.prom"
    before = os.umask(0o077)
    try:
        metrics.write(path, {"upkeep_x_bytes": {("group", HOSTILE): 5, ("group", "b"): 1.5}})
    finally:
        os.umask(before)
    text = path.read_bytes().decode()
    assert text.splitlines()[2] == 'upkeep_x_bytes{group="e\\"v\\\\il\\n<b>?.py"} 5.0'
    assert text.endswith("\n") and path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["upkeep.prom"]
    lint(text)


@pytest.fixture
def textfile(home: Path) -> Path:
    """What memory_sample.py writes about a host with a task, a letter and forty programs."""
    fake = FakeProc(home / "proc")
    for number in range(40):
        fake.process(100 + number, ["python3", f"/srv/bot{number}.py"], 1000 + number, pss_kib=9)
    fake.process(99, ["/srv/" + 'we"ird\\\n'], 9000)
    fake.process(98, ["bash", "-c", "curl -H secret"], 9000)
    (home / "data").mkdir()
    target = home / "textfiles"
    target.mkdir()
    (home / "upkeep.toml").write_text(
        f'[paths]\nprometheus = "{target}"\n[host]\ndata_dirs = ["{home}/data"]\n'
        '[task.bot]\ncommand = ["x"]\nmax_rss = "80M"\n[task.idle]\ncommand = ["x"]\n'
    )
    record = {"boot_id": BOOT_ID, "pid": 107, "start_ticks": 5000}
    record |= {"counts": {"by hand": 1, "death": 4}, "trouble": {"given_up": {}}}
    files.write_state(home / "var/tasks/bot.json", record)
    Outbox(home / "var/outbox").put(Letter(text="waits"), time.time() - 600)
    until = {"until": time.time() + 300, "why": "no network", "fails": 3}
    files.write_state(home / "var/outbox/breaker.json", {"api": until})
    rows = [[f"bot{n}.py", 100 + n, 5000, 1, 40_000 + n] for n in range(40)]
    for index in range(300, 0, -1):  # one program grows by 1 MiB each five minutes
        row = {"time": round(time.time()) - index * 300, "boot_id": BOOT_ID, "swapped": 0}
        row |= {"uptime": 200_000 - index * 300, "disks": {}}
        samples.append(
            home / "var", row | {"programs": [*rows, ["bot", 107, 5000, 1, 9**6 - index * 1024]]}
        )
    fake.write("uptime", "200000.0 1.0\n")
    sample(home)
    os.chmod(home, 0o755)
    return target


def sample(home: Path, code: int = 0) -> None:
    args = ("--config", home / "upkeep.toml", "--proc-root", home / "proc")
    result = run_script("memory_sample", *args)
    assert result.returncode == code, result.stderr


def values(textfile: Path) -> dict[str, float]:
    text = (textfile / "upkeep_memory.prom").read_text()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_a_sample_passes_the_linter_of_prometheus(textfile: Path) -> None:
    text = (textfile / "upkeep_memory.prom").read_text()
    lint(text)
    groups = [line for line in text.splitlines() if line.startswith("upkeep_processes{")]
    assert len(groups) == 25
    assert "pid=" not in text and "/srv/bot" not in text and "curl" not in text


def test_what_alert_rules_need_is_there(textfile: Path) -> None:
    found = values(textfile)
    page = os.sysconf("SC_PAGE_SIZE")
    bot, idle, other = (f'{{group="{name}"}}' for name in ("bot", "idle", "other"))
    assert found["upkeep_memory_limit_bytes"] == 2048000 << 10
    assert found[f'upkeep_build_info{{version="{__version__}"}}'] == 1
    assert found["upkeep_process_resident_memory_bytes" + bot] == 1007 * page
    assert found["upkeep_process_memory_limit_bytes" + bot] == 80 << 20
    assert found["upkeep_process_restarts_total" + bot] == 5
    assert found["upkeep_process_given_up" + bot] == 1
    assert found["upkeep_process_given_up" + idle] == found["upkeep_processes" + idle] == 0
    assert found["upkeep_process_leak_suspected" + bot] == 1
    slope = found["upkeep_process_memory_growth_bytes_per_second" + bot]
    assert slope == pytest.approx((1 << 20) / 300, rel=0.02)
    assert found["upkeep_process_time_to_limit_seconds" + bot] == 0
    started = found["upkeep_process_start_time_seconds" + bot]
    assert started == pytest.approx(time.time() - 200_000 + 50, abs=60)
    assert found["upkeep_processes" + other] == 42 - 1 - 22  # 25 groups with both tasks and this
    assert found["upkeep_outbox_messages"] == 1 and found["upkeep_delivery_breaker_open"] == 1
    assert 590 < found["upkeep_outbox_oldest_age_seconds"] < 700
    assert any(name.startswith("upkeep_directory_size_bytes{path=") for name in found)
    assert not any(name.startswith("upkeep_process_restarts_total" + idle) for name in found)


def test_starts_do_not_move_with_the_clock_and_success_stands_still_in_trouble(
    home: Path, textfile: Path
) -> None:
    before = values(textfile)
    (home / "proc/uptime").write_text("200290.0 1.0\n")  # only ten seconds have gone by
    (day,) = sorted((home / "var/memory").glob("2*.jsonl"))[-1:]
    day.rename(day.with_suffix(".was"))
    day.mkdir()
    sample(home, code=1)
    after = values(textfile)
    success = 'upkeep_last_success_timestamp_seconds{script="memory_sample"}'
    assert after[success] == before[success]
    start = 'upkeep_process_start_time_seconds{group="bot"}'
    assert after[start] == before[start]
    day.rmdir()
    sample(home)
    assert values(textfile)[success] > before[success]


@pytest.mark.skipif(not EXPORTER, reason="node_exporter is not installed")
def test_a_real_node_exporter_serves_every_figure(textfile: Path) -> None:
    assert EXPORTER
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [EXPORTER, "--collector.disable-defaults", "--collector.textfile"]
    command += [f"--collector.textfile.directory={textfile}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as exporter:
        try:

            def scrape() -> str:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                        return str(answer.read().decode())
                except OSError:
                    return ""

            served = wait_until(scrape)
        finally:
            exporter.kill()
    assert "node_textfile_scrape_error 0\n" in served
    own = (textfile / "upkeep_memory.prom").read_text().splitlines()
    names = {line.split("{")[0].split()[0] for line in own if not line.startswith("#")}
    assert len(names) == 22
    for name in names:
        count = sum(line.startswith((f"{name}{{", f"{name} ")) for line in own)
        shown = [x for x in served.splitlines() if x.startswith((f"{name}{{", f"{name} "))]
        assert len(shown) == count, name


def test_the_docs_list_every_name_with_its_help() -> None:
    rows = (ROOT / "docs/memory_sample.md").read_text().splitlines()
    listed = {row.split("`")[1]: row for row in rows if row.startswith("| `upkeep_")}
    assert list(listed) == list(metrics.HELP)
    for name, row in listed.items():
        _, kind, _label, meaning = (cell.strip() for cell in row.strip("|").split("|"))
        assert meaning == metrics.HELP[name]
        assert kind == ("counter" if name.endswith("_total") else "gauge")


def test_every_name_of_the_suite_passes_the_linter(tmp_path: Path) -> None:
    metrics.write(tmp_path / "all.prom", {name: {("x", "y"): 1} for name in metrics.HELP})
    lint((tmp_path / "all.prom").read_text())
