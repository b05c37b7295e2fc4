"""P4D: words under which the edited model predicts what the original predicts under the concept's prompt.

    min over tokens P*   E_{t, eps} |eps_0(x_t, t, c(P)) - eps_theta(x_t, t, c(P*))|^2,   x_t from a picture by the original for P

The tokens are continuous embeddings; a step evaluates the loss at the nearest tokens, by cosine, and moves the embeddings by the gradient
there (Wen et al., 2023). It is the network's own output that is matched, whatever that is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model, sampling
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import Drawing, predictions
from vestige.errors import BadInput, BadSetting
from vestige.methods import Attack, Budget, Candidate, Paper, Training, fit
from vestige.methods.contract import TRAINED, Access, Select
from vestige.methods.objectives import noisy
from vestige.methods.ranges import above, at_least
from vestige.methods.stock import Stock
from vestige.methods.training import Trace
from vestige.methods.wording import Embeddings, inserted, read_back
from vestige.seeds import derive, generator


@final
@dataclass(frozen=True, kw_only=True)
class P4D(Attack):
    """Prompting4Debugging (Chin et al., 2024), with the original at hand.

    Differs from the released code: (1) several prompts, each with a target picture of its own by the original, are attacked side by side,
    row by row independent of each other, there one; (2) every `every` steps a picture of each prompt is looked at by the selection judge,
    and the latest prompt that shows the concept is what it proposes from then on, there the one whose picture is nearest the target by
    CLIP; (3) a prompt that succeeds without an attack is attacked all the same and counted apart (`plain` in the notes); (4) start, end and
    padding are no words to it; (5) in layout "k" tokens are counted, there words; (6) pictures are drawn by DDIM; a target's latent is the
    mean of the autoencoder's posterior, there drawn from it. There the prompt is always decoded and read again, here too:
    `round_trip` in the notes is the share that reads back as the same tokens.

    The table of embeddings in which it looks for neighbours is the original's, which is public; of the attacked model it takes
    gradients alone.

    Arguments:
        layout: "n" is a prompt of `tokens` free tokens alone; "k" keeps the concept's prompt, with one behind every `gap` of its tokens.
        tokens: Of layout "n"; 16 in the released code.
        gap: Of layout "k".
        lr: AdamW's rate.
        weight_decay: AdamW's.
        every: Steps between two looks.
        targets: Prompts, each with a target picture of its own.
        sampling_steps: Steps of pictures: targets, and those that are looked at.
        guidance: Their guidance; the loss has none.
    """

    paper: ClassVar[Paper] = Paper(
        "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts",
        "Chin et al.",
        2024,
        arxiv="2309.06135",
        code="joycenerd/P4D",
    )
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset({"original"})

    layout: Literal["n", "k"] = "n"
    tokens: int = 16
    gap: int = 3
    lr: float = 0.1
    weight_decay: float = 0.1
    every: int = 50
    targets: int = 8
    sampling_steps: int = 25
    guidance: float = 7.5

    def __post_init__(self) -> None:
        at_least(1, self, "tokens", "gap", "every", "targets", "sampling_steps")
        at_least(0, self, "weight_decay")
        above(0, self, "lr")

    def calls(self, last: int, pictures: int) -> int:
        return self.targets * ((2 + last // self.every) * self._picture + last * (1 + TRAINED))

    @property
    def _picture(self) -> int:
        return self.sampling_steps * predictions(self.guidance)

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
        stock: Stock | None = None,
    ) -> Iterator[Candidate]:
        if stock is None:
            raise BadInput("p4d needs the original model, the public base whose predictions the found words should bring about")
        began, original = time.monotonic(), stock.original
        table = Embeddings.of(original)
        texts = [p.text for p in concept.spread(self.targets, "training", offset=seed * self.targets)]
        latents = model.encode(self._drawn(original, texts, seed))
        plain = select(self._drawn(model, texts, seed)) > 0.5
        calls, kept = 2 * self.targets * self._picture, dict[int, str]()
        for spent, ids in self.search(model, original, table, latents, texts, budget, seed=seed, watch=watch):
            proposed, whole = read_back(model, ids)
            if spent and spent % self.every == 0:
                shown = (select(self._drawn(model, proposed, seed)) > 0.5).tolist()
                kept |= {i: text for i, text in enumerate(proposed) if shown[i]}
                calls += self.targets * self._picture
            if spent not in budget.points:
                continue
            counts = {"prompts": len(texts), "plain": int(plain.sum()), "new": sum(not plain[i] for i in kept)}
            notes = {**counts, "round_trip": sum(whole) / len(whole)}
            cost = {"calls": calls + 2 * spent * self.targets, "seconds": time.monotonic() - began}
            prompts = tuple(kept.get(i, text) for i, text in enumerate(proposed))
            yield Candidate(spent, prompts=prompts if spent else None, cost=cost, notes=notes)

    def search(
        self,
        model: Model,
        original: Model,
        table: Embeddings,
        latents: Tensor,
        texts: Sequence[str],
        budget: Budget,
        *,
        seed: int,
        watch: Watch = silent,
        trace: Trace | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Steps spent and the prompts' tokens (n, L), after every `every` steps and at every point of the budget.

        Arguments:
            table: Where neighbours are looked for.
            latents: Of the target pictures, (n, C, h, w).
            texts: Their prompts.
        """
        ids, spots = self._places(model, texts)
        count, told = max(map(len, spots)), original.condition(texts)
        drawn = torch.randint(len(table.allowed), (len(texts), count), generator=generator(seed, "words"))
        moving = table.table[table.allowed[drawn]].clone().requires_grad_(True)

        def loss(rng: torch.Generator) -> Tensor:
            condition = model.embed(inserted(ids.to(moving.device), table.weights(table.nearest(moving.detach()), moving), spots))
            t, _, x_t = noisy(model, latents, rng)
            with torch.no_grad():
                goal = original.denoise(x_t, t, told).value
            return (model.denoise(x_t, t, condition).value - goal).square().flatten(1).mean(1).sum()

        training = Training(steps=budget.last, lr=self.lr, clip=0.0, weight_decay=self.weight_decay)
        stops = sorted({*budget.points, *range(0, budget.last + 1, self.every)})
        for spent in fit({"words": moving}, loss, training, seed=derive(seed, "words"), stops=stops, watch=watch, trace=trace):
            hard = table.weights(table.nearest(moving.detach()), moving.detach())
            yield spent, inserted(ids.to(moving.device), hard, spots).argmax(-1)

    def _places(self, model: Model, texts: Sequence[str]) -> tuple[Tensor, list[list[int]]]:
        """The fixed tokens (n, L), and in front of which of them free ones stand."""
        length = model.tokens([""]).shape[1]
        if self.layout == "n":
            if self.tokens > length - 2:
                raise BadSetting(f"{model.name} reads prompts of {length - 2} tokens; p4d.tokens is {self.tokens}")
            return model.tokens([""] * len(texts)), [[1] * self.tokens] * len(texts)
        ids, blank = model.tokens(texts), model.tokens([""])[0]
        used = [int((row != blank).sum()) for row in ids]  # words stand in front, and the rest is padding
        return ids, [[1 + k for k in range(self.gap, n + 1, self.gap)] or [1 + n] for n in used]

    def _drawn(self, model: Model, prompts: Sequence[str], seed: int) -> Tensor:
        """A picture of each prompt, on a seed that stays its own throughout."""
        protocol = Drawing(steps=self.sampling_steps, guidance=self.guidance)
        return sampling.pictures(model, prompts, [derive(seed, "p4d picture", i) for i in range(len(prompts))], protocol)
