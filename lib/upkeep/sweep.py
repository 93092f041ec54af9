"""One cleanup rule at work: the steps, and how a line tells each."""

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator

from upkeep import inplace, openfiles, prune, tree, units
from upkeep.compress import compress
from upkeep.plan import Plan
from upkeep.report import DAY, Report
from upkeep.text import printable
from upkeep.tree import Found, LeftAloneError

Step = tuple[Found, float, int, int]  # the file, its time, bytes freed, records pruned

ACTIONS = {"delete": openfiles.delete, "compress": compress, "truncate": inplace.truncate}
_size = functools.lru_cache(units.format_size)


def run(plan: Plan, report: Report) -> Iterator[Step]:
    """Carry `plan` out, or find out what that would do; every step that is done."""
    rule, dry_run, act = plan.rule, plan.dry_run, ACTIONS.get(plan.rule.action)
    for found, when in plan.chosen(report):
        records = 0
        try:
            if act:
                freed = act(found, dry_run)
            else:
                freed, records = _prune(plan, found, report)
        except (LeftAloneError, OSError) as error:
            report.trouble(found.path, error)
            continue
        if act or records:
            report.done += 1
            report.freed_bytes += freed
            if rule.remove_empty_dirs:
                report.folders.add(found.folder)
            yield found, when, freed, records


def _prune(plan: Plan, found: Found, report: Report) -> tuple[int, int]:
    """The bytes freed and the records pruned."""
    cutoff = plan.now - (plan.rule.older_than or 0)
    cut = prune.prune(found, cutoff, plan.rule.timestamp_field, plan.dry_run)
    if cut.malformed:
        report.kept_malformed += cut.malformed
        report.trouble(found.path, f"{cut.malformed} lines without a clear time stay in it")
    report.pruned_records += cut.records
    return cut.size, cut.records


def described(plan: Plan, steps: Iterable[Step]) -> Iterator[str]:
    """Lines for people: what goes, and why."""
    action, now, cutoff, larger_than = plan.rule.action, plan.now, plan.cutoff, plan.larger_than
    limit = f"{(plan.rule.older_than or 0) / DAY:g} d"
    for found, when, freed, records in steps:
        age = f"{(now - when) / DAY:.1f} d"
        if when >= cutoff or found.info.st_size <= larger_than:
            why = f"over the budget, {age} old"
        elif action == "prune":
            why = f"{records} old records"
        elif plan.rule.older_than is None:
            why = f"{_size(found.info.st_size)} > {_size(larger_than)}"
        else:
            why = f"{age} > {limit}"
        yield f"{action} {printable(found.path)} ({_size(freed)}; {why})"


def remove_empty(roots: list[str], folders: set[str]) -> None:
    """Remove those of `folders` that are empty, and what is emptied by that, but no root."""
    for folder in sorted(folders, key=len, reverse=True):
        path = folder.rstrip("/")
        with contextlib.suppress(OSError):
            while path not in roots:
                above, _, name = path.rpartition("/")
                with tree.opened(above) as parent:
                    os.rmdir(name, dir_fd=parent)
                path = above
