"""Restart, notice and tick of upkeep beside its peers, in one run; prints the ratios.

usage: tests/bench/bench_process.py [ROUNDS]

Peers that are not installed are left out: start-stop-daemon, supervisord, pm2, monit. The worker is
a compiled program that needs 0.2 s to exit. Medians of runs that alternate. CPU time and peak
memory are taken by a small compiled parent: what a large one forks inherits its peak.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "lib")]

from tests.bench import row  # noqa: E402
from tests.helpers import is_running, wait_until  # noqa: E402
from upkeep import pidfd, proc  # noqa: E402

WORKER = r"""
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
    int stubborn = n > 2;
    signal(SIGTERM, stubborn ? SIG_IGN : end); signal(SIGINT, stubborn ? SIG_IGN : end);
    note("exec");
    for (;;) pause();
}
"""

METER = r"""
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int n, char **v) {
    (void)n;
    if (!fork()) { freopen("/dev/null", "w", stdout); execvp(v[1], v + 1); _exit(127); }
    struct rusage u; int s; wait4(-1, &s, 0, &u);
    printf("%d %ld %ld\n", s, (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000
           + u.ru_utime.tv_usec + u.ru_stime.tv_usec, u.ru_maxrss);
}
"""

SEED = """#!/bin/bash
PIDFILE={place}/seed-$1.pid
if [ -f $PIDFILE ]; then
    PID=$(cat $PIDFILE)
    kill -TERM $PID 2>/dev/null
    sleep 5
    kill -0 $PID 2>/dev/null && kill -KILL $PID
fi
nohup {worker} {place}/seed-$1.log $2 >/dev/null 2>&1 &
echo $! > $PIDFILE
"""

FLOOR = "import argparse, json, tomllib, pathlib, dataclasses"
WINDOW_SECONDS = 60.0  # over which resident peers are watched
PROCESSES = 250


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:8.1f} ms"


class Bench:
    """A directory with the compiled programs, and an environment for all that runs in it."""

    def __init__(self, place: Path) -> None:
        self.place, self.worker, self.meter = place, place / "worker", place / "meter"
        for source, target in ((WORKER, self.worker), (METER, self.meter)):
            target.with_suffix(".c").write_text(source)
            command = ["cc", "-O2", "-w", "-o", target, target.with_suffix(".c")]
            subprocess.run(command, check=True)
        self.config = place / "u.toml"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(place), "PM2_HOME": f"{place}/pm2"}
        self.env["UPKEEP_CONFIG"] = str(self.config)

    def run(self, *command: str | Path) -> float:
        """Run it; how long that took."""
        began = time.monotonic()
        subprocess.run(command, env=self.env, check=True, stdout=-3, stderr=-3)
        return time.monotonic() - began

    def script(self, name: str, *options: str) -> list[str]:
        return [sys.executable, str(ROOT / "bin" / f"{name}.py"), *options]

    def used(self, *command: str) -> tuple[float, float]:
        """CPU seconds and peak MiB, medians of 15 runs."""
        runs = []
        for _ in range(15):
            line = subprocess.check_output([self.meter, *command], env=self.env, stderr=-3)
            status, cpu, peak = map(int, line.split())
            assert status == 0, command
            runs.append((cpu / 1e6, peak / 1024))
        cpus, peaks = zip(*runs, strict=True)
        return median(cpus), median(peaks)


class Peer:
    """One way to restart a polite and a stubborn worker, which note their exec and exit."""

    def __init__(self, bench: Bench, name: str, restart: str, start: str = "") -> None:
        """`restart` is a shell command with {kind} in it; `start` the first one, if another."""
        self.bench, self.name, self.command = bench, name, restart
        self.walls: list[float] = []
        self.downtimes: list[float] = []
        for kind in ("polite", "stubborn"):
            bench.run("sh", "-c", (start or restart).format(kind=kind))
            wait_until(lambda kind=kind: self.notes(kind))

    def restart(self, kind: str) -> float:
        before = len(self.notes(kind))
        wall = self.bench.run("sh", "-c", f"exec {self.command.format(kind=kind)}")
        wait_until(lambda: len(self.notes(kind)) >= before + 1 + (kind == "polite"))
        if kind == "polite":
            times = {what: when for what, _pid, when in self.notes(kind)[before:]}
            self.walls.append(wall)
            self.downtimes.append(times["exec"] - times["exit"])
        return wall

    def notes(self, kind: str) -> list[tuple[str, int, float]]:
        log = self.bench.place / f"{self.name}-{kind}.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(what, int(pid), float(when)) for what, pid, when in map(str.split, lines)]


def upkeep(bench: Bench) -> Peer:
    tables = [
        f'[task.{kind}]\ncommand = ["{bench.worker}", "{bench.place}/upkeep-{kind}.log"{more}]\n'
        "verify = 0\nstop_timeout = 1\n"
        for kind, more in (("polite", ""), ("stubborn", ', "stubborn"'))
    ]
    bench.config.write_text("".join(tables))
    return Peer(bench, "upkeep", f"{sys.executable} {ROOT}/bin/restart.py {{kind}}")


def seed_script(bench: Bench) -> Peer:
    path = bench.place / "seed.sh"
    path.write_text(SEED.format(place=bench.place, worker=bench.worker))
    return Peer(bench, "seed", f"bash {path} {{kind}} $(echo {{kind}} | grep stubborn)")


def start_stop_daemon(bench: Bench) -> Peer:
    pid = f"{bench.place}/ssd-{{kind}}.pid"
    stop = f"start-stop-daemon --stop --oknodo --retry TERM/1/KILL/5 --pidfile {pid}"
    start = f"start-stop-daemon --start -b -m --pidfile {pid} --exec {bench.worker} -- "
    more = f"{bench.place}/ssd-{{kind}}.log $(echo {{kind}} | grep stubborn)"
    return Peer(bench, "ssd", f"sh -c '{stop}; {start}{more}'")


def supervisor(bench: Bench) -> Peer:
    ini, place = bench.place / "s.ini", bench.place
    programs = [
        f"[program:{kind}]\ncommand={bench.worker} {place}/supervisor-{kind}.log {more}\n"
        "stopwaitsecs=1\n"
        for kind, more in (("polite", ""), ("stubborn", "stubborn"))
    ]
    idle = [f"[program:t{n}]\ncommand={bench.worker} {place}/idle.log\n" for n in range(8)]
    ini.write_text(
        f"[supervisord]\nlogfile={place}/s.out\npidfile={place}/s.pid\n"
        f"[unix_http_server]\nfile={place}/s.sock\n"
        f"[supervisorctl]\nserverurl=unix://{place}/s.sock\n[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        + "".join([*programs, *idle])
    )
    bench.run("supervisord", "-c", ini)
    return Peer(bench, "supervisor", f"supervisorctl -c {ini} restart {{kind}}", "true {kind}")


def pm2(bench: Bench) -> Peer:
    start = f"pm2 start {bench.worker} --name {{kind}} --interpreter none --kill-timeout 1000"
    more = f"{bench.place}/pm2-{{kind}}.log $(echo {{kind}} | grep stubborn)"
    return Peer(bench, "pm2", "pm2 restart {kind}", f"{start} -- {more}")


PEERS = {
    "start-stop-daemon": start_stop_daemon,
    "supervisord": supervisor,
    "pm2": pm2,
}


def bench_restart(peers: list[Peer], rounds: int) -> None:
    starts = []  # of Python with the modules that upkeep needs: what the machine is like just now
    for _ in range(rounds):
        starts.append(peers[0].bench.run(sys.executable, "-c", FLOOR))
        for peer in peers:
            if peer.name != "seed" or len(peer.walls) < 2:  # it takes 5 s
                peer.restart("polite")
    wall, down = median(peers[0].walls), median(peers[0].downtimes)
    print(f"restart of a worker that needs 200 ms to exit, median of {rounds}:")
    for peer in peers:
        its, gap = median(peer.walls), median(peer.downtimes)
        times = f"wall {milliseconds(its)} downtime {milliseconds(gap)}"
        print(f"  {peer.name:11}{times}  x{its / wall:5.1f} wall, x{gap / down:7.1f} downtime")
    for peer in peers[1:]:
        goals = (0.067, 0.0034) if peer.name == "seed" else (None, None)
        row("restart", 1000 * wall, peer.name, 1000 * median(peer.walls), goals[0])
        row("downtime", 1000 * down, peer.name, 1000 * median(peer.downtimes), goals[1])
    own, start = wall - 0.2, median(starts)
    print(f"  beyond the worker's own 200 ms: {milliseconds(own)}, x{own / start:.2f} of")
    print(f'  python3 -c "{FLOOR}": {milliseconds(start)}')
    print("restart of a worker that ignores TERM, beyond its grace of 1 s (seed: 5 s):")
    for peer in peers:
        grace = 5 if peer.name == "seed" else 1
        print(f"  {peer.name:11}{milliseconds(peer.restart('stubborn') - grace)}")


def bench_notice() -> None:
    """How soon an exit is noticed while the process stays a zombie, which nobody reaps."""
    delays = []
    for _ in range(20):
        child = subprocess.Popen(["sleep", "600"])
        fd = os.pidfd_open(child.pid)
        child.kill()
        began = time.monotonic()
        pidfd.wait_for_exit([fd], 5)
        delays.append(time.monotonic() - began)
        os.close(fd)
        child.wait()
    row("the exit of a process that stays a zombie is noticed", 1000 * max(delays), goal=5)


def bench_linger(bench: Bench, ours: Peer) -> None:
    """From SIGKILL to the new worker's first line, and what the lingering process costs."""
    command = bench.script("watchdog", "polite", "--linger", "30")
    process = subprocess.Popen(command, env=bench.env, stdout=-3, stderr=-3)
    wait_until(lambda: "poll" in Path(f"/proc/{process.pid}/wchan").read_text())
    before = figure(process.pid, "voluntary_ctxt_switches")
    time.sleep(2)  # what is measured is that nothing happens
    wakes = figure(process.pid, "voluntary_ctxt_switches") - before
    rss = figure(process.pid, "VmRSS") / 1024
    count, pid = len(ours.notes("polite")), ours.notes("polite")[-1][1]
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(ours.notes("polite")) > count, interval=0.001)
    delay = ours.notes("polite")[-1][2] - began
    wait_until(lambda: "poll" in Path(f"/proc/{process.pid}/wchan").read_text())
    more = figure(process.pid, "VmRSS") / 1024
    process.terminate()
    process.wait()
    print(
        f"--linger: death to new exec {milliseconds(delay)}, {rss:.1f} MiB, {wakes} wake-ups in"
        f" 2 s; {more:.1f} MiB once it has sent a message"
    )
    row("--linger: death to new exec", 1000 * delay, goal=50)
    row("--linger: resident", rss, goal=11, unit="MiB")


