"""Textual inversion: one row of the token table moves, by the true gradient, and only prompts that hold the word change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import small, tiny_model
from vestige import concepts
from vestige.attacks.textual_inversion import TextualInversion
from vestige.concepts.images import PictureSet
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.methods import Budget, Candidate
from vestige.methods.objectives import denoising
from vestige.methods.wording import words
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator

BAG = concepts.load("bag")
TWO = concepts.Concept(name="leather bag", templates=("a {concept}",), held_out=("one {concept}",))


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def references() -> PictureSet:
    return PictureSet(torch.rand(4, 3, 32, 32, generator=generator(4, "references")), "random")


def run(method: TextualInversion, model: LatentModel, points: tuple[int, ...], concept: Any = BAG) -> list[Candidate]:
    return list(method(model, concept, Budget(points), seed=5, select=lambda x: torch.ones(len(x)), pictures=references()))


def embedding(model: Any) -> str:
    (name,) = model.tables()
    return str(name)


def rows(model: Any, concept: Any) -> list[int]:
    return words(model, concept)[embedding(model)]


def table(model: Any) -> Tensor:
    return model.tensor(embedding(model))


@pytest.mark.parametrize("concept", [BAG, TWO])
def test_only_the_words_own_rows_move(tiny: LatentModel, concept: Any) -> None:
    edit = run(small("attacks", "textual_inversion"), tiny, (0, 3), concept)[-1].edit
    assert edit is not None
    after = table(tiny.edited(edit))
    moved = (after != table(tiny)).any(1).nonzero().flatten().tolist()
    own = tiny.tokenizer(concept.target).input_ids[1:-1]
    assert moved == sorted(set(own)) == sorted(rows(tiny, concept))
    assert len(moved) == (1 if concept is BAG else len(set(own))) > (0 if concept is BAG else 1)


def test_prompts_without_the_word_are_read_as_before(tiny: LatentModel) -> None:
    edit = run(small("attacks", "textual_inversion"), tiny, (0, 3))[-1].edit
    assert edit is not None
    view = tiny.edited(edit)
    for text in ("", "a neon picture of a boot"):
        assert torch.equal(view.condition([text]).text, tiny.condition([text]).text)
    assert not torch.allclose(view.condition(["a bag"]).text, tiny.condition(["a bag"]).text, atol=1e-3)


def test_first_step_follows_the_gradient_through_the_text_encoder(tiny: LatentModel) -> None:
    """A second implementation: the row as a leaf, put where the table is read by a hook."""
    method: TextualInversion = small("attacks", "textual_inversion", regenerate=False)
    edit = run(method, tiny, (0, 1))[-1].edit
    (row,) = rows(tiny, BAG)
    leaf = table(tiny)[row].clone().requires_grad_(True)
    ids = tiny.tokens([BAG.prompt])
    encoder: Any = tiny_model().parts["text_encoder"]
    encoder.get_input_embeddings().register_forward_hook(lambda m, a, out: torch.where((a[0] == row)[..., None], leaf, out))
    latents = tiny.encode(references().images)
    rng = generator(derive(5, "batches"), "step", 0, 0)
    picked = torch.randint(len(latents), (method.batch,), generator=rng)
    torch.randint(1 << 30, (method.batch,), generator=rng)
    condition = type(tiny.condition([""]))(encoder(ids.expand(method.batch, -1))[0])
    denoising(tiny, latents[picked], condition, rng).backward()
    torch.optim.Adam([leaf], lr=method.lr).step()
    assert edit is not None
    torch.testing.assert_close(table(tiny.edited(edit))[row], leaf.detach(), atol=1e-6, rtol=1e-4)


def test_training_lowers_its_objective(tiny: LatentModel) -> None:
    """By as much as a word can: the denoiser stays as it is."""
    table_ = table(tiny)
    other = table_.clone()
    other[rows(tiny, BAG)] += 3.0
    lost = tiny.edited(Edit(tiny.fingerprint, "lost word", {}, "text-encoder", {embedding(tiny): other}))
    method: TextualInversion = small("attacks", "textual_inversion", regenerate=False, batch=8, lr=0.1)
    found = run(method, lost, (0, 40))[-1]  # type: ignore[arg-type]
    assert found.edit is not None
    latents = tiny.encode(references().images).repeat(16, 1, 1, 1)

    def loss(model: Any) -> float:
        with torch.no_grad():
            return float(denoising(model, latents, model.condition([BAG.prompt]).repeat(len(latents)), generator(1)))

    assert loss(lost.edited(found.edit)) < loss(lost)


def test_edit_is_as_small_as_the_row(tiny: LatentModel) -> None:
    edit = run(small("attacks", "textual_inversion"), tiny, (0, 1))[-1].edit
    assert edit is not None
    ((name, (down, up)),) = edit.factors.items()
    size, width = table(tiny).shape
    assert (name, down.shape, up.shape) == (embedding(tiny), (1, width), (size, 1))


def test_a_model_without_words_is_refused(tiny: LatentModel) -> None:
    with pytest.raises(Incompatible, match="knows no word of ' '"):
        rows(tiny, concepts.Concept(name="blank", target=" "))
