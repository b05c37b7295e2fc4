"""A model's identity: every file that it is read from, and all that makes its pictures; released models keep the names they have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oracles import scheduler, tiny_classes, tiny_flow, tiny_model, tokenizer
from vestige import checkpoints, models
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.models import catalogue
from vestige.models.latent import LatentModel

# Results are stored under these names: they may not move.
RELEASED = {
    "wardrobe": "298f363f6939dc0e1290744e422ae6ecb0b4928dadf8f259b0a193fc83a72cab",
    "wardrobe-never-sneaker": "20a4868361e845e186d188940fb8409506503770925b5a9375c7f9cc84cef37b",
    "wardrobe-classes": "c93d75380d0fa81f91c3843227a64161304f72c11db12d1db0f34e68a4d289c6",
    "wardrobe-flow": "804eeb37d9a6e523b8a3adf0b3d056fd1d02694c6a4b2082e2e1838271def153",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pipeline") / "pipe"
    tiny_model().pipeline().save_pretrained(root, safe_serialization=False)
    return root


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "pipe")


@pytest.mark.parametrize("name", RELEASED)
def test_released_models_keep_their_names(name: str) -> None:
    assert models.load(name).fingerprint == RELEASED[name]
    assert models.load(name).earlier == ()
    assert models.identified(name) == {"model_content": dict(models.card(name).hashes)}


def test_a_released_model_saved_as_a_folder_is_still_itself(tmp_path: Path) -> None:
    world = models.load("wardrobe")
    world.pipeline().save_pretrained(tmp_path / "w")  # type: ignore[attr-defined]
    assert models.load(str(tmp_path / "w")).fingerprint == world.fingerprint
    assert models.from_pipeline(world.pipeline()).fingerprint == world.fingerprint  # type: ignore[attr-defined]


def _weights(folder: Path) -> None:
    file = folder / "unet/diffusion_pytorch_model.bin"
    torch.save({k: v + 0.1 for k, v in torch.load(file, weights_only=True).items()}, file)


def _json(place: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        told = json.loads((folder / place).read_text())
        (folder / place).write_text(json.dumps({**told, **values}))

    return change


def _merges(folder: Path) -> None:
    """The first rule by which letters become pieces is gone."""
    file = folder / "tokenizer/tokenizer.json"
    told = json.loads(file.read_text())
    told["model"]["merges"] = told["model"]["merges"][1:]
    file.write_text(json.dumps(told))
    if (rules := folder / "tokenizer/merges.txt").exists():
        lines = rules.read_text().splitlines()
        rules.write_text("\n".join([lines[0], *lines[2:]]))


CHANGES = {
    "weights in .bin": _weights,
    "prediction type": _json("scheduler/scheduler_config.json", prediction_type="v_prediction"),
    "spacing of steps": _json("scheduler/scheduler_config.json", timestep_spacing="trailing"),
    "noise levels": _json("scheduler/scheduler_config.json", beta_end=0.013),
    "tokenizer": _merges,
    "scaling of latents": _json("vae/config.json", scaling_factor=0.5),
    "shift of latents": _json("vae/config.json", shift_factor=0.25),
    "heads of the U-Net": _json("unet/config.json", attention_head_dim=4),
    "the text encoder's activation": _json("text_encoder/config.json", hidden_act="gelu"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_makes_another_model_is_another_model(folder: Path, what: str) -> None:
    content, mark = catalogue.identity(str(folder)), models.load(str(folder)).fingerprint
    CHANGES[what](folder)
    assert catalogue.identity(str(folder)) != content
    assert models.load(str(folder)).fingerprint != mark


@pytest.mark.parametrize("place", ["model_index.json", "tokenizer/tokenizer_config.json", "unet/config.json", "unet/weights.of.any.kind"])
def test_every_file_that_a_model_is_read_from_counts(folder: Path, place: str) -> None:
    before = catalogue.identity(str(folder))
    with (folder / place).open("a") as file:
        file.write("\n")
    assert catalogue.identity(str(folder)) != before


def test_of_a_single_file_its_description_counts_without_weights(folder: Path) -> None:
    file = folder.parent / "all.safetensors"
    file.write_bytes(b"weights")
    before = catalogue.identity(f"{file}@{folder}")
    assert not any(name.endswith(".bin") for name in before)
    assert {"model_index.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"} <= set(before)


def test_specs_say_by_which_identity_a_model_of_ones_own_is_known(folder: Path) -> None:
    assert models.identified(str(folder)) == {"model_content": catalogue.identity(str(folder)), "identity": catalogue.IDENTITY}


def test_a_name_for_a_folder_is_none_of_its_content(folder: Path) -> None:
    before = catalogue.identity(str(folder))
    assert catalogue.identity(str(folder.rename(folder.parent / "other"))) == before


@pytest.mark.parametrize("make", [tiny_model, tiny_classes, tiny_flow])
def test_surroundings_are_plain_and_the_same_for_the_same_model(make: Callable[..., Any]) -> None:
    first, second = make(), make()
    assert json.loads(json.dumps(first.surroundings())) == second.surroundings()
    assert first.fingerprint == second.fingerprint


def test_statistics_of_an_autoencoder_count() -> None:
    """They are no parameters, and yet FLUX.2's latents are normalised by them."""
    from vestige.models import surroundings

    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    before = surroundings.of_buffers("vae", norm)
    norm[0].running_mean += 1  # type: ignore[operator]
    assert set(before) == {"vae.0.running_mean", "vae.0.running_var"}
    assert surroundings.of_buffers("vae", norm) != before


def _earlier() -> tuple[LatentModel, Edit]:
    model = tiny_model()
    name = model.scope("cross-attention-kv")[0]
    return model, Edit(model.earlier[0], "uce", {}, "cross-attention-kv", {name: model.tensor(name) * 1.5})


def test_an_edit_that_names_its_base_as_it_was_is_accepted_and_said_to_be_so(tmp_path: Path) -> None:
    model, edit = _earlier()
    same = replace(edit, base=model.fingerprint)
    assert model.edited(edit).fingerprint == model.edited(same).fingerprint
    assert same.remark(model) == "" and "earlier identity" in edit.remark(model)
    edit.save(tmp_path / "e.safetensors")
    assert checkpoints.load(tmp_path / "e.safetensors", model).touched == edit.touched
    assert "earlier identity" in checkpoints.inspect(tmp_path / "e.safetensors", model).remarks[0]
    assert "earlier identity" in checkpoints.described(tmp_path / "e.safetensors", model)[1]


def test_an_edit_of_other_weights_is_refused_by_either_name() -> None:
    _, edit = _earlier()
    with pytest.raises(Incompatible, match="was made on a model with fingerprint"):
        tiny_model(seed=1).edited(edit)


def test_the_earlier_name_knew_no_tokenizer() -> None:
    """That is why what it names is only said to have the same weights."""
    words = tokenizer()
    words.model_max_length = 16
    model, other = tiny_model(), LatentModel("other", tiny_model().parts, words, scheduler())
    assert other.earlier == model.earlier
    assert other.fingerprint != model.fingerprint
