#!/usr/bin/env python3
"""Put upkeep's lines into cron and logrotate, check them, and take them out again.

usage: install.py [--cron user|system] [--only cron|logrotate] [--dry-run | --verify]
       install.py --uninstall [--purge]

    $ install.py --dry-run
    --- /etc/cron.d/upkeep
    +++ /etc/cron.d/upkeep
    @@ -0,0 +1,16 @@
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
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import CHECKOUT, cli, config, files, proc, text
from upkeep.errors import Exit, OperatorError

EXAMPLES = """\
  install.py --dry-run                 # what would it change?
  install.py && install.py --verify    # does every line run in cron's environment?
  install.py --uninstall --purge       # take out all but the configuration
"""
BEGIN = b"# >>> upkeep (managed by install.py: edits between the markers are lost) >>>\n"
END = b"# <<< upkeep <<<\n"
LOCK_SECONDS = 60.0
CRONTAB = Path("crontab")  # stands for the user's crontab, which only crontab(1) may change
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
        rotate = (
            "/usr/sbin/logrotate",
            "-s",
            f"{state}/logrotate.status",
            f"{state}/logrotate.conf",
        )
        lines += f"\n41 4 * * * root /opt/upkeep/bin/run_job.py logrotate -- {shlex.join(rotate)}\n"
        rules = rules.replace("    su root root\n", "")
    if settings.file not in (None, CHECKOUT / "upkeep.toml", config.SYSTEM_FILE):
        prefix += f"UPKEEP_CONFIG={shlex.quote(str(settings.file))} "
    usual = Path("/usr/bin/python3").resolve() == Path(sys.executable).resolve()
    python = [] if usual else [sys.executable]
    paths = re.compile(r"/opt/upkeep/bin/(\w+\.py)")
    lines = paths.sub(lambda each: shlex.join([*python, f"{CHECKOUT}/bin/{each[1]}"]), lines)
    lines = JOB.sub(lambda each: f"{each[1]} {prefix}{each[2]}", lines).replace("%", r"\%")
    return {"cron": lines, "logrotate": rules.replace("/opt/upkeep/var", state)}


def spliced(old: bytes, block: str) -> bytes:
    """`old` with our block in place of the one it has, else at its end; "" takes it out.

    Every other byte stays. Raises OperatorError when the markers are not one pair.
    """
    new = BEGIN + block.encode() + END if block else b""
    begin, end = re.escape(BEGIN), re.escape(END)
    marks = re.findall(rb"(?m)^(?:%s|%s)" % (begin, end), old)
    if marks not in ([], [BEGIN, END]):
        raise OperatorError("upkeep's markers are not one pair: mend them by hand", Exit.REFUSED)
    if ours := re.search(rb"(?ms)^%s.*?^%s" % (begin, end), old):
        return old[: ours.start()] + new + old[ours.end() :]
    return old + (b"\n" if new and old and not old.endswith(b"\n") else b"") + new


def crontab(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Run crontab(1), with its messages in English. Raises OperatorError if there is none."""
    if not shutil.which("crontab"):
        raise OperatorError("crontab is not installed: apt install cron")
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(["crontab", *words], env=environment, capture_output=True, check=False)


def read(target: Path) -> bytes:
    """The bytes of a file or of the user's crontab; b"" when there is none.

    `crontab -l` leaves out comments at the top of a file that it did not write, and shows control
    characters as letters: root reads the file itself. Raises OperatorError when in doubt.
    """
    if target != CRONTAB:
        return target.read_bytes() if target.exists() else b""
    spool = Path("/var/spool/cron/crontabs") / pwd.getpwuid(os.geteuid()).pw_name
    if os.access(spool, os.R_OK):
        return re.sub(rb"\A# DO NOT EDIT THIS FILE.*\n#.*\n#.*\n", b"", spool.read_bytes())
    result = crontab("-l")
    if result.returncode and not result.stderr.startswith(b"no crontab for"):
        why = text.printable(result.stderr.strip())
        raise OperatorError(f"crontab -l fails, nothing was changed: {why}")
    if re.search(rb"\\[rb]", result.stdout):
        why = r"shows \r or \b, which may hide control characters: take them out by crontab -e"
        raise OperatorError(f"crontab -l {why}", Exit.REFUSED)
    return result.stdout


def change(settings: config.Config, target: Path, block: str, dry: bool) -> None:
    """Show what `block` changes in `target`, and change it. Raises OperatorError, OSError."""
    old = read(target)
    new = spliced(old, block)
    before, after = (each.decode(errors="replace").splitlines(True) for each in (old, new))
    difference = difflib.unified_diff(before, after, str(target), str(target))
    print("".join(difference) or f"{target}: nothing to change\n", end="", flush=True)
    if new != old and not dry:
        write(target, old, new, settings.state / "backup")
        cli.log(settings, f"{target}: changed")


