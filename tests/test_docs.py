"""The pages of docs/ say what the code does: options, keys, links, commands."""

import functools
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers import ROOT, configuration_page, run_script, wait_until
from tests.helpers.bot_api import BotApi
from tests.helpers.house import House, kill
from upkeep import config

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md", ROOT / "SECURITY.md"]
SCRIPTS = sorted((ROOT / "bin").glob("*.py"))
COMMON = {"--help", "--config", "--verbose", "--version"}  # README.md has these once for all
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")

scripts = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


def test_the_page_of_the_configuration_is_up_to_date() -> None:
    written = (ROOT / "docs/configuration.md").read_text()
    command = ".venv/bin/python -m tests.helpers.configuration_page >docs/configuration.md"
    assert written == configuration_page.page(), f"make it anew: {command}"


def blocks(page: Path, kind: str = "") -> list[str]:
    """The blocks between ``` of one kind, "toml" or "" for those without a name."""
    found = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page.read_text())
    return [block for named, block in found if named == kind]


@functools.cache
def options(script: Path) -> set[str]:
    """Every option that --help of the script or of one of its commands names."""
    shown = run_script(script.stem, "--help").stdout.partition("\nexamples:")[0]
    commands = re.search(r"\{([a-z,]+)\}", shown) if script.stem == "gc_profile" else None
    for command in commands[1].split(",") if commands else ():
        shown += run_script(script.stem, command, "--help").stdout
    return set(OPTION.findall(shown)) - COMMON


@scripts
def test_the_page_of_a_script_names_its_options_exit_codes_and_examples(script: Path) -> None:
    page = (ROOT / f"docs/{script.stem}.md").read_text()
    known = options(script)
    missing = {each for each in known if each not in page}
    assert not missing, f"docs/{script.stem}.md says nothing of {missing}"
    assert re.search(r"(?i)exit (code|status)", page)
    assert re.search(rf"(?m)^.*{script.name}.*$", page.partition("```")[2]), "no example"
    assert re.search(r"<state>|`/etc/|prom", page) or "no file" in page, "names no files"


@pages
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pages
def test_commands_on_a_page_exist_with_the_options_that_they_are_given(page: Path) -> None:
    known = {script.name: options(script) | COMMON for script in SCRIPTS}
    for block in blocks(page):
        for line in block.splitlines():
            called = re.findall(r"(\w+\.py)((?: [^|;&#]*)?)", line.partition(" # ")[0])
            for name, rest in called if len(called) == 1 else ():
                own = re.split(r" -- | \S+\.py", rest)[0]  # not of a program that it runs
                given = set(OPTION.findall(own))
                assert name not in known or given <= known[name], f"{page.name}: {line}"


@pages
def test_a_configuration_on_a_page_is_one(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "toml")):
        assert config.parse(tomllib.loads(block), tmp_path / f"{page.name} {number}")


def shape(text: str) -> list[str]:
    """`text` without what differs from run to run: figures, the host, the mark of a message."""
    plain = re.sub(r"(?m)^\S+ \| #\w+$", "HOST | #MARK", text)
    return re.sub(r"\d+(\.\d+)?", "0", plain).split("\n")


def test_the_messages_in_the_readme_are_what_arrives(home: Path) -> None:
    said = "12:04:11 connected, 3 open positions"
    code = f"print({said!r}, flush=True); import time; time.sleep(600)"
    backup = "echo rsync: connection unexpectedly closed; exit 12"
    house = House(home)
    house.task("trader", [sys.executable, "-c", code], verify=0)
    with BotApi() as api:
        house.run("restart", "trader")
        wait_until(lambda: said in house.log("trader"))
        kill(house.pid("trader"))
        house.run("watchdog", env=api.env)
        house.run("run_job", "backup", "--", "sh", "-c", backup, env=api.env)
        house.run("run_job", "backup", "--", "true", env=api.env)
        arrived = "\n\n".join(api.texts)
    shown = [shape(block.rstrip("\n")) for block in blocks(ROOT / "README.md")]
    assert shape(arrived) in shown, arrived


def test_every_page_is_reached_from_the_readme() -> None:
    linked, ways = set[Path](), [ROOT / "README.md"]
    for page in ways:
        for target in re.findall(r"\]\(([^)#:\s]+\.md)\)", page.read_text()):
            path = (page.parent / target).resolve()
            if path not in linked:
                linked.add(path)
                ways.append(path)
    assert {path.resolve() for path in PAGES[:-2]} <= linked
