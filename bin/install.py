#!/usr/bin/env python3
"""Put upkeep's lines into cron and logrotate, check them, and take them out again.

usage: install.py [--cron user|system] [--only cron|logrotate] [--dry-run | --verify]
       install.py --uninstall [--purge]

    $ install.py --dry-run
    --- /etc/cron.d/upkeep
    +++ /etc/cron.d/upkeep
    +# >>> upkeep (managed by install.py: edits between the markers are lost) >>>

As root that is /etc/cron.d and /etc/logrotate.d, as a user a block in the user's crontab and
<state>/logrotate.conf. Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 busy.
"""

import argparse
import compileall
import difflib
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli, config, crontab, files, proc, schedule, text
from upkeep.errors import Exit, OperatorError

EXAMPLES = """\
  install.py && install.py --verify    # does every line run in cron's environment?
  install.py --uninstall --purge       # take out all but the configuration
"""
STATE = {"alerts", "backup", "cleanup", "gc", "jobs", "lock", "log", "logrotate", "memory"}
STATE |= {"outbox", "restarts", "run", "snapshots", "tasks"}  # what a state directory holds
OTHER_RULES = Path("/etc/logrotate.d")
JOB = re.compile(r"(?m)^(@\w+|[^\s#]\S*(?: \S+){4}) (?:root )?(.+)$")


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = cli.parser(__doc__, EXAMPLES)
    made.add_argument("--cron", choices=("user", "system"), help="system as root, else user")
    made.add_argument("--only", choices=("cron", "logrotate"), help="leave the other alone")
    made.add_argument("--verify", action="store_true", help="run every line as cron would, dry")
    made.add_argument("--uninstall", action="store_true", help="take the lines out again")
    made.add_argument("--purge", action="store_true", help="with it: remove state and logs too")
    cli.add_dry_run(made)
    return made


def blocks(settings: config.Config, system: bool) -> dict[str, str]:
    """The templates with the paths of this checkout; for a user without users and `su`."""
    state, prefix = str(settings.state), "root " if system else ""
    lines, rules = ((CHECKOUT / part / "upkeep").read_text() for part in ("cron", "logrotate"))
    if not system:
        rotate = "/usr/sbin/logrotate -s {0}/logrotate.status {0}/logrotate.conf"
        rotate = rotate.format(shlex.quote(state))
        lines += f"\n41 4 * * * root /opt/upkeep/bin/run_job.py logrotate -- {rotate}\n"
        rules = rules.replace("    su root root\n", "")
    if settings.file not in (None, CHECKOUT / "upkeep.toml", config.SYSTEM_FILE):
        prefix += f"UPKEEP_CONFIG={shlex.quote(str(settings.file))} "
    usual = Path("/usr/bin/python3").resolve() == Path(sys.executable).resolve()
    python = [] if usual else [sys.executable]
    paths = re.compile(r"/opt/upkeep/bin/(\w+\.py)")
    lines = paths.sub(lambda each: shlex.join([*python, f"{CHECKOUT}/bin/{each[1]}"]), lines)
    lines = JOB.sub(lambda each: f"{each[1]} {prefix}{each[2]}", lines).replace("%", r"\%")
    return {"cron": lines, "logrotate": rules.replace("/opt/upkeep/var", state)}


def show(target: Path, old: bytes, new: bytes) -> None:
    """Print what changes in `target`."""
    before, after = (each.decode(errors="replace").splitlines(True) for each in (old, new))
    difference = "".join(difflib.unified_diff(before, after, str(target), str(target)))
    print(difference or f"{target}: nothing to change\n", end="", flush=True)


def check(settings: config.Config, targets: dict[str, Path], wanted: dict[str, str]) -> None:
    """Raises OperatorError when it would not work, or root must not run it."""
    for path in map(str, (CHECKOUT, settings.state)):
        if not path.isprintable() or set(path) & set('"*?[]{}\\'):
            raise OperatorError(f"{text.printable(path)}: logrotate can't take it", Exit.REFUSED)
    code = [Path(sys.executable), *CHECKOUT.glob("bin/*"), *CHECKOUT.glob("lib/**/*.py")]
    code += CHECKOUT.glob(".venv/lib/*/site-packages/*")
    for file in code if os.geteuid() == 0 else ():
        if reason := files.writable_by_others(file):
            mend = "chown root and chmod go-w there"
            raise OperatorError(f"{file}: not for root: {reason}: {mend}", Exit.REFUSED)
    for file in set(targets.values()) - {crontab.CRONTAB}:
        if file.exists() and crontab.BEGIN not in file.read_bytes():
            raise OperatorError(f"{file}: is not ours: move it away first", Exit.REFUSED)
    for target in targets.values():
        crontab.find_block(crontab.read(target))
    if "cron" in targets:
        check_lines(wanted["cron"])
    if "logrotate" in targets:
        log = settings.state / "log" / "upkeep.log"
        files.make_directory(log.parent)
        log.touch(0o600)  # logrotate finds rules for the same log only where there is one
        check_rules(wanted["logrotate"], targets["logrotate"])


def refuse_unwritable(targets: dict[str, Path]) -> None:
    """Raises OperatorError when a file could not be replaced: before the first one is."""
    for place in {target.parent for target in targets.values() if target.parts[:2] == ("/", "etc")}:
        if not os.access(place, os.W_OK):
            why = "can't be written" if place.exists() else "is not there"
            mend = "run it as root, on a disk that can be written, or with --cron user"
            raise OperatorError(f"{place} {why}, nothing was changed: {mend}")


