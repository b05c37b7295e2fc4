"""The search for a protocol, on arms whose learning is made up: what is chosen, what is never looked at, and what the file then tells."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from oracles import save_pair, tiny_model
from vestige import cli, models, registry, runs
from vestige.audit import Request, experiment, resolve, scores
from vestige.audit.calibrating import Cell, calibrated, grid_of
from vestige.audit.fitness import Fitness, seen_by
from vestige.concepts import images
from vestige.errors import BadInput, BadSetting
from vestige.harness import suite_files, suites
from vestige.verdict import Interval

SUITE = """\
version = "base"
about = "Short."
pictures = 20
select_pictures = 2
utility_pictures = 2
replicates = 3
plasticity = false
strip = 2
positives = ["remap"]

[protocol]
steps = 2
guidance = 1.0

[attacks.memora]
budget = [0, 2, 5, 12]
references = 2

[attacks.memora.settings]
lr = 1e-4
sampling_steps = 2
start = 1
"""
SPEED = {"twin": 100.0, "twin-2": 110.0}  # learning a step at a rate of 1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, two twins of it, a concept with two judges, pictures, and a base suite."""
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    tiny_model(7).pipeline().save_pretrained(root / "twin-2")
    (root / "looks.py").write_text("def one(x): return x.mean((1, 2, 3))\n\n\ndef other(x): return x[:, 0].mean((1, 2))\n")
    (root / "boat.toml").write_text(
        'name = "boat"\nanchor = "tree"\ndetector = "looks.py:one"\nselector = "looks.py:other"\npictures = "boats"\n'
    )
    images.save(torch.rand(6, 3, 32, 32), root / "boats")
    (root / "base.toml").write_text(SUITE)
    return root


