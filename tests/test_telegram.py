"""Delivery: outages, kills, limits, refusals, against the stand-in of the Bot API."""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import LONG, ROOT, run_script, wait_until
from tests.helpers.bot_api import BotApi
from upkeep import config
from upkeep.account import parse_chat
from upkeep.alerts import Alerts
from upkeep.digest import choose, compose
from upkeep.errors import Exit
from upkeep.outbox import Letter
from upkeep.settings import TelegramSettings
from upkeep.telegram import Post, check, send

NOW = 1_800_000_000.0


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch):
    with BotApi() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


def settings(home: Path, **telegram: float) -> config.Config:
    quick = {"connect_timeout": 2.0, "timeout": 2.0, "budget": 20.0, **telegram}
    made = TelegramSettings(**quick)  # type: ignore[arg-type]
    return config.Config(file=home / "upkeep.toml", state=home / "var", telegram=made)


def toml(home: Path, budget: str = "15s") -> Path:
    file = home / "upkeep.toml"
    file.write_text(f'[telegram]\nconnect_timeout = "2s"\ntimeout = "2s"\nbudget = "{budget}"\n')
    return file


class Clock:
    """Time that a test sets; between that it goes on."""

    def __init__(self) -> None:
        self.now, self._begun = NOW, time.monotonic()

    def __call__(self) -> float:
        return self.now + time.monotonic() - self._begun


@pytest.mark.parametrize("fault", ["502", "reset", "never_answer", "portal"])
def test_an_outage_of_six_hours_loses_nothing(home: Path, api: BotApi, fault: str) -> None:
    """300 alerts in six hours; a flush every two minutes; the clock is a parameter."""
    clock = Clock()
    quick = settings(home, timeout=0.1, connect_timeout=0.5, tries=1)
    api.always = fault
    for number in range(300):
        clock.now += 72
        post = Post(quick, clock)
        post.write(Letter("", f"alert number {number:03}", ttl=86400.0))
        if number % 2 or LONG:
            post.flush()
    api.always = "ok"
    clock.now += 1300
    begun = time.monotonic()
    Post(quick, clock).flush()
    assert time.monotonic() - begun < 30
    assert len(api.messages) <= 8
    found = re.findall(r"alert number (\d+)", "\n".join(api.texts))
    assert found == sorted(found)
    assert sorted(set(map(int, found))) == list(range(300))
    assert len(found) == 300
    assert Post(quick, clock).outbox.paths() == []
    first = time.strftime("[%m-%d %H:%M] ", time.localtime(NOW + 72))
    assert f"{first}alert number 000" in api.texts[0]


def test_no_accepted_alert_is_lost_by_kills_and_every_repeat_is_marked(
    home: Path, api: BotApi
) -> None:
    """Senders are killed at random instants; those whose file was on the disk must arrive."""
    storm = 300 if LONG else 24
    file, dice = toml(home), random.Random(11)
    for number in range(0, storm, 6):
        senders = [
            subprocess.Popen(
                [sys.executable, ROOT / "bin/telegram_alert.py", f"storm {each}", "--config", file],
                env={**os.environ},
                stderr=subprocess.DEVNULL,
            )
            for each in range(number, number + 6)
        ]
        for sender in senders:
            threading.Timer(dice.uniform(0.05, 0.9), sender.send_signal, [signal.SIGKILL]).start()
        for sender in senders:
            sender.wait()
    accepted = set()
    for place in (home / "var/outbox/new").iterdir():
        if not place.name.startswith("."):
            accepted.add(re.findall(r"storm (\d+)", place.read_text())[0])

    def flushed() -> bool:
        run_script("telegram_alert", "--flush", "--config", file, env=api.env)
        (home / "var/outbox/breaker.json").unlink(missing_ok=True)
        return Post(settings(home)).outbox.paths() == []

    wait_until(flushed, timeout=120)
    assert list((home / "var/outbox").glob("dead/*")) == []
    lines = [line for text in api.texts for line in text.split("\n") if "storm" in line]
    delivered = Counter(re.findall(r"storm (\d+)", "\n".join(lines)))
    assert accepted <= set(delivered)
    assert max(delivered.values()) <= 3
    for number, times in delivered.items():
        marked = [line for line in lines if f"storm {number} (may be a repeat)" in line]
        assert len(marked) >= times - 1


