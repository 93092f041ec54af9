"""Figures for Prometheus: a text file that node_exporter's textfile collector picks up."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from upkeep import files

Values = Sequence[tuple[dict[str, str], float]]  # labels and value
Family = tuple[str, str, str, Values]  # name, type, help; one without values is left out


def render(families: Iterable[Family]) -> str:
    """The text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats)."""
    lines = []
    for name, kind, doc, values in sorted(families):
        if values:
            lines += [f"# HELP {name} {doc}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(labels)} {float(value):.17g}" for labels, value in values]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: dict[str, str]) -> str:
    escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
    valid = {key: text.encode("utf-8", "replace").decode() for key, text in labels.items()}
    inner = ",".join(f'{key}="{text.translate(escapes)}"' for key, text in valid.items())
    return f"{{{inner}}}" if inner else ""


def write(path: Path, families: Iterable[Family]) -> None:
    """Replace the file at once, readable by the exporter's user (0644). Raises OSError."""
    files.atomic_write(path, render(families).encode(), 0o644)
