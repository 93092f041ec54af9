"""Figures for Prometheus: a text file that node_exporter's textfile collector picks up."""

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
