"""Figures for Prometheus, checked by its own tool and scraped by a real node_exporter."""

import os
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.helpers import ROOT, run_script, wait_until
from tests.helpers.fake_proc import FakeProc
from upkeep import metrics

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
    """What memory_sample.py writes about this host, with forty more programs."""
    fake = FakeProc(home / "proc")
    for number in range(40):
        fake.process(100 + number, ["python3", f"/srv/bot{number}.py"], 1000 + number, pss_kib=9)
    fake.process(99, ["/srv/" + 'we"ird\\\n'], 9000)
    (home / "data").mkdir()
    target = home / "textfiles"
    target.mkdir()
    (home / "upkeep.toml").write_text(
        f'[paths]\nprometheus = "{target}"\n[host]\ndata_dirs = ["{home}/data"]\n'
    )
    args = ("--config", home / "upkeep.toml", "--proc-root", fake.root)
    result = run_script("memory_sample", *args)
    assert result.returncode == 0, result.stderr
    os.chmod(home, 0o755)
    return target


def test_a_sample_passes_the_linter_of_prometheus(textfile: Path) -> None:
    text = (textfile / "upkeep_memory.prom").read_text()
    lint(text)
    groups = [line for line in text.splitlines() if line.startswith("upkeep_processes{")]
    assert len(groups) == 25
    assert "upkeep_memory_limit_bytes 2097152000.0\n" in text
    assert 'upkeep_directory_size_bytes{path="' in text
    assert "pid=" not in text and "/srv/bot" not in text


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
    assert len(names) == 11
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
