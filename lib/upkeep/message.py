"""The text of a message: any bytes made readable, simple HTML, formatting, parts that fit.

Formatting is kept as entities, never as markup, so that the Bot API has nothing to parse and
nothing to reject. Offsets count code points here and UTF-16 units on the wire (`for_api`).
"""

import re
from typing import Any, NamedTuple

Entity = dict[str, Any]  # type, offset, length, and url or language

# Of the 4096 UTF-16 units of a text, and the 1024 of a caption, some stay free for the lines that
# are added when it is sent.
TEXT_MOST = 3800
CAPTION_MOST = 800
_MOST_PARTS = 4
_DROPPED = dict.fromkeys([0x0D, *range(0x2028, 0x202F)])  # the server drops these, too
_BLANKED = dict.fromkeys([*(c for c in range(32) if c not in (9, 10, 13)), 0x7F], " ")

_TAG = re.compile(r"<(/?)([a-z-]+)((?:\s[^<>]*)?)>", re.IGNORECASE)
_ESCAPE = re.compile(r"&(?:(lt|gt|amp|quot)|#(\d{1,7})|#x([0-9a-f]{1,6}));", re.IGNORECASE)
_NAMED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}
_ATTRIBUTE = re.compile(r"""(?:href|class)\s*=\s*["']?(?:language-)?([^"'\s]+)""", re.IGNORECASE)
_TYPES = {
    **dict.fromkeys(("b", "strong"), "bold"),
    **dict.fromkeys(("i", "em"), "italic"),
    **dict.fromkeys(("u", "ins"), "underline"),
    **dict.fromkeys(("s", "strike", "del"), "strikethrough"),
    **dict.fromkeys(("tg-spoiler", "span"), "spoiler"),
    **{"code": "code", "pre": "pre", "blockquote": "blockquote", "a": "text_link"},
}


class Rich(NamedTuple):
    """A text and its formatting; entities may nest but never overlap otherwise."""

    text: str
    entities: list[Entity]


