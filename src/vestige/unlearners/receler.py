"""Receler: small adapters after every cross-attention, trained against soft prompts that keep bringing the concept back.

    o <- o + E(o),   E(o) = U gelu(D o + d) + u                     o is what a cross-attention of the U-Net gives; U = u = 0 at first
    soft     min over a of |eps_E(x_t, c with a) - eps_0(x_t, c)|^2        a: vectors behind the concept's words in the encoded prompt
    loss     mean |eps_E(x_t, c with a) - goal|^2 + local mean_l [sum_pixels mean_channels (E_l(o) (1 - M_l))^2 / sum (1 - M_l)]
    goal     eps_0(x_t, null) - strength (eps_0(x_t, c) - eps_0(x_t, null))

M_l is where the network attends to the concept's words, x_t a state on the adapted network's own guided path. No weight changes:
whoever leaves the adapters out has the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Condition, Model
from vestige.diffusion.attention import Maps, columns, network, recording
from vestige.diffusion.bottlenecks import bottlenecked, widths
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import predictions
from vestige.edits import Edit, Hook
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.ranges import above, at_least
from vestige.methods.rollouts import stopped
from vestige.seeds import derive, generator

BESIDE = 4  # the mask is read where the picture is a quarter as high and wide as the latents: 16 x 16 of Stable Diffusion's 64 x 64


@final
@dataclass(frozen=True, kw_only=True)
class Receler(Unlearner):
    """Trains Receler's adapters (Huang et al., 2024). A hook; files of published ones are read to the same form.

    Several targets that are one concept have soft prompts each, and share the adapters.

    Differs from the released code: (1) prompts are the concept's own, drawn at random, where the code takes its words alone; (2) the
    mask is read at the resolution nearest to a quarter of the latents', where the code reads 16 x 16; (3) the eraser's loss and the
    last step of the soft prompts see the same state, in this order, as in the code; (4) a state's time is the path's own grid time,
    which the code rounds to.

    Arguments:
        strength: Distance past the unconditional prediction, >= -1.
        rank: Width of the bottlenecks.
        local: Weight of leaving pixels alone that do not attend to the concept.
        threshold: Of the normalised attention, above which a pixel belongs to the concept, in [0, 1].
        soft_tokens: Vectors behind the concept's words; they take the places of what stands there, the end token's too.
        soft_lr: Adam's rate of them, with a weight decay of 0.1.
        inner_steps: Steps of the soft prompts for each step of the adapters; they go on from one to the next.
        rollout_steps: Sampling steps of a whole path; it stops at a random one, neither the first nor the last.
        rollout_guidance: Guidance on the path.
        prompts: "plain" trains on the concept's plain prompts, "all" also on those with contexts.
        steps: Adam steps of the adapters.
        batch: States a step, all at one time.
    """

    paper: ClassVar[Paper] = Paper(
        "Receler: Reliable Concept Erasing of Text-to-Image Diffusion Models via Lightweight Erasers",
        "Huang et al.",
        2024,
        arxiv="2311.17717",
        code="jasper0314-huang/Receler",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    strength: float = 1.0
    rank: int = 128
    local: float = 0.1
    threshold: float = 0.1
    soft_tokens: int = 16
    soft_lr: float = 0.1
    inner_steps: int = 50
    rollout_steps: int = 50
    rollout_guidance: float = 3.0
    prompts: Literal["plain", "all"] = "plain"
    steps: int = 500
    lr: float = 3e-4
    batch: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "rank", "soft_tokens", "inner_steps", "steps", "batch")
        at_least(2, self, "rollout_steps")
        at_least(0, self, "local", "threshold")
        at_least(-1, self, "strength")
        above(0, self, "lr", "soft_lr")

    def calls(self, picture: int, retained: int) -> int:
        rollout = self.rollout_steps / 2 * predictions(self.rollout_guidance)  # they stop anywhere on the way
        return round(self.steps * self.batch * (rollout + 2 + TRAINED * (self.inner_steps + 1)))

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        network(model, "there is nothing to put an adapter behind")
        leaves = self._adapters(model, generator(seed, "adapters"))
        seen: dict[str, Tensor] = {}
        student = bottlenecked(model, leaves, partial(_keep, seen))
        soft = Soft.of(self, model, concept, generator(seed, "soft"))
        loss = partial(self._loss, model, student, soft, model.condition([""]), seen)
        for _ in fit(leaves, loss, Training(steps=self.steps, lr=self.lr, clip=0.0), seed=derive(seed, "receler"), watch=watch):
            pass
        hook = Hook("hooks", "receler", {}, {name: leaf.detach().clone() for name, leaf in leaves.items()})
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "receler", asdict(self), "cross-attention", hooks=(hook,), notes=notes)

    def _adapters(self, model: Model, rng: Generator) -> dict[str, Tensor]:
        """Leaves in float32, or the model's float64: D and d as torch.nn begins, U and u zero."""
        like = model.tensor(model.scope("cross-attention")[0])
        made: dict[str, Tensor] = {}
        for place, width in widths(model).items():
            bound = width**-0.5
            made[f"{place}.down.weight"] = (2 * torch.rand(self.rank, width, generator=rng) - 1) * bound
            made[f"{place}.down.bias"] = (2 * torch.rand(self.rank, generator=rng) - 1) * bound
            made[f"{place}.up.weight"], made[f"{place}.up.bias"] = torch.zeros(width, self.rank), torch.zeros(width)
        kind = torch.promote_types(like.dtype, torch.float32)
        return {name: value.to(like.device, kind).requires_grad_() for name, value in made.items()}

    def _loss(self, model: Model, student: Model, soft: Soft, null: Condition, seen: dict[str, Tensor], rng: Generator) -> Tensor:
        rows = torch.randint(len(soft.condition), (self.batch,), generator=rng).tolist()
        given = soft.condition[rows]
        _, x_t, t = stopped(student, given, null, rng, steps=self.rollout_steps, guidance=self.rollout_guidance)
        with torch.no_grad():
            free = model.denoise(x_t, t, null.repeat(self.batch)).value
            with recording(model) as maps:
                own = model.denoise(x_t, t, given).value
        for _ in range(self.inner_steps - 1):
            soft.step(student, x_t, t, rows, own)
        seen.clear()
        value = student.denoise(x_t, t, soft.put(rows)).value
        goal = own - (1 + self.strength) * (own - free)
        loss = (value - goal).square().mean()
        if self.local > 0:
            loss = loss + self.local * added_outside(dict(seen), self._mask(maps, soft.counted[rows], x_t.shape[-2:]))
        soft.step(student, x_t, t, rows, own)
        return loss

    def _mask(self, maps: Maps, counted: Tensor, size: tuple[int, ...]) -> Tensor:
        """Where the network attends to the concept's words, (B, 1, h, w) of 0 and 1.

        Arguments:
            counted: The words' columns, (B, tokens) of 0 and 1.
        """
        height, width = size
        wanted = height * width / BESIDE**2
        nearest = min((found.shape[2] for found in maps.values()), key=lambda n: abs(n - wanted))
        shares = [(found * counted[:, None, None]).sum(-1).mean(1) for found in maps.values() if found.shape[2] == nearest]
        mean = torch.stack(shares).mean(0)  # (B, pixels)
        low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
        mask = ((mean - low) / (high - low).clamp_min(1e-12) > self.threshold).to(mean)
        return mask.reshape(len(mask), 1, *_sides(nearest, height, width))


