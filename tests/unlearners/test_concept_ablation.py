"""Concept ablation: its losses are their formulas, its teacher gets no gradient, and training ties the prompts together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import Gaussian, scheduler, tiny_model, tiny_parts, tokenizer
from vestige import concepts
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.sampling import Drawing, noise, pictures
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.methods import Data
from vestige.methods.objectives import denoising
from vestige.methods.training_data import paired
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator
from vestige.unlearners import concept_ablation
from vestige.unlearners.concept_ablation import ConceptAblation, replaced, start_detached

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"steps": 2, "batch": 2, "lr": 1e-3, "anchor_pictures": 4, "retain_pictures": 3}
DATA = Data(protocol=Drawing(steps=2))


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def made(model: Model, concept: Concept = SNEAKER, data: Data = DATA, **settings: Any) -> Edit:
    return ConceptAblation(**{**SMALL, **settings})(model, concept, seed=0, data=data)


def equal(one: Edit, other: Edit) -> bool:
    return one.touched == other.touched and all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)


def anchors(model: Model, concept: Concept = SNEAKER) -> Any:
    return ConceptAblation(**SMALL)._anchors(model, concept, DATA, 0, lambda *_: None)


def test_pictures_are_the_anchors_and_prompts_the_concepts(tiny: LatentModel) -> None:
    pairs, table = anchors(tiny)
    texts = [p.text for p in SNEAKER.spread(4, "training")]
    swapped = [text.replace("sneaker", "boot") for text in texts]
    assert len(set(texts)) == 4
    torch.testing.assert_close(pairs.table.text, tiny.condition(texts).text, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(table.text, tiny.condition(swapped).text, atol=1e-6, rtol=1e-6)
    seeds = [derive(derive(0, "anchor"), "generated", i) for i in range(4)]
    shown = (pictures(tiny, swapped, seeds, DATA.protocol) * 255).round() / 255
    torch.testing.assert_close(pairs.latents, tiny.encode(shown), atol=1e-5, rtol=1e-5)
    _, empty = anchors(tiny, Concept(name="sneaker"))
    assert torch.equal(empty.text[0], tiny.condition([""]).text[0])


@pytest.mark.parametrize(("variant", "teacher"), [("model", "current"), ("model", "original"), ("noise", "current")])
def test_losses_are_their_formulas(exact: LatentModel, variant: Any, teacher: Any) -> None:
    """Value and gradient; the goal is a constant in the gradient."""
    method = ConceptAblation(**SMALL, variant=variant, teacher=teacher)
    student, leaves = exact.trainable(exact.scope("cross-attention-kv"))
    with torch.no_grad():
        for leaf in leaves.values():
            leaf.mul_(1.3)
    pairs, table = anchors(exact)
    value = method._forgetting(student, exact, pairs, table, generator(2))
    rng = generator(2)
    latents, rows = pairs.pick(2, rng)
    t = exact.draw_times(2, rng)
    eps = torch.randn(latents.shape, generator=rng).double()
    signal, level = (v.reshape(-1, 1, 1, 1) for v in exact.schedule(t))
    x_t = signal * latents + level * eps
    source = student if teacher == "current" else exact
    goal = eps if variant == "noise" else source.denoise(x_t, t, table[rows]).noise.detach()
    expected = (student.denoise(x_t, t, pairs.table[rows]).noise - goal).square().mean()
    torch.testing.assert_close(value, expected)
    found, wanted = (torch.autograd.grad(v, list(leaves.values())) for v in (value, expected))
    assert all(torch.allclose(a, b, atol=1e-12) and bool(a.abs().max() > 0) for a, b in zip(found, wanted, strict=True))


def test_a_concept_that_is_its_own_anchor_leaves_the_model_bit_for_bit(tiny: LatentModel) -> None:
    edit = made(tiny, replace(SNEAKER, anchor="sneaker"), weight_decay=0.0)
    assert all(torch.equal(edit.tensors[n], tiny.tensor(n)) for n in edit.touched)


def test_training_ties_the_concept_to_its_anchor(tiny: LatentModel) -> None:
    """At new states and a prompt that was not trained on."""
    edited = tiny.edited(made(tiny, steps=40, batch=4, lr=3e-3, anchor_pictures=16))
    x, t = noise(tiny.latent_shape, range(8)), torch.arange(8) * 100 + 100
    gaps = []
    with torch.no_grad():
        for model in (tiny, edited):
            own, other = (model.denoise(x, t, model.condition([f"the {w} shown in neon style"] * 8)).value for w in ("sneaker", "boot"))
            gaps.append(float((own - other).square().mean()))
    assert gaps[1] < 0.6 * gaps[0]


def test_no_gradient_through_the_start_token(exact: LatentModel) -> None:
    """Cut there, a loss on the keys alone: its gradient is the sum over all other rows; the output is what it was."""
    student, leaves = exact.trainable(exact.scope("cross-attention-kv"))
    x, t = noise(exact.latent_shape, [0]).double(), torch.tensor([500])
    condition = exact.condition(["a neon sneaker"])
    before = student.denoise(x, t, condition).value
    seen: dict[str, Tensor] = {}
    layer = student.parts["unet"].mid_block.attentions[0].transformer_blocks[0].attn2.to_k  # type: ignore[attr-defined]
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    with start_detached(student):
        handle = layer.register_forward_hook(lambda m, i, o: seen.update(keys=o))
        after = student.denoise(x, t, condition).value
        (found,) = torch.autograd.grad(seen["keys"].sum(), leaves[name])
        handle.remove()
    assert torch.equal(before, after)
    rows = condition.text[0]
    torch.testing.assert_close(found, rows[1:].sum(0).expand(32, 32))
    assert not any(m._forward_hooks for m in student.parts["unet"].modules())  # type: ignore[attr-defined]
    assert not equal(made(exact, detach_start=False), made(exact))


def test_a_text_of_nothing_but_the_start_token_teaches_nothing(exact: LatentModel) -> None:
    student, leaves = exact.trainable(exact.scope("cross-attention-kv"))
    text = exact.condition(["a bag"]).text[:, :1]
    with start_detached(student):
        value = student.denoise(noise(exact.latent_shape, [0]).double(), torch.tensor([500]), Condition(text)).value
        slopes = torch.autograd.grad(value.sum(), list(leaves.values()))
    assert not any(slope.any() for slope in slopes)
    uncut = student.denoise(noise(exact.latent_shape, [0]).double(), torch.tensor([500]), Condition(text)).value
    assert any(slope.any() for slope in torch.autograd.grad(uncut.sum(), list(leaves.values())))


@pytest.mark.parametrize("retain", ["anchor", "others"])
def test_whole_loss_retains_the_anchor_or_other_pictures(exact: LatentModel, monkeypatch: pytest.MonkeyPatch, retain: Any) -> None:
    """Forgetting, and the weight times the model's own loss: on the anchor under its own prompts, or on what is retained."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(concept_ablation, "fit", lambda leaves, loss, training, **_: iter([seen.update(loss=loss)]))
    method = ConceptAblation(**SMALL, retain=retain, retain_weight=0.7, dropout=0.0, detach_start=False)
    method(exact, SNEAKER, seed=0, data=DATA)
    (pairs, table), rng = anchors(exact), generator(3)
    with torch.no_grad():
        expected = method._forgetting(exact, exact, pairs, table, rng)
        kept = replaced(pairs, table) if retain == "anchor" else paired(exact, DATA.retained(exact, SNEAKER, 3, seed=0))
        x, condition = kept.draw(2, rng)
        assert retain == "others" or not torch.equal(condition.text, pairs.table[[row[0] for row in pairs.rows[:2]]].text)
        expected = expected + 0.7 * denoising(exact, x, condition, rng)
        torch.testing.assert_close(seen["loss"](generator(3)), expected)


