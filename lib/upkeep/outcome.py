"""What happened to one task, and how that is told: rows, lines, exit statuses, messages."""

import contextlib
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from upkeep import cli, episodes, files
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.task import Task, load

_OUTCOMES = {Exit.REFUSED: "refused", Exit.BUSY: "busy", Exit.CANNOT_STOP: "cannot_stop"}
_LOCK_WAIT_SECONDS = 10.0


class Result:
    """`facts` are the row of --json and the line of history, `plan` has the lines of --dry-run;
    `note` is what to do with the task's episode: a method of Alerts and its arguments."""

    def __init__(self, task: str, outcome: str = "", code: int = Exit.DONE, **facts: Any) -> None:
        self.task, self.outcome, self.code, self.facts = task, outcome, code, facts
        self.note: tuple[Any, ...] = ()

    def row(self) -> dict[str, Any]:
        """What is known."""
        known = {key: value for key, value in self.facts.items() if value is not None}
        return {"task": self.task, "outcome": self.outcome, **known}

    def line(self) -> str:
        """The same for people."""
        row = self.row()
        pids = " -> ".join(str(row[key]) for key in ("old_pid", "new_pid") if key in row)
        facts = (self.outcome, pids and f"pid {pids}", row.get("reason"), row.get("detail"))
        return f"{self.task}: {', '.join(filter(None, facts))}"

    def tell(self, method: str = "problem", *options: object) -> None:
        """Have it told; within an open episode, "problem" is only counted."""
        facts, body = (self.outcome, self.facts.get("reason")), self.facts.get("detail") or ""
        title = f"{self.task}: {', '.join(filter(None, facts))}"
        self.note = (method, title, body, "critical", *options)

    def tell_the_end(self, outage: bool) -> None:
        """Have the episode closed, with a message after an `outage`."""
        self.note = ("recovered", f"{self.task} works again") if outage else ("forget",)


def attempt(
    config: Config, name: str, wait: float, dry_run: bool, action: Callable[[Task], Result]
) -> Result:
    """Do `action` under the lock of the task `name`, waiting at most `wait` seconds for it.

    What an operator can mend becomes a result; the record keeps it, so that its end can be told.
    """
    known = None
    try:
        with _locked(config, name, wait, dry_run):
            known = load(config, name)
            if f"task:{name}" in episodes.read(config.state) and not known.record.trouble:
                known.record.trouble = {"lasted": True}  # it was told, but could not be recorded
            return action(known)
    except OperatorError as error:
        code, why = error.code, str(error).removeprefix(f"{name}: ")
    except OSError as error:
        code, why = Exit.PROBLEM, f"{error.filename or config.state}: {error.strerror or error}"
    why = why.removeprefix(f"{name}: ")  # each line of a result begins with it
    result = Result(name, _OUTCOMES.get(code, "failed"), code, detail=why)
    if code != Exit.BUSY and not dry_run:
        result.tell()
        if known:
            known.note_trouble(lasted=True)
    return result


@contextlib.contextmanager
def _locked(config: Config, name: str, wait: float, dry_run: bool) -> Iterator[None]:
    path = config.state / "lock" / f"task-{name}.lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.lock(path, wait, f"another run for {name}"))
        except OSError:
            if not dry_run:  # a plan needs no lock where nothing can be written
                raise
        yield


def by_hand(
    config: Config, names: Sequence[str], options: Namespace, action: Callable[[Task], Result]
) -> int:
    """Do `action` with each task, tell what went wrong or is well again; the exit status."""

    def act(known: Task) -> Result:
        trouble, outage = bool(known.record.trouble), known.record.outage
        result = action(known)
        if trouble and result.outcome in ("started", "restarted", "stopped"):
            result.tell_the_end(outage and result.outcome != "stopped")
        return result

    results = [attempt(config, name, _LOCK_WAIT_SECONDS, options.dry_run, act) for name in names]
    deliver(config, results)
    return show(config, results, options)


def deliver(config: Config, results: Sequence[Result]) -> None:
    """Send the messages; without one, nothing is imported or read."""
    told = [each for each in results if each.note]
    if told:
        from upkeep.alerts import Alerts

        with Alerts(config) as alerts:
            for each in told:
                getattr(alerts, each.note[0])(f"task:{each.task}", *each.note[1:])


def show(config: Config, results: Sequence[Result], options: Namespace) -> int:
    """Print and log the results; the largest exit status."""
    if options.json:
        cli.print_json({"results": [each.row() for each in results]})
    for each in results:
        if "event" in each.facts or each.code:
            cli.log(config, each.line())
        if "plan" in each.facts and not options.json:
            print("\n".join(f"{each.task}: {step}" for step in each.facts["plan"]))
        elif each.code not in (Exit.DONE, Exit.LATER):
            cli.warn(each.line())
        elif not options.json and (options.verbose or sys.stdout.isatty()):
            print(each.line())
    return max((each.code for each in results), default=Exit.DONE)
