"""Texts: any bytes become readable, long ones are cut without breaking characters."""

import random
from pathlib import Path

import pytest

from tests.helpers import LONG, bot_rules
from tests.helpers.bot_api import BotApi
from upkeep import config, message
from upkeep.outbox import Letter
from upkeep.telegram import Post, compose

COUNT = 10_000 if LONG else 300
ALPHABETS = (
    "abc defg\n",
    "äöü ßéè\n",
    "日本語の文字 \n",
    "مرحبا بالعالم ",
    "😀👍🏽👨‍👩‍👧🇯🇵 ",
    "e\u0301o\u0308n\u0303",
    "\x00\x01\x07\x1b[31m\t\r\n\x7f\u2028\u202e",
    "<b>&amp;</b><i>x</i> 1 < 2 & 3 > 2 <module>\n",
    "_*[]()~`>#+-=|{}.!\\",
    "\ud800\udc01\udfff a",
    "\U0010ffff\ufeff\u200b ",
)


def random_text(dice: random.Random) -> str:
    alphabets = dice.sample(ALPHABETS, dice.randint(1, 4))
    pieces, size = [], dice.choice((10, 200, 4000, 9000, 50_000))
    while sum(map(len, pieces[-1:])) < 1 or len("".join(pieces)) < size:
        alphabet = dice.choice(alphabets)
        pieces.append("".join(dice.choices(alphabet, k=dice.randint(1, max(2, size // 3)))))
    return "".join(pieces)[:size]


def test_every_text_becomes_messages_that_the_server_takes_with_nothing_lost() -> None:
    dice = random.Random(4)
    for _ in range(COUNT):
        text = message.clean(random_text(dice))
        parts = message.split(text)
        assert "".join("".join(parts).split()) == "".join(text.split())
        for part in parts:
            style = dice.choice(("", "pre", "bold"))
            content = compose([Letter("1", part, style=style)], 0.0)
            request = {"chat_id": "1", **content}
            assert bot_rules.refusal("sendMessage", request) is None
            assert content["text"].startswith(part)


def test_a_cut_is_made_at_a_line_end_or_a_blank() -> None:
    lines = "".join(f"line number {number}\n" for number in range(500))
    assert all(part.endswith("\n") for part in message.split(lines))
    words = "word " * 2000
    assert all(part.endswith(" ") for part in message.split(words))


def test_html_of_any_kind_arrives_formatted_or_as_it_was_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over real requests: what the server cannot parse is sent once more without formatting."""
    dice = random.Random(5)
    with BotApi() as api:
        for name, value in api.env.items():
            monkeypatch.setenv(name, value)
        post = Post(config.Config(file=home / "upkeep.toml", state=home / "var"))
        for _ in range(COUNT // 20):
            pieces = dice.choices(HTML, k=dice.choice((1, 5, 30)))
            source = message.clean("x" + "".join(pieces))
            letters = post.write(Letter(text=source, style="HTML"))
            post.flush()
            assert [post.fate(each)[0] for each in letters] == [0] * len(letters)
            sent = api.messages[-len(letters) :]
            if len(letters) == 1 and sent[0].get("parse_mode") != "HTML":
                assert bot_rules.parse_html(source) is None
            shown = "".join(each["text"].rpartition("\n")[0] for each in sent)
            assert "".join(shown.split()) == "".join(source.split())


HTML = (*ALPHABETS, "<b>", "</b>", "<i>bold</i>", "<pre>", "</pre>", '<a href="http://x">', "</a>")


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        (b"caf\xe9", "caf�"),
        ("\udcff\ud800", "��"),
        ("a\x00b\x1b[31m", "a b [31m"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("😀", "😀"),
    ],
)
def test_any_bytes_become_readable(given: str | bytes, cleaned: str) -> None:
    assert message.clean(given) == cleaned
