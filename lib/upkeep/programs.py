"""Programs: processes named by what they run, never by an interpreter, and summed up by name."""

import collections
import contextlib
import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from upkeep import proc, text
from upkeep.config import Config
from upkeep.proc import Stat

PSS_MAX_RSS = 1 << 29  # reading it stops the process, see proc.pss_bytes
PSS_SECONDS, PSS_PROCESSES = 0.05, 60  # that is asked at most
_INTERPRETER = re.compile(r"(python|pypy|node|ruby|perl|php|java|[bdkz]?a?sh)(js|[\d.]*)")
_VALUED = ("-W", "-X", "-r", "-o", "-cp", "-classpath", "--require", "--import")  # and a word
_SERVERS = ("gunicorn", "uvicorn", "hypercorn", "daphne", "celery", "flask", "uwsgi", "streamlit")
_APP = re.compile(r"[\w.]+:[A-Za-z_][\w.]*(\(.*\))?|[^-].*\.(py|ini)")
_SPAWNED = "from multiprocessing."  # begins the program text of its workers


@dataclass
class Program:
    """The processes of one name. `leader` is the oldest: its life is the program's life."""

    name: str
    leader: Stat | None = None  # None for a task that does not run
    pids: dict[int, int] = field(default_factory=dict)  # with the RSS of each, in bytes
    pss_bytes: int | None = None  # this and the next: None where not every process could be asked
    fds: int | None = None

    @property
    def rss_bytes(self) -> int:
        """The sum over its processes."""
        return sum(self.pids.values())


def collect(root: str, settings: Config, boot_id: str) -> list[Program]:
    """Every task, also one that does not run, then the other programs; the largest first.

    A task is one program with all its descendants. Kernel threads and zombies have no memory.
    """
    table = {pid: stat for pid, stat in proc.scan(root).items() if stat.rss_bytes}
    names, of_task = _names(table, root), {}
    for task in settings.tasks:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads((settings.state / f"tasks/{task}.json").read_bytes())
            pid = known["pid"]
            if (known["boot_id"], known["start_ticks"]) == (boot_id, table[pid].start_ticks):
                of_task.update(dict.fromkeys([pid, *proc.descendants(table, pid)], task))
    programs = {task: Program(task) for task in settings.tasks}
    for stat in sorted(table.values(), key=lambda stat: (stat.start_ticks, stat.pid)):
        name = of_task.get(stat.pid, names[stat.pid])
        if name in settings.tasks and stat.pid not in of_task:
            name += " (no task)"  # another program of that name
        program = programs.setdefault(name, Program(name))
        program.leader = program.leader or stat
        program.pids[stat.pid] = stat.rss_bytes
    return sorted(programs.values(), key=lambda p: (p.name not in settings.tasks, -p.rss_bytes))


def _names(table: dict[int, Stat], root: str) -> dict[int, str]:
    """The name of every process; two scripts of one name are told apart by their directories."""
    full = {stat.pid: _full_name(stat, root) for stat in table.values()}
    for pid, name in full.items():
        if name == _SPAWNED:  # says nothing by itself
            full[pid] = full.get(table[pid].parent, name)
    shared = collections.Counter(map(os.path.basename, set(full.values())))
    shown = {}
    for name in set(full.values()):
        *_, last = parts = name.split("/")
        shown[name] = text.printable("/".join(parts[-2:]) if shared[last] > 1 else last, 40)
    return {pid: shown[name] for pid, name in full.items()}


def _full_name(stat: Stat, root: str) -> str:
    """What it runs, a script with its whole path. A title that it gave itself is split up."""
    name, line = stat.name, b""
    with contextlib.suppress(OSError):
        with open(f"{root}/{stat.pid}/cmdline", "rb", 0) as file:
            line = file.read(4096)
        words = line.decode("utf-8", "surrogateescape").rstrip("\0").split("\0")
        titled = len(words) == 1 and os.path.basename(words[0])[:15] != stat.name
        name = program_name(words[0].split() if titled else words, stat.name)
        if name.endswith((".py", ".js", ".sh", ".rb", ".pl")) and not name.startswith("/"):
            name = os.path.join(os.readlink(f"{root}/{stat.pid}/cwd"), name)
    return os.path.normpath(name)


def program_name(words: list[str], fallback: str) -> str:
    """What a command line runs: a script, a module, an app or a binary; else `fallback`."""
    base = os.path.basename(words[0]).lstrip("-[").rstrip(":") if words else ""
    if len(words) > 1 and words[-1].startswith("[") and words[-1].endswith("]"):
        return words[-1].strip("[]")  # the title "gunicorn: worker [app:app]"
    match = _INTERPRETER.fullmatch(base)
    name, rest = _script(match[1], words[1:]) if match else (base, words[1:])
    if os.path.basename(name) in _SERVERS:
        name = os.path.basename(name)
        for before, word in zip(["", *rest], rest, strict=False):
            if _APP.fullmatch(word) or before in ("-A", "--app"):
                return word
    return name or base or fallback


def _script(kind: str, words: list[str]) -> tuple[str, list[str]]:
    """The script, module or program text that an interpreter runs, and its arguments."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            return word.removeprefix("-"), list(rest)
        if word == "-jar" or (kind == "python" and re.fullmatch(r"-\w*m", word)):  # -um is -u -m
            return next(rest, ""), list(rest)
        if re.fullmatch(r"-\w*c", word) or (word == "-e" and not kind.endswith("sh")):
            code = " ".join(next(rest, "").replace("/", " ").split())  # / would begin a path
            return (_SPAWNED if code.startswith(_SPAWNED) else f"{kind} {word} {code[:24]}"), []
        if word in _VALUED:
            next(rest, "")
    return "", []


def read_details(programs: Iterable[Program], root: str) -> None:
    """Fill in descriptors and PSS, in their order, as far as rights, time and number allow."""
    deadline, left = time.monotonic() + PSS_SECONDS, PSS_PROCESSES
    for program in programs:
        left -= len(program.pids)
        if left < 0 or time.monotonic() > deadline:
            return
        with contextlib.suppress(OSError, TypeError):
            program.fds = sum(len(os.listdir(f"{root}/{pid}/fd")) for pid in program.pids)
            if max(program.pids.values(), default=0) <= PSS_MAX_RSS:
                sizes = [proc.pss_bytes(pid, root) for pid in program.pids]
                program.pss_bytes = None if None in sizes else sum(filter(None, sizes))
