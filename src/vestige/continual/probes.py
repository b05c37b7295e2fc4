"""Probes: what is looked at after every step of a sequence, each a content-addressed run of one concept on one model.

Prompts are the held-out ones, seeds derive from the concept alone: every state of the sequence draws the same pictures, and
a longer list of requests adds probes without changing any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from vestige import runs
from vestige.concepts import Concept, images
from vestige.concepts.concept import Bank, Prompt
from vestige.concepts.published import AskedAs
from vestige.continual.ledger import slug
from vestige.diffusion import Model
from vestige.diffusion.sampling import chunks, pictures
from vestige.harness.bench import NUMERICS, Bench, answered, shows
from vestige.harness.suites import Suite
from vestige.metrics import fidelity
from vestige.metrics.losses import paired_kid
from vestige.seeds import derive


@dataclass(frozen=True)
class Probe:
    """A request, what may show it unasked, or the words around one that no earlier request names.

    Arguments:
        concept: The request; its prompts ask.
        words: What is asked for; None: the request itself.
        bank: Which of its prompts ask for the request: "held-out" name it, "indirect" do not.
    """

    concept: Concept
    words: tuple[str, ...] | None = None
    bank: Bank = "held-out"

    def prompts(self, suite: Suite) -> list[Prompt]:
        """Prompts, one a picture; words follow each other, each with as many, however many there are."""
        if self.words is None:
            return self.concept.spread(suite.pictures if self.bank == "held-out" else 2 * each(suite), self.bank)
        made: list[Prompt] = []
        for word in self.words:  # each begins elsewhere in the bank, so that together they see more templates and contexts
            made += self.concept.spread(each(suite), "held-out", words=(word,), offset=derive(0, "offset", word) % 1000)
        return made

    def seeds(self, suite: Suite) -> list[int]:
        """Seeds of its own, one a picture, where a published protocol fixes them; else none, and they derive from the prompts."""
        if not isinstance(self.concept, AskedAs):
            return []
        if self.words is None:
            return self.concept.seeds(self.concept.target, suite.pictures)
        return [seed for word in self.words for seed in self.concept.seeds(word, each(suite))]


def each(suite: Suite) -> int:
    """Pictures of a word that must stay."""
    return max(2, min(48, suite.utility_pictures) // 4)


@dataclass(frozen=True)
class Probes:
    """Every probe of a list of requests, and which words lie near a request and which near none; no request is among them.

    Arguments:
        indirect: Of those requests whose file gives prompts that may show it without its name.
    """

    requests: tuple[Probe, ...]
    indirect: tuple[Probe, ...]
    around: tuple[Probe, ...]
    neighbours: tuple[str, ...]
    unrelated: tuple[str, ...]

    @property
    def all(self) -> tuple[Probe, ...]:
        return (*self.requests, *self.indirect, *self.around)

    def near(self, requests: Sequence[Concept]) -> list[str]:
        """The neighbours of some of the requests."""
        words = {word for concept in requests for word in concept.neighbours}
        return [word for word in self.neighbours if word in words]


def probes(requests: Sequence[Concept]) -> Probes:
    """The probes of a list of requests. Those of a longer list begin with them, so that nothing is drawn twice.

    Words that a later request asks for are drawn too, and not counted.
    """
    around, seen = [], set()
    for concept in requests:
        seen.add(concept.target)
        words = tuple(dict.fromkeys(w for w in (*concept.neighbours, *concept.unrelated) if w not in seen))
        seen.update(words)
        if words:
            around.append(Probe(concept, words))
    asked, near = {c.target for c in requests}, {w for c in requests for w in c.neighbours}
    words = tuple(dict.fromkeys(w for probe in around for w in probe.words or () if w not in asked))
    neighbours, unrelated = (tuple(w for w in words if (w in near) is wanted) for wanted in (True, False))
    indirect = tuple(Probe(c, bank="indirect") for c in requests if c.indirect)
    return Probes(tuple(Probe(c) for c in requests), indirect, tuple(around), neighbours, unrelated)


def names(prompt: Prompt, concepts: Sequence[Concept]) -> bool:
    """Whether a prompt names one of the concepts, in its words or in what it expects."""
    return any(c.named(prompt.text) or prompt.expects.get(c.group) == c.label for c in concepts)


def look(bench: Bench, model: Model, probe: Probe) -> runs.Run:
    """The finished run of a probe on a model: one right-or-wrong a picture, under "right" or each word; null where nobody can tell.

    A request counts as shown by its detector's threshold; anything else is right where it shows all that was asked for, by the
    judge of the request that it lies around.
    """
    prompts, suite, concept, bench = probe.prompts(bench.suite), bench.suite, probe.concept, bench.of(probe.concept)
    spec = {
        "what": "probe",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "shows": concept.label if probe.words is None else list(probe.words),
        "prompts": [p.text for p in prompts],
        "expects": [dict(p.expects) for p in prompts],
        "protocol": asdict(suite.protocol),
        "judge": bench.verify.identity(concept.label) if probe.words is None else bench.verify.witness(concept.label),
        "strip": suite.strip if probe.words is None else None,
        "blurred": concept.sensitive,
        **({"seeds": own} if (own := probe.seeds(suite)) else {}),
        **bench.kept,
        **(_measured_in(bench) if probe.words is not None else {}),
        "volatile": {"model": model.name, "concept": concept.name},
    }

    def work(run: runs.Run) -> dict[str, Any]:
        turn = len(prompts) if probe.words is None else each(suite)
        seeds = own or [derive(0, "probe", p.text, i % turn) for i, p in enumerate(prompts)]
        drawn = pictures(model, [p.text for p in prompts], seeds, suite.protocol)
        if probe.words is None:
            bench.album(concept).strip(drawn[: spec["strip"]], run.folder, "strip.png")
            return {"right": shows(bench.verify, drawn, concept)}
        right = answered(bench.verify, drawn, prompts)
        for word, part in zip(probe.words, chunks(len(drawn), each(suite)), strict=True):
            _keep(bench, run, concept, word, drawn[part])
        return {word: right[part] for word, part in zip(probe.words, chunks(len(right), each(suite)), strict=True)}

    return runs.compute(bench.root, spec, "probe", work, wait=bench.wait, steal=bench.steal)


def _measured_in(bench: Bench) -> dict[str, Any]:
    """Whose features are kept where pictures are not, for a spec."""
    extractor = bench.extractor
    return {} if bench.keep == "all" or extractor is None else {"features": [extractor.name, extractor.weights_hash]}


def _keep(bench: Bench, run: runs.Run, concept: Concept, word: str, drawn: torch.Tensor) -> None:
    """What a distance will need of a word's pictures: themselves, or where none are kept, their features."""
    if bench.keep == "all":
        images.save(drawn, _kept(bench, run, concept, word))
    elif bench.extractor is not None:
        as_files = (drawn.clamp(0, 1) * 255).round() / 255  # pictures that are kept are measured after this rounding
        run.write_bytes(_features(word), save({"features": bench.extractor.features(as_files).float().cpu().contiguous()}))


