"""Writes docs/configuration.md from the tables in upkeep.settings.

Run it after a key was added: python3 -m tests.helpers.reference
"""

import re
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "lib"))

from upkeep import settings  # noqa: E402

TARGET = ROOT / "docs" / "configuration.md"
HEAD = """# Configuration

Every table and key of `upkeep.toml`. This page is written from the code's own tables by
`python3 -m tests.helpers.reference`; a test compares the two.

The file is found at `--config`, then `$UPKEEP_CONFIG`, then `upkeep.toml` in the checkout, then
`/etc/upkeep/upkeep.toml`; with none of them the defaults apply. Sizes are `"300M"` or `"1.5G"`
(powers of 1024; a bare number is bytes), durations are `"90s"`, `"5m"`, `"2h"`, `"90d"` or
`"1h30m"` (a bare number is seconds). An unknown key, a wrong type or a bad unit ends every script
with exit status 2 and one line that names the file, the table, the key and what was expected.
Secrets stand in `.env` beside the file, see `.env.example`.
"""


def default_text(each: "Field[Any]") -> str:
    """The default of one key as the example file would show it."""
    if each.default is MISSING:
        return "required" if each.default_factory is MISSING else "empty"
    value = each.default
    if value is None or value in ("", ()):
        return "none"
    shown = re.search(rf"\b{each.name} = ([^#\n]+?) *(#|\n)", EXAMPLE)
    if shown and each.metadata["reader"](_toml(shown[1])) == value:
        return f"`{shown[1]}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _toml(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return None


EXAMPLE = (ROOT / "upkeep.example.toml").read_text()


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for table in vars(settings).values():
        if isinstance(table, type) and table.__name__.endswith("Settings"):
            parts.append(f"\n## {table.__doc__}\n\n| key | default | meaning |\n|---|---|---|\n")
            parts.extend(
                f"| `{each.name}` | {default_text(each)} | {each.metadata['doc']} |\n"
                for each in fields(table)
                if each.metadata
            )
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(reference())
