"""The place in memory: only what is this user's alone is used."""

import os
from pathlib import Path

import pytest

from upkeep import files, spare


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(spare, "ROOT", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    return tmp_path / "shm"


def fits(value: dict[str, object]) -> bool:
    return "x" in value


def test_what_the_disk_does_not_take_is_kept_until_it_does(tmp_path: Path, memory: Path) -> None:
    file = tmp_path / "var/state.json"
    file.parent.symlink_to("/proc/none")
    assert isinstance(spare.write_state(file, {"x": 1}), OSError)
    assert spare.read_state(file, fits) == {"x": 1}
    file.parent.unlink()
    assert spare.read_state(file, fits) == {"x": 1}
    assert spare.write_state(file, {"x": 2}) is None
    assert files.read_state(file) == {"x": 2}
    assert spare.read_state(file, fits) == {"x": 2}
    assert [path for path in memory.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("how", ["open", "link", "foreign"])
def test_a_place_that_is_not_private_is_not_used(tmp_path: Path, memory: Path, how: str) -> None:
    place = memory / f"upkeep-{os.geteuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if how == "link":
        place.symlink_to(elsewhere)
    else:
        place.mkdir(mode=0o700)
    if how == "open":
        place.chmod(0o770)
    if how == "foreign":
        if os.geteuid():
            pytest.skip("needs root")
        os.chown(place, 65534, 65534)
    with pytest.raises(PermissionError):
        spare.place(tmp_path, make=True)
    spare.write_state(Path("/proc/none/x"), {"x": 1})
    assert list(elsewhere.iterdir()) == []
