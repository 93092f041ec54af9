"""All processes of one task: who belongs to it, and how they are stopped.

A program's children may leave its process group, its session and even its tree. So relatives are
known by the tree, by the session that our start opened, and by the tag that every start puts into
the environment (`UPKEEP_TASK=<task>:<nonce>`, proc(5)). Programs that overwrite their environment
are known by the session and the executable.
"""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from upkeep import proc, text, units
from upkeep.errors import Exit, OperatorError

KILL_SECONDS = 10.0  # how long a killed process may take to vanish before we say it can't be
_LEAST_GRACE = 1.0
_ROUNDS = 10


class Stopped(NamedTuple):
    """How a stop went: seconds until the program had ended, who it took SIGKILL to end."""

    seconds: float
    ended_at: float  # time.monotonic()
    killed: bool


@dataclass(frozen=True)
class Family:
    """The program `main` and all that came from it."""

    main: proc.Identity
    session: int
    tag: str
    exe: str

    def members(
        self, table: dict[int, proc.Stat] | None = None, sweep: bool = True
    ) -> list[proc.Stat]:
        """Everything alive that belongs to the program, itself first; never this process.

        `table` is a scan of /proc that is at hand. `sweep` reads every environment for the tag.
        """
        table = proc.scan() if table is None else table
        table.pop(os.getpid(), None)  # we may be a descendant; what we start is not the task's
        main = table.get(self.main.pid)
        alive = main is not None and main.start_ticks == self.main.start_ticks
        tree = {self.main.pid, *proc.descendants(table, self.main.pid)} if alive else set()
        found = [
            stat
            for stat in table.values()
            if not stat.dead and (stat.pid in tree or self._is_ours(stat, alive, sweep))
        ]
        return sorted(found, key=lambda stat: (stat.pid != self.main.pid, stat.start_ticks))

    def _is_ours(self, stat: proc.Stat, main_alive: bool, sweep: bool) -> bool:
        if stat.start_ticks < self.main.start_ticks:
            return False
        if self.session and stat.session == self.session:
            # Without its leader, the number of the session could be somebody else's by now.
            return main_alive or self._same_program(stat) or self._is_tagged(stat)
        return sweep and self._is_tagged(stat)

    def _same_program(self, stat: proc.Stat) -> bool:
        return bool(self.exe) and proc.executable(stat.pid) == self.exe

    def _is_tagged(self, stat: proc.Stat) -> bool:
        return bool(self.tag) and proc.has_variable(stat.pid, "UPKEEP_TASK", self.tag)

    def stop(self, number: int, grace: float) -> Stopped:
        """End the program with signal `number`, or SIGKILL after `grace` seconds, then the rest.

        The rest is asked with SIGTERM and killed when the grace is over (but is given a second).
        Raises OperatorError (cannot stop).
        """
        began = time.monotonic()
        known = self._identities()
        killed = end([self.main], number, grace)
        ended_at = time.monotonic()
        for _ in range(_ROUNDS):
            rest = {each for each in (*known, *self._identities()) if proc.is_alive(each)}
            if not rest:
                break
            left = grace - (time.monotonic() - began)
            killed = end(rest, signal.SIGTERM, max(_LEAST_GRACE, left)) or killed
        return Stopped(ended_at - began, ended_at, killed)

    def _identities(self) -> list[proc.Identity]:
        boot = self.main.boot_id
        return [proc.Identity(boot, stat.pid, stat.start_ticks) for stat in self.members()]


def end(identities: Iterable[proc.Identity], number: int, grace: float) -> bool:
    """Ask each process to end, wake it if it is frozen, kill those left after `grace` seconds.

    Whether one had to be killed. Raises OperatorError when one can't be signalled or survives.
    """
    opened = {}
    try:
        for identity in identities:
            if (fd := proc.open_process(identity)) is not None:
                opened[fd] = identity
        for fd, identity in opened.items():
            _signal(fd, identity, number)
            _signal(fd, identity, signal.SIGCONT)
        left = proc.wait_for_exit(opened, grace)
        for fd in left:
            _signal(fd, opened[fd], signal.SIGKILL)
        stuck = proc.wait_for_exit(left, KILL_SECONDS)
        if stuck:
            raise OperatorError(_why_stuck(opened[stuck.pop()]), Exit.CANNOT_STOP)
        return bool(left)
    finally:
        for fd in opened:
            os.close(fd)


def _signal(fd: int, identity: proc.Identity, number: int) -> None:
    try:
        proc.send_signal(fd, number)
    except PermissionError:
        raise OperatorError(
            f"pid {identity.pid}: not allowed to signal it: it belongs to uid"
            f" {proc.owner(identity.pid)}; run as root or as that user",
            Exit.CANNOT_STOP,
        ) from None


def _why_stuck(identity: proc.Identity) -> str:
    stat = proc.read_stat(identity.pid)
    waits = proc.read_file(f"/proc/{identity.pid}/wchan").decode("ascii", "replace") or "unknown"
    return (
        f"pid {identity.pid} ({text.printable(stat.name if stat else '?')}) is still there"
        f" {units.format_duration(KILL_SECONDS)} after SIGKILL, state"
        f" {stat.state if stat else '?'}, in the kernel at {waits}; no second copy is started"
    )


def total_rss(members: Iterable[proc.Stat]) -> int:
    """Resident bytes of all members; pages they share count once for each."""
    return sum(stat.rss_bytes for stat in members)
