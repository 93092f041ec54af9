"""The profiled program is the program, unchanged; its collections are counted, whatever ends it."""

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bin import gc_profile
from tests.helpers import ROOT, is_running, run_script, wait_until
from tests.test_metrics import lint
from upkeep.gc_hook import sitecustomize as hook

SCRIPT = ROOT / "bin/gc_profile.py"
ABOUT_ITSELF = """
import os, sys, gc
print(sys.argv, __name__, __file__, sys.path, "sitecustomize" in sys.modules)
print(sys.modules["__main__"].__dict__.keys() >= {"os", "sys"}, gc.get_threshold(), sys.flags)
for number in range(3):
    gc.collect()
"""


def write(place: Path, text: str, name: str = "program.py") -> Path:
    path = place / name
    path.write_text(text)
    return path


def both(
    *command: str | Path, place: Path, **options: Any
) -> list[subprocess.CompletedProcess[str]]:
    """The same program without and with the profiler."""
    common = {"capture_output": True, "text": True, "check": False, "timeout": 60, "cwd": place}
    plain = subprocess.run([sys.executable, *command], **common, **options)
    wrapped = [sys.executable, SCRIPT, "run", "--save", place / "saved.gc"]
    return [plain, subprocess.run([*wrapped, *command], **common, **options)]


def collections(path: Path) -> list[int]:
    return [each["collections"] for each in gc_profile.read(path)["generations"]]


@pytest.mark.parametrize("arguments", [[], ["--save", "x", "-m", "--", "--version", "a b", "ü"]])
def test_a_script_sees_what_it_sees_without(tmp_path, arguments):
    program = write(tmp_path, ABOUT_ITSELF)
    plain, profiled = both(program, *arguments, place=tmp_path)
    assert plain.stdout and profiled.stdout == plain.stdout
    assert (profiled.returncode, profiled.stderr) == (plain.returncode, plain.stderr) == (0, "")
    assert collections(tmp_path / "saved.gc")[2] == 3


@pytest.mark.parametrize("more", [[], ["--try", "freeze"]])
def test_a_dry_run_by_the_environment_runs_nothing(tmp_path, more):
    program, save = write(tmp_path, "open('ran', 'w')"), tmp_path / "saved.gc"
    words = ["run", "--save", save, *more, program, "a b"]
    done = run_script("gc_profile", *words, env={"UPKEEP_DRY_RUN": "1"}, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("would run: ") and done.stdout.endswith(f"{program} 'a b'\n")
    assert list(tmp_path.iterdir()) == [program]


def test_a_module_sees_what_it_sees_without(tmp_path):
    write(tmp_path, ABOUT_ITSELF, "some_module.py")
    plain, profiled = both("-m", "some_module", "-m", "other", place=tmp_path)
    assert plain.stdout and profiled.stdout == plain.stdout
    assert profiled.returncode == plain.returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit(7)",
        "import sys; sys.exit('a message')",
        "import os; print('x', flush=True); os._exit(9)",
        "raise RuntimeError('a bug')",
        "def broken(:",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import gc; gc.disable(); gc.callbacks.clear(); print(gc.isenabled())",
        "import os; os.chdir('/'); os.closerange(3, 100); print(os.getcwd())",
        "import atexit; atexit.register(print, 'bye')",
        "import threading; threading.Thread(target=print, args=('thread',)).start()",
    ],
)
def test_the_end_is_the_same(tmp_path, text):
    plain, profiled = both(write(tmp_path, text), place=tmp_path)
    assert profiled.returncode == plain.returncode
    assert (profiled.stdout, profiled.stderr) == (plain.stdout, plain.stderr)
    assert len(gc_profile.read(tmp_path / "saved.gc")["generations"]) == 3


def test_a_missing_script_is_told_as_without(tmp_path):
    plain, profiled = both("missing.py", place=tmp_path)
    assert profiled.returncode == plain.returncode == 2
    assert "missing.py" in profiled.stderr and "Traceback" not in profiled.stderr


