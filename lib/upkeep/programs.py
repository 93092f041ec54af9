"""Programs: processes named by what they run, never by an interpreter, and summed up by name."""

import collections
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
_RUNNERS = ("gunicorn", "uvicorn", "hypercorn", "daphne", "celery", "flask", "uwsgi", "streamlit")
_APP = re.compile(r"[\w.]+:[A-Za-z_][\w.]*(\(.*\))?|[^-].*\.(py|ini)")
_SPAWNED = "from multiprocessing."  # begins the program text of its workers


@dataclass
class Program:
    """The processes of one name. `leader` is the oldest: its life is the program's life."""

    name: str
    leader: Stat | None  # None for a task that does not run
    task: bool = False
    pids: list[int] = field(default_factory=list)
    rss_bytes: int = 0
    cpu_ticks: int = 0
    pss_bytes: int | None = None  # None when it is not known for every process
    fds: int | None = None


def collect(root: str, tasks: dict[int, str]) -> list[Program]:
    """Every program that runs, the largest first. `tasks` maps PIDs of tasks to their names.

    A task is one program together with all its descendants. Kernel threads and zombies have no
    memory and are left out.
    """
    table = {pid: stat for pid, stat in proc.scan(root).items() if stat.rss_bytes}
    names = _names(table, root)
    of_task = {
        each: task
        for pid, task in tasks.items()
        if pid in table
        for each in (pid, *proc.descendants(table, pid))
    }
    programs: dict[tuple[str, bool], Program] = {}
    for stat in sorted(table.values(), key=lambda stat: stat.start_ticks):
        name = of_task.get(stat.pid, names[stat.pid])
        key = (name, stat.pid in of_task)
        program = programs.setdefault(key, Program(name, stat, stat.pid in of_task))
        program.pids.append(stat.pid)
        program.rss_bytes += stat.rss_bytes
        program.cpu_ticks += stat.cpu_ticks
    return sorted(programs.values(), key=lambda program: -program.rss_bytes)


def running_tasks(settings: Config, boot_id: str, root: str) -> dict[int, str]:
    """The tasks whose recorded process still is that very process: name by PID."""
    found = {}
    for name in settings.tasks:
        try:
            record = json.loads((settings.state / "tasks" / f"{name}.json").read_bytes())
            stat = proc.read_stat(int(record["pid"]), root)
            same = (record["boot_id"], record["start_ticks"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # not running; a damaged record is the watchdog's business
        if stat and same == (boot_id, stat.start_ticks):
            found[stat.pid] = name
    return found


def _names(table: dict[int, Stat], root: str) -> dict[int, str]:
    """The name of every process; two scripts of one name are told apart by their directories."""
    full = {stat.pid: _full_name(stat, root) for stat in table.values()}
    for pid, name in full.items():
        if name == _SPAWNED:  # a worker of multiprocessing, which says nothing by itself
            full[pid] = full.get(table[pid].parent, name)
    shared = collections.Counter(os.path.basename(name) for name in set(full.values()))
    shown = {
        name: text.printable("/".join(name.split("/")[-2:] if shared[base] > 1 else [base]), 40)
        for name in set(full.values())
        for base in [os.path.basename(name)]
    }
    return {pid: shown[name] for pid, name in full.items()}


def _full_name(stat: Stat, root: str) -> str:
    name = program_name(_words(stat, root), stat.name)
    if name.endswith((".py", ".js", ".sh", ".rb", ".pl")) and not name.startswith("/"):
        try:
            return os.path.normpath(os.path.join(os.readlink(f"{root}/{stat.pid}/cwd"), name))
        except OSError:
            return name
    return name


def _words(stat: Stat, root: str) -> list[str]:
    """The command line. A title that the process set itself is one word and is split."""
    try:
        with open(f"{root}/{stat.pid}/cmdline", "rb", buffering=0) as file:
            line = file.read(_COMMAND_LINE_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return []
    words = line.rstrip("\0").split("\0")
    own_title = len(words) == 1 and os.path.basename(words[0])[:15] != stat.name
    return words[0].split() if own_title else words


def program_name(words: list[str], fallback: str) -> str:
    """What the command line `words` runs: a script (its path), a module, an app or a binary.

    `fallback` is the kernel's name of the process, for command lines that say nothing.
    """
    base = os.path.basename(words[0]).lstrip("-[").rstrip(":") if words else ""
    if not base:
        return fallback
    if len(words) > 1 and words[-1].startswith("[") and words[-1].endswith("]"):
        return words[-1].strip("[]")  # the title "gunicorn: worker [app:app]"
    match = _INTERPRETER.fullmatch(base)
    script, rest = _script(match[1], words[1:]) if match else (base, words[1:])
    if os.path.basename(script) in _RUNNERS:
        return _app(rest) or os.path.basename(script)
    return script or base


def _script(kind: str, words: list[str]) -> tuple[str, list[str]]:
    """The script, module or program text that an interpreter runs, and its arguments."""
    valued, names, codes = _OPTIONS.get(kind, _OPTIONS["sh"])
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            return word.removeprefix("-"), list(rest)
        bundle = kind in ("python", "pypy") or kind.endswith("sh")  # -um is -u -m
        option = "-" + word[-1] if bundle and word[1] not in "-WX" else word
        if option in codes.split():
            code = " ".join(next(rest, "").replace("/", " ").split())  # / would begin a path
            return (_SPAWNED if code.startswith(_SPAWNED) else f"{kind} {word} {code[:24]}"), []
        if option in names.split():
            return next(rest, ""), list(rest)
        if word in valued.split():
            next(rest, "")
    return "", []


def _app(words: Iterable[str]) -> str:
    """The application that a server such as gunicorn was told to run; "" when it is not said."""
    rest = iter(words)
    for word in rest:
        if word in ("-A", "--app"):
            return next(rest, "")
        if _APP.fullmatch(word):
            return word
    return ""


def read_details(programs: list[Program], root: str) -> None:
    """Fill in PSS and descriptors of `programs`, in their order, as far as rights and time allow.

    A process larger than PSS_MAX_RSS is not asked for its PSS: it stands still meanwhile.
    """
    deadline = time.monotonic() + PSS_SECONDS
    for program in programs:
        if time.monotonic() > deadline:
            return
        each = max(1, len(program.pids))
        fair = program.rss_bytes / each <= PSS_MAX_RSS
        sizes = [read_pss(pid, root) if fair else None for pid in program.pids]
        counts = [proc.count_fds(pid, root) for pid in program.pids]
        program.pss_bytes = _sum(sizes)
        program.fds = _sum(counts)


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


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
