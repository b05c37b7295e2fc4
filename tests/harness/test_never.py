"""Never-models by distillation: what the original is asked, what of it survives, and who shares one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from oracles import tiny_classes, tiny_flow, tiny_model
from vestige import concepts, metrics
from vestige.concepts import Concept
from vestige.diffusion import Condition, Model, Prediction
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.harness import never, suites
from vestige.harness.bench import Bench
from vestige.harness.never import Distillation, distilled, never_model
from vestige.methods.objectives import distilling
from vestige.methods.training import fit

SMALL = Distillation(steps=3, batch=8, pictures=16, anchor_pictures=6, own=0.25)
SNEAKER = concepts.load("sneaker")
FAMILIES = {"latent": tiny_model, "classes": tiny_classes, "flow": tiny_flow}


def bench(root: Path, concept: Concept = SNEAKER, **changes: Any) -> Bench:
    """The sketchiest pictures there are."""
    suite = suites.load("smoke", "wardrobe")
    suite = replace(suite, protocol=replace(suite.protocol, steps=1))
    return Bench(root, suite, *metrics.pair(concept, "wardrobe"), **changes)


def made(root: Path, model: Model, seed: int = 0, how: Distillation = SMALL, concept: Concept = SNEAKER) -> Edit:
    return Edit.load(distilled(bench(root), model, concept, seed, how).path(never.FILE))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Model], list[tuple[bool, Tensor]]]:
    """Of every row that a model's family is asked from now on: whether the student was, and under which condition."""

    def watching(model: Model) -> list[tuple[bool, Tensor]]:
        seen: list[tuple[bool, Tensor]] = []
        denoise = type(model).denoise

        def spied(self: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
            found = denoise(self, x_t, t, condition)
            seen.extend((found.value.requires_grad, row) for row in told(condition))
            return found

        monkeypatch.setattr(type(model), "denoise", spied)
        return seen

    return watching


def told(condition: Condition) -> Tensor:
    """All that a condition says, a row each."""
    parts = (condition.text, condition.pooled)
    return torch.cat([part.flatten(1) for part in parts if part is not None], 1)


def rows_of(model: Model, texts: list[str]) -> Tensor:
    return told(model.condition(texts))


def among(row: Tensor, table: Tensor) -> bool:
    return bool((table == row).all(1).any())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_is_never_asked_for_the_concept(family: str, tmp_path: Path, asked: Any) -> None:
    """Neither where it draws nor where it teaches; the student alone hears the concept's prompts, and is answered by the anchor."""
    model = FAMILIES[family]()
    own = rows_of(model, [p.text for bank in ("training", "held-out") for p in SNEAKER.prompts(bank)])
    seen = asked(model)
    made(tmp_path, model)
    taught = [row for student, row in seen if student]
    answered = [row for student, row in seen if not student]
    assert sum(among(row, own) for row in taught) == SMALL.own_rows * SMALL.steps
    assert not any(among(row, own) for row in answered)
    anchors = rows_of(model, [p.text for p in SNEAKER.prompts("training", "boot")])
    assert sum(among(row, anchors) for row in answered) >= SMALL.own_rows * SMALL.steps


def test_without_prompts_of_its_own_no_one_is_asked_for_it(tmp_path: Path, asked: Any) -> None:
    model = tiny_model()
    own = rows_of(model, [p.text for p in SNEAKER.prompts("training")])
    seen = asked(model)
    made(tmp_path, model, how=replace(SMALL, own=0.0))
    assert sum(student for student, _ in seen) == SMALL.steps * SMALL.batch
    assert not any(among(row, own) for _, row in seen)


def test_pictures_that_show_the_concept_teach_nothing(tmp_path: Path) -> None:
    """Those that the judge sees it on are left out; where it sees it on all, nothing is made."""
    ready, model = bench(tmp_path), tiny_model()

    class Seer:
        """Sees it on every other picture, or on all."""

        def __init__(self, every: int) -> None:
            self.every = every

        def __getattr__(self, name: str) -> Any:
            return getattr(ready.select, name)

        def shows(self, pictures: Tensor, label: str) -> Tensor:
            return (torch.arange(len(pictures)) % self.every == 0).float()

        def identity(self, label: str) -> dict[str, Any]:
            return {"judge": f"seer {self.every}"}

    half: Any = replace(ready, select=cast(Any, Seer(2)))
    outcome = distilled(half, model, SNEAKER, 0, SMALL).outcome
    assert (outcome["pictures"], outcome["left_out"]) == (8, 8 + 3)
    with pytest.raises(BadInput, match="draws shows sneaker"):
        distilled(replace(ready, select=cast(Any, Seer(1))), model, SNEAKER, 0, SMALL)


def test_equal_seeds_give_equal_models_and_others_others(tmp_path: Path) -> None:
    model = tiny_model()
    first, second, third = made(tmp_path / "a", model), made(tmp_path / "b", model), made(tmp_path / "a", model, seed=1)
    name = "unet.conv_in.weight"
    assert set(first.tensors) == set(model.scope("unet"))
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)
    assert not torch.equal(first.tensors[name], third.tensors[name])


