#!/usr/bin/env python3
"""Send a message to Telegram; what cannot be sent now waits in the outbox and is sent later.

Usage: telegram_alert.py [OPTIONS] [TEXT | -], or --flush, or --status

The token and the chats come from the environment or .env: TELEGRAM_BOT_TOKEN, TELEGRAM_CHAT_ID
(several with commas), and if needed TELEGRAM_THREAD_ID, TELEGRAM_API_BASE, HTTPS_PROXY.

    telegram_alert: not delivered: Bot API: connection refused; not asked again before 2026-...

Exit status: 0 delivered, or suppressed as a repeat · 1 refused · 2 usage, or no token or chat (the
text is then printed) · 3 .env can be read by other users · 5 queued for later.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, message
from upkeep.errors import Exit, OperatorError
from upkeep.outbox import Letter, Outbox

EXAMPLES = """\
  telegram_alert.py "backup failed on db1"         # tell the chats in .env
  telegram_alert.py --key db1 "db1 is down"        # at most one message in 15 minutes
  telegram_alert.py --resolve db1 "db1 is back"    # one message, if the problem was told
  telegram_alert.py --flush                        # send what waits, from cron
"""
FILE_MOST_BYTES = 50_000_000


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = cli.parser(__doc__, EXAMPLES)
    made._negative_number_matcher = re.compile(r"-\d+(:\d+)?$")  # a group's number is no option
    cli.add_dry_run(made)
    cli.add_json(made)
    add = made.add_argument
    add("text", nargs="?", metavar="TEXT", help="the message; - reads stdin")
    add("--title", default="", help="a first line in bold")
    add("--html", dest="style", action="store_const", const="HTML", help="TEXT is Telegram's HTML")
    add("--pre", dest="style", action="store_const", const="pre", help="keep the columns of TEXT")
    add("--document", metavar="FILE", help="send this file, too, with TEXT as its caption")
    add("--photo", metavar="FILE", help="the same for a picture")
    add("--chat", metavar="ID[:THREAD]", help="another chat than those in .env")
    add("--level", choices=("info", "warning", "critical"), default="warning", help="info: silent")
    add("--silent", action="store_true", help="make no sound")
    add("--key", help="a problem: its repeats are counted instead of sent")
    add("--repeat-after", type=cli.duration, metavar="D", help="with --key: send one every D")
    add("--resolve", metavar="KEY", help="the problem is over: say so, if it was told")
    add("--ttl", type=cli.duration, metavar="D", help="give it up after D")
    add("--budget", type=cli.duration, metavar="D", help="try for D at most")
    add("--flush", action="store_true", help="send what waits in the outbox")
    add("--check", action="store_true", help="try the token and each chat, send a silent message")
    add("--status", action="store_true", help="tell what waits, and until when")
    return made


def status(outbox: Outbox, state: Path, now: float) -> dict[str, object]:
    """What waits, and until when which of api, token and chats are not asked (Unix seconds)."""
    from upkeep.breaker import Breaker

    breaker = Breaker(state / "outbox/breaker.json")
    ages = [letter.age(now) for letter in outbox.letters()]
    ends = {name: breaker.open_until(now, name) for name in breaker.records}
    dead, until = len(list(outbox.dead.glob("*.json*"))), ends.pop("api", 0.0) or None
    found = {"queued": len(ages), "oldest_age_seconds": max(ages, default=0.0), "dead": dead}
    return {**found, "breaker_open_until": until, "holds": {k: v for k, v in ends.items() if v}}


def read_file(file: Path, text: str) -> tuple[bytes | None, str]:
    """The content of `file` and the text; what can't be sent becomes a line of the text."""
    try:
        if 0 < file.stat().st_size <= FILE_MOST_BYTES:
            return file.read_bytes(), text
        why = "it is empty, or larger than the 50 MB that Telegram takes"
    except OSError as error:
        why = error.strerror or ""
    cli.warn(f"{file}: not sent: {why}")
    return None, f"{text}\n({file.name} could not be sent: {why})".lstrip()


def deliver(options: argparse.Namespace, settings: config.Config, text: str) -> int:
    """Store the message, unless it is a repeat, and send all that waits."""
    from upkeep.alerts import Alerts
    from upkeep.telegram import Post, parse_chat

    try:
        post = Post(settings)
    except OperatorError:
        print(text, end="\n" if text else "")
        raise
    chat, thread = parse_chat(options.chat) if options.chat else ("", "")
    file, attached = options.document or options.photo, None
    if file:
        attached, text = read_file(Path(file), text)
    if options.dry_run:
        for each in [text] if text else [letter.text for letter in post.outbox.letters()]:
            print(f"would send to {chat or post.chats}: {options.title} {each}")
        return Exit.DONE
    style = options.style or ("bold" if options.title else "")
    findings = post.check() if options.check else {}
    print(*(f"{name}: {why or 'good'}\n" for name, why in findings.items()), sep="", end="")
    if any(findings.values()):
        return Exit.PROBLEM
    alerts, ttl = Alerts(settings, post), options.ttl or settings.telegram.expire_after
    alerts.model = Letter(chat, "", thread, style, silent=options.silent or options.check, ttl=ttl)
    if attached is not None:
        upload, alerts.attached = "document" if options.document else "photo", attached
        alerts.model = replace(alerts.model, upload=upload, file_name=Path(file).name)
    if options.key:
        again = options.repeat_after
        again = settings.telegram.repeat_after if again is None else again
        alerts.repeated(options.key, options.title, text, options.level, again)
    elif options.resolve:
        alerts.recovered(options.resolve, options.title, text)
    elif text or file:
        alerts.inform(options.title, text, options.level)
    letters = alerts.written if text or file else post.outbox.letters()
    post.flush(options.budget)
    fates = [post.fate(letter) for letter in letters]
    for why in {why for code, why in fates if code}:
        cli.warn(f"not delivered: {why}")
    codes = [*(code for code, _ in fates), Exit.PROBLEM if file and attached is None else Exit.DONE]
    return Exit.REFUSED if post.unsafe else max(codes)


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    outbox = Outbox(settings.state / "outbox")
    if options.status:
        cli.print_json(status(outbox, settings.state, time.time()))
        return Exit.DONE
    if options.flush:
        return deliver(options, settings, "") if outbox.names() else Exit.DONE
    if options.check:
        return deliver(options, settings, "upkeep sends this to check the way.")
    file = options.document or options.photo
    from_stdin = options.text == "-" or (options.text is None and not file)
    given = sys.stdin and sys.stdin.buffer.read(4_000_000) if from_stdin else options.text
    text = message.clean(given or "")  # stdin is None when it was closed
    if not text.strip() and not file:
        raise OperatorError("nothing to send: the text is empty", Exit.USAGE)
    return deliver(options, settings, text)


if __name__ == "__main__":
    raise SystemExit(main())
