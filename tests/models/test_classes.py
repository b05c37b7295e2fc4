"""Class-conditional models: against diffusers' own pipeline and scheduler, prompts as classes, scopes, saving and refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oracles import CLASSES, scheduler, small, tiny_classes, tiny_denoiser, tiny_parts
from vestige import concepts, models, registry
from vestige import models as catalogue
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition
from vestige.diffusion.sampling import Drawing, noise, pictures, sample
from vestige.edits import Edit
from vestige.errors import BadInput, Incompatible, UnknownName
from vestige.methods import Budget, Training, fit
from vestige.methods.objectives import denoising
from vestige.methods.training_data import paired
from vestige.models.classes import SCOPES, ClassModel
from vestige.models.labels import FILE, Labels, named

KINDS = ("unet", "dit")
PART = {"unet": "unet", "dit": "transformer"}
NULL = len(CLASSES)
BAG = concepts.load("bag")
LABELS = Labels({i: (name,) for i, name in enumerate(CLASSES)}, NULL)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tiny(kind: str) -> ClassModel:
    return tiny_classes(kind)


def weight(tiny: ClassModel) -> str:
    """The (first) table of class embeddings."""
    return tiny.scope("class-embedding")[0]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampling_is_that_of_the_dit_pipeline(guidance: float) -> None:
    """Its null class is always number 1000; in training mode it would drop classes. The predicted variance is not used."""
    from diffusers import DiTPipeline

    words = {"207": "golden retriever", "360": "otter"}
    parts = {"transformer": tiny_denoiser("dit", num_embeds_ada_norm=1000).eval(), "vae": tiny_parts()["vae"]}
    pipe = DiTPipeline(**parts, scheduler=scheduler(), id2label={int(k): v for k, v in words.items()})
    pipe.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(3)
    theirs = pipe.to("cpu")([207, 360], guidance_scale=guidance, generator=rng, num_inference_steps=7, output_type="np").images
    model = ClassModel.from_pipeline(pipe)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    condition = model.condition(["a picture of a golden retriever", "otter"])
    ours = model.decode(sample(model, x, condition, steps=7, guidance=guidance, null=model.condition([""])))
    torch.testing.assert_close(ours.permute(0, 2, 3, 1), torch.as_tensor(theirs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_sampling_is_that_of_diffusers_ddim(pixels: bool, prediction: str) -> None:
    """A plain loop around the network as diffusers calls it, with ids, and DDIMScheduler's own step."""
    model, steps, guidance = tiny_classes(pixels=pixels, prediction_type=prediction), 9, 3.0
    unet, theirs = tiny_denoiser(channels=model.latent_shape[0]).eval(), scheduler(prediction_type=prediction)
    x = noise(model.latent_shape, [0, 1])
    ours = sample(model, x, model.condition(["sneaker", "a bag"]), steps=steps, guidance=guidance, null=model.condition([""]))
    theirs.set_timesteps(steps)
    for t in theirs.timesteps:
        with torch.no_grad():
            given, free = (unet(x, t, class_labels=torch.tensor(ids)).sample for ids in ([7, 8], [NULL, NULL]))
        x = theirs.step(free + guidance * (given - free), t, x).prev_sample
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=1e-5)


