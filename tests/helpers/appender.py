"""Appends numbered records to a JSONL file: appender.py FILE RECORDS [held|reopened]."""

import json
import sys
import time


def main() -> None:
    path, count, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    file = open(path, "ab", buffering=0)
    print("ready", flush=True)
    for number in range(count):
        line = json.dumps({"timestamp": time.time(), "number": number, "pad": "x" * 60}) + "\n"
        if how == "reopened":
            with open(path, "ab", buffering=0) as again:
                again.write(line.encode())
        else:
            file.write(line.encode())
        if number == 0 and how == "reopened":
            file.close()


if __name__ == "__main__":
    main()
