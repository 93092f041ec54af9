#!/usr/bin/env python3
"""Look at the memory of one program, once or for a while.

usage: mem_snapshot.py (--task NAME | --pid N | --pid-file FILE | --match REGEX)
                       [--continuous D --interval S] [--top N] [--save FILE] [--json]

    rss_bytes: 51 MiB
    uss_bytes: 45 MiB [and more of the kind; with --continuous also, for example:]
    growth_bytes_per_hour: 30 MiB

exit: 0 measured, also if cut short; 1 the target does not run; 2 usage, or several match.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, leak, proc, snapshot, target, text
from upkeep.daemon import GracefulShutdown
from upkeep.errors import Exit, OperatorError
from upkeep.units import format_size

EXAMPLES = """\
  mem_snapshot.py --task trader                              # what is its memory made of?
  mem_snapshot.py --pid 812 --continuous 30m --interval 10s  # does it grow now?
  mem_snapshot.py --match app.py --top 10                    # which mappings, which children?"""


def growth(readings: Sequence[target.Reading]) -> dict[str, Any]:
    """What --continuous adds: Sen's slope of the RSS, judged from 10 minutes and 24 samples on."""
    points = list({each["age_seconds"]: each["rss_bytes"] for each in readings}.items())
    seconds, rise = points[-1][0] - points[0][0], points[-1][1] - points[0][1]
    slope = leak.sen_slope(points[:: len(points) // 100 + 1])[0]
    verdict = "growing" if slope * seconds > max(1 << 20, 0.03 * points[0][1]) else "steady"
    judged = seconds >= 600 and len(points) >= 24
    return {
        "samples": len(points),
        "growth_bytes": rise,
        "growth_bytes_per_hour": round(slope * 3600),
        "verdict": verdict if judged else "not_judged",
    }


def look(identity: proc.Identity, args: Namespace, shutdown: GracefulShutdown) -> dict[str, Any]:
    """The document that the options ask for. Raises OperatorError."""
    details = snapshot.details(identity, args.top)
    seconds = args.continuous or 0.0
    readings, ended = target.follow(identity, seconds, args.interval, shutdown)
    if not readings:
        raise OperatorError(f"pid {identity.pid}: {ended} before it was measured")
    found = {"pid": identity.pid, **readings[-1]}
    if args.continuous:
        found |= {**growth(readings), "ended": ended}
        details = snapshot.details(identity, args.top) or details
    return found | details


def lines(found: dict[str, Any]) -> Iterator[str]:
    """For people: a line for each figure, a table for each list."""
    for key, value in found.items():
        if isinstance(value, list) and value:
            rows = [[shown(name, each) for name, each in row.items()] for row in value]
            yield from ("", f"{key}:", *text.table(list(value[0]), rows))
        else:
            yield f"{key}: {shown(key, value)}"


def shown(key: str, value: Any) -> str:
    """One value: bytes as a size, counts with their names."""
    if isinstance(value, (dict, list)):
        return ", ".join(f"{value[name]} {name}" for name in value) or "none"
    return format_size(value) if "_bytes" in key and value is not None else str(value)


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    made = target.parser(__doc__, EXAMPLES)
    made.add_argument("--continuous", type=cli.duration, metavar="D", help="go on for D")
    made.add_argument("--top", type=cli.count, default=0, metavar="N", help="mappings and children")
    args = made.parse_args(argv)
    identity, name = target.find(args)
    with GracefulShutdown() as shutdown:  # a signal ends the measuring, and tears no result
        found = {"program": name, **look(identity, args, shutdown)}
        target.save(args.save, found)
        if found["fds"] is None:
            cli.warn(f"pid {identity.pid} is of another user: only root sees PSS, USS, descriptors")
        if args.json:
            cli.print_json(found)
        else:
            print("\n".join(lines(found)), flush=True)
    return Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
