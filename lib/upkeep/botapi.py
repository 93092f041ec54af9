"""One request to the Bot API: bounded in time, and able to tell "never sent" from "maybe sent".

Imported only to send, because it imports requests, whose exceptions are alike for a handshake that
hangs and for an answer that is lost. The first is safe to repeat, the second may deliver twice: so
the connection itself says when the bytes may leave.
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

_ANSWER_MOST_BYTES = 1 << 20
_UNKNOWN_WAIT_SECONDS = 60.0
_TROUBLES = {  # what stands in an exception, whose own text holds the token; in clear words
    "resol": "its name cannot be resolved (DNS)",
    "refused": "connection refused",
    "certificate": "its certificate is not valid (wrong clock? captive portal?)",
    "proxy": "the proxy does not let it through",
    "connecttimeout": "no connection in time",
    "timed out": "no TLS handshake in time",
    "invalid": "TELEGRAM_API_BASE or the proxy is not a valid address",
}

# urllib3 logs the address of every request, and the token is a part of it.
logging.getLogger("urllib3.connectionpool").addFilter(lambda line: "/bot" not in line.getMessage())


class Answer(NamedTuple):
    """An HTTP answer; `status` 0: none came, and `trouble` says why."""

    status: int
    body: bytes = b""
    maybe_sent: bool = True
    trouble: str = ""


class Call(HTTPAdapter):
    """One POST in a thread of its own: nothing else bounds DNS or an answer that drips.

    `timeouts` are the seconds for a TCP connection and for TLS or the answer. `before_send` is
    called right before the first byte leaves; when it raises OSError, nothing is sent.
    """

    def __init__(self, timeouts: tuple[float, float], before_send: Callable[[], None]) -> None:
        super().__init__(max_retries=0)
        self.timeouts, self._before_send = timeouts, before_send
        self._mutex = threading.Lock()
        self._given_up = self._maybe_sent = False
        self._answer: Answer | None = None

    def post(self, url: str, proxies: dict[str, str], end: float, content: Any) -> Answer:
        """POST `content` as JSON to `url` and wait until `end` (monotonic) at most."""
        work = threading.Thread(target=self._work, args=(url, proxies, content), daemon=True)
        work.start()
        work.join(max(0.0, end - time.monotonic()))
        with self._mutex:
            self._given_up = True
        return self._answer or Answer(0, b"", self._maybe_sent, "no answer within the budget")

    def cert_verify(self, conn: Any, *args: Any, **options: Any) -> None:
        """Called by requests with the pool of every request: have its connections report here."""
        super().cert_verify(conn, *args, **options)  # type: ignore[no-untyped-call]
        call = self

        class Connection(conn.ConnectionCls):  # type: ignore[misc]
            debuglevel = 0  # at 1 the standard library would print the request line

            def _new_conn(self) -> Any:
                sock = super()._new_conn()
                sock.settimeout(call.timeouts[1])  # TLS may take longer than TCP
                return sock

            def connect(self) -> None:
                super().connect()
                call.hand_over()

        conn.ConnectionCls = Connection

    def hand_over(self) -> None:
        """The connection stands, TLS and all: from here on the message is maybe sent."""
        with self._mutex:
            if self._given_up:
                raise OSError("given up")
            self._before_send()
            self._maybe_sent = True

    def _work(self, url: str, proxies: dict[str, str], content: Any) -> None:
        try:
            with requests.Session() as session:
                session.mount("http://", self)
                session.mount("https://", self)
                session.proxies.update(proxies)
                response = session.post(
                    url, json=content, timeout=self.timeouts, allow_redirects=False, stream=True
                )
                body = response.raw.read(_ANSWER_MOST_BYTES, decode_content=True)
            self._answer = Answer(response.status_code, body)
        except Exception as error:  # whatever it is, its text may hold the token
            told = f"{type(error).__name__} {error!r}".lower()
            late = "no answer in time" if "timed out" in told else "it broke before the answer"
            known = (words for needle, words in _TROUBLES.items() if needle in told)
            trouble = late if self._maybe_sent else next(known, "no connection")
            self._answer = Answer(0, b"", self._maybe_sent, f"the Bot API: {trouble}")


class Verdict(NamedTuple):
    """What an answer means: delivered · retry (not sent) · maybe (perhaps sent) · stop (not sent,
    no use to retry soon) · wait (`seconds`, the server's word) · token, chat (refused until an
    operator mends it) · change (again at once, with these fields changed) · refused (for good)."""

    action: str
    why: str = ""
    seconds: float = 0.0
    change: dict[str, str] = {}  # noqa: RUF012


def judge(answer: Answer) -> Verdict:
    """Classify an answer, see core.telegram.org/bots/api#making-requests.

    Proxies and captive portals answer, too: only JSON with "ok" is the API's own word.
    """
    status, trouble = answer.status, answer.trouble
    if not status:
        unsent = "stop" if "certificate" in trouble else "retry"
        return Verdict("maybe" if answer.maybe_sent else unsent, trouble)
    if status >= 500:  # a gateway that gave up waiting may hide a delivery
        return Verdict("maybe" if status == 504 else "retry", f"the server failed (HTTP {status})")
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or ("result" not in body and body.get("ok") is not False):
        torn = status == 200 and answer.body.lstrip()[:1] == b"{"
        action = "maybe" if torn else "stop" if 300 <= status < 400 else "retry"
        return Verdict(action, f"HTTP {status} from something that is not the Bot API")
    if body.get("ok"):
        return Verdict("delivered")
    details = body.get("parameters")
    why = text.printable(str(body.get("description")))
    return _refusal(status, why, details if isinstance(details, dict) else {})


def _refusal(status: int, why: str, details: dict[str, Any]) -> Verdict:
    if status == 429:
        seconds = details.get("retry_after")
        if not isinstance(seconds, int) or seconds <= 0:
            seconds = _UNKNOWN_WAIT_SECONDS
        return Verdict("wait", why, float(seconds))
    if status in (401, 404):
        return Verdict("token", f"the token was refused ({why})")
    if moved := details.get("migrate_to_chat_id"):
        return Verdict("change", why, change={"chat_id": str(moved)})
    if "entit" in why:
        return Verdict("change", why, change={"entities": "", "parse_mode": ""})
    if "thread not found" in why:
        return Verdict("change", why, change={"message_thread_id": ""})
    lost = status == 403 or "chat not found" in why or "not enough rights" in why
    return Verdict("chat" if lost else "refused", why)
