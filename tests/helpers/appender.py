"""Appends numbered records to a JSONL file until SIGTERM: appender.py FILE held|reopened.

Prints "ready", and in the end how many it has written.
"""

import json
import signal
import sys
import time


def main() -> None:
    path, how = sys.argv[1:]
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    print("ready", flush=True)
    written = 0
    file = open(path, "ab", buffering=0)
    while not stopped:
        line = json.dumps({"timestamp": time.time(), "number": written, "pad": "x" * 60}) + "\n"
        if how == "reopened":
            file.close()
            file = open(path, "ab", buffering=0)
        file.write(line.encode())
        written += 1
        if written % 20 == 0:
            if how == "reopened":  # now and then nobody has it open
                file.close()
            time.sleep(0.001)
    print(written, flush=True)


if __name__ == "__main__":
    main()
