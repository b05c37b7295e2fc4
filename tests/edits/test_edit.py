"""Edits: views share tensors, arithmetic is exact, files survive, foreign ones are refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oracles import tiny_model, tiny_xl
from vestige.checkpoints import exports
from vestige.diffusion import Model
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit, Hook, combine, difference, measure, scale
from vestige.edits.arithmetic import distance
from vestige.edits.surgery import folded
from vestige.errors import BadInput, Incompatible
from vestige.models.latent import LatentModel
from vestige.seeds import generator

KV = "cross-attention-kv"


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def draw(model: Model, prompt: str = "a sneaker") -> Tensor:
    return sample(model, noise(model.latent_shape, [0, 1]), model.condition([prompt, "neon"]), steps=4)


def random_edit(model: Model, seed: int = 0, scope: str = KV, size: float = 0.5) -> Edit:
    rng = torch.Generator().manual_seed(seed)
    values = {n: model.tensor(n) + size * torch.randn(model.tensor(n).shape, generator=rng) for n in model.scope(scope)}
    return Edit(model.fingerprint, "random", {"seed": seed}, scope, values)


def low_rank_edit(model: Model, seed: int = 0, rank: int = 3) -> Edit:
    rng = torch.Generator().manual_seed(seed)
    factors = {}
    for name in model.scope("attention"):
        out, into = model.tensor(name).flatten(1).shape
        factors[name] = (torch.randn(rank, into, generator=rng), 0.1 * torch.randn(out, rank, generator=rng))
    return Edit(model.fingerprint, "low-rank", {}, "attention", factors=factors)


def storages(model: LatentModel) -> dict[str, int]:
    return {n: model._parameter(n).data_ptr() for n in model._names()}


def test_view_shares_every_untouched_tensor(tiny: LatentModel) -> None:
    edit = random_edit(tiny)
    view = tiny.edited(edit)
    base, mine = storages(tiny), storages(view)  # type: ignore[arg-type]
    assert {n for n in base if base[n] != mine[n]} == set(edit.touched)


def test_memory_of_a_view_is_the_edit_alone(tiny: LatentModel) -> None:
    """Bytes of base and view together, under an attention-only edit, beside the base alone."""
    view = tiny.edited(random_edit(tiny))
    sizes = {p.data_ptr(): p.numel() * p.element_size() for m in (tiny, view) for part in m.parts.values() for p in part.parameters()}  # type: ignore[attr-defined]
    alone = sum(p.numel() * p.element_size() for part in tiny.parts.values() for p in part.parameters())
    edit = sum(tiny.tensor(n).numel() * 4 for n in tiny.scope(KV))
    assert sum(sizes.values()) == alone + edit
    assert edit < 0.05 * alone


def test_base_is_unchanged_and_the_edit_works(tiny: LatentModel) -> None:
    before, mark = draw(tiny), tiny.fingerprint
    view = tiny.edited(random_edit(tiny))
    assert not torch.allclose(draw(view), before, atol=1e-3)
    assert torch.equal(draw(tiny), before)
    tiny._hashes.clear()
    assert tiny.fingerprint == mark
    assert view.fingerprint != mark


def test_empty_edit_is_the_model_bit_for_bit(tiny: LatentModel) -> None:
    view = tiny.edited(Edit(tiny.fingerprint, "nothing"))
    assert torch.equal(draw(view), draw(tiny))
    assert view.fingerprint == tiny.fingerprint


def test_trained_leaves_do_not_reach_the_base(tiny: LatentModel) -> None:
    before = tiny.fingerprint
    view, leaves = tiny.trainable(tiny.scope(KV))
    loss = view.denoise(noise(tiny.latent_shape, [0]), torch.tensor([500]), tiny.condition(["a"])).value.square().mean()
    loss.backward()
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves.values())
    with torch.no_grad():
        for leaf in leaves.values():
            leaf.add_(1.0)
    tiny._hashes.clear()
    assert tiny.fingerprint == before
    assert not any(p.requires_grad for part in tiny.parts.values() for p in part.parameters())


def test_adapter_equals_its_factors(tiny: LatentModel) -> None:
    """peft's forward pass and the folded edit draw the same picture."""
    names = tiny.scope("attention")
    view, leaves = tiny.adapted(names, rank=3, alpha=6.0, init="gaussian", rng=generator(0))
    assert torch.equal(draw(view), draw(tiny))  # `up` starts at zero
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, up in leaves.values():
            up.copy_(0.3 * torch.randn(up.shape, generator=rng))
    edit = Edit(tiny.fingerprint, "lora", {}, "attention", factors=folded(leaves, rank=3, alpha=6.0))
    torch.testing.assert_close(draw(tiny.edited(edit)), draw(view), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(draw(view), draw(tiny), atol=1e-3)


def test_adapting_leaves_global_randomness_alone(tiny: LatentModel) -> None:
    state = torch.random.get_rng_state()
    first = tiny.adapted(tiny.scope(KV), rank=2, alpha=2, init="kaiming", rng=generator(3))[1]
    again = tiny.adapted(tiny.scope(KV), rank=2, alpha=2, init="kaiming", rng=generator(3))[1]
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[n][0], again[n][0]) for n in first)


