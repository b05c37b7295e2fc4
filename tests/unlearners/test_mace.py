"""MACE: both closed forms satisfy the equations that define them, in float64; adapters take attention off the concept's words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import counted, scheduler, tiny_classes, tiny_model, tiny_parts, tokenizer
from vestige import concepts
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.concepts.joint import joint
from vestige.continual import plan
from vestige.diffusion.attention import columns, recording
from vestige.edits import Edit
from vestige.errors import BadInput, Incompatible
from vestige.harness.cost import picture
from vestige.methods import Data
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import noisy
from vestige.methods.training_data import Pairs, paired
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners.mace import MACE, SCOPE, _beside, middle

SNEAKER, BAG = concepts.load("sneaker"), concepts.load("bag")
SMALL: dict[str, Any] = {"steps": 2, "batch": 2, "lr": 1e-2, "target_pictures": 3}
KEEPING: dict[str, Any] = {"ridge": 0.5, "preserve": 3.0, "domain": 0.2}


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def beside(model: LatentModel, concept: Concept) -> tuple[Tensor, Tensor]:
    """Rows beside the concept's one token and beside the anchor's, place by place: prefix by prefix, then suffix by suffix."""
    own, other = [], []
    for prompt in concept.prompts("training"):
        text, instead = prompt.text, prompt.text.replace(concept.target, concept.anchor)
        e, g = model.condition([text, instead]).text
        (at,), (to,) = columns(model, text, concept.target), columns(model, instead, concept.anchor)
        suffix = min(len(e) - at, len(g) - to) - 1
        own += [e[:at], e[at + 1 : at + 1 + suffix]]
        other += [g[:to], g[to + 1 : to + 1 + suffix]]
    return torch.cat(own), torch.cat(other)


def held(model: LatentModel, concept: Concept) -> Tensor:
    """C, one token at a time."""
    total = torch.zeros(32, 32, dtype=torch.float64)
    captions = [p.text for word in concept.unrelated for p in concept.prompts("training", word)]
    names = [p.text for word in concept.neighbours for p in concept.prompts("training", word)]
    for texts, weight in ((captions, KEEPING["preserve"] / len(captions)), (names, KEEPING["domain"])):
        for rows in model.condition(texts).text:
            total += weight * torch.einsum("ti,tj->ij", rows, rows)
    return total


def test_refinement_is_where_its_objectives_gradient_vanishes(exact: LatentModel) -> None:
    method = MACE(**SMALL, **KEEPING)
    kept, (e, g) = held(exact, SNEAKER), beside(exact, SNEAKER)
    torch.testing.assert_close(method.kept(exact, SNEAKER), kept)
    found = method._refined(exact, (SNEAKER,), kept)
    assert list(found) == exact.scope(SCOPE)
    for name, value in found.items():
        base = exact.tensor(name)
        sizes = []
        for start in (base, value):
            weight = start.clone().requires_grad_()
            change = weight - base
            loss = (e @ weight.T - g @ base.T).square().sum() + (change @ kept * change).sum() + 0.5 * change.square().sum()
            loss.backward()
            assert weight.grad is not None
            sizes.append(weight.grad.norm().item())
        assert sizes[1] < 1e-9 * sizes[0]


def test_one_map_of_the_text_serves_all_projections(exact: LatentModel) -> None:
    found = MACE(**SMALL, **KEEPING)._refined(exact, (SNEAKER,), held(exact, SNEAKER))
    maps = [torch.linalg.solve(exact.tensor(name), value) for name, value in found.items()]
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], atol=1e-8, rtol=1e-8)


def test_fusion_is_where_its_objectives_gradient_vanishes(exact: LatentModel) -> None:
    """Two concepts, each with an adapter of its own."""
    method, kept = MACE(**SMALL, **KEEPING), held(exact, SNEAKER)
    refined = method._refined(exact, (SNEAKER, BAG), kept)
    rng = torch.Generator().manual_seed(0)
    changes = [{n: torch.randn(v.shape, generator=rng, dtype=v.dtype) / 10 for n, v in refined.items()} for _ in range(2)]
    texts = [[p.text for p in concept.prompts("training")] for concept in (SNEAKER, BAG)]
    rows = [exact.condition(t).text.flatten(0, 1) for t in texts]
    fused = method._fused(exact, refined, [r.T @ r for r in rows], changes, kept)
    for name, value in fused.items():
        base, before = exact.tensor(name), refined[name]
        sizes = []
        for start in (before, value):
            weight = start.clone().requires_grad_()
            gaps = [e @ (weight - before - change[name]).T for e, change in zip(rows, changes, strict=True)]
            loss = sum((gap.square().sum() for gap in gaps), ((weight - base) @ kept * (weight - base)).sum())
            (loss + 0.5 * (weight - before).square().sum()).backward()
            assert weight.grad is not None
            sizes.append(weight.grad.norm().item())
        assert sizes[1] < 1e-9 * sizes[0]


def test_edit_is_its_stages_one_after_another(exact: LatentModel) -> None:
    method = MACE(**SMALL, **KEEPING)
    edit, resolved = method(exact, SNEAKER, seed=0), method.resolved(SNEAKER)
    kept = held(exact, SNEAKER)
    refined = resolved._refined(exact, (SNEAKER,), kept)
    base = exact.edited(Edit(exact.fingerprint, "refined", {}, SCOPE, refined))
    change = resolved._adapter(exact, base, SNEAKER, Data(), 0, lambda *_: None)
    assert any(value.norm() > 0 for value in change.values())
    assert all(torch.linalg.matrix_rank(value) <= 1 for value in change.values())
    rows = exact.condition([p.text for p in SNEAKER.prompts("training")]).text.flatten(0, 1)
    fused = resolved._fused(exact, refined, [rows.T @ rows], [change], kept)
    for name in edit.touched:
        torch.testing.assert_close(edit.tensors[name], fused[name])


def test_loss_is_the_norm_of_attention_to_the_words(exact: LatentModel) -> None:
    """One picture, the words' columns alone; the second way to it goes over the layers' maps one by one."""
    method = replace(MACE(**SMALL).resolved(SNEAKER), batch=1, times="uniform")
    text = "a neon picture of a sneaker"
    pairs = Pairs(torch.randn(1, 4, 8, 8, generator=generator(0, "latent")).double(), exact.condition([text]), ((0,),))
    word = columns(exact, text, "sneaker")
    counts = torch.zeros(1, 77, dtype=torch.float64)
    counts[0, word] = 1
    found = method._attention(exact, pairs, counts, generator(1, "loss"))
    rng = generator(1, "loss")
    latents, _ = pairs.pick(1, rng)
    t, _, x_t = noisy(exact, latents, rng)
    with recording(exact) as maps, torch.no_grad():
        exact.denoise(x_t, t, pairs.table)
    assert len(maps) == len(exact.scope(SCOPE)) // 2
    expected = sum(float(layer[0, :, :, word].square().sum().sqrt()) for layer in maps.values())
    assert float(found) == pytest.approx(expected)


def test_adapter_takes_attention_off_the_words(exact: LatentModel) -> None:
    method = replace(MACE(**SMALL, padding=False).resolved(SNEAKER), steps=40, times="uniform")
    change = method._adapter(exact, exact, SNEAKER, Data(), 0, lambda *_: None)
    view = exact.edited(Edit(exact.fingerprint, "a", {}, SCOPE, {n: exact.tensor(n) + v for n, v in change.items()}))
    pairs = paired(exact, given := Data().targeted(exact, SNEAKER, 3, seed=0))
    counts = torch.zeros(len(given.texts), 77, dtype=torch.float64)
    for row, text in enumerate(given.texts):
        counts[row, columns(exact, text, "sneaker")] = 1
    with torch.no_grad():
        before, after = (float(method._attention(m, pairs, counts, generator(2, "loss"))) for m in (exact, view))
    assert after < 0.9 * before


def test_middle_times_follow_their_density() -> None:
    model = tiny_model()
    t = middle(model, 20000, generator(0, "times")).double()
    grid = torch.arange(1000, dtype=torch.float64)
    density = torch.sigmoid((grid - 200) / 20) - torch.sigmoid((grid - 400) / 20)
    mean = float((grid * density).sum() / density.sum())
    assert float(t.mean()) == pytest.approx(mean, abs=8)  # 4096 candidates of deviation 65
    assert 0.95 < float(((t > 150) & (t < 450)).double().mean()) < 1


def test_settings_are_the_released_ones() -> None:
    made = MACE()
    ship = made.resolved(SNEAKER)
    assert (ship.ridge, ship.preserve, ship.domain, ship.times, ship.lr, ship.steps) == (1e3, 0, 0, "middle", 1e-5, 50)
    style = made.resolved(concepts.load("neon"))
    assert (style.preserve, style.domain, style.lr) == (pytest.approx(61.6), 8.0, 1e-4)
    assert made.resolved(replace(SNEAKER, kind="unsafe")).times == "uniform"
    assert replace(made, ridge=2.0).resolved(SNEAKER).ridge == 2.0


def test_several_concepts_have_an_adapter_each() -> None:
    model, both, method = tiny_model(), joint([SNEAKER, BAG]), MACE(**SMALL)
    drawn = picture(Data().protocol)
    with counted() as seen:
        edit = method(model, both, seed=0)
    assert seen["plain"] + TRAINED * seen["trained"] == 2 * method.calls(drawn, drawn)
    one = method(model, SNEAKER, seed=0)
    assert edit.touched == one.touched
    assert not torch.equal(edit.tensors[edit.touched[0]], one.tensors[edit.touched[0]])


def test_a_sequence_forecasts_an_adapter_for_every_request() -> None:
    orders = (plan.Order(requests=("sneaker", "bag"), method="mace", mode=mode) for mode in ("sequential", "cumulative"))
    plain, cumulative = (plan.resolve(order).planned_calls()["unlearning"] for order in orders)
    assert cumulative * 2 == plain * 3


def test_given_pictures_of_several_are_told_apart() -> None:
    model, both = tiny_model(), joint([SNEAKER, BAG])
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    captions = (("a picture of a bag",), ("a picture of a sneaker",), ("a bag",), ("a sneaker",))
    edit = MACE(**SMALL)(model, both, seed=0, data=Data(target=PictureSet(images, "given", captions=captions)))
    assert all(value.isfinite().all() for value in edit.tensors.values())
    bags = PictureSet(images[:1], "given", captions=captions[:1])
    with pytest.raises(BadInput, match="no picture in given is labelled or captioned as sneaker"):
        MACE(**SMALL)(model, both, seed=0, data=Data(target=bags))


def test_no_anchor_leaves_what_comes_before_the_words(exact: LatentModel) -> None:
    concept = Concept(name="sneaker", templates=("a picture of a {concept}",))
    e, g = _beside(exact, concept)
    own, empty = exact.condition(["a picture of a sneaker", ""]).text
    (at,) = columns(exact, "a picture of a sneaker", "sneaker")
    torch.testing.assert_close(e, own[at + 1 :])
    torch.testing.assert_close(g, empty[at + 1 :])


def test_models_without_cross_attention_are_refused() -> None:
    with pytest.raises(Incompatible, match="there are no keys and values of the text to solve for"):
        MACE(**SMALL)(tiny_classes(), BAG, seed=0)  # type: ignore[arg-type]
