"""The studies that put the claims to the test: their tables say what the audits say, of the right method, and records alone make pages."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vestige import registry
from vestige.audit import plan, resolve
from vestige.continual import plan as sequences
from vestige.harness import suites
from vestige.verdict import savings

NEVER = (0.0, 0.1, 0.3)


@pytest.fixture
def records(study: Callable[[str], Any]) -> Any:
    return study("records")


@pytest.fixture
def claims(study: Callable[[str], Any]) -> Any:
    return study("claims")


@pytest.fixture
def diagnoses(study: Callable[[str], Any]) -> Any:
    return study("diagnoses")


def audit(seed: int, last: float, *, plain: float = 0.0, neighbours: float = 0.9) -> dict[str, Any]:
    """What the tables read of an audit: MemoRa brings the share `last` back, DiMRA half as much."""

    def attack(end: float) -> dict[str, Any]:
        def arm(scores: tuple[float, ...]) -> dict[str, Any]:
            return {"replicates": [list(scores)], "curve": [{"budget": b, "score": s} for b, s in zip((0, 10, 40), scores, strict=True)]}

        return {"arms": {"edited": arm((plain, max(plain, end - 0.3), end)), "never": arm(NEVER)}}

    return {
        "suite": "compare-2",
        "concept": "sneaker",
        "control": {"kind": "twin", "name": "wardrobe-never-sneaker"},
        "model": "wardrobe",
        "plain": {"edited": {"value": plain}, "original": {"value": 1.0}},
        "attacks": {"memora": attack(last), "dimra": attack(last / 2)},
        "utility": {
            "neighbours": {"before": {"value": 0.9}, "after": {"value": neighbours}},
            "unrelated": {"before": {"value": 0.9}, "after": {"value": 0.85}},
        },
        "provenance": {"edit_seed": seed, "seeds": [seed]},
        "cost": {"seconds": 60.0},
    }


LASTS = {"dimum": 0.4, "esd": 0.9, "uce": 0.5, "salun": 0.6, "duge": 0.8}


@pytest.fixture
def options(claims: Any, tmp_path: Path) -> argparse.Namespace:
    """Three finished edits of five methods; of SalUn's, which costs its neighbours 20 points, one is missing."""
    for method, last in LASTS.items():
        for seed in range(2 if method == "salun" else 3):
            folder = tmp_path / "sneaker" / method / str(seed)
            folder.mkdir(parents=True)
            made = audit(seed, last + 0.01 * seed, neighbours=0.7 if method == "salun" else 0.9)
            (folder / "result.json").write_text(json.dumps(made))
            spec = resolve(claims.Cell("sneaker", method, seed).request()).spec()
            (folder / "spec.json").write_text(json.dumps(spec))
    return argparse.Namespace(
        adapters=False,
        concepts=["sneaker"],
        methods=list(LASTS),
        seeds=[0, 1, 2],
        out=tmp_path,
        records=tmp_path / "records",
        measured=tmp_path / "records/diagnoses.jsonl",
        table=Path("table"),
        keep=tmp_path / "diagnoses",
        by_adapters=tmp_path / "none",
        page=Path("page.md"),
    )


