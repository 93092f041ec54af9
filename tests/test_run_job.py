"""run_job.py: real jobs, run, killed, hung and run over each other."""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.helpers import LONG, ROOT, cron_machine, is_running, run_script, wait_until
from tests.helpers.bot_api import BotApi
from upkeep import job, proc

SCRIPT = ROOT / "bin/run_job.py"


class Place:
    """One installation without a token: alerts go to the log and to stderr."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config = home / "upkeep.toml"
        self.state = home / "var"
        self.config.write_text("")

    def run(self, *args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return run_script("run_job", "--config", self.config, *args, cwd=self.home, **options)

    def start(self, *args: str | Path) -> subprocess.Popen[bytes]:
        heard = ["env", "--default-signal=INT"]  # which a shell's background jobs ignore
        return subprocess.Popen(
            [*heard, sys.executable, SCRIPT, "--config", self.config, *args],
            cwd=self.home,
            stderr=subprocess.DEVNULL,
        )

    def record(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / f"jobs/{name}.json").read_text())
        return found

    def log(self, name: str) -> str:
        return (self.state / f"log/job-{name}.log").read_text()

    def pid(self, name: str) -> int:
        """The PID that a job wrote into the file `name`."""
        text = wait_until(lambda: (self.home / name).exists() and (self.home / name).read_text())
        return int(text)


@pytest.fixture
def place(home: Path) -> Place:
    return Place(home)


def test_a_success_is_silent_and_recorded(place: Place) -> None:
    result = place.run("backup", "--", "sh", "-c", "echo some output; echo more >&2")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert place.log("backup").splitlines()[1:] == ["some output", "more"]
    record = place.record("backup")
    assert (record["failures"], record["skipped"], len(record["runs"])) == (0, 0, 1)
    assert record["last_success"] > time.time() - 120
    assert record["runs"][0][3] > 100_000


def test_a_success_imports_nothing_heavy(place: Place) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bin import run_job; " + (
        "assert run_job.main(sys.argv[1:]) == 0; "
        "print({'psutil', 'requests', 'subprocess', 'logging', 'dotenv'} & set(sys.modules))"
    )
    words = ["--config", place.config, "quick", "--", "true"]
    result = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        (["sh", "-c", "echo broken; exit 7"], 7, "exit status 7"),
        (["sh", "-c", "kill -KILL $$"], 137, "exit status 137"),
        (["sh", "-c", "kill -TERM $$"], 143, "exit status 143"),
        (["/nonesuch/program"], 127, "not found"),
        (["/etc/passwd"], 126, "ermission denied"),
        (["sh", "-c", "exit 124"], 124, "exit status 124"),
    ],
)
def test_a_failure_passes_its_status_and_shows_why(
    place: Place, command: list[str], status: int, why: str
) -> None:
    result = place.run("job", "--", *command)
    assert result.returncode == status
    assert result.stdout == ""
    assert "job job: " in result.stderr and why in result.stderr
    assert "Traceback" not in result.stderr
    assert place.record("job")["failures"] == 1


def test_the_end_of_the_output_is_shown_on_failure(place: Place) -> None:
    result = place.run("job", "--", "sh", "-c", "seq 100000; exit 1")
    assert "\n100000\n" in result.stderr + "\n" and len(result.stderr) < 10_000


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["job"],
        ["job", "--"],
        ["../x", "--", "true"],
        [".x", "--", "true"],
        ["a b", "--", "true"],
        ["ä", "--", "true"],
        ["", "--", "true"],
        ["job", "--timeout", "soon", "--", "true"],
        ["job", "--alert-after", "0", "--", "true"],
        ["job", "true"],
    ],
)
def test_a_wrong_call_is_told(place: Place, args: list[str]) -> None:
    result = place.run(*args)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and result.stderr
    assert not (place.state / "jobs").exists()
    if args and args[0] in ("../x", ".x", "a b"):
        assert f'job name "{args[0]}": expected ' in result.stderr


def test_options_of_the_command_are_its_own(place: Place) -> None:
    assert place.run("job", "--", "sh", "-c", 'echo "$@"', "sh", "--timeout", "--").returncode == 0
    assert place.log("job").splitlines()[1:] == ["--timeout --"]


def test_two_runs_never_overlap(place: Place) -> None:
    first = place.start("job", "--", "sh", "-c", "echo $$ >pid; read line <fifo; rm pid")
    os.mkfifo(place.home / "fifo")
    place.pid("pid")
    second = place.run("job", "--", "sh", "-c", "touch overlap")
    assert second.returncode == 4
    assert not (place.home / "overlap").exists()
    assert place.record("job")["skipped"] == 1
    waiting = place.start("job", "--wait", "60", "--", "sh", "-c", "test ! -e pid")
    (place.home / "fifo").write_text("go\n")
    assert first.wait(60) == 0
    assert waiting.wait(60) == 0
    assert place.record("job")["skipped"] == 0


def test_a_killed_wrapper_leaves_no_room_for_a_second_run(place: Place) -> None:
    wrapper = place.start("job", "--", "sh", "-c", "echo $$ >pid; exec sleep 600")
    pid = place.pid("pid")
    wrapper.kill()
    wrapper.wait()
    second = place.run("job", "--", "touch", "overlap")
    assert second.returncode == 4
    assert f"pid {pid}" in second.stderr
    assert not (place.home / "overlap").exists()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    assert place.run("job", "--", "true").returncode == 0


def test_a_run_waits_for_the_job_of_a_killed_wrapper_too(place: Place) -> None:
    wrapper = place.start("job", "--", "sh", "-c", "echo $$ >pid; exec sleep 600")
    pid = place.pid("pid")
    wrapper.kill()
    wrapper.wait()
    waiting = place.start("job", "--wait", "60s", "--", "true")
    assert place.run("job", "--wait", "0.5s", "--", "true").returncode == 4
    assert waiting.poll() is None
    os.kill(pid, signal.SIGKILL)
    assert waiting.wait(60) == 0


def test_a_wrapper_killed_at_any_moment_never_lets_two_runs_in(place: Place) -> None:
    job = "set -C; echo $$ >alone || touch overlap; head -c1 fifo >/dev/null; rm -f alone"
    for number in range(100 if LONG else 6):
        os.mkfifo(place.home / "fifo")
        wrapper = place.start("job", "--", "sh", "-c", job)
        time.sleep(number % 20 * 0.01)  # the moment of the kill
        wrapper.kill()
        wrapper.wait()
        result = place.run("job", "--", "sh", "-c", "test ! -e alone || touch overlap")
        alive = result.returncode == 4
        assert result.returncode in (0, 4), result.stderr
        if alive:
            pid = place.pid("alone")
            os.killpg(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not is_running(pid))
        (place.home / "alone").unlink(missing_ok=True)
        (place.home / "fifo").unlink()
        wait_until(lambda: place.run("job", "--", "true").returncode == 0)
    assert not (place.home / "overlap").exists()


def test_a_daemon_that_the_job_leaves_holds_nothing(place: Place) -> None:
    daemon = "setsid sh -c 'echo $$ >pid; while sleep 0.05; do date; done' &"
    script = f"{daemon} while test ! -s pid; do :; done"
    assert place.run("job", "--", "sh", "-c", script, timeout=30).returncode == 0
    pid = place.pid("pid")
    assert place.run("job", "--", "true").returncode == 0
    size = len(place.log("job"))
    wait_until(lambda: len(place.log("job")) > size + 100)
    assert is_running(pid)


def test_a_child_left_in_the_background_does_not_block_the_next_run(place: Place) -> None:
    place.run("job", "--", "sh", "-c", "sleep 600 & echo $! >pid")
    assert is_running(place.pid("pid"))
    assert place.run("job", "--", "true").returncode == 0


FAMILY = """
import os, signal, sys, time
def child(name, setsid=False, deaf=False, double=False):
    if os.fork():
        return
    if setsid:
        os.setsid()
    if double and os.fork():
        os._exit(0)
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if name == "bare":
        os.execve("/bin/sleep", ["sleep", "600"], {})
    open(name, "w").write(str(os.getpid()))
    time.sleep(600)
