"""AdvUnlearn: ESD on the text encoder, at prompts that an attack on that encoder has just made.

    attack   min over a of |eps(x_t, E(a + c)) - eps_0(x_t, c)|^2            a: free word embeddings in front of the concept's words
    loss     mean |eps(x_t, E(a + c)) - goal|^2 + retain_weight mean |eps(x_r, E(r)) - eps(x_r, E_0(r))|^2
    goal     eps_0(x_t, null) - strength (eps_0(x_t, c) - eps_0(x_t, null))

E is the encoder that is trained, E_0 the original one, eps the frozen denoiser, r prompts of what must stay; states x_t and x_r lie on
the original's guided paths for c and r. Whoever puts the stock encoder back has the original.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Model
from vestige.diffusion.attention import columns
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit, optimiser
from vestige.methods.contract import TRAINED
from vestige.methods.ranges import above, at_least
from vestige.methods.rollouts import Rollouts, rollouts
from vestige.seeds import derive, generator

SCOPE = "text-encoder"


@final
@dataclass(frozen=True, kw_only=True)
class AdvUnlearn(Unlearner):
    """Adversarial training of the text encoder (Zhang et al., 2024), all layers, tables of words and positions frozen.

    Differs from the released code: (1) states come from a pool of the original's paths, drawn once and kept whole, which have the
    distribution of the code's new path a step, because the denoiser never changes; (2) the concept's words are found by the tokenizer,
    not by blanks; (3) the attack's gradients are those of its step, where the code adds them up; (4) what must stay is in the loss (the
    README's way), where the parser's default takes a second optimiser step; (5) its prompts are those of the concept's neighbours and
    unrelated words, and the empty one where there are none; (6) of the code's attacks, free words in front under Adam alone; (7) with
    two encoders (SDXL) both are trained, and a word is an embedding for each.

    Arguments:
        strength: Distance past the unconditional prediction, >= -1.
        words: Free word embeddings in front of the concept's words.
        attack_steps: Adam steps of the attack in each step; 0 leaves ESD on the text encoder.
        attack_lr: Its rate.
        start: Where an attack begins. "random": anew, as embeddings are spread (README); "latest": where the last one ended (parser).
        plain_steps: First steps without an attack.
        retain_weight: Weight of what must stay (README: 0.3); 0 drops it.
        retain_batch: States of what must stay a step.
        rollouts: Sampling paths of the concept, and again of what must stay.
        rollout_steps: Sampling steps of a path.
        rollout_guidance: Guidance on the path.
        prompts: "plain" trains on the concept's plain prompts, "all" also on those with contexts.
        steps: Adam steps.
        batch: States of the concept a step.
    """

    paper: ClassVar[Paper] = Paper(
        "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion Models",
        "Zhang et al.",
        2024,
        arxiv="2405.15234",
        code="OPTML-Group/AdvUnlearn",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    strength: float = 1.0
    words: int = 1
    attack_steps: int = 30
    attack_lr: float = 1e-3
    start: Literal["random", "latest"] = "random"
    plain_steps: int = 200
    retain_weight: float = 0.3
    retain_batch: int = 5
    rollouts: int = 20
    rollout_steps: int = 50
    rollout_guidance: float = 3.0
    prompts: Literal["plain", "all"] = "plain"
    steps: int = 1000
    lr: float = 1e-5
    batch: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "words", "retain_batch", "rollouts", "rollout_steps", "steps", "batch")
        at_least(0, self, "attack_steps", "plain_steps", "retain_weight")
        at_least(-1, self, "strength")
        above(0, self, "lr", "attack_lr")

    def calls(self, picture: int, retained: int) -> int:
        kept = self.retain_weight > 0
        drawn = 2 * self.rollouts * self.rollout_steps * (1 + kept)
        attacks = max(0, self.steps - self.plain_steps) * self.attack_steps * self.batch
        return drawn + TRAINED * (self.steps * (self.batch + kept * self.retain_batch) + attacks)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        room = Words.of(model, self._prompts(concept), self.words)
        paths = {"count": self.rollouts, "steps": self.rollout_steps, "guidance": self.rollout_guidance, "watch": watch}
        own = rollouts(model, room.texts, seed=seed, **paths)  # type: ignore[arg-type]
        kept = None
        if self.retain_weight > 0:
            texts = self._kept(concept)
            kept = texts, rollouts(model, texts, seed=derive(seed, "retain"), stage="rollouts of what stays", **paths)  # type: ignore[arg-type]
        student, leaves = model.trainable(_layers(model))
        attacked, goals, asked = _Attacks(self, room, seed), own.beyond(self.strength), 0

        def loss(rng: Generator) -> Tensor:
            nonlocal asked
            step, asked = asked // optimiser.current().accumulation, asked + 1
            picked = torch.randint(len(own), (self.batch,), generator=rng).to(own.rows.device)
            condition = student.embed(room.ids[own.rows[picked].cpu()])
            if step >= self.plain_steps and self.attack_steps:
                condition = student.embed(room.weights(attacked(student, own, picked, rng), own.rows[picked].cpu()))
            value = (student.denoise(own.x_t[picked], own.t[picked], condition).value - goals[picked]).square().mean()
            return value if kept is None else value + self.retain_weight * self._staying(student, *kept, rng)

        for _ in fit(leaves, loss, Training(steps=self.steps, lr=self.lr, clip=0.0), seed=derive(seed, "adv_unlearn"), watch=watch):
            pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "adv_unlearn", asdict(self), SCOPE, tensors, notes=notes)

    def _prompts(self, concept: Concept) -> list[tuple[str, str]]:
        """Prompts, each once, with the words that an attack stands in front of."""
        found: dict[str, str] = {}
        for part in targets(concept):
            texts = part.plain() if self.prompts == "plain" else [p.text for p in part.prompts("training")]
            found |= {text: part.target for text in texts if text not in found}
        return list(found.items())

    def _kept(self, concept: Concept) -> list[str]:
        """Prompts without contexts of neighbours and unrelated words, each once; the empty prompt where none are named."""
        words = (*concept.neighbours, *concept.unrelated)
        if not words:
            return [""]
        plain = [t for t in concept.templates if "{context}" not in t] or list(concept.templates)
        bare = [t.format(concept=word, context=(concept.contexts or ("",))[0]) for word in words for t in plain]
        return list(dict.fromkeys(bare))

    def _staying(self, student: Model, texts: list[str], kept: Rollouts, rng: Generator) -> Tensor:
        picked = torch.randint(len(kept), (self.retain_batch,), generator=rng).to(kept.rows.device)
        condition = student.embed(student.tokens([texts[row] for row in kept.rows[picked].tolist()]))
        return (student.denoise(kept.x_t[picked], kept.t[picked], condition).value - kept.given[picked]).square().mean()


@dataclass(frozen=True)
class Words:
    """Prompts with room for free words in front of the concept's.

    A free word is an embedding e; encoders read weights over the vocabulary, so e is written as the shortest weights w with w table = e,
    of which the tokens that begin, end and pad have none.

    Arguments:
        texts: The prompts, P of them.
        ids: Their tokens, (P, L).
        roomy: The same with `places` free, what follows moved on and cut, (P, L).
        places: Where the free words are, (P, k).
        table: Every word's embedding in all encoders side by side, (V, D) in float32.
        inverse: Its pseudo-inverse, (D, V).
    """

    texts: list[str]
    ids: Tensor
    roomy: Tensor
    places: Tensor
    table: Tensor
    inverse: Tensor

    @staticmethod
    def of(model: Model, prompts: list[tuple[str, str]], count: int) -> Words:
        texts = [text for text, _ in prompts]
        ids = model.tokens(texts).cpu()
        tables = [model.tensor(name).float().cpu() for name in model.tables()]
        height = min(map(len, tables))
        table = torch.cat([part[:height] for part in tables], 1)
        model.embed(torch.zeros(1, ids.shape[1], height))  # refused where encoders do not share their words
        starts = [columns(model, text, word)[0] for text, word in prompts]
        length = ids.shape[1]
        rows = zip(ids, starts, strict=True)
        roomy = torch.stack([torch.cat([row[:at], row[at : at + 1].expand(count), row[at:]])[:length] for row, at in rows])
        known = table.clone()
        empty = model.tokens([""]).cpu().unique()
        known[empty] = 0
        places = torch.tensor(starts)[:, None] + torch.arange(count)
        return Words(texts, ids, roomy, places, table, torch.linalg.pinv(known))

    def weights(self, free: Tensor, rows: Tensor) -> Tensor:
        """What encoders read, (B, L, V): prompts by `rows`, with free words (B, k, D)."""
        soft = torch.nn.functional.one_hot(self.roomy[rows], len(self.table)).to(free)
        at = torch.arange(len(rows))[:, None]
        return soft.index_put((at, self.places[rows]), free @ self.inverse.to(free))

    def begin(self, count: int, words: int, rng: Generator) -> Tensor:
        """Embeddings (count, words, D) that lie as the vocabulary's do."""
        noise = torch.randn(count, words, self.table.shape[1], generator=rng)
        return self.table.mean(0) + self.table.std(0) * noise


