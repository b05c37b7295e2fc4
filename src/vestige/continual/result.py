"""The account of a sequence: what was seen after every step becomes rates, drops, distances and strips of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch

from vestige import registry, runs
from vestige.concepts import Concept
from vestige.concepts.album import Album
from vestige.continual import retention
from vestige.continual.ledger import CHAINED, slug
from vestige.continual.plan import SequencePlan
from vestige.continual.probes import apart, distances, each, names, probes, stored, stored_features
from vestige.diffusion import Model
from vestige.diffusion.sampling import chunks
from vestige.errors import Diverged
from vestige.harness import arms
from vestige.harness.attacker import AttackerData
from vestige.harness.bench import Bench
from vestige.metrics.loading import same
from vestige.verdict import intervals


@dataclass(frozen=True)
class State:
    """What was seen of the model after a step; step 0 is the original.

    Arguments:
        looks: Finished probes of the requests, by name.
        indirect: Finished probes of prompts that do not name them, by name, of those that give any.
        around: Finished probes of the words around them.
        known: What stands in the result as it is.
        asked: The requests that the model was to forget, but those whose step was rolled back.
    """

    step: int
    looks: Mapping[str, runs.Run]
    indirect: Mapping[str, runs.Run]
    around: list[runs.Run]
    known: dict[str, Any]
    asked: tuple[Concept, ...] = ()

    def right(self, name: str) -> list[bool | None]:
        """One right-or-wrong a picture of a request; None: it could not be judged."""
        return list(self.looks[name].outcome["right"])

    def words(self, chosen: Sequence[str], kept: Mapping[str, Sequence[int]]) -> dict[str, list[bool | None]]:
        """The same for words that must stay, their kept pictures only."""
        seen = {word: hits for run in self.around for word, hits in run.outcome.items()}
        return {word: [seen[word][i] for i in kept[word]] for word in chosen}


@final
class Account:
    """What is said of a sequence's states.

    Arguments:
        run: Where strips of pictures are copied to.
        size: Height and width of the model's pictures.
    """

    def __init__(self, chosen: SequencePlan, bench: Bench, run: runs.Run, size: tuple[int, int]) -> None:
        self.plan, self.bench, self.run, self.size = chosen, bench, run, size
        self.requests, self.probes = chosen.requests, probes(chosen.requests)
        # Words that must stay are judged on prompts that name no request: a boot in neon is no damage where neon was to go.
        self.kept: dict[str, list[int]] = {}
        for probe in self.probes.around:
            prompts, count = probe.prompts(chosen.suite), each(chosen.suite)
            for word, part in zip(probe.words or (), chunks(len(prompts), count), strict=True):
                self.kept[word] = [i for i, prompt in enumerate(prompts[part]) if not names(prompt, self.requests)]

    def heading(self) -> dict[str, Any]:
        """What holds for every step."""
        order, suite = self.plan.order, self.plan.suite
        return {
            "suite": suite.version,
            **suite.told,
            "model": order.model,
            "method": {"name": order.method, "settings": registry.settings(self.plan.unlearner)},
            "mode": order.mode,
            "guards": order.guards.as_dict() if order.guards.active else None,
            "seed": order.seed,
            "memory": order.memory if self.plan.rehearses else None,
            "keep_images": order.keep_images,
            "requests": [self.request(c) for c in self.requests],
            "neighbours": list(self.probes.neighbours),
            "unrelated": list(self.probes.unrelated),
            "attacks": self.plan.asked()["attacks"],
            "detector": self.detector(),
            "protocol": {
                **asdict(suite.protocol),
                "pictures": suite.pictures,
                "pictures_a_word": each(suite),
                "replicates": order.replicates,
            },
        }

    def request(self, concept: Concept) -> dict[str, Any]:
        """A request, and who looks for it where its file says so."""
        bench, told = self.bench.of(concept), {key: getattr(concept, key) for key in ("name", "kind", "target", "sensitive")}
        if not concept.detector:
            return {**told, "looks": None}
        roles = {"verification": bench.verify.identity(concept.label), "selection": bench.select.identity(concept.label)}
        return {**told, "looks": {**roles, "one_judge": same(bench.verify, bench.select, self.size)}}

    def detector(self) -> dict[str, Any]:
        """The judges of requests that name none, null where all name some; and whose features distances are measured in."""
        plain, extractor = next((c for c in self.requests if not c.detector), None), self.bench.extractor
        features = None if extractor is None else {"name": extractor.name, "weights_hash": extractor.weights_hash}
        if plain is None:
            return {"verification": None, "selection": None, "features": features}
        bench = self.bench.of(plain)
        roles = {"verification": bench.verify, "selection": bench.select}
        return {**{role: {"name": j.name, "version": j.version} for role, j in roles.items()}, "features": features}

    def described(self, state: State, states: Sequence[State]) -> dict[str, Any]:
        """One step of the result."""
        step, asked = state.step, state.asked
        right = {c.name: state.right(c.name) for c in self.requests}
        forgotten = {c.name: right[c.name] for c in asked}
        earlier = asked[:-1] if self.plan.order.mode in CHAINED else ()
        then = {c.name: states[1 + self.requests.index(c)].right(c.name) for c in earlier}
        return {
            "step": step,
            "request": self.plan.asked_in(step) if step else None,
            "rates": {name: retention.rate_of(hits) for name, hits in right.items()},
            "to_come": [c.name for c in self.requests if c not in asked and c not in self.plan.so_far(step)],
            "unlearning_accuracy": retention.unlearning_accuracy(forgotten),
            "unlearning_accuracies": {name: retention.unlearning_accuracy({name: hits}) for name, hits in forgotten.items()},
            "reversal": retention.reversal(then, {name: right[name] for name in then}),
            "leakage": self.leakage(state, states[0], [c.name for c in asked]),
            "ripple": self.kept_of(state, states[0], self.probes.near(asked)),
            "erosion": self.kept_of(state, states[0], self.probes.unrelated) | self.distance(state, states[0]),
            "strips": self.strips(state),
            **state.known,
        }

    def leakage(self, state: State, first: State, chosen: Sequence[str]) -> dict[str, Any] | None:
        """How often prompts that do not name a request show it, and how much less often than of the original; None without any."""
        seen = {name: (first.indirect[name].outcome["right"], run.outcome["right"]) for name, run in state.indirect.items()}
        if not seen:
            return None
        before, now = ({name: seen[name][i] for name in chosen if name in seen} for i in (0, 1))
        pooled = retention.rate_of([hit for hits in now.values() for hit in hits])
        return {
            "drop": intervals.drop(before, now),
            "rate": pooled,
            "rates": {name: retention.rate_of(hits) for name, (_, hits) in seen.items()},
        }

    def kept_of(self, state: State, first: State, chosen: Sequence[str]) -> dict[str, Any]:
        """Accuracy on words that must stay, and how far it fell from the original's."""
        now, before = state.words(chosen, self.kept), first.words(chosen, self.kept)
        pooled = retention.rate_of([hit for hits in now.values() for hit in hits])
        return {"drop": intervals.drop(before, now), "accuracy": pooled, "words": {w: retention.rate_of(hits) for w, hits in now.items()}}

    def around(self, word: str) -> int:
        """Which probe drew a word that must stay."""
        return next(i for i, probe in enumerate(self.probes.around) if word in (probe.words or ()))

    def pictures(self, state: State, word: str) -> torch.Tensor:
        """The kept pictures of a word that must stay."""
        at = self.around(word)
        return stored(self.bench, state.around[at], self.probes.around[at].concept, word, self.size)[self.kept[word]]

    def distance(self, state: State, first: State) -> dict[str, Any]:
        """How far the pictures of unrelated words lie from the original's own at equal seeds."""
        chosen = [word for word in self.probes.unrelated if self.kept[word]]
        if not chosen:
            return {"pictures": 0, "kid": None, "fid": None}
        if self.bench.keep == "all":
            real, made = (torch.cat([self.pictures(s, word) for word in chosen]) for s in (first, state))
            return distances(self.bench, real, made)
        if self.bench.extractor is None:
            return {"pictures": sum(len(self.kept[word]) for word in chosen), "kid": None, "fid": None}
        rows = ([stored_features(s.around[self.around(word)], word)[self.kept[word]] for word in chosen] for s in (first, state))
        return apart(*(torch.cat(row) for row in rows))

    def strips(self, state: State) -> dict[str, Any]:
        """Pictures at equal seeds, copied into this run: of every request, and one of each unrelated word."""
        made: dict[str, str] = {}
        if self.bench.keep == "none":
            return {"requests": made, "unrelated": None}
        for name, run in state.looks.items():
            made[name] = f"strips/{state.step:02d}-{slug(name)}.png"
            self.run.write_bytes(made[name], (run.folder / "strip.png").read_bytes())
        unrelated, shown = None, [word for word in self.probes.unrelated if self.kept[word]][: self.plan.suite.strip]
        if shown:
            unrelated, album = f"strips/{state.step:02d}.png", Album(any(c.sensitive for c in self.requests))
            album.strip(torch.stack([self.pictures(state, word)[0] for word in shown]), self.run.folder, unrelated)
        return {"requests": made, "unrelated": unrelated}


