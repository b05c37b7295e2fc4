"""The model family: prediction views, scopes, fingerprints, and loading that refuses whatever is not whole."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oracles import Gaussian, scheduler, tiny_model, tiny_parts, tokenizer
from vestige import models
from vestige.concepts.images import shipped
from vestige.data import folder
from vestige.diffusion import Condition, Model, Prediction
from vestige.diffusion.sampling import noise
from vestige.edits import Edit
from vestige.errors import BadInput, Incompatible, UnknownName, VestigeError
from vestige.models import Card, catalogue
from vestige.models.latent import SCOPES, LatentModel

KINDS = ("noise", "data", "velocity")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def wardrobe() -> Model:
    return models.load("wardrobe")


@pytest.fixture
def pipeline_folder(tmp_path: Path, tiny: LatentModel) -> Path:
    """A small pipeline in diffusers' layout."""
    tiny.pipeline().save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def views(seen: Prediction) -> dict[str, Tensor]:
    return {"noise": seen.noise, "data": seen.data, "velocity": seen.velocity}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flow", [False, True])
def test_every_view_follows_from_any_prediction(kind: str, flow: bool) -> None:
    """On the circle (signal^2 + level^2 = 1) and on the straight line (signal + level = 1)."""
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64).reshape(-1, 1, 1, 1)
    signal, level = (1 - t, t) if flow else (torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2))
    data, eps = torch.randn(2, 7, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = {"noise": eps, "data": data, "velocity": signal * eps - level * data}
    seen = Prediction(signal * data + level * eps, signal, level, truth[kind], kind)  # type: ignore[arg-type]
    for name, view in views(seen).items():
        torch.testing.assert_close(view, truth[name], atol=1e-12, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_views_of_a_networks_prediction_agree(prediction: str) -> None:
    model = tiny_model(prediction_type=prediction)
    t = torch.tensor([3, 250, 500, 750, 990])
    x_t = noise(model.latent_shape, range(5))
    with torch.no_grad():
        seen = model.denoise(x_t, t, model.condition(["a bag"] * 5))
    assert seen.value is views(seen)[model.kind]
    torch.testing.assert_close(seen.signal**2 + seen.level**2, torch.ones(5, 1, 1, 1))
    torch.testing.assert_close(seen.signal * seen.data + seen.level * seen.noise, x_t, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.signal * seen.noise - seen.level * seen.data, seen.velocity, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_is_linear_in_every_view(kind: str) -> None:
    model = Gaussian(kind=kind)
    x_t, t = noise(model.latent_shape, range(3)).double(), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    given, free = (model.denoise(x_t, t, model.condition([mean] * 3)) for mean in ("2", "0"))
    assert torch.equal(given.guided(free, 0.0).value, free.value)
    for name, view in views(given.guided(free, 3.0)).items():
        torch.testing.assert_close(view, views(free)[name] + 3 * (views(given)[name] - views(free)[name]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(2,), (4,)])
def test_rows_of_a_condition(shape: tuple[int, ...]) -> None:
    text, pooled = torch.arange(12.0).reshape(3, 2, 2), torch.arange(3.0).reshape(3, 1)
    both = Condition(text, pooled)
    assert len(both) == 3
    assert torch.equal(both[[2, 0]].text, text[[2, 0]])
    assert torch.equal(both.repeat(shape[0]).pooled.flatten(), torch.arange(3.0).repeat_interleave(shape[0]))  # type: ignore[union-attr]
    assert torch.equal(both.join(both[1:]).text, torch.cat([text, text[1:]]))
    assert Condition(text).join(both).pooled is None


def test_schedule_is_the_schedulers(tiny: LatentModel) -> None:
    t = torch.tensor([0, 1, 500, 999])
    signal, level = tiny.schedule(t)
    torch.testing.assert_close(signal**2, scheduler().alphas_cumprod[t])
    torch.testing.assert_close(signal**2 + level**2, torch.ones(4))
    clean = tiny_model(set_alpha_to_one=True).schedule(torch.tensor([-1]))
    assert [v.item() for v in clean] == [1, 0]
    assert tiny.schedule(torch.tensor([-1]))[0] == signal[0]  # set_alpha_to_one is off: the last step ends at time 0


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_grid_falls_from_noise_to_the_clean_end(tiny: LatentModel, steps: int) -> None:
    grid = tiny.grid(steps)
    assert len(grid) == steps + 1
    assert grid[-1] == -1
    assert (grid[:-1].diff() < 0).all()
    _, level = tiny.schedule(grid)
    assert (level.diff() < 0).all()


def test_training_times_cover_the_schedule(tiny: LatentModel) -> None:
    rng = torch.Generator().manual_seed(0)
    t = tiny.draw_times(20000, rng)
    assert (t.min().item(), t.max().item()) == (0, 999)
    assert abs(t.double().mean() - 499.5) < 4 * (1000 / 12**0.5) / 20000**0.5


def test_batch_equals_loop(tiny: LatentModel) -> None:
    x_t, t, prompts = noise(tiny.latent_shape, range(4)), torch.tensor([1, 300, 600, 999]), ["a bag", "neon", "", "a boot"]
    condition, pictures = tiny.condition(prompts), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = [tiny.denoise(x_t, t, condition).value, condition.text, tiny.encode(pictures), tiny.decode(x_t)]
        alone = [
            torch.cat([tiny.denoise(x_t[i : i + 1], t[i : i + 1], condition[[i]]).value for i in range(4)]),
            torch.cat([tiny.condition([p]).text for p in prompts]),
            torch.cat([tiny.encode(p[None]) for p in pictures]),
            torch.cat([tiny.decode(x[None]) for x in x_t]),
        ]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_shapes_follow_from_the_parts(tiny: LatentModel) -> None:
    assert tiny.latent_shape == (4, 8, 8)
    assert tiny.image_size == (32, 32)
    assert tiny.encode(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 8, 8)
    decoded = tiny.decode(10 * noise(tiny.latent_shape, [0]))
    assert decoded.shape == (1, 3, 32, 32)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_network_with_other_inputs_than_outputs_is_refused() -> None:
    parts = tiny_parts()
    parts["unet"].register_to_config(in_channels=9)
    with pytest.raises(Incompatible, match=r"9 input channels \(inpainting\?\)"):
        LatentModel("inpainting", parts, tokenizer(), scheduler())


def by_module(model: LatentModel, chosen: Callable[[str, nn.Module], bool]) -> set[str]:
    """Weights of the U-Net's modules that are chosen by name and type, each weight by the module that holds it directly."""
    unet = model.parts["unet"]
    return {
        f"unet.{m}.{p}"
        for m, module in unet.named_modules()
        for p in module._parameters
        if chosen(m, module) and module._parameters[p] is not None
    }


CROSS = re.compile(r"\battn2\b")
LINEAR = (nn.Linear, nn.Conv2d)
EXPECTED: dict[str, Callable[[str, nn.Module], bool]] = {
    "cross-attention": lambda name, module: bool(CROSS.search(name)),
    "cross-attention-kv": lambda name, module: re.search(r"attn2\.to_[kv]$", name) is not None,
    "self-attention": lambda name, module: re.search(r"\battn1\b", name) is not None,
    "non-cross-attention": lambda name, module: isinstance(module, LINEAR) and not CROSS.search(name),
    "compvis-noxattn": lambda name, module: (
        not CROSS.search(name) and name.partition(".")[0] not in ("time_embedding", "conv_out", "conv_norm_out")
    ),
    "unet": lambda name, module: True,
}


@pytest.mark.parametrize("scope", EXPECTED)
def test_scopes_hold_what_they_say(tiny: LatentModel, wardrobe: Model, scope: str) -> None:
    for model in (tiny, wardrobe):
        assert isinstance(model, LatentModel)
        names = model.scope(scope)
        assert set(names) == by_module(model, EXPECTED[scope])
        assert len(set(names)) == len(names)


def test_biases_and_gains_are_the_vectors(tiny: LatentModel, wardrobe: Model) -> None:
    for model in (tiny, wardrobe):
        assert set(model.scope("biases-and-gains")) == {name for name in model.scope("unet") if model.tensor(name).dim() == 1}


def test_attention_scope_is_what_adapters_sit_on(tiny: LatentModel) -> None:
    """All projections of both attentions, without biases: the released LoRA scripts' targets."""
    projections = ("to_q", "to_k", "to_v", "to_out.0")
    blocks = {n.rpartition(".attn")[0] for n in tiny.scope("cross-attention")}
    assert set(tiny.scope("attention")) == {f"{b}.attn{i}.{p}.weight" for b in blocks for i in (1, 2) for p in projections}


def test_scopes_nest_and_part(tiny: LatentModel) -> None:
    chosen = {name: set(tiny.scope(name)) for name in SCOPES}
    assert chosen["cross-attention-kv"] < chosen["cross-attention"] < chosen["unet"] < chosen["all"]
    assert not chosen["non-cross-attention"] & chosen["cross-attention"]
    assert chosen["all"] == chosen["unet"] | chosen["text-encoder"]
    assert not chosen["unet"] & chosen["text-encoder"]
    assert not any(n.startswith("vae.") for n in chosen["all"])
    for names in chosen.values():
        assert names
        assert all(tiny.tensor(n).numel() for n in names)


def test_unknown_scope_suggests(tiny: LatentModel) -> None:
    with pytest.raises(UnknownName, match="unknown scope 'cross-atention'; did you mean 'cross-attention'"):
        tiny.scope("cross-atention")


def test_scope_is_never_empty() -> None:
    from diffusers import UNet2DModel

    parts = tiny_parts()
    parts["unet"] = UNet2DModel(
        8, 4, 4, block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2
    )
    model = LatentModel("unconditional", parts, tokenizer(), scheduler())
    with pytest.raises(Incompatible, match="scope 'cross-attention' selects no weight of unconditional"):
        model.scope("cross-attention")


def test_unknown_tensor_is_refused(tiny: LatentModel) -> None:
    for name in ("unet.nowhere.weight", "brain.weight", "unet", ""):
        with pytest.raises(Incompatible, match="has no weight named"):
            tiny.tensor(name)


def test_equal_weights_equal_fingerprints(tiny: LatentModel) -> None:
    assert tiny_model().fingerprint == tiny.fingerprint
    assert tiny_model(seed=1).fingerprint != tiny.fingerprint


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_fingerprint_sees_one_changed_weight(tiny: LatentModel, part: str) -> None:
    """One element by its last bit, in any component; undone, the fingerprint is the old one."""
    changed = tiny_model()
    weight = next(p for p in changed.parts[part].parameters() if p.dim() > 1)
    before = weight.detach().clone()
    flat = weight.detach().view(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(math.inf))
    assert changed.fingerprint != tiny.fingerprint
    weight.detach().copy_(before)
    changed._hashes.clear()
    assert changed.fingerprint == tiny.fingerprint


def test_fingerprint_of_a_view_is_that_of_its_weights(tiny: LatentModel) -> None:
    name = tiny.scope("cross-attention-kv")[0]
    view = tiny.edited(Edit(tiny.fingerprint, "shift", tensors={name: tiny.tensor(name) + 1}))
    assert isinstance(view, LatentModel)
    fresh = LatentModel("fresh", view.parts, view.tokenizer, view.scheduler)
    assert view.fingerprint == fresh.fingerprint != tiny.fingerprint


def test_autoencoder_keeps_the_shipped_pictures(wardrobe: Model) -> None:
    real = shipped(folder() / "wardrobe/pictures/references").images[::8]
    again = wardrobe.decode(wardrobe.encode(real))
    assert again.shape == real.shape
    assert (again - real).abs().mean() < 0.1
    grey = torch.full_like(real, 0.5)
    assert (again - real).square().mean() < 0.25 * (grey - real).square().mean()


@pytest.mark.parametrize("name", sorted(name for name, found in catalogue.cards().items() if found.family == "latent"))
def test_every_shipped_model_loads_and_is_its_own(name: str, wardrobe: Model) -> None:
    model = wardrobe if name == "wardrobe" else models.load(name)
    assert isinstance(model, LatentModel)
    assert model.name == name
    assert (model.fingerprint == wardrobe.fingerprint) == (name == "wardrobe")
    assert model.latent_shape == wardrobe.latent_shape
    assert model.image_size == wardrobe.image_size
    assert not any(p.requires_grad for part in model.parts.values() for p in part.parameters())
    assert not any(part.training for part in model.parts.values())
    assert all(p.isfinite().all() for part in model.parts.values() for p in part.parameters())
    found = catalogue.card(name)
    assert found.about
    if found.twin_of:
        shared = [n for n in model._names() if not n.startswith("unet.")]
        assert all(torch.equal(model.tensor(n), wardrobe.tensor(n)) for n in shared)


def test_cards_know_twins_and_worlds() -> None:
    assert catalogue.world_of("wardrobe") == catalogue.world_of("wardrobe-never-sneaker") == "wardrobe"
    assert catalogue.world_of("somewhere/else") == ""
    twin = catalogue.card("wardrobe-never-sneaker")
    assert (twin.twin_of, twin.never_drew) == ("wardrobe", ("sneaker",))
    assert "wardrobe-never-sneaker" in catalogue.twins("wardrobe", "sneaker")
    assert catalogue.twins("wardrobe", "unheard of") == []
    assert catalogue.twins("somewhere/else", "sneaker") == []


def test_twins_are_sorted_by_closeness_and_never_the_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "w": Card("w"),
        "b": Card("b", twin_of="w", never_drew=("x",)),
        "a": Card("a", twin_of="w", never_drew=("x", "y")),
        "c": Card("c", twin_of="w", never_drew=("x",)),
        "d": Card("d", twin_of="v", never_drew=("x",)),
    }
    monkeypatch.setattr(catalogue, "cards", lambda: table)
    assert catalogue.twins("w", "x") == ["b", "c", "a"]
    assert catalogue.twins("w", "y") == ["a"]
    assert catalogue.twins("b", "x") == ["c", "a"]


def test_unknown_model_suggests() -> None:
    with pytest.raises(UnknownName, match="unknown model 'wardobe'; did you mean 'wardrobe'"):
        catalogue.card("wardobe")


def test_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is a folder without model_index\.json; give a pipeline saved in diffusers' layout"):
        models.load(str(tmp_path))


def test_pipeline_folder_loads_whole(pipeline_folder: Path, tiny: LatentModel) -> None:
    model = models.load(str(pipeline_folder))
    assert model.fingerprint == tiny.fingerprint
    x_t, t = noise(tiny.latent_shape, [0]), torch.tensor([500])
    seen = [m.denoise(x_t, t, m.condition(["a neon bag"])).value for m in (model, tiny)]
    assert torch.equal(*seen)


@pytest.mark.parametrize("part", catalogue.PARTS)
def test_missing_folder_is_named(pipeline_folder: Path, part: str) -> None:
    shutil.rmtree(pipeline_folder / part)
    with pytest.raises(BadInput, match=f"has no folder {part} at .*{part}; give a folder in diffusers' layout"):
        models.load(str(pipeline_folder))


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("conv_in.weight"), r"unet of .* does not load whole: missing_keys \['conv_in\.weight'\]"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), r"unet of .* does not load whole: unexpected_keys \['extra'\]"),
    ],
)
def test_weights_that_are_not_whole_are_refused(pipeline_folder: Path, change: Callable[[dict[str, Tensor]], None], message: str) -> None:
    rewrite(pipeline_folder / WEIGHTS, change)
    with pytest.raises(BadInput, match=message):
        models.load(str(pipeline_folder))


