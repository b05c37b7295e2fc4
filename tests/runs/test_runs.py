"""Runs survive being killed anywhere, admit one worker at a time, and never pass off half a result as one."""

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vestige import runs
from vestige.errors import BadInput, BadSetting, RunConflict
from vestige.runs import locks

SPEC = {"model": "wardrobe", "attack": {"name": "memora", "lr": 2e-3, "budget": (0, 2, 5)}, "seed": 0, "volatile": {"date": "today"}}
STEPS = 3

# Three steps, each with an artefact that builds on the one before; resumes after what is there.
WORK = f"""
import json, os, signal, sys, time
from pathlib import Path
from vestige import runs
from vestige.errors import RunConflict

SPEC = {SPEC!r}

def work(run, dies_after=None):
    events, total = 0, 0
    def event(name):
        nonlocal events
        run.event(name)
        if events == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        events += 1
    for step in range({STEPS}):
        path = run.path(f"parts/{{step}}.json")
        event(f"step {{step}}")
        if not path.exists():
            run.write_json(f"parts/{{step}}.json", {{"total": total + step}})
        total = json.loads(path.read_text())["total"]
        event(f"stepped {{step}}")
    return {{"total": total, "curve": [0.1, 1 / 3]}}
"""


def script(code: str, *arguments: object, stdin: int | None = None) -> subprocess.Popen:
    """A real process that runs some code after the work above."""
    command = [sys.executable, "-c", WORK + code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen, code: int = 0) -> str:
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    return out


def contents(folder: Path, but: tuple[str, ...] = ("events.jsonl",)) -> dict[str, bytes]:
    """Every file but the diary, which holds times."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in but}


def lock(folder: Path, **changes: object) -> None:
    """A lock as this process would write it, with changes."""
    pid = os.getpid()
    holder = {"host": socket.gethostname(), "pid": pid, "began": locks.began(pid), "since": "noon", "token": "theirs", **changes}
    (folder / "lock").write_text(json.dumps(holder))


@pytest.fixture
def run(tmp_path):
    return runs.claim(tmp_path / "run", SPEC)


@pytest.fixture(scope="module")
def dead():
    """The number and beginning of a process that has ended."""
    process = subprocess.Popen(["sleep", "60"])
    began = locks.began(process.pid)
    process.kill()
    process.wait()
    return {"pid": process.pid, "began": began}


# Keys


@pytest.mark.parametrize(
    "same",
    [
        dict(reversed(SPEC.items())),
        {**SPEC, "attack": {**SPEC["attack"], "budget": [0, 2, 5]}},
        {**SPEC, "volatile": {"date": "tomorrow", "command": ["vestige"]}},
        {k: v for k, v in SPEC.items() if k != "volatile"},
        {**SPEC, "attack": {**SPEC["attack"], "lr": 0.002}},
        json.loads(json.dumps(SPEC)),
    ],
)
def test_key_ignores_what_means_the_same(same):
    assert runs.key(same) == runs.key(SPEC)


@pytest.mark.parametrize(
    "other",
    [
        {**SPEC, "seed": 1},
        {**SPEC, "seed": 0.0},
        {**SPEC, "seed": False},
        {**SPEC, "seed": "0"},
        {**SPEC, "seed": None},
        {**SPEC, "extra": None},
        {**SPEC, "attack": {**SPEC["attack"], "budget": (0, 5, 2)}},
        {**SPEC, "attack": {**SPEC["attack"], "lr": 0.0020000000000000005}},
        {**SPEC, "attack": {**SPEC["attack"], "volatile": 1}},
    ],
)
def test_key_sees_every_difference(other):
    assert runs.key(other) != runs.key(SPEC)


def test_key_is_stable():
    """Later versions must find stored runs: the text that is hashed, written out."""
    text = b'{"a":null,"b":[1,2.5,1e-05,"\\u00e9"]}'
    assert runs.key({"b": (1, 2.5, 1e-5, "\u00e9"), "a": None}) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"spec\.a\[0\] is nan \(float\)"),
        (float("inf"), r"spec\.a\[0\] is inf"),
        (Path("x"), r"spec\.a\[0\] is PosixPath\('x'\)"),
        ({1: 2}, r"spec\.a\[0\] is \{1: 2\} \(dict\); a run stores finite numbers"),
        (b"x", r"\(bytes\)"),
        ({1}, r"\(set\)"),
    ],
)
def test_key_refuses_what_is_not_plain_data(value, message):
    with pytest.raises(BadSetting, match=message):
        runs.key({"a": [value]})


# Killed and resumed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run leaves."""
    root = tmp_path_factory.mktemp("whole")
    finished(script("runs.compute(sys.argv[1], SPEC, 'arm', work)", root))
    files = contents(root)
    folder = f"arm-{runs.key(SPEC)[:12]}"
    assert sorted(files) == [f"{folder}/{name}" for name in ("parts/0.json", "parts/1.json", "parts/2.json", "result.json", "spec.json")]
    return files


