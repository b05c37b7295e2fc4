"""Continual unlearning: requests that arrive one after another, each forgotten by the model that the one before left behind.

After every step everything is measured again: what was forgotten so far and whether it returns, what is still to come, what
lies near a request and what lies near none. The folder is a ledger: the same command with a longer list continues it. The
requests are no part of its spec, only what it has done; neither are attacks, which measure and change nothing.

Modes. *sequential*: step n starts from the model after step n - 1. *independent*: every request from the original, for drift
and for merging. *simultaneous*: all requests together from the original in one step, by the methods whose target is a set of
prompts or pictures, on all requests' sets. Whatever else became of the original is measured alike by `compared`.

Guards hold back a step's training around any method that trains weights, without its knowledge: the view that it trains carries
them. An L2 pull, a choice of weights by saliency, and a projection that is part of the weight itself,

    L + pull mean_k (theta_k - phi_k)^2        mask_k = |theta_k dL/dtheta_k| among the largest share        W = W_0 + V P

with V trained and P = I - C (C'C + rho I)^-1 C' for the columns C of protected words' embeddings. What the optimiser makes of a
projected gradient is not in the projected space; what it makes of V is, whichever optimiser it is.
"""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vestige import arms, attention, models, registry, runs
from vestige.account import Account, State, attacked
from vestige.arms import Bench
from vestige.audit import describe
from vestige.base import Model, Paper, Unlearner, Watch, silent
from vestige.concepts import Concept, Prompt
from vestige.course import Course, Guards, Joint, Order, course
from vestige.edits import Edit, Wrapped
from vestige.errors import BadInput, Incompatible
from vestige.images import Data, PictureSet
from vestige.ledger import Ledger
from vestige.probes import look, names, probes
from vestige.sampling import derive

SCHEMA = "vestige-continual-1"
COMBINED = "combined.safetensors"
PASSES = 16  # batches whose gradients choose the weights that may move
KEYS = "cross-attention-kv"  # the scope that a projection holds; nothing else reads the text


def continual(
    order: Order, out: Path | str, *, cache: Path | None = None, steal: bool = False, watch: Watch = silent, command: str = ""
) -> dict[str, Any]:
    """Run a sequence in the folder `out`, resume or continue it; returns its result, which is also `out/result.json`.

    Arguments:
        cache: Folder of the content-addressed runs and pictures, shared between sequences; None keeps them in `out`.
        steal: Take over the lock of another process that is known to be gone.
        command: The command line that asked for it, for the report.
    """
    chosen = course(order)
    run = runs.claim(out, chosen.spec())
    asked = runs.key(chosen.asked())
    Ledger(run, order.mode).check(chosen.steps)
    if run.result is None or run.result.get("asked") != asked:
        with run.held(steal=steal):
            ledger = Ledger(run, order.mode)
            ledger.check(chosen.steps)
            sequence = _Sequence(chosen, _bench(chosen, cache or run.folder / "runs", watch, steal), ledger)
            run.finish({**sequence.result(command), "asked": asked})
    return run.outcome


def compared(
    order: Order,
    edit: Edit,
    out: Path | str,
    *,
    cache: Path | None = None,
    steal: bool = False,
    watch: Watch = silent,
    command: str = "",
) -> dict[str, Any]:
    """The result of a simultaneous order whose one step is an edit that is there already: a merge, or a twin's whole difference.

    Arguments:
        edit: A change of the original; it stands in for whatever `order.method` would have made.
        cache: As for `continual`, and so are the rest.
    """
    chosen = course(replace(order, mode="simultaneous", method="uce", guards=Guards(), settings={}))
    chosen = replace(chosen, order=replace(chosen.order, method=edit.method), unlearner=Given(settings=edit.settings))
    original = models.load(order.model)
    run = runs.claim(out, {**chosen.spec(), "edited": original.edited(edit).fingerprint})
    if run.result is None or run.result.get("asked") != runs.key(chosen.asked()):
        with run.held(steal=steal):
            ledger = Ledger(run, "simultaneous")
            if not ledger.steps:
                ledger.record(chosen.steps[0], edit.save(run.path("given.safetensors")), original, original.edited(edit))
            ledger.check(chosen.steps)
            sequence = _Sequence(chosen, _bench(chosen, cache or run.folder / "runs", watch, steal), ledger)
            run.finish({**sequence.result(command), "asked": runs.key(chosen.asked())})
    return run.outcome


