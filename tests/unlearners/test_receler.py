"""Receler: adapters begin as nothing, the mask and the regulariser are their formulas, and soft prompts bring the concept nearer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from oracles import small, tiny_classes, tiny_exact, tiny_model
from vestige import concepts
from vestige.concepts.joint import joint
from vestige.diffusion import Model
from vestige.diffusion.attention import columns, recording
from vestige.diffusion.bottlenecks import bottlenecked
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners.receler import Receler, Soft, added_outside

SNEAKER, BAG = concepts.load("sneaker"), concepts.load("bag")
PROMPT = "a picture of a sneaker"


def made(model: Model, concept: Any = SNEAKER, **settings: Any) -> Edit:
    edit: Edit = small("unlearners", "receler", rank=4, **settings)(model, concept, seed=0)
    return edit


def draw(model: Model) -> torch.Tensor:
    return sample(model, noise(model.latent_shape, [0, 1]), model.condition([PROMPT, "a bag"]), steps=3)


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    return tiny_exact()


def test_adapters_begin_as_nothing(tiny: LatentModel) -> None:
    leaves = Receler(rank=4)._adapters(tiny, generator(0))
    assert torch.equal(draw(bottlenecked(tiny, leaves)), draw(tiny))
    assert all(leaf.requires_grad for leaf in leaves.values())


def test_what_was_trained_is_read_as_a_published_file_is(tiny: LatentModel) -> None:
    edit = made(tiny)
    ((kind, name),) = {(hook.kind, hook.name) for hook in edit.hooks}
    assert (kind, name) == ("hooks", "receler")
    assert not torch.equal(draw(tiny.edited(edit)), draw(tiny))
    assert torch.equal(draw(bottlenecked(tiny, edit.hooks[0].tensors)), draw(tiny.edited(edit)))


def test_the_mask_is_where_the_network_attends(exact: LatentModel) -> None:
    """At the resolution nearest to a quarter of the latents', written out pixel by pixel."""
    method, condition = Receler(threshold=0.4), exact.condition([PROMPT])
    word = columns(exact, PROMPT, "sneaker")
    counted = torch.zeros(1, 77, dtype=torch.float64)
    counted[0, word] = 1
    with recording(exact) as maps, torch.no_grad():
        exact.denoise(noise(exact.latent_shape, [0]).double(), torch.tensor([500]), condition)
    mask = method._mask(maps, counted, exact.latent_shape[1:])
    nearest = min({m.shape[2] for m in maps.values()}, key=lambda n: abs(n - 4))
    chosen = [m[0, :, :, word].mean(0).sum(-1) for m in maps.values() if m.shape[2] == nearest]
    mean = sum(chosen) / len(chosen)
    side = int(nearest**0.5)
    expected = ((mean - mean.min()) / (mean.max() - mean.min()) > 0.4).double().reshape(1, 1, side, side)
    assert torch.equal(mask, expected)
    assert 0 < float(mask.mean()) < 1


def test_regulariser_counts_what_is_added_outside_alone() -> None:
    """A layer of the mask's size and one of twice its height and width; with a whole mask there is none."""
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]])[None, None]
    one, two = torch.randn(1, 4, 3, generator=generator(0)), torch.randn(1, 16, 5, generator=generator(1))
    outside = [k for k in range(16) if k not in (0, 1, 4, 5)]
    first = sum(float(one[0, k].square().mean()) for k in (1, 2, 3)) / 3
    second = sum(float(two[0, k].square().mean()) for k in outside) / len(outside)
    assert float(added_outside({"a": one, "b": two}, mask)) == pytest.approx((first + second) / 2)
    assert float(added_outside({"a": one, "b": two}, torch.ones_like(mask))) == 0


def test_soft_vectors_stand_behind_the_words_and_no_other_place(exact: LatentModel) -> None:
    method = Receler(soft_tokens=3)
    soft = Soft.of(method, exact, SNEAKER, generator(0))
    texts = list(dict.fromkeys(SNEAKER.plain()))
    put, plain = soft.put(list(range(len(texts)))).text, exact.condition(texts).text
    for row, text in enumerate(texts):
        behind = columns(exact, text, "sneaker")[-1] + 1
        places = list(range(behind, behind + 3))
        rest = [k for k in range(77) if k not in places]
        torch.testing.assert_close(put[row, places], soft.vectors[0].detach())
        torch.testing.assert_close(put[row, rest], plain[row, rest])
    drawn = soft.vectors[0].detach()
    assert 0 <= float(drawn.min()) < float(drawn.max()) <= 1


