"""The memory of the host. Every reading takes `root`, the directory that stands for /proc.

Formats: proc(5), cgroups(7), Documentation/accounting/psi.rst of the kernel.
"""

import contextlib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from upkeep import proc
from upkeep.errors import OperatorError

Host = dict[str, Any]  # the `host` of the JSON report
Disks = dict[str, tuple[int, int]]  # mount point: (used, free) bytes


def read_host(root: str = "/proc") -> Host:
    """Sizes in bytes; the limit is the RAM, or the control group's limit where that is lower.

    `oom_kills` (since boot) and `pressure` (percent of a minute that somebody, or everybody, was
    stalled) are None where the kernel does not tell. Raises OperatorError.
    """
    try:
        return _host(root)
    except (OSError, KeyError, ValueError, IndexError, OverflowError):
        raise OperatorError(f"{root}: cannot be read as /proc") from None


def _host(root: str) -> Host:
    info, events = _numbers(f"{root}/meminfo"), _numbers(f"{root}/vmstat")
    total, uptime = info["MemTotal"] << 10, proc.uptime(root)
    if not math.isfinite(uptime):
        raise ValueError
    free = sum(info.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    available = info.get("MemAvailable", free) << 10  # not told by kernels before 3.14
    group, held = cgroup_limit(root) or (total, 0)
    if group < total:
        available = max(0, min(available, group - held))
    pressure = re.findall(r"(some|full) .*?avg60=([\d.]+)", _text(f"{root}/pressure/memory"))
    return {
        "boot_id": proc.boot_id(root),
        "uptime_seconds": uptime,
        "limit_bytes": min(group, total),
        "limit_source": "cgroup" if group < total else "host",
        "available_bytes": available,
        "used_bytes": min(group, total) - available,
        "swap_total_bytes": info.get("SwapTotal", 0) << 10,
        "swap_used_bytes": info.get("SwapTotal", 0) - info.get("SwapFree", 0) << 10,
        "swapped_bytes": (events.get("pswpin", 0) + events.get("pswpout", 0)) * proc.PAGE_BYTES,
        "oom_kills": events.get("oom_kill"),
        "pressure": {f"{kind}_avg60": float(share) for kind, share in pressure} or None,
    }


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def _numbers(path: str | Path) -> dict[str, int]:
    """The lines "name: number unit" and "name number" of a file, of at most 14 digits."""
    lines = re.findall(r"(?m)^(\w+):? +(\d{1,14})(?!\d)", _text(path))
    return {name: int(count) for name, count in lines}


def cgroup_limit(root: str = "/proc") -> tuple[int, int] | None:
    """(limit, use that is not reclaimable cache) of the tightest group from ours up, in bytes.

    "No limit" is `max` in version 2 and close to 2**63 in version 1.
    """
    ours, found = _text(f"{root}/self/cgroup"), []
    for line in _text(f"{root}/self/mountinfo").splitlines():
        fields = line.split()
        if fields[-3] == "cgroup2":
            path = re.search(r"(?m)^0::(/.*)", ours)
            names = ("memory.max", "memory.current", "inactive_file")
        elif fields[-3] == "cgroup" and "memory" in fields[-1].split(","):
            path = re.search(r"(?m)^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(/.*)", ours)
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        below = PurePosixPath(path[1] if path else "/")
        inside = below.is_relative_to(fields[3]) and ".." not in below.parts
        below = below.relative_to(fields[3]) if inside else PurePosixPath()
        mount = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        for group in (Path(mount, part) for part in (below, *below.parents)):
            limit, used = (_text(group / name).strip() for name in names[:2])
            if limit.isdecimal() and used.isdecimal() and int(limit):
                cache = _numbers(group / "memory.stat").get(names[2], 0)
                found.append((int(limit), max(0, int(used) - cache)))
    return min(found, default=None)


def read_disks(paths: Sequence[Path]) -> Disks:
    """The disks at `paths` as df counts them (root's reserve is neither); absent ones: left out."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            info = os.statvfs(path)
            used = (info.f_blocks - info.f_bfree) * info.f_frsize
            found[str(path)] = used, info.f_bavail * info.f_frsize
    return found


def directory_sizes(paths: Sequence[Path]) -> dict[str, list[int]]:
    """[bytes on disk] below each, largest first, by du(1): four times as fast as Python.

    One that is not there, or takes longer than 20 seconds, is left out.
    """
    sizes: dict[str, list[int]] = {}
    if not paths:
        return sizes
    import subprocess

    for path in paths:
        command = ["nice", "-n19", "timeout", "20", "du", "-sx", "-B1", "--", str(path)]
        with contextlib.suppress(OSError, IndexError, ValueError):
            done = subprocess.run(command, capture_output=True, check=False)
            sizes[str(path)] = [int(done.stdout.split()[0])]
    return dict(sorted(sizes.items(), key=lambda item: item[1], reverse=True))