def test_a_condition_is_the_class_bit_for_bit(kind: str, tiny: ClassModel) -> None:
    """Whether by weights over the classes or by id, the network returns the same."""
    x, t, ids = noise(tiny.latent_shape, range(3)), torch.tensor([10, 500, 990]), torch.tensor([7, 0, NULL])
    network = tiny_denoiser(kind).eval()
    with torch.no_grad():
        ours = tiny.denoise(x, t, tiny.condition(["sneaker", "top", ""])).value
        theirs = network(x, t, class_labels=ids).sample
    assert torch.equal(ours, theirs[:, :4])
    assert theirs.shape[1] == (8 if kind == "dit" else 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_class_survives_half_precision(dtype: torch.dtype) -> None:
    """Ids above 256 are not whole numbers in bfloat16; weights over the classes are."""
    labels = Labels({i: (f"thing {i}",) for i in range(1000)}, 1000)
    model = ClassModel("many", {"transformer": tiny_denoiser("dit", 0, 3, num_embeds_ada_norm=1000).to(dtype)}, labels, scheduler())
    condition = model.condition(["thing 257", "thing 999"])
    assert condition.text.dtype == dtype
    assert condition.text.shape == (2, 1, 1001)
    assert condition.text.argmax(-1).flatten().tolist() == [257, 999]


def test_mixtures_of_classes_are_mixtures_of_embeddings(kind: str, tiny: ClassModel) -> None:
    """Half of each of two classes is a class whose embedding is their mean."""
    half = tiny.condition(["sneaker"]).text / 2 + tiny.condition(["bag"]).text / 2
    tables = {n: tiny.tensor(n).clone() for n in tiny.scope("class-embedding")}
    for table in tables.values():
        table[0] = (table[7] + table[8]) / 2
    view = tiny.edited(Edit(tiny.fingerprint, "mean", {}, "class-embedding", tables))
    x, t = noise(tiny.latent_shape, [0]), torch.tensor([400])
    with torch.no_grad():
        mixed, mean = tiny.denoise(x, t, Condition(half)).value, view.denoise(x, t, view.condition(["top"])).value
    torch.testing.assert_close(mixed, mean, atol=1e-6, rtol=1e-5)
    text = half.clone().requires_grad_(True)
    tiny.denoise(x, t, Condition(text)).value.square().sum().backward()
    assert text.grad is not None
    assert (text.grad != 0).all()


def test_only_the_rows_of_trained_classes_move(tiny: ClassModel) -> None:
    """The spec's trap: whoever trains without a class cannot move its row of the table."""
    student, leaves = tiny.trainable(tiny.scope("class-embedding"))
    condition = tiny.condition(["bag", "boot"])
    data = noise(tiny.latent_shape, [5, 6])
    list(fit(leaves, lambda rng: denoising(student, data, condition, rng), Training(steps=2, lr=0.1), seed=0))
    for name, leaf in leaves.items():
        moved = (leaf.detach() != tiny.tensor(name)).any(1).nonzero().flatten().tolist()
        assert moved == [8, 9]


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("sneaker", 7),
        ("a neon picture of a sneaker", 7),
        ("Sneaker!", 7),
        ("one bag , a Bag", 8),
        ("class 3", 3),
        ("", NULL),
        ("  ", NULL),
    ],
)
def test_prompts_name_a_class(tiny: ClassModel, prompt: str, label: int) -> None:
    assert tiny.condition([prompt]).text.argmax().item() == label


IMAGENET = named({2: "great white shark, white shark, man-eater", 4: "shark", 134: "crane", 517: "crane, hoist", 9: "T-shirt/top"}, 1000)


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("a great white shark", 2),
        ("a man-eater , that is a white shark", 2),
        ("the shark", 4),
        ("a crane with a hoist", 517),
        ("class 134", 134),
        ("a t-shirt/TOP", 9),
    ],
)
def test_names_of_several_words_and_synonyms(prompt: str, label: int) -> None:
    assert IMAGENET.find(prompt, "m") == label