child("plain"); child("deaf", deaf=True); child("double", double=True)
child("session", setsid=True); child("escaped", setsid=True, deaf=True, double=True)
child("bare", setsid=True, double=True)
time.sleep(600)
"""


def _mentions(place: Place) -> list[int]:
    """PIDs whose working directory is the home, as everything a job starts has it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(place.home):
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if is_running(pid)]


def test_a_time_limit_leaves_nothing_of_the_job_but_daemons_of_restart(place: Place) -> None:
    daemon = "env UPKEEP_TASK=trader:1 setsid sh -c 'echo $$ >daemon; sleep 600' & "
    for _ in range(50 if LONG else 2):
        for name in ("plain", "deaf", "double", "session", "escaped", "daemon"):
            (place.home / name).unlink(missing_ok=True)
        began = time.monotonic()
        words = ("sh", "-c", f'{daemon} exec "$@"', "sh", sys.executable, "-c", FAMILY)
        result = place.run("job", "--timeout", "2s", "--grace", "1s", "--", *words)
        assert result.returncode == 124, result.stderr
        assert "time limit" in result.stderr
        assert time.monotonic() - began < 30
        for name in ("plain", "deaf", "double", "session", "escaped"):
            assert not is_running(place.pid(name)), name
        daemons = _mentions(place)
        assert place.pid("daemon") in daemons and len(daemons) == 2, daemons
        for pid in daemons:
            os.kill(pid, signal.SIGKILL)
    assert place.record("job")["runs"][-1][1] == 124
    assert place.run("job", "--", "true").returncode == 0


