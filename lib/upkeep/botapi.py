"""One request to the Bot API: bounded in time, and able to tell "never sent" from "maybe sent".

requests raises alike for a handshake that hangs and for a lost answer, after which a repeat may be
a second delivery: so the connection itself reports. Imported only to send, as it imports requests.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter

from upkeep import text

_TROUBLES = {  # what stands in an exception, whose own text holds the token; in clear words
    "[errno -": "its name cannot be resolved (DNS)",
    "refused": "connection refused",
    "certificate": "its certificate is not valid (wrong clock? captive portal?)",
    "timed out": "no connection or TLS handshake in time",
    "": "no connection (network? proxy? TELEGRAM_API_BASE?)",
}

_MENDS = {  # what stands in a description: what an operator can do
    "chat not found": "mend TELEGRAM_CHAT_ID, or write to the bot first",
    "blocked": "unblock the bot",
    "deactivated": "mend TELEGRAM_CHAT_ID",
    "kicked": "add the bot to the group again",
    "not a member": "add the bot to the group",
    "deleted": "mend TELEGRAM_CHAT_ID",
    "initiate": "write to the bot first",
    "not enough rights": "let the bot send messages there",
}
SLOW_SECONDS = 5.0  # a gateway that answers later may have passed the message on

# urllib3 logs the address of every request, and the token is a part of it.
logging.getLogger("urllib3.connectionpool").addFilter(lambda line: "/bot" not in line.getMessage())


class Verdict(NamedTuple):
    """What an answer means.

    delivered · retry (not sent) · maybe (perhaps sent) · unanswered (perhaps sent, twice) · stop
    (not sent, no use to retry soon) · wait (`seconds`, the server's word) · token, chat (refused
    until an operator mends it) · change (again at once, with these fields changed) · split (too
    long) · refused (for good).
    """

    action: str
    why: str = ""
    seconds: float = 0.0
    change: dict[str, str] = {}  # noqa: RUF012


def judge(status: int, answer: bytes, retry_after: str = "", seconds: float = 0.0) -> Verdict:
    """Classify an HTTP answer that took `seconds` (core.telegram.org/bots/api#making-requests).

    Only JSON with "ok" is the API's own word: proxies and captive portals answer, too, with a
    header `retry_after`.
    """
    if status >= 500:
        hidden = status == 504 or seconds > SLOW_SECONDS
        return Verdict("maybe" if hidden else "retry", f"the server failed (HTTP {status})")
    if status == 413:
        return Verdict("refused", "it is too large (HTTP 413)")
    try:
        body = json.loads(answer)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict) and ("result" in body or body.get("ok") is False):
        return _api_word(status, body, retry_after)
    why = f"HTTP {status} from something that is not the Bot API"
    if status == 429:
        return Verdict("wait", why, _hold(retry_after))
    if status == 200 and answer.lstrip()[:1] == b"{":  # torn, or a part of it
        return Verdict("maybe", why)
    return Verdict("stop" if status // 100 == 3 else "retry", why)


def _api_word(status: int, body: dict[str, Any], retry_after: str) -> Verdict:
    """What the API itself says."""
    details = body["parameters"] if isinstance(body.get("parameters"), dict) else {}
    moved = details.get("migrate_to_chat_id")
    why = text.printable(str(body.get("description")))
    if body.get("ok"):
        return Verdict("delivered")
    if status == 429:
        return Verdict("wait", why, _hold(details.get("retry_after", retry_after)))
    if status in (401, 404, 421):
        return Verdict("token", f"the token was refused ({why}): mend TELEGRAM_BOT_TOKEN")
    if "too long" in why:
        return Verdict("split", why)
    if type(moved) is int:
        return Verdict("change", why, change={"chat_id": str(moved)})
    if "thread not found" in why or "entit" in why:
        fields = ("message_thread_id",) if "thread" in why else ("entities", "parse_mode")
        return Verdict("change", why, change=dict.fromkeys(fields, ""))
    mend = next((words for needle, words in _MENDS.items() if needle in why), "")
    if status == 403 or mend:
        return Verdict("chat", f"{why}: {mend}" if mend else why)
    return Verdict("refused", why)


def _hold(value: object) -> float:
    """The server's word on how many seconds to wait; a minute where it is none."""
    digits = str(value)[:9]
    return max(float(digits), 1.0) if digits.isdecimal() else 60.0


class Call(HTTPAdapter):
    """One POST in a thread of its own: nothing else bounds DNS or an answer that drips.

    `timeouts`: seconds for TCP, and for TLS or the answer. `before_send` is called right before the
    first byte leaves; when it raises OSError, nothing is sent. `maybe_sent`: it has left.
    """

    def __init__(self, timeouts: tuple[float, float], before_send: Callable[[], None]) -> None:
        super().__init__(max_retries=0)
        self._timeouts, self._before_send = timeouts, before_send
        self.maybe_sent = False
        self._sent_at = self._end = 0.0
        self._verdict: Verdict | None = None

    def post(self, url: str, proxies: dict[str, str], end: float, **content: Any) -> Verdict:
        """POST `content`, keywords of requests, to `url`, until `end` (monotonic) at most."""
        self._end = end
        work = threading.Thread(target=self._work, args=(url, proxies, content), daemon=True)
        work.start()
        work.join(max(0.0, end - time.monotonic()))
        late = Verdict("maybe" if self.maybe_sent else "retry", "no answer before the time was up")
        return self._verdict or late

    def cert_verify(self, conn: Any, *args: Any, **options: Any) -> None:
        """Called by requests with the pool of every request: have its connections report here."""
        super().cert_verify(conn, *args, **options)  # type: ignore[no-untyped-call]
        call = self

        class Connection(conn.ConnectionCls):  # type: ignore[misc]
            debuglevel = 0  # at 1 the standard library would print the request line

            def _new_conn(self) -> Any:
                sock = super()._new_conn()
                sock.settimeout(call._timeouts[1])  # TLS may take longer than TCP
                return sock

            def connect(self) -> None:
                super().connect()
                if time.monotonic() >= call._end:  # nobody waits for it any more
                    raise TimeoutError
                call._before_send()
                call.maybe_sent, call._sent_at = True, time.monotonic()

        conn.ConnectionCls = Connection

    def _work(self, url: str, proxies: dict[str, str], content: Any) -> None:
        options = {"allow_redirects": False, "stream": True, **content}
        try:
            with requests.Session() as session:
                session.mount("http://", self)
                session.mount("https://", self)
                session.proxies.update(proxies)
                response = session.post(url, timeout=self._timeouts, **options)
                body = response.raw.read(1 << 20, decode_content=True)
            retry_after = response.headers.get("Retry-After", "")
            took = time.monotonic() - self._sent_at
            self._verdict = judge(response.status_code, body, retry_after, took)
        except UnicodeError:  # of the message: it must not keep the others from going out
            self._verdict = Verdict("refused", "its text or file name is no valid UTF-8")
        except Exception as error:  # whatever it is, its text may hold the token
            told = f"{type(error).__name__} {error!r}".lower()
            trouble = next(words for needle, words in _TROUBLES.items() if needle in told)
            unsent = Verdict("stop" if "certificate" in told else "retry", f"Bot API: {trouble}")
            lost = "no answer in time" if "timed out" in told else "the answer broke off"
            self._verdict = Verdict("maybe", f"Bot API: {lost}") if self.maybe_sent else unsent
