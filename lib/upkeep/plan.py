"""Which files a cleanup rule means, and which of them go. Loops go over plain tuples and numbers
here, and no object is made for a file that stays: there may be millions."""

import contextlib
import heapq
import math
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import translate
from stat import S_ISREG

from upkeep import openfiles, prune, timestamps, tree
from upkeep.budget import Border, border, missing_bytes
from upkeep.compress import LEFTOVER
from upkeep.report import DAY, File, Report
from upkeep.settings import CleanupSettings
from upkeep.tree import Found, LeftAloneError

Timed = tuple[int, str, list[File]]  # a batch of a walk, with the times of its files


def wanted(match: Sequence[str], exclude: Sequence[str]) -> tree.Wanted:
    """What the globs mean: by the name, by the path where one has a /; and all LEFTOVERs. It is one
    expression, as every file below the roots is tried."""
    by_path = any("/" in glob for glob in (*match, *exclude))
    folders = "(?s:.*/)?(?![^/]*/)" if by_path else ""

    def either(globs: Sequence[str]) -> str:
        each = (translate(g.strip("/")) if "/" in g else folders + translate(g) for g in globs)
        return "|".join(each) or "(?!)"

    test = re.compile(f"(?!{either(exclude)})(?:{either(match)})|{translate('*' + LEFTOVER)}").match
    return lambda folder: (lambda name: test(folder + name)) if by_path else test


def outermost(paths: Iterable[str]) -> list[str]:
    """`paths` without those in another one of them; one that is not there stays, to be told."""
    plain = {os.path.normpath(path).rstrip("/") for path in paths}
    inner = {path for path in plain for other in plain if path.startswith(f"{other}/")}
    return sorted(plain - {path for path in inner if os.path.isdir(path)})


@dataclass
class Plan:
    """One rule and one frozen `now`. `stopped` is asked before every directory and step."""

    rule: CleanupSettings
    now: float
    stopped: Callable[[], bool]
    dry_run: bool
    progress: Callable[[str, Report], None]  # folder at hand
    protected: frozenset[str] = frozenset()  # paths, by keep_newest
    needed_bytes: int = 0  # to be freed for the budgets
    border: Border = field(default_factory=Border)

    def __post_init__(self) -> None:
        """Limits as plain numbers: over them is what is from before `cutoff` and larger."""
        old, large = self.rule.older_than, self.rule.larger_than
        self.roots = outermost(self.rule.paths)
        self.larger_than = -1 if large is None else large
        self.cutoff = -math.inf if (old, large) == (None, None) else math.inf
        if old is not None and self.rule.action != "prune":  # records have an age of their own
            self.cutoff = self.now - old
        fast = self.rule.action == "delete" and self.rule.age != "records"
        self.at_once = 256 if fast else 1  # files; a slow one is looked at just before its turn
        self.grown_up = self.now - self.rule.min_age  # budgets take nothing younger

    def report(self) -> Report:
        """An empty one of this rule."""
        return Report(self.rule.name, self.rule.action)

    def files(self, report: Report) -> Iterator[Timed]:
        """Every file that the globs mean, with the time that its age counts from."""
        means = wanted(self.rule.match, self.rule.exclude)
        for root in self.roots:
            for batch in tree.Walk(root, means, self.at_once, report.trouble, self.stopped):
                self.progress(batch[1], report)
                files = list(self._timed(batch, report))
                report.count(files, self.now)
                yield batch[0], batch[1], files

    def _timed(self, batch: tree.Batch, report: Report) -> Iterator[File]:
        directory, folder, files = batch
        plain = self.rule.age == "mtime" or self.rule.action == "prune"
        for name, info in files:
            if plain and S_ISREG(info.st_mode) and not name.endswith(LEFTOVER):
                yield name, info, info.st_mtime
            else:
                when = self._time_of(Found(directory, folder, name, info), report)
                if when is not None:
                    yield name, info, when

    def _time_of(self, found: Found, report: Report) -> float | None:
        rule = self.rule
        if not S_ISREG(found.info.st_mode):
            report.trouble(found.path, "not a regular file")
        elif found.name.endswith(LEFTOVER):  # of a killed run: its folder's flock is ours by now
            with contextlib.suppress(LeftAloneError, OSError):
                openfiles.delete(found, self.dry_run)
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
        for _, folder, files in self.files(self.report()):
            for name, _, when in files:
                series = folder + timestamps.NAME_DATE.sub("*", name)
                group = groups.setdefault(series, [])
                heapq.heappush(group, (when, folder + name))
                if len(group) > self.rule.keep_newest:
                    heapq.heappop(group)
        self.protected = frozenset(path for group in groups.values() for _, path in group)

    def _draw_border(self) -> None:
        total, going, written = 0, 0, openfiles.snapshot()
        seconds, sizes = array("q"), array("q")  # 16 bytes for a file, as there may be millions
        for _, folder, files in self.files(self.report()):
            for name, info, when in files:
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
        self.needed_bytes = missing_bytes(self.rule, place, total)
        self.border = border(seconds, sizes, self.needed_bytes - going)

    def chosen(self, report: Report) -> Iterator[tuple[Found, float]]:
        """The files that go, decided when they are reached and not before."""
        limit = replace(self.border)
        for directory, folder, files in self.files(report):
            for name, info, when in self._over(limit, folder, files, report):
                if self.stopped():
                    return
                report.chosen += 1
                yield Found(directory, folder, name, info), when

    def _over(
        self, limit: Border, folder: str, files: list[File], report: Report
    ) -> Iterator[File]:
        cutoff, larger_than, protected = self.cutoff, self.larger_than, self.protected
        future, border_end = self.now + DAY, min(limit.second + 1, self.grown_up)
        for name, info, when in files:
            if when > future:
                report.trouble(folder + name, "dated in the future")
            elif protected and folder + name in protected:
                continue
            elif (when < cutoff and info.st_size > larger_than) or (
                when < border_end and limit.takes(when, tree.freeable(info))
            ):
                yield name, info, when
