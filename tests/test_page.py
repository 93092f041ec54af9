"""The page: one file that a real browser renders, whatever programs are called."""

import html.parser
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import traces
from upkeep import page
from upkeep.samples import Point

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync hide-scrollbars"
FLAGS += " disable-background-networking disable-component-update window-size=900,1100"
MIB = 1 << 20
HOSTILE = '</pre><script>document.title="hacked"</script>\x1b[2J\n"&'


def point(time: float, mib: float, start: int = 1) -> Point:
    return Point(time, "b", 1, start, int(mib * MIB), time)


def test_a_sparkline_shows_levels_spikes_and_gaps() -> None:
    rising = [point(number * 60, number + 1) for number in range(80)]
    assert page.sparkline(rising, 8) == "▁▂▃▄▅▆▇█"
    gap = [point(0, 8), point(10, 8), point(1000, 8)]
    assert page.sparkline(gap, 5) == "█   █"
    assert page.sparkline([], 5) == "     "
    assert page.sparkline([point(5, 0)], 3) == "▁  "
    spike = [point(number, 99 if number == 50 else 1) for number in range(101)]
    assert page.sparkline(spike, 10).count("█") == 1


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def sample_page(refresh: float = 0.0) -> str:
    rng = random.Random(5)
    leaky = traces.trace([traces.linear(2), traces.noise(rng, 40)], 40, 72, rng)
    nightly = traces.trace([traces.sawtooth(rng, 60)], 60, 72, rng, restart_hours=24)
    charts = {
        "trader.py": (leaky, 300.0 * MIB),
        "shop:app": (nightly, 4096.0 * MIB),
        HOSTILE: (nightly, 0.0),
    }
    report = f"PROBLEM: trader.py: leak, 48 MiB a day\n\n{HOSTILE}  12 MiB"
    return page.as_html(report, charts, refresh)


def test_the_page_is_one_file_without_scripts_and_references() -> None:
    made = sample_page()
    tags = Tags()
    tags.feed(made)
    names = {tag for tag, _ in tags.seen}
    assert not names & {"script", "link", "img", "iframe", "object", "a", "base"}
    assert not [a for _, a in tags.seen if {"src", "href"} & a.keys()]
    assert not any(key.startswith("on") for _, attrs in tags.seen for key in attrs)
    assert "http" not in made.replace("http-equiv", "")
    assert [tag for tag, _ in tags.seen].count("svg") == 3
    assert "prefers-color-scheme" in made or "color-scheme: light dark" in made


def test_restarts_and_limits_are_marked_and_spikes_survive() -> None:
    nightly, leaky = sample_page().split("<svg")[2], sample_page().split("<svg")[1]
    marks = re.search(r'class="restart" d="([^"]*)"', nightly)
    assert marks and marks[1].count("M") == 2
    assert 'class="limit" d="M0 ' in leaky and 'class="limit" d=""' in nightly
    spike = [point(n * 300.0, 100 if n == 700 else 10) for n in range(864)]
    drawn = page.as_html("x", {"x": (spike, 0.0)}, 0.0)
    heights = [int(y) for y in re.findall(r"[ML]\d+ (\d+)", drawn.split("restart")[-1])]
    assert heights.count(min(heights)) == 1 and min(heights) < 30 < sorted(heights)[1]


def test_the_page_reloads_itself_only_when_told() -> None:
    assert 'http-equiv="refresh"' not in sample_page()
    assert '<meta http-equiv="refresh" content="30">' in sample_page(30.0)


def test_a_month_of_twenty_programs_is_a_small_page() -> None:
    rng = random.Random(1)
    month = traces.trace([traces.ragged_sawtooth(rng, 80)], 80, 720, rng, restart_hours=24)
    made = page.as_html("x", {f"program{n}": (month, 9e9) for n in range(20)}, 30.0)
    assert len(made) <= 300_000


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_a_real_browser_renders_it_and_runs_nothing(tmp_path: Path) -> None:
    assert CHROMIUM
    (tmp_path / "page.html").write_text(sample_page(refresh=3600.0))
    url = (tmp_path / "page.html").as_uri()
    common = [
        CHROMIUM,
        *(f"--{flag}" for flag in FLAGS.split()),
        f"--user-data-dir={tmp_path}/profile",
    ]
    shot = [*common, f"--screenshot={tmp_path}/shot.png", url]
    subprocess.run(shot, check=True, capture_output=True, timeout=120)
    picture = (tmp_path / "shot.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    dump = subprocess.run(
        [*common, "--dump-dom", url], check=True, capture_output=True, text=True, timeout=120
    )
    assert "<title>PROBLEM: trader.py: leak, 48 MiB a day</title>" in dump.stdout
    assert "hacked" in dump.stdout and "<script>" not in dump.stdout
    assert dump.stdout.count("<svg") == 3
