"""bin/bench: what the benches measured ends in one table."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import row
from tests.helpers import ROOT

BENCH = """
from tests.bench import row
print("setting up")
raise SystemExit(not row({what!r}, {ours}, "the peer", 10, 1.5))
"""


def test_a_row_names_the_ratio_and_whether_the_goal_is_met(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert row("a send", 120.0, "requests", 100.0, 1.2)
    assert not row("a send", 121.0, "requests", 100.0, 1.2)
    assert row("a prune", 0.4, "naive", 100.0, 0.02, "s")
    assert row("peak", 15.0, goal=20, unit="MiB")
    assert not row("peak", 21.0, goal=20, unit="MiB")
    assert row("size", 1234.0, unit="KB")
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        ["a send", "120 ms", "requests", "100 ms", "1.20", "1.2", "ok"],
        ["a send", "121 ms", "requests", "100 ms", "1.21", "1.2", "MISSED"],
        ["a prune", "0.4 s", "naive", "100 s", "0.004", "0.02", "ok"],
        ["peak", "15 MiB", "", "", "", "20 MiB", "ok"],
        ["peak", "21 MiB", "", "", "", "20 MiB", "MISSED"],
        ["size", "1234 KB", "", "", "", "", ""],
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with two benches that take no time, and the .venv that these tests run in."""
    for name in ("bin/bench", "bin/setup", "tests/bench/__init__.py", "tests/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    for name, ours in (("fine", 12), ("slow", 20)):
        text = BENCH.format(what=f"what {name} does", ours=ours)
        (tmp_path / f"tests/bench/bench_{name}.py").write_text(text)
    return tmp_path


def bench(checkout: Path, *names: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PEERS": "", "PYTHONPATH": str(ROOT / "lib")}
    command = [checkout / "bin/bench", *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="runs in the .venv of the checkout")
def test_every_bench_is_run_and_one_table_is_printed(checkout: Path) -> None:
    result = bench(checkout)
    head, table = result.stdout.split("\n\n")
    assert "CPUs" in head and "upkeep " in head
    assert table.splitlines() == [
        "what            upkeep  peer      peer   ratio  goal",
        "what fine does  12 ms   the peer  10 ms  1.20   1.5   ok",
        "what slow does  20 ms   the peer  10 ms  2.00   1.5   MISSED",
    ], result.stderr
    assert result.returncode == 1
    assert "setting up\n" in result.stderr


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="runs in the .venv of the checkout")
def test_one_bench_is_run_alone_and_a_wrong_name_is_said(checkout: Path) -> None:
    assert bench(checkout, "fine").returncode == 0
    wrong = bench(checkout, "nothing")
    assert wrong.returncode == 1 and "nothing: no figures" in wrong.stderr
