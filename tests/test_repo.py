"""The repository checks itself: every script is whole, documented, tested and runnable."""

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.helpers import ROOT
from upkeep import __version__

SCRIPTS = sorted((ROOT / "bin").glob("*.py"))
MODULES = sorted((ROOT / "lib/upkeep").rglob("*.py"))
SHELL = [ROOT / name for name in ("bin/setup", "bin/test", "bin/bench", ".ci/run")]
MOST_LINES = 10_950
LONGEST_FUNCTION = 50

scripts = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


@scripts
def test_a_script_is_executable_documented_and_tested(script: Path) -> None:
    assert script.stat().st_mode & 0o111 == 0o111
    assert script.read_text().startswith("#!/usr/bin/env python3\n")
    doc = ast.get_docstring(ast.parse(script.read_text())) or ""
    assert re.search(r"(?im)^usage:", doc), "the docstring has no usage"
    assert re.search(r"(?i)\bexit", doc), "the docstring does not name the exit statuses"
    assert (ROOT / "tests" / f"test_{script.stem}.py").is_file()
    assert f"{script.name}" in (ROOT / "README.md").read_text()
    assert (ROOT / "docs" / f"{script.stem}.md").is_file()


@scripts
def test_a_script_shadows_no_module_of_python(script: Path) -> None:
    assert script.stem not in sys.stdlib_module_names


@scripts
def test_a_script_is_an_installed_command_too(script: Path) -> None:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    commands = parser["options.entry_points"]["console_scripts"]
    name = script.stem.replace("_", "-")
    assert f"upkeep-{name} = upkeep_bin.{script.stem}:main" in commands


@scripts
def test_help_runs_bare_from_anywhere_and_shows_examples(script: Path, tmp_path: Path) -> None:
    link = tmp_path / "linked"
    link.symlink_to(script)
    for options in ([], ["-I", "-S"], ["-P"]):
        result = subprocess.run(
            [sys.executable, *options, link, "--help"],
            env={},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "examples:" in result.stdout and "  # " in result.stdout


@scripts
def test_importing_a_script_does_nothing(script: Path) -> None:
    code = f"import sys; sys.path[:0] = ['lib', '.']; from bin import {script.stem}"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@scripts
def test_an_unknown_option_is_a_usage_error(script: Path) -> None:
    result = subprocess.run(
        [sys.executable, script, "--no-such-option"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_a_shell_script_is_posix_and_executable(path: Path) -> None:
    assert path.read_text().startswith("#!/bin/sh\n")
    assert path.stat().st_mode & 0o111 == 0o111
    subprocess.run(["sh", "-n", path], check=True)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_is_documented_and_knows_nothing_of_scripts(module: Path) -> None:
    tree = ast.parse(module.read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith(("bin", "upkeep_bin"))


@scripts
def test_a_script_imports_no_other_script(script: Path) -> None:
    names = {other.stem for other in SCRIPTS}
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            assert not names & {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in names | {"bin", "upkeep_bin"}


def test_the_suite_stays_small_enough_to_read() -> None:
    sources = {path: path.read_text() for path in (*SCRIPTS, *MODULES)}
    assert sum(text.count("\n") for text in sources.values()) < MOST_LINES
    long = [
        f"{path.name}:{node.lineno} {node.name}"
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]
    assert long == []


def test_versions_agree() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert parser["metadata"]["version"] == "attr: upkeep.__version__"


def test_the_readme_names_the_two_commands_of_a_newcomer() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "bin/test" in readme
    for name in re.findall(r"(?<![\w/])(?:\./)?bin/(\w+(?:\.py)?)", readme):
        assert (ROOT / "bin" / name).exists(), f"README names bin/{name}"
