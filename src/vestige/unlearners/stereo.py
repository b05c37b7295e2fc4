"""STEREO: words that bring the concept back are searched on a network that forgets each as it is found; all are then erased at once.

    search   for k = 0 .. N - 1, from theta_0 the original's weights and w_0 the concept's own word:
             theta_k+1 = argmin over theta |eps_theta(x_t, w_k) - eps_k(x_t, null)|^2
             w_k+1     = argmin over w E |eps - eps_k+1(x_t, w)|^2                       x_t a noised picture of the concept
    loss     mean |eps_theta(x_t, w_i) - goal|^2,                                        once, from the original
    goal     eps_0(x_t, null) + (scale - 1) (eps_0(x_t, a) - eps_0(x_t, null)) - (scale + 1) mean_j (eps_0(x_t, w_j) - eps_0(x_t, null))

i is one of 0 .. N, a prompt a shows the concept in some context, whose share stays. Where no picture is noised, x_t is a state on the
trained network's own guided path for the word. The found words are thrown away: the edit is weights of the denoiser, under the stock
text encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from typing import Any, ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent, within
from vestige.diffusion.sampling import predictions
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import denoising
from vestige.methods.ranges import above, at_least
from vestige.methods.rollouts import stopped
from vestige.methods.training import Trace
from vestige.methods.training_data import Pairs
from vestige.methods.wording import rows_alone, rows_of, words
from vestige.seeds import derive

Goal = Callable[[Tensor, Tensor, list[int], Generator], Tensor]  # states, times and their prompts -> what is to be predicted there
SCOPE = {"x": "cross-attention", "u": "non-cross-attention"}
BEGIN = {"object": "object", "style": "art", "person": "person", "unsafe": "person"}


@final
@dataclass(frozen=True, kw_only=True)
class STEREO(Unlearner):
    """Search thoroughly enough, robustly erase once (Srivatsan et al., 2025).

    Differs from the released code: (1) a found word stands in the concept's own prompts, and a target of several tokens is searched as
    that many vectors, where the code has one new token, alone in the prompts of erasing and in templates of its own in those of searching;
    (2) a is the concept's training prompts in their contexts, the code has some 200 sentences of a language model for each of its own
    concepts and none for others; (3) prompts, words and a are drawn at random, there dealt out evenly; (4) a state's time is the path's
    own grid time, where the code scores a state at the next noisier step of a grid of 1000; (5) a search has no weight decay (there
    AdamW's 0.01, taken back for all other words), times as the model was trained on and means of the autoencoder's posterior; (6) its
    rounds share the pictures out in turn, there in slices; (7) all found words are erased, of which the code takes the first
    `num_of_adv_concepts`, by default all; (8) the helper of adaptive guidance by which it computes both goals is, as it is called, the
    identity, and left out; (9) a path of 50 steps stops after 1 to 49 of them, there after 1 to 48.

    Arguments:
        variant: "x" trains cross-attention, "u" every linear and convolution outside it; "auto" is x for styles, u otherwise.
        scale: Of the composed guidance, >= 1; the code's `compositional_guidance_scale`, by which a weighs 1 and the words 3.
        rounds: N, words that are searched; "auto": 2 for unsafe concepts, else 4. 0 erases the concept's own word alone.
        begin: Word at whose embedding a search begins, the mean of its tokens; "auto": person, art or object, by kind of concept.
        round_lr: AdamW's rate in erasing a word before the next search.
        search_steps: Steps of a search.
        search_lr: Its Adam's rate.
        search_batch: Pictures a step of it.
        target_pictures: Pictures of the concept, for all rounds together, each mirrored too.
        rollout_steps: Sampling steps of a whole path; it stops at a random one, neither the first nor the last.
        rollout_guidance: Guidance on the path.
        prompts: "plain" erases the concept's plain prompts, "all" also those with contexts.
        weight_decay: AdamW's, of the denoiser.
        steps: AdamW steps of the last erasing, and of that in each round.
        batch: States a step, all at one time.
    """

    paper: ClassVar[Paper] = Paper(
        "STEREO: A Two-Stage Framework for Adversarially Robust Concept Erasing from Text-to-Image Diffusion Models",
        "Srivatsan et al.",
        2025,
        arxiv="2408.16807",
        code="koushiksrivats/robust-concept-erasing",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "target"})

    variant: Literal["auto", "x", "u"] = "auto"
    scale: float = 2.0
    rounds: int | Literal["auto"] = "auto"
    begin: str = "auto"
    round_lr: float = 5e-6
    search_steps: int = 3000
    search_lr: float = 5e-3
    search_batch: int = 1
    target_pictures: int = 500
    rollout_steps: int = 50
    rollout_guidance: float = 3.0
    prompts: Literal["plain", "all"] = "plain"
    weight_decay: float = 1e-2
    steps: int = 200
    lr: float = 2e-5
    batch: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "scale", "search_steps", "search_batch", "target_pictures", "steps", "batch")
        at_least(2, self, "rollout_steps")
        at_least(0, self, "weight_decay", *(() if self.rounds == "auto" else ("rounds",)))
        above(0, self, "lr", "round_lr", "search_lr")

    def resolved(self, concept: Concept) -> STEREO:
        """The same method with every "auto" replaced by the released setting for this kind of concept."""
        released: dict[str, Any] = {
            "variant": "x" if concept.kind == "style" else "u",
            "rounds": 2 if concept.kind == "unsafe" else 4,
            "begin": BEGIN[concept.kind],
        }
        return replace(self, **{name: value for name, value in released.items() if getattr(self, name) == "auto"})

    def calls(self, picture: int, retained: int) -> int:
        rounds = 4 if self.rounds == "auto" else self.rounds
        path = self.rollout_steps / 2 * predictions(self.rollout_guidance)  # they stop anywhere on the way
        erased = self.steps * self.batch * (rounds * (path + 1 + TRAINED) + path + 3 + rounds + TRAINED)
        searched = rounds * self.search_steps * self.search_batch * TRAINED
        return round(erased) + searched + self.target_pictures * picture * (rounds > 0)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        method = self.resolved(concept)
        found, searches = method._search(model, concept, data or Data(), seed, watch)
        contexts = [p.text for p in concept.prompts("training") if p.text not in concept.plain()]
        anchors = model.condition(list(dict.fromkeys(contexts or concept.plain())))
        goal = partial(composed, model, found, anchors, model.condition([""]), self.scale)
        tensors = method._erase(model, found, goal, self.lr, derive(seed, "once"), watch)
        notes = {"concept": concept.name, "seed": seed, "searches": [search.ends() for search in searches]}
        return Edit(model.fingerprint, "stereo", asdict(method), SCOPE[method.variant], tensors, notes=notes)

    def _search(self, model: Model, concept: Concept, data: Data, seed: int, watch: Watch) -> tuple[list[Condition], list[Trace]]:
        """The concept's prompts as they are encoded, a row a prompt, then the same prompts with each found word; how searches went."""
        texts = concept.plain() if self.prompts == "plain" else [p.text for p in concept.prompts("training")]
        texts, null, rounds = list(dict.fromkeys(texts)), model.condition([""]), int(self.rounds)
        found, searches, last = [model.condition(texts)], list[Trace](), model
        if rounds:
            words(model, concept)  # refused before anything is drawn
            given = data.targeted(model, concept, self.target_pictures, seed=seed, watch=watch)
        for k in range(rounds):
            goal, told = partial(unconditional, last, null), within(f"round {k + 1}", watch)
            tensors = self._erase(last, found[-1:], goal, self.round_lr, derive(seed, "round", k), told)
            last = model.edited(Edit(model.fingerprint, "stereo", asdict(self), SCOPE[self.variant], tensors))
            own = given.take(range(k, len(given), rounds) or [k % len(given)])
            searches.append(Trace())
            told = within(f"search {k + 1}", watch)
            found.append(self._word(last, concept, own, texts, derive(seed, "search", k), told, searches[-1]))
        return found, searches

    def _erase(self, model: Model, found: Sequence[Condition], goal: Goal, lr: float, seed: int, watch: Watch) -> dict[str, Tensor]:
        """Weights under which every one of some words predicts its goal.

        Arguments:
            found: A condition a word, a row a prompt, all of them in one order.
        """
        student, leaves = model.trainable(model.scope(SCOPE[self.variant]))
        null, table = model.condition([""]), reduce(Condition.join, found)

        def loss(rng: Generator) -> Tensor:
            rows = torch.randint(len(found[0]), (self.batch,), generator=rng)
            word = torch.randint(len(found), (self.batch,), generator=rng)
            given = table[(word * len(found[0]) + rows).tolist()]
            _, x_t, t = stopped(student, given, null, rng, steps=self.rollout_steps, guidance=self.rollout_guidance)
            with torch.no_grad():
                wanted = goal(x_t, t, rows.tolist(), rng)
            return (student.denoise(x_t, t, given).value - wanted).square().mean()

        training = Training(steps=self.steps, lr=lr, weight_decay=self.weight_decay, clip=0.0)
        for _ in fit(leaves, loss, training, seed=seed, watch=watch):
            pass
        return {name: leaf.detach().clone() for name, leaf in leaves.items()}

    def _word(
        self, model: Model, concept: Concept, given: PictureSet, texts: Sequence[str], seed: int, watch: Watch, trace: Trace
    ) -> Condition:
        """The prompts with a word in the concept's place under which `model` denoises its pictures best."""
        pairs, own = mirrored(model, concept, given), words(model, concept)
        student, leaves = model.trainable(list(own))
        with torch.no_grad():
            for name, rows in rows_of(model, self.begin).items():
                leaves[name][own[name]] = leaves[name][rows].mean(0)

        def loss(rng: Generator) -> Tensor:
            latents, ids = pairs.draw(self.search_batch, rng)
            return denoising(student, latents, student.embed(ids.text), rng)

        training = Training(steps=self.search_steps, lr=self.search_lr, clip=0.0)
        for _ in fit(leaves, loss, training, seed=seed, projections=[rows_alone(own)], watch=watch, trace=trace):
            pass
        return student.condition(texts)


def unconditional(model: Model, null: Condition, x_t: Tensor, t: Tensor, rows: list[int], rng: Generator) -> Tensor:
    """The goal of a round: what the network before it predicts of the empty prompt."""
    return model.denoise(x_t, t, null.repeat(len(x_t))).value


def composed(
    model: Model,
    found: Sequence[Condition],
    anchors: Condition,
    null: Condition,
    scale: float,
    x_t: Tensor,
    t: Tensor,
    rows: list[int],
    rng: Generator,
) -> Tensor:
    """The goal of the last erasing, like x_t (B, C, h, w).

    Arguments:
        found: A condition a word, a row a prompt.
        anchors: Prompts of which each state is given one at random.
        rows: Each state's prompt.
    """
    chosen = anchors[torch.randint(len(anchors), (len(rows),), generator=rng).tolist()]
    told = reduce(Condition.join, (word[rows] for word in found), null.repeat(len(rows)).join(chosen))
    parts = len(found) + 2
    free, towards, *away = model.denoise(x_t.repeat(parts, 1, 1, 1), t.repeat(parts), told).value.chunk(parts)
    return free + (scale - 1) * (towards - free) - (scale + 1) * (torch.stack(away).mean(0) - free)


def mirrored(model: Model, concept: Concept, given: PictureSet) -> Pairs:
    """Latents of pictures and of their mirror images, with the token ids of those captions that name the concept, else of its prompt."""
    named = [tuple(text for text in row if concept.target.lower() in text.lower()) or (concept.prompt,) for row in given.captions]
    texts = list(dict.fromkeys(text for row in named for text in row))
    images = torch.cat([given.images, given.images.flip(-1)])
    with torch.no_grad():
        latents = torch.cat([model.encode(part) for part in images.split(64)])
    rows = tuple(tuple(map(texts.index, row)) for row in named)
    return Pairs(latents, Condition(model.tokens(texts).to(latents.device)), rows + rows)