def test_a_time_limit_spares_what_the_wrapper_was_given_as_children(place: Place) -> None:
    before = "(sleep 600 & echo $! >orphan; read line <fifo) & sleep 600 & echo $! >child"
    job = ("job", "--timeout", "1s", "--grace", "1s", "--", "sh", "-c", "echo >fifo; sleep 600")
    words = (sys.executable, SCRIPT, "--config", place.config, *job)
    os.mkfifo(place.home / "fifo")
    script = f'{before}; exec "$@"'
    assert subprocess.run(["sh", "-c", script, "sh", *words], cwd=place.home).returncode == 124
    foreign = [place.pid(name) for name in ("orphan", "child")]
    assert [is_running(pid) for pid in foreign] == [True, True]
    assert sorted(_mentions(place)) == sorted(foreign)
    for pid in foreign:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_wrapper_ends_the_job(place: Place, number: int, status: int) -> None:
    wrapper = place.start("job", "--", "sh", "-c", "setsid sleep 600 & echo $! >pid; wait")
    pid = place.pid("pid")
    wrapper.send_signal(number)
    assert wrapper.wait(60) == status
    wait_until(lambda: not is_running(pid))
    record = place.record("job")
    assert (record["failures"], record["runs"][0][1]) == (1, status)
    events = (place.state / "log/upkeep.log").read_text()
    assert f"run_job job: stopped with {number.name}" in events and "alert (warning)" in events
    assert place.run("job", "--", "true").returncode == 0


def test_the_log_keeps_its_newest_part(place: Place) -> None:
    place.config.write_text('[jobs]\nlog_max = "100K"\n')
    assert place.run("job", "--", "seq", "200000").returncode == 0
    lines = place.log("job").splitlines()
    assert lines[-1] == "200000"
    assert 40_000 < (place.state / "log/job-job.log").stat().st_size <= 100 << 10
    assert lines[1:] == [str(n) for n in range(int(lines[1]), 200001)]


def test_a_state_that_cannot_be_written_stops_nothing(place: Place) -> None:
    place.state.mkdir(mode=0o700)
    for name in ("lock", "log", "jobs"):
        (place.state / name).write_text("a file where a directory should be")
    result = place.run("job", "--", "sh", "-c", "echo shown; exit 9")
    assert result.returncode == 9
    assert "Traceback" not in result.stderr
    assert "shown" in result.stderr


