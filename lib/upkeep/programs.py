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

PSS_MAX_RSS = 1 << 30  # reading smaps_rollup stops its process for about 11 ms per GiB
PSS_SECONDS = 0.05
_COMMAND_LINE_BYTES = 4096

_INTERPRETER = re.compile(r"(python|pypy|node|ruby|perl|php|java|(?:ba|da|z|k|a)?sh)(js|[\d.]*)")
_OPTIONS = {  # those that take the next word, those before what is run, those before program text
    "python": ("-W -X", "-m", "-c"),
    "pypy": ("-W -X", "-m", "-c"),
    "node": ("-r --require --import --loader", "", "-e -p"),
    "ruby": ("-I -r", "", "-e"),
    "perl": ("-I", "", "-e"),
    "php": ("-c -d", "-f", "-r"),
    "java": ("-cp -classpath -p", "-jar", ""),
    "sh": ("-o -O", "", "-c"),
}
_SERVERS = ("gunicorn", "uvicorn", "hypercorn", "daphne", "celery", "flask", "uwsgi", "streamlit")
_APP = re.compile(r"[\w.]+:[A-Za-z_][\w.]*(\(.*\))?|[^-].*\.(py|ini)")
_SPAWNED = "from multiprocessing."  # begins the program text of its workers


@dataclass
class Program:
    """The processes of one name. `leader` is the oldest: its life is the program's life."""

    name: str
    leader: Stat | None  # None for a task that does not run
    task: bool = False
    pids: dict[int, int] = field(default_factory=dict)  # with the RSS of each
    pss_bytes: int | None = None  # this and the next: None where not every process could be asked
    fds: int | None = None

    @property
    def rss_bytes(self) -> int:
        """The sum over its processes."""
        return sum(self.pids.values())


def collect(root: str, settings: Config, boot_id: str) -> list[Program]:
    """Every program that runs, the largest first, and every task, also one that does not run.

    A task is one program together with all its descendants. Kernel threads and zombies have no
    memory and are left out.
    """
    table = {pid: stat for pid, stat in proc.scan(root).items() if stat.rss_bytes}
    of_task = {}
    for name in settings.tasks:
        pid = _task_pid(settings, name, boot_id, table)
        of_task.update(dict.fromkeys([pid, *proc.descendants(table, pid)] if pid else [], name))
    names = _names(table, root)
    programs = {name: Program(name, None, task=True) for name in settings.tasks}
    for stat in sorted(table.values(), key=lambda stat: stat.start_ticks):
        name = of_task.get(stat.pid, names[stat.pid])
        if name in settings.tasks and stat.pid not in of_task:
            name += " (no task)"  # another program of that name
        program = programs.setdefault(name, Program(name, stat))
        program.leader = program.leader or stat
        program.pids[stat.pid] = stat.rss_bytes
    return sorted(programs.values(), key=lambda program: -program.rss_bytes)


def _task_pid(settings: Config, name: str, boot_id: str, table: dict[int, Stat]) -> int | None:
    """The PID of a task whose recorded process still is that very process."""
    try:
        record = json.loads((settings.state / "tasks" / f"{name}.json").read_bytes())
        stat = table[record["pid"]]
        same = (record["boot_id"], record["start_ticks"]) == (boot_id, stat.start_ticks)
    except (OSError, ValueError, TypeError, KeyError):
        return None  # it does not run; a damaged record is the watchdog's business
    return stat.pid if same else None


def _names(table: dict[int, Stat], root: str) -> dict[int, str]:
    """The name of every process; two scripts of one name are told apart by their directories."""
    full = {stat.pid: _full_name(stat, root) for stat in table.values()}
    for pid, name in full.items():
        if name == _SPAWNED:  # a worker of multiprocessing, which says nothing by itself
            full[pid] = full.get(table[pid].parent, "multiprocessing")
    shared = collections.Counter(map(os.path.basename, set(full.values())))
    shown = {}
    for name in set(full.values()):
        parts = name.split("/")
        short = "/".join(parts[-2:] if shared[parts[-1]] > 1 else parts[-1:])
        shown[name] = text.printable(short, 40)
    return {pid: shown[name] for pid, name in full.items()}


