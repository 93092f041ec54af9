import os
import random
import time
from pathlib import Path

import pytest

from tests.test_cleanup import make
from upkeep import budget, sweep
from upkeep.plan import Plan
from upkeep.settings import CleanupSettings


def planned(data: Path, **keys: object) -> Plan:
    keys = {"older_than": 90 * 86400.0, **keys}
    rule = CleanupSettings("old", (str(data),), ("*.jsonl",), **keys)  # type: ignore[arg-type]
    return Plan(rule, time.time(), lambda: False, False, lambda folder, report: None)


def replace(path: Path, outside: Path, how: str) -> None:
    path.rename(outside / path.name)
    if how == "symlink":
        path.symlink_to(outside / path.name)
    elif how == "directory":
        path.mkdir()
    elif how == "file":
        make(path, 400)


@pytest.mark.parametrize("how", ["gone", "symlink", "directory", "file"])
def test_what_changes_between_the_look_and_its_turn_is_not_taken(tmp_path: Path, how: str) -> None:
    """The files of a directory are looked at in batches: the last of one waits for the others."""
    data, outside = tmp_path / "data", tmp_path / "outside"
    data.mkdir()
    outside.mkdir()
    for number in range(20):
        make(data / f"{number}.jsonl", 400)
    report = planned(data).report()
    steps = sweep.run(planned(data), report)
    next(steps)
    rest = sorted(data.iterdir())
    for path in rest[:5]:
        replace(path, outside, how)
    assert len(list(steps)) == 14 and report.done == 15
    assert sorted(path.name for path in outside.iterdir()) == [path.name for path in rest[:5]]
    assert all(path.read_bytes() == b"{}\n" for path in outside.iterdir())
    assert len(os.listdir(data)) == (0 if how == "gone" else 5)
    assert len(report.errors) == (5 if how == "symlink" else 0)


def test_a_directory_renamed_meanwhile_is_cleaned_where_it_is(tmp_path: Path) -> None:
    data, outside, moved = tmp_path / "data", tmp_path / "outside", tmp_path / "moved"
    for folder in (data / "sub", outside):
        folder.mkdir(parents=True)
        for number in range(300):
            make(folder / f"{number}.jsonl", 400)
    steps = sweep.run(plan := planned(data), plan.report())
    next(steps)
    (data / "sub").rename(moved)
    (data / "sub").symlink_to(outside)
    assert len(list(steps)) == 299
    assert os.listdir(moved) == [] and len(os.listdir(outside)) == 300


def test_the_border_of_a_budget_is_where_the_oldest_files_suffice() -> None:
    chance = random.Random(7)
    for _ in range(300):
        files = [(chance.randrange(-90_000, 200_000), chance.randrange(4)) for _ in range(30)]
        files += chance.choices(files, k=20)
        missing = chance.randrange(1, 80)
        border = budget.border(*zip(*files, strict=True), missing)
        taken = [size for when, size in files if border.takes(when + 0.5, size)]
        rest = sum(size for _, size in files) - sum(taken)
        assert sum(taken) >= missing or rest == 0
        younger = [when for when, _ in files if when > border.second]
        older = sum(size for when, size in files if when < border.second)
        assert older < missing or not younger
    assert budget.border([], [], 5) == budget.border([1], [1], 0) == budget.Border()
