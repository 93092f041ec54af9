"""What is looked at only once in a process: its connections, its mappings, its descendants."""

import contextlib
import os
from pathlib import Path
from typing import Any

from upkeep import files, proc, programs, target

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
    if top:
        family = [table[each] for each in proc.descendants(table, pid)]
        children = [
            {
                "pid": stat.pid,
                "program": programs.program_name(proc.command_line(stat.pid), stat.name),
                "rss_bytes": stat.rss_bytes,
            }
            for stat in sorted(family, key=lambda stat: -stat.rss_bytes)[:top]
        ]
        small = pid in table and table[pid].rss_bytes <= programs.PSS_MAX_RSS
        found |= {"mappings": mappings(pid, top) if small else None, "children": children}
    return found if proc.is_alive(identity) else {}


def connections(pid: int) -> dict[str, int] | None:
    """How many TCP connections are in which state; None when they may not be seen."""
    try:
        links = [proc.link(pid, f"fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return None
    sockets = {each[8:-1] for each in links if each.startswith("socket:[")}
    lines = []
    for name in ("tcp", "tcp6") if sockets else ():  # those of its own network namespace
        lines += proc.read_file(f"/proc/{pid}/net/{name}").decode("ascii").splitlines()[1:]
    states = [line.split()[3] for line in lines if line.split()[9] in sockets]
    return {TCP_STATES[int(each, 16) - 1]: states.count(each) for each in sorted(set(states))}


def mappings(pid: int, top: int) -> list[dict[str, Any]] | None:
    """What is mapped into its memory, by name, the largest first; None when it may not be seen."""
    sizes: dict[str, dict[str, int]] = {}
    name = ""
    for line in proc.read_file(f"/proc/{pid}/smaps").decode("utf-8", "surrogateescape").split("\n"):
        words = line.split(maxsplit=5)
        if words and not words[0].endswith(":"):
            name = words[5] if len(words) > 5 else "[anonymous]"
        elif words and words[0] in ("Rss:", "Pss:", "Swap:"):
            found = sizes.setdefault(name, {"rss_bytes": 0, "pss_bytes": 0, "swap_bytes": 0})
            found[f"{words[0][:-1].lower()}_bytes"] += int(words[1]) << 10
    largest = sorted(sizes.items(), key=lambda item: -item[1]["rss_bytes"])[:top]
    return [{"name": name, **found} for name, found in largest] or None


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