def test_descriptors_that_the_program_reuses_are_never_written(tmp_path):
    text = """
import gc, os
os.closerange(3, 100)
files = [open(f"data{number}", "w") for number in range(20)]
for number in range(20):
    gc.collect()
"""
    both(write(tmp_path, text), place=tmp_path)
    assert collections(tmp_path / "saved.gc")[2] == 20
    assert all((tmp_path / f"data{number}").stat().st_size == 0 for number in range(20))


def test_a_killed_program_leaves_its_profile(tmp_path):
    text = """
import gc, sys
for number in range(50):
    gc.collect()
print("ready", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, SCRIPT, "run", "--save", tmp_path / "a.gc", write(tmp_path, text)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout and child.stdout.readline() == "ready\n"
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert collections(tmp_path / "a.gc")[2] == 50


def test_a_program_that_handles_signals_gets_them_itself(tmp_path):
    text = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("ready", flush=True)
while True:
    time.sleep(60)
"""
    child = subprocess.Popen(
        [sys.executable, SCRIPT, "run", "--save", tmp_path / "a.gc", write(tmp_path, text)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout and child.stdout.readline() == "ready\n"
    child.terminate()
    child.communicate()
    assert child.returncode == 5


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_have_profiles_of_their_own(tmp_path, method):
    text = f"""
import gc, multiprocessing, os
def work():
    for number in range(5):
        gc.collect()
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    children = [context.Process(target=work) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    print([child.pid for child in children])
    gc.collect()
"""
    _, profiled = both(write(tmp_path, text), place=tmp_path)
    assert profiled.returncode == 0, profiled.stderr
    assert collections(tmp_path / "saved.gc")[2] == 1
    for pid in ast.literal_eval(profiled.stdout):
        assert collections(tmp_path / f"saved.gc.{pid}")[2] == 5


def test_short_collections_around_a_fork_belong_to_who_made_them(tmp_path):
    text = """
import gc, os, sys
own = [0, 0, 0]
def observe(phase, info):
    own[info["generation"]] += phase == "stop"
def make_garbage():
    gc.enable()
    for number in range(40_000):
        one, other = [], []
        one.append(other), other.append(one)
    gc.disable()
gc.disable()
gc.callbacks.append(observe)
make_garbage()
child = os.fork()
if child == 0:
    own = [0, 0, 0]
make_garbage()
if child:
    os.waitpid(child, 0)
print(os.getpid(), own, flush=True)
"""
    _, profiled = both(write(tmp_path, text), place=tmp_path)
    child, parent = (line.split(maxsplit=1) for line in profiled.stdout.splitlines())
    assert collections(tmp_path / f"saved.gc.{child[0]}") == ast.literal_eval(child[1])
    found, expected = collections(tmp_path / "saved.gc"), ast.literal_eval(parent[1])
    before = [have - want for have, want in zip(found, expected, strict=True)]
    assert expected[0] > 20 and all(0 <= each <= 3 for each in before), "some before gc.disable()"


def test_env_profiles_any_child_and_keeps_pythonpath_and_the_hidden_sitecustomize(tmp_path):
    write(tmp_path, "print('the own one')", "sitecustomize.py")
    program = write(tmp_path, "import gc, sys; gc.collect(); print(sys.path.count(sys.argv[1]))")
    lines = run_script(
        "gc_profile", "env", "--save", tmp_path / "gc", env={"PYTHONPATH": str(tmp_path)}
    )
    assert lines.returncode == 0, lines.stderr
    shell = f'eval "$1"; exec "$2" "$3" {tmp_path}'
    command = ["sh", "-c", shell, "sh", lines.stdout, sys.executable, program]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")
    out, _ = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "the own one\n2\n")
    assert collections(tmp_path / "gc" / f"gc.{child.pid}")[2] == 1


def test_pauses_are_measured_as_the_program_itself_measures_them(tmp_path):
    text = """
import gc, time
gc.disable()
held = [[number] for number in range(300_000)]
pauses, begin = [], 0
def observe(phase, info):
    global begin
    if phase == "start":
        begin = time.perf_counter_ns()
    else:
        pauses.append(time.perf_counter_ns() - begin)
gc.callbacks.append(observe)
for number in range(21):
    gc.collect()
print(sorted(pauses)[10] / 1e6, max(pauses) / 1e6)
"""
    _, profiled = both(write(tmp_path, text), place=tmp_path)
    middle, longest = map(float, profiled.stdout.split())
    (*_, full) = gc_profile.read(tmp_path / "saved.gc")["generations"]
    assert full["collections"] == 21
    assert gc_profile.quantile_ms(full, 0.5) == pytest.approx(middle, rel=0.1)
    assert full["max_ns"] / 1e6 == pytest.approx(longest, rel=0.1)
    assert 0 < full["cpu_ns"] <= full["wall_ns"] * 1.1


def test_the_report_has_a_line_for_each_generation(tmp_path):
    both(write(tmp_path, "import gc\nfor n in range(4): gc.collect()"), place=tmp_path)
    result = run_script("gc_profile", "report", tmp_path / "saved.gc")
    assert result.returncode == 0
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("gen")]
    assert [row[0] for row in rows] == ["gen0", "gen1", "gen2"]
    assert rows[2][1] == "4" and all(float(figure) >= 0 for figure in rows[2][2:])