def rebuilt(out: Path | str, steps: int | None = None) -> Edit:
    """The first `steps` steps of a sequential ledger as one edit of the original, bit for bit; None: all of them."""
    run = runs.Run(Path(out), {})
    try:
        spec = json.loads((run.folder / "spec.json").read_text("utf-8"))
        model, mode = spec["model"], spec["mode"]
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(f"{out} is no ledger ({error!r}); give the folder of a `vestige continual`") from error
    return Ledger(run, mode).edit(models.load(model), steps)


def _bench(chosen: Course, root: Path, watch: Watch, steal: bool) -> Bench:
    from vestige.metrics import detection

    world = models.data_folder() / (chosen.world or "wardrobe")
    watch("load judges", 0, 1)
    verify, select = detection.load(world / "judge-verify"), detection.load(world / "judge-select")
    return Bench(root, chosen.suite, verify, select, steal=steal, watch=watch)


class _Sequence:
    """One sequence's models and states; made, asked for its result, and thrown away."""

    def __init__(self, chosen: Course, bench: Bench, ledger: Ledger) -> None:
        self.course, self.bench, self.ledger, self.run = chosen, bench, ledger, ledger.run
        self.requests, self.began, self.seconds = chosen.requests, time.monotonic(), 0.0
        self.sequential = chosen.order.mode == "sequential"
        bench.watch("load model", 0, 1)
        self.original = models.load(chosen.order.model)
        self.probes = probes(self.requests)
        if not ledger.steps:
            ledger.write()
        self.memory = self._memory() if chosen.rehearses else None
        self.touched: set[str] = set()

    def _memory(self) -> PictureSet:
        """Pictures by the original, drawn once; they depend on the first request alone, so a longer list changes none."""
        first, order, watch = self.requests[0], self.course.order, self.bench.watch
        words = (*first.neighbours, *first.unrelated)
        if not words:
            raise BadInput(f"{first.name} names neither neighbours nor unrelated concepts; a memory needs some")
        prompts, cache = first.spread(order.memory, "training", words=words), self.bench.root / "pictures"
        seed = derive(order.seed, "memory")
        made = Data(cache=cache).drawn(self.original, prompts, seed=seed, watch=lambda _, i, n: watch("draw the memory", i, n))
        if self.ledger.memory not in (None, made.content):
            raise BadInput(f"the memory in {cache} is not the one that earlier steps rehearsed; restore the folder from a copy")
        self.ledger.memory = made.content
        self.ledger.write()
        return made

    def remembered(self, requests: Sequence[Concept]) -> PictureSet | None:
        """The memory without whatever names one of the requests, or shows one by the selection judge."""
        if self.memory is None:
            return None
        shown = [arms.shows(self.bench.select, self.memory.images, concept) for concept in requests]
        prompts = [Prompt(text, labels) for (text,), labels in zip(self.memory.captions, self.memory.labels, strict=True)]
        kept = [i for i, prompt in enumerate(prompts) if not names(prompt, requests) and not any(hits[i] for hits in shown)]
        if not kept:
            raise BadInput(f"no picture of the memory's {len(prompts)} is left without a request in it; raise --memory")
        return self.memory.take(kept)

    def forgotten(self, step: int, base: Model) -> tuple[Edit, Model, dict[str, Any]]:
        """A step's edit and the model after it, from the ledger or made now, and what it rehearsed."""
        concept, order, memory = self.course.steps[step - 1], self.course.order, self.remembered(self.course.so_far(step))
        told = {"memory": None if memory is None else len(memory)}
        if step <= len(self.ledger.steps):
            return *self.ledger.taken(step, base), told
        needed = memory is not None or (order.guards.pull > 0 and order.guards.pull_towards == "original")
        before = self.original if needed and base is not self.original else None
        data = Data(retain=memory, cache=self.bench.root / "pictures", original=before)
        method = self.method(concept, step)
        made = arms.unlearned(self.bench.root, base, concept, order.method, method, order.seed, data=data, watch=self.bench.watch)
        self.run.event("unlearned", step=step, request=concept.name)
        file = made.path("edit.safetensors")
        edit = Edit.load(file)
        after = base.edited(edit)
        self.ledger.record(concept, file, base, after)
        self.seconds += float(made.outcome["seconds"])
        self.run.event("recorded", step=step, request=concept.name)
        return edit, after, told

    def method(self, concept: Concept, step: int) -> Any:
        """The order's method, within its guards; of UCE, whose solution is not trained, one that solves for all targets at once."""
        method, guards = self.course.unlearner, self.course.order.guards
        if isinstance(concept, Joint) and self.course.order.method == "uce":
            return together(method.resolved(concept), concept)
        if not guards.active:
            return method
        words = protected(concept, self.course.so_far(step)[:-1]) if guards.project else ()
        return Guarded(method=self.course.order.method, settings=registry.settings(method), guards=asdict(guards), protected=words)

    def seen(self, step: int, model: Model, known: dict[str, Any]) -> State:
        """Everything that is measured of one model."""
        every = (*self.probes.requests, *self.probes.around)
        found = []
        for probe in every:
            found.append(look(self.bench, model, probe))
            self.bench.watch(f"look at step {step}", len(found), len(every))
        looks = {c.name: run for c, run in zip(self.requests, found, strict=False)}
        so_far, held = self.course.so_far(step), (self.course, self.bench, self.original, model)
        returns = {name: {c.name: attacked(*held, c, name) for c in so_far} for name in self.course.attacks}
        return State(step, looks, found[len(looks) :], {**known, "fingerprint": model.fingerprint[:16], "attacks": returns})

    def drift(self, edit: Edit, base: Model, model: Model) -> dict[str, Any]:
        """Relative distance of the weights touched so far to the original's, and of this step's to the previous model's."""
        self.touched = {*edit.touched, *(self.touched if self.sequential else ())}
        whole = Edit(self.original.fingerprint, "drift", tensors={name: model.tensor(name) for name in self.touched})
        made = describe(base, edit)
        return {"drift": {"original": describe(self.original, whole)["relative_norm"], "previous": made["relative_norm"]}, "edit": made}

    def result(self, command: str) -> dict[str, Any]:
        """Take and measure every step that is missing, and put the result together."""
        model, states = self.original, [self.seen(0, self.original, {"drift": {"original": 0.0, "previous": 0.0}, "edit": None})]
        for step in range(1, len(self.course.steps) + 1):
            base = model if self.sequential else self.original
            edit, model, told = self.forgotten(step, base)
            states.append(self.seen(step, model, {**told, **self.drift(edit, base, model)}))
            self.run.event("measured", step=step)
        combined = None
        if self.course.order.mode != "independent":
            combined = str(self.ledger.edit(self.original).save(self.run.path(COMBINED)))
        account = Account(self.course, self.bench, self.run, self.original.image_size)
        steps = [account.described(state, states) for state in states]
        return {"schema": SCHEMA, **account.heading(), "steps": steps, "combined": combined, **self.provenance(model, command)}

    def provenance(self, model: Model, command: str) -> dict[str, Any]:
        versions = {name: metadata.version(name) for name in ("vestige", "torch", "diffusers", "transformers")}
        hashes = {"model_hash": self.original.fingerprint[:16], "edited_hash": model.fingerprint[:16]}
        finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
        told = {**versions, "python": platform.python_version(), **hashes, "finished": finished, "command": command}
        cost = {"seconds": round(time.monotonic() - self.began, 1), "stages": {"unlearn": round(self.seconds, 1)}}
        return {"cost": cost, "provenance": told, "run": str(self.run.folder), "report": str(self.run.folder / "report.html")}