@dataclass
class Soft:
    """The concept's prompts as they are encoded, and the vectors that stand behind its words.

    Arguments:
        condition: One row a prompt.
        counted: Columns of the concept's words, (R, tokens).
        places: Where the vectors stand in each prompt: positions, and how many of them have room.
        part: Whose vectors a prompt has.
        vectors: One leaf a target, (soft_tokens, D), in float32 at least.
        optimiser: Of all of them.
    """

    condition: Condition
    counted: Tensor
    places: list[list[int]]
    part: list[int]
    vectors: list[Tensor]
    optimiser: torch.optim.Optimizer

    @staticmethod
    def of(method: Receler, model: Model, concept: Concept, rng: Generator) -> Soft:
        texts: dict[str, tuple[int, str]] = {}
        for number, part in enumerate(targets(concept)):
            own = part.plain() if method.prompts == "plain" else [p.text for p in part.prompts("training")]
            texts |= {text: (number, part.target) for text in own if text not in texts}
        condition = model.condition(list(texts))
        length, width = condition.text.shape[1:]
        counted, places = torch.zeros(len(texts), length).to(condition.text), []
        for row, (text, (_, word)) in enumerate(texts.items()):
            words = columns(model, text, word)
            counted[row, words] = 1
            places.append(list(range(words[-1] + 1, length))[: method.soft_tokens])
        kind = torch.promote_types(condition.text.dtype, torch.float32)
        drawn = [torch.rand(method.soft_tokens, width, generator=rng).to(condition.text.device, kind) for _ in targets(concept)]
        vectors = [value.requires_grad_() for value in drawn]
        optimiser = torch.optim.Adam(vectors, lr=method.soft_lr, weight_decay=0.1)
        return Soft(condition, counted, places, [number for number, _ in texts.values()], vectors, optimiser)

    def put(self, rows: list[int], *, free: bool = False) -> Condition:
        """Prompts by row, with their vectors; with `free`, gradients flow into those."""
        given, text = self.condition[rows], []
        for own, row in zip(given.text, rows, strict=True):
            vectors = self.vectors[self.part[row]] if free else self.vectors[self.part[row]].detach()
            at = torch.tensor(self.places[row], device=own.device)
            text.append(own.index_copy(0, at, vectors[: len(at)].to(own)))
        return replace(given, text=torch.stack(text))

    def step(self, student: Model, x_t: Tensor, t: Tensor, rows: list[int], own: Tensor) -> None:
        """One step towards what the network without adapters says of the concept."""
        gap = student.denoise(x_t, t, self.put(rows, free=True)).value - own
        slopes = torch.autograd.grad(gap.square().mean(), self.vectors, allow_unused=True)
        for vector, slope in zip(self.vectors, slopes, strict=True):
            vector.grad = slope
        self.optimiser.step()


def added_outside(added: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """How much adapters add where the mask is 0, the mean over layers and the batch.

    Arguments:
        added: What each layer's adapter adds, (B, pixels, channels).
        mask: (B, 1, h, w) of 0 and 1, resized to each layer by nearest neighbours.
    """
    found = []
    for value in added.values():
        sides = _sides(value.shape[1], *mask.shape[-2:])
        outside = 1 - torch.nn.functional.interpolate(mask, size=sides, mode="nearest").flatten(1)  # (B, pixels)
        square = (value * outside[..., None]).square().mean(-1).sum(-1)
        found.append((square / outside.sum(-1).clamp_min(1)).mean())
    return torch.stack(found).mean()


def _sides(pixels: int, height: int, width: int) -> tuple[int, int]:
    """The sides of a layer's picture of so many pixels, in the proportions of the latents'."""
    tall = round((pixels * height / width) ** 0.5)
    return tall, pixels // tall


def _keep(seen: dict[str, Tensor], name: str, out: Tensor, added: Tensor) -> Tensor:
    seen[name] = added
    return added