def test_a_rate_limit_is_kept_across_processes_and_never_shortened(home: Path, api: BotApi) -> None:
    api.script("429:3600")
    file = toml(home)
    done = run_script("telegram_alert", "one", "--config", file, env=api.env)
    assert done.returncode == 5
    assert "retry after 3600; not asked again before" in done.stderr
    for _ in range(3):
        assert run_script("telegram_alert", "x", "--config", file, env=api.env).returncode == 5
    assert len(api.requests) == 1
    clock = Clock()
    clock.now = time.time() + 3590
    Post(settings(home), clock).flush()
    assert len(api.requests) == 1
    clock.now = time.time() + 3605
    Post(settings(home), clock).flush()
    assert [len(api.sends), "4 messages, up to 1 h" in api.texts[0]] == [2, True]
    assert Post(settings(home)).outbox.paths() == []


@pytest.mark.parametrize("fault", ["429:172801", f"429:{10**300}", "429_html"])
def test_a_limit_beyond_all_measure_is_asked_once(home: Path, api: BotApi, fault: str) -> None:
    api.always = fault
    post = Post(settings(home))
    letters = [post.write(Letter("", text))[0] for text in "xyz"]
    post.flush()
    Post(settings(home)).flush()
    assert len(api.requests) == 1
    assert {post.fate(each)[0] for each in letters} == {Exit.LATER}


def test_a_short_rate_limit_is_waited_for_and_costs_no_try(home: Path, api: BotApi) -> None:
    api.script(*["429:1"] * 4)
    post = Post(settings(home))
    letters = post.write(Letter("", "x"))
    post.flush()
    assert post.fate(letters[0]) == (Exit.DONE, "")
    times = [each["time"] for each in api.sends]
    assert all(later - sooner >= 0.99 for sooner, later in itertools.pairwise(times))


def test_a_lost_answer_is_repeated_once_and_marked(home: Path, api: BotApi) -> None:
    api.script("drop")
    post = Post(settings(home))
    post.write(Letter("", "x"))
    post.flush()
    assert [text.split("\n")[0] for text in api.texts] == ["x", "x (may be a repeat)"]


@pytest.mark.parametrize(("fault", "most"), [("drop", 1), ("drop_sends", 2), ("never_answer", 0)])
def test_lost_answers_cost_two_deliveries_at_most(
    home: Path, api: BotApi, fault: str, most: int
) -> None:
    """Before it is repeated, something harmless has to be answered."""
    clock, api.always = Clock(), fault
    for _ in range(5):
        clock.now += 3600
        post = Post(settings(home, timeout=0.3), clock)
        if not api.sends:
            letter = post.write(Letter("", "x"))[0]
        post.flush()
    assert [len(api.messages), len(api.sends) <= 2] == [most, True]
    code, why = post.fate(letter)
    assert (code, "twice" in why) == ((1, True) if fault == "drop_sends" else (5, False))


