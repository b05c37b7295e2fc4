"""Model, a conditional denoiser with everything around it, and the values that it takes and gives: Condition, Prediction, Step.

Conventions. Pictures are (B, 3, H, W) float tensors in [0, 1]. Latents are (B, C, h, w). Time `t` is (B,), in the model's
own unit, large where noise dominates; `x_t = signal(t) * data + noise(t) * eps`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vestige.errors import Incompatible

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vestige.edits import Edit
    from vestige.edits.surgery import Factors

Watch = Callable[[str, int, int], None]  # (stage, done, total)


def silent(stage: str, done: int, total: int) -> None:
    """The watcher that says nothing."""


def within(part: str, watch: Watch) -> Watch:
    """A watcher of a part of something, whose stages it names by it."""
    return lambda stage, done, total: watch(f"{part}: {stage}", done, total)


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told, for a batch of B: `text` (B, L, D), `pooled` (B, P) or None.

    `guidance` (B,) is for a distilled model alone, whose network is told how strongly to guide; None counts as 1.
    """

    text: Tensor
    pooled: Tensor | None = None
    guidance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Condition:
        return self._each(lambda part: part[rows])

    def repeat(self, count: int) -> Condition:
        """`count` copies of every row, (B, ...) -> (B * count, ...), copies side by side."""
        return self._each(lambda part: part.repeat_interleave(count, 0))

    def join(self, other: Condition) -> Condition:
        """Rows of both, self first."""
        import torch

        pooled = None if self.pooled is None or other.pooled is None else torch.cat([self.pooled, other.pooled])
        told = [c.text.new_ones(len(c)) if c.guidance is None else c.guidance for c in (self, other)]
        guidance = None if self.guidance is None and other.guidance is None else torch.cat(told)
        return Condition(torch.cat([self.text, other.text]), pooled, guidance)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        rest = (None if part is None else change(part) for part in (self.pooled, self.guidance))
        return Condition(change(self.text), *rest)


@dataclass(frozen=True)
class Prediction:
    """What the denoiser says of `x_t`, whichever of noise, data, velocity or flow the network predicts.

    Arguments:
        x_t: Noisy latents, (B, C, h, w).
        signal: Signal level at t, (B, 1, 1, 1).
        level: Noise level at t, (B, 1, 1, 1).
        value: The network's output, like x_t.
        kind: What `value` is. Velocity is `signal * noise - level * data` (Salimans and Ho, 2022); flow is `noise - data`, the
            velocity of rectified flow (Liu et al., 2023), where signal + level = 1.
    """

    x_t: Tensor
    signal: Tensor
    level: Tensor
    value: Tensor
    kind: Literal["noise", "data", "velocity", "flow"]

    @property
    def noise(self) -> Tensor:
        if self.kind == "noise":
            return self.value
        if self.kind == "data":
            return (self.x_t - self.signal * self.value) / self.level
        if self.kind == "flow":
            return (self.x_t + self.signal * self.value) / (self.signal + self.level)
        return (self.signal * self.value + self.level * self.x_t) / (self.signal**2 + self.level**2)

    @property
    def data(self) -> Tensor:
        if self.kind == "data":
            return self.value
        if self.kind == "noise":
            return (self.x_t - self.level * self.value) / self.signal
        if self.kind == "flow":
            return (self.x_t - self.level * self.value) / (self.signal + self.level)
        return (self.signal * self.x_t - self.level * self.value) / (self.signal**2 + self.level**2)

    @property
    def velocity(self) -> Tensor:
        if self.kind == "velocity":
            return self.value
        return self.signal * self.noise - self.level * self.data

    @property
    def flow(self) -> Tensor:
        return self.value if self.kind == "flow" else self.noise - self.data

    def guided(self, unconditional: Prediction, guidance: float) -> Prediction:
        """Classifier-free guidance: `unconditional + guidance * (self - unconditional)` (Ho and Salimans, 2022)."""
        return replace(self, value=unconditional.value + guidance * (self.value - unconditional.value))


@dataclass(frozen=True)
class Step:
    """One step of a sampling path, as a hook on guidance sees it.

    Arguments:
        model: The model that draws, with all of its hooks.
        t: Time of the step, (B,).
        given: What it predicts of the prompt.
        free: What it predicts of the empty prompt; None where it is not asked, at guidance 1.
        done: Share of the path that lies behind, in [0, 1).
    """

    model: Model
    t: Tensor
    given: Prediction
    free: Prediction | None
    done: float


