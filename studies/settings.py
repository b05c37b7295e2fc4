"""What an attack's or an unlearner's result rests on: one concept, many settings, each an audit against its own never arm. Resumable.

    python studies/settings.py memora --dry-run
    python studies/settings.py memora --out build/studies --workers 2
    python studies/settings.py memora --out build/studies --page docs/results/studies/memora.md

Studies:
    memora      How much of MemoRa's recovery is memory, and how much is learning: raw references, no interpolation, depth and guidance
                of the inversion, number of references, rank, full fine-tuning and textual inversion instead of adapters.
    dimra       DiMRA's auxiliary data, rate and adapters, on four methods.
    adaptive    The attacker who knows that the concept's prompts were redirected: conditions swapped and mixed, half-drawn pictures.
    relearning  Full fine-tuning on 10, 100 and 1,000 true pictures; the larger folders come from tools/wardrobe/real.py.
    dimum       DiMUM's alternative data, stopping and weight, under both headline attackers.
    classes     The class-conditional model, with and without its class embeddings, and with them alone: retained pictures hold none of the
                concept's row, so what a method wrote there alone, relearning cannot undo.

A row is a setting, an audit an edit of it; rows that share an arm compute it once. What is no development concept is not looked at
before the settings are written down here.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import grid
import tables
from records import at
from vestige import registry
from vestige.audit import Request, resolve
from vestige.harness import suites
from vestige.verdict import comparison, measure

REAL = Path("build/real")  # folders of true pictures, tools/wardrobe/real.py
Audits = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One setting.

    Arguments:
        settings: METHOD.SETTING -> value.
        attacks: Which attacks.
        unlearner: What made the edit.
        suite: Whose sampler, budgets and settings hold.
        references: Pictures of the concept a replicate; 0 takes the suite's number.
        folder: Where the attacker's pictures come from; "" is the world's sheet.
        model: The original.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    attacks: tuple[str, ...] = ("memora",)
    unlearner: str = "esd"
    suite: str = "quick"
    references: int = 0
    folder: str = ""
    model: str = "wardrobe"

    def request(self, concept: str, edit: int, seeds: tuple[int, ...]) -> Request:
        taught = "retain" in registry.find("attacks", self.attacks[0]).needs
        own = self.folder or "shipped"
        return Request(
            model=self.model,
            concept=concept,
            unlearner=self.unlearner,
            suite=self.suite,
            attacks=self.attacks,
            seeds=seeds,
            edit_seed=edit,
            reference_count=self.references,
            settings=self.settings,
            references="shipped" if taught else own,
            attack_retain=own if taught else "shipped",
        )


def like_memora(attack: str, suite: str = "quick", **changes: Any) -> dict[str, Any]:
    """Settings of another attack on pictures: MemoRa's by the same names, but for the rate, then the changes."""
    known = {f.name for f in fields(registry.find("attacks", attack))} - {"lr"}
    shared = suites.load(suite, "wardrobe").attacks["memora"].settings
    return {f"{attack}.{k}": v for k, v in {**{k: v for k, v in shared.items() if k in known}, **changes}.items()}


def memora() -> dict[str, Row]:
    rows = {
        "as in the suite": Row(),
        "raw references": Row({"memora.regenerate": False}),
        "no slerp": Row({"memora.interpolation": "none"}),
    }
    rows |= {f"inversion to index {i} of 20": Row({"memora.start": i}) for i in (0, 6, 16)}  # the suite's is 11
    rows |= {f"guidance {g:g} in the inversion": Row({"memora.guidance": g}) for g in (3.0, 7.5)}  # the suite's is 1
    rows |= {f"{n} references": Row(references=n) for n in (2, 4, 6, 12)}  # the suite's are 8
    rows["1 reference, no slerp"] = Row({"memora.interpolation": "none"}, references=1)  # there is nothing to interpolate between
    rows |= {f"rank {r}": Row({"memora.rank": r, "memora.alpha": float(r)}) for r in (1, 16)}  # the suite's is 4; the scale stays 1
    tuned = {"finetune": ("full fine-tuning", (1e-4, 1e-3)), "textual_inversion": ("textual inversion", (5e-3, 5e-2))}
    for attack, (name, rates) in tuned.items():
        rows |= {f"{name} at {lr:g}": Row(like_memora(attack, lr=lr), (attack,)) for lr in rates}
    return rows


