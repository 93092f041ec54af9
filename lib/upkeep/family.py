"""All processes of one task: who belongs to it, and how they are stopped.

A program's children may leave its group, its session and even its tree. So relatives are known by
the tree, by the session that our start opened, and by the tag that every start puts into the
environment (UPKEEP_TASK=<task>:<nonce>); those that have overwritten their environment and lost the
program are known by the session together with the executable or the log that they write.
"""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from upkeep import proc
from upkeep.errors import Exit, OperatorError

KILL_SECONDS = 10.0  # how long a killed process may take to vanish before we say it can't be
_LEAST_GRACE = 1.0
_ROUNDS = 10


@dataclass(frozen=True)
class Family:
    """The program `main` and all that came from it. `session` 0: it was not started by us."""

    main: proc.Identity
    session: int
    tag: str
    exe: str
    log: str

    def members(
        self, table: dict[int, proc.Stat] | None = None, sweep: bool = True
    ) -> list[proc.Stat]:
        """Everything alive that belongs to the program, itself first; never this process.

        `table` is a scan of /proc; `sweep` reads every environment for the tag.
        """
        table = proc.scan() if table is None else table
        table.pop(os.getpid(), None)  # we may be a descendant; what we start is not the task's
        main = table.get(self.main.pid)
        alive = main is not None and main.start_ticks == self.main.start_ticks
        reused = None if alive else main
        tree = {self.main.pid, *proc.descendants(table, self.main.pid)} if alive else set()

        def tagged(stat: proc.Stat) -> bool:
            return bool(self.tag) and proc.has_variable(stat.pid, "UPKEEP_TASK", self.tag)

        def is_ours(stat: proc.Stat) -> bool:
            if stat.dead or stat.start_ticks < self.main.start_ticks:
                return False
            if stat.pid in tree or not self.session or stat.session != self.session:
                return stat.pid in tree or (sweep and tagged(stat))
            # Without its leader, the number of the session could be somebody else's by now.
            return alive or tagged(stat) or (reused is None and same_and_untraceable(stat))

        def same_and_untraceable(stat: proc.Stat) -> bool:
            if self.log in (proc.link(stat.pid, f"fd/{fd}") for fd in (1, 2)):
                return True
            overwritten = b"PATH=" not in proc.read_file(f"/proc/{stat.pid}/environ")
            return overwritten and proc.executable(stat.pid) == (self.exe or None)

        found = filter(is_ours, table.values())
        return sorted(found, key=lambda stat: (stat.pid != self.main.pid, stat.start_ticks))

    def stop(self, number: int, grace: float) -> tuple[float, bool]:
        """End the program with signal `number`, or SIGKILL after `grace` seconds, then the rest.

        When it had ended (monotonic), and whether that took SIGKILL. Raises OperatorError.
        """
        deadline = time.monotonic() + grace
        known = [self._identity(stat) for stat in self.members()]
        stopped = end([self.main], number, grace), time.monotonic()
        for _ in range(_ROUNDS):
            now = (self._identity(stat) for stat in self.members())
            rest = [each for each in {*known, *now} if proc.is_alive(each)]
            if not rest:
                break
            end(rest, signal.SIGTERM, max(_LEAST_GRACE, deadline - time.monotonic()))
        return stopped[1], stopped[0]

    def rss(self) -> int:
        """Resident bytes of all members; pages they share count once for each."""
        return sum(stat.rss_bytes for stat in self.members(sweep=False))

    def _identity(self, stat: proc.Stat) -> proc.Identity:
        return proc.Identity(self.main.boot_id, stat.pid, stat.start_ticks)


def end(identities: Iterable[proc.Identity], number: int, grace: float) -> bool:
    """Ask each process to end, wake it if it is frozen, kill those left after `grace` seconds;
    whether any were. Raises OperatorError when one can't be signalled or survives."""
    opened = {}
    try:
        for identity in identities:
            if (fd := proc.open_process(identity)) is not None:
                opened[fd] = identity
        for fd in opened:
            proc.send_signal(fd, number)
            proc.send_signal(fd, signal.SIGCONT)
        left = proc.wait_for_exit(opened, grace)
        for fd in left:
            proc.send_signal(fd, signal.SIGKILL)
        stuck = proc.wait_for_exit(left, KILL_SECONDS)
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
