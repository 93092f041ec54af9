"""Text that others wrote, made safe and straight to print: escapes, columns, secrets."""

import re
from collections.abc import Iterable, Sequence

_TOKEN = re.compile(r"(?<!\d)\d{5,}(?::|%3[Aa])[A-Za-z0-9_-]{20,}")
_secrets: set[str] = set()


def remember_secret(secret: str) -> None:
    """Have `redact` replace `secret` from now on, whole or only the half behind the colon."""
    for part in {secret, secret.partition(":")[2], secret.replace(":", "%3A")}:
        if len(part) >= 6:
            _secrets.add(part)


def redact(text: str) -> str:
    """`text` with every remembered secret, and all that looks like a bot token, masked."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "<token>")
    return _TOKEN.sub("<token>", text)


def printable(text: str | bytes, limit: int = 0) -> str:
    """`text` on one line: controls, separators and invalid UTF-8 as escapes, cut to `limit`.

    Names of processes and files are chosen by others; printed raw they could move the cursor,
    forge a line or end a tag.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    shown = text if text.isprintable() else "".join(map(_escaped, text))
    if limit and len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return shown


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, kept by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def display_width(text: str) -> int:
    """Columns that `text` takes on a terminal: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> list[str]:
    """Lines of an aligned table. `right` has a ">" for every column that is flush right.

    A last column is not padded, so that no line ends in blanks.
    """
    cells = [list(header), *[[printable(cell) for cell in row] for row in rows]]
    widths = [max(map(display_width, column)) for column in zip(*cells, strict=True)]
    sides = right.ljust(len(widths))
    lines = []
    for row in cells:
        padded = [_pad(*item) for item in zip(row, widths, sides, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return lines


def _pad(cell: str, width: int, side: str) -> str:
    blanks = " " * (width - display_width(cell))
    return blanks + cell if side == ">" else cell + blanks


def cut(text: str, columns: int) -> str:
    """`text` cut to at most `columns` of a terminal; an ellipsis stands for what is missing."""
    while display_width(text) > columns:
        text = text.removesuffix("…")[:-1] + "…"
    return text