def dimra() -> dict[str, Row]:
    variants: dict[str, tuple[dict[str, Any], str]] = {
        "world's pictures (suite)": ({}, ""),
        "rate 1e-4": ({"dimra.lr": 1e-4}, ""),
        "rate 1e-3": ({"dimra.lr": 1e-3}, ""),
        "the original's pictures": ({"dimra.data": "original"}, ""),
        "its own pictures": ({"dimra.data": "own"}, ""),
        "look-alikes": ({"dimra.data": "folder"}, str(REAL / "look-alike")),
        "adapters, rate 3e-3": ({"dimra.tune": "lora", "dimra.lr": 3e-3}, ""),
    }
    methods = ("esd", "dimum", "selective_amnesia", "erasediff")
    more = {"adapters, rate 3e-3": ("uce", "concept_ablation", "salun", "spm")}  # the strongest of them
    return {
        f"{m}: {name}": Row(changes, ("dimra",), m, "compare", folder=folder)
        for name, (changes, folder) in variants.items()
        for m in (*methods, *more.get(name, ()))
    }


def adaptive() -> dict[str, Row]:
    methods = ("dimum", "uce", "concept_ablation", "esd", "erasediff")
    return {method: Row({}, ("conditions", "partial_diffusion"), method, "adaptive") for method in methods}


def relearning() -> dict[str, Row]:
    settings = like_memora("finetune", regenerate=False, lr=1e-3)
    return {
        f"{m}: {n:,} pictures": Row(settings, ("finetune",), m, "compare", n, "" if n == 10 else str(REAL / "sneaker"))
        for n in (10, 100, 1000)
        for m in ("dimum", "esd", "uce")
    }


def dimum() -> dict[str, Row]:
    changes: dict[str, dict[str, Any]] = {
        "near (preset)": {},
        **{name: {"dimum.alternative": name} for name in ("far", "mixture", "anchor", "noise", "fixed")},
        "early, 60 steps": {"dimum.steps": 60, "dimum.plateau": False},
        "all 480 steps": {"dimum.steps": 480, "dimum.plateau": False},
        "empty prompt too": {"dimum.memory_dropout": 0.1},
    }
    return {name: Row(settings, ("memora", "dimra"), "dimum", "compare") for name, settings in changes.items()}


def classes() -> dict[str, Row]:
    both, rows = ("memora", "dimra"), {}
    for method in ("dimum", "gradient_ascent", "erasediff", "salun", "selective_amnesia"):
        frozen = {f"{method}.scope": "without-class-embedding"}
        for name, settings in ((method, {}), (f"{method}, embeddings frozen", frozen)):
            rows[name] = Row(settings, both, method, "compare", model="wardrobe-classes")
    # The case that the question is about; of two rates that forgot on bag the smaller: 0.02 / 0.96 / 0.94 (selection judge, 48 pictures).
    alone = {"dimum.scope": "class-embedding", "dimum.lr": 1e-2}
    rows = {"dimum, embeddings alone": Row(alone, both, "dimum", "compare", model="wardrobe-classes"), **rows}
    # The attacker looks for another condition, from the pictures themselves; one rate was tried.
    searched = like_memora("finetune", scope="class-embedding", lr=5e-2, regenerate=False)
    for name, settings in (("dimum, embeddings alone", alone), ("dimum", {})):
        given = {**settings, **searched}
        rows[f"{name}: condition searched"] = Row(given, ("finetune",), "dimum", "compare", model="wardrobe-classes")
    return rows


STUDIES = {f.__name__: f for f in (memora, dimra, adaptive, relearning, dimum, classes)}
# (edit seed, attack seeds): an edit under three attacks has a verdict of its own, two edits under one each say more of the method
ONE = ((0, (0, 1, 2)),)
PAIRS: Mapping[str, tuple[tuple[int, tuple[int, ...]], ...]] = {"memora": ONE, "classes": ONE}
BOTH = ((0, (0,)), (1, (1,)))


@dataclass(frozen=True)
class Cell:
    """The audit of an edit of a row."""

    name: str
    row: Row = field(repr=False)
    edit: int
    seeds: tuple[int, ...] = field(repr=False)

    def folder(self, options: argparse.Namespace) -> Path:
        return Path(options.out / options.study / options.concept / self.name.replace(": ", "_").replace(" ", "_") / str(self.edit))

    def request(self, options: argparse.Namespace) -> Request:
        return self.row.request(options.concept, self.edit, self.seeds)


def cells(options: argparse.Namespace, rows: Mapping[str, Row]) -> list[Cell]:
    return [Cell(name, row, *pair) for pair in PAIRS.get(options.study, BOTH) for name, row in rows.items()]


def result(options: argparse.Namespace, cell: Cell) -> dict[str, Any] | None:
    return grid.result(cell.folder(options), lambda: grid.key(cell.request(options)))


def finished(options: argparse.Namespace, rows: Mapping[str, Row]) -> dict[str, list[dict[str, Any]]]:
    """Row -> its audits, in the rows' order."""
    found = [(cell.name, audit) for cell in cells(options, rows) if (audit := result(options, cell)) is not None]
    return {name: audits for name in rows if (audits := [audit for row, audit in found if row == name])}


