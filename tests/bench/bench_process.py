"""Restart, downtime, notice and tick of upkeep beside its peers, in one run; prints the ratios.

usage: tests/bench/bench_process.py [ROUNDS]

Peers that are not installed are left out: start-stop-daemon, supervisorctl, pm2. The worker is a
compiled program that needs 0.2 s to exit. Medians of runs that alternate.
"""

import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.helpers import is_running, wait_until  # noqa: E402

SOURCE = r"""
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static const char *path;
static void note(const char *what) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    FILE *f = fopen(path, "a");
    fprintf(f, "%s %d %ld.%09ld\n", what, getpid(), t.tv_sec, t.tv_nsec); fclose(f);
}
static void end(int s) { (void)s; usleep(200000); note("exit"); _exit(0); }
int main(int n, char **v) {
    path = v[1];
    signal(SIGTERM, n > 2 && !strcmp(v[2], "ignore") ? SIG_IGN : end);
    signal(SIGINT, end); note("exec");
    for (;;) pause();
}
"""

SEED = """#!/bin/bash
PIDFILE={place}/seed.pid
if [ -f $PIDFILE ]; then
    PID=$(cat $PIDFILE)
    kill -TERM $PID 2>/dev/null
    sleep 5
    kill -0 $PID 2>/dev/null && kill -KILL $PID
fi
nohup {worker} {place}/seed.log >/dev/null 2>&1 &
echo $! > $PIDFILE
"""


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:8.1f} ms"


class Peer:
    """One way to restart the worker. `log` is where the worker notes its exec and its exit."""

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.name, self.command, self.log, self.env = name, command, log, env
        self.walls: list[float] = []
        self.downtimes: list[float] = []

    def restart(self) -> None:
        before = len(self.notes())
        began = time.monotonic()
        subprocess.run(self.command, env=self.env, check=True, stdout=-3, stderr=-3)
        self.walls.append(time.monotonic() - began)
        wait_until(lambda: len(self.notes()) >= before + 2)
        kinds = {kind: when for kind, _pid, when in self.notes()[before:]}
        self.downtimes.append(kinds["exec"] - kinds["exit"])

    def notes(self) -> list[tuple[str, int, float]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(kind, int(pid), float(when)) for kind, pid, when in map(str.split, lines)]

    def kill(self) -> None:
        for pid in {pid for _kind, pid, _when in self.notes()}:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def peers(place: Path, worker: Path) -> list[Peer]:
    env = {"PATH": os.environ["PATH"], "HOME": str(place), "UPKEEP_CONFIG": str(place / "u.toml")}
    found = []
    logs = {name: place / f"{name}.log" for name in ("upkeep", "seed", "ssd", "supervisor", "pm2")}
    (place / "u.toml").write_text(
        f'[task.ours]\ncommand = ["{worker}", "{logs["upkeep"]}"]\nverify = 0\n'
        f'[task.stub]\ncommand = ["{worker}", "{place}/stub.log", "ignore"]\n'
        "verify = 0\nstop_timeout = 1\n"
    )
    restart = [sys.executable, str(ROOT / "bin/restart.py"), "ours"]
    found.append(Peer("upkeep", restart, logs["upkeep"], env))
    seed = place / "seed.sh"
    seed.write_text(SEED.format(place=place, worker=worker))
    found.append(Peer("seed script", ["bash", str(seed)], logs["seed"], env))
    if shutil.which("start-stop-daemon"):
        pid = place / "ssd.pid"
        stop = f"start-stop-daemon --stop --oknodo --retry TERM/5/KILL/5 --pidfile {pid}"
        start = f"start-stop-daemon --start -b -m --pidfile {pid} --exec {worker} -- {logs['ssd']}"
        found.append(Peer("start-stop-daemon", ["sh", "-c", f"{stop}; {start}"], logs["ssd"], env))
    if shutil.which("supervisord"):
        ini = place / "s.ini"
        ini.write_text(
            f"[supervisord]\nlogfile={place}/s.out\npidfile={place}/s.pid\n"
            f"[unix_http_server]\nfile={place}/s.sock\n"
            f"[supervisorctl]\nserverurl=unix://{place}/s.sock\n[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[program:w]\ncommand={worker} {logs['supervisor']}\n"
        )
        subprocess.run(["supervisord", "-c", str(ini)], check=True)
        restart = ["supervisorctl", "-c", str(ini), "restart", "w"]
        found.append(Peer("supervisorctl", restart, logs["supervisor"], env))
    if shutil.which("pm2"):
        env = {**env, "PM2_HOME": str(place / "pm2")}
        start = [
            "pm2",
            "start",
            str(worker),
            "--name",
            "w",
            "--interpreter",
            "none",
            "--kill-timeout",
        ]
        subprocess.run([*start, "5000", "--", str(logs["pm2"])], env=env, check=True, stdout=-3)
        found.append(Peer("pm2", ["pm2", "restart", "w"], logs["pm2"], env))
    return found


