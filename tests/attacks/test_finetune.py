"""Full fine-tuning: which weights move, how the first step goes, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from oracles import small, tiny_classes, tiny_model
from vestige import concepts
from vestige.attacks.finetune import FineTune
from vestige.concepts.images import PictureSet
from vestige.errors import UnknownName
from vestige.methods import Budget, Candidate
from vestige.methods.objectives import denoising
from vestige.methods.training_data import Pairs
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator

BAG = concepts.load("bag")


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def references() -> PictureSet:
    return PictureSet(torch.rand(4, 3, 32, 32, generator=generator(4, "references")), "random")


def run(method: FineTune, model: LatentModel, points: tuple[int, ...]) -> list[Candidate]:
    return list(method(model, BAG, Budget(points), seed=5, select=lambda x: torch.ones(len(x)), pictures=references()))


@pytest.mark.parametrize("scope", ["unet", "attention", "cross-attention-kv"])
def test_every_weight_of_the_scope_moves_and_no_other(tiny: LatentModel, scope: Any) -> None:
    edit = run(small("attacks", "finetune", scope=scope), tiny, (0, 1))[-1].edit
    assert edit is not None
    assert sorted(edit.tensors) == sorted(tiny.scope(scope))
    assert [n for n, v in edit.tensors.items() if torch.equal(v, tiny.tensor(n))] == []


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_condition_is_searched_where_there_are_classes(kind: str) -> None:
    """All that moves is the table of class embeddings, and of it the concept's own row alone."""
    model = tiny_classes(kind)
    edit = run(small("attacks", "finetune", scope="class-embedding", weight_decay=0.0), model, (0, 1))[-1].edit
    assert edit is not None and sorted(edit.tensors) == model.scope("class-embedding")
    own = model.condition([BAG.prompt]).text[0, 0].bool()
    for name, value in edit.tensors.items():
        assert torch.equal((value != model.tensor(name)).any(1), own)


def test_a_model_without_classes_says_so(tiny: LatentModel) -> None:
    with pytest.raises(UnknownName, match="class-embedding"):
        run(small("attacks", "finetune", scope="class-embedding"), tiny, (0, 1))


def test_first_step_is_adams(tiny: LatentModel) -> None:
    """Against autograd and torch's own optimiser, on the batch that the first step's generator draws."""
    method: FineTune = small("attacks", "finetune", regenerate=False, scope="cross-attention-kv", weight_decay=0.0, clip=0.0)
    edit = run(method, tiny, (0, 1))[-1].edit
    names = tiny.scope("cross-attention-kv")
    view, leaves = tiny.trainable(names)
    pairs = Pairs(tiny.encode(references().images), tiny.condition([BAG.prompt]), ((0,),) * 4)
    rng = generator(derive(5, "batches"), "step", 0, 0)
    denoising(view, *pairs.draw(method.batch, rng), rng).backward()
    torch.optim.Adam(leaves.values(), lr=method.lr).step()
    assert edit is not None
    for name in names:
        torch.testing.assert_close(edit.tensors[name], leaves[name].detach(), atol=1e-6, rtol=1e-5)


def test_training_lowers_its_objective(tiny: LatentModel) -> None:
    method: FineTune = small("attacks", "finetune", regenerate=False, batch=8, lr=3e-3)
    edit = run(method, tiny, (0, 30))[-1].edit
    assert edit is not None
    latents = tiny.encode(references().images).repeat(8, 1, 1, 1)
    condition = tiny.condition([BAG.prompt]).repeat(len(latents))
    with torch.no_grad():
        before, after = (float(denoising(m, latents, condition, generator(1))) for m in (tiny, tiny.edited(edit)))
    assert after < 0.95 * before


def test_cost_counts_rows_of_the_denoiser(tiny: LatentModel) -> None:
    method: FineTune = small("attacks", "finetune", accumulation=3)
    calls = [c.cost["calls"] for c in run(method, tiny, (0, 1, 4))]
    assert calls[1] - calls[0] == 2 * 3
    assert calls[2] - calls[0] == 4 * 2 * 3
    assert run(replace(method, regenerate=False), tiny, (0,))[0].cost["calls"] == 0
