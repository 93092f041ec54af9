"""A client of redis that counts what was acknowledged: SET n n, for n = 1, 2, 3, ..."""

import socket
import threading
import time


class Writer(threading.Thread):
    """Writes numbers under `prefix` until `stop`; `acknowledged` holds those the server confirmed.

    A connection that breaks is made anew, as a real client would do it.
    """

    def __init__(self, port: int, prefix: str) -> None:
        super().__init__(daemon=True)
        self.port, self.prefix = port, prefix
        self.acknowledged: list[int] = []
        self._over = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._over.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    while not self._over.is_set():
                        number += 1
                        if call(connection, "SET", f"{self.prefix}{number}", str(number)) == "+OK":
                            self.acknowledged.append(number)
            except OSError:
                time.sleep(0.01)

    def stop(self) -> list[int]:
        self._over.set()
        self.join(timeout=20)
        return self.acknowledged


def call(connection: socket.socket, *words: str) -> str:
    """Send one command and return the first line of its answer, of a bulk string its content."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    connection.sendall(request.encode())
    answer = b""
    while not answer.endswith(b"\r\n") or (answer[:1] == b"$" and answer.count(b"\r\n") < 2):
        received = connection.recv(4096)
        if not received:
            raise ConnectionError("the server closed the connection")
        answer += received
        if answer == b"$-1\r\n":
            break
    lines = answer.decode().split("\r\n")
    return lines[1] if lines[0].startswith("$") and lines[0] != "$-1" else lines[0]


def ask(port: int, *words: str) -> str | None:
    """One command on its own connection; None while the server does not answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return call(connection, *words)
    except OSError:
        return None
