#!/usr/bin/env python3
"""Check what a night depends on: one line each, with what mends it.

usage: doctor.py [--json] [--send-test]

    FAIL  telegram: TELEGRAM_BOT_TOKEN is not set in /opt/upkeep/.env -> cp .env.example .env

Exit codes: 0 all is well, 1 something is not, 2 usage.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli
from upkeep.errors import Exit

EXAMPLES = """\
  doctor.py               # is everything in place?
  doctor.py --send-test   # does a message arrive?
"""
CHECKS = (  # what is checked, the script that knows and its arguments, what mends it
    ("configuration and state", ("memory_sample.py", "--dry-run"), "bin/setup, upkeep.toml"),
    ("telegram", ("telegram_alert.py", "--dry-run", "a test"), "cp .env.example .env; fill it in"),
    ("cron and logrotate", ("install.py", "--verify"), "bin/install.py"),
    ("programs", ("status.py",), "bin/status.py, then bin/restart.py NAME"),
    ("jobs", ("run_job.py", "--status"), "bin/run_job.py --status, then <state>/log/job-NAME.log"),
)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = cli.parser(__doc__, EXAMPLES)
    made.add_argument("--send-test", action="store_true", help="send a message to Telegram")
    cli.add_dry_run(made)
    cli.add_json(made)
    return made


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Ask every script, and show what it found."""
    options = parser().parse_args(argv)
    given, found = ["--config", options.config] if options.config else [], []
    for check, (script, *words), mend in CHECKS:
        if check == "telegram" and options.send_test:
            words.remove("--dry-run")
        command = [sys.executable, str(CHECKOUT / "bin" / script), *given, *words]
        if options.dry_run:  # install.py --verify, which is asked below, would ask us again
            print("would run:", *command)
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stderr or done.stdout).strip().split("\n")[-1] if done.returncode else ""
        found.append({"check": check, "ok": not done.returncode, "detail": said, "mend": mend})
        if not options.json:
            print(f"FAIL  {check}: {said} -> {mend}" if done.returncode else f"ok    {check}")
    if options.json:
        cli.print_json({"checks": found})
    return Exit.DONE if all(each["ok"] for each in found) else Exit.PROBLEM


if __name__ == "__main__":
    raise SystemExit(main())
