"""bin/telegram_alert.py against the stand-in of the Bot API."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT, run_script
from tests.helpers.bot_api import TOKEN, BotApi
from upkeep import telegram


@pytest.fixture
def config(home: Path) -> Path:
    file = home / "upkeep.toml"
    file.write_text('[telegram]\nconnect_timeout = "2s"\ntimeout = "2s"\nbudget = "15s"\n')
    return file


def waiting(home: Path) -> list[str]:
    place = home / "var" / "outbox" / "new"
    return [each.name for each in place.iterdir()] if place.is_dir() else []


def test_a_message_is_delivered_and_leaves_the_outbox(home: Path, config: Path) -> None:
    with BotApi() as api:
        done = run_script("telegram_alert", "disk <full>", "--config", config, env=api.env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert api.texts[0].startswith("disk <full>\n")
    assert waiting(home) == []


def test_a_failed_send_is_queued_and_delivered_by_a_later_flush(home: Path, config: Path) -> None:
    with BotApi() as api:
        api.always = "reset"
        done = run_script("telegram_alert", "lost?", "--config", config, env=api.env)
        assert done.returncode == 5
        assert len(waiting(home)) == 1
        (home / "var/outbox/breaker.json").unlink()
        api.always = "ok"
        done = run_script("telegram_alert", "--flush", "--config", config, env=api.env)
        assert (done.returncode, done.stderr) == (0, "")
    assert api.texts[0].startswith("lost?")
    assert waiting(home) == []


def alert(*args: str | Path, config: Path, api: BotApi, **more: object):
    return run_script("telegram_alert", "--config", config, *args, env=api.env, **more)


def test_repeats_of_a_key_are_counted_and_its_end_is_told(config: Path) -> None:
    with BotApi() as api:
        for _ in range(3):
            done = alert("--key", "db1", "db1 is down", config=config, api=api)
            assert (done.returncode, done.stderr) == (0, "")
        assert len(api.messages) == 1
        done = alert("--key", "db1", "--repeat-after", "0", "still down", config=config, api=api)
        assert "repeated 3x since 20" in api.texts[1]
        for _ in range(2):
            assert alert("--resolve", "db1", "db1 is back", config=config, api=api).returncode == 0
        assert len(api.messages) == 3
        assert "recovered after" in api.texts[2]
        assert api.messages[2]["disable_notification"] is True
        assert "disable_notification" not in api.messages[0]


def test_durations_beyond_all_measure_are_none_too_many(config: Path) -> None:
    endless = "9000000000000d"
    with BotApi() as api:
        args = ("--key", "k", "--repeat-after", endless, "--budget", endless, "--ttl", endless)
        for _ in range(2):
            done = alert(*args, "x", config=config, api=api)
            assert (done.returncode, done.stderr) == (0, "")
    assert len(api.messages) == 1


def test_a_chat_with_a_minus_and_a_thread(config: Path) -> None:
    with BotApi() as api:
        done = alert("--chat", "-1001234:77", "hello", config=config, api=api)
        assert done.returncode == 0
        done = alert("--chat", "nonsense!", "hello", config=config, api=api)
        assert (done.returncode, "expected a chat" in done.stderr) == (2, True)
    assert (api.messages[0]["chat_id"], api.messages[0]["message_thread_id"]) == ("-1001234", "77")


def test_check_says_that_all_is_good_and_sends_a_silent_message(config: Path) -> None:
    with BotApi() as api:
        done = alert("--check", config=config, api=api)
    assert (done.returncode, done.stdout) == (0, "token: good\nchat 4242: good\n")
    assert api.messages[0]["disable_notification"] is True


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("502", "network: the server failed (HTTP 502)"),
        ("portal", "network: HTTP 200 from something that is not the Bot API"),
        ("429:90", "network: Too Many Requests: retry after 90"),
        (
            "401:Unauthorized",
            "token: the token was refused (Unauthorized): mend TELEGRAM_BOT_TOKEN",
        ),
    ],
)
def test_check_has_one_line_for_what_is_wrong(config: Path, fault: str, line: str) -> None:
    with BotApi() as api:
        api.always = fault
        done = alert("--check", config=config, api=api)
    assert (done.returncode, done.stdout, done.stderr) == (1, f"{line}\n", "")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("400:Bad Request: chat not found", "mend TELEGRAM_CHAT_ID, or write to the bot first"),
        ("403:Forbidden: bot is not a member of the channel chat", "add the bot to the group"),
        ("403:Forbidden: bot was kicked from the group chat", "add the bot to the group again"),
        ("403:Forbidden: bot was blocked by the user", "unblock the bot"),
    ],
)
def test_check_says_what_mends_a_chat(config: Path, fault: str, line: str) -> None:
    with BotApi() as api:
        api.script("ok", fault)
        done = alert("--check", config=config, api=api)
    told = f"token: good\nchat 4242: {fault[4:]}: {line}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, told, "")


def test_check_asks_nothing_before_the_time_that_the_server_named(config: Path) -> None:
    with BotApi() as api:
        for limit, words in (("429:30", "chat 4242: Too Many"), ("429:300", "network: Too Many")):
            api.script(limit)
            alert("hello", config=config, api=api)
            before = len(api.sends)
            done = alert("--check", config=config, api=api)
            assert (done.returncode, words in done.stdout) == (1, True)
            assert "not asked again before 20" in done.stdout
            assert len(api.sends) == before
            (config.parent / "var/outbox/breaker.json").unlink()


def test_what_was_mended_is_tried_at_once_by_a_check(home: Path, config: Path) -> None:
    with BotApi() as api:
        api.script("403:Forbidden: bot was kicked from the group chat")
        assert alert("one", config=config, api=api).returncode == 1
        assert alert("two", config=config, api=api).returncode == 5
        assert alert("--check", config=config, api=api).returncode == 0
    assert api.texts[0].split("\n")[0] == "two"
    assert waiting(home) == []


def test_repeats_of_a_key_that_went_quiet_are_told_by_a_flush(home: Path, config: Path) -> None:
    with BotApi() as api:
        args = ("--key", "db1", "--chat", "-5:7", "--title", "db1 is down", "no answer")
        for _ in range(3):
            assert alert(*args, config=config, api=api).returncode == 0
        assert alert("--flush", config=config, api=api).returncode == 0
        assert len(api.messages) == 1
        file = home / "var/alerts.json"
        record = json.loads(file.read_text())
        record["db1"]["told"] -= 901
        file.write_text(json.dumps(record))
        for _ in range(2):
            assert alert("--flush", config=config, api=api).returncode == 0
    assert len(api.messages) == 2
    assert (api.messages[1]["chat_id"], api.messages[1]["message_thread_id"]) == ("-5", "7")
    assert api.texts[1].startswith("db1 is down\nrepeated 2x since 20")
    assert ", quiet now\n" in api.texts[1]


def test_status_tells_what_waits_and_why(config: Path) -> None:
    with BotApi() as api:
        api.script("429:500")
        alert("hello", config=config, api=api)
        found = json.loads(alert("--status", "--json", config=config, api=api).stdout)
        lines = alert("--status", config=config, api=api).stdout.splitlines()
        assert lines[0].startswith("1 waiting, the oldest for ")
        assert (lines[1], lines[2][:29]) == ("0 given up", "Telegram: not asked before 20")
    assert (found["queued"], found["dead"]) == (1, 0)
    assert found["oldest_age_seconds"] >= 0
    assert found["breaker_open_until"] - time.time() > 400
    assert found["holds"] == {}


def test_an_exposed_env_file_sends_nothing_and_keeps_the_message(home: Path, config: Path) -> None:
    with BotApi() as api:
        env = home / ".env"
        env.write_text("".join(f"{name}='{value}'\n" for name, value in api.env.items()))
        env.chmod(0o644)
        done = run_script("telegram_alert", "hello", "--config", config)
        assert (done.returncode, f"chmod 600 {env}" in done.stderr) == (3, True)
        assert (len(waiting(home)), api.requests) == (1, [])
        env.chmod(0o640)
        assert run_script("telegram_alert", "--flush", "--config", config).returncode == 0
        assert api.texts[0].startswith("hello\n")
        api.always = "502"  # what Telegram itself says does not hide it
        alert("later", config=config, api=api)
        env.chmod(0o644)
        done = run_script("telegram_alert", "hello", "--config", config)
        assert (done.returncode, f"chmod 600 {env}" in done.stderr) == (3, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_an_env_file_of_another_user_is_not_trusted(home: Path, config: Path) -> None:
    with BotApi() as api:
        env = home / ".env"
        env.write_text("".join(f"{name}='{value}'\n" for name, value in api.env.items()))
        env.chmod(0o600)
        os.chown(env, 65534, 65534)
        done = run_script("telegram_alert", "hello", "--config", config)
        assert (done.returncode, "user 65534 owns it" in done.stderr) == (3, True)
        done = run_script("telegram_alert", "--check", "--config", config)
        assert (done.returncode, done.stdout.count("\n")) == (3, 1)
        assert done.stdout.startswith(f"sending: {env}: user 65534 owns it")
    assert (len(waiting(home)), api.requests) == (1, [])


def test_a_document_and_a_photo_arrive_with_the_text(home: Path, config: Path) -> None:
    report, picture = home / "report.csv", home / "chart.png"
    report.write_bytes(b"a;b\n1;2\n")
    picture.write_bytes(b"\x89PNG" + bytes(1000))
    with BotApi() as api:
        done = alert("today", "--title", "T", "--document", report, config=config, api=api)
        assert (done.returncode, done.stderr) == (0, "")
        assert alert("--photo", picture, config=config, api=api).returncode == 0
        assert alert("long " * 400, "--document", report, config=config, api=api).returncode == 0
        assert [each["method"] for each in api.sends] == [
            "sendDocument",
            "sendPhoto",
            "sendMessage",
            "sendDocument",
        ]
        assert api.messages[0]["document"] == {"name": "report.csv", "bytes": b"a;b\n1;2\n"}
        assert api.texts[0].startswith("T\ntoday\n")
        api.always = "502"
        assert alert("later", "--document", report, config=config, api=api).returncode == 5
        report.unlink()
        api.always = "ok"
        (home / "var/outbox/breaker.json").unlink()
        assert alert("--flush", config=config, api=api).returncode == 0
        assert api.messages[-1]["document"]["bytes"] == b"a;b\n1;2\n"
    assert [*(home / "var/outbox/new").iterdir()] == []


def test_a_file_that_cannot_be_sent_is_told_and_the_text_arrives(home: Path, config: Path) -> None:
    big = home / "big.log"
    with big.open("wb") as file:
        file.truncate(60_000_000)
    with BotApi() as api:
        for file, words in ((big, "50 MB"), (home / "none", "No such file")):
            done = alert("look", "--document", file, config=config, api=api)
            assert (done.returncode, words in done.stderr) == (1, True)
    assert [text.startswith("look\n(") for text in api.texts] == [True, True]


@pytest.mark.parametrize("name", ["caf\udce9.txt", 'a"b\nc.txt', "€😀.txt", "x" * 250])
def test_a_file_of_any_name_arrives(home: Path, config: Path, name: str) -> None:
    (home / name).write_text("content")
    with BotApi() as api:
        done = alert("look", "--document", home / name, config=config, api=api)
    assert (done.returncode, done.stderr) == (0, "")
    assert api.messages[0]["document"]["bytes"] == b"content"


def test_a_very_long_text_becomes_a_document(config: Path) -> None:
    text = "zeile äöü\n" * 20_000
    with BotApi() as api:
        assert alert("-", config=config, api=api, stdin=text).returncode == 0
    assert [each["method"] for each in api.sends] == ["sendMessage", "sendDocument"]
    assert api.messages[1]["document"] == {"name": "message.txt", "bytes": text.encode()}


@pytest.mark.parametrize("given", [b"caf\xe9 \x00 \xf0\x9f", "x" * 200_000, "zeile\n" * 40_000])
def test_any_input_arrives(config: Path, given: str | bytes) -> None:
    with BotApi() as api:
        done = alert("-", "--pre", config=config, api=api, stdin=given)
    assert (done.returncode, done.stderr) == (0, "")
    assert 1 <= len(api.messages) <= 4


def test_an_argument_that_is_no_utf8_arrives(config: Path) -> None:
    with BotApi() as api:
        done = alert("caf\udce9", config=config, api=api)
    assert done.returncode == 0
    assert api.texts[0].startswith("caf\N{REPLACEMENT CHARACTER}\n")


def test_an_empty_text_and_a_missing_one_are_usage_errors(config: Path) -> None:
    with BotApi() as api:
        for args in (["  \n"], ["-"], [], ["--html", "<b> </b>"]):
            done = alert(*args, config=config, api=api)
            assert (done.returncode, "the text is empty" in done.stderr) == (2, True)
    assert api.requests == []


@pytest.mark.parametrize(
    "args",
    [
        ["--flush", "disk full"],
        ["--check", "disk full"],
        ["--status", "disk full"],
        ["--flush", "--resolve", "disk"],
        ["--flush", "--status"],
        ["--key", "a", "--resolve", "b", "disk full"],
        ["--document", "/etc/hostname", "--photo", "/etc/hostname"],
    ],
)
def test_no_message_is_dropped_for_an_option_beside_it(config: Path, args: list[str]) -> None:
    with BotApi() as api:
        done = alert(*args, config=config, api=api)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert api.requests == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("args", [["--status"], ["--flush"], ["hello"]])
def test_the_state_of_another_user_is_told_in_one_line(args: list[str]) -> None:
    if subprocess.run(["/usr/bin/python3", "-c", "import requests"], check=False).returncode:
        pytest.skip("python3-requests is not installed")
    with tempfile.TemporaryDirectory() as name, BotApi() as api:
        os.chmod(name, 0o755)
        for part in ("bin", "lib"):
            shutil.copytree(ROOT / part, Path(name, part))
        Path(name, "var/outbox/new").mkdir(parents=True)
        Path(name, "var").chmod(0o700)
        config = Path(name, "upkeep.toml")
        config.write_text('[paths]\nstate = "var"\n')
        done = subprocess.run(
            ["/usr/bin/python3", f"{name}/bin/telegram_alert.py", "--config", config, *args],
            env=api.env,
            capture_output=True,
            text=True,
            user=65534,
            group=65534,
            extra_groups=[],
            check=False,
        )
    assert (done.returncode, "Traceback" in done.stderr) == (int(args != ["hello"]), False)
    assert "Permission denied" in done.stderr
    assert len(api.messages) == (args == ["hello"])


def test_a_closed_stdin_is_an_empty_text(config: Path) -> None:
    script = f"exec {sys.executable} {ROOT}/bin/telegram_alert.py --config {config} <&-"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the text is empty" in done.stderr


def test_a_title_beside_html_is_no_markup(config: Path) -> None:
    with BotApi() as api:
        done = alert("<i>x</i>", "--html", "--title", "a < b", config=config, api=api)
    assert (done.returncode, len(api.sends)) == (0, 1)
    assert api.texts[0].startswith("<b>a &lt; b</b>\n<i>x</i>\n")


def test_a_torn_and_a_foreign_file_are_set_aside_and_the_rest_flows_on(
    home: Path, config: Path
) -> None:
    new = home / "var/outbox/new"
    new.mkdir(parents=True)
    for number, content in enumerate(("{", "[]", '{"chat": 5, "text": "x"}', '{"a": 1}', "\0")):
        (new / f"{number}.json").write_text(content)
    with BotApi() as api:
        done = alert("hello", config=config, api=api)
    assert (done.returncode, done.stderr.count("set aside")) == (0, 5)
    assert (len(api.messages), waiting(home)) == (1, [])


def test_an_empty_flush_imports_nothing_that_is_slow(config: Path) -> None:
    code = (
        "import sys; from bin import telegram_alert;"
        "telegram_alert.main(['--flush', '--config', sys.argv[1]]);"
        "print([m for m in ('requests', 'psutil', 'dotenv', 'logging', 'subprocess')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, config],
        env={"PYTHONPATH": f"{ROOT}:{ROOT}/lib", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"X=\xff\n", 2, "cannot be read"),
        (b"TELEGRAM_BOT_TOKEN=1:a\xff", 2, "cannot be read"),
        (b"TELEGRAM_CHAT_ID=5", 2, "TELEGRAM_BOT_TOKEN is not set"),
        (b"TELEGRAM_BOT_TOKEN=1:abcdefgh", 2, "TELEGRAM_CHAT_ID is not set"),
        (b"TELEGRAM_BOT_TOKEN=1:abcdefgh\nTELEGRAM_CHAT_ID=five", 2, "expected a chat"),
        (b"TELEGRAM_BOT_TOKEN=not a token\nTELEGRAM_CHAT_ID=5", 1, "the token was refused"),
    ],
)
def test_secrets_that_are_none(
    home: Path, config: Path, content: bytes, code: int, words: str
) -> None:
    (home / ".env").write_bytes(content)
    (home / ".env").chmod(0o600)
    with BotApi() as api:
        env = {"TELEGRAM_API_BASE": api.base}
        done = run_script("telegram_alert", "hello", "--config", config, env=env)
    assert (done.returncode, words in done.stderr) == (code, True)
    assert "Traceback" not in done.stderr and "abcdefgh" not in done.stderr + done.stdout


@pytest.mark.parametrize("name", ["alerts.json", "outbox/breaker.json"])
@pytest.mark.parametrize(
    "state",
    [
        {"api": {"until": "x", "fails": "y", "why": 3}, "4242": [], "k": {"since": "x"}},
        {"api": {"until": time.time() + 100}, "k": {"since": 1.0, "count": 1}},
        {"api": {"until": 1.0, "fails": "x"}, "k": {"since": "a", "told": "b", "count": "c"}},
        {"k": {"since": 1e300, "told": float("nan"), "count": 1}},
    ],
)
def test_foreign_state_is_no_obstacle(
    home: Path, config: Path, name: str, state: dict[str, object]
) -> None:
    (home / "var/outbox").mkdir(parents=True)
    (home / "var" / name).write_text(json.dumps(state))
    with BotApi() as api:
        api.script("502", "502", "502")
        done = alert("--key", "k", "hello", "--budget", "9", config=config, api=api)
        assert (done.returncode, "Traceback" in done.stderr) == (5, False)
        assert done.stderr.count("set aside") == 1
    assert len(waiting(home)) == 1


def test_a_full_disk_sends_directly(home: Path, config: Path) -> None:
    with BotApi() as api:
        command = f"ulimit -f 0; exec {sys.executable} {ROOT}/bin/telegram_alert.py full"
        done = subprocess.run(
            ["sh", "-c", f"{command} --config {config}"],
            env={**api.env, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, "sent directly" in done.stderr) == (0, True)
    assert api.texts[0].startswith("full\n")


def test_dry_run_sends_and_stores_nothing(home: Path, config: Path) -> None:
    with BotApi() as api:
        done = alert("--dry-run", "hello", config=config, api=api)
        file = alert("--dry-run", "--document", config, config=config, api=api)
    assert (done.returncode, done.stdout) == (0, "would send to 4242: hello\n")
    assert (file.returncode, file.stdout) == (0, f"would send to 4242: {config}\n")
    assert (api.requests, waiting(home)) == ([], [])


def test_a_program_sends_with_one_call(
    home: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BotApi() as api:
        for name, value in api.env.items():
            monkeypatch.setenv(name, value)
        assert telegram.send("it works", config_file=str(config)) == (True, "")
        api.always = "502"
        done, why = telegram.send("it waits", config_file=str(config))
    assert (done, "HTTP 502" in why) == (False, True)


def test_through_a_proxy(config: Path) -> None:
    with BotApi() as api:
        env = {**api.env, "HTTP_PROXY": api.base, "TELEGRAM_API_BASE": "http://api.example.org"}
        done = run_script("telegram_alert", "hello", "--config", config, env=env)
        assert done.returncode == 0
        assert api.requests[0]["path"].startswith("http://api.example.org/bot") or api.requests
        env = {**api.env, "HTTPS_PROXY": api.base, "TELEGRAM_API_BASE": "https://api.example.org"}
        done = run_script("telegram_alert", "hello", "--config", config, env=env)
        assert done.returncode == 5
    assert TOKEN not in done.stderr


def test_a_proxy_in_the_env_file_is_used_and_no_proxy_is_honoured(home: Path, config: Path) -> None:
    with BotApi() as api:
        env = home / ".env"
        env.write_text(f"HTTP_PROXY='{api.base}'\nTELEGRAM_API_BASE='http://api.example.org'\n")
        env.chmod(0o600)
        secrets = {key: api.env[key] for key in ("TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID")}
        done = run_script("telegram_alert", "hello", "--config", config, env=secrets)
        assert (done.returncode, len(api.messages)) == (0, 1)
        own = {**api.env, "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        done = run_script("telegram_alert", "hello", "--config", config, env=own)
        assert (done.returncode, len(api.messages)) == (0, 2)


def test_two_502_are_ridden_out_with_growing_waits(config: Path) -> None:
    with BotApi() as api:
        api.script("502", "502")
        done = run_script("telegram_alert", "x", "--config", config, env=api.env)
        times = [each["time"] for each in api.sends]
    assert done.returncode == 0
    assert len(api.messages) == 1
    assert times[1] - times[0] >= 0.95
    assert times[2] - times[1] >= 1.95


def test_without_a_token_the_text_is_printed(config: Path) -> None:
    done = run_script("telegram_alert", "hello", "--config", config)
    assert (done.returncode, done.stdout) == (2, "hello\n")
    assert "TELEGRAM_BOT_TOKEN" in done.stderr


def test_a_wrong_token_keeps_the_message(home: Path, config: Path) -> None:
    with BotApi() as api:
        env = {**api.env, "TELEGRAM_BOT_TOKEN": "1:AAwrong-wrong-wrong-wrong-wrong"}
        done = run_script("telegram_alert", "x", "--config", config, env=env)
        assert len(waiting(home)) == 1
        assert done.returncode in (1, 5)
        done = run_script("telegram_alert", "--flush", "--config", config, env=api.env)
        assert done.returncode == 0
    assert len(api.messages) == 1
    assert TOKEN not in done.stderr