class _Attacks:
    """Free words that bring the concept back, and the last ones found."""

    def __init__(self, method: AdvUnlearn, room: Words, seed: int) -> None:
        self.method, self.room = method, room
        self.last = room.begin(method.batch, method.words, generator(seed, "words"))

    def __call__(self, student: Model, own: Rollouts, picked: Tensor, rng: Generator) -> Tensor:
        """The attack at states `picked`: embeddings (B, k, D)."""
        if self.method.start == "random":
            self.last = self.room.begin(self.method.batch, self.method.words, rng)
        free, rows = self.last.clone().requires_grad_(), own.rows[picked].cpu()
        steps = torch.optim.Adam([free], lr=self.method.attack_lr)
        for _ in range(self.method.attack_steps):
            condition = student.embed(self.room.weights(free, rows))
            gap = student.denoise(own.x_t[picked], own.t[picked], condition).value - own.given[picked]
            (free.grad,) = torch.autograd.grad(gap.square().mean(), [free])
            steps.step()
        self.last = free.detach()
        return self.last


def _layers(model: Model) -> list[str]:
    """What is trained: every weight of the text encoders but the tables of words and positions."""
    tables = set(model.tables())
    return [name for name in model.scope(SCOPE) if name not in tables and "position_embedding" not in name]
