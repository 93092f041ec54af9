"""Figures for Prometheus: a text file that node_exporter's textfile collector picks up."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from upkeep import files

Figures = dict[str, dict[tuple[str, str], float]]  # {name: {(label, its value): figure}}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def write(path: Path, figures: Figures) -> None:
    """Replace the file at once, readable by the exporter's user (0644). Raises OSError."""
    path.parent.stat()  # made here, it would be a private one
    lines = []
    for name, values in sorted(figures.items()):
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} See docs/memory_sample.md.", f"# TYPE {name} {kind}"]
        for (label, text), value in values.items():
            labels = f'{{{label}="{text.translate(_ESCAPES)}"}}' if label else ""
            lines.append(f"{name}{labels} {float(value)!r}")
    files.atomic_write(path, "\n".join([*lines, ""]).encode("utf-8", "replace"), 0o644)


def add(path: Path, figures: Figures) -> None:
    """Add to the counters in the file, from any number of processes: none is lost, nor torn.

    They must end in `_total`. Raises OSError, and OperatorError when it stays busy for 10 s.
    """
    path.parent.stat()  # as `write` does
    with files.lock(path.with_name(f"{path.name}.lock"), 10.0):
        known = _counters(path)
        for name, values in figures.items():
            mine = known.setdefault(name, {})
            for label, amount in values.items():
                mine[label] = mine.get(label, 0.0) + amount
        write(path, known)


def _counters(path: Path) -> Figures:
    """The counters that `write` wrote there; {} where there is no file."""
    found: Figures = {}
    data = files.read_small(path, 1 << 20).decode("utf-8", "replace") if path.exists() else ""
    line = r'(?m)^(\w+_total)(?:\{(\w+)="(.*)"\})? (\d+\.?\d*(?:e[+-]\d+)?)$'
    for name, label, value, figure in re.findall(line, data):
        plain = re.sub(r"\\(.)", lambda escaped: escaped[1].replace("n", "\n"), value)
        found.setdefault(name, {})[label, plain] = float(figure)
    return found


@contextlib.contextmanager
def timer(path: Path, name: str, label: tuple[str, str] = ("", "")) -> Iterator[None]:
    """Add how long the block took to <name>_seconds_total and 1 to <name>_runs_total."""
    began = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - began
        add(path, {f"{name}_seconds_total": {label: took}, f"{name}_runs_total": {label: 1}})
