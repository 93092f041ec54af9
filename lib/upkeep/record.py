"""What is on record about a task: `<state>/tasks/<task>.json`.

It is the truth about the running copy; the PID file beside it serves other programs, and serves us
where there is no record.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upkeep import files, history, proc
from upkeep.settings import TaskSettings


@dataclass
class Record:
    """What is remembered about a task.

    `trouble` is what was told and is not over: when a restart was ("told"), that an outage
    "lasted", that the breaker has "tripped", and when it was "given_up" last. `due` is a restart
    that waits for a quiet host, `over` the samples in a row over a limit, `counts` the starts by
    cause.
    """

    boot_id: str = ""
    pid: int = 0  # 0: none, or one whose death is accounted for
    start_ticks: int = 0
    session: int = 0  # the session that our start opened; 0: somebody else started it
    heir: bool = False  # it is not the process that we started, but took over from that
    nonce: str = ""
    tag: str = ""
    exe: str = ""
    command: list[str] = field(default_factory=list)
    place: list[str] = field(default_factory=list)  # its user, directory and manager
    started: dict[str, Any] = field(default_factory=dict)  # by history.stamp
    log_start: int = 0
    file_before: int = 0  # of `ready`, at the start
    oom_kills: int = 0
    down: bool = False
    stopping: str = ""
    unready: str = ""
    due: dict[str, Any] = field(default_factory=dict)
    trouble: dict[str, Any] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def identity(self) -> proc.Identity:
        """The process that was last known to be the task."""
        return proc.Identity(self.boot_id, self.pid, self.start_ticks)

    @property
    def outage(self) -> bool:
        """Whether it was down or wrong for so long that the end of that is told."""
        return not {"lasted", "tripped"}.isdisjoint(self.trouble)


def described(settings: TaskSettings) -> tuple[list[str], list[str]]:
    """What tells a task from others, whatever it is called: its program, and its place."""
    program = list(settings.command) or [settings.unit or settings.app]
    return program, [settings.user, str(settings.cwd), settings.manager]


def names(state: Path) -> list[str]:
    """Tasks that have a record, whether they are still configured or not."""
    return sorted(path.stem for path in (state / "tasks").glob("[!.]*.json"))


def read(state: Path, name: str) -> Record | None:
    """The record; None when there is none, or one that can't be ours. Raises OSError."""
    stored = files.read_state(state / "tasks" / f"{name}.json", _fits)
    return Record(**_known(stored)) if stored else None


def _known(stored: dict[str, Any]) -> dict[str, Any]:
    return {key: stored.get(key, usual) for key, usual in vars(Record()).items()}


def _fits(stored: dict[str, Any]) -> bool:
    """Whether all values have the types and ranges that a record of ours has."""
    known, usual = _known(stored), vars(Record())
    if any(type(known[key]) is not type(value) for key, value in usual.items()):
        return False
    due, trouble = known["due"], known["trouble"]
    stamps = [known["started"], due, *(trouble.get(key, {}) for key in ("told", "given_up"))]
    return (
        all(type(each) is int for each in (*known["counts"].values(), *known["over"].values()))
        and all(isinstance(each, str) for each in (*known["command"], *known["place"]))
        and known["command"][:1] != [""]
        and not any("\0" in word for word in known["command"])
        and all(value >= 0 for value in known.values() if type(value) is int)
        and known["pid"] <= proc.PID_LIMIT
        and all(each == {} or history.is_stamp(each) for each in stamps)
        and (not due or (isinstance(due.get("wait"), float) and isinstance(due.get("reason"), str)))
        and trouble.get("given_up") != {}
    )
