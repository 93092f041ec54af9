"""One request against every fault: bounded, told in words, never sent apart from maybe sent."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import LONG, ROOT
from tests.helpers.bot_api import TOKEN, BotApi
from upkeep.botapi import Call, Verdict, judge

DEBUGGING = """
import http.client, logging, sys
sys.path[:0] = [{root!r} + "/lib", {root!r}]
logging.basicConfig(level=logging.DEBUG)
http.client.HTTPConnection.debuglevel = 1
import urllib3
urllib3.add_stderr_logger()
from bin import telegram_alert
sys.exit(telegram_alert.main(sys.argv[1:]))
"""

# What happens on the connection, over plain HTTP and over TLS: is the message maybe sent?
FAULTS = {
    "hang": ("maybe", "retry"),  # in TLS it is the handshake that hangs
    "close": ("maybe", "retry"),
    "never_answer": ("maybe", "maybe"),
    "reset_after": ("maybe", "maybe"),
    "drop": ("maybe", "maybe"),
    "accept_reset": ("maybe", "maybe"),
    "truncated": ("maybe", "maybe"),
    "garbled": ("maybe", "maybe"),
    "no_http": ("maybe", "maybe"),
    "huge_header": ("maybe", "maybe"),
    "504_delivered": ("maybe", "maybe"),
    "504": ("maybe", "maybe"),
    "502": ("retry", "retry"),
    "503": ("retry", "retry"),
    "500": ("retry", "retry"),
    "portal": ("retry", "retry"),
    "portal_404": ("retry", "retry"),
    "empty": ("retry", "retry"),
    "null": ("retry", "retry"),
    "endless": ("retry", "retry"),
    "redirect": ("stop", "stop"),
    "no_result": ("maybe", "maybe"),
    "429:5": ("wait", "wait"),
    "401:Unauthorized": ("token", "token"),
    "404:Not Found": ("token", "token"),
    "403:Forbidden: bot was blocked by the user": ("chat", "chat"),
    "400:Bad Request: chat not found": ("chat", "chat"),
    "400:Bad Request: message thread not found": ("change", "change"),
    "400:Bad Request: can't parse entities": ("change", "change"),
    "migrate:-100": ("change", "change"),
    "413:Request Entity Too Large": ("refused", "refused"),
    "ok": ("delivered", "delivered"),
}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    place = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", place / "key.pem", "-out", place / "cert.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    return place / "cert.pem", place / "key.pem"


def post(base: str, seconds: float = 10.0, timeouts: tuple[float, float] = (2.0, 1.0)) -> Verdict:
    content = {"chat_id": "1", "text": "x"}
    end = time.monotonic() + seconds
    return Call(timeouts, lambda: None).post(
        f"{base}/bot{TOKEN}/sendMessage", {}, end, json=content
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_over_http_and_https_is_classified(
    fault: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    for tls, expected in zip((None, certificate), FAULTS[fault], strict=True):
        with BotApi(tls=tls) as api:
            api.script(fault)
            verdict = post(api.base)
            assert verdict.action == expected, verdict
            assert TOKEN[10:] not in repr(verdict)
            if expected in ("retry", "stop") and fault in ("hang", "close"):
                assert api.requests == []


def test_what_never_connects_is_never_sent(certificate: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert post(f"http://127.0.0.1:{port}") == ("retry", "Bot API: connection refused", 0.0, {})
    assert "cannot be resolved" in post("http://no-such-host.invalid").why
    with BotApi(tls=certificate) as api:
        verdict = post(api.base)
        assert (verdict.action, "certificate" in verdict.why) == ("stop", True)
        assert api.requests == []
        assert post(api.base.replace("https", "http")).action in ("maybe", "retry")
    with BotApi() as api:
        assert post(api.base.replace("http", "https")).action == "retry"
        assert api.requests == []


def test_an_answer_that_drips_and_a_name_that_hangs_end_with_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with BotApi() as api:
        api.script("drip")
        begun = time.monotonic()
        assert post(api.base, seconds=1.5).action == "maybe"
        assert time.monotonic() - begun < 3.5
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(60) or [])
    begun = time.monotonic()
    verdict = post("http://api.example.org", seconds=1.0)
    assert time.monotonic() - begun < 3.0
    assert verdict == ("retry", "no answer before the time was up", 0.0, {})
    release.set()


def test_a_name_that_is_found_too_late_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program lives on after its call: what was told as not sent must not be sent later."""
    release, resolve = threading.Event(), socket.getaddrinfo

    def late(*args: Any, **options: Any) -> Any:
        release.wait(60)
        return resolve(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", late)
    with BotApi() as api:
        assert post(api.base, seconds=0.5).action == "retry"
        worker = next(each for each in threading.enumerate() if "_work" in each.name)
        release.set()
        worker.join(20)
        assert (worker.is_alive(), api.requests) == (False, [])


def test_a_gateway_that_fails_late_may_hide_a_delivery() -> None:
    assert [judge(502, b"", "", seconds).action for seconds in (1.0, 6.0)] == ["retry", "maybe"]


def test_nothing_leaves_when_the_mark_cannot_be_set() -> None:
    def refuse() -> None:
        raise OSError("read-only")

    with BotApi() as api:
        end = time.monotonic() + 5
        verdict = Call((1.0, 1.0), refuse).post(
            f"{api.base}/bot{TOKEN}/sendMessage", {}, end, json={}
        )
    assert verdict.action == "retry"
    assert api.requests == []


@pytest.mark.parametrize(
    ("status", "body", "action", "seconds"),
    [
        (200, b'{"ok":true,"result":{}}', "delivered", 0),
        (200, b'{"result":1}', "refused", 0),
        (200, b"\xff\xfe", "retry", 0),
        (200, b"[" * 100_000, "retry", 0),
        (200, b'{"ok":', "maybe", 0),
        (429, b'{"ok":false,"parameters":{"retry_after":6775}}', "wait", 6775),
        (429, b'{"ok":false}', "wait", 60),
        (429, b'{"ok":false,"parameters":{"retry_after":-3}}', "wait", 60),
        (
            429,
            b'{"ok":false,"parameters":{"retry_after":' + b"1" * 400 + b"}}",
            "wait",
            111_111_111,
        ),
        (429, b"<html>", "wait", 3600),
        (429, b'{"ok":false,"parameters":{"retry_after":"x"}}', "wait", 60),
        (429, b'{"ok":false,"parameters":[1]}', "wait", 60),
        (400, b'{"ok":false}', "refused", 0),
        (302, b"", "stop", 0),
        (413, b"<h1>413 Request Entity Too Large</h1>", "refused", 0),
        (421, b'{"ok":false,"description":"Misdirected Request"}', "token", 0),
        (204, b"", "retry", 0),
    ],
)
def test_odd_answers(status: int, body: bytes, action: str, seconds: float) -> None:
    verdict = judge(status, body, "3600" if b"html" in body else "")
    assert (verdict.action, verdict.seconds) == (action, seconds)


@pytest.mark.parametrize("fault", list(FAULTS) if LONG else ["reset_after", "502", "ok", "401:No"])
def test_the_token_shows_nowhere_with_all_logging_on(
    fault: str, home: Path, certificate: tuple[Path, Path]
) -> None:
    config = home / "upkeep.toml"
    config.write_text('[telegram]\nconnect_timeout = "1s"\ntimeout = "1s"\nbudget = "5s"\n')
    for tls in (None, certificate):
        with BotApi(tls=tls) as api:
            api.always = fault
            env = {**os.environ, **api.env, "REQUESTS_CA_BUNDLE": str(certificate[0])}
            code = DEBUGGING.format(root=str(ROOT))
            begun = time.monotonic()
            run = subprocess.Popen(
                [sys.executable, "-c", code, "hello", "--config", str(config)],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            command = Path(f"/proc/{run.pid}/cmdline").read_bytes()
            out, err = run.communicate(timeout=60)
            assert time.monotonic() - begun < 5 + 2 + 5  # a slow machine gets five more
        shown = [command, out, err, *(f.read_bytes() for f in home.rglob("*") if f.is_file())]
        assert b"DEBUG" in err
        for secret in (TOKEN, TOKEN.partition(":")[2]):
            assert not [text for text in shown if secret.encode() in text]
