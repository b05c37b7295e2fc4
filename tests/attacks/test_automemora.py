"""AutoMemoRa: what the blend is at its corners and between them, and that the edit survives disk, stacking and the sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import tiny_model
from vestige import concepts, registry
from vestige.attacks.automemora import AutoMemoRa, automemora
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model, Prediction
from vestige.diffusion.sampling import invert, noise, sample
from vestige.edits import Edit, Hook, combine
from vestige.errors import BadSetting, Incompatible, UnknownName
from vestige.methods import Budget
from vestige.models.latent import LatentModel
from vestige.seeds import generator

BAG = concepts.load("bag")
MEMORA = ("sampling_steps=3", "start=1", "points=2", "batch=2", "rank=2", "lr=1e-2")
WEIGHTS = (-0.5, 0.0, 0.25, 0.5, 1.0, 1.5, 3.0)


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def random(model: Model, scope: str, seed: int = 0, size: float = 0.2) -> Edit:
    values = {n: model.tensor(n) + size * torch.randn(model.tensor(n).shape, generator=generator(seed, n)) for n in model.scope(scope)}
    return Edit(model.fingerprint, "random", {"seed": seed}, scope, values)


def adapter(model: Model, seed: int = 1) -> Edit:
    factors = {}
    for name in model.scope("attention"):
        out, into = model.tensor(name).shape
        rng = generator(seed, name)
        factors[name] = (torch.randn(2, into, generator=rng), 0.2 * torch.randn(out, 2, generator=rng))
    return Edit(model.fingerprint, "memora", {"rank": 2}, "attention", factors=factors, notes={"concept": "bag"})


def seen(model: Model, seed: int = 0) -> Prediction:
    with torch.no_grad():
        return model.denoise(noise(model.latent_shape, [seed, seed + 1]), torch.tensor([300, 700]), model.condition(["a bag", ""]))


def draw(model: Model, **how: Any) -> Tensor:
    given = {"steps": 4, "guidance": 3.0, **how}
    return sample(model, noise(model.latent_shape, [0, 1]), model.condition(["a bag", "neon"]), null=model.condition([""]), **given)


@pytest.mark.parametrize("main", ["recovered", "edited"])
@pytest.mark.parametrize("w", WEIGHTS)
def test_prediction_is_the_formula(tiny: LatentModel, w: float, main: Any) -> None:
    """e = bad + w (main - bad), in noise, whatever the network predicts."""
    edit = adapter(tiny)
    edited, recovered = seen(tiny).noise, seen(tiny.edited(edit)).noise
    good, bad = (recovered, edited) if main == "recovered" else (edited, recovered)
    found = seen(tiny.edited(automemora(edit, w, main))).noise
    torch.testing.assert_close(found, bad + w * (good - bad), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("w", [-0.5, 0.3, 2.0])
def test_the_sides_are_one_line_from_its_two_ends(tiny: LatentModel, w: float) -> None:
    edit = adapter(tiny)
    ours, theirs = (draw(tiny.edited(automemora(edit, *side))) for side in ((w, "recovered"), (1 - w, "edited")))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("main", "at_0", "at_1"), [("recovered", 0, 1), ("edited", 1, 0)])
def test_corners_are_the_two_models_bit_for_bit(kind: str, main: Any, at_0: int, at_1: int) -> None:
    model = tiny_model(prediction_type=kind)
    edit = adapter(model)
    two = (draw(model), draw(model.edited(edit)))
    assert not torch.allclose(*two, atol=1e-2)
    assert torch.equal(draw(model.edited(automemora(edit, 0.0, main))), two[at_0])
    assert torch.equal(draw(model.edited(automemora(edit, 1.0, main))), two[at_1])


def test_guiding_before_or_after_the_blend_is_the_same(tiny: LatentModel) -> None:
    """The released order: each network is guided towards the prompt by itself, then the two are blended."""
    edit, w, g = adapter(tiny), 1.7, 3.0
    x, t = noise(tiny.latent_shape, [0, 1]), torch.tensor([300, 700])
    given, null = tiny.condition(["a bag", "neon"]), tiny.condition(["", ""])

    def guided(model: Model) -> Tensor:
        with torch.no_grad():
            return model.denoise(x, t, given).guided(model.denoise(x, t, null), g).value

    bad, good = guided(tiny), guided(tiny.edited(edit))
    torch.testing.assert_close(guided(tiny.edited(automemora(edit, w))), bad + w * (good - bad), atol=1e-4, rtol=1e-4)


def test_every_sampler_takes_it(tiny: LatentModel) -> None:
    edit = automemora(adapter(tiny), 0.5)
    view = tiny.edited(edit)
    given = view.condition(["a bag", "neon"])
    deep = invert(view, noise(view.latent_shape, [0, 1]), given, steps=4, stop=2)
    back = sample(view, deep, given, steps=4, start=2)
    assert back.isfinite().all()
    assert not torch.equal(back, sample(tiny, deep, given, steps=4, start=2))


def test_both_networks_share_the_untouched_tensors(tiny: LatentModel) -> None:
    mark = tiny.fingerprint
    view: Any = tiny.edited(automemora(adapter(tiny), 0.5))
    ours = {p.data_ptr() for part in tiny.parts.values() for p in part.parameters()}
    assert {p.data_ptr() for part in view.inner.parts.values() for p in part.parameters()} == ours
    draw(view)
    tiny._hashes.clear()
    assert tiny.fingerprint == mark


def test_fingerprint_names_weight_side_and_adapter(tiny: LatentModel) -> None:
    one, two = adapter(tiny, 1), adapter(tiny, 2)
    made = [automemora(one, 0.5), automemora(one, 0.6), automemora(one, 0.5, "edited"), automemora(two, 0.5)]
    marks = [tiny.edited(edit).fingerprint for edit in made]
    assert len({tiny.fingerprint, *marks}) == 5
    assert tiny.edited(automemora(adapter(tiny, 1), 0.5)).fingerprint == marks[0]


@pytest.mark.parametrize("kind", ["factors", "tensors"])
def test_the_file_holds_the_adapter(tiny: LatentModel, tmp_path: Path, kind: str) -> None:
    edit = adapter(tiny) if kind == "factors" else random(tiny, "cross-attention-kv")
    made = automemora(edit, 1.5)
    back = Edit.load(made.save(tmp_path / "guided.safetensors"))
    assert (back.method, back.settings, back.notes, back.touched) == ("automemora", made.settings, made.notes, [])
    assert torch.equal(draw(tiny.edited(back)), draw(tiny.edited(made)))


def test_one_file_for_the_edit_and_its_recovery(tiny: LatentModel, tmp_path: Path) -> None:
    """With `on`, the result belongs on the original, as `vestige generate --edit` puts it there."""
    forgotten = random(tiny, "cross-attention-kv")
    edited = tiny.edited(forgotten)
    found = adapter(edited)
    back = Edit.load(automemora(found, 0.5, on=forgotten).save(tmp_path / "whole.safetensors"))
    assert back.base == tiny.fingerprint
    assert torch.equal(draw(tiny.edited(back)), draw(edited.edited(automemora(found, 0.5))))
    with pytest.raises(Incompatible, match="was made on a model with fingerprint"):
        tiny.edited(automemora(found, 0.5, on=random(tiny, "cross-attention-kv", seed=9)))


def test_it_composes_with_a_hook_on_words_and_with_further_edits(tiny: LatentModel) -> None:
    remap = Hook("unlearners", "remap", {"words": "bag", "towards": "boot"})
    inner = tiny.edited(Edit(tiny.fingerprint, "remap", hooks=(remap,)))
    found = adapter(inner)
    view = inner.edited(automemora(found, 1.5))
    plain = tiny.edited(automemora(adapter(tiny), 1.5))
    given = {"steps": 4, "guidance": 3.0, "null": plain.condition([""])}
    x = noise(tiny.latent_shape, [0])
    assert torch.equal(sample(view, x, view.condition(["a bag"]), **given), sample(plain, x, plain.condition(["a boot"]), **given))
    more = random(tiny, "cross-attention-kv")
    over = plain.edited(replace(more, base=plain.fingerprint))
    lower = tiny.edited(more)
    beneath = lower.edited(automemora(Edit(lower.fingerprint, "sum", factors=adapter(tiny).factors), 1.5))
    untouched = {n: v for n, v in more.tensors.items() if n not in adapter(tiny).factors}
    assert untouched == {}  # so the further edit lies under the adapter on both sides
    torch.testing.assert_close(draw(over), draw(beneath), atol=1e-5, rtol=1e-5)


def test_a_blend_is_not_trained(tiny: LatentModel) -> None:
    view = tiny.edited(automemora(adapter(tiny), 0.5))
    names = view.scope("cross-attention-kv")
    with pytest.raises(Incompatible, match="attack the edited model itself"):
        view.trainable(names)
    with pytest.raises(Incompatible, match="attack the edited model itself"):
        view.adapted(names, rank=1, alpha=1.0, init="gaussian", rng=generator(0))


def test_what_cannot_be_blended_is_refused(tiny: LatentModel) -> None:
    with pytest.raises(Incompatible, match="has hooks or changes nothing"):
        automemora(Edit(tiny.fingerprint, "remap", hooks=(Hook("unlearners", "remap", {"words": "a", "towards": "b"}),)), 0.5)
    with pytest.raises(Incompatible, match="changes the text encoder"):
        automemora(random(tiny, "text-encoder"), 0.5)
    with pytest.raises(ValueError, match="w finite"):
        automemora(adapter(tiny), float("nan"))
    with pytest.raises(Incompatible, match="cannot be scaled"):
        combine(tiny, [(automemora(adapter(tiny), 0.5), 2.0)])


def test_the_attack_is_memora_with_the_blend_around_it(tiny: LatentModel) -> None:
    pictures = PictureSet(torch.rand(4, 3, 32, 32, generator=generator(4)), "random")

    def run(method: Any) -> Any:
        given = {"seed": 3, "select": lambda x: torch.ones(len(x)), "pictures": pictures}
        return list(method(tiny, BAG, Budget((0, 2)), **given))[-1]

    method = AutoMemoRa(w=1.5, memora=MEMORA)
    ours, theirs = run(method), run(method.inner())
    assert ours.cost["calls"] == theirs.cost["calls"]
    assert torch.equal(draw(tiny.edited(ours.edit)), draw(tiny.edited(automemora(theirs.edit, 1.5))))
    assert torch.equal(draw(tiny.edited(run(AutoMemoRa(w=1.0, memora=MEMORA)).edit)), draw(tiny.edited(theirs.edit)))


def test_memoras_settings_are_checked_when_they_are_given() -> None:
    with pytest.raises(UnknownName, match="ranks"):
        AutoMemoRa(memora=("ranks=4",))
    with pytest.raises(BadSetting, match=r"memora\.rank accepts int"):
        AutoMemoRa(memora=("rank=four",))
    with pytest.raises(ValueError, match="NAME=VALUE"):
        AutoMemoRa(memora=("rank",))
    with pytest.raises(ValueError, match="w is a finite number"):
        AutoMemoRa(w=float("inf"))
    assert registry.build("attacks", "automemora", {"memora": "rank=8,lr=1e-3"}).inner().rank == 8
