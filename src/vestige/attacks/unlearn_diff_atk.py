"""UnlearnDiffAtk: words in front of a prompt under which the edited model finds a picture of the concept likely.

    min over k tokens delta   E_{t, eps} |eps - eps_theta(x_t, t, c(delta + prompt))|^2,   x_t from a picture of the concept

The tokens are relaxed: each is a row u of the simplex over the vocabulary. A step samples a token from every row, passes the
gradient straight through to u, clips it to [-1, 1] an element, takes a step of Adam (weight decay as an L2 term), and projects
the rows back to the simplex. Times ascend, `iterations` steps each. No weight is read or moved.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model, sampling
from vestige.diffusion.attention import innermost
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import Drawing, predictions
from vestige.errors import BadInput
from vestige.methods import Attack, Budget, Candidate, Paper, Training, fit, optimiser
from vestige.methods.contract import TRAINED, Access, Select
from vestige.methods.ranges import above, at_least
from vestige.methods.training import Trace
from vestige.methods.training_data import captioned, given_some
from vestige.methods.wording import joined
from vestige.seeds import derive, generator

LONGEST = 60  # tokens of a prompt, start and end included; the released code skips longer ones


@final
@dataclass(frozen=True, kw_only=True)
class UnlearnDiffAtk(Attack):
    """Adversarial prefixes by the model's own denoising error (Zhang et al., 2024).

    Differs from the released code: (1) several prompts, each with its own target picture, are attacked side by side, row by row
    independent of each other; a budget counts the steps of each; (2) a prompt that succeeds without an attack is attacked all the
    same and counted apart (`plain` in the notes; there it ends the attack and counts as a success); (3) targets are the references
    that the audit hands out, there one picture a prompt from the original model; (4) the projection is exact, by sorting, there by
    bisection to 1e-5; (5) times are every second of the model's own grid of 2 x `times` steps (for Stable Diffusion 11, 31, ...,
    991, there 10, 30, ..., 990); (6) pictures for the stopping rule are drawn by DDIM, there by LMS, and looked at by the
    selection judge. Kept: the first success of a prompt, looked for after every time, is what it proposes from then on; side by side
    with the others it is still trained, and paid for.

    A found prefix is decoded to text, and the text is what is proposed. Where it does not read back as the same tokens, the text
    stands all the same, as in the released code; `round_trip` in the notes is the share that does.

    Arguments:
        tokens: k, tokens in front of the prompt; 3 for objects and styles, 5 for nudity in the released code.
        times: Noise levels visited, from little noise to much; a larger budget goes round again.
        iterations: Steps at each.
        lr: Adam's rate.
        weight_decay: L2 term in Adam's gradient, after clipping.
        targets: Pictures, each with a prompt of its own, attacked side by side.
        sampling_steps: Steps of the pictures for the stopping rule.
        guidance: Their guidance; the loss has none.
    """

    paper: ClassVar[Paper] = Paper(
        "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe Images ... For Now",
        "Zhang et al.",
        2024,
        arxiv="2310.11868",
        code="OPTML-Group/Diffusion-MU-Attack",
    )
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset({"pictures"})

    tokens: int = 3
    times: int = 50
    iterations: int = 40
    lr: float = 0.01
    weight_decay: float = 0.1
    targets: int = 8
    sampling_steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        at_least(1, self, "tokens", "times", "iterations", "targets", "sampling_steps")
        at_least(0, self, "weight_decay")
        above(0, self, "lr")

    @property
    def reads_captions(self) -> bool:
        return True

    def calls(self, last: int, pictures: int) -> int:
        looks = 1 + -(-last // self.iterations) if last else 1  # fewer where a prompt succeeds early
        return looks * self._drawn(min(self.targets, pictures)) + TRAINED * last * min(self.targets, pictures)

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
        pictures = given_some(pictures, "unlearn_diff_atk", concept)
        began = time.monotonic()
        targets = pictures.take(range(min(self.targets, len(pictures))))
        texts = self._prompts(model, concept, targets, seed)
        calls, found = self._drawn(len(texts)), dict[int, str]()
        plain = self._succeeds(model, texts, list(range(len(texts))), seed, select)
        for spent, u in self.search(model, model.encode(targets.images), texts, budget, seed=seed, watch=watch):
            proposed, kept = decoded(model, u.argmax(-1), texts)
            if spent and spent % self.iterations == 0 and len(found) < len(texts):
                left = [i for i in range(len(texts)) if i not in found]
                found |= {i: proposed[i] for i in self._succeeds(model, proposed, left, seed, select)}
                calls += self._drawn(len(left))
            if spent not in budget.points:
                continue
            prompts = tuple(found.get(i, text) for i, text in enumerate(proposed))
            counts = {"prompts": len(texts), "plain": len(plain), "new": len(set(found) - set(plain))}
            notes = {**counts, "round_trip": sum(kept) / len(kept)}  # no losses: those of different times do not compare
            cost = {"calls": calls + spent * len(texts), "seconds": time.monotonic() - began}
            yield Candidate(spent, prompts=prompts if spent else None, cost=cost, notes=notes)

    def search(
        self,
        model: Model,
        latents: Tensor,
        texts: list[str],
        budget: Budget,
        *,
        seed: int,
        watch: Watch = silent,
        trace: Trace | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Steps spent and the relaxed prefixes (n, k, V), after every time and at every point of the budget."""
        ids = model.tokens(texts).to(latents.device)
        size = len(innermost(model).tokenizer)
        u = torch.full((len(texts), self.tokens, size), 1 / size, device=latents.device).requires_grad_(True)
        grid = model.grid(2 * self.times)[: 2 * self.times].flip(0)[1::2].to(latents.device)
        batch, batches = itertools.count(), optimiser.current().accumulation  # of a step

        def loss(rng: torch.Generator) -> Tensor:
            with torch.no_grad():
                u.copy_(simplex(u))  # the projection that ends the step before
            t = grid[next(batch) // batches // self.iterations % self.times].expand(len(latents))
            condition = model.embed(joined(ids, sampled(u, rng)))
            eps = torch.randn(latents.shape, generator=rng).to(latents)
            signal, level = (v.to(latents).reshape(-1, 1, 1, 1) for v in model.schedule(t))
            seen = model.denoise(signal * latents + level * eps, t, condition)
            return (seen.noise - eps).square().flatten(1).mean(1).sum()

        def clipped(gradients: Mapping[str, Tensor]) -> None:
            gradients["u"].clamp_(-1, 1).add_(u.detach(), alpha=self.weight_decay)

        training = Training(steps=budget.last, lr=self.lr, clip=0.0)
        stops, seed = sorted({*budget.points, *range(0, budget.last, self.iterations)}), derive(seed, "prefix")
        for spent in fit({"u": u}, loss, training, seed=seed, stops=stops, projections=[clipped], watch=watch, trace=trace):
            yield spent, simplex(u.detach())

    def _prompts(self, model: Model, concept: Concept, targets: PictureSet, seed: int) -> list[str]:
        """A training prompt for every target picture, one that agrees with what it is labelled with."""
        rows = captioned(targets, concept).captions or ((concept.prompt,),) * len(targets)
        rng = generator(seed, "prompts")
        texts = [row[int(torch.randint(len(row), (1,), generator=rng))] for row in rows]
        length = model.tokens([""]).shape[1]
        for text in texts:
            used = len(innermost(model).tokenizer(text).input_ids)
            if used > LONGEST or used + self.tokens > length:
                raise BadInput(f"{text!r} has {used} tokens; unlearn_diff_atk attacks prompts of at most {LONGEST}")
        return texts

    def _succeeds(self, model: Model, prompts: list[str], rows: list[int], seed: int, select: Select) -> list[int]:
        """Which of the rows' prompts show the concept, each on a seed that stays its own throughout."""
        protocol = Drawing(steps=self.sampling_steps, guidance=self.guidance)
        drawn = sampling.pictures(model, [prompts[i] for i in rows], [derive(seed, "check", i) for i in rows], protocol)
        return [i for i, shows in zip(rows, select(drawn).tolist(), strict=True) if shows > 0.5]

    def _drawn(self, count: int) -> int:
        """Single denoiser calls of a look at `count` prompts."""
        return count * self.sampling_steps * predictions(self.guidance)


def simplex(u: Tensor) -> Tensor:
    """The nearest point of the probability simplex, row by row over the last dimension (Duchi et al., 2008).

    max(u - tau, 0) with tau such that the row sums to 1, which holds for tau = (sum of the m largest - 1) / m at the last m whose
    m-th largest value stays above it.
    """
    down = u.sort(dim=-1, descending=True).values
    count = torch.arange(1, u.shape[-1] + 1, device=u.device)
    tau = (down.cumsum(-1) - 1) / count
    last = (down > tau).sum(-1, keepdim=True) - 1
    return (u - tau.gather(-1, last)).clamp_min(0)


def sampled(u: Tensor, rng: torch.Generator) -> Tensor:
    """A one-hot token drawn from every row of (n, k, V), whose gradient is that of the row itself."""
    drawn = torch.multinomial(u.detach().flatten(0, 1).cpu(), 1, generator=rng).reshape(u.shape[:2])
    hard = F.one_hot(drawn, u.shape[-1]).to(u)
    return hard + (u - u.detach())


def decoded(model: Model, tokens: Tensor, texts: list[str]) -> tuple[list[str], list[bool]]:
    """Prompts with their prefixes (n, k) as text, and whether each reads back as the same tokens."""
    words = innermost(model).tokenizer
    made = [f"{words.decode(row.tolist(), skip_special_tokens=True)} {text}".strip() for row, text in zip(tokens, texts, strict=True)]
    ids = model.tokens(texts)
    wanted = torch.cat([ids[:, :1], tokens.cpu(), ids[:, 1 : ids.shape[1] - tokens.shape[1]]], dim=1)
    return made, [bool(torch.equal(a, b)) for a, b in zip(model.tokens(made), wanted, strict=True)]
