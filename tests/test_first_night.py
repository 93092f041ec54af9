"""One whole night on real input: redis, a real cron daemon, old files, messages over HTTP."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, is_running, run_script, wait_until
from tests.helpers.bot_api import BotApi
from tests.helpers.redis_client import Writer, ask, call

needed = [name for name in ("redis-server", "cron", "unshare") if not shutil.which(name)]
pytestmark = [
    pytest.mark.skipif(bool(needed), reason=f"not installed: {', '.join(needed)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a cron daemon of its own needs root"),
]

# The daemon gets its own /etc/cron.d, spool and PID file; the machine's crontabs are not seen.
CRON = """
for place in /run /etc/cron.d /var/spool/cron; do mount -t tmpfs tmpfs $place; done
mkdir -p /var/spool/cron/crontabs && mount --bind /dev/null /etc/crontab
install -m 644 "$0" /etc/cron.d/upkeep && exec cron -f
"""


@pytest.fixture
def api() -> Iterator[BotApi]:
    with BotApi() as server:
        yield server


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def night(home: Path, api: BotApi, port: int) -> Iterator[Path]:
    data = home / "redis"
    data.mkdir()
    jsonl = home / "jsonl"
    jsonl.mkdir()
    server = ["redis-server", "--port", str(port), "--dir", str(data), "--save", ""]
    server += ["--appendonly", "yes", "--appendfsync", "always", "--bind", "127.0.0.1"]
    (home / "upkeep.toml").write_text(
        f"""
[host]
data_dirs = ["{jsonl}"]
[task.redis]
command = {json.dumps(server)}
verify = "0.3s"
stop_timeout = "20s"
[cleanup.old]
paths = ["{jsonl}"]
match = ["*.jsonl", "*.log"]
exclude = ["keep-*"]
older_than = "90d"
"""
    )
    (home / ".env").touch(0o600)
    (home / ".env").write_text("".join(f"{name}={value}\n" for name, value in api.env.items()))
    yield home
    pid_file = home / "var/run/redis.pid"
    if pid_file.exists() and is_running(int(pid_file.read_text())):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.fixture
def cron(night: Path) -> Iterator[subprocess.Popen[bytes]]:
    table = night / "crontab"
    watchdog = f"{ROOT}/bin/watchdog.py --config {night}/upkeep.toml"
    table.write_text(f"* * * * * root {watchdog}\n")
    daemon = subprocess.Popen(["unshare", "-m", "sh", "-ec", CRON, table])
    yield daemon
    daemon.kill()
    daemon.wait()


def missing(port: int, prefix: str, numbers: list[int]) -> list[int]:
    """Those of `numbers` that were acknowledged and are not there any more."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        return [n for n in numbers if call(connection, "GET", f"{prefix}{n}") != str(n)]


def events(home: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (home / "var/restarts.jsonl").read_text().splitlines()]


def up(name: str, night: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return run_script(name, *args, "--config", night / "upkeep.toml")


def test_a_program_is_looked_after_from_end_to_end(
    night: Path, api: BotApi, port: int, cron: "subprocess.Popen[bytes]"
) -> None:
    pid_file = night / "var/run/redis.pid"

    # Started, with clients writing, then restarted: nothing that was acknowledged is lost.
    assert up("restart", night, "redis").returncode == 0
    first = int(pid_file.read_text())
    wait_until(lambda: ask(port, "PING") == "+PONG")
    writers = [Writer(port, f"w{number}:") for number in range(3)]
    for writer in writers:
        writer.start()
    wait_until(lambda: all(len(writer.acknowledged) > 100 for writer in writers))
    result = up("restart", night, "redis", "--reason", "scheduled at 03:00")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    second = int(pid_file.read_text())
    assert second != first and not is_running(first)
    before = [len(writer.acknowledged) for writer in writers]
    wait_until(
        lambda: all(len(w.acknowledged) > n + 50 for w, n in zip(writers, before, strict=True))
    )
    restart = events(night)[-1]
    assert (restart["event"], restart["task"], restart["outcome"]) == (
        "restart",
        "redis",
        "restarted",
    )
    assert restart["reason"] == "scheduled at 03:00"
    assert (restart["old_pid"], restart["new_pid"]) == (first, second)
    assert isinstance(restart["rss_before_bytes"], int) and restart["rss_before_bytes"] > 1 << 20
    assert isinstance(restart["rss_after_bytes"], int) and restart["rss_after_bytes"] > 1 << 20

    # Killed: the next tick of the real cron daemon brings it back and says why it died.
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: ask(port, "PING") == "+PONG", timeout=100)
    third = int(pid_file.read_text())
    assert third not in (first, second) and is_running(third)
    wait_until(lambda: any("redis" in text and "KILL" in text for text in api.texts), timeout=60)
    for writer in writers:
        assert missing(port, writer.prefix, writer.stop()) == []
    status = json.loads(up("status", night, "--json").stdout)
    assert [row["state"] for row in status["results"]] == ["running"]

    # Stopped on purpose: no tick starts it again.
    assert up("stop", night, "redis").returncode == 0
    assert not is_running(third)
    assert up("watchdog", night).returncode == 0
    assert ask(port, "PING") is None
    assert up("status", night).returncode == 0

    # Old JSONL and logs go, what is young or kept stays.
    now = time.time()
    for name, days in (("a.jsonl", 100), ("b.log", 91), ("c.jsonl", 10), ("keep-d.jsonl", 400)):
        (night / "jsonl" / name).write_text('{"price": 1}\n')
        os.utime(night / "jsonl" / name, (now - days * 86400,) * 2)
    plan = up("cleanup", night, "--dry-run").stdout
    assert "a.jsonl" in plan and "b.log" in plan and "keep-d" not in plan
    assert up("cleanup", night).returncode == 0
    left = sorted(path.name for path in (night / "jsonl").iterdir())
    assert left == ["c.jsonl", "keep-d.jsonl"]

    # The report of this host arrives as a message, and nothing waits in the outbox.
    count = len(api.texts)
    assert up("memory_report", night, "--telegram").returncode in (0, 1)
    assert len(api.texts) == count + 1
    assert str(night / "jsonl") in api.texts[-1]
    queue = json.loads(up("telegram_alert", night, "--status", "--json").stdout)
    assert (queue["queued"], queue["dead"]) == (0, 0)