@pytest.mark.parametrize(
    ("labels", "prompt", "message"),
    [
        (LABELS, "two sneakers", r"'two sneakers' names no class of m; did you mean 'sneaker'\? known: top, trouser, .*, boot$"),
        (LABELS, "neon style", r"'neon style' names no class of m; (did you mean .*\? )?known: top"),
        (LABELS, "a bootbag", r"names no class of m"),
        (LABELS, ", ;", r"names no class of m"),
        (LABELS, "a boot and a bag", r"names 'boot' and 'bag', that is class 8, class 9 of m; .* draws one class a prompt"),
        (IMAGENET, "a crane", r"names 'crane', that is class 134, class 517 of m"),
        (named({i: f"thing {i}" for i in range(99)}, 99), "no", r"known: thing 0, .*, thing 11, \.\.\. \(99 in all\)$"),
    ],
)
def test_other_prompts_are_refused_with_what_is_known(labels: Labels, prompt: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        labels.find(prompt, "m")


def test_every_prompt_of_an_object_of_the_world_is_its_class(tiny: ClassModel) -> None:
    for word in CLASSES:
        concept = concepts.load(word)
        rows = tiny.condition([p.text for bank in ("training", "held-out") for p in concept.prompts(bank)]).text
        assert (rows.argmax(-1) == CLASSES.index(word)).all()


LINEAR = (nn.Linear, nn.Conv2d)


def test_scopes_hold_what_they_say(kind: str, tiny: ClassModel) -> None:
    part = PART[kind]
    modules = {f"{part}.{n}": m for n, m in tiny.parts[part].named_modules()}
    every = {f"{part}.{n}" for n, _ in tiny.parts[part].named_parameters()}
    chosen = {name: set(tiny.scope(name)) for name in SCOPES}
    tables = {n for n in every if isinstance(modules[n.rpartition(".")[0]], nn.Embedding)}
    assert chosen["all"] == chosen["unet"] == every
    assert chosen["class-embedding"] == tables
    assert chosen["biases-and-gains"] == {n for n in every if tiny.tensor(n).dim() == 1}
    assert len(tables) == (1 if kind == "unet" else 2)  # DiT has one a block
    assert chosen["without-class-embedding"] == every - tables
    assert chosen["non-cross-attention"] == {n for n in every if isinstance(modules[n.rpartition(".")[0]], LINEAR)}
    projections = {n for n in every if re.search(r"\.(to_q|to_k|to_v|to_out\.0)\.", n)}
    assert chosen["self-attention"] == projections
    assert chosen["attention"] == {n for n in projections if n.endswith(".weight")}
    told = {f"{n}.weight" for n in modules if n.endswith({"unet": ".time_emb_proj", "dit": ".norm1.linear"}[kind])}
    assert told and chosen["conditioned"] == chosen["attention"] | told
    inside = {n for n in every if (".attentions." in n or ".transformer_blocks." in n) and ".emb." not in n and n.endswith(".weight")}
    assert chosen["transformers"] == inside & chosen["non-cross-attention"] >= chosen["attention"]
    assert (chosen["transformers"] == chosen["attention"]) == (kind == "unet")  # DiT's blocks hold more than attention
    kept = {"unet": ("time_embedding", "conv_out", "conv_norm_out"), "dit": ("timestep_embedder", "proj_out_1", "proj_out_2")}[kind]
    assert chosen["compvis-noxattn"] == {n for n in every if not {*n.split(".")} & {*kept}}


@pytest.mark.parametrize("scope", ["cross-attention", "cross-attention-kv", "text-encoder"])
def test_scopes_of_text_are_refused_with_the_reason(tiny: ClassModel, scope: str) -> None:
    with pytest.raises(
        Incompatible, match=r"is told a class, not a prompt: it has no (cross-attention|text encoder); its scopes are .*all$"
    ):
        tiny.scope(scope)
    with pytest.raises(UnknownName, match="did you mean 'class-embedding'"):
        tiny.scope("class-embeding")


def test_a_network_without_attention_says_so() -> None:
    blocks: dict[str, Any] = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
    model = ClassModel("plain", {"unet": tiny_denoiser(channels=3, **blocks)}, LABELS, scheduler())
    with pytest.raises(Incompatible, match="scope 'attention' selects no weight of plain"):
        model.scope("attention")


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("esd", {"variant": "x"}, "it has no cross-attention"),
        ("esd", {"variant": "strict"}, "it has no cross-attention"),
        ("uce", {}, "has no U-Net with cross-attention; there are no keys and values of the text to solve for"),
    ],
)
def test_methods_for_text_refuse(tiny: ClassModel, name: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(Incompatible, match=reason):
        small("unlearners", name, **settings)(tiny, BAG, seed=0)


def test_memora_on_cross_attention_refuses(tiny: ClassModel) -> None:
    with pytest.raises(Incompatible, match="it has no cross-attention"):
        list(attack(tiny, "memora", scope="cross-attention-kv"))


def attack(model: ClassModel, name: str, **settings: Any) -> Any:
    given = PictureSet(torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(0)), "random")
    method = small("attacks", name, **settings)
    return method(model, BAG, Budget((0, 2)), seed=0, select=lambda x: torch.ones(len(x)), pictures=given)


def test_esd_u_moves_everything_but_norms_and_classes(tiny: ClassModel) -> None:
    edit = small("unlearners", "esd", variant="u")(tiny, BAG, seed=0)
    assert edit.scope == "non-cross-attention"
    assert set(edit.touched) == set(tiny.scope("non-cross-attention"))
    seen = [pictures(m, ["bag", "a boot"], [0, 1], Drawing(steps=2)) for m in (tiny, tiny.edited(edit))]
    assert seen[1].isfinite().all()
    assert not torch.equal(*seen)


def test_memora_teaches_adapters_on_the_attention(tiny: ClassModel) -> None:
    *_, last = attack(tiny, "memora")
    assert set(last.edit.factors) == set(tiny.scope("attention"))
    assert last.edit.base == tiny.fingerprint
    x, condition = noise(tiny.latent_shape, [0]), tiny.condition(["bag"])
    assert not torch.equal(sample(tiny.edited(last.edit), x, condition, steps=2), sample(tiny, x, condition, steps=2))


