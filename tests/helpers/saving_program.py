"""A program as a user would write it: works in a loop and saves once when it is told to end.

usage: saving_program.py FILE [raise | slow | fails | fork | leave | thread]
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lib"))

from upkeep.daemon import GracefulShutdown

FILE, MODE = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""


def save() -> None:
    with open(FILE, "a") as file:
        file.write("saved\n")
    if MODE == "slow":
        print("saving", flush=True)
        sys.stdin.readline()
    if MODE == "fails":
        raise OSError("cannot save")


def save_more() -> None:
    with open(FILE, "a") as file:
        file.write("more\n")


signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"usr1\n"))  # print may be at work already
with GracefulShutdown(save, save_more) as shutdown:
    if MODE == "fork":
        awake, tell = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.write(tell, b"!")
            shutdown.sleep(60)
            os._exit(7)
        os.read(awake, 1)
        print(f"worker {worker}", flush=True)
    if MODE == "leave" and os.fork() == 0:
        sys.exit(0)
    if MODE == "thread":
        threading.Thread(target=lambda: print(f"thread {shutdown.sleep(60)}", flush=True)).start()
    print("ready", flush=True)
    if MODE == "raise":
        raise RuntimeError("a bug")
    while not shutdown.requested:
        begin = time.monotonic()
        shutdown.sleep(60)
        if not shutdown.requested and time.monotonic() - begin < 60:
            print("woken early", flush=True)
print("end", flush=True)