def attackers(chosen: SequencePlan, original: Model, concept: Concept) -> AttackerData:
    """What an attacker of one request holds."""
    references = chosen.order.references
    return AttackerData(
        original=original,
        world=chosen.world,
        protocol=chosen.suite.protocol,
        references=references if references in ("known", "generated") else str(Path(references) / concept.name),
        retain=chosen.order.attack_retain,
        away=tuple(chosen.requests),
    )


def attempted(chosen: SequencePlan, bench: Bench, original: Model, model: Model, concept: Concept, name: str) -> dict[str, Any]:
    """As `recovered`; an attack whose numbers stop being finite has a curve of nothing, and says under "failed" who it was."""
    try:
        return recovered(chosen, bench, original, model, concept, name)
    except Diverged as error:
        budgets = list(chosen.attacks[name][1].budget.points)
        return {"budgets": budgets, "curve": [None] * len(budgets), "failed": str(error)}


def recovered(chosen: SequencePlan, bench: Bench, original: Model, model: Model, concept: Concept, name: str) -> dict[str, Any]:
    """What an attack brings back of one request by the way that works better: its curve with best-so-far, over all replicates.

    The attacker's pictures of the concept are those that its file names, else the world's test pictures where the world's judges look
    for it, else the original's; no request is among pictures of everything else.
    """
    attack, planned = chosen.attacks[name]
    attacker = attackers(chosen, original, concept)
    ways: dict[str, list[runs.Run]] = {}
    for way, method in attack.ways().items():
        for k in range(chosen.order.first_replicate, chosen.order.first_replicate + chosen.order.replicates):
            given = attacker.of(concept, method, planned.references, k)
            ways.setdefault(way, []).append(arms.run_arm(bench.of(concept), model, concept, (name, method), planned.budget, k, given))
    found = []
    for run in ways[arms.favoured(ways)]:
        points = run.outcome["points"]
        found.append([points[i]["hits"] for i in arms.curve(points, best_so_far=True)[1]])
    rates = [retention.rate_of([hit for row in found for hit in row[i]]) for i in range(len(planned.budget.points))]
    return {"budgets": list(planned.budget.points), "curve": rates}