@pytest.mark.parametrize("retain", ["anchor", "others"])
def test_retaining_is_off_without_a_weight(tiny: LatentModel, retain: Any) -> None:
    images = torch.rand(3, 3, 32, 32, generator=generator(1))
    given = Data(retain=PictureSet(images, "mine", captions=(("a bag",),) * 3), protocol=DATA.protocol)
    plain = made(tiny)
    assert equal(made(tiny, data=given, retain=retain, dropout=0.5), plain)
    kept = made(tiny, data=given, retain=retain, retain_weight=1.0)
    assert not equal(kept, plain)
    assert equal(made(tiny, retain=retain, retain_weight=1.0), kept) == (retain == "anchor")


@pytest.mark.parametrize("scope", ["cross-attention-kv", "attention", "unet"])
def test_scope_is_a_setting(tiny: LatentModel, scope: Any) -> None:
    assert made(tiny, scope=scope).touched == sorted(tiny.scope(scope))


def test_models_without_cross_attention_are_refused() -> None:
    with pytest.raises(Incompatible, match="gaussian has no U-Net with cross-attention"):
        made(Gaussian())


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"retain_weight": -1.0}, {"dropout": 1.0}, {"anchor_pictures": 0}])
def test_senseless_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|above"):
        ConceptAblation(**bad)
