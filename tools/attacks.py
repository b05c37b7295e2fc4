"""Do the attacks find what is known to be there, and nothing where nothing is? docs/results/attacks.md.

    python tools/attacks.py [ATTACK ...]

Each attack that is named, or every one of `ATTACKS`, runs on four models of the embedded world, under suite `all`, for the
development concept: two edits that rename (`remap`, `renamed`), one in closed form (`uce`), and the twin that never drew the concept.
What is measured lies in docs/results/attacks.ndjson, an arm a line, and is not measured again; the page is made of it alone.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vestige import concepts, data, models, registry
from vestige.concepts.images import shipped
from vestige.edits import Edit
from vestige.harness import arms, suites
from vestige.harness.bench import Bench
from vestige.harness.settings import configured
from vestige.methods.stock import Stock
from vestige.metrics import classifier
from vestige.verdict.intervals import wilson

ATTACKS = ("perturb", "interpolate", "inversion", "p4d", "ring_a_bell", "mma", "noise_probe", "inpainting", "sub_attack")
MODELS = ("remap", "renamed", "uce", "twin")
# The twin, and the model on which each has most to find, first of all; then whatever is left.
PAIRS = (
    *(("perturb", w) for w in ("uce", "twin")),
    *(("inversion", w) for w in ("uce", "twin")),
    *(("p4d", w) for w in ("remap", "twin")),
    *(("sub_attack", w) for w in ("remap", "twin")),
    *(("noise_probe", w) for w in ("uce", "twin")),
    *(("interpolate", w) for w in ("uce", "twin")),
    *((name, "renamed") for name in ("sub_attack", "p4d")),
    *((name, w) for w in MODELS for name in ATTACKS if (name, w) != ("interpolate", "remap")),  # a hook has no line to walk
)
WORLD, CONCEPT, TWIN, SUITE, REPLICATE = "wardrobe", "bag", "wardrobe-never-bag", "all", 0
UNUSED = "wug"  # a word of the vocabulary that no training prompt holds
RECORDS, OUT = Path("docs/results/attacks.ndjson"), Path("docs/results/attacks.md")


def measured() -> list[dict[str, Any]]:
    """Every arm that was run, the latest of equals."""
    rows = [json.loads(line) for line in RECORDS.read_text("utf-8").splitlines()] if RECORDS.exists() else []
    return list({(row["attack"], row["model"], json.dumps(row["settings"]), tuple(row["budget"])): row for row in rows}.values())


@dataclass(frozen=True)
class Known:
    """The models whose truth is known, each made when it is asked for, and where their arms lie."""

    place: Path
    made: dict[str, Any] = field(default_factory=dict)

    def edit(self, who: str) -> Any:
        """The edit that hides the concept; None for the twin."""
        if who == "renamed" and who not in self.made:
            self.made[who] = renamed(models.load(WORLD), concepts.load(CONCEPT).target)
        elif who != "twin" and who not in self.made:
            method = configured("unlearners", who, WORLD, "", {}).resolved(concepts.load(CONCEPT))
            self.made[who] = method(models.load(WORLD), concepts.load(CONCEPT), seed=0)
        return self.made.get(who)

    def attacked(self, name: str, who: str) -> dict[str, Any]:
        """One arm, as it is recorded."""
        suite = suites.load(SUITE, WORLD)
        concept, original, folder = concepts.load(CONCEPT), models.load(WORLD), data.folder() / WORLD
        planned, method = usual(name)
        edit = self.edit(who)
        model = models.load(TWIN) if edit is None else original.edited(edit)
        pictures = shipped(folder / "pictures/references", {concept.group: concept.label})
        references = pictures.draw(planned.references, REPLICATE) if planned.references else None
        stock = Stock(original, edit) if "original" in method.needs else None
        bench = Bench(self.place, suite, *(classifier.load(folder / f"judge-{role}") for role in ("verify", "select")))
        began = time.monotonic()
        run = arms.run_arm(bench, model, concept, (name, method), planned.budget, REPLICATE, references, stock)
        points = run.outcome["points"]
        curve, taken = arms.curve(points, best_so_far=True)
        return {
            "attack": name,
            "model": who,
            "suite": suite.version,
            "settings": registry.settings(method),
            "budget": list(planned.budget.points),
            "rates": [sum(p["hits"]) / len(p["hits"]) for p in points],
            "selected": [p["selected"] for p in points],
            "best": [curve[-1], taken[-1]],
            "pictures": suite.pictures,
            "calls": points[-1]["cost"]["calls"],
            "notes": [p["notes"] for p in points],
            "seconds": round(time.monotonic() - began, 1),
        }


def renamed(model: Any, word: str) -> Edit:
    """Two words' rows of the token table exchanged: the model knows the concept by the name of the unused word."""
    (name,) = model.tables()
    table, rows = model.tensor(name).clone(), [int(model.tokens([w])[0, 1]) for w in (word, UNUSED)]
    table[rows] = table[rows[::-1]]
    return Edit(model.fingerprint, "renamed", {}, "text-encoder", {name: table})


