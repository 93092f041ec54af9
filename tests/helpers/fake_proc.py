"""Writes a directory that looks like /proc, so that every state of a host can be shown."""

from pathlib import Path

BOOT_ID = "11111111-2222-3333-4444-555555555555"
MEMINFO = """MemTotal:        2048000 kB
MemFree:          100000 kB
MemAvailable:     {available} kB
Buffers:           10000 kB
Cached:           200000 kB
SwapTotal:       {swap_total} kB
SwapFree:        {swap_free} kB
HugePages_Total:       0
"""


class FakeProc:
    """One host. `available`, `swap_total` and `swap_free` are KiB."""

    def __init__(
        self,
        root: Path,
        available: int = 1024000,
        swap_total: int = 512000,
        swap_free: int = 512000,
        oom_kills: int | None = 0,
        uptime: float = 100000.0,
    ) -> None:
        self.root = root
        meminfo = MEMINFO.format(available=available, swap_total=swap_total, swap_free=swap_free)
        self.write("meminfo", meminfo)
        self.write("uptime", f"{uptime} 1.0\n")
        self.write("sys/kernel/random/boot_id", BOOT_ID + "\n")
        kills = "" if oom_kills is None else f"oom_kill {oom_kills}\n"
        self.write("vmstat", f"pswpin 10\npswpout 20\n{kills}")
        self.write(
            "pressure/memory",
            "some avg10=1.00 avg60=2.50 avg300=3.00 total=1\n"
            "full avg10=0.00 avg60=0.50 avg300=0.00 total=1\n",
        )

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def process(
        self,
        pid: int,
        command: list[str],
        rss_pages: int = 1000,
        start_ticks: int = 5000,
        parent: int = 1,
        state: str = "S",
        pss_kib: int | None = None,
    ) -> None:
        """Add a process."""
        name = Path(command[0]).name[:15] if command else "kthread"
        rest = f"{parent} {pid} {pid} 0 -1 0 0 0 0 0 7 3 0 0 20 0 1 0 {start_ticks} 0 {rss_pages}"
        self.write(f"{pid}/stat", f"{pid} ({name}) {state} {rest} 0 0\n")
        self.write(f"{pid}/cmdline", b"".join(word.encode() + b"\0" for word in command))
        (self.root / f"{pid}/fd").mkdir(exist_ok=True)
        if pss_kib is not None:
            self.write(f"{pid}/smaps_rollup", f"Rss: 9 kB\nPss:  {pss_kib} kB\n")

    def cgroup(self, version: int, files: dict[str, str], path: str = "/docker/abc") -> None:
        """Put this process into a control group; `files` are relative to the mount point."""
        mount = self.root / "cgroup mount"
        for name, content in files.items():
            self.write(f"cgroup mount/{name}", content)
        escaped = str(mount).replace(" ", "\\040")
        line = f"0::{path}\n" if version == 2 else f"5:cpu,memory:{path}\n0::/\n"
        self.write("self/cgroup", line)
        kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
        self.write("self/mountinfo", f"35 24 0:30 / {escaped} rw,nosuid - {kind}\n")