def _full_name(stat: Stat, root: str) -> str:
    """What it runs, a script with its whole path."""
    name = program_name(_words(stat, root), stat.name)
    if name.endswith((".py", ".js", ".sh", ".rb", ".pl")) and not name.startswith("/"):
        with contextlib.suppress(OSError):
            name = os.path.join(os.readlink(f"{root}/{stat.pid}/cwd"), name)
    return os.path.normpath(name)


def _words(stat: Stat, root: str) -> list[str]:
    """The command line; a title that the process gave itself is split into words."""
    line = b""
    with contextlib.suppress(OSError), open(f"{root}/{stat.pid}/cmdline", "rb", 0) as file:
        line = file.read(_COMMAND_LINE_BYTES)
    words = line.decode("utf-8", "surrogateescape").rstrip("\0").split("\0")
    title = len(words) == 1 and os.path.basename(words[0])[:15] != stat.name
    return words[0].split() if title else words


def program_name(words: list[str], fallback: str) -> str:
    """What the command line `words` runs: a script, a module, an app or a binary.

    `fallback` is the kernel's name of the process, for command lines that say nothing.
    """
    base = os.path.basename(words[0]).lstrip("-[").rstrip(":") if words else ""
    if len(words) > 1 and words[-1].startswith("[") and words[-1].endswith("]"):
        return words[-1].strip("[]")  # the title "gunicorn: worker [app:app]"
    match = _INTERPRETER.fullmatch(base)
    name, rest = _script(match[1], words[1:]) if match else (base, words[1:])
    if os.path.basename(name) in _SERVERS:
        given = [
            word
            for before, word in zip(["", *rest], rest, strict=False)
            if _APP.fullmatch(word) or before in ("-A", "--app")
        ]
        name = given[0] if given else os.path.basename(name)
    return name or base or fallback


def _script(kind: str, words: list[str]) -> tuple[str, list[str]]:
    """The script, module or program text that an interpreter runs, and its arguments."""
    valued, names, codes = (each.split() for each in _OPTIONS.get(kind, _OPTIONS["sh"]))
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            return word.removeprefix("-"), list(rest)
        bundle = kind in ("python", "pypy") or kind.endswith("sh")  # -um is -u -m
        option = "-" + word[-1] if bundle and word[1] not in "-WX" else word
        if option in codes:
            code = " ".join(next(rest, "").replace("/", " ").split())  # / would begin a path
            return (_SPAWNED if code.startswith(_SPAWNED) else f"{kind} {word} {code[:24]}"), []
        if option in names:
            return next(rest, ""), list(rest)
        if word in valued:
            next(rest, "")
    return "", []


def read_details(programs: list[Program], root: str) -> None:
    """Fill in PSS and descriptors of `programs`, in their order, as far as rights and time allow.

    A process larger than PSS_MAX_RSS is not asked for its PSS: it would stand still meanwhile.
    """
    deadline = time.monotonic() + PSS_SECONDS
    for program in programs:
        if time.monotonic() > deadline:
            return
        program.fds = _sum(proc.count_fds(pid, root) for pid in program.pids)
        if max(program.pids.values(), default=0) <= PSS_MAX_RSS:
            program.pss_bytes = _sum(read_pss(pid, root) for pid in program.pids)


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(filter(None, known))


def read_pss(pid: int, root: str = "/proc") -> int | None:
    """The proportional share of `pid` in bytes: its own pages and its part of shared ones.

    None where it may not be read. Only the exact key counts: Pss_Anon and the like are parts.
    """
    try:
        with open(f"{root}/{pid}/smaps_rollup", "rb") as file:
            match = re.search(rb"^Pss: +(\d+) kB$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None
