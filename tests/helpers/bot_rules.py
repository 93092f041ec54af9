"""The Bot API's rules on messages, as strict as the server applies them.

Written from core.telegram.org/bots/api and from TDLib's MessageContent.cpp and MessageEntity.cpp:
lengths count code points, entity offsets count UTF-16 units, blanks only is no text.
"""

import html
import json
import re
from typing import Any

TEXT_MOST = 4096
CAPTION_MOST = 1024
RAW_MOST_BYTES = 32768
DOCUMENT_MOST_BYTES = 50_000_000
PHOTO_MOST_BYTES = 10_000_000
HTML_TAG = re.compile(
    r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)((?:\s+[a-zA-Z-]+(?:=(?:\"[^\"]*\"|'[^']*'|[^\s>]*))?)*)\s*>"
)
HTML_TAGS = {"a", "b", "strong", "i", "em", "s", "strike", "del", "u", "ins", "span"}
HTML_TAGS |= {"tg-spoiler", "code", "pre", "blockquote"}
NEVER_NESTED = {"pre", "code", "custom_emoji"}


def refusal(method: str, request: dict[str, Any]) -> str | None:
    """Why the server would answer 400 to `method` with these fields; None when it would not."""
    if not request.get("chat_id"):
        return "chat_id is empty"
    if method == "sendMessage":
        return _bad_text(request, "text", "entities", TEXT_MOST)
    if method in ("sendDocument", "sendPhoto"):
        kind = method.removeprefix("send").lower()
        upload = request.get(kind)
        if not isinstance(upload, dict) or not upload["bytes"]:
            return "file must be non-empty"
        if len(upload["bytes"]) > (DOCUMENT_MOST_BYTES if kind == "document" else PHOTO_MOST_BYTES):
            return "file is too big"
        if kind == "photo" and not upload["bytes"].startswith((b"\x89PNG", b"\xff\xd8")):
            return "IMAGE_PROCESS_FAILED"
        if request.get("caption"):
            return _bad_text(request, "caption", "caption_entities", CAPTION_MOST)
        return None
    return "method not found"


def _bad_text(request: dict[str, Any], key: str, entities_key: str, most: int) -> str | None:
    text = request.get(key, "")
    if not isinstance(text, str) or not text:
        return "message text is empty"
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return "strings must be encoded in UTF-8"
    if len(raw) > RAW_MOST_BYTES:
        return "text is too long"
    if request.get("parse_mode") == "HTML":
        text = parse_html(text)
        if text is None:
            return "can't parse entities: unsupported, unmatched or unclosed tag"
    elif request.get("parse_mode"):
        return "unsupported parse_mode"
    if not clean(text):
        return "text must be non-empty"
    if len(text) > most:
        return "message is too long" if key == "text" else "message caption is too long"
    entities = request.get(entities_key) or []
    if isinstance(entities, str):
        entities = json.loads(entities)
    return bad_entities(text, entities)


def parse_html(source: str) -> str | None:
    """The visible text of `source`; None where TDLib's parse_html would refuse it."""
    visible, opened, position = [], [], 0
    for found in re.finditer("<", source):
        if found.start() < position:
            continue
        visible.append(html_text(source[position : found.start()]))
        tag = HTML_TAG.match(source, found.start())
        if not tag or tag[2].lower() not in HTML_TAGS:
            return None
        position = tag.end()
        if not tag[1]:
            opened.append(tag[2].lower())
        elif not opened or opened.pop() != tag[2].lower():
            return None
    return None if opened else "".join([*visible, html_text(source[position:])])


def html_text(text: str) -> str:
    """`text` with the only four named references that the server knows, and numbers, replaced."""
    return re.sub(r"&(?:lt|gt|amp|quot|#\d+|#x[0-9a-fA-F]+);", lambda m: html.unescape(m[0]), text)


def bad_entities(text: str, entities: list[dict[str, Any]]) -> str | None:
    """Why `entities` do not fit `text`; None when they do."""
    units = text.encode("utf-16-le")
    spans: list[tuple[int, int, str]] = []
    for each in entities:
        start, length = each["offset"], each["length"]
        end = start + length
        if not (isinstance(start, int) and start >= 0 and length > 0 and end * 2 <= len(units)):
            return f"entity beyond the text: {each}"
        for cut in (start, end):
            if cut * 2 < len(units) and 0xDC <= units[cut * 2 + 1] <= 0xDF:
                return f"entity cuts a surrogate pair: {each}"
        spans.append((start, end, each["type"]))
    for one in spans:
        for other in spans:
            if one[0] < other[0] < one[1] < other[1]:
                return f"entities overlap: {one} {other}"
            inside = one is not other and one[0] <= other[0] and other[1] <= one[1]
            if inside and NEVER_NESTED & {one[2]}:
                return f"entity inside {one[2]}: {one} {other}"
    return None


def clean(text: str) -> str:
    """What the server keeps of a text: controls become blanks, both ends are trimmed."""
    dropped = {0x0D, *range(0x2028, 0x202F)}
    kept = (char for char in text if ord(char) not in dropped)
    blanked = (" " if ord(char) < 32 and char != "\n" else char for char in kept)
    return "".join(blanked).strip()