def test_weights_of_another_shape_are_refused(pipeline_folder: Path) -> None:
    rewrite(pipeline_folder / WEIGHTS, lambda tensors: tensors.update({"conv_in.weight": torch.zeros(2, 2)}))
    with pytest.raises(VestigeError, match=r"conv_in\.weight"):
        models.load(str(pipeline_folder))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_cut_short_are_refused(pipeline_folder: Path, part: str) -> None:
    (file,) = (pipeline_folder / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(VestigeError, match=part):
        models.load(str(pipeline_folder))


@pytest.fixture
def data(tmp_path: Path, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with one small model, its hashes on its card."""
    import hashlib

    root = pipeline_folder.parent
    digest = hashlib.sha256((root / "pipe" / WEIGHTS).read_bytes()).hexdigest()
    (root / "models.toml").write_text(f'[pipe]\nabout = "small"\nparts = {{}}\n[pipe.hashes]\n"pipe/{WEIGHTS}" = "{digest}"\n')
    monkeypatch.setattr("vestige.data.folder", lambda: root)
    return root


def test_known_files_load(data: Path, tiny: LatentModel) -> None:
    assert models.load("pipe").fingerprint == tiny.fingerprint


def test_wrong_hash_is_refused(data: Path) -> None:
    """Loads whole, but is not what was released: one bit of one weight differs."""
    file = data / "pipe" / WEIGHTS
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(BadInput, match=r"is not the file that pipe was released with; reinstall vestige"):
        models.load("pipe")


def test_lacking_file_is_refused(data: Path) -> None:
    (data / "pipe" / WEIGHTS).unlink()
    with pytest.raises(BadInput, match=rf"pipe lacks pipe/{re.escape(WEIGHTS)}; reinstall vestige"):
        models.load("pipe")


def test_every_weight_that_ships_has_its_hash_on_a_card() -> None:
    known = {file for found in catalogue.cards().values() for file in found.hashes}
    for found in catalogue.cards().values():
        parts = {"latent": ("unet", "vae", "text_encoder"), "classes": ("unet", "vae")}
        parts["flow"] = ("transformer", "vae", "text_encoder", "text_encoder_2")
        for part in parts[found.family]:
            files = [str(f.relative_to(folder())) for f in found.parts[part].glob("*.safetensors")]
            assert files
            assert set(files) <= known
    judges = [str(f.relative_to(folder())) for f in folder().glob("wardrobe/judge-*/*.safetensors")]
    assert len(judges) == 2
    assert set(judges) <= known


def test_model_index_of_the_embedded_world_names_its_parts() -> None:
    index: dict[str, Any] = json.loads((folder() / "wardrobe/model_index.json").read_text())
    assert set(catalogue.PARTS) <= set(index)


def test_pipeline_without_its_parts_is_refused() -> None:
    class Other:
        unet = nn.Linear(1, 1)

    with pytest.raises(Incompatible, match=r"Other has no vae, text_encoder; Stable Diffusion's layout is supported"):
        LatentModel.from_pipeline(Other())