def test_nothing_of_the_original_survives(tmp_path: Path) -> None:
    """After a few steps the weights are still far from the original's: they began elsewhere."""
    model = tiny_model()
    edit = made(tmp_path, model)
    kernels = [n for n in edit.tensors if edit.tensors[n].dim() > 1]
    both = ([model.tensor(n) for n in kernels], [edit.tensors[n] for n in kernels])
    old, new = (torch.cat([(x - x.mean()).flatten() / x.std() for x in rows]) for rows in both)
    assert abs(float((old * new).mean())) < 0.02


def test_it_learns_from_the_original(tmp_path: Path) -> None:
    outcome = distilled(bench(tmp_path), tiny_model(), SNEAKER, 0, replace(SMALL, steps=40, lr=3e-3)).outcome
    assert outcome["loss_last"] < 0.8 * outcome["loss_first"]


def test_whoever_asks_again_gets_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    first = never_model(bench(tmp_path), model, SNEAKER, 0, SMALL)
    monkeypatch.setattr(never, "_taught", None)  # called again, it would fail
    assert never_model(bench(tmp_path), model, SNEAKER, 0, SMALL).fingerprint == first.fingerprint != model.fingerprint
    assert not list(tmp_path.glob("never-*/state.pt"))


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after a checkpoint and run again: bit for bit what an uninterrupted run gives."""
    model, how = tiny_model(), replace(SMALL, steps=6)
    monkeypatch.setattr(never, "fit", partial(fit, every=4))
    whole = made(tmp_path / "whole", model, how=how)

    def stop(stage: str, done: int, total: int) -> None:
        if stage.endswith("fit") and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distilled(bench(tmp_path / "stopped", watch=stop), model, SNEAKER, 0, how)
    assert list((tmp_path / "stopped").glob("never-*/state.pt"))
    steps = list[int]()

    def counted(student: Model, teacher: Model, data: Tensor, *rest: Any) -> Tensor:
        steps.append(len(data))
        return distilling(student, teacher, data, *rest)

    monkeypatch.setattr(never, "distilling", counted)
    again = made(tmp_path / "stopped", model, how=how)
    assert len(steps) == 2
    assert all(torch.equal(whole.tensors[n], again.tensors[n]) for n in whole.tensors)


CHANGED = {
    "steps": 4,
    "lr": 1e-4,
    "batch": 4,
    "pictures": 12,
    "near": 1,
    "own": 0.5,
    "anchor_pictures": 4,
    "dropout": 0.5,
}


def test_every_setting_and_the_seed_and_the_anchor_are_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(CHANGED) == set(vars(SMALL))
    monkeypatch.setattr(never, "_taught", lambda model, *rest, **more: Edit(model.fingerprint, "nothing"))
    monkeypatch.setattr(never._Lesson, "drawn", staticmethod(lambda *given: never._Lesson((), None, None, 0)))  # type: ignore[arg-type]
    model, ready = tiny_model(), bench(tmp_path)
    asked = [(SNEAKER, 0, SMALL), (SNEAKER, 1, SMALL), (replace(SNEAKER, anchor="bag"), 0, SMALL)]
    asked += [(SNEAKER, 0, replace(SMALL, **cast(Any, {name: value}))) for name, value in CHANGED.items()]
    assert len({distilled(ready, model, *one).folder for one in asked}) == len(asked)
    assert distilled(ready, tiny_model(1), SNEAKER, 0, SMALL).folder != distilled(ready, model, SNEAKER, 0, SMALL).folder


def test_an_empty_anchor_answers_at_pictures_of_what_must_stay(tmp_path: Path, asked: Any) -> None:
    """What the empty prompt draws may be the concept, so it draws nothing."""
    model, concept = tiny_model(), replace(SNEAKER, anchor="")
    seen = asked(model)
    made(tmp_path, model, concept=concept)
    own = rows_of(model, [p.text for p in SNEAKER.prompts("training")])
    assert sum(among(row, own) for student, row in seen if student) == SMALL.own_rows * SMALL.steps
    assert not any(among(row, own) for student, row in seen if not student)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2  # one set of pictures, and the edit


def test_a_concept_that_names_nothing_to_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither neighbours nor unrelated"):
        made(tmp_path, tiny_model(), concept=replace(SNEAKER, neighbours=(), unrelated=()))


def test_a_forecast_counts_what_is_asked(tmp_path: Path) -> None:
    """Pictures at one prediction a step and guidance, and every latent of every step once by either model."""
    assert SMALL.calls(bench(tmp_path).suite.protocol) == (16 + 6) * 2 + 3 * 8 * 4
    assert replace(SMALL, own=0.0).calls(bench(tmp_path).suite.protocol) == 16 * 2 + 3 * 8 * 4


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("lr", 0.0), ("own", 1.0), ("dropout", -0.1), ("near", 0)])
def test_settings_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Distillation(**cast(Any, {name: value}))
