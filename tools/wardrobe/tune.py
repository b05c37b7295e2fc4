"""Choose settings for the embedded world on the development concepts, with the selection judge only.

    python tools/wardrobe/tune.py unlearn bag esd.lr=1e-4,3e-4 esd.steps=100,200
        plain rate of the target, and accuracy on neighbours and unrelated concepts, for every combination

Prints one line a setting; nothing is written. The evaluation concepts (sneaker, neon) are refused.
"""

from __future__ import annotations

import itertools
import sys
import time

import torch

from vestige import arms, concepts, models, plan
from vestige.metrics import detection
from vestige.sampling import Protocol, derive, pictures

PROTOCOL = Protocol(steps=15, guidance=3.0, batch=64)


def rates(model: object, concept: concepts.Concept, judge: detection.Classifier, count: int = 48) -> tuple[float, ...]:
    made = []
    for words in ((concept.target,), concept.neighbours, concept.unrelated):
        prompts = concept.spread(count, "training", words=words)
        drawn = pictures(model, [p.text for p in prompts], [derive(99, "tune", i) for i in range(count)], PROTOCOL)  # type: ignore[arg-type]
        if words == (concept.target,):
            made.append(sum(arms.shows(judge, drawn, concept)) / count)
        else:
            seen = judge.labelled(drawn)
            made.append(sum(all(s[g] == v for g, v in p.expects.items()) for s, p in zip(seen, prompts, strict=True)) / count)
    return tuple(made)


def main() -> None:
    what, name, *grid = sys.argv[1:]
    if name not in ("bag", "blueprint") or what != "unlearn":
        sys.exit(__doc__)
    concept = concepts.load(name)
    judge = detection.load(models.data_folder() / "wardrobe/judge-select")
    model = models.load("wardrobe")
    axes = [(key.partition("=")[0], key.partition("=")[2].split(",")) for key in grid]
    print(name, "original", rates(model, concept, judge), flush=True)
    for values in itertools.product(*(v for _, v in axes)):
        chosen = dict(zip((k for k, _ in axes), values, strict=True))
        method = next(iter(chosen)).partition(".")[0]
        own = {k.partition(".")[2]: v for k, v in chosen.items()}
        began = time.monotonic()
        edit = plan.configured("unlearners", method, "wardrobe", "", own)(model, concept, seed=0)
        seconds = time.monotonic() - began
        view = model.edited(edit)
        print(chosen, "target, neighbours, unrelated", *(f"{r:.2f}" for r in rates(view, concept, judge)), f"{seconds:.0f} s", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
