"""The text of a message: any bytes made readable, and cut into parts that fit."""

import itertools
import re
from html import unescape

CAPTION_MOST = 800  # of 1024
TEXT_MOST = 3800  # of 4096 UTF-16 units: some stay free for what is added when it is sent
TAGS_MOST = 20  # open at a cut: with more of them every part would be longer than the one before

_MARKUP = re.compile(  # core.telegram.org/bots/api#html-style
    r"<(?P<end>/?)(?P<name>a|b|strong|i|em|u|ins|s|strike|del|span|tg-[a-z]+|code|pre|blockquote)"
    r"(?:\s(?:\"[^\"]*\"|'[^']*'|[^<>\"'])*)?>|&(?:lt|gt|amp|quot|#\d{1,7}|#x[0-9a-f]{1,6});",
    re.IGNORECASE,
)
_LONGEST_TAG = 2000
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


def plain(html: str) -> str:
    """What a reader sees of Telegram's HTML. What only looks like a tag stays as it is."""
    return _MARKUP.sub(lambda found: "" if found["name"] else unescape(found[0]), html)


def ends(text: str, head: int, tail: int) -> str:
    """The first `head` and the last `tail` UTF-16 units of a long text."""
    begin = len(text) - tail // 2
    begin += next((at for at in range(64) if not _joined(text, begin + at)), 0)
    return f"{text[: _cut(text, head)].rstrip()}\n[...]\n{text[begin:].lstrip()}"


def split(text: str, most: int = TEXT_MOST, *, html: bool = False) -> list[str]:
    """Parts of at most `most` UTF-16 units, cut behind line ends or else blanks where there are.

    In HTML the tags that are open at a cut are closed there and opened again behind it.
    """
    parts: list[str] = []
    opened: list[re.Match[str]] = []
    while text:
        end = _cut(text, most)
        if html and end < len(text):
            end = _outside_tags(text, end)
        part, text = "".join(tag[0] for tag in opened) + text[:end], text[end:]
        opened.clear()
        for tag in _MARKUP.finditer(part) if html else ():
            if tag["name"] and tag["end"]:
                del opened[-1:]
            elif tag["name"]:
                opened.append(tag)
        del opened[TAGS_MOST:]
        parts.append(part + "".join(f"</{tag['name']}>" for tag in reversed(opened)))
    return [part for part in parts if (plain(part) if html else part).strip()]


def _cut(text: str, most: int) -> int:
    end = min(most, len(text))
    while (excess := units(text[:end]) - most) > 0:
        end -= (excess + 1) // 2
    if end == len(text):
        return end
    found = text.rfind("\n", end // 2, end)
    end = (found if found >= 0 else text.rfind(" ", end // 2, end)) + 1 or end
    whole = (at for at in range(end, max(0, end - 64), -1) if not _joined(text, at))
    return next(whole, end)


def _outside_tags(text: str, end: int) -> int:
    """`end`, or the start of the tag or reference through which a cut there would go."""
    for tag in _MARKUP.finditer(text, 0, end + _LONGEST_TAG):
        if tag.end() > end:
            return min(end, tag.start()) or end
    return end


def _joined(text: str, at: int) -> bool:
    """Whether the characters on both sides of `at` are parts of what a reader sees as one."""
    import unicodedata

    char, following = text[at - 1], text[at]
    if _is_flag_half(char) and _is_flag_half(following):
        halves = itertools.takewhile(_is_flag_half, reversed(text[:at]))
        return sum(1 for _ in halves) % 2 == 1
    skin = "\U0001f3fb" <= following <= "\U0001f3ff"
    tag = "\U000e0020" <= following <= "\U000e007f"  # in the flags of Scotland and the like
    mark = unicodedata.category(following)[0] == "M"
    return skin or tag or mark or "\u200d" in (char, following)


def _is_flag_half(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