@pytest.mark.parametrize(
    "content", ["", "7", "{}", "\0", "\0" * (hook.SIZE + 9), "\0" * hook.SIZE + "upkeep-gc 3 x 2 y"]
)
def test_what_is_no_profile_is_refused_and_never_overwritten(tmp_path, content):
    file = write(tmp_path, content, "file")
    result = run_script("gc_profile", "report", file)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    if content:
        result = run_script("gc_profile", "run", "--save", file, write(tmp_path, "print('ran')"))
        assert (result.returncode, result.stdout) == (2, "")
        assert file.read_text() == content
    assert run_script("gc_profile", "report", tmp_path / "missing").returncode == 2


@pytest.mark.parametrize(
    ("version", "told"), [((3, 13, 9), 0), ((3, 14, 0), 1), ((3, 14, 4), 1), ((3, 14, 5), 0)]
)
def test_the_trap_of_an_interpreter_is_told(version, told):
    empty = {"collections": 0, "collected": 0, "wall_ns": 0, "cpu_ns": 0, "max_ns": 0, "pauses": {}}
    about = {"python": version, "command": "x.py", "seconds": 1.0, "share": 0.0}
    text = "\n".join(gc_profile.lines({**about, "generations": [empty] * 3}))
    assert text.count("upgrade to 3.14.5") == told
    assert text.endswith("leave it as it is")


def test_the_prometheus_histogram_is_cumulative_and_complete(tmp_path):
    text = "import gc\nheld = [[n] for n in range(50000)]\nfor n in range(30): gc.collect()"
    file, program = tmp_path / "gc.prom", write(tmp_path, text, 'pro"gram.py')
    result = run_script(
        "gc_profile", "run", "--save", tmp_path / "a.gc", "--prometheus", file, program
    )
    assert (result.returncode, result.stderr) == (0, "")
    labels = 'program="pro\\"gram.py",generation="2"'
    found = re.findall(re.escape(f"_bucket{{{labels},le=") + r'"(\S+)"} (\d+)', file.read_text())
    counts = [int(count) for _, count in found]
    bounds = [float(bound) for bound, _ in found]
    assert counts == sorted(counts) and bounds == sorted(bounds)
    assert (bounds[-1], counts[-1]) == (float("inf"), 30)
    assert f"upkeep_gc_pause_seconds_count{{{labels}}} 30\n" in file.read_text()
    lint(file.read_text())
    full = gc_profile.read(tmp_path / "a.gc")["generations"][2]
    for bound, count in zip(bounds, counts, strict=True):
        assert count == sum(
            n for step, n in full["pauses"].items() if hook.pause_ns(step, 0.5) < bound * 1e9
        )


