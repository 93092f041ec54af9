"""The outbox: what is accepted is on the disk, in order, bounded, and given up only with a word."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT
from upkeep import files
from upkeep.outbox import MOST_BYTES, MOST_LETTERS, Letter, Outbox

NOW = 1_800_000_000.0


def texts(outbox: Outbox) -> list[str]:
    return [letter.text for letter in outbox.letters()]


def test_letters_come_back_as_they_were_and_in_order(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    assert outbox.paths() == []
    first = Letter("-100", "ä\n😀", "7", "bold", silent=True, ttl=60.0)
    stored = [outbox.put(first, NOW), *(outbox.put(Letter("1", f"{n}"), NOW) for n in range(9))]
    assert outbox.letters() == stored
    assert stored[0].text == first.text
    assert [path.name for path in outbox.paths()] == sorted(os.listdir(tmp_path / "new"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert stored[0].path and stored[0].path.stat().st_mode & 0o777 == 0o600


def test_a_mark_survives_and_is_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    letter = outbox.put(Letter("1", "x"), NOW)
    outbox.mark([letter], maybe=True)
    outbox.mark([letter], maybe=True)
    assert [each.maybes for each in outbox.letters()] == [2]
    outbox.mark([letter], maybe=False)
    assert [each.maybes for each in outbox.letters()] == [1]
    assert outbox.fate(letter) == ""
    outbox.end([letter])
    assert outbox.fate(letter) is None


def test_a_refused_letter_is_kept_with_the_reason(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    letter = outbox.put(Letter("1", "x"), NOW)
    outbox.end([letter], "chat not found")
    assert outbox.fate(letter) == "chat not found"
    assert outbox.paths() == []
    kept = json.loads(next((tmp_path / "dead").iterdir()).read_text())
    assert (kept["text"], kept["why"]) == ("x", "chat not found")
    for number in range(120):
        outbox.end([outbox.put(Letter("1", f"{number}"), NOW)], "no")
    assert len(list((tmp_path / "dead").iterdir())) == 100


def test_what_is_too_old_or_too_much_is_given_up_and_told_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(3):
        outbox.put(Letter("1", f"old {number}", ttl=3600.0), NOW)
    outbox.put(Letter("1", "for ever"), NOW)
    outbox.tidy(NOW + 3599)
    assert len(texts(outbox)) == 4
    outbox.tidy(NOW + 3601)
    notice, kept = texts(outbox)
    assert kept == "for ever"
    since = time.strftime("%F %R", time.localtime(NOW))
    assert notice.startswith(f"3 message(s) since {since} were given up (expired), see ")
    outbox.put(Letter("1", "later", ttl=1.0), NOW + 90)
    outbox.mark([outbox.put(Letter("1", "odd"), NOW)] * 3, maybe=True)
    outbox.tidy(NOW + 3601)
    notice, kept = texts(outbox)
    why = "expired, sent 3 times without an answer"
    assert notice.startswith(f"5 message(s) since {since} were given up ({why}), see ")


def test_the_bytes_are_bounded_and_a_text_outlives_its_file(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    model = Letter("1", "a report", upload="document", file_name="r.csv")
    for size in (3_000_000, 1_000_000, 4_500_000):
        outbox.put(model, NOW, "", bytes(size))
    outbox.tidy(NOW)
    dropped = "a report\n(r.csv could not be sent: the outbox was full)"
    assert texts(outbox) == [dropped, dropped, "a report"]
    outbox.put(model, NOW, "", bytes(9_000_000))
    outbox.tidy(NOW)
    sizes = [file.stat().st_size for file in (tmp_path / "new").glob(".*")]
    assert (texts(outbox), sizes) == ([dropped] * 3 + ["a report"], [9_000_000])
    for number in range(MOST_LETTERS - 10):
        outbox.put(Letter("1", f"{number} " + "\N{EURO SIGN}" * 3000), NOW)
    outbox.tidy(NOW)
    total = sum(path.stat().st_size for path in outbox.paths())
    assert MOST_BYTES / 2 < total <= MOST_BYTES + 1000
    assert "were given up (the outbox was full)" in texts(outbox)[0]


def test_what_killed_senders_left_goes_after_an_hour(tmp_path: Path) -> None:
    outbox, now = Outbox(tmp_path), time.time()
    letter = outbox.put(Letter("1", "x", upload="document"), now, "", b"content")
    old, fresh = tmp_path / "new/.a.json.1-0.tmp", tmp_path / "new/.b.json.1-0.tmp"
    orphan = tmp_path / "new/.c.file"
    for path in (old, fresh, orphan):
        path.write_text("{")
    for path in (old, orphan, letter.attachment):
        os.utime(path, (now - 3700, now - 3700))
    outbox.tidy(now)
    assert [path.exists() for path in (old, orphan, fresh, letter.attachment)] == [
        False,
        False,
        True,
        True,
    ]


def test_silent_letters_make_room_for_loud_ones(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(MOST_LETTERS + 5):
        outbox.put(Letter("1", f"{number}", silent=number % 2 == 0), NOW)
    outbox.tidy(NOW)
    gone = sorted(json.loads(f.read_text())["text"] for f in (tmp_path / "dead").iterdir())
    assert gone == ["0", "2", "4", "6", "8"]
    assert len(texts(outbox)) == MOST_LETTERS + 1


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_is_years_off_expires_nothing(tmp_path: Path, years: int) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(Letter("1", "x", ttl=86400.0), NOW)
    outbox.tidy(NOW + years * 365 * 86400)
    assert texts(outbox) == ["x"]
    assert outbox.letters()[0].age(NOW + years * 365 * 86400) == 0.0


def test_foreign_files_are_set_aside_and_reported(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(Letter("1", "good"), NOW)
    outbox.put(Letter("1", "big" * 100_000), NOW)
    (tmp_path / "new" / "link.json").symlink_to("/etc/hostname")
    (tmp_path / "new" / "deep.json").write_text("[" * 50_000)
    (tmp_path / "new" / "odd.json").write_text('{"chat": "1", "text": "x", "upload": "message"}')
    assert texts(outbox) == ["good"]
    assert len(files.set_aside) == 4
    files.set_aside.clear()
    assert texts(outbox) == ["good"]


def test_a_kill_while_writing_leaves_a_whole_letter_or_none(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'lib')!r})\n"
        "from pathlib import Path; from upkeep.outbox import Letter, Outbox\n"
        "outbox, n = Outbox(Path(sys.argv[1])), 0\n"
        "while True: print(outbox.put(Letter('1', str(n)), 1.0).text, flush=True); n += 1\n"
    )
    for round_number in range(3):
        place = tmp_path / str(round_number)
        run = subprocess.Popen([sys.executable, "-c", code, place], stdout=subprocess.PIPE)
        assert run.stdout
        accepted = [line.strip().decode() for line in itertools.islice(run.stdout, 20)]
        run.kill()
        accepted += [line.strip().decode() for line in run.stdout if line.endswith(b"\n")]
        run.wait()
        found = texts(Outbox(place))
        assert found[: len(accepted)] == accepted
        assert len(found) - len(accepted) <= 1
        assert files.set_aside == []