def dry(rows: Mapping[str, Row], options: argparse.Namespace) -> str:
    """What is left if nothing is stored; arms that rows share are counted in each."""
    asked = [(cell, sum(resolve(cell.request(options)).planned_calls().values())) for cell in cells(options, rows)]
    return grid.dry((f"{cell.name}, edit {cell.edit}", calls, result(options, cell) is not None) for cell, calls in asked)


def mean(audits: Audits, *keys: str | int) -> float | None:
    """Mean over audits of a number in them; None where one has none."""
    values = [at(audit, *keys) for audit in audits]
    return None if None in values else statistics.fmean(values)


def as_given(audits: Audits, attack: str) -> list[dict[str, Any]]:
    """The audits with the edited model attacked as the row says, not by whichever way works better; the never arm keeps its choice."""
    made = []
    for audit in audits:
        one = audit["attacks"][attack]
        own = one.get("ways", {}).get("edited", {}).get("as given") or one["arms"]["edited"]["replicates"]
        ends = [
            {"budget": p["budget"], "score": sum(row[i] for row in own) / len(own)} for i, p in enumerate(one["arms"]["edited"]["curve"])
        ]
        changed = {**one, "arms": {**one["arms"], "edited": {"curve": ends, "replicates": own}}}
        made.append({**audit, "attacks": {**audit["attacks"], attack: changed}})
    return made


def table(rows: Mapping[str, Row], found: Mapping[str, Audits]) -> str:
    """A line a row and attack. Utility is that of the headline attack at its last budget, so it stands for audits of one attack only."""
    head = ["setting", "attack", "edits x attacks", "plain", "F", "reach", "last, edited", "last, never", "pictures show it: edited, never"]
    head += ["neighbours: edit, attacked", "unrelated: edit, attacked", "verdict"]
    return tables.table(head, [line(name, rows[name], a, audits) for name, audits in found.items() for a in rows[name].attacks])


def line(name: str, row: Row, attack: str, given: Audits) -> list[str]:
    audits, alone = as_given(given, attack), len(row.attacks) == 1

    def number(*keys: str | int) -> str:
        return tables.number(mean(audits, *keys))

    count = f"{len(audits)} x {len(audits[0]['provenance']['seeds'])}"
    cells_ = [name, attack, count, number("plain", "edited", "value")]
    cells_ += tables.savings(measure(comparison.pooled(audits, attack), attacks=len(row.attacks)))
    cells_ += [number("attacks", attack, "arms", arm, "curve", -1, "score") for arm in ("edited", "never")]
    cells_.append(", ".join(number("attacks", attack, "notes", arm, "references_show") for arm in ("edited", "never")))
    for group in ("neighbours", "unrelated"):
        after = number("utility", group, "after_attack", "value") if alone else tables.NOTHING
        cells_.append(f"{number('utility', group, 'after', 'value')}, {after}")
    told = [audit["verdict"]["kind"] for audit in audits if len(audit["provenance"]["seeds"]) > 1]
    return [*cells_, ", ".join(told) or tables.NOTHING]


def page(rows: Mapping[str, Row], options: argparse.Namespace) -> str:
    found = finished(options, rows)
    if not found:
        sys.exit(f"nothing has finished in {options.out / options.study / options.concept}")
    first = next(iter(found.values()))[0]
    missing = [name for name in rows if name not in found]
    half = sum(len(audits) < len(PAIRS.get(options.study, BOTH)) for audits in found.values())
    about = f"`python studies/settings.py {options.study} --concept {options.concept} --out {options.out} --page {options.page}`; suite "
    about += f"{first['suite']}, control {first['control']['name']}, verification judge {first['detector']['verification']['version']}. "
    about += "The edited model is attacked as the row says, the never arm by the better of two ways; verdicts are the audits' own. "
    about += "Brackets are t intervals over edits and attacks together; those of a row's attacks hold together at 95 % (of two, 97.5 % "
    about += "each). With two edits they are wide, and with one there is none."
    rest = f"\n\nMissing: {'; '.join(missing)}." if missing else ""
    rest += f"\n\nOf {half} of {len(found)} rows an edit is missing." if half else ""
    return f"# Study: {options.study}, {options.concept}\n\n{about}{rest}\n\n{table(rows, found)}\n"


def run(options: argparse.Namespace, cell: Cell) -> None:
    done = grid.audited(cell.folder(options), cell.request(options), options.cache or options.out / "runs")
    print(f"{cell}: {done['verdict']['kind']}; {done['cost']['seconds']:.0f} s", flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--concept", default="sneaker")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    grid.resumable(parser, "build/studies")
    return parser


def main() -> None:
    options = arguments().parse_args()
    rows = {name: row for name, row in STUDIES[options.study]().items() if options.only in name}
    if options.dry_run:
        print(dry(rows, options))
    elif options.page:
        tables.write(options.page, page(rows, options))
    else:
        todo = [cell for cell in cells(options, rows) if result(options, cell) is None]
        grid.work(todo, functools.partial(run, options), options.workers)


if __name__ == "__main__":
    grid.start(main)