def test_a_full_disk_stops_nothing(place: Place) -> None:
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root and unshare(1) with mount namespaces")
    place.state.mkdir(mode=0o700)
    script = (
        'mount -t tmpfs -o size=64k,mode=700 full "$1" && { head -c 1M /dev/zero >"$1/big";'
        ' shift; exec "$@"; }'
    )
    words = [sys.executable, SCRIPT, "--config", place.config, "job", "--"]
    work = "echo shown && echo done >ran; exit 3"
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", place.state, *words, "sh", "-c", work],
        cwd=place.home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    assert (place.home / "ran").exists()
    assert "Traceback" not in result.stderr


_WHOLE = '{"last_success": 1.0, "failures": 0, "skipped": 0, "runs": [%s]}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"runs": 7, "failures": "x"}',
        "\0\0",
        *(_WHOLE % run for run in ('"x"', "[1, 2]", "null", "[1e300, 0, 1.0, 1]")),
        *(_WHOLE % run for run in ("[1.0, 0, NaN, 1]", "[1.0, 0, 1e300, 1]", "[1.0, 0, 1.0, -1]")),
    ],
)
def test_a_damaged_record_is_rebuilt(place: Place, content: str) -> None:
    (place.state / "jobs").mkdir(parents=True, mode=0o700)
    (place.state / "jobs/job.json").write_text(content)
    shown = place.run("--status")
    assert shown.returncode == 0 and "Traceback" not in shown.stderr
    assert "set aside" in shown.stderr and "job " in shown.stdout
    (place.state / "jobs/job.json").write_text(content)
    result = place.run("job", "--", "sh", "-c", "exit 5")
    assert result.returncode == 5 and "Traceback" not in result.stderr
    assert place.record("job")["failures"] == 1
    shown = place.run("--status")
    assert shown.returncode == 1 and "Traceback" not in shown.stderr


@pytest.mark.parametrize("content", ["x" * 500, "[1, 2", '["a", 1]', '["b", "1", null]', "null"])
def test_a_damaged_lock_file_is_no_run(place: Place, content: str) -> None:
    (place.state / "lock").mkdir(parents=True, mode=0o700)
    (place.state / "lock/job-job.lock").write_text(content)
    assert place.run("job", "--", "true").returncode == 0


def test_a_session_number_that_was_given_out_again_is_no_run(place: Place) -> None:
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        identity = proc.identify(other.pid)
        assert identity
        lock = place.state / "lock/job-job.lock"
        lock.parent.mkdir(parents=True, mode=0o700)
        lock.write_text(json.dumps(identity._replace(start_ticks=identity.start_ticks - 1)))
        assert place.run("job", "--", "true").returncode == 0
        lock.write_text(json.dumps(identity._replace(boot_id="another")))
        assert place.run("job", "--", "true").returncode == 0
        lock.write_text(json.dumps(identity))
        assert place.run("job", "--", "true").returncode == 4
    finally:
        other.kill()
        other.wait()


def test_an_env_file_that_cannot_be_read_changes_no_exit_status(place: Place) -> None:
    (place.home / ".env").write_bytes(b"X=\xff\n")
    (place.home / ".env").chmod(0o600)
    done = place.run("job", "--", "sh", "-c", "exit 9")
    assert (done.returncode, "Traceback" in done.stderr) == (9, False)
    assert "cannot be read" in done.stderr and "exit status 9" in done.stderr


