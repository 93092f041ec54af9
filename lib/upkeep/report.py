"""What one cleanup rule did, or would do: for people and for --json."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from upkeep import units
from upkeep.text import printable
from upkeep.tree import BLOCK

AGE_BUCKETS = (0, 1, 7, 30, 90, 365)  # days, of the histogram
COUNTS = ("matched", "pruned_records", "kept_malformed", "freed_bytes")
DONE = {"delete": "deleted", "compress": "compressed", "truncate": "truncated", "prune": "pruned"}
MOST_SHOWN = 20  # files in the text report
DAY = 86400.0
File = tuple[str, os.stat_result, float]  # name, what lstat(2) says, time its age counts from

_AGES = [days * DAY for days in AGE_BUCKETS[1:]]


@dataclass
class Report:
    """What was done for one rule, or would be. Paths are as the file system has them."""

    rule: str
    action: str
    skipped: list[tuple[str, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    ages: list[int] = field(default_factory=lambda: [0] * len(AGE_BUCKETS))  # files
    age_blocks: list[int] = field(default_factory=lambda: [0] * len(AGE_BUCKETS))
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

    def count(self, files: list[File], now: float) -> None:
        """Note files that the globs mean."""
        ages, blocks = self.ages, self.age_blocks
        for _, info, when in files:
            bucket = bisect_right(_AGES, now - when)
            ages[bucket] += 1
            blocks[bucket] += info.st_blocks
            if info.st_mtime > self.newest:
                self.newest = info.st_mtime

    def trouble(self, path: str, why: str | Exception) -> None:
        """Note why `path` was left alone, or the OSError that hit it."""
        if isinstance(why, OSError):
            self.errors.append((path, str(why.strerror)))
        else:
            self.skipped.append((path, str(why)))

    @property
    def matched(self) -> int:
        """Files that the globs mean."""
        return sum(self.ages)

    @property
    def outcome(self) -> str:
        """The word for it in --json."""
        if self.refused:
            return "refused"
        if self.errors or self.unreached:
            return "partly" if self.matched else "failed"
        return "partly" if self.cut else "done"

    def row(self) -> dict[str, object]:
        """For --json."""
        return {
            "rule": self.rule,
            "outcome": self.outcome,
            "reason": self.refused or self.unreached,
            **{name: getattr(self, name) for name in COUNTS},
            **{name: self.done * (action == self.action) for action, name in DONE.items()},
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "errors": [{"path": path, "reason": reason} for path, reason in self.errors],
            "age_histogram": [
                {"older_than_days": days, "files": count, "bytes": size}
                for days, count, size in self._histogram()
            ],
        }

    def lines(self) -> Iterator[str]:
        """For people; the first line tells the outcome."""
        freed, skipped = units.format_size(self.freed_bytes), f"{len(self.skipped)} skipped"
        files = f"{self.done} of {self.matched} files"
        yield f"{self.rule}: {self.outcome}: {files}, {freed}, {skipped}"
        if self.kept_malformed:
            yield f"  kept {self.kept_malformed} lines that are no record with a clear time"
        for path, reason in self.skipped[:MOST_SHOWN]:
            yield f"  skipped {printable(path)}: {reason}"
        for days, count, size in self._histogram():
            yield f"  older than {days:3} d: {count} files, {units.format_size(size)}"

    def _histogram(self) -> Iterator[tuple[int, int, int]]:
        """(days, files that are older but not as old as those of the next line, their bytes)."""
        sizes = (blocks * BLOCK for blocks in self.age_blocks)
        return zip(AGE_BUCKETS, self.ages, sizes, strict=True)
