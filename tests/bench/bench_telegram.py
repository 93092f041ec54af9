"""telegram_alert.py beside its peers in one run: python -m tests.bench.bench_telegram [RUNS]

Prints one row for each figure and ends with 1 when a goal is missed. apprise is a peer when it is
installed for this Python (it makes one try, keeps nothing and marks nothing).
"""

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import row
from tests.helpers import ROOT
from tests.helpers.bot_api import CHAT, TOKEN, BotApi

ALERT = [sys.executable, str(ROOT / "bin/telegram_alert.py"), "--config"]
PEER = """
import os, sys, requests
url = f"{os.environ['TELEGRAM_API_BASE']}/bot{os.environ['TELEGRAM_BOT_TOKEN']}/sendMessage"
answer = requests.post(url, json={"chat_id": os.environ["TELEGRAM_CHAT_ID"], "text": sys.argv[1]})
answer.raise_for_status()
"""
APPRISE = """
import sys, apprise
sender = apprise.Apprise()
sender.add(sys.argv[1])
sys.exit(not sender.notify(body=sys.argv[2]))
"""


def medians(commands: dict[str, list[str]], env: dict[str, str], runs: int) -> dict[str, float]:
    """Milliseconds of each command: the median of `runs` interleaved runs."""
    walls: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(runs):
        env = {**env, "TELEGRAM_CHAT_ID": str(1000 + number)}  # its burst is not used up
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
            walls[name].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(found) for name, found in walls.items()}


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    home = Path(tempfile.mkdtemp(prefix="bench-telegram-"))
    file = home / "upkeep.toml"
    file.write_text("")
    with BotApi() as api:
        env = {**os.environ, **api.env}
        commands = {
            "bare": [sys.executable, "-c", "pass"],
            "flush": [*ALERT, str(file), "--flush"],
            "send": [*ALERT, str(file), "hello"],
            "requests": [sys.executable, "-c", PEER, "hello"],
        }
        if importlib.util.find_spec("apprise"):
            # apprise has no setting for the server; its import and set-up are what is compared
            url = f"json://127.0.0.1:{api.port}/bot{TOKEN}/getMe?chat={CHAT}"
            commands["apprise"] = [sys.executable, "-c", APPRISE, url, "hello"]
        found = medians(commands, env, runs)
    good = [
        row("empty flush", found["flush"], "bare interpreter", found["bare"], 4.0),
        row("send", found["send"], "a script with requests.post", found["requests"], 1.2),
    ]
    if "apprise" in found:
        good.append(row("send", found["send"], "apprise", found["apprise"], 1.0))
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
