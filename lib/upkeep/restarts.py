"""How often programs were started anew: by their lives, and as those who start them count it."""

import collections
import contextlib
import json
import os
from collections.abc import Iterable, Sequence

from upkeep import proc
from upkeep.programs import Program
from upkeep.samples import Point

DAY = 86400.0
WINDOWS = {"restarts_24h": DAY, "restarts_7d": 7 * DAY}
_SECONDS = 20.0  # that a manager may take to answer


def by_lives(points: Sequence[Point]) -> dict[str, int]:
    """Restarts in each of WINDOWS before the last point: lives that more than one sample saw."""
    found = {}
    for key, seconds in WINDOWS.items():
        begin = points[-1].time - seconds if points else 0.0
        lives = collections.Counter(point.life for point in points if point.time >= begin)
        found[key] = max(0, sum(count > 1 for count in lives.values()) - 1)
    return found


def by_managers(programs: Iterable[Program], root: str) -> dict[int, int]:
    """What pm2 and systemd count, by PID; each is asked only where it runs."""
    counts: dict[int, int] = {}
    for pid in [pid for each in programs if each.name == "PM2" for pid in each.pids]:
        home = proc.environment(pid).get("PM2_HOME", "")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            os.stat(f"{home}/rpc.sock")  # without it, asking would start a daemon
            for app in json.loads(_ask("pm2", "jlist", PM2_HOME=home).splitlines()[-1]):
                counts[app["pid"]] = int(app["pm2_env"]["restart_time"])
    first = proc.read_stat(1, root)
    if first and first.name == "systemd":
        counts |= _by_systemd()
    return counts


def _by_systemd() -> dict[int, int]:
    """Its own restarts of each service, by the main PID (org.freedesktop.systemd1(5))."""
    counts = {}
    shown = _ask("systemctl", "show", "--property=MainPID,NRestarts", "*.service")
    for unit in shown.split("\n\n"):
        values = dict(line.partition("=")[::2] for line in unit.splitlines())
        with contextlib.suppress(KeyError, ValueError):
            counts[int(values["MainPID"])] = int(values["NRestarts"])
    counts.pop(0, None)  # of units that do not run
    return counts


def _ask(*command: str, **more: str) -> str:
    """The output of `command`; "" if it isn't there or doesn't answer."""
    import subprocess

    places = f"{os.environ.get('PATH', os.defpath)}:/usr/local/bin"
    env = {**os.environ, "PATH": places, **more}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=_SECONDS, check=False
        ).stdout
    return ""