def test_soft_vectors_bring_the_prediction_nearer_and_adapters_stay(tiny: LatentModel) -> None:
    method = Receler(rank=4, soft_tokens=4)
    leaves = method._adapters(tiny, generator(0))
    with torch.no_grad():
        for name, leaf in leaves.items():
            if ".up." in name:
                leaf.copy_(torch.randn(leaf.shape, generator=generator(1, name)))
    student, soft = bottlenecked(tiny, leaves), Soft.of(method, tiny, SNEAKER, generator(2))
    x, t = noise(tiny.latent_shape, [0, 1]), torch.tensor([700, 700])
    with torch.no_grad():
        own = tiny.denoise(x, t, soft.condition[[0, 0]]).value

    def gap() -> float:
        with torch.no_grad():
            return float((student.denoise(x, t, soft.put([0, 0])).value - own).square().mean())

    before = gap()
    for _ in range(10):
        soft.step(student, x, t, [0, 0], own)
    assert gap() < before
    assert all(leaf.grad is None for leaf in leaves.values())


def test_loss_is_its_formula(exact: LatentModel) -> None:
    """One inner step and no change of it before: the goal's distance, and the regulariser on what adapters add."""
    method = Receler(rank=4, soft_tokens=4, inner_steps=1, rollout_steps=3, batch=1, local=0.3, strength=0.5)
    leaves = method._adapters(exact, generator(0))
    with torch.no_grad():
        for name, leaf in leaves.items():
            if ".up." in name:
                leaf.copy_(torch.randn(leaf.shape, generator=generator(1, name)) / 10)
    seen: dict[str, torch.Tensor] = {}
    student = bottlenecked(exact, leaves, partial(lambda held, name, out, added: held.update({name: added}) or added, seen))
    soft, null = Soft.of(method, exact, SNEAKER, generator(2)), exact.condition([""])
    begun = [v.detach().clone() for v in soft.vectors]
    found = float(method._loss(exact, student, soft, null, seen, generator(3)).detach())
    assert not torch.equal(begun[0], soft.vectors[0])  # the step that follows the loss

    rng = generator(3)
    row = int(torch.randint(len(soft.condition), (1,), generator=rng))
    stop = int(torch.randint(1, 3, (1,), generator=rng))
    x = torch.randn(1, *exact.latent_shape, generator=rng).double()
    given, t = soft.condition[[row]], exact.grid(3)[stop].expand(1)
    x_t = sample(student, x, given, steps=3, guidance=3.0, null=null, stop=stop)
    with torch.no_grad():
        free = exact.denoise(x_t, t, null).value
        with recording(exact) as maps:
            own = exact.denoise(x_t, t, given).value
        soft.vectors[0].copy_(begun[0])
        value = student.denoise(x_t, t, soft.put([row])).value
    mask = method._mask(maps, soft.counted[[row]], exact.latent_shape[1:])
    expected = (value - (free - 0.5 * (own - free))).square().mean() + 0.3 * added_outside(seen, mask)
    assert found == pytest.approx(float(expected.detach()))


def test_several_concepts_have_soft_prompts_each_and_share_adapters(tiny: LatentModel) -> None:
    both = joint([SNEAKER, BAG])
    soft = Soft.of(Receler(soft_tokens=2), tiny, both, generator(0))
    assert len(soft.vectors) == 2
    assert set(soft.part) == {0, 1}
    assert made(tiny, both).notes["concept"] == "sneaker+bag"


def test_a_second_request_is_learnt_behind_the_first(tiny: LatentModel) -> None:
    first = tiny.edited(made(tiny))
    second = made(first, BAG)
    assert second.base == first.fingerprint
    assert not torch.equal(draw(first.edited(second)), draw(first))


def test_a_model_without_cross_attention_is_refused() -> None:
    with pytest.raises(Incompatible, match="there is nothing to put an adapter behind"):
        made(tiny_classes(), BAG)
