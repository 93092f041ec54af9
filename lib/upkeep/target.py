"""One running program that is looked at closely: which it is, and its readings over time."""

import os
import re
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from upkeep import cli, config, files, pidfile, proc, programs, text, units
from upkeep.daemon import GracefulShutdown
from upkeep.errors import Exit, OperatorError

KEYS = {"rss": "VmRSS", "pss": "Pss", "uss": "", "swap": "VmSwap", "peak": "VmHWM"}
KEYS |= {"anonymous": "RssAnon", "file": "RssFile", "shared": "RssShmem"}
MOST_READINGS = 3600  # of one run, an hour at 1 s: it stays below 20 MiB
Reading = dict[str, Any]


def parser(doc: str | None, examples: str) -> ArgumentParser:
    """A parser with the options of a target."""
    made = cli.parser(doc, examples)
    group = made.add_mutually_exclusive_group()
    group.add_argument("--task", metavar="NAME", help="a task of upkeep.toml")
    group.add_argument("--pid", type=int, metavar="N", help="a process")
    group.add_argument("--pid-file", type=Path, metavar="FILE", help="the process named there")
    group.add_argument("--match", metavar="REGEX", help="the one whose command line has it")
    made.add_argument("--interval", type=cli.duration, default=5.0, metavar="S", help="default 5s")
    made.add_argument("--save", type=Path, metavar="FILE", help="write the JSON document there")
    cli.add_json(made)
    return made


def find(args: Namespace) -> tuple[proc.Identity, str]:
    """The target that the options name, and its program's name. Raises OperatorError."""
    if args.pid is None and not (args.task or args.match or args.pid_file):
        raise OperatorError("name a target: --task, --pid, --pid-file or --match", Exit.USAGE)
    settings = config.load(args.config)
    known = programs.collect("/proc", settings, proc.boot_id())
    if args.task:
        names = cli.chosen_tasks(settings, [args.task])
        pids = [each.leader.pid for each in known if each.name in names and each.leader]
    elif args.match:
        pids = _matching(args.match)
    else:
        pids = [pidfile.plain_pid(args.pid_file) or 0 if args.pid_file else args.pid or 0]
    if len(pids) > 1:
        shown = "; ".join(f"{pid} {' '.join(proc.command_line(pid))[:60]}" for pid in pids)
        raise OperatorError(f"several processes match: {text.printable(shown, 900)}", Exit.USAGE)
    identity = proc.identify(pids[0]) if pids else None
    if identity is None:
        asked = args.task or args.match or args.pid_file or f"pid {args.pid}"
        raise OperatorError(f"{text.printable(str(asked))}: no such process runs")
    return identity, next((each.name for each in known if identity.pid in each.pids), "")


def _matching(pattern: str) -> list[int]:
    """Processes whose command line matches; neither this one nor those that started it."""
    try:
        matches = re.compile(pattern).search
    except re.error as error:
        raise OperatorError(f"--match: not a regular expression: {error}", Exit.USAGE) from None
    table, ours = proc.scan(), os.getpid()
    while ours in table:
        ours = table.pop(ours).parent
    lines = {pid: " ".join(proc.command_line(pid)) for pid in table}
    return [pid for pid, line in lines.items() if line and matches(line)]


def read(identity: proc.Identity) -> Reading | None:
    """The memory of this very process (see proc(5)); None when it has ended."""
    stat, place = proc.read_stat(identity.pid), f"/proc/{identity.pid}"
    lines = proc.read_file(f"{place}/status")
    if stat and stat.rss_bytes <= programs.PSS_MAX_RSS:  # a larger one would stand still too long
        lines += proc.read_file(f"{place}/smaps_rollup")
    kib = {key.decode(): int(size) for key, size in re.findall(rb"(?m)^(\w+):\s+(\d+)", lines)}
    fds = proc.count_fds(identity.pid)
    if stat is None or "VmRSS" not in kib or not proc.is_alive(identity):
        return None  # without memory it is on its way out, if not a kernel thread
    found = {f"{ours}_bytes": kib[key] * 1024 if key in kib else None for ours, key in KEYS.items()}
    if "Pss" in kib:
        found["uss_bytes"] = (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024
    found |= {"threads": kib.get("Threads"), "fds": fds}
    return {"time": round(time.time(), 3), "age_seconds": round(proc.age_seconds(stat), 2), **found}


def follow(
    identity: proc.Identity, seconds: float, interval: float, shutdown: GracefulShutdown
) -> tuple[list[Reading], str]:
    """Readings every `interval` seconds, and why they ended: time, a signal or the target's end."""
    readings: list[Reading] = []
    begin, interval = time.monotonic(), max(interval, 0.1, seconds / MOST_READINGS)
    count, ended = int(seconds / interval + 1.001), "complete"  # 0.3 / 0.1 is below 3
    for number in range(count):
        if shutdown.sleep(begin + number * interval - time.monotonic()):
            ended = "interrupted"
            break
        reading = read(identity)
        if reading is None:
            ended = "the target ended"
            break
        readings.append(reading)
        _show_progress(f"{number + 1} of {count}: RSS {units.format_size(reading['rss_bytes'])}")
    _show_progress("")
    return readings, ended


def _show_progress(line: str) -> None:
    """Say on a terminal how far it is; "" clears the line."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


def save(path: Path | None, found: dict[str, Any]) -> None:
    """Write `found` to the file that --save named, but not in a dry run. Raises OperatorError."""
    try:
        if path and not cli.rehearsing():
            files.write_state(path, found)
    except OSError as error:
        raise OperatorError(f"{path}: cannot be written: {error.strerror}", Exit.USAGE) from None
