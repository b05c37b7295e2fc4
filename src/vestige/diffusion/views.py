"""Hooks around a model, which they never modify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from torch import Generator, Tensor

from vestige import registry
from vestige.diffusion.model import Condition, Model, Prediction, Steer
from vestige.edits.surgery import Factors
from vestige.errors import Incompatible

if TYPE_CHECKING:
    from vestige.edits import Edit, Hook


def hooked(model: Model, hooks: Sequence[Hook]) -> Model:
    """`model` with its hooks around it, the first one innermost."""
    for hook in hooks:
        payload = {"tensors": hook.tensors} if hook.tensors else {}
        model = registry.find(hook.kind, hook.name).hook(model, **hook.arguments, **payload)
    return model


@final
class Wrapped(Model):
    """A model whose conditioning or prediction a hook replaces, or whose guidance it steers; everything else is the inner model's.

    Arguments:
        again: Wraps another model in the same way; needed when an edit or adapter is put on the inner model.
        embed: Like `condition`, of tokens.
        steer: Makes what is taken off the direction of guidance, anew for every path.
        bare: The inner model without what a hook put into its network; None where the inner model is as it was.
        frozen: Why the wrapped model cannot be trained; empty where it can.
    """

    def __init__(
        self,
        inner: Model,
        again: Callable[[Model], Model],
        *,
        condition: Callable[[Sequence[str]], Condition] | None = None,
        denoise: Callable[[Tensor, Tensor, Condition], Prediction] | None = None,
        embed: Callable[[Tensor], Condition] | None = None,
        steer: Callable[[], Steer] | None = None,
        bare: Callable[[Model], Model] | None = None,
        identity: str = "",
        frozen: str = "",
    ) -> None:
        self.inner, self._again, self._identity, self._frozen = inner, again, identity, frozen
        self.name, self.latent_shape, self.image_size = inner.name, inner.latent_shape, inner.image_size
        self.distilled = inner.distilled
        self._condition, self._denoise, self._embed = condition or inner.condition, denoise or inner.denoise, embed or inner.embed
        self._steer, self._bare = steer, bare

    def condition(self, prompts: Sequence[str]) -> Condition:
        return self._condition(prompts)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return self.inner.tokens(prompts)

    def unread(self, prompts: Sequence[str]) -> list[str]:
        return self.inner.unread(prompts)

    def embed(self, tokens: Tensor) -> Condition:
        return self._embed(tokens)

    def tables(self) -> dict[str, slice]:
        return self.inner.tables()

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        return self._denoise(x_t, t, condition)

    def steers(self) -> list[Steer]:
        return [*self.inner.steers(), *([] if self._steer is None else [self._steer()])]

    def without(self) -> Model:
        """The inner model, with nothing of this hook."""
        return self.inner if self._bare is None else self._bare(self.inner)

    def around(self, inner: Model) -> Model:
        """This hook on another inner model."""
        return self._again(inner)

    def grid(self, steps: int) -> Tensor:
        return self.inner.grid(steps)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.schedule(t)

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        return self.inner.draw_times(count, rng)

    def encode(self, images: Tensor) -> Tensor:
        return self.inner.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.inner.decode(latents)

    def scope(self, name: str) -> list[str]:
        return self.inner.scope(name)

    def tensor(self, name: str) -> Tensor:
        return self.inner.tensor(name)

    def edited(self, edit: Edit) -> Model:
        edit.check(self)
        return hooked(self._again(self.inner.edited(replace(edit, base=self.inner.fingerprint, hooks=()))), edit.hooks)

    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        self._thaw()
        view, leaves = self.inner.trainable(names)
        return self._again(view), leaves

    def adapted(self, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[Model, Factors]:
        self._thaw()
        view, leaves = self.inner.adapted(names, rank=rank, alpha=alpha, init=init, rng=rng)
        return self._again(view), leaves

    @property
    def precision(self) -> str:
        return self.inner.precision

    def _thaw(self) -> None:
        if self._frozen:
            raise Incompatible(self._frozen)

    @property
    def fingerprint(self) -> str:
        return self._marked(self.inner.fingerprint)

    @property
    def earlier(self) -> tuple[str, ...]:
        return tuple(map(self._marked, self.inner.earlier))

    def unlike(self, folder: Path) -> list[str]:
        return self.inner.unlike(folder)

    def _marked(self, inner: str) -> str:
        import hashlib

        return hashlib.sha256(f"{inner} {self._identity}".encode()).hexdigest()
