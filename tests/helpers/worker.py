"""A program to be looked after. Says "ready PID", then does what its arguments ask for.

worker.py [--ignore SIGNAL]... [--child | --setsid-child | --orphan | --hidden-child]
          [--daemon PIDFILE] [--exit STATUS] [--after SECONDS] [--grow MIB] [--fds N]
          [--listen PORT] [--append FILE] [--print-environment]
"""

import argparse
import json
import os
import signal
import sys
import time


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # in one piece: parent and child share the log


def stay() -> None:
    while True:
        time.sleep(60)


def child(own_session: bool, orphan: bool, hidden: bool) -> None:
    if os.fork() == 0:
        if own_session or orphan:
            os.setsid()
        if orphan and os.fork():
            os._exit(0)
        say(f"child {os.getpid()}")
        if hidden:
            hide()
        stay()


def hide() -> None:
    """Overwrite the environment, as programs do that set their title, and leave the log."""
    import ctypes

    with open("/proc/self/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    begin, end = int(fields[47]), int(fields[48])  # proc(5): env_start, env_end
    ctypes.memset(begin, 0, end - begin)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def daemonise(pid_file: str) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    if pid_file != "-":
        with open(pid_file, "w") as file:
            file.write(f"{os.getpid()}\n")


def append(path: str) -> None:
    """Write to `path` ever again: on a frozen file system that blocks."""
    with open(path, "ab", buffering=0) as file:
        while True:
            file.write(b"x")
            time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ignore", action="append", default=[])
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--setsid-child", action="store_true")
    parser.add_argument("--orphan", action="store_true")
    parser.add_argument("--hidden-child", action="store_true")
    parser.add_argument("--daemon")
    parser.add_argument("--exit", type=int)
    parser.add_argument("--after", type=float, default=0.0)
    parser.add_argument("--grow", type=int, default=0)
    parser.add_argument("--fds", type=int, default=0)
    parser.add_argument("--listen", type=int)
    parser.add_argument("--append")
    parser.add_argument("--print-environment", action="store_true")
    options = parser.parse_args()
    for name in options.ignore:
        signal.signal(signal.Signals["SIG" + name], signal.SIG_IGN)
    if options.daemon:
        daemonise(options.daemon)
    kept = [bytearray(b"x" * (options.grow << 20)), [os.dup(0) for _ in range(options.fds)]]
    if options.child or options.setsid_child or options.orphan or options.hidden_child:
        child(options.setsid_child, options.orphan, options.hidden_child)
    if options.print_environment:
        with open("/proc/self/status") as status:
            ignored = next(line.split()[1] for line in status if line.startswith("SigIgn"))
        fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
        about = {"env": dict(os.environ), "ignored": ignored, "fds": fds, "cwd": os.getcwd()}
        about["stdin"] = os.readlink("/proc/self/fd/0")
        print(json.dumps(about), flush=True)
    if options.listen is not None:
        import socket

        kept.append(socket.create_server(("127.0.0.1", options.listen)))
    say(f"ready {os.getpid()}")
    if options.append:
        append(options.append)
    if options.exit is not None:
        time.sleep(options.after)
        sys.exit(options.exit)
    stay()


main()