@pytest.fixture
def made_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Arms whose hits follow a curve: who is attacked is told by the fingerprint. Yields what was asked for."""
    who = {models.load(str(home / name)).fingerprint: name for name in ("model", "twin", "twin-2")}
    asked: list[Any] = []

    def run_arm(
        bench: Any, model: Any, concept: Any, attack: Any, budget: Any, replicate: int, references: Any, stock: Any = None
    ) -> runs.Run:
        name, lr = who.get(model.fingerprint, "hidden"), getattr(attack[1], "lr", 0.0)
        asked.append((name, attack[0], lr, budget.points, replicate))
        spec = {"name": name, "attack": attack[0], "settings": registry.settings(attack[1]), "budget": list(budget.points), "k": replicate}

        def points(run: runs.Run) -> dict[str, Any]:
            return {"points": [_point(name, lr, spent, replicate) for spent in budget.points]}

        return runs.compute(bench.root, spec, "arm", points)

    monkeypatch.setattr(experiment.arms, "run_arm", run_arm)
    yield asked


def _point(name: str, lr: float, spent: int, replicate: int) -> dict[str, Any]:
    """Nine in ten at first for the original; twins learn by their speed; what is hidden comes back at once. The other judge agrees."""
    rates = {"model": 0.9, "hidden": 0.9 if spent else 0.0}
    rate = rates[name] if name in rates else 0.9 * (1 - math.exp(-SPEED[name] * lr * spent * (1 + 0.1 * replicate)))
    hits = [i < round(20 * rate) for i in range(20)]
    return {"budget": spent, "hits": hits, "other_judge": hits, "selected": rate, "cost": {}, "notes": {}}


def asked(home: Path, **own: Any) -> Any:
    given = {"model": str(home / "model"), "concept": str(home / "boat.toml"), "suite": str(home / "base.toml"), "attacks": ("memora",)}
    return resolve(Request(**{**given, "control": f"twin:{home / 'twin'},twin:{home / 'twin-2'}", **own}))


def test_the_cheapest_that_fits_is_taken_and_no_edit_is_looked_at(home: Path, tmp_path: Path, made_up: list[Any]) -> None:
    """12 steps at 1e-4 teach 0.11; at 1e-3 0.7, half of it at the last but not before the third; 1e-2 would be too fast."""
    plan = asked(home)
    cells = grid_of(plan, (1e-2, 1e-3, 1e-4), (12, 24))
    told, suite = calibrated(plan, tmp_path, cells)
    assert [(row["rate"], row["budget"][-1], row["failed"][:8]) for row in told["tried"]] == [(1e-4, 12, "too slow"), (1e-3, 12, "")]
    assert told["chosen"]["rate"] == 1e-3
    assert told["chosen"]["selection"]["found"] == {"remap": True}
    assert told["chosen"]["verification"]["half_at"] == 12
    assert suite is not None
    assert suite["attacks"]["memora"]["settings"]["lr"] == 1e-3
    who = {name for name, *_ in made_up}
    assert who == {"model", "twin", "twin-2", "hidden"}  # the original, its controls, and what is hidden on purpose
    assert not [1 for name, attack, lr, *_ in made_up if name in ("model", "hidden") and attack == "memora" and lr != 1e-3]


def test_too_fast_leaves_out_what_is_faster_and_too_slow_says_where_to_look(home: Path, tmp_path: Path, made_up: list[Any]) -> None:
    plan = asked(home)
    told, suite = calibrated(plan, tmp_path, grid_of(plan, (1e-2, 1e-1), (12, 24)))
    assert suite is None
    assert [(row["rate"], row["budget"][-1]) for row in told["tried"]] == [(1e-2, 12)]
    assert "too fast" in told["out_of_reach"]
    slow, _ = calibrated(plan, tmp_path, grid_of(plan, (1e-5,), (12,)))
    assert "too slowly: higher rates" in slow["out_of_reach"]
    both, _ = calibrated(plan, tmp_path, grid_of(plan, (1e-5, 1e-2), (12,)))
    assert "between those that were too slow and too fast" in both["out_of_reach"]


def test_the_command_writes_a_suite_that_audits_take(
    home: Path, tmp_path: Path, made_up: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """And its null is known of this model, of no other, and of nothing once the protocol was changed by hand."""
    out = tmp_path / "boat-suite.toml"
    twins = f"twin:{home / 'twin'},twin:{home / 'twin-2'}"
    command = [
        "calibrate",
        "--out",
        out,
        "--model",
        home / "model",
        "--concept",
        home / "boat.toml",
        "--control",
        twins,
        "--cache",
        tmp_path,
    ]
    command += ["--suite", home / "base.toml", "--rates", "1e-4,1e-3", "--lasts", "12", "--json"]
    cli.app([*map(str, command), "--dry-run"], standalone_mode=False)
    foretold = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert set(foretold["planned_calls"]) == {"plain", "controls", "original", "positives"}
    assert len(foretold["spec"]["grid"]) == 2
    cli.app([*map(str, command)], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["file"] == str(out)
    assert out.read_text().startswith("# Written by `vestige")
    suite = suites.load(str(out))
    assert suite.known["memora"]["never"]["boat"]["models"] == ["twin", "twin-2"]
    assert [len(row) for row in suite.known["memora"]["never"]["boat"]["areas"]] == [3, 3]
    shutil.copytree(home / "twin", tmp_path / "third")
    beside = asked(home, suite=str(out), control=f"twin:{tmp_path / 'third'}")
    found = scores.known_spread(SimpleNamespace(plan=beside), "memora")  # type: ignore[arg-type]
    assert found.speed is not None and found.speed.own == 2
    assert found.borrowed == ""
    again = scores.known_spread(SimpleNamespace(plan=asked(home, suite=str(out))), "memora")  # type: ignore[arg-type]
    assert "quick-6" in again.borrowed  # beside those very twins the audit sees their spread itself, and it counts once
    elsewhere = asked(home, suite=str(out), model=str(home / "twin-2"), control=f"twin:{home / 'twin'}")
    borrowed = scores.known_spread(SimpleNamespace(plan=elsewhere), "memora")  # type: ignore[arg-type]
    assert "boat of model" in borrowed.borrowed
    out.write_text(out.read_text().replace("lr = 0.001", "lr = 0.002"))
    with pytest.raises(BadInput, match="known was measured under other settings"):
        suites.load(str(out))
    with pytest.raises(BadSetting, match="exists; choose another name"):
        cli.app([*map(str, command)], standalone_mode=False)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"control": "none"}, "needs a model that never drew"),
        ({"unlearner": "uce"}, "looks at no edit"),
        ({"attacks": ("direct",)}, "weights and pictures"),
        ({"seeds": (0, 1)}, "at least 3 replicates"),
    ],
)
def test_what_cannot_be_searched_is_refused(own: dict[str, Any], message: str, home: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=message):
        calibrated(asked(home, **own), tmp_path, [Cell(1e-3, (0, 2, 5))])


def test_the_grid_is_cheapest_first(home: Path) -> None:
    grid = grid_of(asked(home))
    assert [cell.rate for cell in grid[:5]] == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    assert [cell.budget for cell in grid[::5]] == [(0, 2, 5, 12), (0, 2, 5, 12, 24), (0, 2, 5, 12, 24, 48)]
    assert grid_of(asked(home), (1e-3,), (7,)) == [Cell(1e-3, (0, 2, 5, 7))]
    with pytest.raises(BadSetting, match="rates lie above 0"):
        grid_of(asked(home), (-1.0,))


@pytest.mark.parametrize(
    ("fitness", "failed"),
    [
        (Fitness((0.0, 0.1, 0.3, 0.6)), ""),
        (Fitness((0.0, 0.1, 0.5, 0.9)), ""),
        (Fitness((0.0, 0.6, 0.7, 0.9)), "too fast"),
        (Fitness((0.0, 0.1, 0.2, 0.49)), "too slow"),
        (Fitness((math.nan,) * 4), "unseen"),
        (Fitness((0.0, 0.1, 0.3, 0.6), null=(Interval(2.0, 1.5, 3.0),)), "the controls differ"),
        (Fitness((0.0, 0.1, 0.3, 0.6), whole=False), "it spoils"),
        (Fitness((0.0, 0.1, 0.3, 0.6), whole=True, hidden={"remap": False}), "what is hidden does not come back"),
        (Fitness((0.0, 0.1, 0.3, 0.6), whole=True, hidden={}), "what is hidden does not come back"),
        (Fitness((0.0, 0.1, 0.3, 0.6), whole=True, hidden={"remap": False, "uce": True}), ""),
    ],
)
def test_conditions(fitness: Fitness, failed: str) -> None:
    assert fitness.failed.startswith(failed)
    assert bool(fitness.failed) == bool(failed)


def test_either_judge_sees_its_own_hits(tmp_path: Path) -> None:
    run = runs.compute(tmp_path, {"a": 1}, "arm", lambda run: {"points": [{"hits": [True], "other_judge": [False]}]})
    rows = {"edited": [run], "ways": {"edited": [""]}}
    assert seen_by("verification", rows) is rows
    swapped = seen_by("selection", rows)
    assert swapped["edited"][0].outcome["points"][0]["hits"] == [False]
    assert swapped["ways"] == {"edited": [""]}


def test_a_suite_as_text_says_the_same() -> None:
    raw = {"version": "a", "about": 'of "é"', "positives": [], "protocol": {"steps": 2, "guidance": 1e-05}}
    raw |= {
        "attacks": {"memora": {"budget": [0, 1], "settings": {"lr": 1e-4, "regenerate": True}}},
        "known": {"hot air": {"areas": [[1.5]]}},
    }
    from vestige.data import toml

    assert toml(suite_files.text_of(raw)) == raw