def test_a_mark_outlives_a_refused_connection(
    home: Path, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed sender left it; that the next one did not get through takes nothing back."""
    post = Post(settings(home, tries=1))
    post.outbox.mark(post.write(Letter("", "x")), maybe=True)
    monkeypatch.setenv("TELEGRAM_API_BASE", "http://127.0.0.1:9")  # nobody listens there
    Post(settings(home, tries=1)).flush()
    monkeypatch.setenv("TELEGRAM_API_BASE", api.base)
    (home / "var/outbox/breaker.json").unlink()
    Post(settings(home)).flush()
    assert [text.split("\n")[0] for text in api.texts] == ["x (may be a repeat)"]


def test_a_group_gets_no_more_than_it_takes_in_a_minute(home: Path, api: BotApi) -> None:
    clock = Clock()
    (home / "var/outbox").mkdir(parents=True, mode=0o700)
    sent = {"-100": {"free_at": NOW + 57.0}}
    (home / "var/outbox/sent.json").write_text(json.dumps(sent))
    post = Post(settings(home), clock)
    letters = [post.write(Letter(chat, "x"))[0] for chat in ("-100", "4242")]
    post.flush()
    assert [each["chat_id"] for each in api.messages] == ["4242"]
    assert post.fate(letters[0])[0] == Exit.LATER
    assert "no more messages in this minute" in post.fate(letters[0])[1]
    assert not (home / "var/outbox/breaker.json").exists()
    clock.now += 41
    Post(settings(home), clock).flush()
    assert [each["chat_id"] for each in api.messages] == ["4242", "-100"]


def test_after_a_failure_something_harmless_is_asked_first(home: Path, api: BotApi) -> None:
    clock, api.always = Clock(), "502"
    post = Post(settings(home, tries=1), clock)
    letter = post.write(Letter("", "x"))[0]
    post.flush()
    api.always = "429:500"
    clock.now += 100
    post.flush()
    assert [each["method"] for each in api.requests] == ["sendMessage", "getMe"]
    assert "retry after 500; not asked again before" in post.fate(letter)[1]
    clock.now += 499
    post.flush()
    assert len(api.requests) == 2
    api.always = "ok"
    clock.now += 2
    post.flush()
    assert [each["method"] for each in api.requests[2:]] == ["getMe", "sendMessage"]


def test_a_second_limited_chat_stops_all(
    home: Path, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEGRAM_CHAT_ID", "1,2,3")
    api.script("429:40", "429:40")
    post = Post(settings(home))
    post.write(Letter("", "x"))
    post.flush()
    assert len(api.requests) == 2


def test_a_host_sends_over_one_connection_and_nobody_waits_long(home: Path, api: BotApi) -> None:
    senders, api.always = 50 if LONG else 8, "hang"
    budget = 20 if LONG else 8
    file, begun = toml(home, budget=f"{budget}s"), time.monotonic()
    running = [
        subprocess.Popen(
            [sys.executable, ROOT / "bin/telegram_alert.py", f"x{each}", "--config", file],
            env={**os.environ},
            stderr=subprocess.DEVNULL,
        )
        for each in range(senders)
    ]
    assert {sender.wait() for sender in running} == {5}
    assert time.monotonic() - begun < (2 * budget if LONG else 60)
    assert api.most_open <= 2
    assert len(Post(settings(home)).outbox.paths()) == senders


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("403:Forbidden: bot was kicked from the group chat", 1, "kicked"),
        ("400:Bad Request: chat not found", 1, "chat not found"),
        ("400:Bad Request: something new", 1, "something new"),
        ("413:Request Entity Too Large", 1, "too large"),
        ("401:Unauthorized", 1, "the token was refused"),
        ("404:Not Found", 1, "the token was refused"),
    ],
)
def test_a_refusal_is_told_and_nothing_is_asked_again(
    home: Path, api: BotApi, fault: str, code: int, words: str
) -> None:
    api.script(fault)
    post = Post(settings(home))
    letter = post.write(Letter("", "x"))[0]
    post.flush()
    found, why = post.fate(letter)
    assert (found, len(api.requests)) == (code, 1)
    assert words in why
    if "token" not in why and "new" not in why and "large" not in why:
        Post(settings(home)).write(Letter("", "y"))
        Post(settings(home)).flush()
        assert len(api.requests) == 1


def test_one_bad_chat_among_good_ones(
    home: Path, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEGRAM_CHAT_ID", "666,4242, -1001:77")
    api.chats = ("4242", "-1001")
    post = Post(settings(home))
    letters = post.write(Letter("", "x"))
    post.flush()
    assert [post.fate(each)[0] for each in letters] == [1, 0, 0]
    assert [each["chat_id"] for each in api.messages] == ["4242", "-1001"]
    assert api.messages[1]["message_thread_id"] == "77"


def test_a_new_token_is_tried_at_once(
    home: Path, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = os.environ["TELEGRAM_BOT_TOKEN"]
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", "1:AAwrong-wrong-wrong-wrong-wrong")
    post = Post(settings(home))
    letter = post.write(Letter("", "x"))[0]
    post.flush()
    assert post.fate(letter)[0] == 1
    Post(settings(home)).flush()
    assert len(api.requests) == 1
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", good)
    Post(settings(home)).flush()
    assert len(api.messages) == 1


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        ("migrate:-100777", {"chat_id": "-100777"}),
        ("400:Bad Request: message thread not found", {"message_thread_id": None}),
        ("400:Bad Request: can't parse entities: x", {"entities": None}),
    ],
)
def test_what_another_form_mends_is_mended_in_the_same_run(
    home: Path, api: BotApi, fault: str, changed: dict[str, str | None]
) -> None:
    api.script(fault)
    post = Post(settings(home))
    post.write(Letter("4242", "a title\nx", thread="5", style="bold"))
    post.flush()
    assert len(api.sends) == 2
    assert {key: api.messages[0].get(key) for key in changed} == changed


def test_what_another_form_does_not_mend_is_refused(home: Path, api: BotApi) -> None:
    api.always = "400:Bad Request: message thread not found"
    post = Post(settings(home))
    letter = post.write(Letter("4242", "x", thread="5"))[0]
    post.flush()
    assert (len(api.sends), post.fate(letter)[0]) == (2, Exit.PROBLEM)
    assert not (home / "var/outbox/breaker.json").exists()


@pytest.mark.parametrize("style", ["", "bold", "HTML"])
def test_a_text_that_is_too_long_is_divided_in_the_same_run(
    home: Path, api: BotApi, style: str
) -> None:
    source = "".join(f"<b>line</b> {number}\n" for number in range(200))
    post = Post(settings(home))
    letter = post.write(Letter("", source, style=style))[0]
    post.write(Letter("", "behind it"))
    api.script("400:Bad Request: message is too long", "400:Bad Request: message is too long")
    post.flush()
    assert post.fate(letter) == (Exit.DONE, "")
    assert "behind it" in api.texts.pop()
    shown = "".join(text.rpartition("\n")[0] for text in api.texts)
    assert re.findall(r"> (\d+)", shown) == [str(number) for number in range(200)]
    assert {each.get("parse_mode", "") for each in api.messages} <= {"", style}


def test_a_text_that_is_always_too_long_is_refused(home: Path, api: BotApi) -> None:
    post = Post(settings(home))
    text = f"<a href='http://{'x' * 900}'>{'word ' * 500}</a>"
    letter = post.write(Letter("", text, style="HTML"))[0]
    api.always = "400:Bad Request: message is too long"
    post.flush()
    assert post.fate(letter) == (Exit.PROBLEM, "Bad Request: message is too long")
    assert (len(api.sends) < 32, post.outbox.paths()) == (True, [])


def test_a_caption_that_is_too_long_goes_alone(home: Path, api: BotApi) -> None:
    post = Post(settings(home))
    letter = Letter("", "word " * 140, upload="document", file_name="x.txt")
    api.script("400:Bad Request: message caption is too long")
    post.write(letter, b"content")
    post.flush()
    assert [each["method"] for each in api.messages] == ["sendMessage"] * 2 + ["sendDocument"]
    assert api.messages[2]["document"] == {"name": "x.txt", "bytes": b"content"}
    assert [*(home / "var/outbox/new").iterdir()] == []


def test_a_file_that_is_refused_leaves_its_text(
    home: Path, api: BotApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.script("413:Request Entity Too Large")
    post = Post(settings(home))
    post.write(Letter("", "see", upload="document", file_name="x.csv"), b"content")
    post.flush()
    assert [each["method"] for each in api.sends] == ["sendDocument", "sendMessage"]
    assert api.texts[0].startswith("see\n(x.csv could not be sent: it is too large (HTTP 413))\n")
    assert capsys.readouterr().err.count("x.csv: not sent: it is too large") == 1
    assert [*(home / "var/outbox/new").iterdir()] == []


def test_what_cannot_be_encoded_keeps_nothing_else_from_going_out(home: Path, api: BotApi) -> None:
    post = Post(settings(home))
    odd = Letter("4242", "see", upload="document", file_name="caf\udce9")
    post.outbox.put(odd, time.time(), "", b"content")
    post.write(Letter("", "behind it"))
    post.flush()
    assert [text.split("\n")[0] for text in api.texts] == ["behind it"]
    assert not (home / "var/outbox/breaker.json").exists()


def test_a_picture_that_is_refused_goes_as_a_document(home: Path, api: BotApi) -> None:
    post = Post(settings(home))
    post.write(Letter("", "x", upload="photo", file_name="x.png"), b"no picture")
    post.flush()
    assert [each["method"] for each in api.sends] == ["sendPhoto", "sendDocument"]
    assert api.messages[0]["document"] == {"name": "x.png", "bytes": b"no picture"}


def test_the_new_number_of_a_group_is_remembered(
    home: Path, api: BotApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.script("migrate:-100777")
    for text in "xy":
        post = Post(settings(home))
        post.write(Letter("-55", text))
        post.flush()
    assert [each["chat_id"] for each in api.sends] == ["-55", "-100777", "-100777"]
    assert capsys.readouterr().err.count("mend TELEGRAM_CHAT_ID") == 1


def test_html_in_a_backlog_keeps_its_format_and_without_it_shows_no_tags(
    home: Path, api: BotApi
) -> None:
    for bad in (False, True):
        post = Post(settings(home))
        post.write(Letter("", "<b>all</b> &lt;good&gt;", style="HTML"))
        post.write(Letter("", "1 < 2", style="HTML" if bad else ""))
        for number in range(8):
            post.write(Letter("", f"a < b {number}", style="bold"))
        post.flush()
    good, plain = api.messages
    assert good["parse_mode"] == "HTML" and "<b>all</b> &lt;good&gt;\n" in good["text"]
    assert "1 &lt; 2\n" in good["text"]
    assert "parse_mode" not in plain and "all <good>\n" in plain["text"]
    assert "a < b 7\n" in plain["text"]


def test_an_empty_text_of_a_program_is_told(home: Path, api: BotApi) -> None:
    file = str(toml(home))
    assert [send(text, config_file=file)[0] for text in ("", " \n", "x")] == [False, False, True]
    assert check(file) == (True, "")
    assert "the text is empty" in send("", config_file=file)[1]
    assert len(api.messages) == 1


def test_a_program_is_told_what_is_wrong_and_never_stopped(home: Path) -> None:
    file = str(toml(home))
    for good, why in (send("x", config_file=file), check(file), check(f"{home}/none")):
        assert not good
        assert "is not set" in why or "no such configuration" in why


def test_without_a_disk_the_alert_goes_out_directly(
    home: Path, api: BotApi, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "var").write_text("no directory")
    post = Post(replace(settings(home), state=home / "var/x"))
    letter = post.write(Letter("", "the disk is full"))[0]
    assert post.fate(letter) == (Exit.DONE, "")
    assert api.texts[0].startswith("the disk is full\n")
    assert "sent directly" in capsys.readouterr().err


def test_a_repeat_is_marked_also_without_a_disk(home: Path, api: BotApi) -> None:
    (home / "var").write_text("no directory")
    api.script("drop")
    Post(replace(settings(home), state=home / "var/x")).write(Letter("", "full"))
    assert [text.split("\n")[0] for text in api.texts] == ["full", "full (may be a repeat)"]


def test_without_a_disk_a_dead_api_is_tried_for_one_chat_only(
    home: Path, api: BotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEGRAM_CHAT_ID", "1,2,3")
    (home / "var").write_text("no directory")
    api.always = "502"
    post = Post(replace(settings(home), state=home / "var/x"))
    letters = post.write(Letter("", "full"))
    assert [post.fate(each)[0] for each in letters] == [Exit.PROBLEM] * 3
    assert {each["chat_id"] for each in api.sends} == {"1"}


def test_a_full_disk_delivers_what_its_outage_kept_and_forgets_no_limit(
    home: Path, api: BotApi, full: Path
) -> None:
    api.script("429:3600")
    assert send("first", config_file=str(toml(home)))[0] is False
    clock = Clock()
    clock.now = time.time()
    for text in ("second", "third"):
        post = Post(settings(home), clock)
        letter = post.write(Letter("", text))[0]
        post.flush()
        assert post.fate(letter)[0] == Exit.LATER
    assert len(api.requests) == 1
    (full / "noise").unlink()  # there is room again
    clock.now += 3700
    Post(settings(home), clock).flush()
    lines = "\n".join(api.texts).split("\n")
    assert [line[-6:].strip() for line in lines if line[:1] == "["] == ["first", "second", "third"]
    assert Post(settings(home)).outbox.paths() == []


def test_a_full_disk_keeps_no_letter_from_going_out(home: Path, api: BotApi, full: Path) -> None:
    (full / "noise").unlink()
    post = Post(settings(home))
    post.outbox.put(Letter("4242", "old", ttl=60.0), time.time() - 100)
    model = Letter("4242", "f", upload="document", file_name="f")
    post.outbox.put(model, time.time() - 100, "", b"content")
    with contextlib.suppress(OSError), (full / "noise").open("wb", 0) as file:
        while True:
            file.write(bytes(4096))
    api.script("413:too large")
    letter = post.write(Letter("", "x"))[0]
    post.flush()
    assert post.fate(letter) == (Exit.DONE, "")
    assert [text.split("\n")[0] for text in api.texts] == ["x"]
    assert len(list((full / "outbox/dead").iterdir())) == 2


def test_a_full_disk_tells_a_problem_once(home: Path, api: BotApi, full: Path) -> None:
    for _ in range(3):
        with Alerts(settings(home)) as alerts:
            alerts.problem("disk", "the disk is full")
    with Alerts(settings(home)) as alerts:
        alerts.recovered("disk", "it has room again")
    assert [text.split("\n")[0] for text in api.texts] == ["the disk is full", "it has room again"]
    assert "(2 repeats)" in api.texts[1]


def letter(number: int, chat: str = "1", text: str = "", **more: object) -> Letter:
    made = Letter(chat, text or f"text {number}", time=NOW + number)
    return replace(made, **more)  # type: ignore[arg-type]


def test_a_backlog_is_joined_and_single_messages_are_not() -> None:
    few = [letter(number) for number in range(5)]
    assert choose(few, NOW + 9, alone=False) == few[:1]
    many = [letter(number) for number in range(9)]
    assert choose(many, NOW + 9, alone=False) == many
    assert choose(many, NOW + 9, alone=True) == many[:1]
    assert choose(few, NOW + 700, alone=False) == few
    others = [letter(number, "2") for number in range(9)]
    assert choose([*few, *others], NOW + 9, alone=False) == few[:1]
    long = [letter(number, text="x" * 1500) for number in range(9)]
    assert choose(long, NOW + 9, alone=False) == long[:2]


def test_a_late_message_says_when_it_was_written() -> None:
    text = compose([letter(0)], NOW + 8000)["text"]
    when = time.strftime("[%m-%d %H:%M] text 0", time.localtime(NOW))
    assert text.split("\n")[:2] == ["1 messages, up to 2 h 13 min late", when]


def test_a_file_that_is_refused_in_a_backlog_does_not_stop_the_others(
    home: Path, api: BotApi
) -> None:
    post = Post(settings(home))
    for number in range(8):
        post.write(Letter("", f"text {number}"))
    api.script("400:Bad Request: odd", "ok", "400:Bad Request: odd")
    post.flush()
    assert [text.split("\n")[0] for text in api.texts] == [
        f"text {n}" for n in (0, 2, 3, 4, 5, 6, 7)
    ]
    assert len(list((home / "var/outbox/dead").iterdir())) == 1


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("-1001:77", ("-1001", "77")),
        (" 5 ", ("5", "9")),
        ("@ops", ("@ops", "9")),
        ("5:1", ("5", "")),
    ],
)
def test_chats_and_threads(given: str, found: tuple[str, str]) -> None:
    assert parse_chat(given, "9") == found
