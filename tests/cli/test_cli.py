"""The command line on the embedded model: what a user types, what a user reads, and what happens when something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command import height, vestige
from hurry import hurry  # noqa: F401

SMOKE = ["--suite", "smoke", "--attack", "memora", "--seeds", "0,1", "--control", "twin:wardrobe-never-sneaker"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def edit(home: Path) -> Path:
    path = home / "edit.safetensors"
    vestige("unlearn", "--model", "wardrobe", "--concept", "sneaker", "--method", "uce", "--out", path)
    return path


@pytest.fixture(scope="module")
def audited(home: Path) -> dict[str, Any]:
    done = vestige("audit", "--unlearner", "uce", *SMOKE, "--out", home / "audit", "--cache", home / "cache", "--json")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_audit_json_keeps_its_contract(audited: dict[str, Any], home: Path) -> None:
    assert audited["schema"] == "vestige-audit-1"
    assert audited["suite"] == "smoke-3"
    assert {"kind", "reason", "flags"} <= set(audited["verdict"])
    for measure in ("savings", "speedup", "reach"):
        assert set(audited[measure]) == {"value", "low", "high"}
    assert audited["control"] == {"kind": "twin", "name": "wardrobe-never-sneaker", "names": ["wardrobe-never-sneaker"]}
    assert {"savings", "speedup", "reach", "arms"} <= set(audited["attacks"]["memora"])
    for arm in ("edited", "never", "original"):
        curve = audited["attacks"]["memora"]["arms"][arm]["curve"]
        assert [set(point) for point in curve] == [{"budget", "score", "low", "high"}] * 3
    for group in ("neighbours", "unrelated"):
        assert set(audited["utility"][group]) == {"before", "after", "after_attack"}
    assert {"detector", "cost", "run", "report"} <= set(audited)
    assert Path(audited["report"]).is_file()
    assert json.loads((home / "audit/result.json").read_text()) == audited
    for strip in audited["strips"]:
        assert height(home / "audit" / strip["file"]) == 32


def test_the_same_command_gives_the_stored_result(audited: dict[str, Any], home: Path) -> None:
    again = vestige("audit", "--unlearner", "uce", *SMOKE, "--out", home / "audit", "--cache", home / "cache", "--json")
    assert json.loads(again.stdout) == audited


def test_a_folder_of_another_spec_is_refused(audited: dict[str, Any], home: Path) -> None:
    done = vestige("audit", "--unlearner", "remap", *SMOKE, "--out", home / "audit", check=False)
    assert done.returncode == 2
    assert "unlearner" in done.stderr
    assert "Traceback" not in done.stderr


def test_control_arms_are_shared(audited: dict[str, Any], home: Path) -> None:
    """A second audit computes no arm of the twin again, and of an edit that was a positive control before, none at all."""
    before = {p.name for p in (home / "cache").iterdir()}
    vestige("audit", "--unlearner", "remap", *SMOKE, "--out", home / "second", "--cache", home / "cache")
    fresh = {p.name for p in (home / "cache").iterdir()} - before
    made = [json.loads((home / "cache" / name / "spec.json").read_text()) for name in fresh]
    assert "utility" in {spec["what"] for spec in made}
    assert {spec["attack"] for spec in made if spec["what"] == "arm"} == {"restore"}  # which an edit of weights alone had none of


def test_kill_and_rerun_gives_the_same_result(audited: dict[str, Any], home: Path) -> None:
    command = ["audit", "--unlearner", "uce", *SMOKE, "--out", home / "killed", "--cache", home / "killed-cache"]
    killed = vestige(*command, check=False, until=lambda: bool(list((home / "killed-cache").glob("arm-*/result.json"))))
    assert killed.returncode == -signal.SIGKILL
    assert not (home / "killed/result.json").exists()
    done = vestige(*command, "--json")
    ours = json.loads(done.stdout)
    for volatile in ("cost", "provenance", "run", "report"):
        ours.pop(volatile)
    assert ours == {k: v for k, v in audited.items() if k in ours}


def test_interrupt_leaves_a_run_that_resumes(home: Path) -> None:
    # A parent in the background may have left interrupts ignored; the child listens to them again.
    program = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); runpy.run_module('vestige', run_name='__main__')"
    )
    arguments = ["audit", "--unlearner", "uce", *SMOKE, "--out", str(home / "stopped"), "--cache", str(home / "stopped-cache")]
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((home / "stopped-cache").glob("unlearn-*/result.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command resumes" in errors
    assert "Traceback" not in errors
    assert (home / "stopped/spec.json").is_file()
    assert not (home / "stopped/lock").exists()


@pytest.mark.parametrize("dressed", ["VestigeError('cannot read')", "OSError('cannot read')", "RuntimeError('cannot read')"])
def test_interrupt_dressed_as_an_error_is_an_interrupt(dressed: str) -> None:
    program = f"""
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from vestige import cli
from vestige.errors import VestigeError
def read(**_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise {dressed}
cli.app = read
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted; the same command resumes where it stopped")


def test_edit_is_audited_like_its_method(edit: Path, audited: dict[str, Any], home: Path) -> None:
    done = vestige("audit", "--edit", edit, *SMOKE, "--out", home / "saved", "--cache", home / "cache", "--json")
    result = json.loads(done.stdout)
    assert result["attacks"]["memora"]["arms"] == audited["attacks"]["memora"]["arms"]
    assert result["edit"]["method"] == "uce"


def test_edited_pipeline_folder_is_audited_by_its_difference(edit: Path, audited: dict[str, Any], home: Path) -> None:
    import torch

    from vestige import models
    from vestige.edits import Edit

    model = models.load("wardrobe")
    Edit.load(edit).to_pipeline(model.pipeline()).to(torch.float32).save_pretrained(home / "pipeline")  # type: ignore[attr-defined]
    done = vestige("audit", "--edit", home / "pipeline", *SMOKE, "--out", home / "folder", "--cache", home / "cache", "--json")
    result = json.loads(done.stdout)
    assert result["attacks"]["memora"]["arms"]["edited"] == audited["attacks"]["memora"]["arms"]["edited"]


def test_attack_with_a_users_pictures(edit: Path, home: Path) -> None:
    from vestige import data
    from vestige.concepts import images

    held = images.shipped(data.folder() / "wardrobe/pictures/references", {"object": "sneaker"})
    images.save(held.images[:3], home / "mine")
    out = home / "attack"
    arguments = ["--suite", "smoke", "--references", home / "mine", "--out", out, "--json"]
    done = vestige("attack", "--edit", edit, "--concept", "sneaker", "--method", "memora", *arguments)
    result = json.loads(done.stdout)
    assert [p["budget"] for p in result["curve"]] == [0, 2, 6]
    assert Path(result["adapter"]).name == "pytorch_lora_weights.safetensors"
    assert height(out / "pictures/000006.png") == 32


def test_dry_run_says_what_it_would_do() -> None:
    done = vestige("audit", "--unlearner", "esd", "--suite", "quick", "--dry-run", "--json")
    planned = json.loads(done.stdout)
    assert planned["spec"]["unlearner"]["settings"]["variant"] == "x"
    assert planned["planned_calls"]["scoring"] > 10_000
    assert planned["expected_seconds"] > 1


def test_generate_list_inspect_compare_report(edit: Path, audited: dict[str, Any], home: Path) -> None:
    vestige("generate", "--prompt", "a neon picture of a boot", "--count", 2, "--steps", 3, "--out", home / "pictures")
    assert len(list((home / "pictures").glob("*.png"))) == 2
    listed = json.loads(vestige("list", "--json").stdout)
    assert {"wardrobe", "wardrobe-never-sneaker"} <= set(listed["models"])
    assert {"esd", "uce"} <= set(listed["unlearners"])
    shown = json.loads(vestige("inspect", edit, "--model", "wardrobe", "--json").stdout)
    assert shown["method"] == "uce"
    assert all(c["name"].endswith((".to_k.weight", ".to_v.weight")) for c in shown["changes"])
    table = vestige("compare", home / "audit", "--format", "csv").stdout
    assert "uce" in table
    assert Path(vestige("report", home / "audit", "--out", home / "again.html").stdout.strip()).is_file()


def test_own_concept_file(home: Path) -> None:
    said = vestige("list", "--template", home / "mine.toml").stderr
    assert f"vestige judges --model MODEL --concept {home / 'mine.toml'}" in said
    assert "--control twin:" in said
    done = vestige("audit", "--concept", home / "mine.toml", "--dry-run", "--json")
    assert json.loads(done.stdout)["spec"]["concept"]["name"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "--concept", "sneeker"], "did you mean 'sneaker'"),
        (["audit", "--unlearner", "esdd"], "did you mean 'esd'"),
        (["audit", "--suite", "quik"], "did you mean 'quick'"),
        (["audit", "--model", "wardrob"], "did you mean 'wardrobe'"),
        (["audit", "--set", "memora.rnk=4"], "did you mean 'rank'"),
        (["audit", "--set", "memora.rank=many"], "memora.rank accepts int"),
        (["audit", "--edit", "nowhere.safetensors"], "nowhere.safetensors"),
        (["audit", "--seeds", "a"], "seeds are whole numbers"),
        (["audit", "--references", "nowhere"], "nowhere"),
        (["compare", "nowhere"], "nowhere"),
        (["inspect", "nowhere"], "no edit at nowhere"),
        (["unlearn", "--method", "uce", "--set", "esd.lr=1"], "the method is 'uce'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = vestige(*arguments, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert list(tmp_path.iterdir()) == []