def _features(word: str) -> str:
    return f"features/{slug(word)}.safetensors"


def _kept(bench: Bench, run: runs.Run, concept: Concept, word: str) -> Path:
    """Where a word's pictures lie until they are compared; what a sensitive concept's prompts drew stays apart."""
    return bench.album(concept).place(run.folder) / ("" if concept.sensitive else "pictures") / slug(word)


def stored(bench: Bench, run: runs.Run, concept: Concept, word: str, size: tuple[int, int]) -> torch.Tensor:
    """The pictures of a word around a request, (N, 3, H, W), in the order of its prompts."""
    return images.folder(_kept(bench, run, concept, word), size, least=1).images


def stored_features(run: runs.Run, word: str) -> torch.Tensor:
    """The features of a word's pictures, (N, F), where no pictures are kept."""
    return load((run.folder / _features(word)).read_bytes())["features"]


def apart(real: torch.Tensor, made: torch.Tensor) -> dict[str, Any]:
    """KID between two states by their features at equal seeds, (N, F); FID needs pictures."""
    return {"pictures": len(real), "kid": paired_kid(*(x.double().numpy() for x in (real, made))), "fid": None}


def distances(bench: Bench, real: torch.Tensor, made: torch.Tensor) -> dict[str, Any]:
    """KID and FID between two states' pictures at equal seeds; None where there are too few for one, or nobody gives features."""
    extractor = bench.extractor
    if extractor is None:
        return {"pictures": len(real), "kid": None, "fid": None}
    x, y = (extractor.features(images_).double().cpu().numpy() for images_ in (real, made))
    fid = fidelity.fid(extractor, real, made) if len(real) > x.shape[1] else None
    found = None if fid is None else {"name": fid.name, "value": fid.value}
    return {"pictures": len(real), "kid": paired_kid(x, y), "fid": found}
