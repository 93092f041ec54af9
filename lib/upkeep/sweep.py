"""One cleanup rule at work: the files it means, the plan, the steps, the report."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from upkeep import openfiles, scratch, selection, timestamps, tree, units
from upkeep.compress import compress
from upkeep.inplace import truncate
from upkeep.openfiles import LeftAloneError
from upkeep.prune import newest_record, prune
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
    pruned_records: int = 0
    kept_malformed: int = 0
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

    def add(self, item: "Item", done: "Done") -> None:
        """Note a step that was done."""
        self.kept_malformed += done.kept_malformed
        if item.action == "prune" and not done.pruned_records:
            return
        self.done[item.action] += 1
        self.pruned_records += done.pruned_records
        self.freed_bytes += done.freed_bytes
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
            "compressed": self.done["compress"],
            "truncated": self.done["truncate"],
            "pruned": self.done["prune"],
            "pruned_records": self.pruned_records,
            "kept_malformed": self.kept_malformed,
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


class Done(NamedTuple):
    """What one step did."""

    freed_bytes: int
    pruned_records: int = 0
    kept_malformed: int = 0


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
    dry_run: bool
    _newest: dict[tuple[int, ...], float | None] = field(default_factory=dict)

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
            if name.endswith(scratch.ENDING):
                return scratch.is_leftover(name)
            return match.match(folder, name) and not exclude.match(folder, name)

        for root in self.roots:
            try:
                for found in tree.walk(root, wanted, report.trouble, self.stopped):
                    when = self._time_of(found, report)
                    if when is not None:
                        report.count(found, when, self.now)
                        yield found, when
            except OSError as error:
                report.trouble(root, str(error.strerror), True)

    def _time_of(self, found: Found, report: Report) -> float | None:
        """When the file is from, after the rule's `age`; None when that can't be told."""
        rule = self.rule
        if scratch.is_leftover(found.name):
            if not self.dry_run:
                scratch.remove_leftover(found.directory, found.name)
            return None
        if rule.age == "mtime" or rule.action == "prune":
            return found.info.st_mtime
        if rule.age == "name":
            return timestamps.name_date(found.name)
        key = (found.info.st_dev, found.info.st_ino, found.info.st_size, found.info.st_mtime_ns)
        if key not in self._newest:
            try:
                limit = rule.min_age if rule.older_than is None else rule.older_than
                self._newest[key] = newest_record(found, rule.timestamp_field, self.now - limit)
            except (OSError, LeftAloneError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                report.trouble(found.path, reason, isinstance(error, OSError))
                return None
        return self._newest[key]

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
            if writers and self.rule.action in ("delete", "compress"):
                report.trouble(found.path, openfiles.describe(writers), False)
                continue
            yield Item(found, self.rule.action, why)

    def carry_out(self, item: Item) -> Done:
        """Do one step, or find out what it would do. Raises OSError and LeftAloneError."""
        found = item.found
        if item.action == "compress":
            return Done(compress(found, self.dry_run))
        if item.action == "truncate":
            return Done(truncate(found, self.dry_run))
        if item.action == "prune":
            cutoff = self.now - (self.rule.older_than or 0)
            cut = prune(found, cutoff, self.rule.timestamp_field, self.dry_run)
            return Done(cut.size, cut.records, cut.malformed)
        if not self.dry_run:
            with openfiles.Claim(found.directory, found.name, found.info):
                os.unlink(found.name, dir_fd=found.directory)
        return Done(selection.freeable(found))
