"""The text of a message: any bytes made readable, and cut into parts that fit."""

CAPTION_MOST = 800  # of 1024
TEXT_MOST = 3800  # of 4096 UTF-16 units: some stay free for what is added when it is sent

_DROPPED = dict.fromkeys([0x0D, *range(0x2028, 0x202F)])  # the server drops these, too
_BLANKED = dict.fromkeys([*(code for code in range(32) if code not in (9, 10, 13)), 0x7F], " ")


def clean(text: str | bytes) -> str:
    """`text` as the server can take it: no invalid UTF-8, no controls but tab and newline."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return valid.translate(_DROPPED).translate(_BLANKED)


def units(text: str) -> int:
    """The length of `text` in UTF-16 units, the strictest way in which the API counts."""
    return len(text) + sum(char > "\uffff" for char in text)


def split(text: str, most: int = TEXT_MOST) -> list[str]:
    """Parts of at most `most` UTF-16 units, cut behind line ends or else blanks where there are."""
    parts = []
    while text:
        end = min(most, len(text))
        while (excess := units(text[:end]) - most) > 0:
            end -= (excess + 1) // 2
        if end < len(text):
            found = text.rfind("\n", end // 2, end)
            end = (found if found >= 0 else text.rfind(" ", end // 2, end)) + 1 or end
        parts.append(text[:end])
        text = text[end:]
    return [part for part in parts if part.strip()]
