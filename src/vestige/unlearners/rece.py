"""RECE: after UCE, embeddings by which the edited keys and values still speak as the original ones did are found and erased.

W_l are the original keys and values of cross-attention, V_l the edited ones, at first UCE's. An epoch takes every embedding c of the
concept's prompt,

    c* = argmin sum_l |V_l c* - W_l c|^2 + regular |c*|^2 = (regular I + sum_l V_l' V_l)^-1 (sum_l V_l' W_l) c,

and erases it by a step of UCE on V_l, with g the embedding at the same place of the guiding prompt and p what is preserved:

    min_V  sum |V c* - V_l g|^2 + preserve sum |V p - V_l p|^2 + ridge |V - V_l|^2

Every step multiplies all V_l by one map of the text, so with M = sum_l W_l' W_l and V_l = W_l T an epoch is a matter of M and T alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Model
from vestige.diffusion.attention import network
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit, precision
from vestige.methods import Data, Paper, Unlearner
from vestige.methods.closed_form import KEYS_AND_VALUES, LACK, every_row, kept_rows, turn, word_rows
from vestige.methods.ranges import above, at_least

START_RIDGE = 0.5  # of the first edit, UCE's default here


@final
@dataclass(frozen=True, kw_only=True)
class RECE(Unlearner):
    """Reliable and efficient concept erasure: UCE against its own adversarial embeddings (Gong et al., 2024).

    Several targets that are one concept (`concepts.joint.Joint`) are erased at once: all sums run over the rows of all of them.

    Differs from the released code: (1) the first edit is UCE as it is here (rows from the concept's last token on of all training
    prompts, ridge 0.5, neighbours and unrelated words preserved), where the code reads a checkpoint of UCE's first release; (2) no
    epoch is taken back: the code draws pictures after each and keeps it only if its detector sees less; (3) the empty prompt is
    literally empty, where the code has a blank; (4) of the code's three ways to regularise c*, only the default, towards zero; (5) all
    in float64, and the shared factorisation above is ours.

    Arguments:
        regular: Weight of keeping c* short, > 0. "auto": 0.1 for objects and unsafe concepts, 0.001 for styles and people (released;
            the code gives 0.001 to two objects that it found hard).
        epochs: How often. "auto": 3 for unsafe concepts (released for nudity), else 1; 0 leaves UCE's edit.
        towards: What guides, in the first edit too: "anchor", or "empty", the empty prompt. "auto": the anchor for styles and people
            (released: the word "art"), else empty.
        words: Where c comes from. "bare": all rows of the concept's words alone (released). "plain", "all": of its training prompts,
            without contexts or all, rows from its last token on.
        keep: What an epoch preserves. "empty": the empty prompt; "words": neighbours and unrelated concepts too. "auto": words for
            styles and people (released: a list of artists), else empty.
        preserve: Weight of what an epoch preserves.
        ridge: Weight of staying near the weights before the epoch, > 0.
    """

    paper: ClassVar[Paper] = Paper(
        "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models",
        "Gong et al.",
        2024,
        arxiv="2407.12383",
        code="CharlesGong12/RECE",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    regular: float | Literal["auto"] = "auto"
    epochs: int | Literal["auto"] = "auto"
    towards: Literal["auto", "anchor", "empty"] = "auto"
    words: Literal["bare", "plain", "all"] = "bare"
    keep: Literal["auto", "empty", "words"] = "auto"
    preserve: float = 0.1
    ridge: float = 0.1

    def __post_init__(self) -> None:
        above(0, self, "ridge", *(() if self.regular == "auto" else ("regular",)))
        at_least(0, self, "preserve", *(() if self.epochs == "auto" else ("epochs",)))

    def resolved(self, concept: Concept) -> RECE:
        """The same method with every "auto" replaced by the released setting for this kind of concept."""
        named = concept.kind in ("style", "person")
        released: dict[str, Any] = {
            "regular": 1e-3 if named else 0.1,
            "epochs": 3 if concept.kind == "unsafe" else 1,
            "towards": "anchor" if named else "empty",
            "keep": "words" if named else "empty",
        }
        return replace(self, **{name: value for name, value in released.items() if getattr(self, name) == "auto"})

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        network(model, LACK)
        method = self.resolved(concept)
        names = model.scope(KEYS_AND_VALUES)
        weights = {name: model.tensor(name).cpu().double() for name in names}
        power = torch.stack([weight.T @ weight for weight in weights.values()]).sum(0)
        change, lengths = method._start(model, concept), list[float]()
        c, g, kept = method._rows(model, concept)
        for i in range(int(method.epochs)):
            found = adversarial(c, power, change, float(method.regular))
            lengths.append(float(found.norm(dim=1).mean() / c.norm(dim=1).mean()))
            step = turn(found, g, kept, ridge=method.ridge)
            change = change + step + change @ step
            watch("epochs", i + 1, int(method.epochs))
        tensors = {name: (wide + wide @ change).to(precision.wide(model.tensor(name))) for name, wide in weights.items()}
        notes = {"concept": concept.name, "seed": seed, "lengths": lengths}
        return Edit(model.fingerprint, "rece", asdict(method), KEYS_AND_VALUES, tensors, notes=notes)

    def _start(self, model: Model, concept: Concept) -> Tensor:
        """UCE's edit as a change of the text, T - I, (D, D)."""
        parts = targets(concept)
        pairs = [word_rows(model, part, rule="tail", anchor=self._guide(part), words="all") for part in parts]
        erased, goals = (torch.cat(rows) for rows in zip(*pairs, strict=True))
        kept = torch.cat([kept_rows(model, part, rule="tail") for part in parts])
        weight = max(0.1, 1 / max(1, len(concept.neighbours) + len(concept.unrelated)))
        return turn(erased, goals, weight * kept.T @ kept, ridge=START_RIDGE)

    def _rows(self, model: Model, concept: Concept) -> tuple[Tensor, Tensor, Tensor]:
        """c and g, each (rows, D), and the weighted sum of products of what is preserved, (D, D)."""
        parts, pairs = targets(concept), []
        for part in parts:
            if self.words == "bare":
                pairs.append((every_row(model, [part.target]), every_row(model, [self._guide(part)])))
            else:
                pairs.append(word_rows(model, part, rule="tail", anchor=self._guide(part), words=self.words))
        c, g = (torch.cat(rows) for rows in zip(*pairs, strict=True))
        held = [kept_rows(model, part, rule="tail") for part in parts] if self.keep == "words" else [every_row(model, [""])]
        kept = torch.cat(held)
        return c, g, self.preserve * kept.T @ kept

    def _guide(self, part: Concept) -> str:
        return part.anchor if self.towards == "anchor" else ""


def adversarial(c: Tensor, power: Tensor, change: Tensor, regular: float) -> Tensor:
    """c* of every row of c, (n, D).

    Arguments:
        power: M, the sum over layers of W'W, (D, D).
        change: T - I of the edited weights W T, (D, D).
    """
    through = torch.eye(len(power), dtype=power.dtype) + change  # T
    left = through.T @ power @ through + regular * torch.eye(len(power), dtype=power.dtype)
    return torch.cholesky_solve(through.T @ power @ c.T, torch.linalg.cholesky(left)).T
