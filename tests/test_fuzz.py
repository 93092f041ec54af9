"""Damaged input of every kind: whatever others write, a script ends with a line and a status."""

import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bin import (
    cleanup,
    mem_baseline,
    mem_snapshot,
    memory_report,
    memory_sample,
    restart,
    run_job,
    status,
    stop,
    telegram_alert,
    watchdog,
)
from tests.helpers import HELPERS, LONG
from tests.helpers.bot_api import CHAT, TOKEN
from tests.helpers.fake_proc import FakeProc
from tests.helpers.house import House
from upkeep import message, proc, schedule, text, timestamps, units

ROUNDS = 20_000 if LONG else 100
SECONDS = 30  # a run that takes longer hangs
STATUSES = {0, 1, 2, 3, 5, 7}
TOKENS = re.compile(rb'"[^"\n]*"|-?\d+(?:\.\d+)?|true|false|null|[\w.]+')
ODD = [
    *(b"NaN", b"Infinity", b"1e999", b"-1", b"-0.0", b"0", b"1.5", b"9" * 30, b"9" * 5000, b"1e11"),
    *(b"null", b"true", b"[]", b"{}", b'""', b'"x"', b'"\\ud800"', b'"\\u0000"', b'"1970-01-01"'),
    *(b'"../../etc/passwd"', b'"' + b"x" * 5000 + b'"', b"[" * 3000, b"\xff\xfe", b"\0", b"\n\n"),
    *(b"\xe2\x80\xae", b"\x1b[2J", "²".encode(), "१२".encode(), b"4194304", b"99999999999"),
]

Main = Callable[[Sequence[str]], int]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """`data` after one to three accidents."""
    for _ in range(chance.randint(1, 3)):
        data = chance.choice([torn, flipped, replaced, replaced, replaced, doubled])(data, chance)
    return data


def torn(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randint(0, len(data))]


