"""One cleanup rule at work: which files it means, the plan, the steps, the report."""

import contextlib
import functools
import heapq
import math
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate

from upkeep import inplace, openfiles, prune, timestamps, tree, units
from upkeep.compress import LEFTOVER, compress
from upkeep.settings import CleanupSettings
from upkeep.text import printable
from upkeep.tree import Found, LeftAloneError

DAY = 86400.0
AGE_BUCKETS = (0, 1, 7, 30, 90, 365)  # days, of the histogram
DONE = {"delete": "deleted", "compress": "compressed", "truncate": "truncated", "prune": "pruned"}
PROGRESS_FILES = 1000
_AGES = [days * DAY for days in AGE_BUCKETS[1:]]
_SIZE_BITS = 40
_size = functools.lru_cache(units.format_size)

Step = tuple[Found, float, int, int]  # the file, its time, bytes freed, records pruned


@dataclass
class Report:
    """What was done for one rule, or would be. Paths are as the file system has them."""

    rule: str
    action: str
    skipped: list[tuple[str, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    ages: list[int] = field(default_factory=lambda: [0] * len(AGE_BUCKETS))  # files
    age_bytes: list[int] = field(default_factory=lambda: [0] * len(AGE_BUCKETS))
    matched: int = 0  # files that the globs mean
    chosen: int = 0  # files in the plan
    done: int = 0  # files deleted, compressed, truncated or pruned
    freed_bytes: int = 0
    pruned_records: int = 0
    kept_malformed: int = 0
    newest: float = 0.0  # mtime of all matched files
    folders: set[str] = field(default_factory=set)  # where a file was
    refused: str = ""  # why the brake held it back
    unreached: str = ""  # by how much a budget was missed
    cut: bool = False  # a signal or the end of its time came before it was through

    def trouble(self, path: str, why: str | Exception) -> None:
        """Note why `path` was left alone, or the OSError that hit it."""
        if isinstance(why, OSError):
            self.errors.append((path, str(why.strerror)))
        else:
            self.skipped.append((path, str(why)))

    def count(self, info: os.stat_result, age: float) -> None:
        """Note a file that the globs mean."""
        self.matched += 1
        if info.st_mtime > self.newest:
            self.newest = info.st_mtime
        bucket = bisect_right(_AGES, age)
        self.ages[bucket] += 1
        self.age_bytes[bucket] += info.st_blocks * 512

    @property
    def outcome(self) -> str:
        """The word for it in --json."""
        if self.refused:
            return "refused"
        if self.errors or self.unreached:
            return "partly" if self.matched else "failed"
        return "partly" if self.cut else "done"


def globs(patterns: Sequence[str]) -> Callable[[str, str], object]:
    """Whether (folder below the root, name) matches, the path only where a pattern has a /."""
    names = [translate(pattern) for pattern in patterns if "/" not in pattern]
    paths = [translate(pattern.strip("/")) for pattern in patterns if "/" in pattern]
    name, path = (re.compile("|".join(some) or "(?!)").match for some in (names, paths))
    if paths:
        return lambda folder, base: name(base) or path(folder + base)
    return lambda folder, base: name(base)


@dataclass
class Sweep:
    """One rule and one frozen `now`. `stopped` is asked before every directory and step."""

    rule: CleanupSettings
    now: float
    stopped: Callable[[], bool]
    dry_run: bool
    progress: Callable[[Found, Report], None] = lambda found, report: None
    newest: frozenset[str] = frozenset()  # paths that keep_newest protects
    needed_bytes: int = 0  # to be freed for the budgets
    border: float = -math.inf  # the budgets take what is older than this second, ...
    border_bytes: int = 0  # ... and so much of that very second

    def __post_init__(self) -> None:
        """Limits as plain numbers: over them is what is from before `cutoff` and larger."""
        old, large = self.rule.older_than, self.rule.larger_than
        self.larger_than = -1 if large is None else large
        self.cutoff = -math.inf if (old, large) == (None, None) else math.inf
        if old is not None and self.rule.action != "prune":  # records have an age of their own
            self.cutoff = self.now - old

    @property
    def roots(self) -> list[str]:
        """The directories, without those in another one of them; what is missing is reported."""
        plain = {os.path.normpath(path).rstrip("/") for path in self.rule.paths}
        inner = {path for path in plain for other in plain if path.startswith(f"{other}/")}
        inner = set(filter(os.path.isdir, inner))
        return sorted(plain - inner)

    def files(self, report: Report) -> Iterator[tuple[Found, float]]:
        """Every file that the globs mean, with the time that its age counts from."""
        for root in self.roots:
            for found in tree.walk(root, self._wanted(), report.trouble, self.stopped):
                when = self._time_of(found, report)
                if when is None:
                    continue
                report.count(found.info, self.now - when)
                if not report.matched % PROGRESS_FILES:
                    self.progress(found, report)
                yield found, when

    def _wanted(self) -> tree.Wanted:
        match, exclude = globs(self.rule.match), globs(self.rule.exclude)
        return lambda folder, name: (
            (match(folder, name) and not exclude(folder, name)) or name.endswith(LEFTOVER)
        )

    def _time_of(self, found: Found, report: Report) -> float | None:
        rule = self.rule
        if not stat.S_ISREG(found.info.st_mode):
            report.trouble(found.path, "not a regular file")
        elif found.name.endswith(LEFTOVER):  # of a killed run: its folder's flock is ours by now
            with contextlib.suppress(LeftAloneError, OSError):
                openfiles.delete(found, self.dry_run)
        elif rule.age == "mtime" or rule.action == "prune":
            return found.info.st_mtime
        elif rule.age == "name":
            return timestamps.name_date(found.name)
        else:
            try:
                return prune.newest_record(found, rule.timestamp_field)
            except (LeftAloneError, OSError) as error:
                report.trouble(found.path, error)
        return None

    def prepare(self) -> None:
        """Find out what must be known of all files before one is chosen."""
        if self.rule.keep_newest:
            self._protect_newest()
        if (self.rule.max_total, self.rule.min_free) != (None, None):
            self._draw_border()

    def _protect_newest(self) -> None:
        groups: dict[str, list[tuple[float, str]]] = {}
        for found, when in self.files(Report(self.rule.name, self.rule.action)):
            series = found.folder + timestamps.NAME_DATE.sub("*", found.name)
            group = groups.setdefault(series, [])
            heapq.heappush(group, (when, found.path))
            if len(group) > self.rule.keep_newest:
                heapq.heappop(group)
        self.newest = frozenset(path for group in groups.values() for _, path in group)

    def _draw_border(self) -> None:
        total, going = 0, 0
        rest = []  # the second and the bytes of a file as one number: 22 MB for 500,000 files
        for found, when in self.files(Report(self.rule.name, self.rule.action)):
            size = found.freeable
            total += size
            if found.path in self.newest or openfiles.writers(found.info, known=True):
                continue
            if self._over_limits(found, when):
                going += size
            elif self.now - when > self.rule.min_age:
                rest.append(int(when // 1) << _SIZE_BITS | size)
        self.needed_bytes = self._missing(total)
        missing = self.needed_bytes - going
        rest.sort()
        for packed in rest:
            if missing <= 0:
                break
            if packed >> _SIZE_BITS != self.border:
                self.border, self.border_bytes = packed >> _SIZE_BITS, missing
            missing -= packed & (1 << _SIZE_BITS) - 1

    def _missing(self, total: int) -> int:
        """Bytes that must go so that `total` and the free space are as the budgets want them."""
        disk = os.statvfs(next(filter(os.path.isdir, self.roots), "/"))
        target = self.rule.min_free or 0
        target = target * disk.f_blocks * disk.f_frsize if isinstance(target, float) else target
        over = 0 if self.rule.max_total is None else total - self.rule.max_total
        return max(over, int(target) - disk.f_bavail * disk.f_frsize, 0)

    def _over_limits(self, found: Found, when: float) -> bool:
        return when < self.cutoff and found.info.st_size > self.larger_than

    def _over_budget(self, found: Found, when: float) -> bool:
        second = when // 1
        if second > self.border or self.now - when <= self.rule.min_age:
            return False
        if second < self.border:
            return True
        missing, self.border_bytes = self.border_bytes, self.border_bytes - found.freeable
        return missing > 0

    def plan(self, report: Report) -> Iterator[tuple[Found, float]]:
        """The files that go: each decided when it is reached and not before."""
        for found, when in self.files(report):
            if when > self.now + DAY:
                report.trouble(found.path, "dated in the future")
            elif self._over_limits(found, when) or self._over_budget(found, when):
                if self.newest and found.path in self.newest:
                    continue
                if self.stopped():
                    return
                report.chosen += 1
                yield found, when

    def run(self, report: Report) -> Iterator[Step]:
        """Carry the plan out, or find out what it would do; every step that is done."""
        for found, when in self.plan(report):
            try:
                freed, records = self._carry_out(found, report)
            except (LeftAloneError, OSError) as error:
                report.trouble(found.path, error)
                continue
            if records or self.rule.action != "prune":
                report.done += 1
                report.freed_bytes += freed
                if self.rule.remove_empty_dirs:
                    report.folders.add(found.folder)
                yield found, when, freed, records

    def _carry_out(self, found: Found, report: Report) -> tuple[int, int]:
        """Do it, or find out what it would do. Returns the bytes freed and the records pruned."""
        rule = self.rule
        if rule.action == "delete":
            return openfiles.delete(found, self.dry_run), 0
        self.progress(found, report)  # one file may take long
        if rule.action != "prune":
            act = compress if rule.action == "compress" else inplace.truncate
            return act(found, self.dry_run), 0
        cutoff = self.now - (rule.older_than or 0)
        cut = prune.prune(found, cutoff, rule.timestamp_field, self.dry_run)
        report.kept_malformed += cut.malformed
        report.pruned_records += cut.records
        return cut.size, cut.records

    def describe(self, step: Step) -> str:
        """A line for people: what goes, and why."""
        found, when, freed, records = step
        rule, age = self.rule, (self.now - when) / DAY
        if not self._over_limits(found, when):
            why = f"over the budget, {age:.1f} d old"
        elif rule.action == "prune":
            why = f"{records} old records"
        elif rule.older_than is None:
            why = f"{_size(found.info.st_size)} > {_size(self.larger_than)}"
        else:
            why = f"{age:.1f} d > {rule.older_than / DAY:g} d"
        return f"{rule.action} {printable(found.path)} ({_size(freed)}; {why})"
