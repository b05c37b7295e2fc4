"""What every family of models promises, at its smallest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from oracles import FAMILIES
from vestige.diffusion import Model
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit
from vestige.edits.surgery import folded
from vestige.errors import Incompatible, UnknownName
from vestige.seeds import generator

PROMPTS = ["a bag", "sneaker", "", "a picture of a boot"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    made: Model = FAMILIES[request.param]()
    return made


def times(model: Model, count: int) -> Tensor:
    """Training times away from the ends, where one of the levels vanishes."""
    t = model.draw_times(200, generator(0, "times"))
    _, level = model.schedule(t)
    return t[(level > 0.1) & (level < 0.9)][:count]


def draw(model: Model) -> Tensor:
    return sample(model, noise(model.latent_shape, [0, 1]), model.condition(["a bag", "boot"]), steps=2)


def test_views_of_a_prediction_agree(model: Model) -> None:
    t, x_t = times(model, 4), noise(model.latent_shape, range(4))
    with torch.no_grad():
        seen = model.denoise(x_t, t, model.condition(PROMPTS))
    assert {"noise": seen.noise, "data": seen.data, "velocity": seen.velocity, "flow": seen.flow}[seen.kind] is seen.value
    assert seen.value.shape == x_t.shape
    torch.testing.assert_close(seen.signal * seen.data + seen.level * seen.noise, x_t, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.signal * seen.noise - seen.level * seen.data, seen.velocity, atol=1e-4, rtol=1e-4)


def test_grid_falls_from_noise_to_the_clean_end(model: Model) -> None:
    for steps in (1, 7, 50):
        signal, level = model.schedule(model.grid(steps))
        assert len(signal) == steps + 1
        assert (level.diff() < 0).all()
        assert (signal.diff() > 0).all()


def test_batch_equals_loop(model: Model) -> None:
    x_t, t = noise(model.latent_shape, range(4)), times(model, 4)
    condition, pictures = model.condition(PROMPTS), torch.rand(4, 3, *model.image_size, generator=generator(0, "pictures"))
    with torch.no_grad():
        together = [model.denoise(x_t, t, condition).value, condition.text, model.encode(pictures), model.decode(x_t)]
        alone = [
            torch.cat([model.denoise(x_t[[i]], t[[i]], condition[[i]]).value for i in range(4)]),
            torch.cat([model.condition([p]).text for p in PROMPTS]),
            torch.cat([model.encode(p[None]) for p in pictures]),
            torch.cat([model.decode(x[None]) for x in x_t]),
        ]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_pictures_and_latents_have_the_sizes_that_are_told(model: Model) -> None:
    latents = model.encode(torch.full((1, 3, *model.image_size), 0.5))
    assert latents.shape == (1, *model.latent_shape)
    decoded = model.decode(10 * noise(model.latent_shape, [0]))
    assert decoded.shape == (1, 3, *model.image_size)
    assert decoded.dtype == torch.float32
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_conditions_follow_the_prompt(model: Model) -> None:
    """Equal prompts, equal rows; others, others. Rows carry the dtype that latents are drawn in."""
    text = model.condition(["a bag", "a boot", "a bag", ""]).text
    assert text.is_floating_point()
    assert torch.equal(text[0], text[2])
    assert not torch.equal(text[0], text[1])
    assert not torch.equal(text[0], text[3])
    x, t = noise(model.latent_shape, [0]).expand(2, -1, -1, -1), times(model, 1).expand(2)
    with torch.no_grad():
        seen = model.denoise(x, t, model.condition(["a bag", "a boot"])).value
    assert not torch.equal(seen[0], seen[1])


def test_scopes_nest_in_all_and_weights_have_values(model: Model) -> None:
    every = set(model.scope("all"))
    for scope in ("attention", "self-attention", "non-cross-attention", "unet"):
        chosen = model.scope(scope)
        assert chosen
        assert set(chosen) <= every
    assert all(model.tensor(name).numel() for name in every)
    assert not any(name.startswith("vae.") for name in every)
    with pytest.raises(UnknownName, match="did you mean 'attention'"):
        model.scope("atention")
    with pytest.raises(Incompatible, match=r"has no weight named 'nowhere\.weight'"):
        model.tensor("nowhere.weight")


def test_an_edited_view_shares_what_it_leaves_alone(model: Model) -> None:
    mark, before = model.fingerprint, draw(model)
    name = model.scope("attention")[0]
    view = model.edited(Edit(mark, "shift", tensors={name: model.tensor(name) + 0.5}))
    assert view.fingerprint != mark
    assert not torch.equal(draw(view), before)
    assert torch.equal(draw(model), before)
    for other in model.scope("all"):
        assert (view.tensor(other).data_ptr() == model.tensor(other).data_ptr()) == (other != name)
    with pytest.raises(Incompatible, match="was made on a model with fingerprint"):
        view.edited(Edit(mark, "shift", tensors={name: model.tensor(name)}))


def test_a_trainable_view_learns_and_the_model_does_not(model: Model) -> None:
    mark, names = model.fingerprint, model.scope("attention")
    view, leaves = model.trainable(names)
    assert list(leaves) == names
    seen = view.denoise(noise(model.latent_shape, [0]), times(model, 1), model.condition(["a bag"]))
    seen.value.square().mean().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves.values())
    assert any((leaf.grad != 0).any() for leaf in leaves.values() if leaf.grad is not None)
    with torch.no_grad():
        for leaf in leaves.values():
            leaf += 1
    assert all(torch.equal(view.tensor(n), model.tensor(n) + 1) for n in names)
    getattr(model, "_hashes", {}).clear()
    assert model.fingerprint == mark


def test_adapters_start_as_nothing_and_become_an_edit(model: Model) -> None:
    names, before = model.scope("attention"), draw(model)
    view, leaves = model.adapted(names, rank=2, alpha=4.0, init="gaussian", rng=generator(0, "adapter"))
    assert list(leaves) == names
    torch.testing.assert_close(draw(view), before, atol=1e-6, rtol=0)
    with torch.no_grad():
        for _, up in leaves.values():
            up.copy_(torch.randn(up.shape, generator=generator(0, "up")) / 4)
    edit = Edit(model.fingerprint, "adapter", factors=folded(leaves, rank=2, alpha=4.0))
    torch.testing.assert_close(draw(view), draw(model.edited(edit)), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(draw(view), before, atol=1e-2)
    assert torch.equal(draw(model), before)


def test_fingerprints_tell_schedules_and_weights_apart(model: Model) -> None:
    name = model.scope("unet")[-1]
    same = model.edited(Edit(model.fingerprint, "nothing", tensors={name: model.tensor(name).clone()}))
    assert same.fingerprint == model.fingerprint
    flat = model.tensor(name).clone()
    flat.view(-1)[0] = torch.nextafter(flat.view(-1)[0], torch.tensor(9.0))
    assert model.edited(Edit(model.fingerprint, "bit", tensors={name: flat})).fingerprint != model.fingerprint
