import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from tests.helpers import ROOT
from upkeep import config, settings
from upkeep.errors import Exit, OperatorError

TASK = '[task.bot]\ncommand = ["python3", "bot.py"]\n'


def load(place: Path, text: str) -> config.Config:
    file = place / "upkeep.toml"
    file.write_text(text)
    return config.load(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pats]\n", r'unknown key "pats"; did you mean "paths"\?'),
        (TASK + "stop_timout = 3\n", r'\[task.bot\] unknown key "stop_timout".*"stop_timeout"'),
        (TASK + 'stop_timeout = "30x"\n', r"\[task.bot\] stop_timeout: expected a duration"),
        (TASK + "stop_timeout = true\n", r"\[task.bot\] stop_timeout: expected a string"),
        (TASK + "stop_timeout = -1\n", r"\[task.bot\] stop_timeout: expected a duration"),
        (TASK + 'stop_signal = "KILL"\n', r"stop_signal: expected the name of a signal"),
        (TASK + "cwd = 'srv'\n", r'cwd: expected an absolute path, got "srv"'),
        (TASK + 'env = { "A=B" = "x" }\n', r"env: expected NAME"),
        (TASK + "crash_limit = 0\n", r"crash_limit: expected a whole number from 1"),
        ("[task.bot]\n", r'\[task.bot\] the key "command" is missing'),
        ("[task.bot]\ncommand = []\n", r"command: expected a command"),
        ('[task.bot]\ncommand = "sh -c \'x"\n', r"command: expected a command"),
        ("[task.bot]\ncommand = 7\n", r"command: expected a command, got 7"),
        ("[task]\nbot = 1\n", r"\[task\] bot: expected a table \[task.bot\]"),
        ("task = 1\n", r"\[task\]: expected a table"),
        ('[task."a/b"]\ncommand = ["x"]\n', r"expected a name of letters"),
        ('[task.".x"]\ncommand = ["x"]\n', r"expected a name of letters"),
        ('[task."-x"]\ncommand = ["x"]\n', r"expected a name of letters"),
        ('[task.""]\ncommand = ["x"]\n', r"expected a name of letters"),
        ('[task."a\\nb"]\ncommand = ["x"]\n', r"expected a name of letters"),
        ('[task.upkeep]\ncommand = ["x"]\n', r"expected another name"),
        ('[task.job-x]\ncommand = ["x"]\n', r"expected another name"),
        (TASK + "max_rss = 0\n", r"\[task.bot\] max_rss: expected more than 0.* leave it out"),
        (TASK + 'max_age = "0d"\n', r"\[task.bot\] max_age: expected more than 0"),
        (TASK + 'heartbeat_max_age = "0s"\n', r"heartbeat_max_age: expected more than 0"),
        ('[telegram]\nbudget = "0s"\n', r"\[telegram\] budget: expected more than 0"),
        ("[telegram]\ntimeout = 0\n", r"\[telegram\] timeout: expected more than 0"),
        ('[host]\nmemory_alert = "180%"\n', r"\[host\] memory_alert: expected at most"),
        ("[host]\nmemory_alert = 80\n", r"\[host\] memory_alert: expected a percentage"),
        ("= 3", r"not valid TOML"),
        ("a = " + "[" * 5000, r"not valid TOML"),
        ("a = " + "9" * 5000, r"not valid TOML"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where_and_what(
    home: Path, text: str, message: str
) -> None:
    with pytest.raises(OperatorError, match=message) as caught:
        load(home, text)
    assert caught.value.code == Exit.USAGE
    assert str(caught.value).startswith(f"{home}/upkeep.toml: ")


def test_a_file_that_cannot_be_read_is_one_line(home: Path) -> None:
    (home / "upkeep.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OperatorError, match="not valid TOML"):
        config.load(str(home / "upkeep.toml"))
    with pytest.raises(OperatorError, match="no such configuration file"):
        config.load(str(home / "none.toml"))


def test_the_same_key_twice_is_refused(home: Path) -> None:
    with pytest.raises(OperatorError, match="not valid TOML"):
        load(home, TASK + 'cwd = "/a"\ncwd = "/b"\n')


def test_paths_are_relative_to_the_state_directory(home: Path) -> None:
    task = load(home, '[paths]\nstate = "st"\n' + TASK + 'log = "log/x.log"\n').tasks["bot"]
    assert task.log == home / "st/log/x.log"
    assert task.pid_file == home / "st/run/bot.pid"
    task = load(home, TASK + 'pid_file = "/run/bot.pid"\n').tasks["bot"]
    assert task.pid_file == Path("/run/bot.pid")
    assert task.log == home / "var/log/bot.log"


def test_values_are_turned_into_seconds_bytes_and_numbers(home: Path) -> None:
    text = TASK + 'stop_signal = "INT"\nstop_timeout = "1m30s"\numask = "027"\n'
    known = {each.name for each in fields(settings.TaskSettings)}
    text = text if "umask" in known else text.replace('umask = "027"\n', "")
    task = load(home, text).tasks["bot"]
    assert (task.stop_signal, task.stop_timeout) == (2, 90.0)
    assert load(home, "[task.x]\ncommand = \"echo 'a b' c\"\n").tasks["x"].command == (
        "echo",
        "a b",
        "c",
    )


def test_a_name_may_have_letters_of_any_script(home: Path) -> None:
    assert list(load(home, '[task."取引-bot.1"]\ncommand = ["x"]\n').tasks) == ["取引-bot.1"]


def test_the_file_is_found_by_option_then_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "a.toml").write_text("")
    (home / "b.toml").write_text("")
    monkeypatch.setenv("UPKEEP_CONFIG", str(home / "b.toml"))
    assert config.find(str(home / "a.toml")) == home / "a.toml"
    assert config.find(None) == home / "b.toml"


def test_without_a_file_the_defaults_apply(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(config, "CHECKOUT", home)
    monkeypatch.setattr(config, "SYSTEM_FILE", home / "none")
    (home / "upkeep.example.toml").write_text("")
    loaded = config.load()
    assert loaded.file is None
    assert loaded.state == home / "var"
    assert loaded.tasks == {} and loaded.env_file == home / ".env"


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_the_state_stays_where_it_is_on_a_disk_that_cannot_be_written(home: Path) -> None:
    """Another state directory would know of no running task, and start each a second time."""
    (home / "upkeep.toml").write_text('[task.bot]\ncommand = "sleep 600"\n')
    watchdog = [sys.executable, ROOT / "bin/watchdog.py", "--config", home / "upkeep.toml"]
    command = ["unshare", "-m", "sh", "-c", READ_ONLY, home, *watchdog]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"{home}/var" in result.stderr and "Read-only" in result.stderr


def test_an_installation_by_pip_keeps_its_state_in_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(config, "CHECKOUT", home)
    monkeypatch.setattr(config, "SYSTEM_FILE", home / "none")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    assert config.load().state == home / "state" / "upkeep"


@pytest.mark.skipif(os.geteuid() != 0, reason="the rule is for root")
@pytest.mark.parametrize("code", ["bin/status.py", "bin/stop.py", "lib/upkeep/cli.py"])
def test_root_runs_no_code_that_others_can_write(home: Path, code: str) -> None:
    for part in ("bin", "lib"):
        shutil.copytree(ROOT / part, home / part)
    (home / "upkeep.toml").write_text("")
    (home / "bin/.lock").symlink_to("nowhere")
    command = [sys.executable, home / "bin/status.py", "--config", home / "upkeep.toml"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (home / code).chmod(0o666)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, f"{home / code} is writable by everybody" in done.stderr) == (3, True)
    (home / code).chmod(0o644)
    os.chown(home / code, 65534, 0)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="the rule is for root")
def test_root_refuses_what_others_can_write(home: Path) -> None:
    file = home / "upkeep.toml"
    file.write_text(TASK)
    file.chmod(0o666)
    with pytest.raises(OperatorError, match="not trusted by root") as caught:
        config.load(str(file))
    assert caught.value.code == Exit.REFUSED
    file.chmod(0o644)
    (home / "var").mkdir()
    (home / "var").chmod(0o777)
    with pytest.raises(OperatorError, match=r"var: not trusted by root"):
        config.load(str(file))
    (home / "var").chmod(0o700)
    home.chmod(0o777)
    with pytest.raises(OperatorError, match=r"upkeep.toml: not trusted by root"):
        config.load(str(file))


def test_the_example_is_valid_and_names_only_known_keys(home: Path) -> None:
    example = (ROOT / "upkeep.example.toml").read_text()
    loaded = load(home, example)
    assert loaded.tasks and loaded.cleanups
    assert tomllib.loads(example)


TABLES = [
    table
    for table in vars(settings).values()
    if isinstance(table, type) and table.__name__.endswith("Settings")
]


@pytest.mark.parametrize("table", TABLES)
def test_the_example_shows_every_key_and_tells_its_default_truly(table: type) -> None:
    head = str(table.__doc__).split("]")[0].split(".")[0]  # "[task", "[host"
    example = (ROOT / "upkeep.example.toml").read_text()
    section = example[example.index(f"\n{head}") :]
    defaults = {each.name: each.default for each in fields(table)}
    for name, key in settings.keys(table).items():
        shown = re.search(rf"(?m)^(# )?{name} = (.+?)(\s+#.*)?$", section)
        in_comment = re.search(rf"(?m)#.*\b{name} = ", section)
        assert shown or in_comment, f"{head}] {name} is not in the example"
        off = defaults[name] in (None, (), "", MISSING)
        if shown and shown[1] and not off:
            value = tomllib.loads(f"x = {shown[2]}")["x"]
            assert key.reader(value) == defaults[name], f"{head}] {name}: not the default"
