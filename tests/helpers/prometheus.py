"""Real Prometheus, node_exporter and Alertmanager on loopback ports, as Debian packages them."""

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import wait_until

_DAEMONS = ("prometheus", "prometheus-node-exporter", "prometheus-alertmanager")


def require() -> None:
    """Skip the test where one of the programs is missing."""
    missing = [name for name in (*_DAEMONS, "promtool", "amtool") if not shutil.which(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def free_port() -> int:
    """A port of the loopback device that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def served(command: list[str], port: int, ready: str) -> Iterator[str]:
    """Run a daemon until it answers on `ready`; its address. It is killed in the end."""
    base = f"http://127.0.0.1:{port}"
    log = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=log, stderr=log, cwd="/") as daemon:
        try:
            wait_until(lambda: daemon.poll() is not None or fetch(base + ready) is not None)
            assert daemon.poll() is None, f"{command} ended with {daemon.returncode}"
            yield base
        finally:
            daemon.kill()


def fetch(url: str) -> str | None:
    """What `url` answers; None when nobody does, or with an error."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def node_exporter(textfiles: Path) -> contextlib.AbstractContextManager[str]:
    """node_exporter that reads `textfiles` and nothing else."""
    port = free_port()
    command = ["prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile"]
    command += [f"--collector.textfile.directory={textfiles}"]
    return served([*command, f"--web.listen-address=127.0.0.1:{port}"], port, "/metrics")


def prometheus(place: Path, config: str) -> contextlib.AbstractContextManager[str]:
    """Prometheus with the configuration `config`; its data lie below `place`."""
    port, file = free_port(), place / "prometheus.yml"
    file.write_text(config)
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={place}/tsdb"]
    return served([*command, f"--web.listen-address=127.0.0.1:{port}"], port, "/-/ready")


def alertmanager(place: Path, config: str) -> contextlib.AbstractContextManager[str]:
    """Alertmanager with the configuration `config`, alone in its cluster."""
    port, file = free_port(), place / "alertmanager.yml"
    file.write_text(config)
    command = ["prometheus-alertmanager", f"--config.file={file}", "--cluster.listen-address="]
    command += [f"--storage.path={place}/am", f"--web.listen-address=127.0.0.1:{port}"]
    return served(command, port, "/-/ready")


def query(base: str, expression: str) -> list[dict[str, Any]]:
    """The instant vector that `expression` gives; the test fails on an error in it."""
    answer = fetch(f"{base}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    assert answer is not None, f"not accepted by Prometheus: {expression}"
    found: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
    return found


def firing(base: str) -> dict[str, str]:
    """The alerts that fire now, by name, each with its summary."""
    alerts = json.loads(fetch(f"{base}/api/v1/alerts") or "{}").get("data", {}).get("alerts", [])
    return {
        each["labels"]["alertname"]: each["annotations"]["summary"]
        for each in alerts
        if each["state"] == "firing"
    }
