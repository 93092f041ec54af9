"""Which files a cleanup rule means, and which of them go. Loops go over plain tuples and numbers
here, and no object is made for a file that stays: there may be millions."""

import contextlib
import heapq
import math
import os
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import translate
from stat import S_ISREG

from upkeep import openfiles, prune, roots, timestamps, tree
from upkeep.budget import Border, border, missing_bytes
from upkeep.compress import LEFTOVER
from upkeep.report import AGES, DAY, Report
from upkeep.settings import CleanupSettings
from upkeep.tree import Entry, Found, LeftAloneError

PROGRESS_FILES = 1000


def wanted(match: Sequence[str], exclude: Sequence[str]) -> tree.Wanted:
    """What the globs mean: by the name, by the path where one has a /; and all LEFTOVERs. It is one
    expression, as every file below the roots is tried."""
    deep = any("/" in glob for glob in (*match, *exclude))

    def either(globs: Sequence[str]) -> str:
        return "|".join(_expression(glob, deep) for glob in globs) or "(?!)"

    leftover = f"(?s:.*){re.escape(LEFTOVER)}\\Z"
    test = re.compile(f"(?!{either(exclude)})(?:{either(match)})|{leftover}").match
    if deep:
        return lambda folder: lambda name: test(folder + name)
    return lambda folder: test


def _expression(glob: str, deep: bool) -> str:
    if "/" in glob:
        return translate(glob.strip("/"))
    return ("(?s:.*/)?(?![^/]*/)" if deep else "") + translate(glob)


@dataclass
class Plan:
    """One rule and one frozen `now`. `stopped` is asked before every directory and step."""

    rule: CleanupSettings
    now: float
    stopped: Callable[[], bool]
    dry_run: bool
    progress: Callable[[str, Report], None] = lambda folder, report: None
    protected: frozenset[str] = frozenset()  # paths, by keep_newest
    needed_bytes: int = 0  # to be freed for the budgets
    border: Border = field(default_factory=Border)

    def __post_init__(self) -> None:
        """Limits as plain numbers: over them is what is from before `cutoff` and larger."""
        old, large = self.rule.older_than, self.rule.larger_than
        self.roots = roots.outermost(self.rule.paths)
        self.larger_than = -1 if large is None else large
        self.cutoff = -math.inf if (old, large) == (None, None) else math.inf
        if old is not None and self.rule.action != "prune":  # records have an age of their own
            self.cutoff = self.now - old
        self.grown_up = self.now - self.rule.min_age  # budgets take nothing younger

    def report(self) -> Report:
        """An empty one of this rule."""
        return Report(self.rule.name, self.rule.action)

    def files(self, report: Report) -> Iterator[tuple[Entry, float]]:
        """Every file that the globs mean, with the time that its age counts from."""
        by_mtime = self.rule.age == "mtime" or self.rule.action == "prune"
        now, ages, blocks = self.now, report.ages, report.age_blocks
        for number, entry in enumerate(self._entries(report), 1):
            _, folder, name, info = entry
            if not number % PROGRESS_FILES:
                self.progress(folder, report)
            if not S_ISREG(info.st_mode):
                report.trouble(folder + name, "not a regular file")
            elif name.endswith(LEFTOVER):
                self._clear_away(Found(*entry))
            else:
                when = info.st_mtime if by_mtime else self._time_of(Found(*entry), report)
                if when is not None:
                    age = bisect_right(AGES, now - when)
                    ages[age] += 1
                    blocks[age] += info.st_blocks
                    if info.st_mtime > report.newest:
                        report.newest = info.st_mtime
                    yield entry, when

    def _entries(self, report: Report) -> Iterator[Entry]:
        means = wanted(self.rule.match, self.rule.exclude)
        for root in self.roots:
            yield from tree.walk(root, means, report.trouble, self.stopped)

    def _clear_away(self, leftover: Found) -> None:
        """Remove what a killed run left; the flock of its folder, which is ours, proves it dead."""
        if not self.dry_run:
            with contextlib.suppress(LeftAloneError, OSError):
                openfiles.delete(leftover)

    def _time_of(self, found: Found, report: Report) -> float | None:
        if self.rule.age == "name":
            return timestamps.name_date(found.name)
        try:
            return prune.newest_record(found, self.rule.timestamp_field)
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
        for (_, folder, name, _), when in self.files(self.report()):
            series = folder + timestamps.NAME_DATE.sub("*", name)
            group = groups.setdefault(series, [])
            heapq.heappush(group, (when, folder + name))
            if len(group) > self.rule.keep_newest:
                heapq.heappop(group)
        self.protected = frozenset(path for group in groups.values() for _, path in group)

    def _draw_border(self) -> None:
        total, going, written = 0, 0, openfiles.snapshot()
        seconds, sizes = array("q"), array("q")  # 16 bytes for a file, as there may be millions
        for (_, folder, name, info), when in self.files(self.report()):
            size = tree.freeable(info)
            total += size
            if folder + name in self.protected or (info.st_dev, info.st_ino) in written:
                continue
            if when < self.cutoff and info.st_size > self.larger_than:
                going += size
            elif when < self.grown_up:
                seconds.append(math.floor(when))
                sizes.append(size)
        place = next(filter(os.path.isdir, self.roots), "/")
        self.needed_bytes = missing_bytes(total, self.rule.max_total, place, self.rule.min_free)
        self.border = border(seconds, sizes, self.needed_bytes - going)

    def chosen(self, report: Report) -> Iterator[tuple[Found, float]]:
        """The files that go: each decided when it is reached and not before."""
        future, cutoff, larger_than = self.now + DAY, self.cutoff, self.larger_than
        limit, protected = replace(self.border), self.protected
        border_end = min(limit.second + 1, self.grown_up)
        for entry, when in self.files(report):
            _, folder, name, info = entry
            if when > future:
                report.trouble(folder + name, "dated in the future")
            elif protected and folder + name in protected:
                continue
            elif (when < cutoff and info.st_size > larger_than) or (
                when < border_end and limit.takes(when, tree.freeable(info))
            ):
                if self.stopped():
                    return
                report.chosen += 1
                yield Found(*entry), when
