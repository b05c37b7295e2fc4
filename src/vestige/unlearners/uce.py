"""Unified Concept Editing: a closed form that maps the concept's embeddings to the anchor's outputs in cross-attention.

For every key and value projection W_0 of cross-attention,

    min_W  sum_e erase |W c_e - v_e|^2  +  preserve sum_p |W c_p - W_0 c_p|^2  +  ridge |W - W_0|_F^2

with v_e = W_0 c_g for the anchor's embedding c_g. All right-hand sides are W_0 times something, so

    W* = W_0 T,   T = (ridge I + erase sum c_g c_e' + preserve sum c_p c_p') (ridge I + erase sum c_e c_e' + preserve sum c_p c_p')^-1

and one solve serves all projections: the edit is "apply T to the text before cross-attention".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Model
from vestige.diffusion.attention import network
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit, precision
from vestige.methods import Data, Paper, Unlearner
from vestige.methods.closed_form import KEYS_AND_VALUES as SCOPE
from vestige.methods.closed_form import LACK, Rule, kept_rows, no_rows, word_rows
from vestige.methods.ranges import above, at_least


@final
@dataclass(frozen=True, kw_only=True)
class UCE(Unlearner):
    """Replaces all key and value projections of cross-attention at once (Gandikota et al., 2024, eq. 7).

    Differs from the released code: the shared factorisation above is ours (the code inverts a matrix a layer), solved in
    float64 by Cholesky; the empty prompt is literally empty, where the older code put a blank; rows begin at the concept's last token,
    there at the whole prompt's, which is another where words follow the concept; and "auto" does not count the empty prompt.

    Several targets that are one concept (`concepts.joint.Joint`) are solved for at once: both sums run over the rows of all of them.

    Arguments:
        rule: Which embeddings stand for a prompt. "word": the row of the concept's last token only (the 2025 release).
            "tail": every row from that token to the end of the sequence, paired in order (the paper's release).
        goal: "replace" maps to the anchor's output; "remove" takes away the anchor output's component along the concept's own
            (the release's "tensor" rule, here a row at a time: our choice; the release flattens the whole matrix).
        erase: Weight of the erased embeddings, > 0.
        preserve: Weight of the preserved ones; "auto" is max(0.1, 1 / number of preserved concepts), as in the
            paper's release but for the empty prompt, which it counts.
        ridge: Weight of staying near W_0, > 0; large values leave the model as it is.
        prompts: "plain" edits the plain prompts, "all" also those with contexts.
        keep: Preserve the neighbours and unrelated concepts, and the empty prompt.
    """

    paper: ClassVar[Paper] = Paper(
        "Unified Concept Editing in Diffusion Models",
        "Gandikota et al.",
        2024,
        arxiv="2308.14761",
        code="rohitgandikota/unified-concept-editing",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    rule: Rule = "tail"
    goal: Literal["replace", "remove"] = "replace"
    erase: float = 1.0
    preserve: float | Literal["auto"] = "auto"
    ridge: float = 0.5
    prompts: Literal["plain", "all"] = "all"
    keep: bool = True

    def __post_init__(self) -> None:
        above(0, self, "ridge")
        at_least(0, self, "erase", *(() if self.preserve == "auto" else ("preserve",)))

    def resolved(self, concept: Concept) -> UCE:
        """The same method with "auto" replaced by the weight for this many preserved concepts."""
        if self.preserve != "auto":
            return self
        return replace(self, preserve=max(0.1, 1 / max(1, len(concept.neighbours) + len(concept.unrelated))))

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        network(model, LACK)
        erased, anchors, kept = self.rows(model, concept)
        names = model.scope(SCOPE)
        method = self.resolved(concept)
        weight = float(method.preserve)
        denominator = self.ridge * torch.eye(erased.shape[1], dtype=torch.float64, device=erased.device)
        denominator = denominator + self.erase * erased.T @ erased + weight * kept.T @ kept
        factor = torch.linalg.cholesky(denominator)
        tensors = {}
        for i, name in enumerate(names):
            base = model.tensor(name)
            wide = base.cpu().double()
            goals = self._goals(wide, erased, anchors)  # (rows, out)
            # W* D = R with R = W_0 (D - erase sum c_e c_e') + erase sum v_e c_e'; only the change is solved for, so that an
            # empty edit is exactly no edit.
            change = self.erase * (goals - erased @ wide.T).T @ erased
            tensors[name] = (wide + torch.cholesky_solve(change.T, factor).T).to(precision.wide(base))
            watch("solve", i + 1, len(names))
        return Edit(model.fingerprint, "uce", asdict(method), SCOPE, tensors, notes={"concept": concept.name, "seed": seed})

    def _goals(self, weight: Tensor, erased: Tensor, anchors: Tensor) -> Tensor:
        goals: Tensor = anchors @ weight.T
        if self.goal == "replace":
            return goals
        own = erased @ weight.T
        own = own / own.norm(dim=1, keepdim=True).clamp_min(1e-12)
        removed: Tensor = goals - (goals * own).sum(1, keepdim=True) * own
        return removed

    def rows(self, model: Model, concept: Concept) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the erased prompts, of their anchors, and of the preserved prompts: those of all targets, one target after another."""
        each = [self._rows(model, target) for target in targets(concept)]
        erased, anchors, kept = (torch.cat(rows) for rows in zip(*each, strict=True))
        return erased, anchors, kept

    def _rows(self, model: Model, concept: Concept) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the erased prompts, of their anchors in the same order, and of the preserved prompts, each (rows, D) in float64."""
        kept = kept_rows(model, concept, rule=self.rule) if self.keep else no_rows(model)
        if self.erase == 0:
            return no_rows(model), no_rows(model), kept
        return *word_rows(model, concept, rule=self.rule, anchor=concept.anchor, words=self.prompts), kept