def check_lines(lines: str) -> None:
    """Raises OperatorError when no cron runs, or it does not take `lines`."""
    if not any(each.name in ("cron", "crond") for each in proc.scan().values()):
        raise OperatorError("no cron daemon runs: apt install cron && systemctl start cron")
    for expression, _ in JOB.findall(lines):
        try:
            next(schedule.times("@daily" if expression == "@reboot" else expression, 0, 0), None)
        except ValueError as error:
            raise OperatorError(f"{CHECKOUT}/cron/upkeep: {error}", Exit.REFUSED) from None
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(JOB.sub(r"\1 \2", lines))  # crontab(1) wants no column with the user
        file.flush()
        result = crontab.run("-T", file.name)  # cronie, where -n means something else
        if b"usage" in result.stderr.lower():
            result = crontab.run("-n", file.name)  # Debian; older ones have neither
    if result.returncode and b"usage" not in result.stderr.lower():
        why = text.printable(result.stderr.strip())
        raise OperatorError(f"crontab(1) refuses cron/upkeep: {why}", Exit.REFUSED)


def check_rules(rules: str, target: Path) -> None:
    """Raises OperatorError when logrotate would not take `rules` beside its other files."""
    program = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin")
    if not program:
        raise OperatorError("no logrotate: apt install logrotate, or: install.py --only cron")
    with tempfile.TemporaryDirectory() as name:
        ours, others = Path(name, "ours"), Path(name, "others")
        ours.write_text(rules)
        ours.chmod(0o644)
        others.mkdir()
        for file in target.parent.glob("*") if target.parent == OTHER_RULES else ():
            if file != target:
                Path(others, file.name).symlink_to(file)
        Path(name, "all").write_text(f"include {others}\ninclude {ours}\n")
        words = [program, "-d", "-s", f"{name}/status", f"{name}/all"]
        said = subprocess.run(words, capture_output=True, text=True, errors="replace").stderr
    for line in said.splitlines():
        if line.startswith("error: ") and f"{ours}:" in line:
            why = text.printable(line.replace(f"{ours}:", "line "))
            mend = f"take our logs out of the other file in {target.parent}, or: --only cron"
            raise OperatorError(f"logrotate refuses logrotate/upkeep: {why}: {mend}", Exit.REFUSED)


def verify(targets: dict[str, Path], wanted: dict[str, str]) -> None:
    """Compare what is installed, and run every line as cron would, dry. Raises OperatorError."""
    user, wrong = pwd.getpwuid(os.geteuid()), []
    small = {"HOME": user.pw_dir, "LOGNAME": user.pw_name, "PATH": "/usr/bin:/bin"}
    small |= {"SHELL": "/bin/sh", "UPKEEP_DRY_RUN": "1"}
    lines = wanted["cron"].replace(r"\%", "%") if "cron" in targets else ""
    for _, command in JOB.findall(lines):
        words = ["/bin/sh", "-c", command]
        done = subprocess.run(words, env=small, cwd="/", capture_output=True, text=True)
        said = text.printable(done.stderr.strip().rpartition("\n")[2])
        if "TELEGRAM_BOT_TOKEN is not set" in said:  # nor has to be: see doctor.py
            print(f"no token: {command}")
        elif done.returncode:
            wrong.append(f"{command}: exit status {done.returncode}: {said}")
        else:
            print(f"ok: {command}")
    for part, target in targets.items():
        if crontab.spliced(old := crontab.read(target), wanted[part]) != old:
            wrong.append(f"{target} is not up to date: {CHECKOUT}/bin/install.py")
    if wrong:
        raise OperatorError(f"does not work: {'; '.join(wrong)}")


def purge(state: Path) -> None:
    """Remove the state directory. Raises OperatorError if it is more, or a task still runs."""
    for file in state.glob("tasks/*.json"):
        known = files.read_state(file)
        now = proc.identify(known.get("pid", 0))
        if now and now == (known.get("boot_id"), now.pid, known.get("start_ticks")):
            raise OperatorError(f"{file.stem} runs: bin/stop.py {file.stem}", Exit.REFUSED)
    if more := {each.name.split(".")[0] for each in state.iterdir()} - STATE:
        raise OperatorError(f"{state}: has {', '.join(more)} too: remove it by hand", Exit.REFUSED)
    shutil.rmtree(state)


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Show what changes, and change it."""
    options = parser().parse_args(argv)
    if options.purge and not options.uninstall:
        raise OperatorError("--purge goes with --uninstall", Exit.USAGE)
    settings = config.load(options.config)
    system = (options.cron or ("system" if os.geteuid() == 0 else "user")) == "system"
    wanted = blocks(settings, system)
    targets = {"cron": crontab.CRONTAB, "logrotate": settings.state / "logrotate.conf"}
    if system:
        targets = {part: Path(f"/etc/{part}.d/upkeep") for part in targets}
    if options.only:
        targets = {options.only: targets[options.only]}
    if not options.uninstall:
        check(settings, targets, wanted)
    if options.verify:
        verify(targets, wanted)
        return Exit.DONE
    if not options.dry_run:
        refuse_unwritable(targets)
    with files.lock(settings.state / "lock" / "install.lock", 60.0):
        plan = []
        for part, target in targets.items():
            block = "" if options.uninstall else wanted[part]
            old = crontab.read(target)
            plan.append((target, old, crontab.spliced(old, block)))
        for target, old, new in plan:
            show(target, old, new)
        for target, old, new in () if options.dry_run else plan:
            if new != old:
                crontab.write(target, old, new, settings.state / "backup")
                cli.log(settings, f"{target}: changed")
    if options.purge and options.uninstall and not options.dry_run:
        purge(settings.state)
    elif not (options.dry_run or options.uninstall):
        compileall.compile_dir(CHECKOUT / "lib", quiet=2)
    return Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