def test_a_histogram_goes_only_where_it_can_be_read(tmp_path):
    both(write(tmp_path, "pass"), place=tmp_path)
    target = tmp_path / "missing" / "gc.prom"
    result = run_script("gc_profile", "report", tmp_path / "saved.gc", "--prometheus", target)
    assert result.returncode == 2 and "cannot be written" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not target.parent.exists()


def test_it_runs_without_any_environment(tmp_path):
    program = write(tmp_path, "import sys; print(sys.argv[1:])")
    command = [SCRIPT, "run", "--save", tmp_path / "a.gc", program, "x"]
    done = subprocess.run(command, env={}, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "['x']\n"
    assert gc_profile.read(tmp_path / "a.gc")["command"].endswith("program.py x")


def test_what_is_no_file_is_neither_written_nor_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    program = write(tmp_path, "import gc; gc.collect(); print('ran')")
    for path in (tmp_path / "fifo", "/dev/full", tmp_path):
        result = run_script("gc_profile", "run", "--save", path, program, timeout=20)
        assert result.returncode == 2 and "not a regular file" in result.stderr


def test_settings_are_really_tried_and_a_failing_program_is_told(tmp_path):
    text = "import gc, sys; print(gc.get_threshold(), file=sys.stderr); gc.collect()"
    program = write(tmp_path, text)
    result = run_script("gc_profile", "run", "--try", "5000,7,9", "--try", "freeze", program)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("(5000, 7, 9)") == gc_profile.ROUNDS
    assert [line.split()[0] for line in result.stdout.splitlines()[1:4]] == [
        "default",
        "5000,7,9",
        "freeze",
    ]
    failed = run_script(
        "gc_profile", "run", "--try", "freeze", write(tmp_path, "raise SystemExit(3)")
    )
    assert failed.returncode == 1 and "ended with 3" in failed.stderr
    assert run_script("gc_profile", "run", "--try", "faster", program).returncode == 2


def test_a_try_that_is_stopped_leaves_no_program_behind(tmp_path):
    program = write(
        tmp_path, "import os, time; print(os.getpid(), file=open('pid', 'w')); time.sleep(600)"
    )
    tried = subprocess.Popen(
        [sys.executable, SCRIPT, "run", "--try", "freeze", program], cwd=tmp_path
    )
    pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    tried.terminate()
    assert tried.wait(timeout=30) == 143
    wait_until(lambda: not is_running(pid))


def test_a_setting_that_helps_wins_and_one_that_does_not_is_left(monkeypatch):
    def trial(_command: list[str], setting: str) -> tuple[float, float, float, float]:
        cpu = {"default": 1.0, "freeze": 0.8, "5000": 0.99}[setting]
        return cpu, 0.1, 1.0, 30.0

    monkeypatch.setattr(gc_profile, "trial", trial)
    assert gc_profile.try_out(["x"], ["5000", "freeze"])[-1] == "best: freeze"
    assert "leave it" in gc_profile.try_out(["x"], ["5000"])[-1]


def test_a_step_of_the_histogram_is_close_enough(monkeypatch):
    for pause in (40, 1_000, 20_000, 2**20 - 1, 2**20, 150_000_000, 10**13):
        times = iter((0, pause))
        monkeypatch.setattr(hook.time, "perf_counter_ns", lambda times=times: next(times))
        counts = memoryview(bytearray(hook.SIZE)).cast("q")
        observe, _ = hook.observer(counts, lambda now: None)
        observe("start", {"generation": 2, "collected": 0})
        observe("stop", {"generation": 2, "collected": 7})
        row = counts.tolist()[2 * hook.ROW :]
        assert row[:5:4] == [1, pause] and row[1:3] == [7, pause]
        assert hook.pause_ns(row.index(1, hook.FIRST_STEP), 0.5) == pytest.approx(pause, rel=0.032)


def test_nothing_to_run_is_a_usage_error():
    assert run_script("gc_profile", "run").returncode == 2
    assert run_script("gc_profile").returncode == 2