def test_one_alert_and_one_recovery_for_every_outage(place: Place) -> None:
    """Thirty runs with three outages; Telegram is down while the second one begins and ends."""
    plan = "..FFF....F.FFFFF....ff.FFF...."
    with BotApi() as api:
        for number, sign in enumerate(plan):
            api.always = "reset" if 11 <= number <= 16 else ""
            status = "0" if sign == "." else "1"
            after = "3" if sign in "f" else "1"
            words = (
                "job",
                "--alert-after",
                after,
                "--",
                "sh",
                "-c",
                f"echo run {number}; exit {status}",
            )
            assert place.run(*words, env=api.env).returncode == int(status)
        waiting = [file.read_text() for file in (place.state / "outbox/new").iterdir()]
        titles = [text.splitlines()[0] for text in api.texts] + waiting
    broke = [title for title in titles if "exit status 1" in title]
    mended = [title for title in titles if "works again" in title]
    assert (len(broke), len(mended), len(titles)) == (4, 4, 8), titles


def test_the_alert_carries_the_end_of_the_output(place: Place) -> None:
    with BotApi() as api:
        place.run("job", "--", "sh", "-c", "echo '<b>disk & co</b>'; exit 1", env=api.env)
        assert "<b>disk & co</b>" in api.texts[0]


def test_skipped_runs_are_told_when_they_go_on(place: Place) -> None:
    wrapper = place.start("job", "--", "sh", "-c", "echo $$ >pid; exec sleep 600")
    pid = place.pid("pid")
    with BotApi() as api:
        for _ in range(6):
            assert place.run("job", "--", "true", env=api.env).returncode == 4
        assert len(api.texts) == 1 and "skipped" in api.texts[0]
        os.kill(pid, signal.SIGTERM)
        wrapper.wait(60)
        assert place.run("job", "--", "true", env=api.env).returncode == 0
        assert len(api.texts) == 2
    assert place.record("job")["skipped"] == 0


def test_the_outcome_is_pinged(place: Place) -> None:
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    assert place.run("job", "--ping-url", f"{url}/ok", "--", "true").returncode == 0
    assert place.run("job", "--ping-url", f"{url}/ok", "--", "false").returncode == 1
    result = place.run("job", "--ping-url", f"{url}/broken", "--", "true")
    assert (result.returncode, asked) == (0, ["/ok", "/ok/fail", "/broken"])
    server.shutdown()
    server.server_close()
    for wrong in (url, "nonsense", "http://[", "http://a b/"):
        result = place.run("job", "--ping-url", wrong, "--", "true")
        assert (result.returncode, result.stderr) == (0, "")


def test_splay_is_stable_for_a_job_and_spread_over_jobs(place: Place) -> None:
    delays = [job.delay(job.Job(f"job{n}", [], 0, 0, 0, 60.0)) for n in range(200)]
    assert delays == [job.delay(job.Job(f"job{n}", [], 0, 0, 0, 60.0)) for n in range(200)]
    assert 0 <= min(delays) < 6 and 54 < max(delays) < 60
    began = time.monotonic()
    assert place.run("job", "--splay", "1s", "--", "true").returncode == 0
    assert time.monotonic() - began >= job.delay(job.Job("job", [], 0, 0, 0, 1.0))


def test_a_dry_run_prints_the_command_and_runs_only_our_own_scripts(place: Place) -> None:
    result = place.run("job", "--", "touch", "made", env={"UPKEEP_DRY_RUN": "1"})
    assert (result.returncode, result.stdout) == (0, "would run: touch made\n")
    assert not (place.home / "made").exists() and not place.state.exists()
    own = place.run("job", "--dry-run", "--", ROOT / "bin/telegram_alert.py", "--help")
    assert own.returncode == 0 and "outbox" in own.stdout


def test_the_status_shows_every_job(place: Place) -> None:
    place.run("good", "--", "true")
    assert place.run("--status").returncode == 0
    place.run("bad", "--", "false")
    assert place.run("--status").returncode == 1
    shown = place.run("--status").stdout.splitlines()
    assert shown[0].split()[:3] == ["job", "last", "success"]
    rows = {row["job"]: row for row in json.loads(place.run("--status", "--json").stdout)["jobs"]}
    assert rows["good"]["last_success"] and rows["good"]["failures"] == 0
    assert rows["bad"]["last_success"] == 0 and rows["bad"]["failures"] == 1


