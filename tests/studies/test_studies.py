"""The studies behind the pages of results: every row that they would run can be planned, and their pages say what was measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vestige import continual, runs
from vestige.audit import resolve
from vestige.errors import VestigeError

STUDIES = ("memora", "dimra", "adaptive", "relearning", "dimum", "classes")


@pytest.fixture
def settings(study: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    made = study("settings")
    for name, captioned in (("sneaker", False), ("look-alike", True)):
        folder = tmp_path / "real" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((32, 32, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
        lines = [json.dumps({"file_name": f"{i}.png", "text": "a boot"}) for i in range(2)]
        if captioned:
            (folder / "metadata.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(made, "REAL", tmp_path / "real")
    monkeypatch.setattr("vestige.audit.refusals.check_enough", lambda *given: None)  # there are thousands where studies are run
    return made


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_is_a_plan_of_its_own(name: str, settings: Any) -> None:
    """No setting is misspelled, none is refused, and no two rows ask for the same."""
    rows = settings.STUDIES[name]()
    assert set(settings.STUDIES) == set(STUDIES) and len(rows) >= 5
    specs = [json.dumps(resolve(row.request("sneaker", 0, (0,))).spec(), sort_keys=True, default=str) for row in rows.values()]
    assert len(set(specs)) == len(specs)


def test_a_misspelled_setting_would_be_found(settings: Any) -> None:
    with pytest.raises(VestigeError, match="regenrate"):
        resolve(settings.Row({"memora.regenrate": False}).request("sneaker", 0, (0,)))


def audit(edit: int, hits: tuple[float, ...], never: tuple[float, ...]) -> dict[str, Any]:
    """What a study reads of an audit's result."""

    def arm(scores: tuple[float, ...]) -> dict[str, Any]:
        return {"replicates": [list(scores)], "curve": [{"budget": b, "score": s} for b, s in zip((0, 10, 40), scores, strict=True)]}

    rate = {"value": 0.9}
    return {
        "suite": "quick-2",
        "concept": "sneaker",
        "control": {"kind": "twin", "name": "wardrobe-never-sneaker"},
        "model": "wardrobe",
        "plain": {"edited": {"value": hits[0]}, "original": {"value": 1.0}},
        "attacks": {"memora": {"arms": {"edited": arm(hits), "never": arm(never)}, "notes": {"edited": {"references_show": 0.5}}}},
        "utility": {group: {"after": rate, "after_attack": rate} for group in ("neighbours", "unrelated")},
        "detector": {"verification": {"version": 2}},
        "provenance": {"edit_seed": edit, "seeds": [edit]},
    }


def store(folder: Path, result: dict[str, Any], spec: dict[str, Any]) -> None:
    """A finished run."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "spec.json").write_text(json.dumps(spec))


def test_page_of_a_study_pools_its_edits_and_names_what_is_missing(settings: Any, tmp_path: Path) -> None:
    rows = {"one": settings.Row(), "other": settings.Row({"memora.rank": 1})}
    options = argparse.Namespace(study="dimum", concept="sneaker", out=tmp_path, page=tmp_path / "page.md", only="")
    for cell, last in zip(settings.cells(options, {"one": rows["one"]}), (0.8, 0.6), strict=True):
        store(cell.folder(options), audit(cell.edit, (0.0, 0.4, last), (0.0, 0.1, 0.3)), resolve(cell.request(options)).spec())
    page = settings.page(rows, options)
    (line,) = [line for line in page.splitlines() if line.startswith("| one ")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[1:4] == ["memora", "2 x 1", "0.00"]
    assert cells[6:9] == ["0.70", "0.30", "0.50, -"]
    assert "Missing: other." in page


def test_a_result_of_another_audit_is_not_taken_for_a_rows(settings: Any, tmp_path: Path) -> None:
    """What an earlier suite or preset left where the row's audit would lie is missing, on the page and in what is planned."""
    rows = {"one": settings.Row(), "other": settings.Row({"memora.rank": 1})}
    options = argparse.Namespace(study="dimum", concept="sneaker", out=tmp_path, page=tmp_path / "page.md", only="")
    own, other = ([cell for cell in settings.cells(options, rows) if cell.name == name] for name in rows)
    for cell, asked in zip(own, other, strict=True):
        store(cell.folder(options), audit(cell.edit, (0.0, 0.4, 0.8), (0.0, 0.1, 0.3)), resolve(asked.request(options)).spec())
    assert settings.finished(options, rows) == {}
    assert settings.dry(rows, options).count("| missing |") == 4


