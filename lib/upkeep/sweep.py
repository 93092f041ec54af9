"""One cleanup rule at work: which files it means, the plan, the steps, the report."""

import contextlib
import heapq
import math
import os
import re
import stat
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import translate

from upkeep import inplace, openfiles, prune, timestamps, tree, units
from upkeep.compress import LEFTOVER, compress
from upkeep.settings import CleanupSettings
from upkeep.text import printable
from upkeep.tree import Found, LeftAloneError

DAY = 86400.0
AGE_BUCKETS = (0, 1, 7, 30, 90, 365)
DONE = {"delete": "deleted", "compress": "compressed", "truncate": "truncated", "prune": "pruned"}
_SIZE_BITS = 40


@dataclass
class Report:
    """What was done for one rule, or would be. Paths are as the file system has them."""

    rule: str
    counts: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    ages: Counter[int] = field(default_factory=Counter)
    age_bytes: Counter[int] = field(default_factory=Counter)
    newest: float = 0.0  # mtime of all matched files
    folders: set[str] = field(default_factory=set)  # where a file was deleted
    refused: str = ""  # why the brake held it back
    unreached: str = ""  # by how much a budget was missed

    def trouble(self, path: str, why: str | Exception) -> None:
        """Note why `path` was left alone, or the OSError that hit it."""
        if isinstance(why, OSError):
            self.errors.append((path, str(why.strerror)))
        else:
            self.skipped.append((path, str(why)))

    def count(self, found: Found, when: float, now: float) -> None:
        """Note a file that the globs mean."""
        self.counts["matched"] += 1
        self.newest = max(self.newest, found.info.st_mtime)
        days = AGE_BUCKETS[bisect_right(AGE_BUCKETS, max(0.0, now - when) / DAY) - 1]
        self.ages[days] += 1
        self.age_bytes[days] += found.info.st_blocks * 512

    @property
    def outcome(self) -> str:
        """The word for it in --json."""
        bad = "partly" if self.counts["matched"] else "failed"
        return "refused" if self.refused else bad if self.errors or self.unreached else "done"


def globs(patterns: Sequence[str]) -> Callable[[str, str], bool]:
    """Whether (folder below the root, name) matches, the path only where a pattern has a /."""
    names = [translate(pattern) for pattern in patterns if "/" not in pattern]
    paths = [translate(pattern.strip("/")) for pattern in patterns if "/" in pattern]
    name, path = (re.compile("|".join(some) or "(?!)").match for some in (names, paths))
    return lambda folder, base: bool(name(base) or (paths and path(folder + base)))


def freeable(found: Found) -> int:
    """Bytes on the disk that removing this name frees: none while the file has another name."""
    return found.info.st_blocks * 512 if found.info.st_nlink == 1 else 0


