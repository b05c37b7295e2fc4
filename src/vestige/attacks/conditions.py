"""Conditions: ask the unchanged weights with conditions that no prompt gives: mixed, extrapolated, guided more, less or backwards.

    c' = (1 - sum w_i) c(p) + sum w_i c(p with word i instead of the concept's)
    v' = v(null) + scale * (v(c') - v(null))

for prompts p that name the concept and the network's output v; `scale` multiplies whatever guidance a picture is drawn with. An
unlearner that only ties the concept's prompts to something else leaves its knowledge where other conditions may find it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model, Prediction
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import Drawing, predictions
from vestige.diffusion.sampling import pictures as draw
from vestige.diffusion.views import Wrapped
from vestige.edits import Edit, Hook
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import Access, Select
from vestige.methods.ranges import above, at_least
from vestige.seeds import derive, generator

Probe = Literal["swap", "mix", "average", "guidance", "both"]


@final
@dataclass(frozen=True, kw_only=True)
class Conditions(Attack):
    """A random search over conditions, for unlearners that redirect them. Ours; no paper.

    Try i is of the next kind in turn and draws its numbers from (seed, i). The selection judge looks at `draws` pictures of
    training prompts at the same seeds in every try; the best try so far, the latest of equals, is the candidate: a hook, no
    weights. Conditions enter the network behind the prompt, so this needs a white box, though nothing is trained.

    Arguments:
        probes: Kinds of tries. "swap": another word's condition, of a neighbour or the anchor; "mix": w of one such word, uniform
            in [-reach, 1]; "average": random convex weights of the concept and all such words; "guidance": scale, uniform in
            [-reach, 1 + reach]; "both": mix and guidance. Where there is no such word, all are "guidance".
        reach: How far to extrapolate, > 0.
        draws: Pictures a try.
        sampling_steps: Steps in which they are drawn.
        guidance: Their guidance, before `scale`.
    """

    paper: ClassVar[Paper] = Paper("Vestige's adaptive attack on redirected conditions", "the Vestige authors", 2026)
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset()

    probes: tuple[Probe, ...] = ("swap", "mix", "average", "guidance", "both")
    reach: float = 2.0
    draws: int = 16
    sampling_steps: int = 20
    guidance: float = 3.0

    def __post_init__(self) -> None:
        if not self.probes:
            raise ValueError("name at least one probe")
        at_least(1, self, "draws", "sampling_steps")
        above(0, self, "reach")

    def calls(self, last: int, pictures: int) -> int:
        scaled = bool({"guidance", "both"} & {*self.probes})  # such a probe asks twice as often
        return last * self.draws * self.sampling_steps * predictions(self.guidance) * (1 + scaled)

    def __call__(
        self,
        model: Model,
        concept: Concept,
        budget: Budget,
        *,
        seed: int,
        select: Select,
        pictures: PictureSet | None = None,
        watch: Watch = silent,
    ) -> Iterator[Candidate]:
        began, calls = time.monotonic(), 0
        best: dict[str, Any] = {}
        for spent in range(budget.last + 1):
            if spent:
                kind, arguments = self.probe(concept, seed, spent)
                share = select(self._drawn(model, concept, seed, arguments)).float().mean().item()
                guided = predictions(self.guidance, distilled=model.distilled)
                calls += self.draws * self.sampling_steps * guided * (2 if arguments["scale"] != 1 else 1)
                if not best or share >= best["share"]:
                    best = {"share": share, "kind": kind, "arguments": arguments}
                watch("probe", spent, budget.last)
            if spent in budget.points:
                edit = self._edit(model, concept, best["arguments"]) if best else None
                yield Candidate(
                    spent, edit, cost={"calls": calls, "seconds": time.monotonic() - began}, notes={"best": best} if best else {}
                )

    def probe(self, concept: Concept, seed: int, attempt: int) -> tuple[Probe, dict[str, Any]]:
        """The kind and the hook's arguments of a try, counted from 1."""
        rng = generator(seed, "probe", attempt)
        a, b, c = torch.rand(3, generator=rng, dtype=torch.float64).tolist()
        words = [w for w in dict.fromkeys((*concept.neighbours, concept.anchor)) if w]
        kind: Probe = self.probes[(attempt - 1) % len(self.probes)] if words else "guidance"
        one = words[int(a * len(words))] if words else ""
        others, weights, scale = {
            "swap": ([one], [1.0], 1.0),
            "mix": ([one], [b - self.reach * (1 - b)], 1.0),
            "average": (words, self._convex(len(words), rng), 1.0),
            "guidance": ([], [], c * (1 + self.reach) - self.reach * (1 - c)),
            "both": ([one], [b - self.reach * (1 - b)], c * (1 + self.reach) - self.reach * (1 - c)),
        }[kind]
        return kind, {"words": concept.target, "others": others, "weights": weights, "scale": scale}

    @staticmethod
    def _convex(count: int, rng: torch.Generator) -> list[float]:
        """Uniform on the simplex of `count` words and the concept, whose own weight is what is left."""
        drawn = -torch.rand(count + 1, generator=rng, dtype=torch.float64).clamp_min(1e-12).log()
        return list((drawn / drawn.sum())[:count].tolist())

    def _drawn(self, model: Model, concept: Concept, seed: int, arguments: dict[str, Any]) -> Tensor:
        texts = [p.text for p in concept.spread(self.draws, "training")]
        protocol = Drawing(steps=self.sampling_steps, guidance=self.guidance)
        return draw(self.hook(model, **arguments), texts, [derive(seed, "probe picture", i) for i in range(self.draws)], protocol)

    def _edit(self, model: Model, concept: Concept, arguments: dict[str, Any]) -> Edit:
        hook = Hook("attacks", "conditions", arguments)
        return Edit(model.fingerprint, "conditions", asdict(self), "prompts", hooks=(hook,), notes={"concept": concept.name})

    @staticmethod
    def hook(model: Model, *, words: str, others: Sequence[str], weights: Sequence[float], scale: float) -> Model:
        """`model` under the equations above; prompts without `words` keep their condition.

        Arguments:
            others: What stands in for `words`, one text a weight.
            weights: Any real numbers; the concept's own is 1 minus their sum.
            scale: Of the difference from the empty prompt's output; 1 leaves it.
        """
        pattern = re.compile(rf"\b{re.escape(words)}\b", re.IGNORECASE)

        def wrap(inner: Model) -> Model:
            null = inner.condition([""])

            def condition(prompts: Sequence[str]) -> Condition:
                given = inner.condition(prompts)
                named = [i for i, p in enumerate(prompts) if pattern.search(p)]
                if not named or not others:
                    return given
                stand = [inner.condition([word.join(pattern.split(prompts[i])) for i in named]) for word in others]
                return _mixed(given, named, stand, weights)

            def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
                free = replace(null.repeat(len(x_t)), guidance=condition.guidance)
                return inner.denoise(x_t, t, condition).guided(inner.denoise(x_t, t, free), scale)

            identity = f"conditions {words} {list(others)} {list(weights)} {scale}"
            return Wrapped(inner, wrap, condition=condition, denoise=denoise if scale != 1 else None, identity=identity)

        return wrap(model)


def _mixed(given: Condition, rows: Sequence[int], others: Sequence[Condition], weights: Sequence[float]) -> Condition:
    """`given` with these rows replaced by their weighted sum with the others."""

    def mix(own: Tensor, rest: Sequence[Tensor]) -> Tensor:
        made = own.clone()
        made[list(rows)] = (1 - sum(weights)) * own[list(rows)] + sum(w * other for w, other in zip(weights, rest, strict=True))
        return made

    text = mix(given.text, [o.text for o in others])
    if given.pooled is None:
        return Condition(text)
    return Condition(text, mix(given.pooled, [o.pooled for o in others if o.pooled is not None]))
