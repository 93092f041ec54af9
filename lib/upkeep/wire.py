"""One HTTP request to the Bot API that can tell "never sent" from "maybe sent".

Imported only when there is something to send: it imports requests.

requests raises the same exceptions for a handshake that hangs and for an answer that is lost. The
first is safe to repeat, the second may deliver twice. So the connection itself reports the moment
when it stands (DNS, TCP, proxy and TLS behind it) and the request is about to go out.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from upkeep import text
from upkeep.botapi import Answer, Limits

_ANSWER_MOST_BYTES = 1 << 20


class _Redacting(logging.Filter):
    """urllib3 logs the address of every request, and the token is part of it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = text.redact(record.getMessage()), None
        return True


for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_Redacting())


class _Adapter(HTTPAdapter):
    """Makes connections that report their progress to a `Call`."""

    def __init__(self, call: "Call") -> None:
        self._call = call
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        self._watch(manager)
        return manager

    def _watch(self, manager: Any) -> None:
        known = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {
            scheme: _watched(pool, self._call) for scheme, pool in known.items()
        }


def _watched(pool: Any, call: "Call") -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        debuglevel = 0  # at 1 the standard library prints the request line

        def _new_conn(self) -> Any:
            sock = super()._new_conn()
            sock.settimeout(call.limits.answer)  # TLS may take longer than TCP
            call.stage["connected"].set()
            return sock

        def connect(self) -> None:
            super().connect()
            call.hand_over()

    return type("Pool", (pool,), {"ConnectionCls": Connection})


class Call:
    """One request in a thread of its own, because nothing else bounds DNS or a dripping answer.

    `before_send` is called at the last moment before the first byte leaves; when it raises OSError
    nothing is sent.
    """

    def __init__(self, limits: Limits, before_send: Callable[[], None]) -> None:
        self.limits = limits
        self.stage = {name: threading.Event() for name in ("connected", "handed over", "answered")}
        self._before_send = before_send
        self._mutex = threading.Lock()
        self._given_up = False
        self._answer = Answer(trouble="not tried")

    def post(self, url: str, proxies: dict[str, str], **content: Any) -> Answer:
        """POST `content` (requests' own keywords) to `url` and wait no longer than the limits."""
        begun = time.monotonic()
        work = threading.Thread(target=self._work, args=(url, proxies, content), daemon=True)
        work.start()
        patience = (2 * self.limits.connect, self.limits.answer, self.limits.answer)
        for (name, event), seconds in zip(self.stage.items(), patience, strict=True):
            if not event.wait(max(0.0, min(seconds, self.limits.end - time.monotonic()))):
                return self._give_up(name, time.monotonic() - begun)
        self._answer.seconds = time.monotonic() - begun
        return self._answer

    def hand_over(self) -> None:
        """The connection stands: mark the message as maybe sent, unless it is too late."""
        with self._mutex:
            if self._given_up:
                raise OSError("given up")
            self._before_send()
            self.stage["handed over"].set()

    def _give_up(self, stage: str, seconds: float) -> Answer:
        with self._mutex:
            self._given_up = True
        waited_for = {"connected": "connection", "handed over": "TLS handshake"}
        trouble = f"no {waited_for.get(stage, 'whole answer')} within {seconds:.1f} s"
        maybe_sent = self.stage["handed over"].is_set()
        return Answer(maybe_sent=maybe_sent, trouble=trouble, seconds=seconds)

    def _work(self, url: str, proxies: dict[str, str], content: dict[str, Any]) -> None:
        try:
            self._answer = self._exchange(url, proxies, content)
        except (requests.RequestException, OSError, ValueError) as error:
            maybe_sent = self.stage["handed over"].is_set()
            certificate = "certificate" in str(error).lower() and not maybe_sent
            trouble = _in_words(error, maybe_sent, self.limits)
            self._answer = Answer(maybe_sent=maybe_sent, trouble=trouble, hopeless=certificate)
        for event in self.stage.values():
            event.set()

    def _exchange(self, url: str, proxies: dict[str, str], content: dict[str, Any]) -> Answer:
        with requests.Session() as session:
            session.mount("http://", _Adapter(self))
            session.mount("https://", _Adapter(self))
            session.proxies.update(proxies)
            response = session.post(
                url,
                timeout=(self.limits.connect, self.limits.answer),
                allow_redirects=False,
                stream=True,
                **content,
            )
            data = response.raw.read(_ANSWER_MOST_BYTES, decode_content=True)
            torn = not data and response.headers.get("Content-Length") != "0"
            return Answer.read(response.status_code, data, torn)


def _in_words(error: BaseException, maybe_sent: bool, limits: Limits) -> str:
    """One clear line for what went wrong; never the text of the exception, which has the token."""
    kinds = {type(each).__name__ for each in _chain(error)}
    if maybe_sent:
        return (
            "the connection broke before the answer"
            if not _timed_out(kinds)
            else (f"no answer within {limits.answer:g} s")
        )
    words = {
        "gaierror": "the name of the server cannot be resolved (DNS)",
        "ConnectionRefusedError": "connection refused",
        "SSLCertVerificationError": "the server's certificate is not valid"
        " (is the clock right? is there a captive portal or a proxy?)",
        "ProxyError": "the proxy does not let it through",
        "SSLError": "the TLS handshake failed",
        "ConnectTimeout": f"no connection within {limits.connect:g} s",
        "ReadTimeout": f"no TLS handshake within {limits.answer:g} s",
        "InvalidURL": "TELEGRAM_API_BASE or the proxy is not a valid address",
    }
    return next((line for kind, line in words.items() if kind in kinds), "no connection")


def _timed_out(kinds: set[str]) -> bool:
    return bool(kinds & {"ReadTimeout", "TimeoutError", "ReadTimeoutError"})


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and all that it was made from."""
    while error is not None:
        yield error
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            inner = error.__cause__ or error.__context__
        error = inner
