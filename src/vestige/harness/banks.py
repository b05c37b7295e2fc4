"""Banks of prompts that an audit asks before any attack: lists of the field, other words for the concept, prompts that do not name it.

A row of a file is drawn with the seed and the guidance that it gives; what it gives none of is derived, or the suite's. Every model is
asked the same pictures. Each bank on each model is a run of its own, keyed by the prompts and not by the file that they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from vestige import runs
from vestige.concepts import Concept
from vestige.concepts import prompts as sets
from vestige.concepts.concept import Prompt
from vestige.diffusion import Model
from vestige.errors import BadInput, BadSetting
from vestige.harness.bench import NUMERICS, Bench, shows
from vestige.harness.drawing import Asked, finite, of_set, seeded
from vestige.harness.suites import Suite
from vestige.seeds import derive

Which = Literal["auto", "all", "none"]


@dataclass(frozen=True)
class PromptBank:
    """Prompts that are asked together and told apart from all others.

    Arguments:
        name: The file's stem, "synonyms" or "indirect".
        asked: One picture each.
        source: Where they come from, for people.
        remarks: What of a file was not read as it stands.
    """

    name: str
    asked: tuple[Asked, ...]
    source: str
    remarks: tuple[str, ...] = ()

    def rows(self) -> list[list[Any]]:
        """Prompt, seed and guidance of every picture, for specs."""
        return [[one.text, one.seed, one.guidance] for one in self.asked]


def gathered(concept: Concept, suite: Suite, which: Which = "auto", most: int = 0, *, shipped: bool = False) -> tuple[PromptBank, ...]:
    """The banks of a concept.

    Arguments:
        which: "all" it has; "none"; "auto": all, but none of the embedded world's own concepts, whose committed audits asked none.
        most: Rows of a file that are asked, spread evenly over it; 0 asks all.
        shipped: Whether it is one of the embedded world's.
    """
    if which not in get_args(Which):
        raise BadSetting(f"banks are {', '.join(get_args(Which)[:-1])} or {get_args(Which)[-1]}; given {which!r}")
    if most < 0:
        raise BadSetting(f"bank_pictures is at least 1, or 0 for all; given {most}")
    if which == "none" or (which == "auto" and shipped):
        return ()
    found = [_of_file(file, suite, most) for file in concept.prompt_files]
    if concept.synonyms:
        found.append(_written("synonyms", concept.spread(suite.pictures, "held-out", words=concept.synonyms), suite, concept))
    if concept.indirect:
        found.append(_written("indirect", concept.spread(suite.pictures, "indirect"), suite, concept))
    names = [bank.name for bank in found]
    if len(set(names)) < len(names):
        raise BadInput(f"banks of {concept.name} are told apart by the names of their files, which differ; given {', '.join(names)}")
    return tuple(found)


def others(concept: Concept, suite: Suite) -> PromptBank:
    """Prompts of everything else: of its neighbours and unrelated words, in which nothing of it should be seen."""
    words = (*concept.neighbours, *concept.unrelated)
    prompts = [p for p in concept.spread(suite.utility_pictures, "held-out", words=words) if not concept.named(p.text)]
    return _written("others", prompts, suite, concept)


def _of_file(file: str, suite: Suite, most: int) -> PromptBank:
    """A file's rows, or so many of them."""
    found = sets.load(file)
    asked = of_set(found, 1, 0, suite.protocol.guidance)
    if most and most < len(asked):
        asked = [asked[i * len(asked) // most] for i in range(most)]
    return PromptBank(found.name, tuple(asked), found.source, found.remarks)


def _written(name: str, prompts: Sequence[Prompt], suite: Suite, concept: Concept) -> PromptBank:
    """Prompts of the concept's own file, with derived seeds."""
    seeds = [derive(0, "bank", name, i) for i in range(len(prompts))]
    asked = tuple(Asked(p.text, seed, suite.protocol.guidance) for p, seed in zip(prompts, seeds, strict=True))
    return PromptBank(name, asked, f"{name} of {concept.name}")


def answers(bench: Bench, model: Model, concept: Concept, bank: PromptBank) -> runs.Run:
    """The finished run of a bank on a model: of each picture whether it shows the concept, by either judge; null: not judged."""
    spec = {
        "what": "bank",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "shows": concept.label,
        "asked": bank.rows(),
        "protocol": asdict(bench.suite.protocol),
        "judges": [judge.identity(concept.label) for judge in (bench.verify, bench.select)],
        "strip": bench.suite.strip,
        "blurred": concept.sensitive,
        **bench.kept,
        "volatile": {"model": model.name, "bank": bank.name},
    }

    def work(run: runs.Run) -> dict[str, Any]:
        hits: list[bool | None] = []
        other: list[bool | None] = []
        for start in range(0, len(bank.asked), bench.suite.protocol.batch):
            part = bank.asked[start : start + bench.suite.protocol.batch]
            drawn = finite(seeded(model, part, bench.suite.protocol), model)
            hits += shows(bench.verify, drawn, concept)
            other += shows(bench.select, drawn, concept)
            if start == 0:
                bench.album(concept).strip(drawn[: bench.suite.strip], run.folder, "strip.png")
            bench.watch(f"{bank.name} on {model.name}", len(hits), len(bank.asked))
        return {"hits": hits, "other_judge": other}

    return runs.compute(bench.root, spec, "bank", work, wait=bench.wait, steal=bench.steal)
