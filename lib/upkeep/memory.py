"""The memory of the host: what is there, what is used, and how hard it is to get more.

Every reading takes `root`, the directory that stands for /proc. Sizes are bytes. File formats:
proc(5), cgroups(7), and Documentation/accounting/psi.rst of the kernel.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from upkeep import proc
from upkeep.errors import Exit, OperatorError


@dataclass(frozen=True)
class Host:
    """One reading. `limit_bytes` is the RAM, or the control group's limit where that is lower."""

    boot_id: str
    uptime_seconds: float
    limit_bytes: int
    limit_source: str  # "host" or "cgroup"
    available_bytes: int
    used_bytes: int  # the rest of the limit
    swap_total_bytes: int
    swap_used_bytes: int
    swapped_bytes: int  # read from and written to swap since boot
    oom_kills: int | None  # since boot; control groups' own included
    pressure: dict[str, float] | None  # e.g. "some_avg60": percent of time stalled

    @property
    def used_share(self) -> float:
        """The used part of the limit, 0.0 to 1.0."""
        return self.used_bytes / max(1, self.limit_bytes)


def read_host(root: str = "/proc") -> Host:
    """Read the host's memory. Raises OperatorError when `root` holds no /proc."""
    try:
        info = _numbers(Path(root, "meminfo"), 1024)
        uptime = proc.uptime(root)
        total = info["MemTotal"]
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise OperatorError(f"{root}: cannot be read as /proc: {error!r}", Exit.PROBLEM) from None
    free = sum(info.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    available = min(total, info.get("MemAvailable", free))  # not in kernels before 3.14
    limit, source = total, "host"
    group = cgroup_limit(root)
    if group and group[0] < total:
        limit, source = group[0], "cgroup"
        available = max(0, min(available, limit - group[1]))
    events = _numbers_or_none(Path(root, "vmstat")) or {}
    return Host(
        boot_id=proc.boot_id(root),
        uptime_seconds=uptime,
        limit_bytes=limit,
        limit_source=source,
        available_bytes=available,
        used_bytes=limit - available,
        swap_total_bytes=info.get("SwapTotal", 0),
        swap_used_bytes=info.get("SwapTotal", 0) - info.get("SwapFree", 0),
        swapped_bytes=(events.get("pswpin", 0) + events.get("pswpout", 0)) * proc.PAGE_BYTES,
        oom_kills=events.get("oom_kill"),
        pressure=_pressure(Path(root, "pressure/memory")),
    )


def _numbers(path: Path, factor: int = 1) -> dict[str, int]:
    """A file of lines "name: number unit" or "name number"."""
    rows = (line.split() for line in path.read_text("ascii", "replace").splitlines())
    return {row[0].rstrip(":"): int(row[1]) * factor for row in rows if len(row) > 1}


def _numbers_or_none(path: Path) -> dict[str, int] | None:
    try:
        return _numbers(path)
    except (OSError, ValueError):
        return None


def _pressure(path: Path) -> dict[str, float] | None:
    try:
        found = re.findall(r"(some|full) .*?avg60=(\S+)", path.read_text("ascii"))
        return {f"{kind}_avg60": float(minute) for kind, minute in found} or None
    except (OSError, ValueError):  # kernels before 4.20, or psi=0
        return None


def cgroup_limit(root: str = "/proc") -> tuple[int, int] | None:
    """(limit, bytes in use that cannot be reclaimed) of the tightest control group we are in.

    Looks at every group from ours up to the mount point, of version 1 and 2. "No limit" is `max`
    in version 2 and a number close to 2**63 in version 1.
    """
    found = [_group_limit(*place) for place in _group_directories(root)]
    return min((each for each in found if each), default=None)


def _group_limit(directory: Path, version: int) -> tuple[int, int] | None:
    names = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    try:
        limit = int((directory / names[0]).read_text("ascii"))
        used = int((directory / names[1]).read_text("ascii"))
    except (OSError, ValueError):  # the root group has no such file; `max` is no limit
        return None
    cache = (_numbers_or_none(directory / "memory.stat") or {}).get(names[2], 0)
    return limit, max(0, used - cache)


def _group_directories(root: str) -> Iterator[tuple[Path, int]]:
    """Our control groups of the memory controller and all above them, with their version."""
    try:
        ours = Path(root, "self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
        mounts = Path(root, "self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    paths = {}
    for line in ours:  # hierarchy:controllers:path, and 0::path in version 2
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0" or "memory" in controllers.split(","):
            paths[2 if hierarchy == "0" else 1] = path
    for line in mounts:
        fields = line.split()
        kind, options = fields[-3], fields[-1].split(",")
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "memory" in options else 0
        if version in paths:
            top = Path(_unescaped(fields[4]))
            below = _below(paths[version], _unescaped(fields[3]))
            yield from ((top / part, version) for part in (below, *below.parents))


def _below(path: str, mounted: str) -> PurePosixPath:
    """`path` relative to the group that is mounted; a group outside of it counts as that one."""
    pure = PurePosixPath(path)
    inside = pure.is_relative_to(mounted) and ".." not in pure.parts
    return pure.relative_to(mounted) if inside else PurePosixPath()


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def read_disks(paths: tuple[Path, ...]) -> dict[str, tuple[int, int]]:
    """(used, free) bytes of the disks at `paths`, as df counts them; absent ones are left out.

    Root's reserve belongs to neither side.
    """
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            info = os.statvfs(path)
            used = (info.f_blocks - info.f_bfree) * info.f_frsize
            found[str(path)] = used, info.f_bavail * info.f_frsize
    return found


def directory_sizes(paths: tuple[Path, ...], seconds: float = 20.0) -> dict[str, int]:
    """Bytes on disk below each directory, largest first, by du(1): four times as fast as Python.

    Stays on one filesystem, at the lowest priority. One that is not there, or takes longer than
    `seconds`, is left out.
    """
    import subprocess

    sizes = {}
    for path in paths:
        command = ["nice", "-n", "19", "du", "-sx", "-B1", "--", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
            sizes[str(path)] = int(done.stdout.split()[0])
        except (subprocess.TimeoutExpired, OSError, IndexError, ValueError):
            continue
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))
