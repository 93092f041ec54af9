"""Writes docs/configuration.md from the tables in the code and the example's comments.

    .venv/bin/python -m tests.helpers.configuration_page >docs/configuration.md

The meaning of a key has one home, upkeep.example.toml; what is allowed, the code. A test compares
the page with what this makes.
"""

import re
from dataclasses import MISSING, fields

from tests.helpers import ROOT
from upkeep import readers, settings

EXAMPLE = (ROOT / "upkeep.example.toml").read_text()
HEAD = """\
# upkeep.toml

<!-- made from the code and upkeep.example.toml by tests/helpers/configuration_page.py -->

One file, found at `--config FILE`, then `$UPKEEP_CONFIG`, `upkeep.toml` in the checkout,
`/etc/upkeep/upkeep.toml`; with none, all defaults hold and there are no tasks. A key that does not
exist, a wrong type or a bad unit ends every script with one line that names the file, the table,
the key, what was expected and the nearest key that exists (exit status 2). Root refuses a file
that others can write (exit status 3, [SECURITY.md](../SECURITY.md)).

A *size* is `"300M"`, `"1.5G"` (powers of 1024) or a number of bytes; a *duration* `"90s"`, `"5m"`,
`"2h"`, `"90d"`, `"1h30m"` or a number of seconds; a *percentage* `"80%"`. Relative paths of `log`
and `pid_file` are relative to the state directory. Where no default is shown, the key is off.

Secrets stand in `.env` beside it, or in the environment, which goes first: `TELEGRAM_BOT_TOKEN`,
`TELEGRAM_CHAT_ID` (several with commas), `TELEGRAM_THREAD_ID`, `TELEGRAM_API_BASE`, `HTTPS_PROXY`.
"""
WORDS = {
    "text": "text",
    "flag": "`true`, `false`",
    "percent": "percentage",
    "number": "number, at least 0",
    "free_space": "percentage or size",
    "words": "list of texts",
    "some_words": "list of texts, not empty",
    "roots": "list of absolute directories",
    "command_words": "list of words, or one text split like a shell would",
    "absolute": "absolute path",
    "absolutes": "list of absolute paths",
    "absolute_globs": "list of absolute globs",
    "signal_name": "name of a signal",
    "file_mask": "octal digits",
    "environment": "table of names and texts",
    "resource_limits": "table of limits by their names in setrlimit(2)",
    "pattern": "regular expression",
    "address": "IP address and port",
}


def takes(reader: readers.Reader) -> str:
    """What a key's reader accepts, in words."""
    kind = reader.__qualname__.partition(".")[0]
    held = [cell.cell_contents for cell in reader.__closure__ or ()]
    if kind == "integer":
        least, most = sorted(held)
        return f"whole number, {least} to {most}" if most < 1 << 30 else f"at least {least}"
    if kind == "choice":
        return ", ".join(f"`{word}`" for word in held[0])
    if kind == "or_none":
        return takes(held[0])
    if kind == "above_zero":
        return f"{takes(held[0])}, above 0"
    if kind == "readiness":
        inner = settings.keys(settings.Ready).items()
        return "table of " + ", ".join(f"`{name}`: {takes(key.reader)}" for name, key in inner)
    names = {id(each): name for name, each in vars(readers).items()}
    name = names[id(reader)]
    return WORDS.get(name, name)


def told(section: str, name: str) -> tuple[str, str]:
    """The default that the example shows for a key, and what it says about the key."""
    line = rf"(?m)^(# )?{name} = (.+?)(?: +# (.*))?((?:\n {{16,}}# .*)*)$"
    found = re.search(line, section)
    if not found:
        near = re.search(rf"(?m)^(?:# )?(\w+) = .*\b{name} = ", section)
        return "", f"see `{near[1]}`" if near else ""
    more = re.sub(r"\s+# ", " ", found[4])
    return found[2] if found[1] else "", ((found[3] or "") + more).strip()


def rows(table: type, section: str) -> list[str]:
    """One line of the page for each key of `table`."""
    defaults = {each.name: each.default for each in fields(table)}
    made = []
    for name, key in settings.keys(table).items():
        shown, meaning = told(section, name)
        shown = shown or f'"{defaults[name]}"'
        off = defaults[name] in (None, (), "", MISSING)
        default = "needed" if key.required else "" if off else f"`{shown}`"
        cells = (f"`{name}`", takes(key.reader), default, meaning)
        made.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return made


def page() -> str:
    """The whole page."""
    made = [HEAD]
    for kind in vars(settings).values():
        if isinstance(kind, type) and kind.__name__.endswith("Settings"):
            head = str(kind.__doc__).split("\n")[0].strip()
            begin = EXAMPLE.index(f"\n{head.split('.')[0].rstrip(']')}")
            end = EXAMPLE.find("\n# ----", begin)
            section = EXAMPLE[begin : end if end > 0 else None]
            made += [f"## {head}\n", "| key | takes | default | meaning |", "|---|---|---|---|"]
            made += [*rows(kind, section), ""]
    return "\n".join(made)


if __name__ == "__main__":
    print(page(), end="")