@dataclass
class Sweep:
    """One rule and one frozen `now`. `stopped` is asked before every file."""

    rule: CleanupSettings
    now: float
    stopped: Callable[[], bool]
    dry_run: bool
    progress: Callable[[Found, Report], None] = lambda found, report: None
    newest: frozenset[str] = frozenset()  # paths that keep_newest protects
    needed_bytes: int = 0  # to be freed for the budgets
    border: float = -math.inf  # the budgets take what is older than this second, ...
    border_bytes: int = 0  # ... and so much of that very second

    @property
    def roots(self) -> list[str]:
        """The directories, without those that lie in another one of them."""
        plain = {os.path.normpath(path).rstrip("/") for path in self.rule.paths}
        inner = {path for path in plain for other in plain if path.startswith(f"{other}/")}
        return sorted(plain - inner)

    def files(self, report: Report) -> Iterator[tuple[Found, float]]:
        """Every file that the globs mean, with the time that its age counts from."""
        match, exclude = globs(self.rule.match), globs(self.rule.exclude)

        def wanted(folder: str, name: str) -> bool:
            return (match(folder, name) or leftover(name)) and not exclude(folder, name)

        def leftover(name: str) -> bool:  # of a killed run: its folder's flock is ours by now
            return not self.dry_run and name.startswith(".") and name.endswith(LEFTOVER)

        for root in self.roots:
            try:
                for found in tree.walk(root, wanted, report.trouble, self.stopped):
                    if leftover(found.name):
                        with contextlib.suppress(OSError):
                            os.unlink(found.name, dir_fd=found.directory)
                        continue
                    when = self._time_of(found, report)
                    if when is not None:
                        report.count(found, when, self.now)
                        self.progress(found, report)
                        yield found, when
            except OSError as error:
                report.trouble(root, error)

    def _time_of(self, found: Found, report: Report) -> float | None:
        rule = self.rule
        if not stat.S_ISREG(found.info.st_mode):
            report.trouble(found.path, "not a regular file")
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
        rule = self.rule
        if rule.keep_newest:
            groups: dict[str, list[tuple[float, str]]] = {}
            for found, when in self.files(Report(rule.name)):
                series = found.folder + timestamps.NAME_DATE.sub("*", found.name)
                groups.setdefault(series, []).append((when, found.path))
            newest = (heapq.nlargest(rule.keep_newest, group) for group in groups.values())
            self.newest = frozenset(path for group in newest for _, path in group)
        if rule.max_total is None and rule.min_free is None:
            return
        total, going = 0, 0
        rest = []  # the second and the bytes of a file as one number: 22 MB for 500,000 files
        for found, when in self.files(Report(self.rule.name)):
            size = freeable(found)
            total += size
            if found.path in self.newest or openfiles.writers(found.info):
                continue
            if self._over_limit(found, when):
                going += size
            elif self.now - when > self.rule.min_age:
                rest.append(int(when // 1) << _SIZE_BITS | size)
        disk = os.statvfs(next(filter(os.path.isdir, self.roots), "/"))
        target = self.rule.min_free or 0
        target = target * disk.f_blocks * disk.f_frsize if isinstance(target, float) else target
        over = 0 if self.rule.max_total is None else total - self.rule.max_total
        self.needed_bytes = max(over, int(target) - disk.f_bavail * disk.f_frsize, 0)
        missing = self.needed_bytes - going
        rest.sort()
        for packed in rest:
            if missing <= 0:
                break
            if packed >> _SIZE_BITS != self.border:
                self.border, self.border_bytes = packed >> _SIZE_BITS, missing
            missing -= packed & (1 << _SIZE_BITS) - 1

    def _over_limit(self, found: Found, when: float) -> str:
        """Why the file goes by `older_than` and `larger_than`, which must both hold, else ""."""
        rule, age, size = self.rule, self.now - when, found.info.st_size
        why = ["old records"] if rule.action == "prune" else []  # these have an age of their own
        if rule.older_than is not None and not why:
            why.append(f"{age / DAY:.1f} d > {rule.older_than / DAY:g} d" * (age > rule.older_than))
        if rule.larger_than is not None:
            sizes = units.format_size(size), units.format_size(rule.larger_than)
            why.append(" > ".join(sizes) * (size > rule.larger_than))
        return ", ".join(why) if all(why) else ""

    def _chosen(self, found: Found, when: float) -> str:
        if found.path in self.newest:
            return ""
        why = self._over_limit(found, when)
        if why or when // 1 > self.border or self.now - when <= self.rule.min_age:
            return why
        if when // 1 == self.border:
            if self.border_bytes <= 0:
                return ""
            self.border_bytes -= freeable(found)
        return f"over the budget, {(self.now - when) / DAY:.1f} d old"

    def plan(self, report: Report) -> Iterator[tuple[Found, str]]:
        """(file, why it goes): each decided when the file is reached and not before."""
        for found, when in self.files(report):
            if self.stopped():
                return
            why = self._chosen(found, when)
            writers = openfiles.writers(found.info) if why else []
            if when > self.now + DAY:
                report.trouble(found.path, "dated in the future")
            elif writers and self.rule.action in ("delete", "compress"):
                report.trouble(found.path, openfiles.describe(writers))
            elif why:
                yield found, why

    def run(self, report: Report) -> Iterator[str]:
        """Carry the plan out, or find out what it would do; a line for every step that is done."""
        for found, why in self.plan(report):
            before = report.counts["pruned_records"]
            try:
                freed = self._carry_out(found, report)
            except (LeftAloneError, OSError) as error:
                report.trouble(found.path, error)
                continue
            records = report.counts["pruned_records"] - before
            if records or self.rule.action != "prune":
                report.counts[DONE[self.rule.action]] += 1
                report.counts["freed_bytes"] += freed
                what = f"{records} records, " * bool(records) + units.format_size(freed)
                yield f"{self.rule.action} {printable(found.path)} ({what}; {why})"

    def _carry_out(self, found: Found, report: Report) -> int:
        """Do it, or find out what it would do. Returns the bytes freed."""
        rule = self.rule
        if rule.action == "compress":
            return compress(found, self.dry_run)
        if rule.action == "truncate":
            return inplace.truncate(found, self.dry_run)
        if rule.action == "prune":
            cutoff = self.now - (rule.older_than or 0)
            cut = prune.prune(found, cutoff, rule.timestamp_field, self.dry_run)
            report.counts["kept_malformed"] += cut.malformed
            report.counts["pruned_records"] += cut.records
            return cut.size
        if not self.dry_run:
            with openfiles.Claim(found) as claim:
                claim.check()
                os.unlink(found.name, dir_fd=found.directory)
            report.folders.add(found.folder)
        return freeable(found)