def write(target: Path, old: bytes, new: bytes, backup: Path) -> None:
    """Replace `old` by `new`, unless the target was changed meanwhile. Raises OperatorError."""
    if read(target) != old:
        raise OperatorError(f"{target} was changed meanwhile: run it again", Exit.BUSY)
    if old:
        files.atomic_write(backup / f"{target.name}.{time.time():.0f}", old)
    if target == CRONTAB:
        files.atomic_write(backup / "crontab.new", new)
        result = crontab(str(backup / "crontab.new") if new else "-r")
        if result.returncode or read(target) != new:
            why = text.printable(result.stderr.strip())
            raise OperatorError(f"crontab fails; what it held is in {backup}: {why}")
    elif new:
        files.atomic_write(target, new, 0o644)
    else:
        target.unlink()


def check(settings: config.Config, cron: Path) -> None:
    """Raises OperatorError when it would not work, or root must not run it."""
    for path in map(str, (CHECKOUT, settings.state)):
        if not path.isprintable() or set(path) & set('"*?[]{}\\'):
            why = "logrotate takes no such path"
            raise OperatorError(f"{text.printable(path)}: {why}", Exit.REFUSED)
    code = (Path(sys.executable), *CHECKOUT.glob("bin/*"), *CHECKOUT.glob("lib/**/*.py"))
    for file in code if os.geteuid() == 0 else ():
        if reason := files.writable_by_others(file):
            raise OperatorError(f"{file}: not for root: {reason}: chown it", Exit.REFUSED)
    if cron.is_absolute() and cron.exists() and BEGIN not in cron.read_bytes():
        raise OperatorError(f"{cron}: is not ours: move it away first", Exit.REFUSED)
    if not any(each.name in ("cron", "crond") for each in proc.scan().values()):
        raise OperatorError("no cron daemon runs: apt install cron && systemctl start cron")


def verify(lines: str) -> int:
    """Run every line in cron's environment, without effect. 1 when one fails."""
    user, worst = pwd.getpwuid(os.geteuid()), 0
    small = {"HOME": user.pw_dir, "LOGNAME": user.pw_name, "PATH": "/usr/bin:/bin"}
    small |= {"SHELL": "/bin/sh", "UPKEEP_DRY_RUN": "1"}
    for _, command in JOB.findall(lines.replace(r"\%", "%")):
        words = ["/bin/sh", "-c", f"{command} >/dev/null"]
        status = subprocess.run(words, env=small, cwd=user.pw_dir, check=False).returncode
        worst = max(worst, min(status, 1))
        print(f"{f'exit {status}' if status else 'ok'}: {command}")
    return worst


def purge(state: Path) -> None:
    """Remove the state directory. Raises OperatorError if it is more, or a task still runs."""
    for file in state.glob("tasks/*.json"):
        known = files.read_state(file)
        if proc.identify(known.get("pid", 0)) == (*map(known.get, proc.Identity._fields),):
            raise OperatorError(f"{file.stem} runs: bin/stop.py {file.stem}", Exit.REFUSED)
    if state.stat().st_mode & 0o077 or any((state / name).exists() for name in (".env", "bin")):
        raise OperatorError(f"{state}: more than upkeep's state: remove it by hand", Exit.REFUSED)
    shutil.rmtree(state)


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Show what changes, and change it."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    system = (options.cron or ("system" if os.geteuid() == 0 else "user")) == "system"
    wanted = blocks(settings, system)
    if options.verify:
        return verify(wanted["cron"])
    targets = {"cron": CRONTAB, "logrotate": settings.state / "logrotate.conf"}
    if system:
        targets = {part: Path(f"/etc/{part}.d/upkeep") for part in targets}
    if not options.uninstall:
        check(settings, targets["cron"])
    try:
        with files.lock(settings.state / "lock" / "install.lock", LOCK_SECONDS):
            for part in (options.only,) if options.only else targets:
                block = "" if options.uninstall else wanted[part]
                change(settings, targets[part], block, options.dry_run)
    except OSError as error:
        raise OperatorError(f"{error.filename}: {error.strerror}; run it as root?") from None
    if options.purge and options.uninstall and not options.dry_run:
        purge(settings.state)
    elif not (options.dry_run or options.uninstall):
        compileall.compile_dir(CHECKOUT / "lib", quiet=2)
    return Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
