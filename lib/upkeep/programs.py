"""Programs: processes named by what they run, never by an interpreter, and summed up by name."""

import collections
import contextlib
import functools
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from upkeep import files, proc, text
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
    pss_bytes: int | None = None  # this and the next two: None where not every process may be read
    swap_bytes: int | None = None
    fds: int | None = None

    @property
    def rss_bytes(self) -> int:
        """The sum over its processes."""
        return sum(self.pids.values())


def collect(root: str, settings: Config, boot_id: str) -> list[Program]:
    """Every task, also one that does not run, then the other programs; the largest first.

    A task is one program with all that came from it. Kernel threads and zombies have no memory.
    """
    running = [stat for stat in proc.scan(root).values() if stat.rss_bytes]
    running.sort(key=lambda stat: (stat.start_ticks, stat.pid))
    of_task = _tasks_of(running, settings, boot_id, root)
    names = _names([stat for stat in running if stat.pid not in of_task], root)
    programs = {task: Program(task) for task in settings.tasks}
    for stat in running:
        name = of_task.get(stat.pid) or names[stat.pid]
        if name in settings.tasks and stat.pid not in of_task:
            name += " (no task)"  # another program of that name
        program = programs.setdefault(name, Program(name))
        program.leader = program.leader or stat
        program.pids[stat.pid] = stat.rss_bytes
    return sorted(programs.values(), key=lambda p: (p.name not in settings.tasks, -p.rss_bytes))


def record_of(settings: Config, task: str) -> dict[str, Any]:
    """What is on record about a task (see task.Record), with "starts" and whether it is "given_up".

    {} where that can't be read.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
        known = json.loads(files.read_small(settings.state / f"tasks/{task}.json", 1 << 20))
        if {type(known.get(name)) for name in ("pid", "start_ticks")} == {int}:
            starts, lost = sum(known.get("counts", {}).values()), known.get("trouble", {})
            return {**known, "starts": starts, "given_up": "given_up" in lost}
    return {}


def _tasks_of(running: Sequence[Stat], settings: Config, boot_id: str, root: str) -> dict[int, str]:
    """The task of every process that belongs to one; `running` is in the order of starts.

    A process belongs to the task of its parent or of the session that the task's start opened;
    one that has left both, and so has another session than its parent, to the one that its
    environment names.
    """
    records = {task: record_of(settings, task) for task in settings.tasks}
    heads = {
        (known["pid"], known["start_ticks"]): task
        for task, known in records.items()
        if known and known.get("boot_id") == boot_id
    }
    of_pid = {stat.pid: stat.session for stat in running}
    found: dict[int, str] = {}
    sessions: dict[int, str] = {}
    tags: dict[str, str] = {}
    for stat in running if heads else ():
        task = heads.get((stat.pid, stat.start_ticks))
        if task:
            tags[str(records[task].get("tag"))] = task
            if records[task].get("session") == stat.pid:
                sessions[stat.pid] = task
        task = task or sessions.get(stat.session) or found.get(stat.parent)
        if not task and tags and of_pid.get(stat.parent) != stat.session:
            task = tags.get(_tag(stat.pid, root))
        if task:
            found[stat.pid] = task
    return found


def _tag(pid: int, root: str) -> str:
    """What a task's start put into its environment, for all that comes from it to inherit."""
    match = re.search(rb"\0UPKEEP_TASK=([^\0]+)", b"\0" + proc.read_file(f"{root}/{pid}/environ"))
    return match[1].decode("utf-8", "replace") if match else "none"


def _names(running: Iterable[Stat], root: str) -> dict[int, str]:
    """The name of every process; two scripts of one name are told apart by their directories."""
    full: dict[int, str] = {}
    for stat in running:  # parents first
        name = _full_name(stat, root)
        # The name of a worker that multiprocessing spawned says nothing by itself.
        full[stat.pid] = full.get(stat.parent, name) if name == _SPAWNED else name
    shared = collections.Counter(map(os.path.basename, set(full.values())))
    shown = {}
    for name in set(full.values()):
        *_, last = parts = name.split("/")
        shown[name] = text.printable("/".join(parts[-2:]) if shared[last] > 1 else last, 40)
    return {pid: shown[name] for pid, name in full.items()}


def _full_name(stat: Stat, root: str) -> str:
    """What it runs, a script with its whole path. A title that it gave itself is split up."""
    name = stat.name
    with contextlib.suppress(OSError):
        with open(f"{root}/{stat.pid}/cmdline", "rb", 0) as file:
            name = _name_in(file.read(4096), stat.name)
        if name.endswith((".py", ".js", ".sh", ".rb", ".pl")) and not name.startswith("/"):
            name = os.path.join(os.readlink(f"{root}/{stat.pid}/cwd"), name)
    return os.path.normpath(name)


@functools.cache  # many processes have the same command line
def _name_in(line: bytes, fallback: str) -> str:
    words = line.decode("utf-8", "surrogateescape").rstrip("\0").split("\0")
    titled = len(words) == 1 and os.path.basename(words[0])[:15] != fallback
    return program_name(words[0].split() if titled else words, fallback)


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
    """Fill in descriptors, PSS and swap, as far as rights, time and number allow; in that order."""
    deadline, left = time.monotonic() + PSS_SECONDS, PSS_PROCESSES
    for program in programs:
        if len(program.pids) > left:
            continue
        left -= len(program.pids)
        with contextlib.suppress(OSError):
            program.fds = sum(len(os.listdir(f"{root}/{pid}/fd")) for pid in program.pids)
            if max(program.pids.values(), default=0) <= PSS_MAX_RSS:
                _read_shares(program, root)
        if time.monotonic() > deadline:
            return


def _read_shares(program: Program, root: str) -> None:
    """PSS and swap; pages that several processes share are divided between them."""
    sizes = {b"Pss": 0, b"SwapPss": 0}
    for pid in program.pids:
        found = re.findall(
            rb"(?m)^(Pss|SwapPss): +(\d+)", proc.read_file(f"{root}/{pid}/smaps_rollup")
        )
        if not found:
            return
        for name, kib in found:
            sizes[name] += int(kib) << 10
    program.pss_bytes, program.swap_bytes = sizes.values()