def figure(pid: int, name: str) -> int:
    """A figure of /proc/PID/status; KiB for sizes."""
    words = Path(f"/proc/{pid}/status").read_text().split()
    return int(words[words.index(f"{name}:") + 1])


def bench_tick(bench: Bench) -> None:
    """A healthy tick with 10 and with 60 tasks, beside what resident peers cost meanwhile."""
    names = [f"t{number}" for number in range(60)]
    bench.config.write_text(
        f'[paths]\nstate = "{bench.place}/many"\n'
        + "".join(
            f'[task.{name}]\ncommand = ["{bench.worker}", "{bench.place}/many.log"]\nverify = 0\n'
            'max_rss = "300M"\n'
            for name in names
        )
    )
    bench.run(*bench.script("restart", "--all"))
    missing = PROCESSES - sum(each.name.isdigit() for each in Path("/proc").iterdir())
    extras = [subprocess.Popen(["sleep", "6000"]) for _ in range(missing)]
    try:
        floor, bare = bench.used(sys.executable, "-c", FLOOR)
        print(f'python3 -c "{FLOOR}": {milliseconds(floor)} CPU, {bare:.1f} MiB peak')
        costs = [bench.used(*bench.script("watchdog", *names[:count])) for count in (10, 60)]
        for count, (cpu, peak) in zip((10, 60), costs, strict=True):
            ratio = f"x{cpu / floor:.2f} CPU, x{peak / bare:.2f} peak of that"
            print(f"healthy tick, {count} tasks: {milliseconds(cpu)} CPU, {peak:.1f} MiB, {ratio}")
        further = (costs[1][0] - costs[0][0]) / 50
        row(
            "healthy tick, 10 tasks",
            1000 * costs[0][0],
            "an empty one",
            1000 * floor,
            unit="ms CPU",
        )
        row("healthy tick, 10 tasks: peak", costs[0][1], goal=15, unit="MiB")
        row("each further task", 1000 * further, goal=0.2, unit="ms CPU")
        print_recorders()
        print(f"CPU in an hour and most memory, 10 tasks, from {WINDOW_SECONDS:g} s:")
        print(f"  a tick each minute {60 * costs[0][0]:6.2f} s  {costs[0][1]:5.1f} MiB, 0 between")
        for name, (cpu, peak) in resident_costs(bench, names[:10]).items():
            ratios = f"x{cpu / 60 / costs[0][0]:5.2f} CPU, x{peak / costs[0][1]:4.2f} memory"
            print(f"  {name:18} {cpu:6.2f} s  {peak:5.1f} MiB  {ratios}")
            row("CPU in an hour, 10 tasks", 60 * costs[0][0], name, cpu, unit="s")
    finally:
        for each in extras:
            each.kill()
            each.wait()


