#!/usr/bin/env python3
"""Record every garbage collection of a Python program, and try settings that may do better.

usage: gc_profile.py run [--save FILE] [--try SETTINGS]... [--prometheus FILE] (-m MOD | SCRIPT) ...
       gc_profile.py env [--save DIR]
       gc_profile.py report FILE [--prometheus FILE]

          collections  median ms  p95 ms  max ms  total ms   CPU ms  objects
    gen0         4442      0.031   0.036   4.082   153.442  133.355    616.3

exit: `run` as the program; else 0 done, 1 a tried program failed, 2 usage or no profile.
"""

import math
import os
import re
import shlex
import sys
from argparse import REMAINDER, ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, files, text
from upkeep.errors import Exit, OperatorError
from upkeep.gc_hook import sitecustomize as hook

ROUNDS = 5
EXAMPLES = """\
  gc_profile.py run --save bot.gc bot.py --paper  # how long do collections stop my bot?
  gc_profile.py report bot.gc                     # what is known so far, also of a killed one
  gc_profile.py run --try 10000,10,10 --try freeze job.py  # would other settings be faster?
  eval "$(gc_profile.py env)"; ./start-all.sh     # profile any Python started from here"""


def parser() -> ArgumentParser:
    """The options."""
    made = cli.parser(__doc__, EXAMPLES)
    actions = made.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", allow_abbrev=False, help="run a program and record it")
    run.add_argument("--try", dest="tries", action="append", metavar="default|freeze|N,N,N")
    run.add_argument("-m", dest="module", nargs=REMAINDER, metavar="MOD", help="run a module")
    run.add_argument("script", nargs=REMAINDER, metavar="SCRIPT [ARG ...]")
    env = actions.add_parser("env", allow_abbrev=False, help="print what profiles any child Python")
    for each in (run, env):
        each.add_argument("--save", type=Path, help="the profile; default: in <state>/gc")
    report = actions.add_parser("report", allow_abbrev=False, help="show a profile")
    report.add_argument("file", type=Path, metavar="FILE")
    for each in (run, report):
        each.add_argument("--prometheus", type=Path, metavar="FILE", help="write a histogram")
    return made


def read(path: Path) -> dict[str, Any]:
    """The profile in `path` (see the recorder). Raises OperatorError."""
    try:
        data = files.read_small(path, 1 << 20)
        magic, *version, command = data[hook.SIZE :].decode("ascii").split(" ", 4)
        python = tuple(map(int, version))
        if magic != hook.MAGIC:
            raise ValueError("it is none")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged or something else"
        raise OperatorError(f"{path}: no profile can be read: {why}", Exit.USAGE) from None
    counts = memoryview(data[: hook.SIZE]).cast("q").tolist()
    generations: list[dict[str, Any]] = []
    for row in range(0, 3 * hook.ROW, hook.ROW):
        totals = dict(zip(hook.TOTALS, counts[row:], strict=False))
        steps = range(hook.FIRST_STEP, hook.ROW)
        pauses = {step: counts[row + step] for step in steps if counts[row + step]}
        generations.append({**totals, "pauses": pauses})
    run_ns = max(1, counts[-1])
    return {
        "python": python,
        "command": command.rstrip(),
        "seconds": run_ns / 1e9,
        "share": sum(found["wall_ns"] for found in generations) / run_ns,
        "generations": generations,
    }


def quantile_ms(generation: dict[str, Any], share: float) -> float:
    """The pause that `share` of the collections did not exceed, in milliseconds."""
    rank = math.ceil(share * generation["collections"])
    for step, count in generation["pauses"].items():
        if rank <= count:
            pause = hook.pause_ns(step, (rank - 0.5) / count)
            return float(min(pause, generation["max_ns"]) / 1e6)
        rank -= count
    return 0.0


def lines(profile: dict[str, Any]) -> list[str]:
    """The profile for people, and what it advises."""
    rows = []
    for number, each in enumerate(profile["generations"]):
        times = [quantile_ms(each, 0.5), quantile_ms(each, 0.95)]
        times += [each[key] / 1e6 for key in ("max_ns", "wall_ns", "cpu_ns")]
        objects = each["collected"] / max(1, each["collections"])
        shown = [f"{milliseconds:.3f}" for milliseconds in times]
        rows.append((f"gen{number}", str(each["collections"]), *shown, f"{objects:.1f}"))
    header = ("", "collections", "median ms", "p95 ms", "max ms", "total ms", "CPU ms", "objects")
    python, share = tuple(profile["python"]), profile["share"]
    command = text.printable(f"Python {'.'.join(map(str, python))}: {profile['command']}")
    found = text.table(header, rows, right=" >>>>>>>")
    found.append(f"{share:.2%} of {profile['seconds']:.1f} s; {command}")
    if (3, 14, 0) <= python < (3, 14, 5):
        found.append("Python 3.14.0 to 3.14.4 collects too late and grows: upgrade to 3.14.5")
    slow = share > 0.01 or profile["generations"][2]["max_ns"] > 50e6
    return [*found, "compare settings by run --try" if slow else "leave it as it is"]


