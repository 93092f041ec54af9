#!/usr/bin/env python3
"""Measure what memory a program usually needs, and tell when that has become more.

usage: mem_baseline.py (--task NAME | --pid N | --pid-file FILE | --match REGEX)
                       (--duration D [--interval S] | --from-history D) [--save FILE] [--json]
       mem_baseline.py --compare OLD [NEW] [--threshold PCT], and the above when there is no NEW

    metric     before  after   rise    noise    regression
    rss_bytes  50 MiB  69 MiB  18 MiB  192 KiB  True

exit: 0 no regression; 1 a regression, or not one sample; 2 usage, or a damaged or foreign file.
"""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, leak, samples, target, text, units
from upkeep.errors import Exit, OperatorError

MATTERS = {"rss_bytes": 1 << 20, "pss_bytes": 1 << 20, "fds": 10}  # a smaller rise is none
EXAMPLES = """\
  mem_baseline.py --task app --from-history 24h --save app.json  # what did it need yesterday?
  mem_baseline.py --task app --duration 10m --compare app.json   # does it need more today?"""


def measure(args: Namespace) -> dict[str, Any]:
    """The baseline that the options ask for. Raises OperatorError without a sample."""
    identity, name = target.find(args)
    if args.from_history:
        state, now = config.load(args.config).state, time.time()
        points = samples.series(samples.read(state, args.from_history, now)[0]).get(name, [])
        readings = [point._asdict() for point in points]
    else:
        readings, _ended = target.follow(identity, args.duration, args.interval)
    if not readings:
        raise OperatorError(f"{text.printable(name)}: not a single sample")
    warm = [each for each in readings if each["age_seconds"] >= leak.WARM_UP_SECONDS]
    columns = {key: [each.get(key) for each in warm or readings] for key in MATTERS}
    times = [each["time"] for each in warm or readings]
    figures = {key: metric(column, times) for key, column in columns.items() if None not in column}
    program = name.rpartition("/")[2]  # the directory is there only while another has the name
    return {"mem_baseline": 1, "program": program, "warmed_up": bool(warm), "metrics": figures}


def metric(values: Sequence[Any], times: Sequence[float]) -> dict[str, float]:
    """The figures of one metric. The spread is the median absolute deviation."""
    ordered, middle = sorted(values), median(values)
    slope = linear_regression(times, values).slope if len(set(times)) > 1 else 0.0
    return {
        "n": len(values),
        "min": ordered[0],
        "median": middle,
        "p95": ordered[round(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
        "spread": median(abs(value - middle) for value in values),
        "slope_per_hour": slope * 3600,
    }


def load(path: Path) -> dict[str, Any]:
    """The baseline in `path`. Raises OperatorError."""
    try:
        found = json.loads(files.read_small(path, 1 << 20))
        compare(found, found, 0.0)
        if found["mem_baseline"] != 1 or "rss_bytes" not in found["metrics"]:
            raise ValueError("of another version")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise OperatorError(f"{path}: no baseline can be read: {error!r}", Exit.USAGE) from None
    return dict(found)


def compare(old: dict[str, Any], new: dict[str, Any], percent: float) -> list[dict[str, Any]]:
    """A row per metric. A regression exceeds the threshold, the noise and what MATTERS."""
    if old["program"] != new["program"]:
        names = f"{old['program']} and {new['program']}"
        raise OperatorError(f"baselines of two programs: {text.printable(names)}", Exit.USAGE)
    if old["warmed_up"] != new["warmed_up"]:
        cli.warn("of different ages: one was measured in the first 30 minutes of the program")
    rows = []
    for name in [name for name in MATTERS if name in old["metrics"] and name in new["metrics"]]:
        before, after = old["metrics"][name], new["metrics"][name]
        rise = after["median"] - before["median"]
        noise = 3 * max(before["spread"], after["spread"])
        worse = rise > max(percent / 100 * before["median"], noise, MATTERS[name])
        row = {"metric": name, "before": before["median"], "after": after["median"], "rise": rise}
        rows.append({**row, "noise": noise, "regression": worse})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows that begin with the name of a metric, for people: bytes as sizes."""
    plain, cells = ("metric", "n", "regression"), []
    for row in rows:
        number = units.format_size if row["metric"].endswith("_bytes") else "{:.6g}".format
        cells.append([str(row[key]) if key in plain else number(row[key]) for key in row])
    return text.table(list(rows[0]), cells) if rows else []


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, save, compare."""
    made = target.parser(__doc__, EXAMPLES)
    made.add_argument("--duration", type=cli.duration, metavar="D", help="measure for D")
    made.add_argument("--from-history", type=cli.duration, metavar="D", help="the last D sampled")
    made.add_argument("--compare", nargs="+", type=Path, metavar="FILE", help="OLD, or OLD NEW")
    made.add_argument("--threshold", type=float, default=15.0, metavar="PCT", help="default 15")
    args = made.parse_args(argv)
    known = [load(path) for path in args.compare or ()]
    if len(known) > 2 or (len(known) < 2 and not (args.duration or args.from_history)):
        raise OperatorError("give --duration, --from-history or --compare OLD NEW", Exit.USAGE)
    new = known[1] if len(known) == 2 else measure(args)
    rows = compare(known[0], new, args.threshold) if known else []
    target.save(args.save, new)
    if args.json:
        cli.print_json({**new, "results": rows})
    else:
        measured = [{"metric": name, **each} for name, each in new["metrics"].items()]
        print("\n".join(table(rows or measured)))
    return Exit.PROBLEM if any(row["regression"] for row in rows) else Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
