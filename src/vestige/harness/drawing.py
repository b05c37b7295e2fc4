"""Pictures for prompts outside an audit: drawn, kept as their concept asks, and judged, in parts, so that a set may be of any size."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vestige import files, metrics
from vestige.concepts import Concept
from vestige.concepts.album import Album
from vestige.concepts.prompts import PromptSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import Drawing, chunks, pictures
from vestige.errors import Incompatible
from vestige.metrics import Judge, Score
from vestige.metrics.judge import by
from vestige.metrics.score import crossed
from vestige.seeds import derive

SCORES = "scores.json"


@dataclass(frozen=True)
class Asked:
    """One picture: its prompt, the seed of its noise, and its guidance."""

    text: str
    seed: int
    guidance: float


def from_prompts(prompts: Sequence[str], seed: int, guidance: float) -> list[Asked]:
    """Prompts with seeds derived from one, as `api.generate` draws them."""
    return [Asked(text, derive(seed, "generate", i), guidance) for i, text in enumerate(prompts)]


def of_set(rows: PromptSet, count: int, seed: int, guidance: float) -> list[Asked]:
    """A prompt set's pictures: the first of a row on the row's own seed, further ones, and those of rows without any, on derived seeds."""
    made = []
    for i, row in enumerate(rows):
        for turn in range(count):
            own = row.seed if turn == 0 and row.seed is not None else derive(seed, "set", i, turn)
            made.append(Asked(row.text, own, guidance if row.guidance is None else row.guidance))
    return made


def draw(
    model: Model,
    asked: Sequence[Asked],
    album: Album,
    out: Path,
    protocol: Drawing,
    *,
    concept: Concept | None = None,
    world: str = "",
    watch: Watch = silent,
) -> dict[str, Any]:
    """Draw, keep and judge; returns what was written to `out/scores.json`, where a concept says what to look for.

    The folder is this set's alone: pictures and scores of an earlier one go, and a folder with other pictures is refused. Prompts whose
    ends the model does not read are named under "cut", where there are any.

    Arguments:
        protocol: Steps and batch; guidance is each picture's own.
        concept: What its detector looks for; None draws only.
    """
    judge = metrics.pair(concept, world)[0] if concept is not None else None
    model.grid(protocol.steps)  # refuses what its schedule does not have
    files.ready_folder(out)
    album.cleared(out)
    (out / SCORES).unlink(missing_ok=True)
    places: list[str] = []
    scores: list[torch.Tensor] = []
    for part in chunks(len(asked), protocol.batch):
        drawn = finite(seeded(model, asked[part], protocol), model)
        places += [str(file) for file in album.save(drawn, out, first=part.start)]
        if judge is not None and concept is not None:
            scores.append(judge.raw(drawn, concept.label))
        watch("draw", min(part.stop, len(asked)), len(asked))
    found: dict[str, Any] = {"files": places, "prompts": [one.text for one in asked]}
    if cut := model.unread(list(dict.fromkeys(found["prompts"]))):
        found["cut"] = cut
    if judge is None or concept is None:
        return found
    found |= _judged(judge, concept.label, torch.cat(scores), [one.text for one in asked])
    files.make(out)
    files.write(out, SCORES, json.dumps({k: v for k, v in found.items() if k != "files"}, indent=1).encode())
    return found


def finite(drawn: torch.Tensor, model: Model) -> torch.Tensor:
    """The same pictures; an error where some are not finite."""
    if lost := int((~drawn.isfinite()).flatten(1).any(1).sum()):
        raise Incompatible(
            f"{lost} of {len(drawn)} pictures are not finite and would be black; {model.name} overflows in its precision "
            "(choose --dtype float32), or the edit or the guidance is too strong"
        )
    return drawn


def seeded(model: Model, asked: Sequence[Asked], protocol: Drawing) -> torch.Tensor:
    """Pictures in the order asked for, (len(asked), 3, H, W), each from its own seed; drawn guidance by guidance."""
    made: dict[int, torch.Tensor] = {}
    for guidance in dict.fromkeys(one.guidance for one in asked):
        rows = [i for i, one in enumerate(asked) if one.guidance == guidance]
        texts, seeds = [asked[i].text for i in rows], [asked[i].seed for i in rows]
        made |= dict(zip(rows, pictures(model, texts, seeds, replace(protocol, guidance=guidance)), strict=True))
    return torch.stack([made[i] for i in range(len(asked))])


def _judged(judge: Judge, label: str, raw: torch.Tensor, units: Sequence[str]) -> dict[str, Any]:
    """The rate of a concept with its interval over prompts, and every raw score; a detector's label sets too."""
    level = judge.threshold(label)
    found = by(judge, crossed(judge.read(raw, label), level), level, units if len(set(units)) < len(units) else ())
    rows = [[None if math.isnan(x) else round(x, 6) for x in row] for row in raw.tolist()]
    made: dict[str, Any] = {"rate": data(found), "label": label, "columns": list(judge.heads(label)), "scores": rows, "text": str(found)}
    if cells := judge.table(raw, units=units if len(set(units)) < len(units) else ()):
        made["sets"] = {n: {str(t): {**c, "rate": data(c["rate"])} for t, c in row.items()} for n, row in cells.items()}
    return made


def data(score: Score) -> dict[str, Any]:
    """A score as plain data; what is undefined is null."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(score).items()}
