"""A loopback stand-in for the Telegram Bot API: real sockets, strict rules, scripted faults.

    with BotApi() as api:
        run_script("telegram_alert", "disk full", env=api.env)
        assert "disk full" in api.texts[0]

Every connection takes the next fault of the script (`api.script("502", "ok")`), then `api.always`.
A message is recorded in `api.messages` once it is accepted, also when its answer is then lost.
"""

import email.parser
import email.policy
import json
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

from tests.helpers import bot_rules

TOKEN = "123456789:AAtest-Token_of-the-stand-in-0123456789"
CHAT = "4242"

HTML_502 = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
PORTAL = b"<html><body>Welcome to the hotel! Please log in.</body></html>"


class BotApi:
    """The server. `base` is its address; `env` is what a script needs to send to it."""

    def __init__(self, tls: tuple[Path, Path] | None = None, chats: tuple[str, ...] = ()) -> None:
        self.messages: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.connections = 0
        self.most_open = 0
        self.always = "ok"
        self.chats = chats
        self._script: list[str] = []
        self._open = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._tls = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*tls)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.base = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> "BotApi":
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        # The thread has to end before the number of its socket is given to the next server's.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(10)
        self._listener.close()

    @property
    def env(self) -> dict[str, str]:
        return {
            "TELEGRAM_BOT_TOKEN": TOKEN,
            "TELEGRAM_CHAT_ID": CHAT,
            "TELEGRAM_API_BASE": self.base,
        }

    @property
    def texts(self) -> list[str]:
        """The visible texts (or captions) of the accepted messages, in order."""
        with self._lock:
            return [each.get("text") or each.get("caption") or "" for each in self.messages]

    @property
    def sends(self) -> list[dict[str, Any]]:
        """The requests that were to send something; asking for getMe or getChat is none."""
        with self._lock:
            return [each for each in self.requests if each["method"].startswith("send")]

    def script(self, *faults: str) -> None:
        """Have the next connections meet these faults, one each; "ok" is none."""
        with self._lock:
            self._script.extend(faults)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                fault = self._script.pop(0) if self._script else self.always
                self.connections += 1
                self._open += 1
                self.most_open = max(self.most_open, self._open)
            threading.Thread(target=self._serve, args=(connection, fault), daemon=True).start()

    def _serve(self, raw: socket.socket, fault: str) -> None:
        connection = raw
        try:
            raw.settimeout(120)
            if fault == "reset":
                return _reset(raw)
            if fault == "hang":  # in TLS: the handshake is never answered
                return self._hold(raw)
            if fault == "close":
                return None
            if self._tls:
                connection = self._tls.wrap_socket(raw, server_side=True)
            self._answer(connection, *_read_request(connection), fault)
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._open -= 1
            connection.close()
        return None

    def _hold(self, connection: socket.socket) -> None:
        """Stay silent until the other end goes away or the test ends."""
        connection.settimeout(0.1)
        while not self._stop.is_set():
            try:
                if not connection.recv(65536):
                    return
            except TimeoutError:
                continue

    def _answer(
        self, connection: Any, path: str, headers: dict[str, str], body: bytes, fault: str
    ) -> None:
        method, fields = path.rpartition("/")[2], _fields(headers, body)
        request = {"method": method, "path": path, "time": time.time(), "fault": fault, **fields}
        with self._lock:
            self.requests.append(request)
        name, _, value = fault.partition(":")
        if name == "drop_sends":  # getMe and getChat are answered
            name = "drop" if method.startswith("send") else "ok"
        if name == "never_answer":
            return self._hold(connection)
        if name == "reset_after":
            return _reset(connection)
        if name in SIMPLE:
            return connection.sendall(SIMPLE[name])
        if name in ("drip", "drop", "accept_reset", "truncated", "garbled", "504_delivered"):
            self._judge(method, path, request)
            return self._lose(connection, name)
        status, answer = _scripted(name, value) or self._judge(method, path, request)
        connection.sendall(_response(status, json.dumps(answer).encode()))
        return None

    def _lose(self, connection: Any, name: str) -> None:
        """The message was accepted, but its answer does not arrive whole."""
        whole = _response(200, b'{"ok":true,"result":{"message_id":1}}')
        if name == "accept_reset":
            _reset(connection)
        elif name == "truncated":
            connection.sendall(whole[:-12])
        elif name == "garbled":
            connection.sendall(_response(200, b'{"ok":true,"resu'))
        elif name == "504_delivered":
            connection.sendall(_response(504, HTML_502, "text/html"))
        elif name == "drip":
            for byte in whole:
                if self._stop.wait(0.4):
                    return
                connection.sendall(bytes([byte]))

    def _judge(self, method: str, path: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """What the real server would say to a request that reached it."""
        if f"/bot{TOKEN}/" not in path:  # through a proxy the whole address is the path
            return 401, _error(401, "Unauthorized")
        if method == "getMe":
            return 200, {"ok": True, "result": {"id": 123456789, "username": "stand_in_bot"}}
        chat = str(request.get("chat_id", ""))
        if self.chats and chat not in self.chats:
            return 400, _error(400, "Bad Request: chat not found")
        if method == "getChat":
            return 200, {"ok": True, "result": {"id": chat, "type": "group", "title": "Ops"}}
        reason = bot_rules.refusal(method, request)
        if reason:
            return 400, _error(400, f"Bad Request: {reason}")
        with self._lock:
            self.messages.append(request)
            number = len(self.messages)
        return 200, {"ok": True, "result": {"message_id": number, "chat": {"id": chat}}}


def _error(code: int, description: str, **parameters: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {"ok": False, "error_code": code, "description": description}
    return {**answer, "parameters": parameters} if parameters else answer


def _scripted(name: str, value: str) -> tuple[int, dict[str, Any]] | None:
    if name == "429":
        parameters = {"retry_after": int(value)} if value else {}
        return 429, _error(429, f"Too Many Requests: retry after {value}", **parameters)
    if name == "migrate":
        text = "Bad Request: group chat was upgraded to a supergroup chat"
        return 400, _error(400, text, migrate_to_chat_id=int(value))
    if name.isdigit():
        return int(name), _error(int(name), value or "Internal Server Error")
    return None


def _response(status: int, body: bytes, kind: str = "application/json", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body


SIMPLE = {
    "502": _response(502, HTML_502, "text/html"),
    "503": _response(503, HTML_502, "text/html"),
    "504": _response(504, HTML_502, "text/html"),
    "429_html": _response(429, HTML_502, "text/html", "Retry-After: 3600\r\n"),
    "portal": _response(200, PORTAL, "text/html"),
    "portal_404": _response(404, PORTAL, "text/html"),
    "empty": _response(200, b""),
    "null": _response(200, b"null"),
    "no_result": _response(200, b'{"ok":true}'),
    "redirect": _response(307, b"", more="Location: http://127.0.0.1:9/elsewhere\r\n"),
    "no_http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "huge_header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000,
    "endless": b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 3_000_000,
}


def _reset(connection: Any) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _read_request(connection: Any) -> tuple[str, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    size = int(headers.get("content-length", 0))
    chunks, have = [body], len(body)
    while have < size:
        chunks.append(_some(connection))
        have += len(chunks[-1])
    return first.split()[1], headers, b"".join(chunks)


def _some(connection: Any) -> bytes:
    data = connection.recv(1 << 18)
    if not data:
        raise ConnectionError("the client went away")
    return bytes(data)


def _fields(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    kind = headers.get("content-type", "")
    if kind.startswith("application/json"):
        return dict(json.loads(body)) if body else {}
    if kind.startswith("multipart/form-data"):
        return _multipart(kind, body)
    return dict(urllib.parse.parse_qsl(body.decode()))


def _multipart(kind: str, body: bytes) -> dict[str, Any]:
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    found: dict[str, Any] = {}
    for part in parsed.iter_parts():  # type: ignore[attr-defined]
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        file_name = part.get_filename()
        if file_name is not None:
            found[str(name)] = {"name": file_name, "bytes": content}
        else:
            found[str(name)] = content.decode()
    return found