def test_remap_reads_another_class(tiny: ClassModel) -> None:
    view = tiny.edited(registry.build("unlearners", "remap")(tiny, BAG, seed=0))
    text = view.condition(["a neon picture of a bag", "a boot"]).text
    assert torch.equal(text, tiny.condition([BAG.anchor, "boot"]).text)


def test_a_class_model_reads_no_tokens(tiny: ClassModel) -> None:
    with pytest.raises(Incompatible, match="reads no tokens"):
        tiny.tokens(["bag"])


def test_pixels_are_pixels() -> None:
    model, x = tiny_classes(pixels=True), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert model.latent_shape == (3, 8, 8)
    assert model.image_size == (8, 8)
    torch.testing.assert_close(model.encode(x), x * 2 - 1)
    torch.testing.assert_close(model.decode(model.encode(x)), x, atol=1e-6, rtol=0)
    assert (paired(model, PictureSet(x, "random", captions=(("bag",), ("boot",)))).latents == x * 2 - 1).all()
    grey = ClassModel("grey", {"unet": tiny_denoiser(channels=1)}, LABELS, scheduler())
    assert grey.encode(x).shape == (2, 1, 8, 8)
    torch.testing.assert_close(grey.decode(grey.encode(x)), x.mean(1, keepdim=True).expand(-1, 3, -1, -1), atol=1e-6, rtol=0)


def test_the_given_network_stays_as_it_is(kind: str) -> None:
    network = tiny_denoiser(kind)
    flags = [p.requires_grad for p in network.parameters()]
    part = PART[kind]
    assert all(flags)
    pipe = type("Pipe", (), {part: network, "scheduler": scheduler(), "vae": tiny_parts()["vae"]})()
    model = ClassModel.from_pipeline(pipe, classes=CLASSES)
    assert network.training
    assert [p.requires_grad for p in network.parameters()] == flags
    assert not any(type(m).__name__ == "Lookup" for m in network.modules())
    ours, theirs = dict(model.parts[part].named_parameters()), dict(network.named_parameters())
    assert {n: p.data_ptr() for n, p in ours.items()} == {n: p.data_ptr() for n, p in theirs.items()}
    assert model.fingerprint == tiny_classes(kind).fingerprint


def test_fingerprint_reads_the_order_of_the_classes(kind: str, tiny: ClassModel) -> None:
    other = Labels({i: (name,) for i, name in enumerate(reversed(CLASSES))}, NULL)
    swapped = ClassModel("swapped", tiny.parts, other, tiny.scheduler)
    same = ClassModel("same", tiny.parts, LABELS, tiny.scheduler)
    assert same.fingerprint == tiny.fingerprint != swapped.fingerprint
    assert tiny_classes(kind, seed=1).fingerprint != tiny.fingerprint


@pytest.mark.parametrize("pixels", [False, True])
def test_saved_model_loads_as_it_was(tmp_path: Path, kind: str, pixels: bool) -> None:
    model = tiny_classes(kind, pixels=pixels)
    loaded = models.load(str(model.save(tmp_path / "model")))
    assert isinstance(loaded, ClassModel)
    assert loaded.fingerprint == model.fingerprint
    drawn = [pictures(m, ["a bag", "boot"], [1, 2], Drawing(steps=2)) for m in (model, loaded)]
    assert torch.equal(*drawn)
    identity = catalogue.identity(str(tmp_path / "model"))
    assert any(file.endswith(FILE) for file in identity)
    assert sum(file.endswith(".safetensors") for file in identity) == (1 if pixels else 2)


