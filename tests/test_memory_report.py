"""The report: its first line is the verdict, and it is made in any state of the host."""

import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, run_script, traces, wait_until
from tests.helpers.bot_api import BotApi
from tests.helpers.fake_proc import BOOT_ID, FakeProc
from upkeep import files, picture, proc, samples


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    made = FakeProc(tmp_path / "proc")
    made.process(2, [], rss_pages=0)
    made.process(10, ["/usr/bin/python3", "/srv/shop/app.py"], 60_000, pss_kib=230_000)
    made.process(11, ["/usr/bin/python3", "/srv/shop/app.py"], 1000, pss_kib=3000)
    made.process(12, ["node", "/srv/blog/server.js"], 2000)
    made.process(13, ["gone"], 0, state="Z")
    return made


def report(home: Path, *args: str | Path, toml: str = "") -> "subprocess.CompletedProcess[str]":
    config = home / "upkeep.toml"
    config.write_text(toml)
    return run_script("memory_report", "--config", config, *args)


def document(home: Path, *args: str | Path, toml: str = "") -> dict[str, Any]:
    result = report(home, "--json", *args, toml=toml)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_first_line_is_the_verdict(home: Path, fake: FakeProc) -> None:
    result = report(home, "--proc-root", fake.root)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "OK: 50% of 2.0 GiB in use"
    assert lines[1] == "! app.py: 238 MiB, 0 restarts in 24 h"
    assert max(map(len, lines)) <= 80
    FakeProc(fake.root, available=100_000)
    result = report(home, "--proc-root", fake.root)
    assert result.stdout.startswith("PROBLEM: memory 95.1% of 2.0 GiB in use, limit 80%\n")
    assert result.returncode == 0


def test_swap_that_is_full_is_no_problem_by_itself(home: Path, fake: FakeProc) -> None:
    FakeProc(fake.root, swap_free=1000)
    result = report(home, "--proc-root", fake.root)
    assert result.stdout.startswith("OK: ")
    assert "swap 499 MiB of 500 MiB" in result.stdout


def test_a_full_disk_is_a_problem(home: Path, fake: FakeProc) -> None:
    toml = '[host]\ndisks = ["/"]\ndisk_alert = "0%"'
    result = report(home, "--proc-root", fake.root, toml=toml)
    assert result.stdout.startswith("PROBLEM: disk / ")


def test_json_says_the_same_in_bytes(home: Path, fake: FakeProc) -> None:
    found = document(home, "--proc-root", fake.root)
    assert found["host"]["limit_bytes"] == 2048000 << 10
    assert found["host"]["limit_source"] == "host" and found["host"]["boot_id"] == BOOT_ID
    assert found["coverage"] == {"pss_known": 2, "processes": 3}
    first, second = found["programs"]
    assert (first["name"], first["processes"]) == ("app.py", 2)
    assert first["rss_bytes"] == 61_000 * os.sysconf("SC_PAGE_SIZE")
    assert first["pss_bytes"] == 233_000 << 10
    assert (second["name"], second["pss_bytes"]) == ("server.js", None)


def test_the_docs_name_every_key_of_the_document(home: Path, fake: FakeProc) -> None:
    fill(home, fake)
    found, docs = document(home, "--proc-root", fake.root), ROOT / "docs/memory_report.md"
    rows = [found, *(found[key] for key in ("host", "coverage"))]
    rows += [found[key][0] for key in ("programs", "disks", "directories")]
    named = set(re.findall(r"`(\w+)`", docs.read_text()))
    assert {key for row in rows for key in row} <= named


def test_restarts_of_a_task_are_counted_by_window(home: Path) -> None:
    toml = '[task.night]\ncommand = ["x"]\n[task.idle]\ncommand = ["x"]'
    stat = proc.read_stat(os.getpid())
    assert stat
    record = {"boot_id": proc.boot_id(), "pid": stat.pid, "start_ticks": stat.start_ticks}
    files.write_state(home / "var/tasks/night.json", record)
    ages = [(5 * 86400, "restart"), (3 * 3600, "start"), (3600, "death"), (3590, "start")]
    events = [{"time": time.time() - age, "task": "night", "event": kind} for age, kind in ages]
    lines = [json.dumps(event) + "\n" for event in events]
    (home / "var/restarts.jsonl").write_text("".join(lines) + "torn {")
    rows = {row["name"]: row for row in document(home, toml=toml)["programs"]}
    assert (rows["night"]["restarts_24h"], rows["night"]["restarts_7d"]) == (1, 2)
    assert rows["night"]["processes"] >= 1
    assert (rows["idle"]["processes"], rows["idle"]["rss_bytes"]) == (0, 0)


