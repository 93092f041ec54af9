"""Everything that is read about this host at one moment."""

import time
from typing import Any, NamedTuple

from upkeep import memory, programs
from upkeep.config import Config
from upkeep.memory import Disks, Host
from upkeep.programs import Program

MOST_PROGRAMS = 25  # of every reading are kept and exported


class Reading(NamedTuple):
    """Everything that is read at one moment."""

    time: float
    host: Host
    disks: Disks
    programs: list[Program]

    @property
    def limits(self) -> dict[str, int]:
        """What each program may use if it has no limit of its own: all that the host has left."""
        left = self.host["available_bytes"]
        return {each.name: each.rss_bytes + left for each in self.programs}

    @property
    def row(self) -> dict[str, Any]:
        """This reading as a line of the history (see samples)."""
        host = self.host
        return {
            "time": round(self.time),
            "boot_id": host["boot_id"],
            "uptime": round(host["uptime_seconds"]),
            **{name: host[f"{name}_bytes"] for name in ("used", "limit", "swap_used", "swapped")},
            "oom_kills": host["oom_kills"],
            "disks": self.disks,
            "programs": [
                [each.name, each.leader.pid, each.leader.start_ticks, len(each.pids)]
                + [size >> 10 for size in (each.rss_bytes, each.pss_bytes) if size is not None]
                for each in self.programs[:MOST_PROGRAMS]
                if each.leader
            ],
        }


def take(settings: Config, root: str, detailed: int) -> Reading:
    """Read this host, with PSS and descriptors of `detailed` programs. Raises OperatorError."""
    host = memory.read_host(root)
    found = programs.collect(root, settings, host["boot_id"])
    programs.read_details(found[:detailed], root)
    return Reading(time.time(), host, memory.read_disks(settings.host.disks), found)
