"""What goes out as one message, and how it reads: one letter, or of a backlog as many as fit."""

import itertools
import json
import os
import time
from html import escape
from typing import Any

from upkeep import message, units
from upkeep.outbox import Letter

BACKLOG_LETTERS = 6
BACKLOG_SECONDS = 600.0
FRAME_UNITS = 40  # around the text of each letter of a backlog: its time and a mark


def choose(waiting: list[Letter], now: float, alone: bool) -> list[Letter]:
    """The first letter; of a backlog all that fit into one message to the same chat and thread."""
    first = waiting[0]
    same = [each for each in waiting if (each.chat, each.thread) == (first.chat, first.thread)]
    same = list(itertools.takewhile(lambda each: not each.upload, same))
    if alone or (len(same) < BACKLOG_LETTERS and first.age(now) < BACKLOG_SECONDS):
        return [first]
    sizes = itertools.accumulate(message.units(each.text) + FRAME_UNITS for each in same)
    fitting = sum(size <= message.TEXT_MOST for size in sizes)
    return same[:fitting] or [first]


def compose(batch: list[Letter], now: float, formatted: bool = True) -> dict[str, Any]:
    """The fields of sendMessage: what is late has its own time, what may be a repeat says so."""
    html = formatted and any(letter.style == "HTML" for letter in batch)
    first, age = batch[0], batch[0].age(now)
    late = len(batch) > 1 or age >= BACKLOG_SECONDS
    lines = [f"{len(batch)} messages, up to {units.format_duration(age)} late"] if late else []
    lines += [_line(letter, html, late) for letter in batch]
    number = first.stem[-4:] or "unstored"
    content = {
        "chat_id": first.chat,
        "message_thread_id": first.thread,
        "disable_notification": all(letter.silent for letter in batch),
        "link_preview_options": {"is_disabled": True},
        "text": "\n".join([*lines, f"{os.uname().nodename} | #{number}"]),
    }
    length = message.units(first.text if first.style == "pre" else first.text.partition("\n")[0])
    if html:
        content["parse_mode"] = "HTML"
    elif formatted and first.style in ("bold", "pre") and length and not late:
        content["entities"] = [{"type": first.style, "offset": 0, "length": length}]
    return content


def caption(content: dict[str, Any]) -> dict[str, Any]:
    """The same fields for sendDocument and sendPhoto, which take a form instead of JSON."""
    entities = json.dumps(content.pop("entities", None) or [])
    del content["link_preview_options"]
    text = content.pop("text")
    return {**content, "caption": text, "caption_entities": entities}


def _line(letter: Letter, html: bool, late: bool) -> str:
    body = letter.text
    if html and letter.style != "HTML":
        body = escape(body)
    elif letter.style == "HTML" and not html:
        body = message.plain(body)
    when = time.strftime("[%m-%d %H:%M] ", time.localtime(letter.time)) if late else ""
    return when + body + (" (may be a repeat)" if letter.maybes else "")
