"""Prompt space and weight space side by side: every attack on one edited model and on the twin, recall and CLIP score. Resumable.

    python studies/recoveries.py --concept sneaker --unlearner esd --out build/recoveries
    python studies/recoveries.py --concept sneaker --unlearner esd --out build/recoveries --page docs/results/recoveries/sneaker-esd.md

Each attack runs once a replicate as under suite `quick`, and is scored at the end of its budget: recall by the verification judge on
held-out prompts, and the CLIP score of those pictures for those prompts, which is high also where a picture fits the rest of the prompt
alone: read it between the twin's and the original's. A prompt attack draws from its own prompts and is scored against the held-out
ones all the same. Plain successes are those of unlearn_diff_atk's prompts before any search; they are counted apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import grid
import tables
from vestige import concepts, data, models, registry
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.harness import settings, suites, tries
from vestige.harness.attacker import AttackerData
from vestige.harness.bench import Bench, shows
from vestige.harness.unlearning import unlearned
from vestige.methods import Budget, Candidate
from vestige.metrics import alignment, classifier
from vestige.verdict.intervals import wilson

Rows = Sequence[Mapping[str, Any]]
WORLD = data.folder() / "wardrobe"
ATTACKS = ("direct", "conditions", "unlearn_diff_atk", "textual_inversion", "memora", "finetune", "dimra")


@dataclass
class Gauge:
    """What every row is measured with."""

    options: argparse.Namespace

    def __post_init__(self) -> None:
        self.concept = concepts.load(self.options.concept)
        self.suite = suites.load("quick", "wardrobe")
        self.verify, self.select = (classifier.load(WORLD / f"judge-{name}") for name in ("verify", "select"))
        self.clip = alignment.clip_score(WORLD / "clip")
        self.rooms = Bench(self.options.out, self.suite, self.verify, self.select)
        original = models.load("wardrobe")
        method = settings.configured("unlearners", self.options.unlearner, "wardrobe", "", {})
        edit = Edit.load(unlearned(self.options.cache, original, self.concept, self.options.unlearner, method, 0).path("edit.safetensors"))
        twin = models.load(models.twins("wardrobe", self.concept.name)[0])
        self.models: dict[str, Model] = {"edited": original.edited(edit), "never": twin, "original": original}

    def scored(self, model: Model, candidate: Candidate, replicate: int) -> dict[str, Any]:
        """Recall and CLIP score of a candidate's pictures."""
        view = model.edited(candidate.edit) if candidate.edit is not None else model
        prompts = self.concept.spread(self.suite.pictures, "held-out", offset=replicate * self.suite.pictures)
        shown = tries.pictures_for(self.rooms, view, prompts, candidate, (replicate, "verification"))
        hits = shows(self.verify, shown, self.concept)
        return {"hits": sum(hits), "count": len(hits), "clip": float(self.clip(shown, [p.text for p in prompts]).mean())}

    def method(self, name: str) -> tuple[Any, suites.Planned]:
        """An attack as the suite runs it."""
        planned = self.suite.planned(name, "wardrobe")
        return settings.configured("attacks", name, "wardrobe", "", {}, planned.settings), planned

    def how(self, name: str) -> dict[str, Any]:
        """What a stored row of an attack has to agree with."""
        method, planned = self.method(name)
        return {"settings": registry.settings(method), "budget": planned.budget.last, "references": planned.references}

    def attacked(self, name: str, arm: str, replicate: int) -> dict[str, Any]:
        """One attack on one model, at the end of its budget."""
        suite, (method, planned) = self.suite, self.method(name)
        held = AttackerData(
            original=self.models["original"], world="wardrobe", protocol=suite.protocol, cache=self.options.cache / "pictures"
        )
        given = held.of(self.concept, method, planned.references, replicate)
        model = self.models[arm]

        def select(seen: torch.Tensor) -> torch.Tensor:
            return torch.tensor(shows(self.select, seen, self.concept))

        *_, last = method(model, self.concept, Budget((0, planned.budget.last)), seed=replicate, select=select, pictures=given)
        return {**self.scored(model, last, replicate), "spent": last.spent, "notes": dict(last.notes), "cost": dict(last.cost)}


def rows(gauge: Gauge, options: argparse.Namespace) -> dict[str, Any]:
    """Every row that is stored, after running what is not."""
    file = options.out / f"{options.concept}-{options.unlearner}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    wanted = [("plain", arm) for arm in gauge.models] + [(name, arm) for name in options.attacks for arm in ("edited", "never")]
    for replicate in range(options.replicates):
        for name, arm in wanted:
            key = f"{name}/{arm}/{replicate}"
            plain = name == "plain"
            how = {} if plain else gauge.how(name)
            if key in found and found[key].get("how", {}) == how:
                continue
            made = gauge.scored(gauge.models[arm], Candidate(0), replicate) if plain else gauge.attacked(name, arm, replicate)
            found[key] = {**made, "how": how}
            tables.write(file, json.dumps(found, indent=1))
            print(f"{key}: {found[key]['hits']} of {found[key]['count']}, CLIP {found[key]['clip']:.1f}", flush=True)
    return found


def rate(rows: Rows) -> str:
    """Recall over rows, and its Wilson interval."""
    return tables.interval(wilson(sum(r["hits"] for r in rows), sum(r["count"] for r in rows)))


def clip(rows: Rows) -> str:
    return tables.number(statistics.fmean(r["clip"] for r in rows), 1)


def table(found: dict[str, Any], options: argparse.Namespace) -> str:
    lines = []
    for name in ("plain", *options.attacks):
        sides = [[found[k] for r in range(options.replicates) if (k := f"{name}/{arm}/{r}") in found] for arm in ("edited", "never")]
        if not all(sides):
            continue
        notes = [r["notes"] for r in sides[0] if "plain" in r.get("notes", {})]
        plain, new, prompts = (sum(n[k] for n in notes) for k in ("plain", "new", "prompts"))
        told = f"{plain}, {new} of {prompts}" if notes else tables.NOTHING
        lines.append([name, str(sides[0][0].get("spent", 0)), *map(rate, sides), *map(clip, sides), told])
    head = ["attack", "spent", "recall, edited", "recall, never", "CLIP, edited", "CLIP, never", "prompts that succeed: plain, new"]
    text = tables.table(head, lines)
    originals = [v for k, v in found.items() if k.startswith("plain/original/")]
    if originals:
        text += f"\n\nThe original on plain prompts: recall {rate(originals)}, CLIP {clip(originals)}."
    return text


def page(options: argparse.Namespace, text: str) -> str:
    command = f"python studies/recoveries.py --concept {options.concept} --unlearner {options.unlearner} --replicates {options.replicates}"
    return f"# Recoveries of {options.concept} after {options.unlearner}\n\n`{command}`\n\n{text}\n"


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--concept", default="bag")
    parser.add_argument("--unlearner", default="esd")
    parser.add_argument("--attacks", type=grid.names, default=list(ATTACKS))
    parser.add_argument("--replicates", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/recoveries"))
    parser.add_argument("--cache", type=Path, default=Path("build/panel/runs"))
    parser.add_argument("--page", type=Path, help="write the table here")
    return parser


def main() -> None:
    options = arguments().parse_args()
    text = table(rows(Gauge(options), options), options)
    if options.page is not None:
        tables.write(options.page, page(options, text))
    print(text)


if __name__ == "__main__":
    grid.start(main)