def histogram(profile: dict[str, Any]) -> str:
    """The pauses in Prometheus' text format; its bounds are bounds of our steps."""
    from upkeep import programs

    name = "upkeep_gc_pause_seconds"
    made = [f"# HELP {name} Pauses by garbage collection.", f"# TYPE {name} histogram"]
    words = ["python", *profile["command"].split()]
    program = programs.program_name(words, "python").rpartition("/")[2]
    for number, each in enumerate(profile["generations"]):
        quoted = program.replace("\\", "\\\\").replace('"', '\\"')
        labels = f'program="{quoted}",generation="{number}"'
        for power in range(14, 32, 2):  # 16 us to 1 s: steps end at every power of two
            below = [count for step, count in each["pauses"].items() if step < 16 * (power + 1)]
            made.append(f'{name}_bucket{{{labels},le="{2**power / 1e9:.9g}"}} {sum(below)}')
        made.append(f'{name}_bucket{{{labels},le="+Inf"}} {each["collections"]}')
        made.append(f"{name}_sum{{{labels}}} {each['wall_ns'] / 1e9!r}")
        made.append(f"{name}_count{{{labels}}} {each['collections']}")
    return "\n".join([*made, ""])


def publish(path: Path, text: str) -> None:
    """Replace the textfile, in a directory that is there. Raises OperatorError."""
    try:
        path.parent.stat()  # made here, it would be a private one
        files.atomic_write(path, text.encode(), 0o644)
    except OSError as error:
        raise OperatorError(f"{path}: cannot be written: {error.strerror}", Exit.USAGE) from None


def environment(save: Path, **more: str) -> dict[str, str]:
    """What makes any Python record itself into `save`. Raises OperatorError."""
    try:
        if save.exists() and not (save.is_file() and save.stat().st_size == 0):
            read(save)  # refuses to write over anything else
        save.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"{save}: cannot be written: {error.strerror}", Exit.USAGE) from None
    place, old = os.path.dirname(hook.__file__), os.environ.get("PYTHONPATH")
    others = [each for each in old.split(":") if each != place] if old else []
    return {
        "PYTHONPATH": ":".join([place, *others]),
        "UPKEEP_GC_SAVE": str(save.absolute()),
        **more,
    }


def trial(command: list[str], setting: str) -> tuple[float, float, float, float]:
    """Run `command` once: CPU seconds, share and longest of the pauses in ms, peak RSS in MiB."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as place, open(os.devnull, "r+") as null:
        settings = {**os.environ, **environment(Path(place, "gc"), UPKEEP_GC_TRY=setting)}
        child = subprocess.Popen(command, env=settings, stdin=null, stdout=null)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:  # a signal ends us: the trial is of no use without
            child.kill()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            why = f"the program ended with {child.returncode}"
            raise OperatorError(f"--try {setting}: {why}: nothing is compared")
        profile = read(Path(place, f"gc.{child.pid}"))
    longest = max(each["max_ns"] for each in profile["generations"]) / 1e6
    return usage.ru_utime + usage.ru_stime, profile["share"], longest, usage.ru_maxrss / 1024


def try_out(command: list[str], tries: Sequence[str]) -> list[str]:
    """Run `command` with each setting in turns. A winner is faster every time, by 2 % at least."""
    for setting in tries:
        if not re.fullmatch(r"default|freeze|\d{1,9}(,\d{1,9}){0,2}", setting, re.ASCII):
            raise OperatorError(
                f'--try: expected default, freeze or N,N,N: "{setting}"', Exit.USAGE
            )
    results: dict[str, list[Any]] = {each: [] for each in ("default", *tries)}
    for setting in [*results] * ROUNDS:
        results[setting].append(trial(command, setting))
    usual = sorted(results["default"])
    rows, best, least = [], "", 0.98 * usual[ROUNDS // 2][0]
    for setting, runs in results.items():
        ordered = sorted(runs)
        cpu, share, longest, peak = ordered[ROUNDS // 2]
        spread = f"{ordered[0][0]:.2f} to {ordered[-1][0]:.2f}"
        rows.append((setting, spread, f"{share:.1%}", f"{longest:.1f}", f"{peak:.0f}"))
        if cpu < least and ordered[-1][0] < usual[0][0]:
            best, least = setting, cpu
    header = ("setting", "CPU seconds", "share", "longest ms", "peak MiB")
    verdict = f"best: {best}" if best else "nothing is better beyond the noise: leave it"
    return [*text.table(header, rows, " >>>>"), verdict]


def run(command: list[str], save: Path, prometheus: Path | None) -> None:
    """Become `command`, recorded into `save`. Does not return."""
    more = {"UPKEEP_GC_PID": str(os.getpid())}
    if prometheus:
        words = [command[0], __file__, "report", save.absolute(), "--prometheus"]
        more["UPKEEP_GC_END"] = shlex.join(map(str, [*words, prometheus.absolute()]))
    os.execve(command[0], command, {**os.environ, **environment(save, **more)})


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run, explain or report."""
    args = parser().parse_args(argv)
    if args.action == "report":
        profile = read(args.file)
        if args.prometheus and not cli.rehearsing():
            publish(args.prometheus, histogram(profile))
        else:
            print("\n".join(lines(profile)))
        return Exit.DONE
    save = args.save
    if save is None:
        from upkeep import config

        save = config.load(args.config).state / "gc"
    if args.action == "env":
        for name, value in environment(save / "gc").items():
            print(f"export {name}={shlex.quote(value)}")
        return Exit.DONE
    python = sys.executable or os.readlink("/proc/self/exe")  # "" where there is no PATH
    command = [python, *(["-m", *args.module] if args.module else args.script)]
    if len(command) < 2:
        raise OperatorError("run: name a SCRIPT or -m MOD", Exit.USAGE)
    if cli.rehearsing():
        print("would run:", text.printable(shlex.join(command)))
    elif args.tries:
        print("\n".join(try_out(command, args.tries)))
    else:
        run(command, save if args.save else save / f"gc.{os.getpid()}", args.prometheus)
    return Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
