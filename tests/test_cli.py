import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

TOKEN = "123456789:AAHnotARealTokenButShapedLikeOne_-12345"
HEAD = """
import sys
sys.path.insert(0, "lib")
from upkeep import cli
from upkeep.errors import Exit, OperatorError
@cli.script
def main(argv=None):
"""


def run(body: str, *args: str, **more: object) -> subprocess.CompletedProcess[str]:
    code = HEAD + "".join(f"    {line}\n" for line in body.splitlines())
    code += "raise SystemExit(main())\n"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **more,
    )


def test_an_operators_mistake_is_one_line_and_its_exit_status() -> None:
    result = run("raise OperatorError('no way\\nback', Exit.REFUSED)")
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1 and "no way back" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["EACCES", "EROFS", "ENOSPC"])
def test_missing_rights_and_a_full_disk_are_one_line(name: str) -> None:
    result = run(f"import errno, os; raise OSError(errno.{name}, os.strerror(errno.{name}), '/x')")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "/x: " in result.stderr
    assert "Traceback" in run("import errno; raise OSError(errno.EBADF, 'bug', '/x')").stderr


def test_a_name_that_the_locale_cannot_write_is_one_line() -> None:
    narrow = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = run(r"open('/tmp/\u65e5')", env=narrow)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "PYTHONUTF8=1" in result.stderr
    bug = run(r"open('/tmp/\ud800')", env={**narrow, "PYTHONUTF8": "1"})
    assert "Traceback" in bug.stderr


def test_an_output_that_takes_no_more_is_one_line() -> None:
    code = HEAD + "    print('x')\n    return 0\nraise SystemExit(main())\n"
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr


def test_a_bug_keeps_its_traceback_but_no_token() -> None:
    result = run(f"raise KeyError('{TOKEN}')")
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "KeyError" in result.stderr
    assert TOKEN.partition(":")[2] not in result.stderr


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_runs_the_finally_blocks_and_has_its_status(name: str, status: int) -> None:
    body = (
        "import os, signal, time\n"
        "try:\n"
        f"    os.kill(os.getpid(), signal.{name}); time.sleep(600)\n"
        "finally:\n"
        "    print('tidied')\n"
    )
    result = run(body)
    assert result.returncode == status
    assert result.stdout == "tidied\n"
    assert "Traceback" not in result.stderr


def test_a_reader_that_went_away_is_no_error() -> None:
    code = HEAD + "    for _ in range(100000): print('x' * 100)\n    return 0\n"
    code += "raise SystemExit(main())\n"
    shell = f'"{sys.executable}" -c "$0" | head -1'
    result = subprocess.run(
        ["sh", "-c", shell, code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stderr == ""
    assert result.stdout == "x" * 100 + "\n"


def test_any_name_can_be_printed_in_any_locale() -> None:
    result = run(
        "print('caf\\udce9 \\u65e5'); return 0",
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )
    assert result.returncode == 0
    assert result.stdout == "caf\\udce9 \\u65e5\n"


def test_a_missing_package_is_one_line_with_the_command() -> None:
    body = (
        "import importlib.util\n"
        "cli.PACKAGES['no_such_module'] = ('python3-none', 'none')\n"
        "cli.require('no_such_module')\n"
    )
    result = run(body)
    assert result.returncode == 2
    assert "apt install python3-none" in result.stderr and "pip install none" in result.stderr
    assert "bin/setup" in result.stderr


def test_the_log_has_one_line_per_event_without_secrets(home: Path) -> None:
    body = (
        "from pathlib import Path\n"
        "from upkeep.config import Config\n"
        f"settings = Config(file=None, state=Path({str(home)!r}))\n"
        f"cli.log(settings, 'sent\\nwith {TOKEN}')\n"
        "return 0\n"
    )
    assert run(body).returncode == 0
    lines = (home / "log/upkeep.log").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(" _c sent\\nwith <token>")
    assert lines[0][10] == "T" and lines[0][19] in "+-"


def test_a_log_that_cannot_be_written_stops_nothing(home: Path) -> None:
    (home / "log").write_text("a file where the directory should be")
    body = (
        "from pathlib import Path\n"
        "from upkeep.config import Config\n"
        f"cli.log(Config(file=None, state=Path({str(home)!r})), 'x')\n"
        "print('went on'); return 0\n"
    )
    result = run(body)
    assert result.stdout == "went on\n"
    assert "cannot write the log" in result.stderr


def test_dry_run_can_be_asked_for_by_the_environment() -> None:
    body = (
        "p = cli.parser('x', ''); cli.add_dry_run(p); print(p.parse_args(argv).dry_run); return 0"
    )
    for value, expected in (("1", "True"), ("0", "False"), ("", "False")):
        result = run(body, env={"PATH": "/usr/bin:/bin", "UPKEEP_DRY_RUN": value})
        assert result.stdout == expected + "\n"


def test_a_damaged_state_file_is_told_once(home: Path) -> None:
    (home / "s.json").write_text("{torn")
    body = (
        "from pathlib import Path\n"
        "from upkeep import files\n"
        f"files.read_state(Path({str(home / 's.json')!r})); return 0\n"
    )
    assert "a damaged state file was set aside" in run(body).stderr
    assert run(body).stderr == ""


@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_finds_no_room_is_one_line(lines: int) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{HEAD}    print('x\\n' * {lines}); return 0\nraise SystemExit(main())",
        ],
        cwd=ROOT,
        stdout=open("/dev/full", "w"),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == "_c: the output: No space left on device\n"