def used(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """CPU seconds and peak MiB of one run."""
    process = subprocess.Popen(command, env=env, stdout=-3, stderr=-3)
    _pid, _status, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def bench_restart(found: list[Peer], rounds: int) -> None:
    for peer in found:
        if peer.name in ("upkeep", "seed script", "start-stop-daemon"):
            subprocess.run(peer.command, env=peer.env, check=True, stdout=-3, stderr=-3)
        wait_until(peer.notes)
    for _ in range(rounds):
        for peer in found:
            if peer.name != "seed script" or len(peer.walls) < 2:
                peer.restart()
    ours = found[0]
    wall, down = statistics.median(ours.walls), statistics.median(ours.downtimes)
    print(f"restart of a worker that needs 200 ms to exit, median of {rounds}:")
    for peer in found:
        its, gap = statistics.median(peer.walls), statistics.median(peer.downtimes)
        ratio = f"x{its / wall:5.1f} wall, x{gap / down:7.1f} downtime" if peer is not ours else ""
        print(f"  {peer.name:18} wall {milliseconds(its)} downtime {milliseconds(gap)} {ratio}")


def bench_stubborn(env: dict[str, str]) -> None:
    command = [sys.executable, str(ROOT / "bin/restart.py"), "stub"]
    subprocess.run(command, env=env, check=True)
    began = time.monotonic()
    subprocess.run(command, env=env, check=True)
    print(f"a worker that ignores TERM, grace 1 s: {milliseconds(time.monotonic() - began)}")


def bench_linger(ours: Peer) -> None:
    """From SIGKILL to the new worker's first line, and what the lingering process costs."""
    command = [sys.executable, str(ROOT / "bin/watchdog.py"), "ours", "--linger", "20"]
    process = subprocess.Popen(command, env=ours.env, stdout=-3, stderr=-3)
    wait_until(lambda: Path(f"/proc/{process.pid}/syscall").exists())
    time.sleep(1.5)  # measured, not waited for: its sleep must not be disturbed
    status = Path(f"/proc/{process.pid}/status").read_text().split()
    before = status[status.index("voluntary_ctxt_switches:") + 1]
    time.sleep(2)
    after = Path(f"/proc/{process.pid}/status").read_text().split()
    wakes = int(after[after.index("voluntary_ctxt_switches:") + 1]) - int(before)
    rss = int(after[after.index("VmRSS:") + 1]) / 1024
    count, pid = len(ours.notes()), ours.notes()[-1][1]
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(ours.notes()) > count, interval=0.001)
    notice = ours.notes()[-1][2] - began
    process.terminate()
    process.wait()
    print(
        f"--linger: death to new exec {milliseconds(notice)}, {rss:.1f} MiB,"
        f" {wakes} wake-ups in 2 s"
    )


def bench_tick(place: Path, worker: Path) -> None:
    """CPU and peak memory of a healthy tick with 10 and with 60 tasks."""
    names = [f"t{number}" for number in range(60)]
    config = place / "many.toml"
    tables = [
        f'[task.{name}]\ncommand = ["{worker}", "{place}/many.log"]\nverify = 0\nmax_rss = "300M"\n'
        for name in names
    ]
    config.write_text(f'[paths]\nstate = "{place}/many"\n' + "".join(tables))
    env = {"PATH": os.environ["PATH"], "UPKEEP_CONFIG": str(config)}
    subprocess.run([sys.executable, ROOT / "bin/restart.py", "--all"], env=env, check=True)
    watchdog = [sys.executable, str(ROOT / "bin/watchdog.py")]
    for count in (10, 60):
        runs = [used([*watchdog, *names[:count]], env) for _ in range(15)]
        cpu, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"healthy tick, {count} tasks: {milliseconds(cpu)} CPU, {peak:.1f} MiB peak")
    empty = statistics.median(used([sys.executable, "-c", "pass"], env)[0] for _ in range(15))
    print(f"  beside a bare python3 -c pass: {milliseconds(empty)} CPU")
    recorders = [
        pid.parent
        for pid in Path("/proc").glob("[0-9]*/cmdline")
        if pid.read_bytes().startswith(b"upkeep-recorder")
    ]
    pss = [int(each.split()[1]) for each in smaps(recorders) if each.startswith("Pss:")]
    print(f"recorder: {statistics.median(pss):.0f} KiB PSS (median of {len(pss)})")
    state = place / "many" / "tasks"
    for file in state.glob("*.json"):
        os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)


def smaps(directories: list[Path]) -> list[str]:
    return [
        line
        for directory in directories
        for line in (directory / "smaps_rollup").read_text().splitlines()
    ]


def main(rounds: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="upkeep-bench-"))
    worker = place / "worker"
    (place / "worker.c").write_text(SOURCE)
    subprocess.run(["cc", "-O2", "-o", worker, place / "worker.c"], check=True)
    found = peers(place, worker)
    steps: list[Callable[[], None]] = [
        lambda: bench_restart(found, rounds),
        lambda: bench_stubborn(found[0].env),
        lambda: bench_linger(found[0]),
        lambda: bench_tick(place, worker),
    ]
    try:
        for step in steps:
            step()
    finally:
        if shutil.which("pm2"):
            subprocess.run(["pm2", "kill"], env=found[-1].env, check=False, stdout=-3)
        if (place / "s.pid").exists():
            os.kill(int((place / "s.pid").read_text()), signal.SIGTERM)
        for peer in found:
            peer.kill()
        stub = place / "var/tasks/stub.json"
        if stub.exists():
            os.kill(json.loads(stub.read_text())["pid"], signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)
    print(
        f"peak of this bench's children: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