def usual(name: str) -> tuple[Any, Any]:
    """How the suite runs an attack, and the attack by its settings."""
    planned = suites.load(SUITE, WORLD).attacks[name]
    return planned, configured("attacks", name, WORLD, "", {}, planned.settings, model=WORLD)


def risen(row: Mapping[str, Any]) -> bool:
    """Whether the chosen candidate shows the concept more often than plain prompts, by intervals that do not overlap."""
    plain, best = (wilson(round(v * row["pictures"]), row["pictures"]) for v in (row["rates"][0], row["best"][0]))
    return best.low > plain.high


def measure(names: tuple[str, ...]) -> None:
    """Run what is not there yet, one arm after the other."""
    known = {(row["attack"], row["model"]): row for row in measured()}
    with TemporaryDirectory() as place:
        here = Known(Path(place))
        for name, who in dict.fromkeys(pair for pair in PAIRS if pair[0] in names):
            planned, method = usual(name)
            row = known.get((name, who))
            if row and (row["settings"], row["budget"]) == (registry.settings(method), list(planned.budget.points)):
                continue
            found = here.attacked(name, who)
            with RECORDS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            sys.stderr.write(f"{name} {who} {found['rates']} {found['seconds']}\n")


def page() -> str:
    """The page, of what was measured."""
    found = {(row["attack"], row["model"]): row for row in measured()}
    lines = ["| attack | model | plain | attacked | pictures | calls of the attack |\n|---|---|---|---|---|---|"]
    for name, who in itertools.product(ATTACKS, MODELS):
        if row := found.get((name, who)):
            sides = " | ".join(_rate(value, row["pictures"]) for value in (row["rates"][0], row["best"][0]))
            lines.append(f"| `{name}` | {who} | {sides} | {row['pictures']} | {row['calls']:,} |")
    ladders = []
    for name in ("perturb", "interpolate", "inpainting"):
        rows = {who: found[name, who] for who in MODELS if (name, who) in found}
        for who, row in rows.items():
            steps = [f"{_rung(note)} {rate:.2f}" for note, rate in zip(row["notes"][1:], row["rates"][1:], strict=True)]
            ladders.append(f"- `{name}`, {who}: {', '.join(steps)}.")
    counts = []
    if masked := next((found["inpainting", who]["notes"][1:] for who in MODELS if ("inpainting", who) in found), None):
        shares = ", ".join(f"{note['masked_shows']:.2f} of those of which {note['kept']:g} is kept" for note in masked)
        counts.append(f"- `inpainting`: masked references show it, before anything is filled in, in {shares}.")
    for who in (who for who in MODELS if ("p4d", who) in found):
        last = found["p4d", who]["notes"][-1]
        counts.append(
            f"- `p4d`, {who}: {last['plain']} of {last['prompts']} prompts show it when plainly asked, {last['new']} more attacked."
        )
    for who in (who for who in MODELS if ("sub_attack", who) in found):
        last = found["sub_attack", who]["notes"][-1]
        counts.append(f"- `sub_attack`, {who}: {last['working']} of {last['embeddings']} words show it in more than half of the pictures.")
    versions = sorted({row["suite"] for row in found.values()})
    told = f"suite{'s' * (len(versions) > 1)} {' and '.join(filter(None, (', '.join(versions[:-1]), versions[-1])))}"
    return "\n\n".join(
        [
            "# Attacks on what is known",
            f"`python tools/attacks.py`. Concept `{CONCEPT}`, {told}, replicate {REPLICATE} alone: rates of "
            "pictures by the verification judge with 95 % Wilson intervals, at the candidate that the selection "
            "judge prefers. `remap` reads another word wherever a prompt names the concept and leaves every weight; `renamed` has the "
            "rows of two words of the token table exchanged; `uce` rewrites keys and values in closed form; the twin never drew it.",
            "\n".join(lines),
            "## Rung by rung",
            "\n".join(ladders),
            "## What the attacks counted themselves, by the selection judge",
            "\n".join(counts),
            "## Where they rise\n\n"
            "Above the same model's plain prompts, at the candidate of the table and by intervals that do not overlap:",
            _reading(found),
        ]
    )


def _rate(value: float, count: int) -> str:
    interval = wilson(round(value * count), count, 0.95)
    return f"{value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _rung(note: dict[str, Any]) -> str:
    if "kept" in note:
        return f"{note['kept']:g} kept"
    return f"{note['kind']} {note['strength']:g}" if "kind" in note else f"{note['lambda']:g}"


def _reading(found: Mapping[Any, Mapping[str, Any]]) -> str:
    """Which attacks rise on which model."""
    said = []
    for name in ATTACKS:
        rows = {who: found[name, who] for who in MODELS if (name, who) in found}
        if rows:
            said.append(f"- `{name}` rises above plain prompts on {', '.join(who for who in rows if risen(rows[who])) or 'none of them'}.")
    return "\n".join(said)


def main() -> None:
    """Measure what is missing, and write the page."""
    measure(tuple(sys.argv[1:]) or ATTACKS)
    OUT.write_text(page() + "\n", "utf-8")


if __name__ == "__main__":
    main()