def test_the_status_gives_the_spread_of_durations(place: Place) -> None:
    (place.state / "jobs").mkdir(parents=True, mode=0o700)
    runs = [[1e9 + number, 0, float(number), 1 << 20] for number in range(1, 101)]
    record = {"last_success": 1e9, "failures": 0, "skipped": 0, "runs": runs[::-1]}
    (place.state / "jobs/spread.json").write_text(json.dumps(record))
    row = json.loads(place.run("--status", "--json").stdout)["jobs"][0]
    assert (row["p50_seconds"], row["p95_seconds"]) == (50, 95)
    last = {"time": 1e9 + 1, "exit_status": 0, "duration_seconds": 1.0, "peak_rss_bytes": 1 << 20}
    assert row["runs"][-1] == last
    assert "1 s   50 s  1 min 35 s" in place.run("--status").stdout


def test_the_status_tells_of_a_job_that_hangs(place: Place) -> None:
    wrapper = place.start("job", "--", "sh", "-c", "echo $$ >pid; exec sleep 600")
    pid = place.pid("pid")
    for _ in range(4):
        assert place.run("job", "--", "true").returncode == 4
    assert place.run("--status").returncode == 0
    assert place.run("job", "--", "true").returncode == 4
    assert place.run("--status").returncode == 1
    os.kill(pid, signal.SIGKILL)
    assert wrapper.wait(60) == 137


def test_the_status_knows_when_cron_starts_a_job_and_what_was_missed(place: Place) -> None:
    with cron_machine.machine(place.home / "machine") as host:
        lines = host.place / "cron.d/mine"
        lines.write_text(
            "* * * * * root /opt/upkeep/bin/run_job.py often -- true\n"
            "15 4 1 1 * root '/opt/up keep/bin/run_job.py' yearly --timeout 1h -- true\n"
            "@reboot root /opt/upkeep/bin/run_job.py booted -- true\n"
            "# * * * * * root /opt/upkeep/bin/run_job.py never -- true\n"
        )
        words = (sys.executable, SCRIPT, "--config", place.config, "--status", "--json")
        rows = {row["job"]: row for row in json.loads(host.run(*words).stdout)["jobs"]}
        assert rows.keys() == {"often", "yearly", "booted"}
        assert 0 < rows["often"]["next_run"] - time.time() <= 60
        assert time.localtime(rows["yearly"]["next_run"])[1:5] == (1, 1, 4, 15)
        assert rows["booted"]["next_run"] is None
        assert [row["missed"] for row in rows.values()] == [0, 0, 0]
        shown = host.run(*words[:-1]).stdout.splitlines()
        assert shown[1].split()[:6] == ["booted", "never", "-", "-", "-", "-"]
        if proc.uptime() < 2400:
            return  # the host has not been up for long enough to have missed one
        os.utime(lines, (time.time() - 2000, time.time() - 2000))
        rows = {row["job"]: row for row in json.loads(host.run(*words).stdout)["jobs"]}
        assert 16 <= rows["often"]["missed"] <= 19
        assert place.run("often", "--", "true").returncode == 0
        rows = {row["job"]: row for row in json.loads(host.run(*words).stdout)["jobs"]}
        assert rows["often"]["missed"] == 0


def test_no_run_was_missed_while_the_one_before_still_went_on(place: Place) -> None:
    (place.state / "jobs").mkdir(parents=True, mode=0o700)
    ended = time.time() - 20
    record = {"last_success": ended, "failures": 0, "skipped": 0}
    record |= {"runs": [[ended - 2400, 0, 2400.0, 1 << 20]]}
    (place.state / "jobs/long.json").write_text(json.dumps(record))
    with cron_machine.machine(place.home / "machine") as host:
        lines = host.place / "cron.d/mine"
        lines.write_text("* * * * * root /opt/upkeep/bin/run_job.py long -- true\n")
        os.utime(lines, (ended - 86400, ended - 86400))
        words = (sys.executable, SCRIPT, "--config", place.config, "--status", "--json")
        shown = host.run(*words)
        assert (shown.returncode, json.loads(shown.stdout)["jobs"][0]["missed"]) == (0, 0)


