"""One cleanup rule at work: the files it means, the plan, the steps, the report."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from upkeep import openfiles, selection, timestamps, tree, units
from upkeep.selection import DAY, Selection
from upkeep.settings import CleanupSettings
from upkeep.text import printable
from upkeep.tree import Found

AGE_BUCKETS = (0, 1, 7, 30, 90, 365)
_MOST_SHOWN = 20  # errors and skipped files in the text report


@dataclass
class Report:
    """What was done for one rule, or would be. Paths are as the file system has them."""

    rule: str
    refused: str = ""  # why the brake held it back
    unreached: str = ""  # by how much a budget was missed
    matched: int = 0
    done: Counter[str] = field(default_factory=Counter)
    freed_bytes: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    ages: Counter[int] = field(default_factory=Counter)
    age_bytes: Counter[int] = field(default_factory=Counter)
    newest: float = 0.0  # mtime of all matched files
    plan: list[dict[str, object]] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)  # where something was removed

    def trouble(self, path: str, reason: str, error: bool) -> None:
        """Note why `path` was not handled."""
        (self.errors if error else self.skipped).append((path, reason))

    def count(self, found: Found, when: float, now: float) -> None:
        """Note a file that the globs match."""
        self.matched += 1
        self.newest = max(self.newest, found.info.st_mtime)
        days = max((days for days in AGE_BUCKETS if now - when >= days * DAY), default=0)
        self.ages[days] += 1
        self.age_bytes[days] += found.info.st_blocks * 512

    def add(self, item: "Item", freed: int) -> None:
        """Note a step that was done."""
        self.done[item.action] += 1
        self.freed_bytes += freed
        self.folders.add(item.found.folder)

    @property
    def outcome(self) -> str:
        """The word for the row of --json."""
        if self.refused:
            return "refused"
        if self.errors or self.unreached:
            return "partly" if self.matched else "failed"
        return "done"

    def row(self) -> dict[str, object]:
        """The row of --json."""
        return {
            "rule": self.rule,
            "outcome": self.outcome,
            "reason": self.refused or self.unreached,
            "matched": self.matched,
            "deleted": self.done["delete"],
            "freed_bytes": self.freed_bytes,
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "errors": [{"path": path, "reason": reason} for path, reason in self.errors],
            "age_histogram": [
                {"older_than_days": days, "files": self.ages[days], "bytes": self.age_bytes[days]}
                for days in AGE_BUCKETS
            ],
            **({"plan": self.plan} if self.plan else {}),
        }

    def lines(self, histogram: bool) -> Iterator[str]:
        """The report for people: a headline, then whatever was not handled."""
        steps = ", ".join(f"{action} {count}" for action, count in self.done.items()) or "nothing"
        freed = units.format_size(self.freed_bytes)
        yield f"{self.rule}: {self.outcome}: {steps} of {self.matched} files, {freed}"
        yield from (f"  {problem}" for problem in self.problems())
        yield from _shortened("skipped", self.skipped)
        for days in AGE_BUCKETS if histogram else ():
            size = units.format_size(self.age_bytes[days])
            yield f"  older than {days:3} d: {self.ages[days]} files, {size}"

    def problems(self) -> Iterator[str]:
        """What makes the run a failure, a line each."""
        yield from (text for text in (self.refused, self.unreached) if text)
        yield from _shortened("cannot handle", self.errors)


def _shortened(what: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    yield from (f"{what} {printable(path)}: {why}" for path, why in rows[:_MOST_SHOWN])
    if len(rows) > _MOST_SHOWN:
        yield f"{what}: {len(rows) - _MOST_SHOWN} more"


class Item(NamedTuple):
    """One step of the plan."""

    found: Found
    action: str
    why: str


@dataclass
class Sweep:
    """One rule, one frozen `now`. `stopped` is asked before every file."""

    rule: CleanupSettings
    now: float
    stopped: Callable[[], bool]

    @property
    def roots(self) -> list[str]:
        """The directories, without those that lie in another one of them."""
        plain = {"/" + os.path.normpath(path).strip("/") for path in self.rule.paths}
        inner = {path for path in plain for other in plain if path.startswith(f"{other}/")}
        return sorted(plain - inner)

    def files(self, report: Report) -> Iterator[tuple[Found, float]]:
        """Every file that the globs mean, with the time that its age counts from."""
        match = selection.Globs(self.rule.match)
        exclude = selection.Globs(self.rule.exclude, whole_trees=True)

        def wanted(folder: str, name: str) -> bool:
            return match.match(folder, name) and not exclude.match(folder, name)

        for root in self.roots:
            try:
                for found in tree.walk(root, wanted, report.trouble, self.stopped):
                    when = self._time_of(found)
                    if when is not None:
                        report.count(found, when, self.now)
                        yield found, when
            except OSError as error:
                report.trouble(root, str(error.strerror), True)

    def _time_of(self, found: Found) -> float | None:
        if self.rule.age == "name":
            return timestamps.name_date(found.name)
        return found.info.st_mtime

    def select(self) -> Selection:
        """What must be known of all files before the first one is chosen."""
        rule, selected = self.rule, Selection()
        if rule.keep_newest:
            dated = self.files(Report(rule.name))
            selected.newest = selection.newest_of_groups(dated, rule.keep_newest)
        if rule.max_total is not None or rule.min_free is not None:
            dated = self.files(Report(rule.name))
            selected.fit_budget(rule, dated, *self._space(), self.now)
        return selected

    def _space(self) -> tuple[int, int]:
        """Free bytes and all bytes of the file system of the first root that is there."""
        disk = os.statvfs(next(filter(os.path.isdir, self.roots), "/"))
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize

    def plan(self, selected: Selection, report: Report) -> Iterator[Item]:
        """The steps, each decided when its file is reached and not before."""
        for found, when in self.files(report):
            if self.stopped():
                return
            if when > self.now + DAY:
                report.trouble(found.path, "dated in the future", False)
                continue
            why = selected.choose(self.rule, found, when, self.now)
            if not why:
                continue
            writers = openfiles.writers(found.info)
            if writers:
                report.trouble(found.path, openfiles.describe(writers), False)
                continue
            yield Item(found, "delete", why)


def carry_out(item: Item) -> int:
    """Do one step. Returns the bytes freed. Raises OSError and LeftAloneError."""
    found = item.found
    fd = openfiles.claim(found.directory, found.name, found.info)
    try:
        os.unlink(found.name, dir_fd=found.directory)
    finally:
        os.close(fd)
    return selection.freeable(found)