def test_combine_adds_changes(tiny: LatentModel) -> None:
    one, two = random_edit(tiny, 0), low_rank_edit(tiny, 1)
    both = combine(tiny, [(one, 0.5), (two, 2.0)])
    for name in both.touched:
        base = tiny.tensor(name)
        expected = base + 0.5 * (one.weight(name, base) - base) + 2.0 * (two.weight(name, base) - base)
        torch.testing.assert_close(both.weight(name, base), expected, atol=1e-5, rtol=1e-5)


def test_scale_zero_is_the_model_and_one_the_edit(tiny: LatentModel) -> None:
    for edit in (random_edit(tiny), low_rank_edit(tiny)):
        assert torch.equal(draw(tiny.edited(scale(tiny, edit, 0.0))), draw(tiny))
        torch.testing.assert_close(draw(tiny.edited(scale(tiny, edit, 1.0))), draw(tiny.edited(edit)), atol=1e-6, rtol=0)


def test_difference_finds_the_edit(tiny: LatentModel) -> None:
    edit = random_edit(tiny)
    found = difference(tiny, tiny.edited(edit), tiny.scope("all"))
    assert found.touched == edit.touched
    assert all(torch.equal(found.tensors[n], edit.tensors[n]) for n in edit.touched)


def test_measure_knows_constructed_changes(tiny: LatentModel) -> None:
    name = tiny.scope(KV)[0]
    base = tiny.tensor(name)
    edit = Edit(tiny.fingerprint, "double", {}, KV, {name: base * 2})
    (change,) = measure(tiny, edit)
    assert change.relative == pytest.approx(1.0)
    assert change.share == 1.0
    assert change.norm == pytest.approx(base.norm().item(), rel=1e-5)


@pytest.mark.parametrize("make", [random_edit, low_rank_edit])
def test_save_and_load(tiny: LatentModel, tmp_path: Path, make: object) -> None:
    edit = replace(make(tiny), hooks=(Hook("unlearners", "remap", {"words": "sneaker", "towards": "boot"}),), notes={"seed": 3})  # type: ignore[operator]
    back = Edit.load(edit.save(tmp_path / "deep/edit.safetensors"))
    assert (back.base, back.method, dict(back.settings), back.scope, back.hooks, back.notes) == (
        edit.base,
        edit.method,
        dict(edit.settings),
        edit.scope,
        edit.hooks,
        edit.notes,
    )
    assert torch.equal(draw(tiny.edited(back)), draw(tiny.edited(edit)))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["edit.safetensors"]


def test_another_base_is_refused(tiny: LatentModel) -> None:
    with pytest.raises(Incompatible, match="was made on a model with fingerprint"):
        tiny_model(seed=1).edited(random_edit(tiny))


def test_wrong_shape_and_unknown_name_are_refused(tiny: LatentModel) -> None:
    name = tiny.scope(KV)[0]
    with pytest.raises(Incompatible, match="has shape"):
        tiny.edited(Edit(tiny.fingerprint, "x", tensors={name: torch.zeros(2, 2)}))
    with pytest.raises(Incompatible, match="no weight named"):
        tiny.edited(Edit(tiny.fingerprint, "x", tensors={"unet.nowhere.weight": torch.zeros(2)}))
    with pytest.raises(Incompatible, match="no weight named"):
        tiny.edited(Edit(tiny.fingerprint, "x", tensors={"brain.weight": torch.zeros(2)}))


