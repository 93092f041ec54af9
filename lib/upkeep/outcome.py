"""What happened to one task, and how that is told: rows, lines, exit statuses, messages."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from upkeep import cli, task
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.task import Task

_OUTCOMES = {Exit.REFUSED: "refused", Exit.BUSY: "busy", Exit.CANNOT_STOP: "cannot_stop"}
_LOCK_WAIT_SECONDS = 10.0


class Note(NamedTuple):
    """One message to tell: "problem", "breaker", "recovered", or "forget" an open episode."""

    kind: str
    key: str
    title: str
    body: str = ""


@dataclass
class Result:
    """The fields but `code` are the row of --json; those of an event are a line of history."""

    task: str
    outcome: str = ""
    code: int = Exit.DONE
    event: str | None = None
    reason: str | None = None
    old_pid: int | None = None
    new_pid: int | None = None
    stop_seconds: float | None = None
    downtime_seconds: float | None = None
    rss_before_bytes: int | None = None
    rss_after_bytes: int | None = None
    killed: bool | None = None
    detail: str | None = None
    plan: list[str] | None = None
    log_tail: list[str] | None = None
    notes: list[Note] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        """The fields that are known."""
        pairs = dataclasses.asdict(self).items()
        return {
            key: value for key, value in pairs if value is not None and key not in ("code", "notes")
        }

    def note(self, kind: str, title: str, body: str = "") -> None:
        """Have a message told about this task."""
        self.notes.append(Note(kind, f"task:{self.task}", title, body))

    def note_by_hand(self) -> None:
        """Have it told that an action by hand went wrong, or that all is well again."""
        if self.code not in (Exit.DONE, Exit.LATER, Exit.BUSY):
            self.note_failure()
        elif self.new_pid:
            self.note("recovered", f"{self.task} works again")

    def note_failure(self) -> None:
        """Have it told why this went wrong, with the last lines of the log."""
        body = "\n".join([self.detail or "", *(self.log_tail or [])])
        self.note("problem", f"{self.task}: {self.outcome}", body.strip())

    def line(self) -> str:
        """One line for people and for the log."""
        facts = [
            self.outcome,
            f"pid {self.old_pid} -> {self.new_pid}" if self.old_pid and self.new_pid else "",
            f"pid {self.new_pid}" if self.new_pid and not self.old_pid else "",
            f"down for {self.downtime_seconds:.3f} s" if self.downtime_seconds is not None else "",
            self.reason or "",
            self.detail or "",
        ]
        return f"{self.task}: {', '.join(each for each in facts if each)}"


def attempt(
    config: Config, name: str, wait: float, dry_run: bool, action: Callable[[Task], Result]
) -> Result:
    """Do `action` under the lock of the task `name`, waiting at most `wait` seconds for it.

    What an operator can mend becomes a result of its own with its exit code; the record keeps
    that something is wrong, so that its end can be told.
    """
    known = None
    try:
        with task.locked(config, name, wait):
            known = task.load(config, name)
            return action(known)
    except (OperatorError, OSError) as error:
        code, text = Exit.PROBLEM, str(error)
        if isinstance(error, OperatorError):
            code = error.code
        elif error.strerror:
            text = f"{error.filename or name}: {error.strerror}; nothing was stopped or started"
        if known and not dry_run:
            known.note_trouble(blocked=True)
        result = Result(name, _OUTCOMES.get(code, "failed"), code, detail=text)
        if code != Exit.BUSY:
            result.note_failure()
        return result


def by_hand(
    config: Config,
    names: Sequence[str],
    options: argparse.Namespace,
    action: Callable[[Task], Result],
) -> int:
    """Do `action` with each task, tell what went wrong or is well again; the exit status."""
    results = []
    for name in names:
        result = attempt(config, name, _LOCK_WAIT_SECONDS, options.dry_run, action)
        if not result.notes:
            result.note_by_hand()
        results.append(result)
    if not options.dry_run:
        deliver(config, results)
    return show(config, results, options)


def deliver(config: Config, results: Sequence[Result]) -> None:
    """Send the messages; without one, nothing is imported or read."""
    notes = [note for each in results for note in each.notes]
    if not notes:
        return
    from upkeep.alerts import Alerts

    with Alerts(config) as alerts:
        for note in notes:
            if note.kind == "problem":
                alerts.problem(note.key, note.title, note.body, "critical")
            elif note.kind == "breaker":  # the same episode, but told once more
                alerts.repeated(note.key, note.title, note.body, "critical", 0.0)
            elif note.kind == "recovered":
                alerts.recovered(note.key, note.title, note.body)
            else:
                alerts.forget(note.key)


def show(config: Config, results: Sequence[Result], options: argparse.Namespace) -> int:
    """Print and log the results; the largest exit status."""
    if options.json:
        cli.print_json({"results": [each.row() for each in results]})
    for each in results:
        if each.event or each.code:
            cli.log(config, each.line())
        if each.plan is not None and not options.json:
            print("\n".join(f"{each.task}: {step}" for step in each.plan))
        elif each.code not in (Exit.DONE, Exit.LATER):
            cli.warn(each.line())
            for line in each.log_tail or []:
                cli.warn(f"  {line}")
        elif not options.json and (options.verbose or sys.stdout.isatty()):
            print(each.line())
    return max((each.code for each in results), default=Exit.DONE)