@final
@dataclass(frozen=True, kw_only=True)
class Given(Unlearner):
    """Stands for whatever made an edit that is there already; it makes none."""

    paper = Paper("", "", 0)
    needs = frozenset()

    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        raise Incompatible("this edit was given; nothing makes it again")


def together(method: Any, concept: Joint) -> Any:
    """UCE for several targets: one solve over all parts' rows, every preserved word once, by the part that names it first.

    min_W  sum over parts of sum_e erase |W c_e - v_e|^2  +  preserve sum_p |W c_p - W_0 c_p|^2  +  ridge |W - W_0|_F^2
    """
    parts, kept = [], set[str]()
    for part in concept.parts:
        words = tuple(w for w in (*part.neighbours, *part.unrelated) if w not in kept)
        kept.update(words)
        parts.append(replace(part, neighbours=words, unrelated=()))

    def embeddings(model: Model, concept: Concept) -> tuple[Tensor, ...]:
        return tuple(torch.cat(rows) for rows in zip(*(method._embeddings(model, part) for part in parts), strict=True))

    made = copy.copy(method)
    object.__setattr__(made, "_embeddings", embeddings)  # where the concept enters; the solve itself stays the method's
    return made


def protected(concept: Concept, earlier: Sequence[Concept]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Words whose keys and values a step leaves alone, each with its prompts: what must stay, and what is redirected already."""
    near = {w: concept.prompts("training", w) for w in (*concept.neighbours, *concept.unrelated)}
    gone = {c.target: c.prompts("training") for c in earlier}
    return tuple((word, tuple(p.text for p in prompts)) for word, prompts in {**near, **gone}.items())


class _Enough(Exception):
    """Enough gradients were seen."""


@final
@dataclass(frozen=True, kw_only=True)
class Guarded(Unlearner):
    """A method that trains weights, held back by guards. Fields are plain data, so that a run's spec holds them.

    The pull is added to gradients and the mask multiplies them, before any clipping. Weights are chosen in a run of the method that is
    broken off after `PASSES` batches: its own loss at the weights that enter the step, with none of them moved (but for weight decay).
    The projection is of the trained weight, not of the gradient; it holds keys and values alone, and with rho above 0 leaks by
    rho / (s^2 + rho) along a singular direction s of C. C has one column a word: the mean of its tokens' embeddings over its
    prompts. What else of a prompt carries the word, in a causal encoder whatever follows it, is not protected.

    From the public code: the three guards, importance |theta dL/dtheta|, rho. Differs from the released code: it projects the gradient
    before AdamW, after which the update is not in the space; it sums the importance over sampled states; its auxiliary words
    are a language model's.

    Arguments:
        method: Name of the method.
        settings: Its settings.
        guards: Fields of `Guards`.
        protected: (word, its prompts) for every word that a projection protects.
    """

    paper = Paper("A Regularization Perspective (CUIG)", "", 2025, arxiv="2511.07970", code="justinhylee135/CUIG")

    method: str
    settings: Mapping[str, Any]
    guards: Mapping[str, Any]
    protected: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def inner(self) -> Any:
        """The method itself."""
        return registry.build("unlearners", self.method, self.settings)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset(self.inner.needs)

    def resolved(self, concept: Concept) -> Guarded:
        return replace(self, settings=registry.settings(self.inner.resolved(concept)))

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        guards = Guards(**self.guards)
        data = data or Data()
        hold = Hold(model, guards, data.original if guards.pull_towards == "original" and data.original else model)
        if guards.project:
            hold.projection = projection(columns(model, self.protected))
        if guards.share < 1:
            hold.seen = {}
            with suppress(_Enough):
                self.inner(hold.model(), concept, seed=seed, data=data)
            hold.choose()
        edit: Edit = self.inner(hold.model(), concept, seed=seed, data=data, watch=watch)
        if edit.factors or edit.hooks:
            raise Incompatible(f"{self.method} does not train weights in place; pull, share and project cannot hold it")
        tensors = {name: hold.finished(name, value) for name, value in edit.tensors.items()}
        notes = {**edit.notes, "guards": dict(self.guards), "protected": [word for word, _ in self.protected]}
        return replace(edit, base=model.fingerprint, tensors=tensors, notes=notes)


@final
class Hold:
    """A model whose trained views are held; see `Guarded`.

    Arguments:
        start: The model that enters the step.
        goal: Whose weights the pull goes towards.
    """

    def __init__(self, start: Model, guards: Guards, goal: Model) -> None:
        self.start, self.guards, self.goal = start, guards, goal
        self.projection: Tensor | None = None
        self.mask: dict[str, Tensor] | None = None
        self.seen: dict[str, tuple[Tensor, int]] | None = None  # name -> sum of gradients, batches; while they are measured

    def model(self) -> Model:
        """The starting model, whose views are instrumented when something is made trainable."""
        return Wrapped(self.start, self._instrumented, identity="guarded")

    def _instrumented(self, view: Model) -> Model:
        trained = {
            f"{part}.{n}": p for part, m in attention.innermost(view).parts.items() for n, p in m.named_parameters() if p.requires_grad
        }
        count = sum(p.numel() for p in trained.values())
        for name, leaf in trained.items():
            try:
                first, goal = self.start.tensor(name), self.goal.tensor(name)
            except Incompatible:
                raise Incompatible(f"pull, share and project hold weights that are trained in place; {name} is an adapter's") from None
            leaf.register_post_accumulate_grad_hook(_Held(self, name, goal, count))
            if self.projected(name):
                module = attention.innermost(view).parts[name.partition(".")[0]].get_submodule(name.partition(".")[2].rpartition(".")[0])
                parametrize.register_parametrization(module, "weight", _Projected(first, self.projection))
        return view

    def projected(self, name: str) -> bool:
        """Whether a weight is under the projection."""
        return self.projection is not None and name in self.start.scope(KEYS)

    def choose(self) -> None:
        """Let the share of the measured weights move that matters most to the loss, counted over all of them together."""
        found = {name: (self.start.tensor(name) * total).abs() for name, (total, _) in (self.seen or {}).items()}
        if not found:
            raise Incompatible("the method trained nothing, so no weights can be chosen by their gradients")
        flat = torch.cat([value.flatten() for value in found.values()])
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen[flat.topk(max(1, round(self.guards.share * len(flat)))).indices] = True
        pieces = chosen.split([value.numel() for value in found.values()])
        self.mask = {name: piece.reshape(value.shape) for (name, value), piece in zip(found.items(), pieces, strict=True)}
        self.seen = None

    def finished(self, name: str, value: Tensor) -> Tensor:
        """A trained leaf as the weight that the model had."""
        first = self.start.tensor(name)
        if self.mask is not None:
            return torch.where(self.mask[name], value, first) if name in self.mask else first.clone()
        return _Projected(first, self.projection).forward(value) if self.projected(name) else value


@dataclass(frozen=True)
class _Held:
    """What is done to a leaf's gradient as soon as it is there."""

    hold: Hold
    name: str
    goal: Tensor
    count: int

    @torch.no_grad()
    def __call__(self, leaf: Tensor) -> None:
        hold, slope = self.hold, leaf.grad
        if slope is None:
            return
        if hold.seen is not None:
            total, batches = hold.seen.get(self.name, (torch.zeros_like(leaf), 0))
            if batches == PASSES:
                raise _Enough
            hold.seen[self.name] = (total + slope, batches + 1)
            slope.zero_()
            return
        if hold.guards.pull:
            slope += 2 * hold.guards.pull / self.count * (leaf - self.goal)
        if hold.mask is not None:
            slope *= hold.mask.get(self.name, 0)


class _Projected(nn.Module):
    """W = W_0 + (V - W_0) P."""

    def __init__(self, first: Tensor, projection: Tensor | None) -> None:
        super().__init__()
        self.first, self.projection = first, projection

    def forward(self, value: Tensor) -> Tensor:
        if self.projection is None:
            return value
        return self.first + (value - self.first) @ self.projection.to(value)


def projection(held: Tensor) -> Tensor:
    """P = I - C (C'C + rho I)^-1 C' for the columns C of `held`, (D, n) -> (D, D), float64; rho = max(1e-4, 1e-6 tr(C'C) / n)."""
    columns_ = held.double()
    gram = columns_.T @ columns_
    rho = max(1e-4, 1e-6 * float(gram.trace()) / max(1, len(gram)))
    ridge = rho * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    made: Tensor = torch.eye(len(columns_), dtype=gram.dtype, device=gram.device) - columns_ @ torch.linalg.solve(gram + ridge, columns_.T)
    return made


@torch.no_grad()
def columns(model: Model, words: Sequence[tuple[str, Sequence[str]]]) -> Tensor:
    """The mean embedding of each word's tokens over its prompts, one column a word, (D, n)."""
    if not words:
        raise BadInput("a projection protects words, and the request names neither neighbours nor unrelated concepts")
    made = []
    for word, texts in words:
        rows = model.condition(texts).text
        made.append(torch.cat([row[attention.columns(model, text, word)] for row, text in zip(rows, texts, strict=True)]).mean(0))
    return torch.stack(made, 1)
