#!/usr/bin/env python3
"""Measure what memory a program usually needs, and tell when that has become more.

usage: mem_baseline.py (--task NAME | --pid N | --pid-file FILE | --match REGEX)
                       (--duration D [--interval S] | --from-history D) [--save FILE] [--json]
       mem_baseline.py --compare OLD [NEW] [--threshold PCT], and the above when there is no NEW

    metric     before  after   rise    noise    regression
    rss_bytes  51 MiB  70 MiB  18 MiB  322 KiB  True

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
from upkeep.daemon import GracefulShutdown
from upkeep.errors import Exit, OperatorError
from upkeep.target import Reading

DAMAGE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError)
NOISE = 1.5  # spreads: as far from the middle half as Tukey's fences
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
        found = [point._asdict() for point in points]
    else:
        with GracefulShutdown() as shutdown:
            found, _ended = target.follow(identity, args.duration, args.interval, shutdown)
    if not found:
        raise OperatorError(f"{text.printable(name)}: not a single sample")
    found = found[:: len(found) // target.MOST_READINGS + 1]
    readings = [{key: each.get(key) for key in ("age_seconds", *MATTERS)} for each in found]
    program = name.rpartition("/")[2]  # the directory is there only while another has the name
    whole = {"mem_baseline": 2, "program": program, "metrics": figures(settled(readings))}
    return {**whole, "readings": readings}


def settled(readings: Sequence[Reading]) -> Sequence[Reading]:
    """Those after the first 30 minutes of the program; all, where there are no such."""
    warm = [each for each in readings if each["age_seconds"] >= leak.WARM_UP_SECONDS]
    return warm or readings


def equal_ages(old: Sequence[Reading], new: Sequence[Reading]) -> Sequence[Sequence[Reading]]:
    """The readings of both that can be compared: the settled ones, else those of equal ages."""
    both = [settled(old), settled(new)]
    spans = [[each["age_seconds"] for each in readings] for readings in both]
    if min(map(min, spans)) >= leak.WARM_UP_SECONDS:
        return both
    begin, end = max(map(min, spans)), min(map(max, spans))
    common = [[r for r in readings if begin <= r["age_seconds"] <= end] for readings in (old, new)]
    if all(common):
        return common
    shown = [" to ".join(map(units.format_duration, (min(span), max(span)))) for span in spans]
    cli.warn(f"of different ages, {shown[0]} and {shown[1]}: memory may grow until it is warm")
    return both


def figures(readings: Sequence[Reading]) -> dict[str, dict[str, float]]:
    """The figures of each metric that could be read every time."""
    ages = [each["age_seconds"] for each in readings]
    columns = {key: [each[key] for each in readings] for key in MATTERS}
    return {key: metric(column, ages) for key, column in columns.items() if None not in column}


def metric(values: Sequence[Any], ages: Sequence[float]) -> dict[str, float]:
    """The figures of one metric. The spread is the middle half's, about the line of its trend.

    So neither a few peaks nor a leak passes for noise, but a program that changes to and fro does.
    """
    ordered = sorted(values)
    slope = linear_regression(ages, values).slope if len(set(ages)) > 1 else 0.0
    about = sorted(value - slope * age for value, age in zip(values, ages, strict=True))
    return {
        "n": len(values),
        "min": ordered[0],
        "median": median(ordered),
        "p95": ordered[round(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
        "spread": about[len(about) * 3 // 4] - about[len(about) // 4],
        "slope_per_hour": slope * 3600,
    }


def load(path: Path) -> dict[str, Any]:
    """The baseline in `path`. Raises OperatorError."""
    try:
        found = json.loads(files.read_small(path, 4 << 20))
        if found["mem_baseline"] != 2:
            raise ValueError("it is of another version")
        measured = figures(settled(found["readings"]))
        if "rss_bytes" not in measured or not isinstance(found["program"], str):
            raise ValueError("it is damaged")
    except DAMAGE as error:
        why = getattr(error, "strerror", None) or error
        raise OperatorError(f"{path}: no baseline can be read: {why}", Exit.USAGE) from None
    return {**found, "metrics": measured}


def compare(old: dict[str, Any], new: dict[str, Any], percent: float) -> list[dict[str, Any]]:
    """A row per metric. A regression exceeds the threshold, the noise and what MATTERS."""
    if old["program"] != new["program"]:
        names = f"{old['program']} and {new['program']}"
        raise OperatorError(f"baselines of two programs: {text.printable(names)}", Exit.USAGE)
    before, after = map(figures, equal_ages(old["readings"], new["readings"]))
    rows = []
    for name in (name for name in MATTERS if name in before and name in after):
        usual, now = before[name]["median"], after[name]["median"]
        noise = NOISE * max(before[name]["spread"], after[name]["spread"])
        worse = now - usual > max(percent / 100 * usual, noise, MATTERS[name])
        row = {"metric": name, "before": usual, "after": now, "rise": now - usual}
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
    if not args.threshold >= 0:  # a NaN is not
        raise OperatorError("--threshold: expected a percentage such as 15", Exit.USAGE)
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