def print_recorders() -> None:
    """Memory of the small shells that wait for the programs."""
    found = [
        proc.pss_bytes(int(each.name)) or 0
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and proc.command_line(int(each.name))[:1] == ["upkeep-recorder"]
    ]
    print(f"recorder of a task: {median(found) / 1024:.0f} KiB PSS (median of {len(found)})")


def resident_costs(bench: Bench, names: list[str]) -> dict[str, tuple[float, float]]:
    """CPU seconds per hour and peak MiB of the resident peers."""
    pids = {}
    if (bench.place / "s.pid").exists():
        pids["supervisord"] = int((bench.place / "s.pid").read_text())
    with ExitStack() as stack:
        if shutil.which("monit"):
            for cycle in (5, 30):
                process = stack.enter_context(monit(bench, names, cycle))
                pids[f"monit, each {cycle} s"] = process.pid
        time.sleep(2)  # their start is not counted
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        time.sleep(WINDOW_SECONDS)
        per_hour = 3600 / WINDOW_SECONDS
        return {
            name: (per_hour * (cpu_seconds(pid) - before[name]), figure(pid, "VmHWM") / 1024)
            for name, pid in pids.items()
        }


def cpu_seconds(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


@contextmanager
def monit(bench: Bench, names: list[str], cycle: int) -> Iterator["subprocess.Popen[bytes]"]:
    own, many = bench.place / f"monit-{cycle}", bench.place / "many/run"
    checks = [
        f"check process {name} with pidfile {many}/{name}.pid\n"
        "  if total memory > 300 MB for 3 cycles then alert\n"
        for name in names
    ]
    head = f"set daemon {cycle}\nset pidfile {own}.pid\nset statefile {own}.state\n"
    own.write_text(f"{head}set idfile {own}.id\n" + "".join(checks))
    own.chmod(0o600)
    process = subprocess.Popen(["monit", "-c", own, "-I"], env=bench.env, stdout=-3, stderr=-3)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def kill_all_of(bench: Bench) -> None:
    """Everything that has a file of this bench open or was started in its name."""
    if shutil.which("pm2"):
        subprocess.run(["pm2", "kill"], env=bench.env, check=False, stdout=-3)
    if (bench.place / "s.pid").exists():
        os.kill(int((bench.place / "s.pid").read_text()), signal.SIGTERM)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and str(bench.worker) in proc.command_line(int(entry.name))[:1]:
            os.kill(int(entry.name), signal.SIGKILL)
            wait_until(lambda entry=entry: not is_running(int(entry.name)))


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="upkeep-bench-") as place:
        bench = Bench(Path(place))
        try:
            peers = [upkeep(bench), seed_script(bench)]
            peers += [make(bench) for program, make in PEERS.items() if shutil.which(program)]
            bench_restart(peers, rounds)
            bench_notice()
            bench_linger(bench, peers[0])
            bench_tick(bench)
        finally:
            kill_all_of(bench)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
