"""What is looked at only once in a process: its connections, its mappings, its descendants."""

import contextlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from upkeep import files, proc, programs, target

MAPPING = re.compile(r"(?ms)^[0-9a-f]+-\S+ \S+ \S+ \S+ \d+ *([^\n]*)$.*?^Rss: +(\d+)")
TCP_STATES = (  # by number, from 1 on: tcp_states.h of the kernel
    *("ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE"),
    *("CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"),
)


def details(identity: proc.Identity, top: int) -> dict[str, Any]:
    """TCP connections by state, and with `top` the largest mappings and descendants.

    {} when the process has ended; None for what may not be seen.
    """
    pid, table = identity.pid, proc.scan() if top else {}
    found: dict[str, Any] = {"connections": connections(pid)}
    if pid in table:
        small = table[pid].rss_bytes <= programs.PSS_MAX_RSS
        family = [table[each] for each in proc.descendants(table, pid)]
        family.sort(key=lambda stat: -stat.rss_bytes)
        found["mappings"] = mappings(pid, top) if small else None
        found["children"] = [
            {"pid": stat.pid, "program": _program(stat), "rss_bytes": stat.rss_bytes}
            for stat in family[:top]
        ]
    return found if proc.is_alive(identity) else {}


def _program(stat: proc.Stat) -> str:
    return programs.program_name(proc.command_line(stat.pid), stat.name)


def connections(pid: int) -> dict[str, int] | None:
    """How many TCP connections are in which state; None when they may not be seen."""
    try:
        links = {proc.link(pid, f"fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return None
    states: Counter[str] = Counter()
    for name in ("tcp", "tcp6"):  # those of its own network namespace
        for line in proc.read_file(f"/proc/{pid}/net/{name}").decode("ascii").splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in links:
                states[TCP_STATES[int(fields[3], 16) - 1]] += 1
    return dict(states)


def mappings(pid: int, top: int) -> list[dict[str, Any]] | None:
    """What is mapped into its memory, by name, the largest first; None when it may not be seen."""
    sizes: Counter[str] = Counter()
    lines = proc.read_file(f"/proc/{pid}/smaps").decode("utf-8", "surrogateescape")
    for name, kib in MAPPING.findall(lines):
        sizes[name or "[anonymous]"] += int(kib) << 10
    return [{"name": name, "rss_bytes": size} for name, size in sizes.most_common(top)] or None


def keep(state: Path, name: str, identity: proc.Identity) -> str:
    """One look at a task over its limit, kept in <state>/snapshots; words that name the file.

    "" when it could not be taken: the restart that follows is more important.
    """
    path, reading = state / "snapshots" / f"{name}.json", target.read(identity)
    with contextlib.suppress(OSError):
        if reading:
            more = {**reading, **details(identity, 10)}
            files.write_state(path, {"program": name, "pid": identity.pid, **more})
            return f"; snapshot {path}"
    return ""