Steer = Callable[[Step], "Tensor"]  # what is taken off the guided direction, like the network's output (B, C, h, w)


class Model(ABC):
    """A conditional denoiser with its condition encoder, autoencoder and noise schedule behind one face.

    Its weights are never modified: `edited` and `trainable` return views that share every untouched tensor.
    """

    name: str
    latent_shape: tuple[int, int, int]  # (C, h, w)
    image_size: tuple[int, int]  # (H, W)
    distilled: bool = False  # guidance is built in: it is told to the network where that listens, and never made of two predictions

    @abstractmethod
    def condition(self, prompts: Sequence[str]) -> Condition:
        """Encode B prompts."""

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids of B prompts as the condition encoder reads them, padded and cut to its length, (B, L)."""
        raise self._reads_no_tokens()

    def unread(self, prompts: Sequence[str]) -> list[str]:
        """Those of the prompts that are longer than what the condition encoder reads, so that their ends change nothing."""
        return []

    def embed(self, tokens: Tensor) -> Condition:
        """Encode token sequences, with gradients.

        Arguments:
            tokens: Ids (B, L) as from `tokens`, or weights over the vocabulary (B, L, V): a token is then the weighted sum of all
                embeddings, and a row with a single 1 is that token exactly. A hook on words (Remap) does not see them.
        """
        raise self._reads_no_tokens()

    def tables(self) -> dict[str, slice]:
        """Tables of token embeddings by their weights' names, each with the columns of `tokens` that are read from it."""
        raise self._reads_no_tokens()

    def _reads_no_tokens(self) -> Incompatible:
        return Incompatible(f"{self.name} reads no tokens; a model that reads prompts is needed")

    @abstractmethod
    def grid(self, steps: int) -> Tensor:
        """Sampling times, (steps + 1,), from the noisiest to the clean end."""

    @abstractmethod
    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise levels at times t, (B,) -> (B,), (B,)."""

    @abstractmethod
    def draw_times(self, count: int, rng: Generator) -> Tensor:
        """Training times, (count,), as the model was trained."""

    @abstractmethod
    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """Predict from noisy latents (B, C, h, w) at times (B,)."""

    def steers(self) -> list[Steer]:
        """What hooks take off the direction of guidance, each made anew for a path, over which it may remember; see `sampling.predict`."""
        return []

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> latents (B, C, h, w), the mean of the posterior."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pictures in [0, 1]."""

    @abstractmethod
    def scope(self, name: str) -> list[str]:
        """Names of the weights in a scope, e.g. "cross-attention"; never empty."""

    @abstractmethod
    def tensor(self, name: str) -> Tensor:
        """One weight by its qualified name, e.g. "unet.conv_in.weight"; with factors beside it, their sum in float32."""

    @abstractmethod
    def edited(self, edit: Edit) -> Model:
        """A view of this model under an edit; shares every tensor that the edit leaves alone.

        In low precision (bfloat16), new values are rounded to the weight's, and factors of a matrix or kernel stay beside it in float32.
        """

    @abstractmethod
    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        """A view whose named weights are fresh leaf copies with gradients, and those leaves.

        Of weights of low precision the leaves are float32; the view rounds them as it reads them, so it predicts what the edited
        model does.
        """

    @abstractmethod
    def adapted(self, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[Model, Factors]:
        """A view with low-rank adapters on the named weights, and their leaves, in float32 whatever the weights are.

        Arguments:
            rank: Inner dimension r of the factors.
            alpha: The adapter adds `alpha / rank * up @ down`.
            init: Distribution of `down`: "gaussian" (deviation 1 / r) or "kaiming" (uniform); `up` starts at zero.
        """

    @property
    def precision(self) -> str:
        """Name of the dtype that it computes in."""
        return "float32"

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of every weight, of the noise schedule, and of all else that makes pictures; equal exactly for equal models."""

    @property
    def earlier(self) -> tuple[str, ...]:
        """What `fingerprint` was when it knew less of a model, for edits and ledgers that were saved then."""
        return ()

    def unlike(self, folder: Path) -> list[str]:
        """Where a pipeline folder, or one of a component, differs from this model in what no edit holds; a line each.

        An edit holds weights of the denoiser and of text encoders. Where sampling puts its steps is not compared: who draws decides it.
        """
        return []
