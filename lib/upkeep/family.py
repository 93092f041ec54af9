"""All processes of one task: who belongs to it, and how they are stopped.

A program's children may leave its group, its session and even its tree. So relatives are known by
the tree, by the session that our start opened, and by the tag that every start puts into the
environment (UPKEEP_TASK=<task>:<nonce>); those that have overwritten their environment and lost the
program are known by the session together with the executable or the log that they write.
"""

import functools
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from upkeep import pidfd, proc
from upkeep.errors import Exit, OperatorError

TAG = "UPKEEP_TASK"
KILL_SECONDS = 5.0  # how long a killed process may take to vanish before we say it can't be
_LEAST_GRACE = 1.0
_ROUNDS = 10


class Processes:
    """One look at /proc, taken when it is first needed.

    This process is left out: it may be a descendant of a task, and is no part of it.
    """

    def __init__(self) -> None:
        self._tagged: dict[str, list[proc.Stat]] = {}

    @functools.cached_property
    def table(self) -> dict[int, proc.Stat]:
        """All of them by PID."""
        table = proc.scan()
        table.pop(os.getpid(), None)
        return table

    @functools.cached_property
    def children(self) -> dict[int, list[int]]:
        """PIDs by the PID of their parent."""
        return proc.children_of(self.table)

    @functools.cached_property
    def sessions(self) -> dict[int, list[proc.Stat]]:
        """The processes of each session."""
        found: dict[int, list[proc.Stat]] = {}
        for stat in self.table.values():
            found.setdefault(stat.session, []).append(stat)
        return found

    @functools.cached_property
    def _unread(self) -> list[proc.Stat]:
        return sorted(self.table.values(), key=lambda stat: stat.start_ticks)

    def tagged(self, tag: str, since: int) -> list[proc.Stat]:
        """What the start that gave `tag` led to, as far as it began at `since` (clock ticks after
        boot) or later. Environments of older processes are not read, and none is read twice."""
        while self._unread and self._unread[-1].start_ticks >= since:
            stat = self._unread.pop()
            self._tagged.setdefault(proc.variable(stat.pid, TAG), []).append(stat)
        return self._tagged.get(tag, [])


@dataclass(frozen=True)
class Family:
    """The program `main` and all that came from it. `session` 0: it was not started by us."""

    main: proc.Identity
    session: int
    tag: str
    exe: str
    log: Path

    def members(self, processes: Processes | None = None) -> list[proc.Stat]:
        """Everything alive that belongs to the program, itself first; never this process."""
        now = processes or Processes()
        holder = now.table.get(self.main.pid)
        leads = holder is not None and holder.start_ticks == self.main.start_ticks
        found = now.tagged(self.tag, self.main.start_ticks) if self.tag else []
        if leads:
            tree = proc.descendants(now.table, self.main.pid, now.children)
            found = [*found, *(now.table[pid] for pid in (self.main.pid, *tree))]
        # Without its leader, the number of the session could be somebody else's by now.
        if self.session and (leads or holder is None):
            mates = now.sessions.get(self.session, [])
            found = [*found, *(stat for stat in mates if leads or self._left(stat))]
        began = self.main.start_ticks
        alive = {stat for stat in found if stat.start_ticks >= began and not stat.dead}
        by_age = sorted(alive, key=lambda stat: (stat.start_ticks, stat.pid))
        return sorted(by_age, key=lambda stat: stat.pid != self.main.pid)

    def _left(self, stat: proc.Stat) -> bool:
        """Whether an untagged process of the session writes our log, or is our executable that
        has overwritten its environment."""
        if os.path.realpath(self.log) in (proc.link(stat.pid, f"fd/{fd}") for fd in (1, 2)):
            return True
        overwritten = not proc.variable(stat.pid, "PATH")
        return overwritten and proc.executable(stat.pid) == (self.exe or None)

    def stop(self, number: int, grace: float, before: Processes) -> tuple[float, bool]:
        """End the program with signal `number`, or SIGKILL after `grace` seconds, then the rest.

        `before` was taken while it ran: what leaves the tree meanwhile is known from there.
        When it had ended (monotonic), and whether that took SIGKILL. Raises OperatorError.
        """
        deadline = time.monotonic() + grace
        known = {self._identity(stat) for stat in self.members(before)}
        killed, ended = end([self.main], number, grace), time.monotonic()
        for _ in range(_ROUNDS):
            known |= {self._identity(stat) for stat in self.members()}
            rest = [each for each in known if proc.is_alive(each)]
            if not rest:
                break
            end(rest, signal.SIGTERM, max(_LEAST_GRACE, deadline - time.monotonic()))
        return ended, killed

    def rss(self, processes: Processes | None = None) -> int:
        """Resident bytes of all members; pages they share count once for each."""
        return sum(stat.rss_bytes for stat in self.members(processes))

    def _identity(self, stat: proc.Stat) -> proc.Identity:
        return proc.Identity(self.main.boot_id, stat.pid, stat.start_ticks)


def end(identities: Iterable[proc.Identity], number: int, grace: float) -> bool:
    """Ask each process to end, wake it if it is frozen, kill those left after `grace` seconds;
    whether any were. Raises OperatorError when one can't be signalled or survives."""
    opened = {}
    try:
        for identity in identities:
            if (fd := pidfd.open_process(identity)) is not None:
                opened[fd] = identity
        for fd in opened:
            pidfd.send_signal(fd, number)
            pidfd.send_signal(fd, signal.SIGCONT)
        left = pidfd.wait_for_exit(opened, grace)
        for fd in left:
            pidfd.send_signal(fd, signal.SIGKILL)
        stuck = pidfd.wait_for_exit(left, KILL_SECONDS)
        if stuck:
            raise OperatorError(_why_stuck(opened[stuck.pop()].pid), Exit.CANNOT_STOP)
        return bool(left)
    except PermissionError:
        pids = ", ".join(str(each.pid) for each in opened.values())
        why = f"not allowed to signal pid {pids}; run as root or as the user it belongs to"
        raise OperatorError(why, Exit.CANNOT_STOP) from None
    finally:
        for fd in opened:
            os.close(fd)


def _why_stuck(pid: int) -> str:
    state = (stat := proc.read_stat(pid)) and stat.state
    waits = proc.read_file(f"/proc/{pid}/wchan").decode("ascii", "replace")
    return f"pid {pid} survives SIGKILL, state {state} in {waits or '?'}; no copy is started"
