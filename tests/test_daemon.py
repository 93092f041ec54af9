"""What users build their own programs on: nothing saved twice, nothing lost that was promised."""

import fcntl
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import HELPERS, ROOT, is_running, wait_until
from tests.test_metrics import lint
from upkeep import daemon
from upkeep.breaker import Breaker


class Program:
    """A running tests/helpers/saving_program.py."""

    def __init__(self, place: Path, mode: str = "", ignore: int = 0) -> None:
        self.file = place / "saved"
        self.process = subprocess.Popen(
            [sys.executable, HELPERS / "saving_program.py", self.file, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=(lambda: signal.signal(ignore, signal.SIG_IGN)) if ignore else None,
        )
        self.said: list[str] = []
        self.read_until("ready")

    def read_until(self, word: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.strip())
            if line.startswith(word):
                return line.strip()
        raise AssertionError(f"it ended without {word}: {self.said}")

    def end(self, number: int = 0) -> int:
        if number:
            self.process.send_signal(number)
        out, self.errors = self.process.communicate(timeout=30)
        self.said += out.split("\n")
        return self.process.returncode

    @property
    def saved(self) -> list[str]:
        return self.file.read_text().split() if self.file.exists() else []


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    made: list[Program] = []
    yield made
    for each in made:
        each.process.kill()
        each.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_sleep_and_saves_once(tmp_path, programs, number):
    programs.append(program := Program(tmp_path))
    assert program.end(number) == 0
    assert program.saved == ["saved", "more"]
    assert "end" in program.said and "woken early" not in program.said


def test_a_kill_saves_nothing_twice_and_tears_nothing(tmp_path, programs):
    programs.append(program := Program(tmp_path))
    assert program.end(signal.SIGKILL) == -signal.SIGKILL
    assert program.saved == []


def test_other_signals_do_not_wake_the_sleeper(tmp_path, programs):
    programs.append(program := Program(tmp_path))
    for _ in range(3):
        program.process.send_signal(signal.SIGUSR1)
        program.read_until("usr1")
    assert program.end(signal.SIGTERM) == 0
    assert "woken early" not in program.said


def test_signals_during_the_saving_neither_stop_nor_repeat_it(tmp_path, programs):
    programs.append(program := Program(tmp_path, "slow"))
    program.process.send_signal(signal.SIGTERM)
    program.read_until("saving")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        program.process.send_signal(number)
    assert program.process.stdin
    program.process.stdin.write("go on\n")
    assert program.end() == 0
    assert program.saved == ["saved", "more"]


def test_an_exception_saves_too_and_is_not_swallowed(tmp_path, programs):
    programs.append(program := Program(tmp_path, "raise"))
    assert program.end() == 1
    assert program.saved == ["saved", "more"]
    assert "RuntimeError: a bug" in program.errors


def test_one_failing_callback_does_not_cost_the_others(tmp_path, programs):
    programs.append(program := Program(tmp_path, "fails"))
    assert program.end(signal.SIGTERM) == 1
    assert program.saved == ["saved", "more"]
    assert "cannot save" in program.errors


def test_nohup_is_honoured(tmp_path, programs):
    programs.append(program := Program(tmp_path, ignore=signal.SIGHUP))
    program.process.send_signal(signal.SIGHUP)
    program.process.send_signal(signal.SIGUSR1)
    program.read_until("usr1")
    assert program.saved == [] and program.process.poll() is None
    assert program.end(signal.SIGTERM) == 0


def test_a_forked_worker_dies_of_the_signal_and_saves_nothing(tmp_path, programs):
    programs.append(program := Program(tmp_path, "fork"))
    worker = int(next(line for line in program.said if "worker" in line).split()[1])
    os.kill(worker, signal.SIGTERM)
    wait_until(lambda: not is_running(worker))
    assert program.saved == [] and program.process.poll() is None
    assert program.end(signal.SIGTERM) == 0
    assert program.saved == ["saved", "more"]


def test_a_child_that_leaves_the_block_does_not_save(tmp_path, programs):
    programs.append(program := Program(tmp_path, "leave"))
    assert program.end(signal.SIGTERM) == 0
    assert program.saved == ["saved", "more"]


def test_a_thread_that_sleeps_wakes_too(tmp_path, programs):
    programs.append(program := Program(tmp_path, "thread"))
    assert program.end(signal.SIGTERM) == 0
    assert "thread True" in " ".join(program.said)


def test_the_handlers_from_before_are_back_after_the_block():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with daemon.GracefulShutdown() as shutdown:
        assert signal.getsignal(signal.SIGTERM) not in before
        assert shutdown.sleep(0) is False
        os.kill(os.getpid(), signal.SIGTERM)
        assert shutdown.sleep(60) is True and shutdown.requested
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_blocks_leave_no_descriptor_open():
    gc.collect()  # what other tests have left
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        with daemon.GracefulShutdown() as shutdown:
            shutdown.sleep(0)
    del shutdown
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_sleep_beyond_what_the_kernel_takes_is_no_error():
    with daemon.GracefulShutdown() as shutdown:
        os.kill(os.getpid(), signal.SIGTERM)
        assert shutdown.sleep(1e12)
        assert shutdown.sleep(-1)


def test_retry_pauses_longer_each_time_and_raises_the_last_error():
    pauses: list[float] = []
    failures = [OSError("first"), OSError("second"), OSError("last")]

    @daemon.retry(tries=3, delay=1, backoff=2, exceptions=(OSError,), sleep=pauses.append)
    def fetch() -> None:
        raise failures.pop(0)

    with pytest.raises(OSError, match="last"):
        fetch()
    assert pauses == [1, 2] and failures == []


def test_retry_returns_the_first_success_and_leaves_other_errors_alone():
    answers = [OSError("again"), "answer"]

    @daemon.retry(exceptions=(OSError,), sleep=lambda seconds: None)
    def fetch(suffix: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer) + suffix

    assert fetch("!") == "answer!" and fetch.__name__ == "fetch"

    @daemon.retry(exceptions=(OSError,), sleep=lambda seconds: pytest.fail("it waited"))
    def broken() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        broken()


def test_retry_stops_for_a_shutdown():
    calls = []
    with daemon.GracefulShutdown() as shutdown:

        @daemon.retry(tries=5, delay=60, sleep=shutdown.sleep)
        def fetch() -> None:
            calls.append(1)
            raise OSError("down")

        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(OSError, match="down"):
            fetch()
    assert len(calls) == 1


def test_health_over_the_limit_is_told_once_a_minute():
    shares: list[float] = []
    health = daemon.HealthCheck(limit=0.0, on_high=shares.append)
    share = health.check()
    health.check()
    assert shares == [share] and 0 < share < 1
    assert daemon.HealthCheck(limit=1.0, on_high=shares.append).check() > 0
    assert len(shares) == 1


def test_health_saves_when_it_is_due_and_again_after_a_failure():
    saved: list[int] = []
    seldom = daemon.HealthCheck(save=lambda: saved.append(1))
    seldom.check()
    assert saved == []

    def fail() -> None:
        saved.append(1)
        raise OSError("disk full")

    often = daemon.HealthCheck(save=fail, save_every=0)
    for count in (1, 2):
        with pytest.raises(OSError, match="disk full"):
            often.check()
        assert len(saved) == count


def test_a_heartbeat_moves_the_mtime(tmp_path):
    beat = tmp_path / "beat"
    daemon.heartbeat(beat)
    os.utime(beat, (1, 1))
    daemon.heartbeat(str(beat))
    assert beat.stat().st_mtime > 1
    with pytest.raises(OSError):
        daemon.heartbeat(tmp_path / "missing" / "beat")


def test_the_breaker_is_the_one_that_telegram_uses_and_nobody_elses_meanwhile(tmp_path):
    path = tmp_path / "breaker.json"
    with daemon.breaker(path) as breaker:
        assert isinstance(breaker, Breaker)
        breaker.failed(1000.0, "refused")
        with pytest.raises(BlockingIOError), open(f"{path}.lock") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with daemon.breaker(path) as again:
        assert again.open_until(1001.0) > 1001.0


def test_failures_of_several_processes_are_all_counted(tmp_path):
    code = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from upkeep import daemon
for _ in range(20):
    with daemon.breaker(Path(sys.argv[2])) as breaker:
        breaker.failed(1000.0, "refused")
    figures = {"x_total": {("who", 'a"\\\\\\n'): 1}, "y_total": {("", ""): 0.5}}
    daemon.metrics.add(Path(sys.argv[2] + ".prom"), figures)
"""
    command = [sys.executable, "-c", code, str(ROOT / "lib"), str(tmp_path / "b")]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [each.wait() for each in running] == [0] * 4
    assert Breaker(tmp_path / "b").records["api"]["fails"] == 80
    text = (tmp_path / "b.prom").read_text()
    assert 'x_total{who="a\\"\\\\\\n"} 80.0\n' in text and "\ny_total 40.0\n" in text
    lint(text)


def test_a_timer_counts_also_what_fails(tmp_path):
    path = tmp_path / "bot.prom"
    for _ in range(2):
        with pytest.raises(OSError, match="down"), daemon.metrics.timer(path, "bot_fetch"):
            time.sleep(0.01)
            raise OSError("down")
    with daemon.metrics.timer(path, "bot_fetch", ("market", "btc")):
        pass
    text = path.read_text()
    assert "\nbot_fetch_runs_total 2.0\n" in text
    assert 'bot_fetch_runs_total{market="btc"} 1.0\n' in text
    (seconds,) = re.findall(r"(?m)^bot_fetch_seconds_total (\S+)$", text)
    assert float(seconds) >= 0.02
    lint(text)
    with pytest.raises(FileNotFoundError):
        daemon.metrics.add(tmp_path / "missing" / "x.prom", {"x_total": {("", ""): 1}})


def test_the_metrics_writer_is_the_one_of_the_suite(tmp_path):
    figures = {"bot_trades_total": {("market", "btc"): 3.0}}
    daemon.metrics.write(tmp_path / "bot.prom", figures)
    assert 'bot_trades_total{market="btc"} 3.0\n' in (tmp_path / "bot.prom").read_text()


@pytest.fixture
def bot(tmp_path):
    """The program of the docs, without its half second, that saves after every trade."""
    (code,) = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "docs/daemon.md").read_text())
    path = tmp_path / "bot.py"
    path.write_text(code.replace("sleep(0.5)", "sleep(0.01)").replace("=300)", "=0)"))
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_the_program_of_the_docs_is_killed_and_goes_on_where_it_was(tmp_path, bot, number):
    environment = {"PYTHONPATH": str(ROOT / "lib"), "PATH": os.environ["PATH"]}
    saved, counted = tmp_path / "positions.json", tmp_path / "bot.prom"

    def trades() -> float:
        found = re.search(r"(?m)^bot_trades_total\S* (\S+)$", counted.read_text())
        return float(found[1]) if found else 0.0

    before = 0.0
    for kills in (1, 2, 3):  # each may cost the last trade, which was not saved yet
        program = subprocess.Popen(
            [sys.executable, bot, tmp_path], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert program.stdout and program.stdout.readline() == "ready\n"
        wait_until(lambda least=before: counted.exists() and trades() >= least + 2)
        program.send_signal(number)
        out, _ = program.communicate(timeout=30)
        killed = number == signal.SIGKILL
        assert (program.returncode, out) == ((-9, "") if killed else (0, "saved\n"))
        assert trades() >= before + 2, "what was counted is lost"
        before = trades()
        lint(counted.read_text())
        assert json.loads(saved.read_text()) >= before - kills * killed
        assert (tmp_path / "heartbeat").exists()
    with daemon.breaker(tmp_path / "exchange.json") as exchange:
        assert exchange.records == {} or exchange.records["api"]["why"] == "no answer"
    left = {each.name.partition(".")[0] for each in tmp_path.iterdir()}
    assert left <= {"bot", "positions", "exchange", "heartbeat", ""}


def test_importing_it_needs_no_third_party_package():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import upkeep.daemon as d; print(d.__name__)"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(HELPERS.parents[1] / "lib")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout, found.stderr) == ("upkeep.daemon\n", "")
