"""cron/upkeep and logrotate/upkeep: what they name exists, and the real programs take them."""

import re
import shlex
import subprocess
import threading
from pathlib import Path

import pytest

from tests.helpers import ROOT, cron_machine, run_script, wait_until
from upkeep import files

LINE = re.compile(r"(@\w+|\S+(?: \S+){4}) (\w+) (.+)")
LINES = [
    line
    for line in (ROOT / "cron/upkeep").read_text().splitlines()
    if line and not line.startswith("#")
]
lines = pytest.mark.parametrize("line", LINES)


@lines
def test_a_line_names_existing_scripts_and_options_that_they_take(line: str, home: Path) -> None:
    match = LINE.fullmatch(line)
    assert match and match[2] == "root" and "%" not in line and len(line) < 998
    (home / "upkeep.toml").touch()
    (home / ".env").write_text(f"TELEGRAM_BOT_TOKEN=123456:{'x' * 35}\nTELEGRAM_CHAT_ID=1\n")
    (home / ".env").chmod(0o600)
    words = shlex.split(match[3].replace("/opt/upkeep", str(ROOT)))
    for word in words:
        if word.startswith("/"):
            assert Path(word).stat().st_mode & 0o111 == 0o111
    env = {"UPKEEP_DRY_RUN": "1", "UPKEEP_CONFIG": str(home / "upkeep.toml")}
    result = run_script(Path(words[0]).stem, *words[1:], env=env)
    assert result.returncode == 0, result.stderr


@lines
def test_a_line_runs_outside_the_hours_in_which_clocks_are_changed(line: str) -> None:
    expression = LINE.fullmatch(line)[1]  # type: ignore[index]
    hour = "*" if expression == "@reboot" else expression.split()[1]
    assert hour == "*" or int(hour) not in (1, 2)


def test_crontab_takes_the_lines(home: Path) -> None:
    cron_machine.require()
    (home / "lines").write_text("".join(line.replace(" root ", " ", 1) + "\n" for line in LINES))
    subprocess.run(["crontab", "-n", home / "lines"], check=True)


def test_lines_do_not_all_start_in_the_same_minute() -> None:
    daily = [line.split(" ")[:2] for line in LINES if re.match(r"\d+ \d+ ", line)]
    assert len(daily) == len({tuple(each) for each in daily})


def _logrotate(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    rules = (ROOT / "logrotate/upkeep").read_text().replace("/opt/upkeep", str(place))
    (place / "rules").write_text(rules)
    (place / "rules").chmod(0o644)
    cron_machine.require()
    return subprocess.run(
        ["/usr/sbin/logrotate", *options, "-s", place / "state", place / "rules"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_logrotate_takes_the_file_without_a_word_of_warning(home: Path) -> None:
    for name in ("upkeep.log", "job-backup.log", "trader.log"):
        files.append_line(home / "var/log" / name, "a line")
    result = _logrotate(home, "-d")
    said = [line for line in result.stderr.splitlines() if re.search("error|warning", line, re.I)]
    assert result.returncode == 0
    assert [line for line in said if "debug mode" not in line] == []
    for name in ("upkeep.log", "job-backup.log", "trader.log"):
        assert result.stderr.count(f"considering log {home}/var/log/{name}\n") == 1


def test_rotation_loses_no_line_of_our_own_log(home: Path) -> None:
    log, stop, written = home / "var/log/upkeep.log", threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            files.append_line(log, f"line {len(written)}")
            written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(6):
            wait_until(lambda least=(turn + 1) * 200: len(written) > least)
            assert _logrotate(home, "-f").returncode == 0
    finally:
        stop.set()
        writer.join()
    kept = subprocess.run(
        f"zcat -f {log.parent}/upkeep.log*", shell=True, capture_output=True, check=True
    ).stdout.splitlines()
    assert sorted(kept) == sorted(f"line {n}".encode() for n in range(len(written)))


def test_a_task_log_keeps_its_file_and_its_writer(home: Path) -> None:
    log = home / "var/log/trader.log"
    files.append_line(log, "before")
    with open(log, "ab", buffering=0) as writer:
        assert _logrotate(home, "-f").returncode == 0
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"


def test_the_real_cron_runs_the_lines(home: Path) -> None:
    with cron_machine.machine(home / "machine") as host:
        marks = home / "marks"
        marks.mkdir()
        config = home / "upkeep.toml"
        config.touch()
        (home / ".env").write_text(f"TELEGRAM_BOT_TOKEN=123456:{'x' * 35}\nTELEGRAM_CHAT_ID=1\n")
        (home / ".env").chmod(0o600)
        for number, line in enumerate(LINES):
            command = LINE.fullmatch(line)[3].replace("/opt/upkeep", str(ROOT))  # type: ignore[index]
            files.atomic_write(
                host.place / "cron.d" / f"line-{number}",
                f"@reboot root export UPKEEP_DRY_RUN=1 UPKEEP_CONFIG={config};"
                f" {command} >{marks}/{number} 2>&1;"
                f" echo $? >{marks}/{number}.status\n".encode(),
                0o644,
            )
        with host.cron():
            wait_until(lambda: len(list(marks.glob("*.status"))) == len(LINES), 60)
        for number, line in enumerate(LINES):
            status = (marks / f"{number}.status").read_text().strip()
            assert status == "0", (line, (marks / str(number)).read_text())