@pytest.mark.parametrize("event", range(2 * STEPS))
def test_killed_after_an_event_it_resumes_to_the_same_bytes(tmp_path, whole, event):
    finished(script("runs.compute(sys.argv[1], SPEC, 'arm', lambda run: work(run, int(sys.argv[2])))", tmp_path, event), -signal.SIGKILL)
    (folder,) = tmp_path.iterdir()
    assert (folder / "lock").exists() and not (folder / "result.json").exists()

    run = runs.Run(folder, {})
    finished(script("runs.compute(sys.argv[1], SPEC, 'arm', work)", tmp_path))
    assert contents(tmp_path) == whole
    assert [e["event"] for e in run.events() if e["event"] in ("opened", "taken over")] == ["opened", "taken over", "opened"]


EVERYWHERE = """
from contextlib import suppress
root = Path(sys.argv[1])
calls = ("open", "write", "fsync", "replace", "link", "unlink", "close")
os.fsync = lambda file: None  # slow, and without a meaning where the power stays on

def child(index, dies_at):
    seen = 0
    def counted(call):
        def inner(*arguments, **more):
            nonlocal seen
            seen += 1
            if seen == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **more)
        return inner
    for name in calls:
        setattr(os, name, counted(getattr(os, name)))
    runs.compute(root / str(index), SPEC, "arm", work)
    os._exit(0)

dies_at, killed = 1, 1
while killed:
    process = os.fork()
    if not process:
        child(dies_at, dies_at)
    killed = os.WIFSIGNALED(os.waitpid(process, 0)[1])
    runs.compute(root / str(dies_at), SPEC, "arm", work)
    dies_at += 1
print(dies_at)
"""


def test_killed_before_any_system_call_it_resumes_to_the_same_bytes(tmp_path, whole):
    places = int(finished(script(EVERYWHERE, tmp_path)))
    assert places > 40
    for place in range(1, places):
        left = contents(tmp_path / str(place), but=("events.jsonl", "lock"))  # killed between result and release, the lock stays
        assert left == whole, f"killed before call {place}"


def test_a_finished_run_is_not_computed_again_and_needs_no_lock(tmp_path):
    first = runs.compute(tmp_path, SPEC, "arm", lambda run: {"rate": 0.5})
    lock(first.folder, host="elsewhere")
    again = runs.compute(tmp_path, {**SPEC, "volatile": "other"}, "arm", lambda run: pytest.fail("computed again"))
    assert again.done and again.outcome == again.result == {"rate": 0.5} and again.folder == first.folder


@pytest.mark.parametrize("keep", [0, 1, -3, -2])
def test_a_damaged_result_is_not_believed(run, keep):
    with run.held():
        run.finish({"rate": 0.5})
    file = run.folder / "result.json"
    file.write_bytes(file.read_bytes()[:keep] if keep != -2 else b"\xff\x00")
    assert not run.done and run.result is None
    with pytest.raises(RunConflict, match="is not done: it has no whole result"):
        run.outcome  # noqa: B018
    with run.held():
        run.finish({"rate": 0.5})
    assert run.outcome == {"rate": 0.5}


