"""A ledger: the folder that remembers a sequence of edits, one a request, so that every step can be rebuilt and none repeated.

    ledger.json     finished steps, in order: the request, its edit's file and hash, the model's fingerprint before and after
    edits/          one saved edit a request, each relative to the model that it was made on

In a *sequential* and in a *cumulative* ledger step n was made on the model that step n - 1 left behind, so prefixes are chains; in an
*independent* one every edit was made on the original; a *simultaneous* one has one step, for all requests together. A longer list
of requests continues a ledger; whatever else differs is refused, and so is a step that is missing, damaged, or does not lead to the
model that it led to.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from vestige import files
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.edits.precision import low
from vestige.errors import BadInput, RunConflict
from vestige.runs import Run

SCHEMA = "vestige-ledger-1"
Mode = Literal["sequential", "cumulative", "simultaneous", "independent"]
CHAINED = ("sequential", "cumulative")  # modes in which a step starts from the model before
ADVICE = "restore the folder from a copy, or begin again in another one"


@final
class Ledger:
    """The finished steps in a run's folder.

    Arguments:
        run: The run that the folder is; its lock guards the ledger.
        mode: Whether steps build on each other.
    """

    def __init__(self, run: Run, mode: Mode) -> None:
        self.run, self.mode = run, mode
        self.file = run.folder / "ledger.json"
        self.withdrawn: list[dict[str, Any]] = []
        self.steps, self.memory = self._read()

    def _read(self) -> tuple[list[dict[str, Any]], str | None]:
        if not self.file.exists():
            if (self.run.folder / "result.json").exists() or list((self.run.folder / "edits").glob("*")):
                raise BadInput(f"{self.file} is missing, though steps were taken here; {ADVICE}")
            return [], None
        try:
            data = json.loads(self.file.read_text("utf-8"))
            if data["schema"] != SCHEMA:
                raise ValueError(f"its schema is {data['schema']!r}, not {SCHEMA!r}")
            needed = ("request", "concept", "edit", "sha256", "before", "after")
            told = {"looks", "diagnostics", "memory", "refused"}
            self.withdrawn = list(data.get("withdrawn", []))
            return [{key: step[key] for key in (*needed, *(told & set(step)))} for step in data["steps"]], data["memory"]
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{self.file} is damaged ({error!r}); {ADVICE}") from error

    def write(self) -> None:
        """Store what is known; an empty ledger too, so that a lost one is noticed."""
        away = {"withdrawn": self.withdrawn} if self.withdrawn else {}
        self.run.write_json("ledger.json", {"schema": SCHEMA, "steps": self.steps, "memory": self.memory, **away})

    def check(self, requests: Sequence[Concept], looks: Mapping[str, Any] | None = None) -> None:
        """Refuse a list of requests that does not begin with the finished ones, and files that are not as they were written.

        Arguments:
            looks: By request, what finished steps rest on of the detectors that its file names.
        """
        names = ", ".join(step["request"] for step in self.steps)
        if len(requests) < len(self.steps):
            given = ", ".join(c.name for c in requests)
            raise RunConflict(f"{self.run.folder} has already forgotten {names}; given only {given}: ask for all of them and more")
        for number, (step, concept) in enumerate(zip(self.steps, requests, strict=False), 1):
            if step["request"] != concept.name:
                there = f"request {number} is {step['request']!r} there and {concept.name!r} here"
                raise RunConflict(
                    f"{self.run.folder} has forgotten {names}: {there}; "
                    "a ledger goes on, or begins in another folder; --withdraw takes a request back"
                )
            other = [key for key, value in concept.as_dict().items() if step["concept"].get(key) != value]
            if step.get("looks") != (looks or {}).get(concept.name):
                other.append("the detectors by which the memory was sorted")
            if other:
                raise RunConflict(f"request {number}, {concept.name!r}, differs from the ledger's in {', '.join(other)}; {ADVICE}")
            self._whole(number, step)

    def withdraw(self, names: Sequence[str]) -> None:
        """Take the steps of requests out, and in a chain all that were made after the first of them; their edits are set aside."""
        gone = [i for i, step in enumerate(self.steps) if step["request"] in names]
        if not gone:
            return
        gone = list(range(gone[0], len(self.steps))) if self.mode in CHAINED else gone
        for i in gone:
            step = self.steps[i]
            place = self.run.folder / step["edit"]
            aside = self.run.path(f"withdrawn/{len(self.withdrawn) + 1:02d}-{slug(step['request'])}.safetensors")
            if place.is_file():
                shutil.copyfile(place, aside)
            why = "withdrawn" if step["request"] in names else "made after a request that was withdrawn"
            kept = {key: step[key] for key in ("request", "sha256", "before", "after")}
            self.withdrawn.append({**kept, "edit": str(aside.relative_to(self.run.folder)), "why": why})
        left = [step for i, step in enumerate(self.steps) if i not in gone]
        away = [self.steps[i]["edit"] for i in gone]
        self.steps = left
        if gone[0] == 0:  # the memory began with its words
            self.memory = None
        self.write()
        for name in away:
            (self.run.folder / name).unlink(missing_ok=True)

    def refuse(self, number: int, reasons: Sequence[str]) -> None:
        """Say of a finished step, counted from 1, that it does not stand: what follows starts from the model before it."""
        if self.steps[number - 1].get("refused") != list(reasons):
            self.steps[number - 1]["refused"] = list(reasons)
            self.write()

    def _whole(self, number: int, step: Mapping[str, Any]) -> None:
        path = self.run.folder / step["edit"]
        if not path.is_file():
            raise BadInput(f"the edit of step {number}, {path}, is missing, and later steps rest on it; {ADVICE}")
        if files.digest(path) != step["sha256"]:
            raise BadInput(f"the edit of step {number}, {path}, is damaged: it is not the file that was written; {ADVICE}")

    def record(
        self,
        concept: Concept,
        made: Path,
        before: Model,
        after: Model,
        looks: Any = None,
        diagnostics: Any = None,
        memory: int | None = None,
    ) -> None:
        """Add a finished step: first its edit, then the line that makes it count.

        Arguments:
            looks: What it rests on of its request's own detectors; None for nothing.
            diagnostics: What was measured of its edit; None for nothing.
            memory: Pictures that it rehearsed; None for nothing.
        """
        name = f"edits/{self._next():02d}-{slug(concept.name)}.safetensors"
        place = self.run.path(name)
        with files.written(place) as part:
            try:
                part.hardlink_to(made)
            except OSError:  # a file system without hard links
                shutil.copyfile(made, part)
        entry = {"edit": name, "sha256": files.digest(place), "before": before.fingerprint, "after": after.fingerprint}
        own = {key: value for key, value in (("looks", looks), ("diagnostics", diagnostics), ("memory", memory)) if value is not None}
        self.steps.append({"request": concept.name, "concept": concept.as_dict(), **entry, **own})
        self.write()

    def _next(self) -> int:
        """A number that no edit has: that of the step, unless an earlier one was withdrawn."""
        used = [int(step["edit"].removeprefix("edits/").partition("-")[0]) for step in self.steps]
        return max([len(self.steps), *used]) + 1

    def taken(self, number: int, model: Model) -> tuple[Edit, Model]:
        """The edit of a finished step, counted from 1, and what it makes of the model that it was made on."""
        step = self.steps[number - 1]
        edit = Edit.load(self.run.folder / step["edit"])
        if step["before"] not in (model.fingerprint, *model.earlier):
            raise BadInput(f"step {number} was taken from another model than the one rebuilt from the steps before it; {ADVICE}")
        edited = model.edited(edit)
        if step["after"] not in (edited.fingerprint, *edited.earlier):
            raise BadInput(f"step {number} leads to another model than it did; {ADVICE}")
        return edit, edited

    def states(self, original: Model) -> Iterator[tuple[Edit, Model]]:
        """Every finished step's edit and the model after it; one model at a time, whatever the length."""
        model = original
        for number, step in enumerate(self.steps, 1):
            edit, after = self.taken(number, original if self.mode == "independent" else model)
            if step.get("refused"):  # what follows starts from the model before it
                yield Edit(edit.base, edit.method, edit.settings, edit.scope, notes=edit.notes), model
                continue
            model = after
            yield edit, model

    def edit(self, original: Model, steps: int | None = None) -> Edit:
        """The first `steps` steps as one edit of the original: what the chain does to it, bit for bit.

        Independent edits do not build on each other: merge them with `edits.combine` or `edits.merging.ties`, which say what they do.
        """
        count = len(self.steps) if steps is None else steps
        if self.mode == "independent" and count > 1:
            raise BadInput("independent edits are no chain; merge them with vestige.edits.combine or vestige.edits.merging.ties")
        if not 0 <= count <= len(self.steps):
            raise BadInput(f"the ledger holds {len(self.steps)} steps; given {count}")
        parts, model = [], original
        for edit, after in itertools.islice(self.states(original), count):
            if edit.touched or edit.hooks:
                parts.append(edit)
            model = after
        return chained(original, model, parts)


