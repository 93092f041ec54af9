"""What an answer of the Bot API means (core.telegram.org/bots/api#making-requests)."""

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SHORT_WAIT_SECONDS = 10.0
MUTE_SECONDS = 6 * 3600.0
UNKNOWN_WAIT_SECONDS = 60.0


class Limits(NamedTuple):
    """Seconds for a connection, for TLS or an answer, and when (monotonic) all must end."""

    connect: float
    answer: float
    end: float


@dataclass
class Answer:
    """What came back. `maybe_sent`: bytes may have left. `body` is None if it is not the API's."""

    status: int = 0
    body: dict[str, Any] | None = None
    maybe_sent: bool = True
    trouble: str = ""
    hopeless: bool = False
    torn: bool = False
    seconds: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, status: int, data: bytes, torn: bool) -> "Answer":
        """Take an HTTP answer apart; what is not a JSON object with "ok" is not from the API."""
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            torn, body = torn or data.lstrip().startswith(b"{"), None
        if not isinstance(body, dict) or not isinstance(body.get("ok"), bool):
            return cls(status, torn=torn)
        parameters = body.get("parameters")
        return cls(status, body, parameters=parameters if isinstance(parameters, dict) else {})


class Verdict(NamedTuple):
    """What to do: see `judge`. `seconds` is how long to wait first, `value` what to change."""

    action: str
    why: str = ""
    seconds: float = 0.0
    value: str = ""


def judge(answer: Answer) -> Verdict:
    """Classify `answer`. The actions:

    delivered · retry: not sent, the server or the network · maybe: perhaps sent · stop: not sent,
    no use to retry now · wait: `seconds`, the server's word · token, chat: refused until an
    operator mends it · plain, shorten, thread, migrate: the same once more in another form ·
    refused: this message will never be taken.
    """
    status, body = answer.status, answer.body
    if not status:
        action = "stop" if answer.hopeless else "maybe" if answer.maybe_sent else "retry"
        return Verdict(action, answer.trouble)
    if status == 504 or (status >= 500 and answer.seconds > 5):
        return Verdict("maybe", f"the server failed (HTTP {status})")
    if status >= 500:
        return Verdict("retry", f"the server failed (HTTP {status})")
    if 300 <= status < 400:
        return Verdict("stop", f"redirected (HTTP {status}): this is not the Bot API")
    if body is None and status == 200 and answer.torn:
        return Verdict("maybe", "the answer came torn")
    if status == 429:
        return Verdict("wait", "the server asks to slow down", _retry_after(answer))
    if body is None:
        return Verdict("retry", f"HTTP {status} from something that is not the Bot API")
    if body["ok"] and "result" in body:
        return Verdict("delivered")
    return _judge_refusal(status, str(body.get("description", f"HTTP {status}")), answer.parameters)


def _retry_after(answer: Answer) -> float:
    seconds = answer.parameters.get("retry_after")
    known = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds > 0
    return float(seconds or 0) if known else UNKNOWN_WAIT_SECONDS


def _judge_refusal(status: int, why: str, parameters: dict[str, Any]) -> Verdict:
    lower = why.lower()
    if status in (401, 404):
        return Verdict("token", f"the token was refused ({why})")
    if isinstance(parameters.get("migrate_to_chat_id"), int):
        return Verdict("migrate", why, value=str(parameters["migrate_to_chat_id"]))
    if "entit" in lower:
        return Verdict("plain", why)
    if "too long" in lower:
        return Verdict("shorten", why)
    if "thread not found" in lower:
        return Verdict("thread", why)
    if status == 403 or "chat not found" in lower or "not enough rights" in lower:
        return Verdict("chat", why, MUTE_SECONDS)
    return Verdict("refused", why)