def test_data_directories_are_listed(home: Path, fake: FakeProc) -> None:
    (home / "data").mkdir()
    (home / "data" / "x.jsonl").write_bytes(b"x" * 300_000)
    toml = f'[host]\ndata_dirs = ["{home}/data", "/no/such/directory"]'
    found = document(home, "--proc-root", fake.root, toml=toml)
    assert [row["path"] for row in found["directories"]] == [f"{home}/data"]
    assert 300_000 <= found["directories"][0]["size_bytes"] < 400_000


@pytest.fixture
def public() -> Iterator[Path]:
    """A copy of the suite that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        for part in ("bin", "lib"):
            shutil.copytree(ROOT / part, Path(name, part))
        yield Path(name)


def as_nobody(public: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["/usr/bin/python3", public / "bin/memory_report.py", *args],
        env={"HOME": str(public / "absent"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd="/",
        user=65534,
        group=65534,
        extra_groups=[],
        check=False,
    )


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@needs_root
@pytest.mark.skipif("hidepid" in Path("/proc/mounts").read_text(), reason="/proc hides others")
def test_without_rights_what_cannot_be_read_is_left_open_and_said(public: Path) -> None:
    result = as_nobody(public, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["coverage"]["pss_known"] < found["coverage"]["processes"]
    assert any(row["pss_bytes"] is None for row in found["programs"])


@needs_root
def test_a_state_of_another_user_is_a_warning_and_the_report_is_made(public: Path) -> None:
    (public / "upkeep.toml").write_text(f'[paths]\nstate = "{public}/var"\n')
    files.append_line(public / "var/restarts.jsonl", "{}")
    result = as_nobody(public)
    assert result.returncode == 1 and result.stdout.startswith(("OK: ", "PROBLEM: "))
    assert "Permission denied: the report is without a history" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("value", ["0", "-1", "x", "1e3"])
def test_a_bad_number_of_rows_is_a_usage_error(home: Path, value: str) -> None:
    result = report(home, f"--top={value}")
    assert result.returncode == 2 and "expected a whole number" in result.stderr


def test_a_directory_that_is_no_proc_is_one_line(home: Path, tmp_path: Path) -> None:
    result = report(home, "--proc-root", tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and "cannot be read as /proc" in result.stderr


def history(name: str, rate: float = 2.0, restart: float = 0.0, hours: float = 72) -> list[str]:
    """A foreign history of one program that leaks `rate` MiB an hour."""
    rng = random.Random(3)
    shapes = [traces.linear(rate), traces.noise(rng, 40)]
    points = traces.trace(shapes, 40, hours, rng, restart_hours=restart)
    return list(samples.export({name: points}))


def judged(home: Path, lines: list[str], *args: str, toml: str = "") -> dict[str, Any]:
    (home / "history.jsonl").write_text("\n".join(lines) + "\n")
    found = document(home, "--history", str(home / "history.jsonl"), *args, toml=toml)
    return {row["name"]: row for row in found["programs"]}


def test_a_history_from_elsewhere_is_judged_by_its_own_time_and_limits(home: Path) -> None:
    calm = history("calm", rate=0.0)
    toml = '[task.trader]\ncommand = ["x"]\nmax_rss = "300M"\n'
    rows = judged(home, [*calm, *history("trader"), *history("other")], toml=toml)
    assert rows.keys() == {"calm", "trader", "other"}
    assert rows["calm"]["verdict"] == "steady" and rows["calm"]["time_to_limit_seconds"] is None
    trader, other = rows["trader"], rows["other"]
    assert trader["verdict"] == other["verdict"] == "leak"
    assert trader["growth_bytes_per_day"] == pytest.approx(48 << 20, rel=0.05)
    left = (300 - 40 - 144) / 2 * 3600
    assert trader["time_to_limit_seconds"] == pytest.approx(left, rel=0.1)
    assert other["time_to_limit_seconds"] > trader["time_to_limit_seconds"]
    assert not (home / "var").exists() or not list((home / "var").glob("memory/*"))


def test_restarts_in_a_history_are_lives(home: Path) -> None:
    rows = judged(home, history("nightly", restart=6.0))
    assert (rows["nightly"]["restarts_24h"], rows["nightly"]["restarts_7d"]) == (3, 11)
    assert rows["nightly"]["verdict"] == "leak"


def test_since_bounds_the_window_that_is_judged(home: Path) -> None:
    assert judged(home, history("x"), "--since", "14h")["x"]["verdict"] == "growing"
    assert judged(home, history("x"), "--since", "2h")["x"]["verdict"] == "too_short"


def test_a_damaged_history_is_judged_by_what_is_left_of_it(home: Path) -> None:
    lines = history("x")
    lines[5] = lines[5][:40]
    lines[9] = "\0" * 70
    config = home / "upkeep.toml"
    config.write_text("")
    result = run_script(
        "memory_report", "--config", config, "--history", "-", stdin="\n".join(lines)
    )
    assert result.returncode == 0
    assert result.stderr.endswith("-: 2 lines are no samples: left out\n")
    assert "x: leak" in result.stdout.splitlines()[0]
    endless = '"age_seconds": 1e999'
    lines = [re.sub(r'"age_seconds": [\d.]+', endless, line) for line in history("x")[-40:]]
    result = run_script(
        "memory_report", "--config", config, "--history", "-", stdin="\n".join(lines)
    )
    assert result.returncode == 0 and "lines are no samples" in result.stderr
    for content in ("", "\n\n"):
        result = run_script("memory_report", "--config", config, "--history", "-", stdin=content)
        assert (result.returncode, result.stderr) == (0, "")
    result = report(home, "--history", home / "absent")
    assert result.returncode == 1 and "absent: cannot be read" in result.stderr


def fill(home: Path, fake: FakeProc, days: int = 3) -> None:
    """The history of the two programs of `fake`, of which server.js leaks."""
    fake.write("uptime", "400000.0 1.0\n")
    now = time.time()
    for index in range(days * 288):
        age = (days * 288 - index) * 300
        row = {"time": round(now - age), "boot_id": BOOT_ID, "uptime": 400_000 - age}
        row |= {"used": 1, "limit": 2, "swap_used": 0, "swapped": 0, "oom_kills": 0}
        row |= {"disks": {"/": [10**9 + index * 10**6, 10**9]}, "dirs": {"/d": [index * 1000]}}
        rss = [240_000, 8000 - (days * 288 - index) * 8]
        row["programs"] = [["app.py", 10, 5000, 2, rss[0]], ["server.js", 12, 5000, 1, rss[1]]]
        samples.append(home / "var", row)


def test_the_history_of_this_host_gives_trends_growth_and_a_page(
    home: Path, fake: FakeProc
) -> None:
    fill(home, fake)
    found = document(home, "--proc-root", fake.root)
    rows = {row["name"]: row for row in found["programs"]}
    assert (rows["app.py"]["verdict"], rows["server.js"]["verdict"]) == ("steady", "leak")
    assert found["disks"][0]["growth_bytes_per_day"] == pytest.approx(288e6, rel=0.01)
    assert found["directories"] == [
        {"path": "/d", "size_bytes": 863_000, "growth_bytes_per_day": pytest.approx(288_000)}
    ]
    text = report(home, "--proc-root", fake.root).stdout
    assert text.startswith("PROBLEM: server.js: leak, ") and "full in " in text
    assert max(map(len, text.splitlines()[1:])) <= 80
    page = home / "page.html"
    result = report(home, "--proc-root", fake.root, "--html", page, "--refresh", "30s")
    assert (result.returncode, result.stdout) == (0, "")
    assert 'content="30"' in page.read_text() and page.read_text().count("<svg") == 2
    assert page.stat().st_mode & 0o777 == 0o644


def test_every_problem_has_its_line_and_none_is_wider_than_the_screen(
    home: Path, fake: FakeProc
) -> None:
    lines = [*history("short"), *history("a-very-long-name-of-a-program-that-leaks")]
    (home / "history.jsonl").write_text("\n".join(lines) + "\n")
    options = ("--history", home / "history.jsonl", "--proc-root", fake.root)
    shown = report(home, *options).stdout.splitlines()
    assert shown[0].startswith("PROBLEM: short: leak, 48 MiB a day, at its limit in ")
    assert shown[1].startswith("and: a-very-long-name-of-a-program-that-leaks: leak, 48 MiB a day")
    assert shown[2].startswith("  ") and max(map(len, shown)) <= 80


def test_a_name_without_end_in_a_history_is_cut(home: Path, fake: FakeProc) -> None:
    (home / "history.jsonl").write_text("\n".join(history("é" * 20_000, hours=20)))
    result = report(home, "--history", home / "history.jsonl", "--proc-root", fake.root)
    assert (result.returncode, result.stderr) == (0, "")
    assert 0 < result.stdout.count("é") < 500
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_an_export_is_judged_alike_elsewhere(home: Path, fake: FakeProc) -> None:
    fill(home, fake)
    exported = report(home, "--proc-root", fake.root, "--export", "-").stdout
    rows = judged(home, exported.splitlines())
    assert rows["server.js"]["verdict"] == "leak" and rows["app.py"]["verdict"] == "steady"


def test_on_a_phone_the_columns_stay_straight(home: Path, fake: FakeProc) -> None:
    with BotApi() as api:
        config = home / "upkeep.toml"
        config.write_text("")
        options = ("--config", config, "--proc-root", fake.root, "--telegram")
        result = run_script("memory_report", *options, env=api.env)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        (text,) = api.texts
        assert text.startswith("OK: 50% of 2.0 GiB in use\n") and len(text) < 4096
        kinds = [entity["type"] for entity in api.messages[0]["entities"]]
        assert "pre" in kinds and max(map(len, text.splitlines())) <= 80


def test_a_page_that_cannot_be_written_is_one_line(home: Path, fake: FakeProc) -> None:
    result = report(home, "--proc-root", fake.root, "--html", "/proc/no/page.html")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "cannot be written" in result.stderr


def test_a_dry_run_sends_and_writes_nothing(home: Path, fake: FakeProc) -> None:
    result = report(home, "--proc-root", fake.root, "--dry-run", "--html", home / "page.html")
    assert result.stdout.startswith("OK: ") and not (home / "page.html").exists()
    assert not (home / "var").exists()


def test_a_page_is_not_put_into_a_directory_that_is_not_there(home: Path, fake: FakeProc) -> None:
    result = report(home, "--proc-root", fake.root, "--html", home / "absent" / "page.html")
    assert result.returncode == 1 and not (home / "absent").exists()


def has_started(program: Path) -> bool:
    """Whether pm2 has given a process the title of `program`; before, it shows pm2's own loader."""
    titles = (proc.read_file(str(each)) for each in Path("/proc").glob("[0-9]*/cmdline"))
    return any(title.startswith(b"node %s" % str(program).encode()) for title in titles)