def rows(text: str) -> dict[str, list[str]]:
    """Cells of the table's lines, by what their second column says."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {row[1]: row for row in cells}


def first(text: str) -> float:
    number = re.search(r"-?\d+\.\d+", text)
    assert number is not None, text
    return float(number[0])


def test_every_cell_is_a_plan(claims: Any, options: argparse.Namespace) -> None:
    options.methods = []
    made = claims.cells(options)
    assert {c.method for c in made} == {*registry.names("unlearners")} - {"remap"} and len(made) == 3 * len({c.method for c in made})
    assert made[0].seed != made[1].seed  # neighbours share no never arm
    asked = resolve(made[0].request())
    assert set(asked.attacks) == {"memora", "dimra"} and asked.request.edit_seed == asked.request.seeds[0] == 0


def test_adapters_are_another_attack_on_the_same_edit(claims: Any, options: argparse.Namespace) -> None:
    plainly, (cell, *_) = (
        resolve(claims.cells(options)[0].request()),
        claims.cells(argparse.Namespace(**{**vars(options), "adapters": True})),
    )
    asked = resolve(cell.request())
    assert set(asked.attacks) == {"dimra"} and asked.unlearner == plainly.unlearner
    tuned = [p.attacks["dimra"][0].tune for p in (asked, plainly)]
    assert tuned == ["lora", "full"]


def test_table_of_methods(claims: Any, options: argparse.Namespace) -> None:
    text = claims.page(claims.finished(options), options)
    assert "14 of 15 cells finished, 0.2 hours" in text
    methods = rows(text.split("##")[0])
    assert methods["salun"][2:7] == ["2", "0.00", "+0.20", "+0.05", "no"]
    assert methods["esd"][2:7] == ["3", "0.00", "+0.00", "+0.05", "yes"]
    speeds = {name: first(row[7]) for name, row in methods.items() if name != "method"}
    assert sorted(speeds, key=lambda m: speeds[m]) == sorted(LASTS, key=lambda m: LASTS[m])
    assert all(first(row[8]) > first(row[10]) for name, row in methods.items() if name != "method")  # DiMRA reaches half as far


def test_methods_are_paired_with_dimum_on_the_seeds_that_both_have(claims: Any, options: argparse.Namespace) -> None:
    (part,) = [p for p in claims.page(claims.finished(options), options).split("\n## ") if p.startswith("DiMUM")]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| sneaker")]
    assert {(line[1], line[2]) for line in lines} == {(m, a) for m in ("esd", "salun", "duge") for a in ("memora", "dimra")}
    for _, method, _, gap, pairs, fair in lines:
        assert first(gap) > 0
        assert (pairs, fair) == (("2", "no") if method == "salun" else ("3", "yes"))


def test_what_decides_is_read_from_its_own_column(diagnoses: Any, options: argparse.Namespace) -> None:
    """A number that orders the methods as the attack does correlates with it, one that orders them the other way round against it."""
    for cell in diagnoses.cells(options):
        if cell.method == "salun" and cell.seed == 2:
            continue
        measured = dict.fromkeys((e.key for e in diagnoses.EXPLANATIONS), 0.0)
        measured |= {"cosine": LASTS[cell.method], "gradient": -LASTS[cell.method], "halfway": None}
        place = diagnoses.path(cell, options)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(measured))
    table, foretold = diagnoses.page(diagnoses.known(options), options).split("## Which")
    assert rows(table)["esd"][2] == "3" and rows(table)["salun"][2] == "2"
    assert rows(table)["esd"][5] == "0.90 [0.90, 0.90]" and rows(table)["esd"][8] == "-"
    said = {row[0]: row for row in ([c.strip() for c in line.strip("|").split("|")] for line in foretold.splitlines() if "|" in line)}
    assert first(said["cosine of the gradients"][3]) == first(said["cosine of the gradients"][5]) == 1.0
    assert first(said["retain gradient"][3]) == -1.0
    assert "### sneaker" in foretold
    assert said["excess retain loss x 1000"][3].startswith("nan")
    assert "shown half way back" not in said


def test_cells_that_are_not_measured_are_counted(diagnoses: Any, options: argparse.Namespace) -> None:
    assert "14 finished cells are not measured yet" in diagnoses.page(diagnoses.known(options), options)


def test_records_alone_make_the_page(claims: Any, records: Any, options: argparse.Namespace) -> None:
    """What one machine finished is not run again on another, unless it was another audit."""
    done = claims.finished(options)
    page = claims.page(done, options)
    records.write(options.records / "sneaker.jsonl", done.values())
    elsewhere = argparse.Namespace(**{**vars(options), "out": options.out / "empty"})
    assert claims.page(claims.finished(elsewhere), elsewhere) == page
    other = argparse.Namespace(**{**vars(elsewhere), "adapters": True})
    assert claims.finished(other) == {}


def test_a_result_of_another_audit_is_not_taken_for_a_cells(claims: Any, options: argparse.Namespace) -> None:
    """One of an earlier suite or preset lies where the cell's would."""
    stale = options.out / "sneaker/esd/0/spec.json"
    spec = json.loads(stale.read_text())
    stale.write_text(json.dumps({**spec, "suite": "compare-1"}))
    assert {c for c in claims.cells(options) if c not in claims.finished(options)} >= {claims.Cell("sneaker", "esd", 0)}
    assert claims.Cell("sneaker", "esd", 1) in claims.finished(options)


