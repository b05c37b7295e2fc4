"""The rows of `studies/sequences.py`: methods, protocols and guards beside each other, and DUGE taken apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestige import edits, models, registry
from vestige.continual import Ledger
from vestige.continual.guards import Guards
from vestige.edits import Edit, merging
from vestige.runs import Run

MODEL, TWIN = "wardrobe", "wardrobe-never-five"
FIVE = ("sneaker", "bag", "dress", "trouser", "neon")
ORDERS = (FIVE, FIVE[::-1], ("trouser", "neon", "sneaker", "dress", "bag"))  # of the later two, nothing was looked at beforehand
SCRAMBLED = ("redistil", "undo")  # minutes a step
CLOSED = ("uce", "mace", "rece", "speed")
METHODS = ("uce", "concept_ablation", "esd", "duge", "forget_me_not")
# Under Concept Ablation. The share is the released one, TIES' share and scale are not tuned. The released pull of 25,000 belongs to a
# sixtieth of this world's rate; here it lets nothing move. On the development concept (bag, 16 pictures each, selection judge; target,
# neighbours, unrelated): 25,000 left 1.00 / 1.00 / 0.94, and 30 gave 0.06 / 1.00 / 0.88; the projection 0.19 / 1.00 / 0.88.
GUARDS = {"L2 pull": Guards(pull=30.0), "selective": Guards(share=0.05), "projection": Guards(project=True)}
SHARE, SCALE = 0.2, 1.0


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Arguments:
        order: Fields of a `continual.Order`.
        made: Makes the edit that is measured, from the folder of the cell that it rests on; None takes the order's steps.
        rests: Row whose cell must be finished before.
    """

    order: dict[str, Any] = field(default_factory=dict)
    made: Callable[[Path], Edit] | None = None
    rests: str = ""

    @property
    def ordered(self) -> bool:
        """Whether the order of requests is in it; a row without it has cells under the first order alone."""
        return self.made is None and self.order.get("mode", "sequential") in ("sequential", "cumulative")


def merged(folder: Path) -> Edit:
    """TIES of the edits of an independent ledger, each checked by the ledger's own hashes."""
    return merging.ties(models.load(MODEL), alone(folder), share=SHARE, scale=SCALE)


def summed(folder: Path) -> Edit:
    return edits.combine(models.load(MODEL), [(edit, 1.0) for edit in alone(folder)], method="sum")


def averaged(folder: Path) -> Edit:
    parts = alone(folder)
    return edits.combine(models.load(MODEL), [(edit, 1 / len(parts)) for edit in parts], method="mean")


def alone(folder: Path) -> list[Edit]:
    return [edit for edit, _ in Ledger(Run(folder, {}), "independent").states(models.load(MODEL))]


def twin(folder: Path) -> Edit:
    """The whole difference to a model that drew none of the requests; both share everything but the denoiser."""
    model = models.load(MODEL)
    return edits.difference(model, models.load(TWIN), model.scope("unet"), method=TWIN)


def methods() -> dict[str, Row]:
    """Name -> row, cheapest first."""
    together = [name for name in METHODS if registry.find("unlearners", name).joint]
    made = {"twin of five": Row(made=twin)}
    made |= {name: Row({"method": name}) for name in METHODS}
    made |= {f"concept_ablation + {name}": Row({"method": "concept_ablation", "guards": held}) for name, held in GUARDS.items()}
    made |= {f"{name}, again at every step": Row({"method": name, "mode": "cumulative"}) for name in together}
    made |= {f"{name}, each alone": Row({"method": name, "mode": "independent"}) for name in METHODS}
    for title, how in (("TIES", merged), ("sum", summed), ("mean", averaged)):
        made[f"concept_ablation, {title} of each alone"] = Row(made=how, rests="concept_ablation, each alone")
    made |= {f"{name}, all at once": Row({"method": name, "mode": "simultaneous"}) for name in together}
    return made


def closed() -> dict[str, Row]:
    """What is solved for in seconds, MACE, which trains adapters beside it, and what scrambles and distils, one after another."""
    made = {"twin of five": Row(made=twin)} | {name: Row({"method": name}) for name in SCRAMBLED}
    for mode, how in (("", "sequential"), (", each alone", "independent"), (", all at once", "simultaneous")):
        made |= {name + mode: Row({"method": name, "mode": how}) for name in CLOSED}
    return made


def duge() -> dict[str, Row]:
    """The world's preset, and what each of its parts does: it keeps no pull, and 192 pictures of a memory of 200."""

    def changed(**settings: Any) -> Row:
        return Row({"method": "duge", "settings": {f"duge.{k}": v for k, v in settings.items()}})

    return {
        "duge": Row({"method": "duge"}),
        "duge, no prior preservation": changed(retain_weight=0.0, related_weight=0.0),
        "duge, memory of 20": Row({"method": "duge", "memory": 20}),
        "duge, held to the original": changed(reference="original"),
        "duge, all of cross-attention": changed(scope="cross-attention"),
        "duge, pulled back": changed(pull_weight=1e-3),
        "duge, pulled back by importance": changed(pull_weight=1e-3, importance="mas"),
        "duge, towards the empty prompt": changed(reference_condition="null"),
        "duge, no cross-attention loss": changed(attention_weight=0.0),
    }


TITLES = {"methods": "Continual unlearning, compared", "closed": "Requests one after another, by closed forms", "duge": "DUGE taken apart"}
ROWS = {
    "methods": f"""
A row of the form "again at every step" forgets every request so far in each step, at the price of one; "each alone" is the mean over
models that each forgot one request. All at once may spend as many steps and pictures as the sequence in all. The twin never drew any
of them; its drift is that between two trainings. The pull is {GUARDS["L2 pull"].pull:g}, chosen on bag; the share that moves is
{GUARDS["selective"].share:g}, TIES' share {SHARE:g} and scale {SCALE:g}, not tuned.""",
    "closed": """
"Each alone" is the mean over models that each forgot one request. The twin never drew any of them; its drift is that between two trainings.
Settings are the world's presets, chosen on bag.""",
    "duge": """
Every row is the world's preset, chosen on bag, but for what its name says: keys and values alone train, towards the start token, beside
a memory of 200 and with no pull. Towards the start token no reference is asked and without a pull none is held to, so "held to the
original" must give the first row's numbers.""",
}

PARTS: dict[str, Callable[[], dict[str, Row]]] = {"methods": methods, "closed": closed, "duge": duge}
