"""How often programs were started anew: by their lives, and as those who start them count it."""

import collections
import contextlib
import re
from collections.abc import Iterable, Sequence

from upkeep import proc
from upkeep.programs import Program
from upkeep.samples import Point, life_of

DAY = 86400.0
WINDOWS = {"restarts_24h": DAY, "restarts_7d": 7 * DAY}
_SECONDS = 20.0  # that systemd may take to answer


def by_lives(points: Sequence[Point]) -> dict[str, int]:
    """Restarts in each of WINDOWS before the last point: lives that more than one sample saw."""
    found = {}
    for key, seconds in WINDOWS.items():
        begin = points[-1].time - seconds if points else 0.0
        lives = collections.Counter(map(life_of, [p for p in points if p.time >= begin]))
        found[key] = max(0, sum(count > 1 for count in lives.values()) - 1)
    return found


def by_managers(programs: Sequence[Program], root: str) -> dict[str, int]:
    """What pm2 and systemd count, by the names of programs; looked for only where they run."""
    counts, first = {}, proc.read_stat(1, root)
    services = _by_systemd() if first and first.name == "systemd" else {}
    pm2 = {pid for program in programs if program.name == "PM2" for pid in program.pids}
    for program in programs:
        parent = program.leader.parent if program.leader else 0
        apps = _by_pm2(program.pids, root) if parent in pm2 else {}
        known = [*apps.values(), *(services[pid] for pid in program.pids if pid in services)]
        if known:
            counts[program.name] = sum(known)
    return counts


def _by_pm2(pids: Iterable[int], root: str) -> dict[bytes, int]:
    """Restarts by the id of each app: pm2 tells an app both in its environment, at every start.

    Children inherit it. To ask pm2 itself takes 0.3 s, and starts it if it has just ended.
    """
    apps = {}
    for pid in pids:
        data = proc.read_file(f"{root}/{pid}/environ")
        told = dict(re.findall(rb'\b(pm_id|restart_time)"?[=:](\d+)', data))
        if len(told) == 2:
            apps[told[b"pm_id"]] = int(told[b"restart_time"])
    return apps


def _by_systemd() -> dict[int, int]:
    """Its own restarts of each service, by the main PID (org.freedesktop.systemd1(5))."""
    import subprocess

    counts: dict[int, int] = {}
    command = ["systemctl", "show", "--property=MainPID,NRestarts", "*.service"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        for unit in done.stdout.split("\n\n"):
            values = dict(line.partition("=")[::2] for line in unit.splitlines())
            with contextlib.suppress(KeyError, ValueError):
                counts[int(values["MainPID"])] = int(values["NRestarts"])
    counts.pop(0, None)  # of units that do not run
    return counts
