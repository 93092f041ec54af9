#!/usr/bin/env python3
"""Send a message to Telegram; what cannot be sent now waits in the outbox and is never lost.

Usage:
    telegram_alert.py "backup failed on db1"
    backup 2>&1 | telegram_alert.py --title "backup" -
    telegram_alert.py --flush

The token and the chats come from the environment or .env: TELEGRAM_BOT_TOKEN, TELEGRAM_CHAT_ID
(several with commas), optional TELEGRAM_THREAD_ID, TELEGRAM_API_BASE and HTTPS_PROXY.

Exit status: 0 delivered · 1 refused by Telegram · 2 usage, or no token or chat (the text is then
printed) · 3 .env can be read by other users · 5 queued for later.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, message
from upkeep.errors import Exit, OperatorError
from upkeep.outbox import LEVELS, Letter, Outbox

EXAMPLES = """\
  telegram_alert.py "backup failed on db1"         # tell the chats in .env
  dmesg | tail -50 | telegram_alert.py -           # send what stands on stdin
  telegram_alert.py --flush                        # send what waits in the outbox (from cron)
"""
STDIN_MOST_BYTES = 20_000_000


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_dry_run(made)
    made.add_argument("text", nargs="?", metavar="TEXT", help="the message; - reads stdin")
    made.add_argument("--title", default="", help="a first line in bold")
    made.add_argument("--level", choices=LEVELS, default="warning", help="info is silent")
    made.add_argument("--flush", action="store_true", help="send what waits in the outbox")
    return made


def read_text(given: str | None) -> str:
    """The message from TEXT or stdin. Raises OperatorError when there is none."""
    if given in (None, "-"):
        given = message.clean(sys.stdin.buffer.read(STDIN_MOST_BYTES))
    found = message.clean(given or "")
    if not found.strip():
        raise OperatorError("nothing to send: the text is empty", Exit.USAGE)
    return found


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    if options.flush and Outbox(settings.state / "outbox").is_empty():
        return Exit.DONE
    body = "" if options.flush else read_text(options.text)
    from upkeep import telegram

    account = telegram.account(settings)
    if not account or not account.chats:
        if body:
            print(body)
        missing = "TELEGRAM_CHAT_ID" if account else "TELEGRAM_BOT_TOKEN"
        raise OperatorError(f"{missing} is not set: put it into {settings.env_file}", Exit.USAGE)
    post = telegram.Post(settings, account)
    rich = message.report(options.title, message.whole(body))
    model = Letter("", "", level=options.level, ttl=settings.telegram.expire_after)
    if options.dry_run:
        waiting = post.outbox.letters()
        for letter in waiting if options.flush else telegram.letters(rich, account.chats, model):
            print(f"would send to {letter.chat}: {letter.text}")
        return Exit.DONE
    letters = [] if options.flush else telegram.letters(rich, account.chats, model)
    stored = [post.outbox.put(letter) for letter in letters] or post.outbox.letters()
    post.flush()
    if account.unsafe:
        raise OperatorError(account.unsafe, Exit.REFUSED)
    fates = [post.fate(letter) for letter in stored]
    for why in {fate.why for fate in fates if fate.code}:
        cli.warn(f"not delivered: {why}")
    return max(fate.code for fate in fates)


if __name__ == "__main__":
    raise SystemExit(main())