def chained(original: Model, final: Model, parts: Sequence[Edit]) -> Edit:
    """One edit that turns `original` into `final`, which the edits in `parts` made of it one after another.

    Weights become whole tensors (a product of low-rank changes is none), hooks follow in order. Where a weight is of low precision, the
    factors that no later whole tensor replaced stay factors, as they do in the model.
    """
    names = sorted({name for edit in parts for name in edit.touched})
    apart = _apart(original, parts)
    scope = "+".join(sorted({edit.scope for edit in parts})) or "all"
    settings = {"parts": [{"method": e.method, "settings": dict(e.settings)} for e in parts]}
    hooks = tuple(hook for edit in parts for hook in edit.hooks)
    notes = {"concept": ", ".join(str(e.notes.get("concept")) for e in parts), "seed": parts[0].notes.get("seed") if parts else None}
    tensors = {n: final.tensor(n) for n in names if n not in apart} | {n: value for n, (value, _) in apart.items() if value is not None}
    factors = {n: (torch.cat([d for d, _ in pairs]), torch.cat([u for _, u in pairs], 1)) for n, (_, pairs) in apart.items()}
    return Edit(original.fingerprint, "continual", settings, scope, tensors, factors, hooks, notes)


def _apart(original: Model, parts: Sequence[Edit]) -> dict[str, tuple[Tensor | None, list[tuple[Tensor, Tensor]]]]:
    """Weights of low precision that end with factors beside them: the last whole value, if any, and the factors since."""
    found: dict[str, tuple[Tensor | None, list[tuple[Tensor, Tensor]]]] = {}
    for edit in parts:
        for name in edit.touched:
            value, pairs = found.get(name, (None, []))
            if name in edit.tensors:
                value, pairs = edit.tensors[name], []
            found[name] = value, [*pairs, edit.factors[name]] if name in edit.factors else pairs
    return {name: held for name, held in found.items() if held[1] and low(original.tensor(name))}


def slug(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^\w-]+", "-", name)