@pytest.mark.skipif(not shutil.which("pm2"), reason="pm2 is not installed")
def test_restarts_are_those_that_pm2_counts_where_it_runs() -> None:
    home = Path(tempfile.mkdtemp())  # a short path: the titles of pm2's processes are cut
    for name in ("collector.js", "web.js"):
        (home / name).write_text("setInterval(() => {}, 1000)")
    path = f"{Path(str(shutil.which('pm2'))).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "PM2_HOME": str(home / "pm2"), "HOME": str(home)}
    (home / "upkeep.toml").write_text("")
    try:
        for command in (
            ["start", str(home / "collector.js")],
            ["start", str(home / "web.js"), "-i", "2"],
            ["restart", "all"],
            ["restart", "0"],
        ):
            subprocess.run(["pm2", *command], env=environment, check=True, capture_output=True)
        wait_until(lambda: has_started(home / "collector.js"))
        options = ("--config", home / "upkeep.toml", "--json")

        def rows() -> dict[str, Any] | None:  # node takes a moment until it has its name
            found = json.loads(run_script("memory_report", *options).stdout)["programs"]
            rows = {each["name"]: each for each in found}
            whole = rows.get("web.js", {}).get("processes") == 2 and "collector.js" in rows
            return rows if whole else None

        found = wait_until(rows)
        assert found["collector.js"]["restarts_by_manager"] == 2  # with all, and alone
        assert found["web.js"]["restarts_by_manager"] == 2  # two instances
        assert found["PM2"]["restarts_by_manager"] is None
    finally:
        subprocess.run(["pm2", "kill"], env=environment, check=True, capture_output=True)
        shutil.rmtree(home)


