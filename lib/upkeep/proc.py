"""Processes as the kernel shows them: identity, one pass over /proc, what is in its files.

A process is identified by (boot id, PID, start ticks): field 22 of /proc/PID/stat counts clock
ticks since boot, so it moves neither with the wall clock nor over a suspend, and two processes
that are given one PID in turn differ in it (proc(5)). The file names follow proc(5).
"""

import contextlib
import functools
import os
from pathlib import Path
from typing import NamedTuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DEAD_STATES, FROZEN_STATES = "ZXx", "Tt"
PID_LIMIT = 1 << 22  # the kernel gives out none above it


class Identity(NamedTuple):
    """One process, and never another that was given its PID later."""

    boot_id: str
    pid: int
    start_ticks: int


class Stat(NamedTuple):
    """What /proc/PID/stat tells. `cpu_ticks` is user and system time without the children's."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    start_ticks: int
    cpu_ticks: int
    rss_bytes: int

    @property
    def dead(self) -> bool:
        """Whether it has ended; a zombie has, whatever ``kill -0`` says."""
        return self.state in DEAD_STATES


@functools.cache
def boot_id(root: str = "/proc") -> str:
    """The kernel's random name of this boot. "" where /proc/sys is not shown."""
    try:
        return Path(root, "sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def uptime(root: str = "/proc") -> float:
    """Seconds since boot, suspended time included."""
    with open(f"{root}/uptime", "rb") as file:
        return float(file.read().split()[0])


def read_stat(pid: int, root: str = "/proc") -> Stat | None:
    """The stat line of `pid`; None when there is no such process."""
    try:
        with open(f"{root}/{pid}/stat", "rb", 0) as file:
            return parse_stat(file.read(4096))  # one call, and no buffer: half the time
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def parse_stat(data: bytes) -> Stat | None:
    """Take a stat line apart; None when it is torn.

    The name stands in brackets and may hold blanks and brackets itself: fields are counted from
    the last closing one.
    """
    opening, closing = data.find(b"("), data.rfind(b")")
    fields = data[closing + 2 :].split()
    if opening < 0 or closing < opening or len(fields) < 22:
        return None
    try:
        return Stat(
            pid=int(data[:opening]),
            name=data[opening + 1 : closing].decode("utf-8", "surrogateescape"),
            state=fields[0].decode("ascii", "replace"),
            parent=int(fields[1]),
            group=int(fields[2]),
            session=int(fields[3]),
            start_ticks=int(fields[19]),
            cpu_ticks=int(fields[11]) + int(fields[12]),
            rss_bytes=max(0, int(fields[21])) * PAGE_BYTES,
        )
    except ValueError:
        return None


def scan(root: str = "/proc") -> dict[int, Stat]:
    """Every visible process by PID, in one pass."""
    found = {}
    for name in os.listdir(root):
        if name.isdigit() and (stat := read_stat(int(name), root)):
            found[stat.pid] = stat
    return found


def children_of(table: dict[int, Stat]) -> dict[int, list[int]]:
    """PIDs by the PID of their parent."""
    children: dict[int, list[int]] = {}
    for stat in table.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    return children


def descendants(
    table: dict[int, Stat], pid: int, known: dict[int, list[int]] | None = None
) -> list[int]:
    """PIDs of the children of `pid`, their children and so on, parents before children.

    `known` is `children_of(table)`, for callers that ask for more than one `pid`.
    """
    children = children_of(table) if known is None else known
    order, seen = [pid], {pid}
    for each in order:
        fresh = [child for child in children.get(each, []) if child not in seen]
        order.extend(fresh)
        seen.update(fresh)
    return order[1:]


def identify(pid: int) -> Identity | None:
    """The identity of the process that has `pid` now; None when it has ended or is a zombie."""
    stat = read_stat(pid)
    return None if stat is None or stat.dead else Identity(boot_id(), pid, stat.start_ticks)


def is_alive(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(identity.pid) == identity


def age_seconds(stat: Stat, root: str = "/proc") -> float:
    """Seconds since the process started."""
    return uptime(root) - stat.start_ticks / TICKS_PER_SECOND


def command_line(pid: int, root: str = "/proc") -> list[str]:
    """The arguments of `pid`; [] for a kernel thread, a zombie or a process that is hidden."""
    data = read_file(f"{root}/{pid}/cmdline")
    text = data.decode("utf-8", "surrogateescape")
    return text.removesuffix("\0").split("\0") if text else []


def environment(pid: int) -> dict[str, str]:
    """The environment `pid` was started with; {} when it may not be read or was overwritten."""
    text = read_file(f"/proc/{pid}/environ").decode("utf-8", "surrogateescape")
    pairs = (entry.partition("=") for entry in text.split("\0"))
    return {name: value for name, equals, value in pairs if equals}


def variable(pid: int, name: str) -> str:
    """One variable of the environment `pid` was started with; "" like `environment`."""
    data = b"\0" + read_file(f"/proc/{pid}/environ")
    value = data.partition(f"\0{name}=".encode())[2].partition(b"\0")[0]
    return value.decode("utf-8", "surrogateescape")


def executable(pid: int) -> str:
    """The path of the file that `pid` executes; "" when it may not be seen."""
    return link(pid, "exe")


def link(pid: int, name: str) -> str:
    """Where the link `name` of `pid` leads ("exe", "fd/1"); "" when it may not be seen."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/{name}").removesuffix(" (deleted)")
    return ""


def count_fds(pid: int, root: str = "/proc") -> int | None:
    """Open descriptors of `pid`; None when they may not be seen."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"{root}/{pid}/fd"))
    return None


def pss_bytes(pid: int, root: str = "/proc") -> int | None:
    """Its own pages and its part of shared ones; None when they may not be seen.

    The kernel stops the process while it counts, for about 11 ms per GiB.
    """
    for line in read_file(f"{root}/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):  # Pss_Anon and the like are parts of it
            return int(line.split()[1]) << 10
    return None


def owner(pid: int) -> int | None:
    """The real user id of `pid`; None when it has ended."""
    for line in read_file(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    return None


def read_file(path: str) -> bytes:
    """The content of a file below /proc; b"" when it can't be read."""
    try:
        with open(path, "rb", 0) as file:
            return file.read()
    except OSError:
        return b""
