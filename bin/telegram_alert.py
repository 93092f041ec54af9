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
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, episodes, units
from upkeep.errors import Exit, OperatorError
from upkeep.outbox import Letter, Outbox

if TYPE_CHECKING:  # an empty flush does without
    from upkeep.alerts import Alerts

EXAMPLES = """\
  telegram_alert.py "backup failed on db1"         # tell the chats in .env
  telegram_alert.py --key db1 "db1 is down"        # at most one message in 15 minutes
  telegram_alert.py --resolve db1 "db1 is back"    # one message, if the problem was told
  telegram_alert.py --flush                        # send what waits, from cron
"""
FILE_MOST_BYTES = 50_000_000
STDIN_MOST_BYTES = 4_000_000
CHECK_TEXT = "upkeep sends this to check the way."


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


def status(outbox: Outbox, now: float) -> dict[str, Any]:
    """What waits, and until when which of API, token and chats are not asked (Unix seconds)."""
    from upkeep.breaker import API, LIMIT, Breaker

    breaker = Breaker(outbox.root / "breaker.json")
    ages = [letter.age(now) for letter in outbox.letters()]
    ends = {name: breaker.open_until(now, name) for name in breaker.records}
    whole = max(ends.pop(API, 0.0), ends.pop(LIMIT, 0.0))
    return {
        "queued": len(ages),
        "oldest_age_seconds": max(ages, default=0.0),
        "dead": len(list(outbox.dead.glob("*.json*"))),
        "breaker_open_until": whole or None,
        "holds": {name: until for name, until in ends.items() if until},
    }


def show_status(found: dict[str, Any], as_json: bool) -> None:
    """Print it."""
    if as_json:
        return cli.print_json(found)
    oldest = units.format_duration(found["oldest_age_seconds"])
    print(f"{found['queued']} waiting" + (f", the oldest for {oldest}" if found["queued"] else ""))
    print(f"{found['dead']} given up")
    held = {"Telegram": found["breaker_open_until"], **found["holds"]}
    for name, until in held.items():
        if until:
            print(f"{name}: not asked before {units.local_time(until)}")
    return None


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


def refuse_contradictions(options: argparse.Namespace) -> None:
    """Let no message be dropped for an option beside it. Raises OperatorError."""
    modes = [name for name in ("flush", "check", "status") if getattr(options, name)]
    given = ("text", "title", "document", "photo", "key", "resolve")
    message = [name for name in given if getattr(options, name)]
    if len(modes) > 1 or (modes and message):
        raise OperatorError(f"--{modes[0]} stands alone, without a message", Exit.USAGE)
    for one, other in (("key", "resolve"), ("document", "photo")):
        if {one, other} <= set(message):
            raise OperatorError(f"give --{one} or --{other}, not both", Exit.USAGE)


def given_text(options: argparse.Namespace) -> str:
    """The text to send: of the command line, or of stdin. Raises OperatorError."""
    from upkeep import message

    given, file = options.text, options.document or options.photo
    if given == "-" or (given is None and not file):
        given = sys.stdin and sys.stdin.buffer.read(STDIN_MOST_BYTES)  # None when it was closed
    text = message.clean(given or "")
    shown = message.plain(text) if options.style == "HTML" else text
    if not shown.strip() and not file:
        raise OperatorError("nothing to send: the text is empty", Exit.USAGE)
    return text


def letter_like(options: argparse.Namespace, settings: config.Config) -> Letter:
    """What the options say about each letter of the message. Raises OperatorError."""
    from upkeep.account import parse_chat

    chat, thread = parse_chat(options.chat) if options.chat else ("", "")
    return Letter(
        chat,
        thread=thread,
        style=options.style or ("bold" if options.title else ""),
        upload="photo" if options.photo else "document",  # if there is a file
        file_name=Path(options.document or options.photo or "").name,
        silent=options.silent or options.check,
        ttl=options.ttl or settings.telegram.expire_after,
    )


def accept(options: argparse.Namespace, alerts: "Alerts", text: str, again_after: float) -> None:
    """Store the message, unless it is a repeat."""
    if options.key:
        again_after = again_after if options.repeat_after is None else options.repeat_after
        alerts.repeated(options.key, options.title, text, options.level, again_after)
    elif options.resolve:
        alerts.recovered(options.resolve, options.title, text)
    elif options.flush:
        alerts.tell_quiet()
    else:
        alerts.inform(options.title, text, options.level)


def deliver(options: argparse.Namespace, settings: config.Config, outbox: Outbox) -> int:
    """Accept the message of the command line, if there is one, and send all that waits."""
    from upkeep.alerts import Alerts
    from upkeep.telegram import Post

    text = CHECK_TEXT if options.check else ""
    if not options.check and not options.flush:
        text = given_text(options)
    try:
        post = Post(settings)
    except OperatorError:
        print(text, end="\n" if text else "")
        raise
    alerts = Alerts(settings, post)
    alerts.model = letter_like(options, settings)
    if options.dry_run:
        chats = ", ".join(":".join(filter(None, each)) for each in post.account.chats)
        what = (options.title, text, options.document or options.photo)
        waiting = [letter.text for letter in outbox.letters()]
        for each in waiting if options.flush else [" ".join(filter(None, what))]:
            print(f"would send to {options.chat or chats}: {each}")
        return Exit.DONE
    findings = post.check() if options.check else {}
    for name, why in findings.items():
        print(f"{name}: {why or 'good'}")
    if any(findings.values()):
        return Exit.REFUSED if post.account.unsafe else Exit.PROBLEM
    file, code = options.document or options.photo, Exit.DONE
    if file:
        alerts.attached, text = read_file(Path(file), text)
        code = Exit.DONE if alerts.attached is not None else Exit.PROBLEM
    accept(options, alerts, text, settings.telegram.repeat_after)
    letters = outbox.letters() if options.flush else alerts.written
    post.flush(options.budget)
    fates = [post.fate(letter) for letter in letters]
    for why in {why for late, why in fates if late}:
        cli.warn(f"not delivered: {why}")
    return Exit.REFUSED if post.account.unsafe else max([code, *(late for late, _ in fates)])


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    options = parser().parse_args(argv)
    refuse_contradictions(options)
    settings = config.load(options.config)
    outbox, now = Outbox(settings.state / "outbox"), time.time()
    if options.status:
        show_status(status(outbox, now), options.json)
        return Exit.DONE
    quiet = episodes.went_quiet(episodes.read(settings.state), now)
    if options.flush and not outbox.paths() and not quiet:
        return Exit.DONE
    return deliver(options, settings, outbox)


if __name__ == "__main__":
    raise SystemExit(main())