def test_an_event_cut_short_spoils_only_itself(run):
    run.event("first", loss=0.25)
    with (run.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"time": "2025')
    run.event("second")
    assert [(e["event"], e.get("loss")) for e in run.events()] == [("first", 0.25), ("second", None)]


# One at a time

RACE = """
print("ready", flush=True)
for line in sys.stdin:
    try:
        with runs.open_run(sys.argv[1], {"round": line}, kind="race"):
            print("won", flush=True)
            sys.stdin.readline()
    except RunConflict as error:
        print("lost" if "is held by process" in str(error) else error, flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("stale", [False, True], ids=["free", "left by the dead"])
def test_of_racing_processes_exactly_one_wins(tmp_path, dead, stale):
    racers = [script(RACE, tmp_path, stdin=subprocess.PIPE) for _ in range(4)]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
    for n in range(15):
        spec = {"round": f"{n}\n"}
        if stale:
            lock(runs.claim(tmp_path / f"race-{runs.key(spec)[:12]}", spec).folder, **dead)
        for order in (f"{n}\n", "release\n"):
            for racer in racers:
                racer.stdin.write(order)
                racer.stdin.flush()
            if order != "release\n":
                assert sorted(racer.stdout.readline() for racer in racers) == ["lost\n"] * 3 + ["won\n"]
    for racer in racers:
        finished(racer)
    assert not list(tmp_path.glob("*/lock"))


def test_two_processes_that_want_one_run_compute_it_once(tmp_path):
    code = """
def slow(run):
    run.event("computing")
    time.sleep(0.4)
    return {"by": os.getpid()}
print(runs.compute(sys.argv[1], SPEC, "arm", slow, wait=20).outcome["by"])
"""
    answers = list(map(finished, [script(code, tmp_path) for _ in range(2)]))
    assert answers[0] == answers[1]
    assert (next(tmp_path.iterdir()) / "events.jsonl").read_text().count("computing") == 1


def test_waiting_ends_and_says_for_whom(tmp_path, caplog):
    run = runs.claim(tmp_path / f"arm-{runs.key(SPEC)[:12]}", SPEC)
    lock(run.folder)
    began = time.monotonic()
    with pytest.raises(RunConflict, match=r"is held by process \d+ on .* since noon; wait for it, or, .* --steal"):
        runs.compute(tmp_path, SPEC, "arm", lambda run: {}, wait=0.25)
    assert 0.2 < time.monotonic() - began < 2
    (told,) = caplog.messages
    assert told.startswith("waiting: ") and "is held by process" in told
    with pytest.raises(RunConflict):
        runs.compute(tmp_path, SPEC, "arm", lambda run: {}, wait=0)
    assert len(caplog.messages) == 1


def test_a_run_cannot_be_held_twice_in_one_process(run):
    with run.held():
        with pytest.raises(RunConflict, match=f"process {os.getpid()}"), runs.claim(run.folder, SPEC).held():
            pass
        assert (run.folder / "lock").exists()
    assert not (run.folder / "lock").exists()


@pytest.mark.parametrize("how", ["ended", "number given to another"])
def test_the_lock_of_a_dead_process_is_taken_over(run, dead, how):
    lock(run.folder, **(dead if how == "ended" else {"began": "another boot 1"}))
    with run.held():
        assert run.events()[0]["event"] == "taken over" and run.events()[0]["holder"]["token"] == "theirs"
    assert not (run.folder / "lock").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_dead_process_that_nobody_has_waited_for_is_dead(run):
    with subprocess.Popen(["sleep", "60"]) as process:
        lock(run.folder, pid=process.pid, began=locks.began(process.pid))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with run.held():
            assert run.events()[0]["event"] == "taken over"


@pytest.mark.parametrize(
    "content", [{"host": "elsewhere"}, {"pid": 1, "began": ""}, {"pid": "x"}, None], ids=["foreign", "unsure", "odd", "empty"]
)
def test_any_other_lock_is_respected_unless_stolen(run, dead, content):
    lock(run.folder, **(dead | (content or {})))
    if content is None:
        (run.folder / "lock").write_text("")
    with pytest.raises(RunConflict, match="on elsewhere" if content == {"host": "elsewhere"} else "is held by"), run.held():
        pass
    with run.held(steal=True):
        assert run.events()[0]["event"] == "stolen"
    assert not (run.folder / "lock").exists()


def test_who_lost_the_lock_can_neither_finish_nor_release_it(run):
    thief = runs.claim(run.folder, SPEC)
    with run.held():
        with thief.held(steal=True):
            with pytest.raises(RunConflict, match="cannot be finished: its lock is held by process"):
                run.finish({"rate": 1.0})
            thief.finish({"rate": 0.5})
        lock(run.folder)
    assert run.outcome == {"rate": 0.5}
    assert (run.folder / "lock").exists()


def test_finishing_needs_the_lock(run):
    with pytest.raises(RunConflict, match="its lock is not held"):
        run.finish({})


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_error_releases_the_lock(run, error):
    with pytest.raises(error), run.held():
        raise error
    assert not (run.folder / "lock").exists() and not run.done


def test_control_c_releases_the_lock(tmp_path):
    # A parent in the background may have left interrupts ignored; the child listens to them again.
    code = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "with runs.open_run(sys.argv[1], SPEC, kind='arm'):\n    print('in', flush=True); time.sleep(30)"
    process = script(code, tmp_path)
    assert process.stdout.readline() == "in\n"
    (folder,) = tmp_path.iterdir()
    assert (folder / "lock").exists()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode != 0 and not (folder / "lock").exists()


# Folders and artefacts


def test_a_folder_with_another_spec_is_refused_with_the_differences(tmp_path):
    runs.claim(tmp_path, SPEC)
    assert runs.claim(tmp_path, {**SPEC, "volatile": 1}).spec["volatile"] == {"date": "today"}
    other = {"model": "wardrobe", "attack": {"name": "memora", "lr": 1e-3, "budget": (0, 2)}, "seed": 0, "suite": "x" * 80}
    with pytest.raises(RunConflict) as caught:
        runs.claim(tmp_path, other)
    assert str(caught.value) == (
        f"{tmp_path} holds another run: attack.budget is [0, 2, 5] there and [0, 2] here; attack.lr is 0.002 there and 0.001 here; "
        f"suite is absent there and '{'x' * 56}... here; choose another folder, or repeat the settings of that run"
    )
    with pytest.raises(RunConflict, match=r"f is absent there and 6 here and 1 more; choose"):
        runs.claim(tmp_path, {**SPEC, "a": 1, "b": 2, "d": 4, "e": 5, "f": 6, "g": 7})


def test_a_run_without_its_spec_is_refused(tmp_path):
    (tmp_path / "spec.json").write_text('{"a"')
    with pytest.raises(RunConflict, match=r"damaged spec\.json; choose another folder, or delete"):
        runs.claim(tmp_path, SPEC)
    (tmp_path / "spec.json").rename(tmp_path / "result.json")
    with pytest.raises(RunConflict, match=r"without its spec\.json"):
        runs.claim(tmp_path, SPEC)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot write .*file: .*file is a file, where a folder is needed"):
        runs.claim(tmp_path / "file", SPEC)


@pytest.mark.parametrize("name", ["result.json", "./lock", "spec.json", "events.jsonl", "../x", "/tmp/x", "", "."])
def test_artefacts_stay_inside_and_off_the_runs_own_files(run, name):
    with pytest.raises(BadInput, match="cannot be an artefact"):
        run.path(name)


def test_artefacts(run):
    assert run.write_bytes("pictures/0.png", b"x").read_bytes() == b"x"
    assert json.loads(run.write_json("curve.json", {"r": (0.0, 0.5)}).read_text()) == {"r": [0.0, 0.5]}
    with pytest.raises(BadSetting, match=r"curve\.json\.r is nan"):
        run.write_json("curve.json", {"r": float("nan")})
    with pytest.raises(BadSetting, match=r"result\.r is inf"):
        run.finish({"r": float("inf")})
    with pytest.raises(BadSetting, match=r"event\.loss is nan"):
        run.event("x", loss=float("nan"))
    assert sorted(p.name for p in run.folder.rglob("*") if p.is_file()) == ["0.png", "curve.json", "spec.json"]


# A full disk


@pytest.fixture
def full(monkeypatch):
    """Call it, and every write stops after three bytes for want of space."""

    def fill() -> None:
        write = os.write
        left = 3

        def short(file: int, data: bytes) -> int:
            nonlocal left
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            done = write(file, bytes(data)[:left])
            left -= done
            return done

        monkeypatch.setattr(os, "write", short)

    return fill


FULL = ": No space left on device; free some space and repeat the command"


def test_a_full_disk_leaves_no_half_result(run, full, monkeypatch):
    with run.held():
        run.finish({"rate": 0.5})
        before = contents(run.folder)
        full()
        with pytest.raises(BadInput, match=rf"cannot write .*result\.json{FULL}"):
            run.finish({"rate": 0.9})
        with pytest.raises(BadInput, match=FULL):
            run.write_bytes("picture.png", b"many bytes")
        assert contents(run.folder) == before
        monkeypatch.undo()
        run.finish({"rate": 0.9})
    assert run.outcome == {"rate": 0.9}


def test_a_full_disk_leaves_no_half_event(run, full):
    run.event("first")
    before = (run.folder / "events.jsonl").read_bytes()
    full()
    with pytest.raises(BadInput, match=FULL):
        run.event("second")
    assert (run.folder / "events.jsonl").read_bytes() == before


def test_a_full_disk_leaves_neither_lock_nor_spec(tmp_path, run, full):
    full()
    with pytest.raises(BadInput, match=FULL), run.held():
        pass
    with pytest.raises(BadInput, match=FULL):
        runs.claim(tmp_path / "new", SPEC)
    assert sorted(contents(tmp_path)) == ["run/spec.json"]


def test_without_hard_links_the_lock_is_exclusive_all_the_same(run, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with run.held(), pytest.raises(RunConflict), runs.claim(run.folder, SPEC).held():
        pass
    assert sorted(contents(run.folder)) == ["spec.json"]
