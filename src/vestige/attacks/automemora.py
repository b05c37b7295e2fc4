"""AutoMemoRa: guide the edited model with its recovered self, or the other way round, at inference.

    e = bad + w (main - bad)

where the one is the edited model, the other the edited model with MemoRa's adapter; both are evaluated at every step, on the same
latents and prompts. w = 0 is bad, w = 1 main, between them a blend, above 1 an extrapolation, as in autoguidance. Guidance
towards the prompt is linear, so it does not matter that it is applied after the blend here and before it in the released code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, final

from torch import Tensor

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model, Prediction
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.views import Wrapped
from vestige.edits import Edit, Hook
from vestige.edits.edit import flattened, unflattened
from vestige.errors import Incompatible
from vestige.methods import Attack, Budget, Candidate
from vestige.methods.contract import Select
from vestige.methods.enclosing import Enclosing

Main = Literal["recovered", "edited"]


@final
@dataclass(frozen=True, kw_only=True)
class AutoMemoRa(Enclosing):
    """MemoRa, sampled by guiding one network with the other (Polowczyk et al., 2025).

    Differs from the released code: that crashes before it draws (it calls the loader of the adapter without a scale), takes its
    noise from another generator than the pictures it is compared with, and ignores the prompts' own guidance; its configuration
    ships w = 1, plain MemoRa at twice the cost, its function 0.5, which is the default here. What the paper used is not known.
    Here every sampler works, and w of 0 or 1 evaluates one network alone.

    Arguments, beside MemoRa's settings:
        w: Weight of main: 0 is bad, 1 main, above 1 extrapolates.
        main: "recovered" is guided away from the edited model, "edited" from the recovered one; the one with w is the other with
            1 - w.
    """

    w: float = 0.5
    main: Main = "recovered"

    def __post_init__(self) -> None:
        if not math.isfinite(self.w):
            raise ValueError(f"w is a finite number; given {self.w}")
        super().__post_init__()

    def inner(self) -> Attack:
        """The attack that makes the adapter."""
        made: Attack = registry.build("attacks", "memora", self.inner_settings())
        return made

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
        for found in self.inner()(model, concept, budget, seed=seed, select=select, pictures=pictures, watch=watch):
            if found.edit is None:
                yield found
            else:
                yield replace(found, edit=replace(automemora(found.edit, self.w, self.main), settings=asdict(self)))

    @staticmethod
    def hook(model: Model, *, tensors: Mapping[str, Tensor], base: str, w: float, main: Main) -> Model:
        """`model`, the edited one, blended with itself under the change that `tensors` hold."""
        values, factors = unflattened(tensors)
        change = Edit(base, "automemora", tensors=values, factors=factors)
        change.check(model)

        def wrap(inner: Model) -> Model:
            recovered = inner.edited(replace(change, base=inner.fingerprint))
            good, bad = (recovered, inner) if main == "recovered" else (inner, recovered)

            def denoise(x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
                if w in (0, 1):
                    return (good if w else bad).denoise(x_t, t, condition)
                return good.denoise(x_t, t, condition).guided(bad.denoise(x_t, t, condition), w)

            frozen = f"{inner.name} is blended from two networks, which cannot be trained as one; attack the edited model itself"
            return Wrapped(inner, wrap, denoise=denoise, identity=f"automemora {w} {main} {recovered.fingerprint}", frozen=frozen)

        return wrap(model)


def automemora(edit: Edit, w: float, main: Main = "recovered", *, on: Edit | None = None) -> Edit:
    """The edit that blends the edited model with its recovered self.

    Arguments:
        edit: What MemoRa found: its factors (or tensors) are not folded in but evaluated apart.
        w: Weight of main; any number.
        main: Which of the two is guided, "recovered" or "edited".
        on: The edit under attack; with it, the result belongs on the model before that edit, in one file.
    Errors:
        Incompatible, where `edit` is no change of the denoiser's weights.
    """
    if edit.hooks or not edit.touched:
        raise Incompatible(f"automemora blends a change of weights; this {edit.method} edit has hooks or changes nothing")
    if any(name.startswith("text_encoder") for name in edit.touched):
        raise Incompatible(f"automemora blends denoisers; this {edit.method} edit changes the text encoder")
    if main not in ("recovered", "edited") or not math.isfinite(w):
        raise ValueError(f'main is "recovered" or "edited" and w finite; given {main!r} and {w}')
    arguments: dict[str, Any] = {"base": edit.base, "w": float(w), "main": main}
    hook = Hook("attacks", "automemora", arguments, flattened(edit))
    settings = {"w": float(w), "main": main, "adapter": {"method": edit.method, "settings": dict(edit.settings)}}
    under = Edit(edit.base, "automemora", scope=edit.scope) if on is None else on
    return replace(under, method="automemora", settings=settings, hooks=(*under.hooks, hook), notes=dict(edit.notes))