def flipped(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return b"\xff"
    changed = bytearray(data)
    changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def replaced(data: bytes, chance: random.Random) -> bytes:
    """A word, a number or a text becomes something odd."""
    found = list(TOKENS.finditer(data))
    if not found:
        return data + chance.choice(ODD)
    match = chance.choice(found)
    return data[: match.start()] + chance.choice(ODD) + data[match.end() :]


def doubled(data: bytes, chance: random.Random) -> bytes:
    begin, end = sorted(chance.randint(0, len(data)) for _ in range(2))
    return data[:end] + data[begin:]


def outcome(main: Main, words: Sequence[str | Path], log: Path) -> int:
    """The exit status of a script that runs in a child of its own; what it said is in `log`."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(SECONDS)
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
            sys.argv = [f"{main.__module__.rpartition('.')[2]}.py"]
            code = main([str(word) for word in words])
            sys.stdout.flush()
            os._exit(code)
        except BaseException as error:
            import traceback

            code = error.code if isinstance(error, SystemExit) else None
            if not isinstance(code, int):
                os.write(2, traceback.format_exc().encode("utf-8", "replace"))
            os._exit(code if isinstance(code, int) else 99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Victim:
    """A house in which everything has happened once, and the files that this left."""

    def __init__(self, place: Path) -> None:
        self.place, self.house = place, House(place)
        self.data, self.log = place / "data", place / "said"
        self.data.mkdir()
        self.house.task("app", [sys.executable, "-S", str(HELPERS / "growing.py"), "1"])
        with self.house.config.open("a") as file:
            file.write(f'max_rss = "300M"\n[host]\ndata_dirs = ["{self.data}"]\n')
            file.write(f'[cleanup.old]\npaths = ["{self.data}"]\nmatch = ["*.jsonl"]\n')
            file.write('older_than = "90d"\naction = "prune"\n')
        nobody = "http://127.0.0.1:9"
        (place / ".env").touch(0o600)
        (place / ".env").write_text(
            f"TELEGRAM_BOT_TOKEN={TOKEN}\nTELEGRAM_CHAT_ID={CHAT}\nTELEGRAM_API_BASE={nobody}\n"
        )
        records = [{"timestamp": time.time() - 86400 * age, "n": age} for age in (200, 100, 9, 1)]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (self.data / "a.jsonl").write_text(lines)
        self.happen()
        fake = FakeProc(place / "proc")
        fake.process(10, ["python3", "/srv/bot.py"], 30_000, pss_kib=9)
        fake.process(11, ["gunicorn: worker [shop:app]"], 9000, parent=10)
        fake.cgroup(2, {"memory.max": "9999999\n", "memory.current": "5\n"}, "/a/b")
        self.files = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}

    def happen(self) -> None:
        for script, *words in (
            ("restart", "app"),
            ("memory_sample",),
            ("memory_sample",),
            ("run_job", "backup", "--", "true"),
            ("run_job", "feed", "--", "false"),
            ("telegram_alert", "nobody hears this", "--budget", "0.1s"),
            ("watchdog",),
            ("cleanup", "--force"),
            ("memory_report", "--export", str(self.place / "history.jsonl")),
            ("mem_baseline", "--task", "app", "--duration", "0.1s", "--save", str(self.base)),
        ):
            self.house.run(script, *words)

    @property
    def base(self) -> Path:
        return self.place / "base.json"

    def runs(self) -> list[tuple[Main, list[str | Path]]]:
        """Scripts and their arguments: together they read every file. None sends or signals."""
        return [
            (status.main, ["--json"]),
            (watchdog.main, ["--dry-run"]),
            (restart.main, ["app", "--dry-run", "--if-leaking"]),
            (restart.main, ["app", "--dry-run"]),
            (stop.main, ["app", "--dry-run"]),
            (run_job.main, ["--status"]),
            (run_job.main, ["feed", "--", "true"]),
            (cleanup.main, ["--json"]),
            (cleanup.main, ["--dry-run"]),
            (memory_sample.main, []),
            (memory_sample.main, ["--proc-root", self.place / "proc"]),
            (memory_report.main, ["--json"]),
            (memory_report.main, ["--html", self.place / "page.html"]),
            (memory_report.main, ["--proc-root", self.place / "proc"]),
            (memory_report.main, ["--history", self.place / "history.jsonl"]),
            (mem_baseline.main, ["--compare", self.base, self.base]),
            (mem_snapshot.main, ["--pid-file", self.house.state / "run/app.pid"]),
            (telegram_alert.main, ["--status"]),
            (telegram_alert.main, ["again", "--key", "k", "--budget", "0.1s"]),
            (telegram_alert.main, ["--flush", "--budget", "0.1s"]),
        ]

    def restore(self) -> None:
        """Everything as it was; what came in addition goes."""
        kept = {*self.files, *(folder for path in self.files for folder in path.parents)}
        for path in sorted(self.place.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                path.rmdir() if path not in kept or path in self.files else None
            elif path not in self.files or not path.is_file():
                path.unlink()
        for path, content in self.files.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.fixture
def victim(home: Path) -> Victim:
    return Victim(home)


def require_every_kind_of_file(victim: Victim) -> None:
    names = {str(path.relative_to(victim.place)) for path in victim.files}
    for kind in (
        *("upkeep.toml", ".env", "history.jsonl", "base.json", "data/a.jsonl"),
        *("var/run/app.pid", "var/tasks/app.json", "var/restarts.jsonl"),
        *("var/alerts.json", "var/cleanup.json", "var/jobs/feed.json", "var/lock/job-feed.lock"),
        *("var/memory/state.json", r"var/memory/[\d-]+.jsonl", r"var/outbox/new/\S+.json"),
        *("var/outbox/breaker.json", "proc/10/stat", "proc/meminfo", "proc/self/mountinfo"),
    ):
        assert any(re.fullmatch(kind, name) for name in names), (kind, names)


def test_damaged_files_end_as_a_line_and_a_status(victim: Victim) -> None:
    require_every_kind_of_file(victim)
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        main, words = chance.choice(victim.runs())
        hurt = chance.sample(sorted(victim.files), chance.randint(1, 6))
        for path in hurt:
            path.write_bytes(damaged(victim.files[path], chance))
        code = outcome(main, ["--config", victim.house.config, *words], victim.log)
        said = victim.log.read_bytes().decode("utf-8", "replace")
        about = f"seed {seed}: {main.__module__} {words} {[str(path) for path in hurt]}: {said}"
        assert code in STATUSES, f"{code} {about}"
        assert "Traceback" not in said, about
        assert "\x1b" not in said and "\0" not in said, about
        assert TOKEN not in said, about
        victim.restore()


def test_what_is_no_file_at_all_ends_as_a_line_and_a_status(victim: Victim) -> None:
    """A directory, a FIFO, a link that leads in a circle in the place of each file of the state."""
    kinds = (Path.mkdir, os.mkfifo, lambda at: at.symlink_to(at))
    read = [path for path in victim.files if path.is_relative_to(victim.house.state)]
    paths = [*sorted(read), victim.place / ".env", victim.data / "a.jsonl"]
    for number, path in enumerate(paths):
        for put in kinds if LONG else [kinds[number % 3]]:
            main, words = random.Random(number).choice(victim.runs())
            path.unlink()
            put(path)
            code = outcome(main, ["--config", victim.house.config, *words], victim.log)
            said = victim.log.read_text(errors="replace")
            assert code in STATUSES and "Traceback" not in said, (code, main, words, path, said)
            victim.restore()


def test_what_hung_or_reached_the_terminal_once_does_not_any_more(victim: Victim) -> None:
    state, where = victim.house.state, ("--config", victim.house.config)
    for name, main in (
        ("restarts.jsonl", status.main),
        ("tasks/app.json", memory_sample.main),
        (next((state / "memory").glob("*-*.jsonl")).name, memory_report.main),
    ):
        path = next(state.rglob(name))
        path.unlink()
        os.mkfifo(path)
        assert outcome(main, where, victim.log) in (0, 1), victim.log.read_text()
        victim.restore()
    victim.house.config.write_text('[host]\n"\\u001b[2J" = 1\n')
    assert outcome(status.main, where, victim.log) == 2
    assert '"\\x1b[2J"' in victim.log.read_text()


def texts(sample: str) -> list[str]:
    found = [damaged(sample.encode(), random.Random(seed)) for seed in range(ROUNDS * 5)]
    return [each.decode("utf-8", "surrogateescape") for each in found]


def test_a_stat_line_is_taken_apart_or_is_none() -> None:
    line = Path("/proc/self/stat").read_bytes()
    for seed in range(ROUNDS * 10):
        proc.parse_stat(damaged(line, random.Random(seed)))


@pytest.mark.parametrize(
    ("parse", "sample"),
    [
        (units.parse_size, "1.5GiB"),
        (units.parse_duration, "1h30m"),
        (lambda each: list(schedule.times(each, 1.6e9, 1.6e9 + 3e6)), "*/5 1-5 1,15 * 0-7/2"),
    ],
)
def test_a_value_is_understood_or_refused(parse: Callable[[str], object], sample: str) -> None:
    understood = 0
    for each in texts(sample):
        try:
            parse(each)
            understood += 1
        except ValueError as error:
            assert str(error)
    assert understood


def test_a_date_is_found_or_is_none() -> None:
    for each in texts("app-2026-02-13.log") + texts("2026-02-13T03:00:01.5+09:00"):
        for found in (timestamps.name_date(each), timestamps.record_time(each)):
            assert found is None or isinstance(found, float)


def test_any_text_becomes_parts_that_telegram_can_take() -> None:
    sample = '<b>disk <i>full</i></b> &lt;<a href="x">y</a>&gt; <pre>a\tb</pre>\n'
    for each in texts(sample):
        long = message.clean(each * 40)
        for part in message.split(long, 200):
            assert 0 < message.units(part) <= 200
            part.encode()
        for part in message.split(long, 400, html=True):
            part.encode()
        assert text.printable(each).isprintable()
