"""What happened to one task, and how that is told: rows, lines, exit statuses, messages."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from upkeep import cli, files
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.task import Task, load

_OUTCOMES = {Exit.REFUSED: "refused", Exit.BUSY: "busy", Exit.CANNOT_STOP: "cannot_stop"}
_LOCK_WAIT_SECONDS = 10.0


class Result:
    """`facts` are the row of --json; `plan` has the lines of --dry-run; `note` is a message to
    tell: what to do with the task's episode (a method of Alerts), a title and a body."""

    def __init__(self, task: str, outcome: str = "", code: int = Exit.DONE, **facts: Any) -> None:
        self.task, self.outcome, self.code, self.facts = task, outcome, code, facts
        self.plan: list[str] = []
        self.note: tuple[str, str, str] | None = None

    def row(self) -> dict[str, Any]:
        """What is known, for JSON and for the history."""
        known = {key: value for key, value in self.facts.items() if value is not None}
        plan = {"plan": self.plan} if self.plan else {}
        return {"task": self.task, "outcome": self.outcome, **known, **plan}

    def line(self) -> str:
        """One line for people and for the log."""
        row = self.row()
        pids = " -> ".join(str(row[key]) for key in ("old_pid", "new_pid") if key in row)
        facts = [self.outcome, pids and f"pid {pids}", row.get("reason"), row.get("detail")]
        return f"{self.task}: {', '.join(fact for fact in facts if fact)}"

    def tell_failure(self) -> None:
        """Have it told what went wrong, with the last lines of the program's log."""
        lines = [self.facts.get("detail") or "", *self.facts.get("log_tail", ())]
        title = f"{self.task}: {self.outcome}: {self.facts.get('reason') or 'nothing was done'}"
        self.note = ("problem", title, "\n".join(line for line in lines if line))


def attempt(
    config: Config, name: str, wait: float, dry_run: bool, action: Callable[[Task], Result]
) -> Result:
    """Do `action` under the lock of the task `name`, waiting at most `wait` seconds for it.

    What an operator can mend becomes a result of its own with its exit code; the record keeps
    that something is wrong, so that its end can be told.
    """
    known = None
    path = config.state / "lock" / f"task-{name}.lock"
    try:
        with files.lock(path, wait, f"another restart, stop or tick of {name}"):
            known = load(config, name)
            return action(known)
    except OperatorError as error:
        code, why = error.code, str(error)
    except OSError as error:
        code, why = Exit.PROBLEM, f"{error.filename or name}: {error.strerror or error}"
    result = Result(name, _OUTCOMES.get(code, "failed"), code, detail=why)
    if code != Exit.BUSY and not dry_run:
        result.tell_failure()
        if known:
            known.note_trouble(lasted=True)
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
        if result.outcome == "failed" and not options.dry_run:
            result.tell_failure()
        elif result.outcome in ("started", "restarted"):
            result.note = ("recovered", f"{name} works again", "")
        results.append(result)
    deliver(config, results)
    return show(config, results, options)


def deliver(config: Config, results: Sequence[Result]) -> None:
    """Send the messages; without one, nothing is imported or read."""
    noted = [(f"task:{each.task}", *each.note) for each in results if each.note]
    if not noted:
        return
    from upkeep.alerts import Alerts

    with Alerts(config) as alerts:
        for key, kind, title, body in noted:
            if kind == "problem":
                alerts.problem(key, title, body, "critical")
            elif kind == "again":
                alerts.repeated(key, title, body, "critical", 0.0)
            elif kind == "recovered":
                alerts.recovered(key, title, body)
            else:
                alerts.forget(key)


def show(config: Config, results: Sequence[Result], options: argparse.Namespace) -> int:
    """Print and log the results; the largest exit status."""
    if options.json:
        cli.print_json({"results": [each.row() for each in results]})
    for each in results:
        if "event" in each.facts or each.code:
            cli.log(config, each.line())
        if each.plan and not options.json:
            print("\n".join(f"{each.task}: {step}" for step in each.plan))
        elif each.code not in (Exit.DONE, Exit.LATER):
            for line in (each.line(), *each.facts.get("log_tail", ())):
                cli.warn(line)
        elif not options.json and (options.verbose or sys.stdout.isatty()):
            print(each.line())
    return max((each.code for each in results), default=Exit.DONE)
