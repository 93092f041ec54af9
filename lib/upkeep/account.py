"""Who sends and who is told: the bot's token and the chats, from the environment or .env."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from upkeep import cli, text
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Account:
    """One bot and the chats that it tells. `unsafe` says why nothing may be sent; "": it may."""

    token: str = field(repr=False)
    chats: list[tuple[str, str]]  # each with its thread
    base: str = "https://api.telegram.org"
    proxies: dict[str, str] = field(default_factory=dict)
    unsafe: str = ""

    @property
    def name(self) -> str:
        """What stands for the token on the disk."""
        import hashlib  # it brings 4 MiB of OpenSSL, and few runs send anything

        return "token " + hashlib.sha256(self.token.encode()).hexdigest()[:8]


def load(settings: Config) -> Account:
    """The account of this installation. Raises OperatorError without token or chat."""
    known_here, unsafe = stored(settings.env_file)
    known = known_here | dict(os.environ)
    token = known.get("TELEGRAM_BOT_TOKEN", "").strip()
    text.remember_secret(token)
    chats = [each for each in known.get("TELEGRAM_CHAT_ID", "").split(",") if each.strip()]
    for value, name in ((token, "TELEGRAM_BOT_TOKEN"), (chats, "TELEGRAM_CHAT_ID")):
        if not value:
            raise OperatorError(f"{name} is not set in {settings.env_file}", Exit.USAGE)
    thread = known.get("TELEGRAM_THREAD_ID", "")
    return Account(
        token,
        list(dict.fromkeys(parse_chat(each, thread) for each in chats)),
        (known.get("TELEGRAM_API_BASE") or Account.base).rstrip("/"),
        # requests itself knows those of the environment, and where NO_PROXY forbids them
        {
            name[:-6].lower(): known[name]
            for name in PROXIES
            if name in known_here.keys() - os.environ
        },
        unsafe,
    )


def stored(file: Path) -> tuple[dict[str, str], str]:
    """What stands in .env, and why others may know or change that; "": they can't."""
    try:
        if not file.is_file():
            return {}, ""
        cli.require("dotenv")
        from dotenv import dotenv_values

        found = {k: v for k, v in dotenv_values(file, interpolate=False).items() if v}
    except (OSError, UnicodeError) as error:
        raise OperatorError(f"{file}: cannot be read: {error}", Exit.USAGE) from None
    info, unsafe = file.stat(), ""
    if info.st_uid not in (0, os.geteuid()):
        unsafe = f"user {info.st_uid} owns it; mend it by: chown {os.geteuid()} {file}"
    elif info.st_mode & 0o006:
        unsafe = f"every user can read the token; mend it by: chmod 600 {file}"
    return found, f"{file}: {unsafe}" if unsafe else ""


def parse_chat(value: str, thread: str = "") -> tuple[str, str]:
    """Chat and thread of "ID" or "ID:THREAD". Raises OperatorError."""
    match = re.fullmatch(r"\s*(-?\d+|@\w+)(?::(\d+))?\s*", value)
    if not match:
        raise OperatorError(f"{value!r}: expected a chat: ID, @name or ID:THREAD", Exit.USAGE)
    thread = match[2] or thread
    return match[1], "" if thread == "1" else thread  # the general topic has to be left out