def test_record_of_a_record_is_itself(records: Any) -> None:
    kept = records.record("key", audit(0, 0.5))
    assert records.record("key", kept) == kept


ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs/results"
KEPT = sorted(RESULTS.rglob("*.jsonl"))
COMMAND = re.compile(r"`python (studies/(\w+)\.py) (.*?)`")  # the first in a page is its own
PAGES = {p: found for p in sorted(RESULTS.rglob("*.md")) if (found := COMMAND.search("\n".join(p.read_text("utf-8").split("\n")[:3])))}


def as_it_was(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites by the versions that a page and its records name, and the verdict of that time: a table stays when the next one comes.

    Until its second form the verdict measured speed on recall, leaks included, and named no version;
    pages of later forms name theirs.
    """
    text = kept.with_suffix(".md").read_text("utf-8") + kept.read_text("utf-8")
    named = {name: f"{name}-{number}" for name, number in re.findall(r"suite\W{1,3}([a-z]+)-(\d+)", text)}
    real = suites.load

    def load(name: str, world: str = "") -> suites.Suite:
        made = real(name, world)
        if named.get(name, made.version) == made.version:
            return made
        steps = replace(made.protocol, steps=10)  # of every version before the sixth
        return replace(made, version=named[name], positives=(), looks=(), protocol=steps, sparing=False)

    monkeypatch.setattr(suites, "load", load)
    if any(real(name).version != version for name, version in named.items()):
        asked = sequences.SequencePlan.asked
        monkeypatch.setattr(
            sequences.SequencePlan, "asked", lambda own: {key: value for key, value in asked(own).items() if key != "remembered"}
        )
    spec = plan.Plan.spec
    monkeypatch.setattr(plan.Plan, "spec", lambda own: {key: value for key, value in spec(own).items() if key != "verdict"})
    if not re.search(r"form \d+ of the verdict", text):
        monkeypatch.setattr(savings, "rise", savings.recall)


@pytest.mark.parametrize("kept", KEPT, ids=lambda p: p.stem)
def test_committed_pages_say_what_their_records_say(
    kept: Path, study: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own command where there is nothing but records: page and records come out letter by letter."""
    page = kept.with_suffix(".md")
    as_it_was(kept, monkeypatch)
    _, name, asked = PAGES[page].groups()
    for file in KEPT:
        place = tmp_path / file.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    to = [] if re.search("--(table|page) ", asked) else ["--table", str(page.relative_to(ROOT))]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(asked), *to])
    study(name).main()
    for file in (page, kept):
        assert (tmp_path / file.relative_to(ROOT)).read_text("utf-8") == file.read_text("utf-8")


def test_records_are_found() -> None:
    assert {file.stem for file in KEPT} >= {"neon", "continual", "continual_duge"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: "-".join(p.relative_to(RESULTS).with_suffix("").parts))
def test_the_command_of_a_committed_page_is_one(page: Path, study: Callable[[str], Any]) -> None:
    """Its study is there and knows all that the command asks for."""
    path, name, asked = PAGES[page].groups()
    assert (ROOT / path).exists()
    study(name).arguments().parse_args(shlex.split(asked))


def test_every_script_that_a_page_names_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "studies").glob("*.py")]
    found = {
        name
        for p in pages
        if p.name != "CHANGELOG.md"
        for name in re.findall(r"\b(?:studies|tools|benchmarks)/[\w/]+\.py", p.read_text("utf-8"))
    }
    assert found >= {"studies/claims.py", "tools/calibrate.py"}
    assert sorted(name for name in found if not (ROOT / name).exists()) == []