def test_a_study_reads_the_way_that_its_row_names(settings: Any) -> None:
    """An audit counts the better of two ways; what raw references bring back says nothing about a row that regenerates them."""
    best = audit(0, (0.0, 0.6, 0.9), (0.0, 0.1, 0.3))
    best["attacks"]["memora"]["ways"] = {"edited": {"as given": [[0.0, 0.2, 0.4]], "raw": [[0.0, 0.6, 0.9]]}}
    (read,) = settings.as_given([best], "memora")
    assert read["attacks"]["memora"]["arms"]["edited"]["replicates"] == [[0.0, 0.2, 0.4]]
    assert read["attacks"]["memora"]["arms"]["edited"]["curve"][-1]["score"] == 0.4
    assert read["attacks"]["memora"]["arms"]["never"] == best["attacks"]["memora"]["arms"]["never"]


@pytest.fixture
def returns(study: Callable[[str], Any]) -> Any:
    return study("returns")


def rate(value: float, count: int = 10) -> dict[str, Any]:
    return {"value": value, "count": count}


def sequence(returns: Any, last: float, edited: str = "one") -> dict[str, Any]:
    """A finished sequence whose last model is `edited`: every request at 0.1 as it is, memora brings `last` back, dimra nothing."""

    def attacked(step: int, end: float) -> dict[str, Any]:
        return {name: {"curve": [rate(0.1), rate(0.2), rate(end)]} for name in returns.FIVE[:step]}

    steps = [
        {
            "step": step,
            "request": returns.FIVE[step - 1] if step else None,
            "rates": {name: rate(0.1) for name in returns.FIVE},
            "attacks": {"memora": attacked(step, last), "dimra": attacked(step, 0.1)},
        }
        for step in range(6)
    ]
    return {
        "suite": "returns-1",
        "detector": {"verification": {"version": 2}},
        "protocol": {"pictures": 10},
        "attacks": {name: {"budget": [0, 1, 2]} for name in returns.ATTACKS},
        "steps": steps,
        "provenance": {"edited_hash": edited},
    }


def test_page_of_returns_pools_seeds(returns: Any, tmp_path: Path) -> None:
    for seed, last in ((0, 0.9), (1, 0.5)):
        chosen = continual.resolve(returns.order("uce", seed))
        made = {**sequence(returns, last, f"edit {seed}"), "asked": runs.key(chosen.asked())}
        store(tmp_path / f"uce-{seed}", made, chosen.spec())
    options = argparse.Namespace(methods=["uce", "duge"], seeds=[0, 1], out=tmp_path, page=Path("page.md"))
    page = returns.page(options)
    assert "| uce | 2 | 0.10 [0.06, 0.17] | 0.70 [0.60, 0.78] | 0.10 [0.06, 0.17] |" in page
    part = page.split("**memora, 2 steps**")[1].split("**")[0]
    (neon,) = [line for line in part.splitlines() if line.startswith("| neon")]
    assert neon == "| neon |  |  |  |  |  | ▓ 0.70 |"


def test_equal_edits_are_looked_at_once_and_attacked_apart(returns: Any) -> None:
    found = {"uce": [sequence(returns, 0.9), sequence(returns, 0.5)]}
    assert "| uce | 2 | 0.10 [0.04, 0.21] | 0.70 [0.60, 0.78] |" in returns.summary(found)


def test_returns_asks_for_both_attackers_on_every_request(returns: Any) -> None:
    chosen = continual.resolve(returns.order("uce", 1))
    assert set(chosen.attacks) == {"memora", "dimra"} and chosen.order.seed == chosen.asked()["first_replicate"] == 1
    assert [len(planned.budget.points) for _, planned in chosen.attacks.values()] == [3, 3]
