"""Which method has run on which family of models, and how: docs/results/matrix.md.

    python tools/matrix.py

Every registered method is run at its smallest on a tiny member of every family; what it answers is what the table says. Four states:

    trained tiny           it also runs, at its smallest, on a small model that was trained on real pictures: the embedded world's of
                           this family; whether it is any good there is another question (claims.md)
    random tiny            it runs on a tiny network with random weights
    full-size structure    random tiny, and a step of it ran at Stable Diffusion 1.4's exact size with random weights
    written, never run     neither

A method that cannot work on a family refuses; the reason is printed below the table.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import oracles
from vestige import concepts, models, registry
from vestige.concepts.images import PictureSet
from vestige.concepts.joint import joint
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.methods import Budget
from vestige.methods.stock import Stock

# Column -> the family's tiny member, and the world's trained model of it.
COLUMNS: dict[str, tuple[str, str]] = {
    "SD 1.x": ("latent", "wardrobe"),
    "SD 2.x, velocities": ("latent-velocity", ""),
    "SDXL": ("latent-xl", ""),
    "FLUX.1": ("flow-dev", "wardrobe-flow"),
    "SD 3": ("flow-sd3", ""),
    "class-conditional U-Net": ("classes", "wardrobe-classes"),
    "DiT": ("classes-dit", ""),
}
FULL_SIZE = ("esd", "uce", "memora", "duge")  # benchmarks/full_size.py, in the first column
OUT = Path("docs/results/matrix.md")


def answer(kind: registry.Kind, name: str, model: Any) -> str:
    """ "" if it runs, else why it refuses."""
    concept = concepts.load("bag")
    try:
        if kind == "unlearners":
            own = {"twin": _twin(model)} if name == "retrain" else {}
            oracles.small(kind, name, **own)(model, concept, seed=0)
        else:
            attack = oracles.small(kind, name)
            concept = joint([concept, concepts.load("dress")]) if attack.brings == "several" else concept
            edit = _adapter(model)
            stock = {"stock": Stock(model, edit)} if "original" in attack.needs else {}
            given = {"pictures": _pictures(attack, model), **stock}
            attacked = model.edited(edit) if stock else model
            list(attack(attacked, concept, Budget((0, 1)), seed=0, select=lambda x: torch.zeros(len(x)), **given))
    except Incompatible as error:
        return str(error)
    return ""


def _twin(model: Any) -> str:
    """A folder with a model that shares everything but a weight of its denoiser."""
    name = model.scope("unet")[0]
    other = model.edited(Edit(model.fingerprint, "twin", tensors={name: model.tensor(name) + 0.01}))
    folder = tempfile.mkdtemp(prefix="twin-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write = other.save if hasattr(other, "save") else other.pipeline().save_pretrained
    write(folder)
    return folder


def _adapter(model: Any) -> Edit:
    """An edit that comes off again, of one matrix of the denoiser."""
    name = next(n for n in model.scope("unet") if model.tensor(n).dim() == 2)
    rows, columns = model.tensor(name).shape
    return Edit(model.fingerprint, "made up", factors={name: (torch.ones(1, columns) / 100, torch.ones(rows, 1))})


def _pictures(attack: Any, model: Any) -> PictureSet | None:
    captions = (("a picture of a boot", "a boot"),) * 2 if "retain" in attack.needs else ()
    given = torch.rand(4 if attack.brings == "several" else 2, 3, *model.image_size, generator=torch.Generator().manual_seed(5))
    return PictureSet(given, "random", captions=captions) if attack.needs & {"pictures", "retain"} else None


def state(kind: registry.Kind, name: str, column: str, trained: str) -> str:
    made = "trained tiny" if trained and not answer(kind, name, models.load(trained)) else "random tiny"
    return f"{made}, full-size structure" if column == "SD 1.x" and name in FULL_SIZE else made


def main() -> None:
    rows, reasons = [], dict[str, str]()
    kinds: tuple[registry.Kind, ...] = ("unlearners", "attacks")
    for kind in kinds:
        for name in registry.names(kind):
            cells = []
            for column, (family, trained) in COLUMNS.items():
                why = answer(kind, name, oracles.FAMILIES[family]())
                cells.append(f"refuses ({reasons.setdefault(why, str(len(reasons) + 1))})" if why else state(kind, name, column, trained))
            rows.append(f"| `{name}` | {' | '.join(cells)} |")
            sys.stderr.write(rows[-1] + "\n")
    lines = [
        "# What has run where",
        "`python tools/matrix.py`. **Nothing has run on real weights of any published model.**",
        (__doc__ or "").split("\n\n", 2)[2].strip(),
        f"| method | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}\n" + "\n".join(rows),
        "\n".join(f"{number}. {why}" for why, number in reasons.items()),
    ]
    OUT.write_text("\n\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