def broken_files(folder: Path, whole: bytes) -> Iterator[tuple[str, Path, str]]:
    from safetensors.torch import save_file

    cut = folder / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    yield "truncated", cut, "not a whole safetensors file"
    text = folder / "text.safetensors"
    text.write_text("not weights")
    yield "foreign bytes", text, "not a whole safetensors file"
    foreign = folder / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    yield "foreign safetensors", foreign, "no Vestige edit"
    bad = folder / "bad.safetensors"
    save_file({"a": torch.zeros(2)}, bad, metadata={"format": "vestige-edit-1", "edit": "{"})
    yield "damaged header", bad, "damaged edit header"
    yield "missing", folder / "none.safetensors", "no edit at"


def test_unusable_files_are_refused_with_the_reason(tiny: LatentModel, tmp_path: Path) -> None:
    whole = random_edit(tiny).save(tmp_path / "whole.safetensors").read_bytes()
    for _, path, message in broken_files(tmp_path, whole):
        with pytest.raises(BadInput, match=message):
            Edit.load(path)


def test_full_disk_leaves_no_half_written_edit(tiny: LatentModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(BadInput, match="No space left on device"):
        random_edit(tiny).save(tmp_path / "edit.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_lora_file_loads_with_diffusers(tiny: LatentModel, tmp_path: Path) -> None:
    edit = low_rank_edit(tiny)
    assert exports.adapter(edit, tiny, tmp_path) == tmp_path / "pytorch_lora_weights.safetensors"
    before, pipe = draw(tiny), tiny.pipeline()
    pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    theirs = LatentModel("with lora", {**tiny.parts, "unet": pipe.unet}, tiny.tokenizer, tiny.scheduler)
    torch.testing.assert_close(draw(theirs), draw(tiny.edited(edit)), atol=1e-5, rtol=1e-4)
    assert torch.equal(draw(tiny), before), "a pipeline that is loaded with an adapter leaves the model as it was"


def test_pipeline_in_pipeline_out(tiny: LatentModel) -> None:
    edit, pipe = random_edit(tiny), tiny.pipeline()
    made = edit.to_pipeline(pipe)
    assert type(made) is type(pipe)
    back = LatentModel.from_pipeline(made)
    assert torch.equal(draw(back), draw(tiny.edited(edit)))
    assert torch.equal(draw(LatentModel.from_pipeline(pipe)), draw(tiny))


def test_hooks_compose_and_refuse_scaling(tiny: LatentModel) -> None:
    hook = Hook("unlearners", "remap", {"words": "sneaker", "towards": "boot"})
    edit = Edit(tiny.fingerprint, "remap", hooks=(hook,))
    view = tiny.edited(edit)
    assert torch.equal(draw(view), draw(tiny, "a boot"))
    assert torch.equal(draw(view, "a bag"), draw(tiny, "a bag"))
    assert view.fingerprint != tiny.fingerprint
    inner = Edit(view.fingerprint, "random", {}, KV, dict(random_edit(tiny).tensors))
    assert torch.equal(draw(view.edited(inner)), draw(tiny.edited(random_edit(tiny)), "a boot"))
    with pytest.raises(Incompatible, match="cannot be scaled"):
        scale(tiny, edit, 0.5)


def test_several_changes_are_one_distance(tiny: LatentModel) -> None:
    """As if all touched weights were one vector; nothing to compare with is no distance."""
    names = tiny.scope("unet")[:3]
    edit = Edit(tiny.fingerprint, "shift", {}, "unet", {name: 1.5 * tiny.tensor(name) for name in names})
    changes = [c for c in measure(tiny, edit) if c.norm > 0]
    assert distance(tiny, changes) == pytest.approx(0.5)
    assert distance(tiny, []) is None


@pytest.mark.parametrize("blank", [True, False])
def test_what_a_pipeline_was_told_goes_with_it(blank: bool) -> None:
    """SDXL's empty prompt, zeros or encoded, is no component; guidance draws from it."""
    model = tiny_xl(blank=blank)
    edit = Edit(model.fingerprint, "x", tensors={n: model.tensor(n) * 1.1 for n in model.scope("cross-attention-kv")})
    made = edit.to_pipeline(model.pipeline())
    assert made.config.force_zeros_for_empty_prompt is blank and made.watermark is None
    assert LatentModel.from_pipeline(made).fingerprint == model.edited(edit).fingerprint
