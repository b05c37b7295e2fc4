"""Where models come from: folders, the hub's cache, single files; and how they are placed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor

from oracles import tiny_model, tiny_xl
from vestige import cli, files, models
from vestige import models as catalogue
from vestige.checkpoints import keymaps
from vestige.edits import Edit
from vestige.errors import BadInput, BadSetting, UnknownName
from vestige.models import Placement, placement, sources

AUTOENCODER = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)", r"up.\1.block.\2"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)


def original(folder: Path) -> dict[str, Tensor]:
    """All weights of a pipeline folder under the names of the first releases of Stable Diffusion, in one table."""
    unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    table = {f"model.diffusion_model.{theirs}": unet[ours] for theirs, ours in keymaps.compvis(unet).items()}
    assert len(table) == len(unet)
    for name, value in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        theirs = name
        for ours, other in AUTOENCODER:
            theirs = re.sub(ours, other, theirs)
        theirs = re.sub(r"^decoder\.up\.(\d+)", lambda found: f"decoder.up.{2 - int(found[1])}", theirs)
        flat = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", theirs)
        table[f"first_stage_model.{theirs}"] = value[:, :, None, None] if flat else value
    for name, value in load_file(folder / "text_encoder/model.safetensors").items():
        long = name if name.startswith("text_model.") else f"text_model.{name}"
        table[f"cond_stage_model.transformer.{long}"] = value
    return {name: value.contiguous() for name, value in table.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model().pipeline().save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture
def hub(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache, laid out as the library lays it out, that holds one repository."""
    home = tmp_path / "hub/models--somebody--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text("a" * 40)
    shutil.copytree(folder, home / "snapshots" / ("a" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    sources.fetched.cache_clear()
    return home


def test_a_name_on_the_hub_is_read_from_the_cache(hub: Path) -> None:
    loaded = models.load("somebody/tiny")
    assert loaded.name == "somebody/tiny"
    assert loaded.fingerprint == tiny_model().fingerprint
    assert models.load("somebody/tiny@main").fingerprint == loaded.fingerprint
    told = set(catalogue.identity("somebody/tiny"))
    assert told >= {f"{part}/config.json" for part in ("unet", "vae", "text_encoder")} | {"scheduler/scheduler_config.json"}
    assert {name for name in told if name.endswith(".safetensors")} == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }


def test_a_name_that_cannot_be_fetched_says_what_to_do(hub: Path) -> None:
    with pytest.raises(BadInput, match=r"somebody/else is no built-in model and no folder here.*unset HF_HUB_OFFLINE"):
        models.load("somebody/else")


def test_of_a_repository_only_what_is_read_is_fetched(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    files = [
        "model_index.json",
        "README.md",
        "v1-5-pruned.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "text_encoder_3/model.safetensors.index.json",
        "text_encoder_3/model.safetensors.index.fp16.json",
        "tokenizer/merges.txt",
        "tokenizer_2/spiece.model",
        "safety_checker/model.safetensors",
    ]

    def fetch(repository: str, revision: str | None = None, **given: object) -> str:
        asked.update(given, repository=repository, revision=revision)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    sources.fetched.cache_clear()
    assert models.load("somebody/online@v2").fingerprint == tiny_model().fingerprint
    assert asked == {
        "repository": "somebody/online",
        "revision": "v2",
        "allow_patterns": [
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "text_encoder/model.fp16.safetensors",
            "text_encoder_3/model.safetensors.index.json",
            "text_encoder_3/model-00001-of-00002.safetensors",
            "tokenizer/merges.txt",
            "tokenizer_2/spiece.model",
        ],
    }
    sources.fetched.cache_clear()


def test_a_folder_of_half_precision_files_alone_is_read(folder: Path) -> None:
    for part in ("unet", "vae"):
        (folder / part / "diffusion_pytorch_model.safetensors").rename(folder / part / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/model.fp16.safetensors")
    assert models.load(str(folder)).fingerprint == tiny_model().fingerprint


def single(folder: Path, table: Mapping[str, Tensor] | None = None, suffix: str = ".safetensors") -> Path:
    file = folder.parent / f"all{suffix}"
    table = original(folder) if table is None else dict(table)
    if suffix == ".safetensors":
        save_file(table, file)
    else:
        torch.save({"state_dict": table, "global_step": 7}, file)
    return file


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_is_the_same_model(folder: Path, suffix: str) -> None:
    """Read by diffusers' own loader, offline; the folder that describes it holds no weights."""
    file = single(folder, suffix=suffix)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    loaded = models.load(f"{file}@{folder}")
    assert loaded.fingerprint == tiny_model().fingerprint
    assert catalogue.identity(f"{file}@{folder}")[file.name]


def test_a_single_file_needs_its_description(folder: Path) -> None:
    file = single(folder)
    with pytest.raises(BadInput, match=r"is a single file; say what it is with --config FOLDER"):
        models.load(str(file))
    with pytest.raises(BadInput, match=r"is a folder without model_index\.json"):
        models.load(f"{file}@{folder.parent}")


def test_a_single_file_of_another_shape_is_refused(folder: Path) -> None:
    table = original(folder)
    odd = {k: v for k, v in table.items() if "input_blocks.1.0" not in k}
    with pytest.raises(BadInput, match=r"cannot be read as the StableDiffusionPipeline|lacks \d+ weights of the unet"):
        models.load(f"{single(folder, odd)}@{folder}")
    wide = {k: (v.repeat(2, *[1] * (v.dim() - 1)) if k.endswith("time_embed.0.weight") else v) for k, v in table.items()}
    with pytest.raises(BadInput, match="cannot be read as the StableDiffusionPipeline"):
        models.load(f"{single(folder, wide)}@{folder}")


def test_a_single_file_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = single(folder), folder.parent / "edit.safetensors"
    told = ["unlearn", "--model", str(file), "--config", str(folder), "--method", "uce", "--out", str(out), "--json"]
    cli.app(told, standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["model"] == f"{file}@{folder}"
    assert Edit.load(out).base == tiny_model().fingerprint


def test_names_that_are_nothing_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'wardrobe'"):
        catalogue.card("wardrob")
    broken = tmp_path / "broken"
    broken.mkdir()
    for text in ("{", "[]", ""):
        (broken / "model_index.json").write_text(text)
        with pytest.raises(BadInput, match=r"model_index\.json cannot be read"):
            catalogue.card(str(broken))


def test_files_that_have_not_changed_are_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = catalogue.identity(str(folder))
    calls = files._digest.cache_info().misses
    assert catalogue.identity(str(folder)) == before
    assert files._digest.cache_info().misses == calls
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert catalogue.identity(str(folder)) != before


def test_precision_is_chosen_and_changes_the_fingerprint(folder: Path) -> None:
    single_, half = models.load(str(folder)), models.load(str(folder), Placement(dtype="bfloat16"))
    assert half.tensor("unet.conv_in.weight").dtype == torch.bfloat16
    assert half.fingerprint != single_.fingerprint
    with placement.using(Placement(dtype="bfloat16")):
        assert models.load(str(folder)).fingerprint == half.fingerprint
    assert models.load(str(folder)).fingerprint == single_.fingerprint


def test_every_family_takes_a_precision(tmp_path: Path) -> None:
    tiny_xl().pipeline().save_pretrained(tmp_path / "xl")
    for name in (str(tmp_path / "xl"), "wardrobe-classes"):
        loaded = models.load(name, Placement(dtype="bfloat16"))
        assert {loaded.tensor(n).dtype for n in loaded.scope("all")} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("given", "complaint"), [({"dtype": "float8"}, "dtype is one of float32"), ({"device": "tpu"}, "device is auto, cpu")]
)
def test_senseless_places_are_refused(given: dict[str, str], complaint: str) -> None:
    with pytest.raises(BadSetting, match=complaint):
        Placement(**given)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert Placement().resolved in ("cpu", "mps")
    with pytest.raises(BadSetting, match=r"there is no cuda:1 on this machine; choose .*cpu"):
        cli.app(["generate", "--prompt", "a bag", "--device", "cuda:1"], standalone_mode=False)
    with pytest.raises(BadSetting, match="--save-memory takes offload, checkpointing, slicing, adam8bit; given 'magic'"):
        cli.app(["generate", "--prompt", "a bag", "--save-memory", "offload,magic"], standalone_mode=False)


def test_memory_options_draw_the_same(tmp_path: Path, folder: Path) -> None:
    for name, more in (("plain", []), ("thrifty", ["--save-memory", "offload,slicing,checkpointing"])):
        told = ["generate", "--model", str(folder), "--prompt", "a bag", "--count", "1", "--steps", "3", "--out", str(tmp_path / name)]
        cli.app([*told, *more], standalone_mode=False)
    drawn = [sorted((tmp_path / name).glob("*.png")) for name in ("plain", "thrifty")]
    assert [f.name for f in drawn[0]] == [f.name for f in drawn[1]]
    assert drawn[0]


def test_gated_repositories_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("nothing here")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    sources.fetched.cache_clear()
    with pytest.raises(BadInput, match="is not in the local hub cache, and cannot be fetched"):
        catalogue.card("somebody/gone")
