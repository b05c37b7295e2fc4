"""A pipeline folder as an edit: what an edit cannot hold has to be the base's, or it is refused with what differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import published
from oracles import tiny_flow, tiny_model
from vestige import checkpoints
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.models.latent import LatentModel

SCOPE = "cross-attention-kv"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other keys and values, as a pipeline."""
    model = tiny_model()
    edit = Edit(model.fingerprint, "uce", {}, SCOPE, published.moved(model, SCOPE))
    root = tmp_path_factory.mktemp("edited") / "pipe"
    view: Any = model.edited(edit)
    view.pipeline().save_pretrained(root)
    return root


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "pipe")


def written(place: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        told = json.loads((folder / place).read_text())
        (folder / place).write_text(json.dumps({**told, **values}))

    return change


def vae(folder: Path, by: Callable[[torch.Tensor], torch.Tensor] = lambda w: w * 1.1) -> None:
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file({k: by(v) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})


def merges(folder: Path) -> None:
    file = folder / "tokenizer/tokenizer.json"
    told = json.loads(file.read_text())
    told["model"]["merges"] = told["model"]["merges"][1:]
    file.write_text(json.dumps(told))


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "autoencoder": (vae, r"weights of its vae differ, vae\.\S+ by 10\.0%"),
    "scaling": (written("vae/config.json", scaling_factor=0.5), r"vae\.scaling_factor is 0\.5 there"),
    "prediction": (
        written("scheduler/scheduler_config.json", prediction_type="v_prediction"),
        r'scheduler\.prediction_type is "velocity" there and "noise" here',
    ),
    "noise": (written("scheduler/scheduler_config.json", beta_end=0.02), r"scheduler\.levels differs"),
    "tokenizer": (merges, r"tokenizer\.merges differs"),
    "activation": (written("text_encoder/config.json", hidden_act="gelu"), r'text_encoder\.hidden_act is "gelu" there'),
    "heads": (written("unet/config.json", attention_head_dim=4), r"unet\.attention_head_dim is 4 there"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_no_edit_holds_is_refused_with_what_differs(folder: Path, what: str) -> None:
    change, said = CHANGES[what]
    change(folder)
    with pytest.raises(Incompatible, match=said):
        checkpoints.load(folder, tiny_model())
    assert "--model" in checkpoints.inspect(folder, tiny_model()).refusal


def test_the_same_around_other_weights_is_an_edit(folder: Path) -> None:
    model = tiny_model()
    assert set(checkpoints.load(folder, model).touched) == set(model.scope(SCOPE))


def test_an_autoencoder_that_is_only_rounded_is_the_same(folder: Path) -> None:
    vae(folder, lambda w: w.half())
    assert checkpoints.load(folder, tiny_model()).touched


@pytest.mark.parametrize(("mine", "theirs"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float16)])
def test_two_roundings_of_one_autoencoder_are_the_same(folder: Path, mine: torch.dtype, theirs: torch.dtype) -> None:
    model = tiny_model()
    placed = model.parts["vae"].to(mine)
    placed = placed.float() if mine == torch.float16 else placed  # half of a model's weights, read in single precision
    vae(folder, lambda w: w.to(theirs))
    assert not LatentModel("placed", {**model.parts, "vae": placed}, model.tokenizer, model.scheduler).unlike(folder)


def test_where_sampling_steps_is_the_audits(folder: Path) -> None:
    written("scheduler/scheduler_config.json", timestep_spacing="trailing", _class_name="DPMSolverMultistepScheduler")(folder)
    assert checkpoints.load(folder, tiny_model()).touched


def test_a_component_alone_is_compared_by_its_configuration(folder: Path) -> None:
    assert checkpoints.load(folder / "unet", tiny_model()).touched
    written("unet/config.json", attention_head_dim=4)(folder)
    with pytest.raises(Incompatible, match=r"unet\.attention_head_dim is 4 there"):
        checkpoints.load(folder / "unet", tiny_model())


def test_parts_that_are_not_there_are_the_bases(folder: Path) -> None:
    for part in ("vae", "tokenizer", "scheduler"):
        shutil.rmtree(folder / part)
    assert checkpoints.load(folder, tiny_model()).touched


@pytest.mark.parametrize("kind", ["dev", "sd3"])
def test_flow_models_are_compared_too(tmp_path: Path, kind: str) -> None:
    model = tiny_flow(kind)
    edit = Edit(model.fingerprint, "x", {}, "attention", published.moved(model, "attention"))
    view: Any = model.edited(edit)
    view.pipeline().save_pretrained(tmp_path / "f")
    assert replace(checkpoints.load(tmp_path / "f", model), base="").touched
    written("scheduler/scheduler_config.json", shift=7.0)(tmp_path / "f")
    with pytest.raises(Incompatible, match=r"scheduler\.shift is 7\.0 there"):
        checkpoints.load(tmp_path / "f", model)