def clean(text: str | bytes) -> str:
    """`text` as the server can take it: no invalid UTF-8, no controls but tab and newline."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return valid.translate(_DROPPED).translate(_BLANKED)


def whole(text: str, kind: str = "") -> Rich:
    """`text`, all of it formatted as `kind` ("bold", "pre"; "": plain)."""
    text = clean(text)
    return Rich(text, [{"type": kind, "offset": 0, "length": len(text)}] if kind and text else [])


def joined(*pieces: Rich) -> Rich:
    """The pieces, one behind the other."""
    entities, length = [], 0
    for piece in pieces:
        entities += [{**each, "offset": each["offset"] + length} for each in piece.entities]
        length += len(piece.text)
    return Rich("".join(piece.text for piece in pieces), entities)


def report(title: str, body: Rich) -> Rich:
    """A bold title line above `body`; either may be empty."""
    newline = whole("\n" if title and body.text else "")
    return joined(whole(title, "bold"), newline, body)


def from_html(source: str) -> Rich:
    """Read the HTML of the Bot API (core.telegram.org/bots/api#html-style).

    What it does not know, an unknown tag or a stray < or &, is text and stays as it is written.
    """
    made: list[Rich] = []
    entities: list[Entity] = []
    opened: list[tuple[str, Entity]] = []
    length = position = 0
    for tag in [*_TAG.finditer(source), None]:
        end = tag.start() if tag else len(source)
        text = clean(_ESCAPE.sub(_unescaped, source[position:end]))
        names = [name for name, _ in opened]
        if tag and _unknown(tag, names):
            text += clean(tag[0])
        made.append(Rich(text, []))
        length += len(text)
        position = tag.end() if tag else end
        if tag and not _unknown(tag, names) and not tag[1]:
            opened.append((tag[2].lower(), _entity(tag, length)))
        elif not tag or not _unknown(tag, names):
            last = names[::-1].index(tag[2].lower()) + 1 if tag else len(opened)
            for _ in range(last):
                _close(opened, entities, length)
    entities.sort(key=lambda each: (each["offset"], -each["length"]))
    return Rich(joined(*made).text, entities)


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return _NAMED[match[1].lower()]
    code = int(match[2]) if match[2] else int(match[3], 16)
    return chr(code) if code <= 0x10FFFF else match[0]


def _unknown(tag: re.Match[str], opened: list[str]) -> bool:
    name = tag[2].lower()
    return name not in opened if tag[1] else name not in _TYPES


def _entity(tag: re.Match[str], offset: int) -> Entity:
    entity: Entity = {"type": _TYPES[tag[2].lower()], "offset": offset}
    value = _ATTRIBUTE.search(tag[3])
    if entity["type"] == "text_link":
        entity["url"] = clean(value[1]) if value else ""
    elif value and entity["type"] in ("pre", "code"):
        entity["language"] = clean(value[1])
    return entity


def _close(opened: list[tuple[str, Entity]], entities: list[Entity], end: int) -> None:
    """End the innermost open tag. Nothing nests in code or pre; their inner language is kept."""
    _, entity = opened.pop()
    entity["length"] = end - entity["offset"]
    outer = next((each for name, each in opened if name in ("pre", "code")), None)
    if outer:
        outer.update({key: entity[key] for key in ("language",) if key in entity})
    elif entity["length"]:
        entities.append(entity)


def units(text: str) -> int:
    """The length of `text` in UTF-16 units."""
    return len(text) + sum(char > "\uffff" for char in text)


def for_api(rich: Rich) -> list[Entity]:
    """The entities of `rich` with offsets in UTF-16 units; more than 100 the server ignores."""
    return [
        {
            **each,
            "offset": units(rich.text[: each["offset"]]),
            "length": units(rich.text[each["offset"] : each["offset"] + each["length"]]),
        }
        for each in rich.entities[:100]
    ]


def cut(rich: Rich, start: int, end: int) -> Rich:
    """The part of `rich` from code point `start` to `end`, formatted as it was."""
    kept = []
    for each in rich.entities:
        left, right = max(each["offset"], start), min(each["offset"] + each["length"], end)
        if left < right:
            kept.append({**each, "offset": left - start, "length": right - left})
    return Rich(rich.text[start:end], kept)


def split(rich: Rich, most: int = TEXT_MOST) -> list[Rich]:
    """`rich` in parts of at most `most` UTF-16 units, cut at line ends or blanks if possible."""
    parts, start = [], 0
    while start < len(rich.text):
        end = _cut_at(rich.text, start, most)
        parts.append(cut(rich, start, end))
        start = end
    return [part for part in parts if part.text.strip()]


def _cut_at(text: str, start: int, most: int) -> int:
    end = min(start + most, len(text))
    while (excess := units(text[start:end]) - most) > 0:
        end -= (excess + 1) // 2
    if end == len(text):
        return end
    half = start + (end - start) // 2
    for separator in ("\n", " "):
        found = text.rfind(separator, half, end)
        if found >= 0:
            return found + 1
    whole_end = end
    while whole_end > half and _glued(text[whole_end - 1], text[whole_end]):
        whole_end -= 1
    return whole_end if whole_end > half else end


def _glued(before: str, after: str) -> bool:
    """Whether two characters are one on the screen: accents, joined emoji, skin tones, flags."""
    import unicodedata

    joins = unicodedata.combining(after) or unicodedata.category(after) in ("Mn", "Me", "Mc", "Cf")
    tones_or_flags = "\U0001f3fb" <= after <= "\U0001f3ff" or "\U0001f1e6" <= after <= "\U0001f1ff"
    return bool(joins) or before == "\u200d" or tones_or_flags


def too_long(rich: Rich) -> bool:
    """Whether `rich` is so long that it goes as a document, with only its ends as the text."""
    return len(rich.text) > TEXT_MOST and len(split(rich)) > _MOST_PARTS


def ends(rich: Rich) -> Rich:
    """The beginning and the end of a long text, as one part."""
    first = cut(rich, 0, _cut_at(rich.text, 0, 3000))
    size = len(rich.text)
    last = cut(rich, size - 300, size)
    return joined(first, whole("\n[...]\n"), last)