def test_a_log_that_is_rotated_meanwhile_still_gives_the_output(place: Place) -> None:
    rotate = f"echo broken; mv {place.state}/log/job-job.log {place.state}/log/job-job.log.1"
    assert place.run("job", "--", "sh", "-c", "exit 0").returncode == 0
    shown = place.run("job", "--", "sh", "-c", f"{rotate}; exit 1").stderr
    assert shown.splitlines()[-1] == "broken" and "---" not in shown


def test_control_characters_in_the_output_reach_no_terminal(place: Place) -> None:
    result = place.run("job", "--", "sh", "-c", r"printf 'a\033[31mb\n'; exit 1")
    assert r"a\x1b[31mb" in result.stderr and "\x1b" not in result.stderr


def test_closed_streams_change_nothing(place: Place) -> None:
    words = (
        sys.executable,
        SCRIPT,
        "--config",
        place.config,
        "job",
        "--",
        "sh",
        "-c",
        "echo; exit 3",
    )
    closed = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *words]
    assert subprocess.run(closed, check=False, cwd=place.home).returncode == 3


@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&1 | true"])
def test_a_failure_is_passed_on_recorded_and_told_without_a_stderr(
    place: Place, stream: str
) -> None:
    words = (sys.executable, SCRIPT, "--config", place.config, "job", "--", "sh", "-c", "exit 3")
    script = f'set -o pipefail; "$@" {stream}'
    with BotApi() as api:
        ran = subprocess.run(
            ["bash", "-c", script, "bash", *words], cwd=place.home, env=os.environ | api.env
        )
        assert ran.returncode == 3
        assert len(api.texts) == 1 and "exit status 3" in api.texts[0]
    assert place.record("job")["failures"] == 1


def test_restart_of_a_job_at_its_time_limit_keeps_the_program(place: Place) -> None:
    overwritten = (
        "import ctypes, sys, time; libc = ctypes.CDLL(None); libc.clearenv(); time.sleep(600)"
    )
    place.config.write_text(
        f"[task.one]\ncommand = 'sleep 600'\nverify = 0\ncwd = '{place.home}'\n"
        f"[task.two]\ncommand = ['python3', '-c', '{overwritten}']\nverify = 0\n"
        f"cwd = '{place.home}'\n"
    )
    restart = f"{sys.executable} {ROOT}/bin/restart.py --config {place.config} one two"
    words = ("--timeout", "6s", "--grace", "1s", "--", "sh", "-c", f"{restart}; sleep 600")
    assert place.run("job", *words).returncode == 124
    for name in ("one", "two"):
        assert is_running(int((place.state / f"run/{name}.pid").read_text()))


def test_the_last_success_is_told_to_prometheus(place: Place) -> None:
    place.config.write_text(f'[paths]\nprometheus = "{place.home}"\n')
    assert place.run("job", "--", "true").returncode == 0
    assert place.run("job", "--", "false").returncode == 1
    written = (place.home / "upkeep_job_job.prom").read_text()
    last = place.record("job")["last_success"]
    name, value = written.splitlines()[-1].split(" ")
    assert name == 'upkeep_job_last_success_timestamp_seconds{job="job"}'
    assert float(value) == pytest.approx(last)
    place.config.write_text('[paths]\nprometheus = "/nonesuch/dir/x"\n')
    (place.home / "upkeep_job_job.prom").unlink()
    assert place.run("job", "--", "sh", "-c", "exit 7").returncode == 7


def test_a_signal_in_the_grace_period_leaves_nothing_either(place: Place) -> None:
    job = "trap 'touch told' TERM; echo $$ >pid; while :; do sleep 0.1; done"
    wrapper = place.start("job", "--timeout", "1s", "--grace", "3s", "--", "sh", "-c", job)
    pid = place.pid("pid")
    wait_until((place.home / "told").exists)
    wrapper.send_signal(signal.SIGTERM)
    assert wrapper.wait(60) in (124, 143)
    assert not is_running(pid)
