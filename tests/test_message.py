"""Texts: any bytes become readable, long ones are cut without breaking characters."""

import random
from pathlib import Path

import pytest

from tests.helpers import LONG, bot_rules
from tests.helpers.bot_api import BotApi
from upkeep import config, message
from upkeep.digest import compose
from upkeep.outbox import Letter
from upkeep.telegram import Post

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
    """Over real requests: what the server cannot parse is sent once more without its tags."""
    dice = random.Random(5)
    with BotApi() as api:
        for name, value in api.env.items():
            monkeypatch.setenv(name, value)
        post = Post(config.Config(file=home / "upkeep.toml", state=home / "var"))
        for _ in range(COUNT // 20):
            pieces = dice.choices(HTML, k=dice.choice((1, 5, 30)))
            source = message.clean("x" + "".join(pieces))
            letters = post.write(Letter(text=source, style="HTML"))
            (home / "var/outbox/sent.json").unlink(missing_ok=True)  # no time is spent on pacing
            post.flush()
            assert [post.fate(each)[0] for each in letters] == [0] * len(letters)
            sent = api.messages[-len(letters) :]
            if len(letters) == 1 and sent[0].get("parse_mode") != "HTML":
                assert bot_rules.parse_html(source) is None
            shown = "".join(map(visible, sent))
            assert "".join(shown.split()) == "".join(message.plain(source).split())


def visible(sent: dict[str, str]) -> str:
    """What a reader sees of a message that was accepted, without its last line."""
    text = sent["text"].rpartition("\n")[0]
    return bot_rules.parse_html(text) or "" if sent.get("parse_mode") else text


def test_long_html_is_cut_between_its_tags() -> None:
    dice = random.Random(6)
    words = ("word ", "&lt;tag&gt; ", "ä😀 ", "line\n", '<a href="http://x/?a&amp;b">link</a> ')
    for _ in range(COUNT):
        pieces = []
        for _ in range(dice.randint(1, 12)):
            inner = "".join(dice.choices(words, k=dice.randint(1, 300)))
            pieces.append(dice.choice(("{}", "<b>{}</b>", "<i><u>{}</u></i>")).format(inner))
        source = "".join(pieces)
        parts = message.split(source, html=True)
        seen = [bot_rules.parse_html(part) for part in parts]
        assert None not in seen
        assert all(message.units(each or "") <= message.TEXT_MOST for each in seen)
        assert "".join(map(str, seen)).split() == message.plain(source).split()
        assert message.plain(source) == bot_rules.parse_html(source)


def test_what_stands_in_quotes_ends_no_tag() -> None:
    link = '<a href="http://x/?a>b">link</a> '
    assert message.plain(link * 2) == "link link "
    for shift in range(40):
        source = "x" * shift + link * 300
        parts = message.split(source, html=True)
        assert len(parts) > 1
        assert "".join(bot_rules.parse_html(part) or "torn" for part in parts).split() == [
            "x" * shift + "link",
            *["link"] * 299,
        ]


def test_the_ends_of_a_text_are_cut_between_characters() -> None:
    text = f"first {FLAG * 5000} last"
    shown = message.ends(text, 100, 50)
    head, tail = shown.split("\n[...]\n")
    assert (head[:6], tail[-5:]) == ("first ", " last")
    assert head.removeprefix("first ").replace(FLAG, "") == ""
    assert tail.removesuffix(" last").replace(FLAG, "") == ""
    assert message.units(shown) <= 160


def test_tags_that_are_never_closed_make_no_part_grow() -> None:
    parts = message.split("<b>x" * 100_000, html=True)
    assert max(map(len, parts)) < 2 * message.TEXT_MOST


def test_what_only_looks_like_markup_stays() -> None:
    assert (
        message.plain("a < b &amp; <module> <b>x</b>&lt;i&gt; &copy;")
        == "a < b & <module> x<i> &copy;"
    )


def test_a_reference_to_no_character_stays() -> None:
    endless = f"&#{'1' * 5000};"
    assert message.plain(f"<b>{endless}</b> &#65;&#x42;") == f"{endless} AB"


FLAG = "\U0001f1ef\U0001f1f5"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
FAMILY = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"


@pytest.mark.parametrize(
    "char",
    [FAMILY, "e\u0301\u0323", "\N{THUMBS UP SIGN}\U0001f3fd", "☎\ufe0f", FLAG, SCOTLAND],
)
@pytest.mark.parametrize("shift", range(4))
def test_no_cut_goes_through_what_is_seen_as_one(char: str, shift: int) -> None:
    text = "x" * shift + char * 3000
    parts = message.split(text)
    assert "".join(parts) == text
    assert all(len(part.lstrip("x")) % len(char) == 0 for part in parts)
    assert len(message.split("a" + "\u0301" * 9000)) == 3


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