def test_saved_dit_is_a_dit_pipeline(tmp_path: Path) -> None:
    from diffusers import DiTPipeline

    model = tiny_classes("dit")
    model.save(tmp_path)
    pipe = DiTPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert pipe.get_label_ids(["sneaker", "bag"]) == [7, 8]
    assert ClassModel.from_pipeline(pipe).fingerprint == model.fingerprint
    (tmp_path / FILE).unlink()  # the names are in model_index.json, where DiTPipeline looks for them
    assert models.load(str(tmp_path)).fingerprint == model.fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_classes().save(tmp_path / "model")


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler"])
def test_missing_folder_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(BadInput, match=f"has no folder {part} at .*{part}; give a folder in diffusers' layout"):
        models.load(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"needs the names of its classes: write .*class_labels\.json"),
        ("{", r"needs the names of its classes"),
        ('{"classes": ["cat"], "null": [1]}', r"needs the names of its classes"),
        ('{"classes": ["cat", "dog"], "null": 1}', r"no embedding left for the empty prompt: class 1 is 'dog'"),
        ('{"classes": {"0": "cat", "11": "dog"}}', r"has 11 class embeddings; class 11 is to lie within 0\.\.10"),
        ('{"classes": ["cat", " , "]}', r"class 1 of .* lacks a name; give it one in class_labels\.json"),
        ('{"classes": []}', r"every class of .* lacks a name"),
    ],
)
def test_classes_that_do_not_fit_are_refused(folder: Path, text: str | None, message: str) -> None:
    (folder / FILE).unlink()
    if text is not None:
        (folder / FILE).write_text(text)
    with pytest.raises(BadInput, match=message):
        models.load(str(folder))


def test_null_class_is_the_last_row_unless_said(folder: Path) -> None:
    (folder / FILE).write_text(json.dumps(["sneaker"]))
    with pytest.raises(BadInput, match="needs the names"):
        models.load(str(folder))
    for null, text in ((10, {"classes": ["sneaker"]}), (5, {"classes": ["sneaker"], "null": 5})):
        (folder / FILE).write_text(json.dumps(text))
        assert models.load(str(folder)).condition([""]).text.argmax().item() == null


def test_weights_that_are_not_whole_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors: dict[str, Tensor] = load_file(file)
    save_file({k: v for k, v in tensors.items() if k != "class_embedding.weight"}, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"unet of .* does not load whole: missing_keys \['class_embedding\.weight'\]"):
        models.load(str(folder))


def test_broken_index_is_refused(folder: Path) -> None:
    for text in ("{", "[]", '{"unet": 3}'):
        (folder / "model_index.json").write_text(text)
        with pytest.raises(BadInput, match=r"model_index\.json cannot be read"):
            models.load(str(folder))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "bad has neither unet nor transformer"),
        ({"unet": tiny_denoiser(channels=3), "transformer": tiny_denoiser("dit", 0, 3)}, "bad has unet and transformer; .* one of the two"),
        ({"unet": tiny_denoiser(num_class_embeds=None)}, "no table of class embeddings"),
        ({"unet": tiny_denoiser(num_class_embeds=None, class_embed_type="timestep")}, "no table of class embeddings"),
        ({"unet": tiny_denoiser(channels=4)}, "bad has 4 channels and no autoencoder"),
        ({"unet": tiny_denoiser(channels=3, out_channels=4)}, "bad reads 3 channels and predicts 4"),
        ({"unet": tiny_denoiser(channels=3, sample_size=None)}, "does not say the size of its pictures"),
    ],
)
def test_networks_that_do_not_fit_are_refused(parts: dict[str, nn.Module], message: str) -> None:
    with pytest.raises(Incompatible, match=message):
        ClassModel("bad", parts, LABELS, scheduler())


def test_cards_of_class_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that ships, and its twin, which borrows all but its network."""
    one, other = tiny_classes(), tiny_classes(seed=1)
    one.save(tmp_path / "w")
    other.save(tmp_path / "w-never-bag")
    for part in ("vae", "scheduler", FILE, "model_index.json"):
        spot = tmp_path / "w-never-bag" / part
        shutil.rmtree(spot) if spot.is_dir() else spot.unlink()
    common = (
        'family = "classes"\nworld = "wardrobe"\ngroups = ["object"]\nparts = { vae = "w/vae", scheduler = "w/scheduler", labels = "w", '
    )
    (tmp_path / "models.toml").write_text(
        f'[w]\n{common}unet = "w/unet" }}\n[w-never-bag]\ntwin_of = "w"\nnever_drew = ["bag"]\n{common}unet = "w-never-bag/unet" }}\n'
    )
    monkeypatch.setattr("vestige.data.folder", lambda: tmp_path)
    assert catalogue.twins("w", "bag") == ["w-never-bag"]
    assert catalogue.card("w").groups == ("object",)
    assert models.load("w").fingerprint == one.fingerprint
    twin = models.load("w-never-bag")
    assert isinstance(twin, ClassModel)
    assert torch.equal(twin.tensor(weight(twin)), other.tensor(weight(twin)))
    assert set(twin.parts) == {"unet", "vae"}