SYSTEMCTL = """#!/bin/sh
test "$*" = "show --property=MainPID,NRestarts *.service" || exit 1
printf 'NRestarts=0\\nMainPID=0\\n\\nMainPID=11\\nNRestarts=63\\n\\nMainPID=x\\n'
"""


def test_restarts_are_those_that_systemd_counts_where_it_is_the_first_process(
    home: Path, fake: FakeProc
) -> None:
    (home / "systemctl").write_text(SYSTEMCTL)
    (home / "systemctl").chmod(0o755)
    (home / "upkeep.toml").write_text("")
    options = ("--config", home / "upkeep.toml", "--proc-root", fake.root)
    path = {"PATH": f"{home}:/usr/bin:/bin"}

    def counted() -> list[int | None]:
        found = json.loads(run_script("memory_report", *options, "--json", env=path).stdout)
        return [row["restarts_by_manager"] for row in found["programs"][:2]]

    assert counted() == [None, None]
    fake.process(1, ["/usr/lib/systemd/systemd"], 900)
    assert counted() == [63, None]
    shown = run_script("memory_report", *options, env=path).stdout
    assert "! app.py: 238 MiB, 0 restarts in 24 h, 63 in all by its manager's count\n" in shown


def test_the_page_goes_with_the_message_when_asked(home: Path, fake: FakeProc) -> None:
    fill(home, fake)
    with BotApi() as api:
        (home / "upkeep.toml").write_text("")
        options = ("--config", home / "upkeep.toml", "--proc-root", fake.root)
        result = run_script("memory_report", *options, "--telegram", "--attach", env=api.env)
        assert (result.returncode, result.stderr) == (0, "")
        assert any("PROBLEM: server.js" in text for text in api.texts)
        assert [each["method"] for each in api.sends][-1] == "sendDocument"


