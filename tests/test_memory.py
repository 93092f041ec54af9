"""Readings of the host, from this machine and from directories that look like other ones."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.fake_proc import BOOT_ID, FakeProc
from upkeep import memory, proc
from upkeep.errors import OperatorError

TOTAL = 2048000 * 1024


def test_this_host_is_read_as_free_reads_it() -> None:
    host = memory.read_host()
    shown = subprocess.run(["free", "-b"], capture_output=True, text=True, check=True).stdout
    total = int(shown.splitlines()[1].split()[1])
    assert host["limit_source"] == "cgroup" or host["limit_bytes"] == total
    assert 0 < host["available_bytes"] <= host["limit_bytes"] <= total
    assert host["used_bytes"] + host["available_bytes"] == host["limit_bytes"]


def test_a_whole_reading(tmp_path: Path) -> None:
    FakeProc(tmp_path, available=512000, swap_free=12000, oom_kills=7)
    host = memory.read_host(str(tmp_path))
    assert (host["boot_id"], host["uptime_seconds"]) == (BOOT_ID, 100000.0)
    assert (host["limit_bytes"], host["limit_source"]) == (TOTAL, "host")
    assert host["available_bytes"] == 512000 * 1024 and host["used_bytes"] == 0.75 * TOTAL
    assert (host["swap_total_bytes"], host["swap_used_bytes"]) == (512000 << 10, 500000 << 10)
    assert host["swapped_bytes"] == 30 * os.sysconf("SC_PAGE_SIZE")
    assert host["oom_kills"] == 7
    assert host["pressure"] == {"some_avg60": 2.5, "full_avg60": 0.5}


def test_an_old_kernel_without_pressure_swap_and_counters_is_read_too(tmp_path: Path) -> None:
    fake = FakeProc(tmp_path, swap_total=0, swap_free=0, oom_kills=None)
    (tmp_path / "pressure/memory").unlink()
    text = (tmp_path / "meminfo").read_text()
    fake.write("meminfo", "".join(x for x in text.splitlines(True) if "Available" not in x))
    host = memory.read_host(str(tmp_path))
    assert (host["pressure"], host["oom_kills"], host["swap_total_bytes"]) == (None, None, 0)
    assert host["available_bytes"] == 310000 * 1024  # free, buffers and cache


@pytest.mark.parametrize("content", [None, "", "MemTotal: many kB\n", "nonsense\0"])
def test_what_is_no_proc_is_one_line(tmp_path: Path, content: str | None) -> None:
    fake = FakeProc(tmp_path)
    if content is None:
        (tmp_path / "meminfo").unlink()
    else:
        fake.write("meminfo", content)
    with pytest.raises(OperatorError, match="cannot be read as /proc"):
        memory.read_host(str(tmp_path))


MIB = 1 << 20
V2 = {"docker/abc/memory.max": "max\n", "docker/abc/memory.current": str(90 * MIB)}
V1_NONE = "9223372036854771712\n"


@pytest.mark.parametrize(
    ("version", "files", "limit", "available"),
    [
        (2, V2, None, None),
        (
            2,
            V2
            | {
                "docker/memory.max": str(500 * MIB),
                "docker/memory.current": str(400 * MIB),
                "docker/memory.stat": f"anon 5\ninactive_file {150 * MIB}\n",
            },
            500,
            250,
        ),
        (
            1,
            {
                "docker/abc/memory.limit_in_bytes": str(300 * MIB),
                "docker/abc/memory.usage_in_bytes": str(100 * MIB),
                "docker/abc/memory.stat": f"total_inactive_file {20 * MIB}\n",
                "memory.limit_in_bytes": V1_NONE,
                "memory.usage_in_bytes": str(999 * MIB),
            },
            300,
            220,
        ),
        (1, {"memory.limit_in_bytes": V1_NONE, "memory.usage_in_bytes": "5\n"}, None, None),
    ],
)
def test_the_tightest_control_group_is_the_limit(
    tmp_path: Path, version: int, files: dict[str, str], limit: int | None, available: int | None
) -> None:
    FakeProc(tmp_path).cgroup(version, files)
    host = memory.read_host(str(tmp_path))
    if limit is None:
        assert (host["limit_source"], host["limit_bytes"]) == ("host", TOTAL)
    else:
        assert (host["limit_source"], host["limit_bytes"]) == ("cgroup", limit * MIB)
        assert host["available_bytes"] == (available or 0) * MIB


def test_a_group_outside_of_what_a_container_mounts_is_the_mounted_one(tmp_path: Path) -> None:
    files = {"memory.max": str(100 * MIB), "memory.current": str(10 * MIB)}
    FakeProc(tmp_path).cgroup(2, files, path="/../../elsewhere")
    assert memory.read_host(str(tmp_path))["limit_bytes"] == 100 * MIB


def test_disks_are_counted_as_df_counts_them() -> None:
    found = memory.read_disks((Path("/"), Path("/no/such/mount")))
    assert list(found) == ["/"]
    shown = subprocess.run(
        ["df", "-B1", "--output=used,avail", "/"], capture_output=True, text=True, check=True
    )
    used, free = map(int, shown.stdout.split()[-2:])
    assert found["/"][0] == pytest.approx(used, abs=1 << 30)
    assert found["/"][1] == pytest.approx(free, abs=1 << 30)


def test_directories_come_largest_first_whatever_they_are_called(tmp_path: Path) -> None:
    small, large = tmp_path / "a\nb\t-c", tmp_path / "large"
    for path, size in ((small, 10_000), (large, 500_000)):
        path.mkdir()
        (path / "x").write_bytes(b"x" * size)
    sizes = memory.directory_sizes((small, large, tmp_path / "absent"))
    assert list(sizes) == [str(large), str(small)]
    assert 500_000 <= sizes[str(large)][0] < 600_000


def test_a_proc_that_makes_no_sense_is_refused_in_one_line(tmp_path: Path) -> None:
    fake = FakeProc(tmp_path)
    whole = memory.read_host(str(tmp_path))
    fake.write("vmstat", f"pswpin {'9' * 30}\npswpout 20\noom_kill 3\n")
    assert memory.read_host(str(tmp_path))["swapped_bytes"] == 20 * proc.PAGE_BYTES
    for name, content in (
        ("uptime", "1e999 1\n"),
        ("uptime", "x\n"),
        ("self/mountinfo", "1 2\n"),
        ("meminfo", "MemTotal: none kB\n"),
    ):
        fake.write(name, content)
        with pytest.raises(OperatorError, match="cannot be read as /proc"):
            memory.read_host(str(tmp_path))
        fake = FakeProc(tmp_path)
        fake.write("self/mountinfo", "")
    assert memory.read_host(str(tmp_path)) == whole
