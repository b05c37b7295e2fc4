"""What decides whether a concept comes back: numbers of an edit are read off it and its attacks, and laid beside the right method."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]

from audits_made_up import made
from vestige import files, grid, runs
from vestige.compare import Audited
from vestige.compare.rows import row_of
from vestige.concepts import images
from vestige.edits import Edit
from vestige.harness import diagnostics
from vestige.models import load
from vestige.seeds import generator
from worlds_small import SUITE, furnish, in_place

GRID = """
[axes]
models = ["{home}/model"]
concepts = ["{home}/bag.toml"]
suites = ["{home}/suite.toml"]
seeds = [0]
[[unlearners]]
method = "uce"
[[unlearners]]
method = "esd"
settings = {{ steps = 2 }}
[common]
seeds = [0, 1]
control = "twin:{home}/twin"
attack_retain = "{home}/rest"
"""
MORE = """
[attacks.dimra]
budget = [0, 2]
settings = { retain_pictures = 4, lr = 1e-2, batch = 2 }

[attacks.interpolate]
budget = [0, 1, 6]
"""


@pytest.fixture
def diagnoses(study: Callable[[str], Any]) -> Any:
    return study("diagnoses")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of two tiny audits."""
    home = furnish(tmp_path_factory.mktemp("home"))
    (home / "suite.toml").write_text(SUITE.partition("[attacks.direct]")[0] + MORE)
    images.save(torch.rand(4, 3, 32, 32, generator=generator(0, "rest")) / 2, home / "rest")  # too dark for the detector
    lines = [{"file_name": file.name, "text": "a boot"} for file in sorted((home / "rest").glob("*.png"))]
    (home / "rest/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (home / "grid.toml").write_text(GRID.format(home=home))
    found = grid.run_grid(grid.read(home / "grid.toml"), home / "out", in_place())
    assert not found["failed"], [cell.get("why") for cell in found["cells"]]
    return home


def asked(home: Path, page: Path) -> argparse.Namespace:
    return argparse.Namespace(grid=home / "out", cache=home / "out/runs", page=page)


def folders(root: Path, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    found = [runs.Run(folder, {}) for folder in sorted(root.glob(f"{kind}-*"))]
    return [(run.folder, run.outcome) for run in found]


def test_numbers_are_read_off_the_edit_and_its_attacks(diagnoses: Any, attacked: Path, tmp_path: Path) -> None:
    """By a way of their own: each edit and each arm is found by its content, and laid against the original's weights."""
    before = {folder for folder, _ in folders(attacked / "out/runs", "arm")}
    found = {one["method"]: one for one in diagnoses.known(asked(attacked, tmp_path / "page.md")).values()}
    assert set(found) == {"uce", "esd,steps=2"}
    assert {folder for folder, _ in folders(attacked / "out/runs", "arm")} == before  # nothing was attacked again
    model = load(str(attacked / "model"))
    scope = model.scope(diagnostics.SCOPE)

    def flat(view: Any) -> torch.Tensor:
        return torch.cat([view.tensor(name).flatten() for name in scope]).double()

    edits = {
        edit.method: (edit, out) for f, out in folders(attacked / "out/runs", "unlearn") for edit in [Edit.load(f / "edit.safetensors")]
    }
    for name, one in found.items():
        edit, outcome = edits[name.partition(",")[0]]
        edited, told = model.edited(edit), one["numbers"]
        own = [(runs.Run(f, {}), out) for f, out in folders(attacked / "out/runs", "arm")]
        own = [(run, out) for run, out in own if spec(run)["model"] == edited.fingerprint]
        halfway = [p["hits"] for run, out in own if spec(run)["attack"] == "interpolate" for p in out["points"] if p["budget"] == 6]
        assert len(halfway) == 2 and told["halfway"] == pytest.approx(sum(map(sum, halfway)) / sum(map(len, halfway)))
        ends = [edited.edited(Edit.load(run.folder / "last.safetensors")) for run, _ in own if spec(run)["attack"] == "dimra"]
        start, now = flat(model), flat(edited)
        moves = [flat(end) - now for end in ends]
        sizes = [float(move.norm() / start.norm()) for move in moves]
        (at,) = [i for i, size in enumerate(sizes) if size == pytest.approx(told["moved"])]
        assert told["towards"] == pytest.approx(float(torch.cosine_similarity(start - now, moves[at], 0)))
        assert told["distance"] == pytest.approx(float((now - start).norm() / start.norm()))
        assert "diagnostics" not in outcome  # neither method trains on a retain set, so both are measured here
        assert told["gradient"] > 0 and -1 <= told["cosine"] <= 1


def spec(run: runs.Run) -> dict[str, Any]:
    return files.object_in(run.folder / "spec.json") or {}


def test_records_alone_make_the_page(diagnoses: Any, attacked: Path, tmp_path: Path) -> None:
    """And what has a record is not measured again."""
    page = tmp_path / "page.md"
    options = asked(attacked, page)
    found = diagnoses.known(options)
    diagnoses.records.write(page.with_suffix(".jsonl"), found.values())
    text = diagnoses.page(found, options)
    assert "| uce | 1 |" in text
    elsewhere = argparse.Namespace(**{**vars(options), "grid": tmp_path / "none"})
    assert diagnoses.page(diagnoses.known(elsewhere), options) == text
    kept = page.with_suffix(".jsonl")
    kept.write_text(kept.read_text().replace('"moved":', '"moved":9'))
    assert [one["numbers"]["moved"] > 9 for one in diagnoses.known(options).values()] == [True, True]


def test_what_the_denoiser_does_not_see_is_no_number(study: Callable[[str], Any]) -> None:
    """An edit of the text encoder leaves the losses as they were, and a hook has no weights that are far from anything."""
    found = {
        "excess_retain_loss": 0.002,
        "retain_gradient": 0.5,
        "gradient_cosine": 0.1,
        "distance": 0.2,
        "forget_loss_on_line": [0.1, 0.3],
    }
    losses = study("diagnosing").losses
    assert losses(found, hooked=False) == pytest.approx({"excess": 2, "gradient": 0.5, "cosine": 0.1, "distance": 0.2, "forgotten": 200})
    assert set(losses({**found, "distance": 0.0}, hooked=False).values()) == {None}
    hooked = losses({**found, "distance": 0.0, "forget_loss_on_line": []}, hooked=True)
    assert hooked["distance"] is None and hooked["forgotten"] is None and hooked["gradient"] == 0.5


SPEEDS = {"dimum": 1.5, "esd": 6.0, "uce": 2.0, "salun": 3.0, "duge": 4.0}


def record(method: str, edit: int = 0, **numbers: float | None) -> dict[str, Any]:
    """MemoRa finds the order of SPEEDS, DiMRA the reverse."""
    result = made(SPEEDS[method], method=method, edit=edit, neighbours=0.7 if method == "salun" else 0.9, seeds=(3 * edit, 3 * edit + 1))
    result["attacks"]["dimra"] = made(8 / SPEEDS[method], method=method, edit=edit, seeds=(3 * edit, 3 * edit + 1))["attacks"]["memora"]
    return {"key": f"{method}{edit}", "method": method, "form": "5", "numbers": numbers, **result}


def cells_of(text: str, first: int) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {row[first]: row for row in rows}


def test_a_number_is_read_from_its_own_column(diagnoses: Any) -> None:
    """One that orders methods as an attack does correlates with it, one that orders them the other way round against it."""
    keys = [e.key for e in diagnoses.EXPLANATIONS]
    found = {}
    for method, speed in SPEEDS.items():
        for edit in range(2 if method == "esd" else 1):
            numbers = {**dict.fromkeys(keys, 0.0), "cosine": speed + edit, "gradient": -speed, "halfway": None}
            one = record(method, edit, **numbers)
            found[one["key"]] = {**one, **diagnoses.records.audit(one)}
    text = diagnoses.page(found, argparse.Namespace(grid=Path("g"), cache=Path("c"), page=Path("p.md")))
    first, every, compared = text.split("### Which")[0], *text.split("#### sneaker, ")[1:]
    rows = cells_of(first, 1)
    assert list(rows)[1:] == sorted(SPEEDS, key=lambda m: SPEEDS[m])
    assert rows["esd"][2] == "2" and rows["esd"][5].startswith("6.50 [") and rows["uce"][5] == "2.00" and rows["esd"][8] == "-"
    assert rows["salun"][-1] == "no" and rows["esd"][-1] == "yes"
    assert every.startswith("all methods") and compared.startswith("methods that enter")
    rows = cells_of(every, 0)
    assert rows["cosine of the gradients"][3:5] == ["5", "1.00 [1.00, 1.00]"] and rows["cosine of the gradients"][8][:5] == "-1.00"
    assert rows["retain gradient"][4].startswith("-1.00")
    assert "shown half way back" not in rows
    assert cells_of(compared, 0)["retain gradient"][3] == "4"
    p = stats.kendalltau(range(5), range(5)).pvalue
    assert float(rows["cosine of the gradients"][5]) == pytest.approx(p, rel=0.05)
    assert float(rows["cosine of the gradients"][6]) == pytest.approx(
        min(1, 8 * p), rel=0.05
    )  # 2 numbers with spread, 2 attacks, 2 choices


def test_f_and_reach_are_those_of_a_comparison(diagnoses: Any) -> None:
    one = record("esd", **{e.key: 1.0 for e in diagnoses.EXPLANATIONS})
    whole = row_of("esd", "sneaker", "", [Audited(Path("a"), one, {})])
    kept = {**one, **diagnoses.records.audit(one)}
    row = cells_of(diagnoses.page({"a": kept}, argparse.Namespace(grid="g", cache="c", page="p")), 1)["esd"]
    assert row[-5:-1] == [cell for attack in ("memora", "dimra") for cell in diagnoses.tables.savings(whole.found[attack])]


def test_the_part_of_a_part_is_itself(diagnoses: Any) -> None:
    kept = diagnoses.records.audit(made())
    assert diagnoses.records.audit(kept) == kept