@pytest.mark.parametrize("pillow", [True, False])
def test_a_program_that_leaks_is_sent_as_a_picture_or_else_as_the_page(
    home: Path, fake: FakeProc, pillow: bool
) -> None:
    if pillow:
        pytest.importorskip("PIL")
    fill(home, fake)
    (home / "upkeep.toml").write_text("")
    (home / "without").mkdir()
    if not pillow:  # a search path of a Python that has no Pillow
        (home / "without/sitecustomize.py").write_text(
            "import importlib.util as util\nfind = util.find_spec\n"
            "util.find_spec = lambda name, *more: None if name == 'PIL' else find(name, *more)\n"
        )
    with BotApi() as api:
        options = ("--config", home / "upkeep.toml", "--proc-root", fake.root, "--telegram")
        env = {**api.env, "PYTHONPATH": str(home / "without")}
        result = run_script("memory_report", *options, env=env)
        assert (result.returncode, result.stderr) == (0, "")
        assert api.texts[0].startswith("PROBLEM: server.js")
        last = api.sends[-1]
        assert last["method"] == ("sendPhoto" if pillow else "sendDocument")
    assert len(api.sends) == 2


def test_a_picture_shows_the_trend_restarts_and_the_limit(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = random.Random(1)
    points = traces.trace([traces.linear(5)], 40, 48, rng, restart_hours=24)
    drawn = picture.draw(points, 200.0 * (1 << 20))
    assert drawn
    (tmp_path / "x.png").write_bytes(drawn)
    with image.open(tmp_path / "x.png") as shown:
        assert shown.size == (800, 300)
        colours = {colour for _, colour in shown.convert("RGB").getcolors(9999)}
    assert {(255, 0, 0), (192, 192, 192), (65, 105, 225)} <= colours
    assert len(drawn) < 20_000
