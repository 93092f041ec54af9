#!/usr/bin/env python3
"""Check what a night depends on: one line each, with what mends it.

usage: doctor.py [--json] [--send-test]

    ok    packages
    note  telegram: no token: alerts go to the log and stderr only -> cp .env.example .env; ...
    FAIL  programs: trader is dead -> bin/restart.py NAME

Exit codes: 0 all is well, or only noted; 1 something is not; 2 usage or configuration.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli, config, files, proc, units
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError

EXAMPLES = """\
  doctor.py               # is everything in place?
  doctor.py --send-test   # does a message arrive?
"""
LEAST_FREE_BYTES = 16 << 20  # in the file system of the state directory
STALE_SECONDS = 900.0  # samples are taken every 300
CLOCK_SLACK_SECONDS = 60.0
TIME_ERROR = 5  # adjtimex(2): no time server keeps the clock

# Returns what is worth a note, "" for nothing. Raises OperatorError or OSError.
Check = Callable[[Config], str]


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = cli.parser(__doc__, EXAMPLES)
    made.add_argument("--send-test", action="store_true", help="send a message to Telegram")
    cli.add_dry_run(made)
    cli.add_json(made)
    return made


def packages(_: Config) -> str:
    """The packages of others."""
    cli.require(*cli.PACKAGES)
    return ""


def state(settings: Config) -> str:
    """Whether the state can be written, and read by nobody else."""
    files.make_directory(settings.state)
    if not os.access(settings.state, os.W_OK):
        raise OperatorError(f"{settings.state} can't be written")
    if settings.state.stat().st_mode & 0o077:
        raise OperatorError(f"{settings.state} is open to others")
    disk = os.statvfs(settings.state)
    if (free := disk.f_bavail * disk.f_frsize) < LEAST_FREE_BYTES:
        raise OperatorError(f"{settings.state}: only {units.format_size(free)} are free")
    return ""


def clock(settings: Config) -> str:
    """Whether the clock is behind what was written before, or nobody keeps it."""
    written = [Path(__file__)]
    for pattern in ("*.json", "*.jsonl", "jobs/*.json", "memory/*.jsonl"):
        written += settings.state.glob(pattern)
    newest = max(written, key=lambda file: file.stat().st_mtime)
    behind = newest.stat().st_mtime - time.time()
    if behind > CLOCK_SLACK_SECONDS:
        raise OperatorError(f"{units.format_duration(behind)} behind the time of {newest}")
    unkept = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == TIME_ERROR
    return "no time server keeps it" if unkept else ""


def samples(settings: Config) -> str:
    """Whether cron goes on taking them, and node_exporter is given them."""
    expected = sorted((settings.state / "memory").glob("*.jsonl"))[-1:]
    if settings.prometheus:
        expected.append(settings.prometheus / "upkeep_memory.prom")
    ages = {file: min(time.time() - file.stat().st_mtime, proc.uptime()) for file in expected}
    return refuse(
        f"{file} is {units.format_duration(age)} old"
        for file, age in ages.items()
        if age > STALE_SECONDS
    )


def telegram(settings: Config) -> str:
    """Whether the token and the chats are good, and whether messages wait."""
    from upkeep import account
    from upkeep.telegram import Post

    stored, unsafe = account.stored(settings.env_file)
    if unsafe:
        raise OperatorError(unsafe)
    if not {"TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID"} & (stored.keys() | os.environ.keys()):
        return "no token: alerts go to the log and stderr only"
    post = Post(settings)
    refuse(f"{name}: {why}" for name, why in post.check().items() if why)
    waiting, dead = len(post.outbox.paths()), len(list(post.outbox.dead.glob("*.json")))
    return f"{waiting} messages wait, {dead} were refused" if waiting or dead else ""


def refuse(faults: Iterable[str]) -> str:
    """Raises OperatorError that names `faults`, if there are any."""
    if told := ", ".join(faults):
        raise OperatorError(told)
    return ""


def ask(settings: Config, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the suite."""
    given = ["--config", str(settings.file)] if settings.file else []
    command = [sys.executable, str(CHECKOUT / "bin" / script), *given, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def passes(script: str, *words: str) -> Check:
    """A check that a script makes; the last line on its stderr says what is wrong."""

    def check(settings: Config) -> str:
        done = ask(settings, script, *words)
        said = done.stderr.strip().split("\n")[-1].partition(": ")[2]
        why = said or f"{script}: exit status {done.returncode}"
        return refuse([why] if done.returncode else [])

    return check


def rows(settings: Config, key: str, script: str, *words: str) -> list[dict[str, Any]]:
    """What a script lists under `key`. Raises OperatorError."""
    done = ask(settings, script, *words, "--json")
    if not done.stdout:
        raise OperatorError(done.stderr.strip())
    found: list[dict[str, Any]] = json.loads(done.stdout)[key]
    return found


def programs(settings: Config) -> str:
    """Whether all tasks are as wanted."""
    found = rows(settings, "results", "status.py")
    bad = ("dead", "failing", "given_up")
    return refuse(f"{row['task']} is {row['state']}" for row in found if row["state"] in bad)


def jobs(settings: Config) -> str:
    """Whether all jobs succeed; without our own, which fails as long as anything does."""
    found = rows(settings, "jobs", "run_job.py", "--status")
    bad = (row for row in found if not row["ok"] and row["job"] != "doctor")
    return refuse(
        "{job} ({failures} failed, {skipped} skipped, {missed} missed)".format(**row) for row in bad
    )


CHECKS: tuple[tuple[str, Check, str], ...] = (  # its name, what it does, what mends it
    ("packages", packages, "bin/setup"),
    ("state directory", state, "chmod 700 it, chown it, make room"),
    ("clock", clock, "timedatectl set-ntp true"),
    ("telegram", telegram, "cp .env.example .env; fill it in; bin/telegram_alert.py --check"),
    ("cron", passes("install.py", "--verify", "--only", "cron"), "bin/install.py"),
    ("logrotate", passes("install.py", "--verify", "--only", "logrotate"), "bin/install.py"),
    ("samples", samples, "bin/memory_sample.py -v; is it run by cron?"),
    ("programs", programs, "bin/status.py, then bin/restart.py NAME"),
    ("jobs", jobs, "bin/run_job.py --status, then <state>/log/job-NAME.log"),
)
SEND = ("message", passes("telegram_alert.py", "A test message of upkeep's doctor."), ".env")


def finding(settings: Config, name: str, check: Check, mend: str) -> dict[str, Any]:
    """What one check found."""
    result = {"check": name, "ok": True, "mend": mend}
    try:
        return {**result, "detail": check(settings)}
    except OperatorError as error:
        why = str(error)
    except OSError as error:
        why = f"{error.filename or settings.state}: {error.strerror}"
    return {**result, "ok": False, "detail": why}


def line(found: dict[str, Any]) -> str:
    """A finding as people read it."""
    if found["ok"] and not found["detail"]:
        return f"ok    {found['check']}"
    level = "note" if found["ok"] else "FAIL"
    return f"{level}  {found['check']}: {found['detail']} -> {found['mend']}"


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Make every check, and show what was found."""
    options = parser().parse_args(argv)
    if options.dry_run:  # install.py --verify, which is asked below, would ask us again
        print("would check:", ", ".join(name for name, _, _ in CHECKS))
        return Exit.DONE
    settings = config.load(options.config)
    checks = (*CHECKS, SEND) if options.send_test else CHECKS
    found = [finding(settings, *check) for check in checks]
    if options.json:
        cli.print_json({"checks": found})
    else:
        print("\n".join(map(line, found)))
    return Exit.DONE if all(each["ok"] for each in found) else Exit.PROBLEM


if __name__ == "__main__":
    raise SystemExit(main())
