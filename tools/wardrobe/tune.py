"""Choose settings for the embedded world on the development concepts, with the selection judge only.

    python tools/wardrobe/tune.py unlearn bag esd.lr=1e-4,3e-4 esd.steps=100,200
        plain rate of the target, and accuracy on neighbours and unrelated concepts, for every combination
    python tools/wardrobe/tune.py attack bag memora.lr=1e-3,3e-3
        curves of the ESD-edited model and of the twin, for every combination; replicate 0
    either with model=wardrobe-classes for another built-in model than `wardrobe`

Prints one line a setting; nothing is written. The evaluation concepts (sneaker, neon) are refused.
"""

from __future__ import annotations

import itertools
import sys
import time

import torch
from loop import BUILD

from vestige import concepts, data, models, registry
from vestige.concepts import images
from vestige.diffusion.sampling import Drawing, pictures
from vestige.edits import Edit
from vestige.harness import settings as resolving
from vestige.harness import suites
from vestige.harness.bench import shows
from vestige.harness.unlearning import unlearned
from vestige.methods import Budget
from vestige.metrics import classifier
from vestige.seeds import derive

CACHE = BUILD / "runs"
PROTOCOL = Drawing(steps=15, guidance=3.0, batch=64)


def rates(model: object, concept: concepts.Concept, judge: classifier.Classifier, count: int = 48) -> tuple[float, ...]:
    made = []
    for words in ((concept.target,), concept.neighbours, concept.unrelated):
        prompts = concept.spread(count, "training", words=words)
        drawn = pictures(model, [p.text for p in prompts], [derive(99, "tune", i) for i in range(count)], PROTOCOL)  # type: ignore[arg-type]
        if words == (concept.target,):
            made.append(sum(shows(judge, drawn, concept)) / count)
        else:
            seen = judge.labelled(drawn)
            made.append(sum(all(s[g] == v for g, v in p.expects.items()) for s, p in zip(seen, prompts, strict=True)) / count)
    return tuple(made)


def curves(
    base: str, concept: concepts.Concept, judge: classifier.Classifier, own: dict[str, str], budget: Budget, replicates: int = 1
) -> None:
    """Plain rates of edited model and twin, where there is one, along the budget."""
    model = models.load(base)
    edit = unlearned(CACHE, model, concept, "esd", resolving.configured("unlearners", "esd", "wardrobe", "", {}, model=base), 0)
    edited = model.edited(Edit.load(edit.path("edit.safetensors")))
    settings = {**suites.load("quick", "wardrobe").attacks["memora"].settings, **own}
    count = int(settings.pop("references", 8))
    attack = registry.build("attacks", "memora", settings)
    never = [("never", models.load(twin)) for twin in models.twins(base, concept.name)[:1]]
    for name, subject in (("edited", edited), *never):
        for k in range(replicates):
            sheet = data.folder() / "wardrobe/pictures/references"
            held = images.shipped(sheet, {concept.group: concept.label}).draw(count, k)
            select = lambda x: torch.tensor(shows(judge, x, concept))  # noqa: E731
            line, began = [], time.monotonic()
            for candidate in attack(subject, concept, budget, seed=k, select=select, pictures=held):
                view = subject.edited(candidate.edit) if candidate.edit else subject
                prompts = concept.spread(48, "training")
                drawn = pictures(view, [p.text for p in prompts], [derive(k, "tune", i) for i in range(48)], PROTOCOL)
                line.append(f"{candidate.spent}:{sum(shows(judge, drawn, concept)) / 48:.2f}")
            print(
                " ",
                name,
                *line,
                f"references show {candidate.notes['references_show']:.2f}",
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )


def main() -> None:
    what, name, *grid = sys.argv[1:]
    if name not in ("bag", "blueprint") or what not in ("unlearn", "attack"):
        sys.exit(__doc__)
    base = next((item.removeprefix("model=") for item in grid if item.startswith("model=")), "wardrobe")
    concept = resolving.told(concepts.load(name), models.card(base))
    judge = classifier.load(data.folder() / "wardrobe/judge-select")
    axes = [(key.partition("=")[0], key.partition("=")[2].split(",")) for key in grid if "." in key.partition("=")[0]]
    model = models.load(base)
    if what == "unlearn":
        print(base, name, "original", rates(model, concept, judge), flush=True)
    for values in itertools.product(*(v for _, v in axes)):
        chosen = dict(zip((k for k, _ in axes), values, strict=True))
        method = next(iter(chosen)).partition(".")[0]
        own = {k.partition(".")[2]: v for k, v in chosen.items()}
        if what == "attack":
            print(chosen, flush=True)
            curves(base, concept, judge, own, Budget((0, 4, 10, 25, 60, 150)))
            continue
        began = time.monotonic()
        edit = resolving.configured("unlearners", method, "wardrobe", "", own, model=base).resolved(concept)(model, concept, seed=0)
        seconds = time.monotonic() - began
        view = model.edited(edit)
        print(chosen, "target, neighbours, unrelated", *(f"{r:.2f}" for r in rates(view, concept, judge)), f"{seconds:.0f} s", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
