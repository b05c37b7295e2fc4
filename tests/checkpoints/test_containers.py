"""What a file is, by what is in it: wrappers are taken off, names that nothing calls stay names, and other things are called by theirs."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import sys
import types
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from fuzz_checkpoints import Program
from vestige import checkpoints
from vestige.checkpoints import untrusted
from vestige.checkpoints.wrappers import COPIES, WRAPPERS
from vestige.errors import BadInput, VestigeError

UNET = {"conv_in.weight": torch.ones(4, 4, 3, 3), "conv_norm_out.weight": torch.ones(4), "conv_out.weight": torch.zeros(4, 4, 3, 3)}
OPTIMISER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]}


def saved(value: Any, path: Path, *, old: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class that Lightning before 1.5 keyed callbacks by; it leaves a mark if anybody makes one."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    made: list[object] = []
    kind = type("ModelCheckpoint", (), {"__module__": name, "__init__": lambda self: made.append(self), "made": made})
    sys.modules[name].ModelCheckpoint = kind  # type: ignore[attr-defined]
    return kind


@pytest.mark.parametrize("old", [False, True])
def test_a_class_that_is_only_a_key_is_read_over_and_never_imported(
    old: bool, lightning: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = {lightning: {"best_model_score": torch.tensor(0.5), "best_model_path": ""}, "other": {"best": torch.tensor(0.25)}}
    path = saved({"state_dict": UNET, "callbacks": callbacks, "epoch": 1}, tmp_path / "a.ckpt", old=old)
    bare = saved({**UNET, "callbacks": callbacks}, tmp_path / "b.ckpt", old=old)
    for name in list(sys.modules):
        if name.startswith("pytorch_lightning"):
            monkeypatch.delitem(sys.modules, name)
    stored = untrusted.read(path)
    assert stored.shapes.keys() == UNET.keys()
    assert all(torch.equal(stored.read(name), value) for name, value in UNET.items())
    found = untrusted.read(bare)
    assert found.read("callbacks.<0>.best_model_score").item() == 0.5
    assert found.read("callbacks.other.best").item() == 0.25
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)
    assert lightning.made == []


def test_a_class_that_is_called_is_refused_by_name(lightning: Any, tmp_path: Path) -> None:
    path = saved({"state_dict": UNET, "a": lightning, "b": Program(lightning)}, tmp_path / "a.ckpt")
    with pytest.raises(BadInput, match=r"asks for code: pytorch_lightning\..*\.ModelCheckpoint; nothing of it was run"):
        checkpoints.inspect(path)
    assert lightning.made == []


NOTES = {
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "device with a number": torch.device("cuda", 1),
    "set": {1, 2},
    "bytes": b"\xff\x00",
    "counter": Counter({30: 1, 60: 1}),
    "size": torch.Size([1, 2]),
    "layout": torch.strided,
}


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("old", [False, True])
def test_what_weights_only_reads_may_lie_beside_the_weights(note: str, old: bool, tmp_path: Path) -> None:
    path = saved({**UNET, "note": NOTES[note]}, tmp_path / "a.pt", old=old)
    assert torch.load(path, weights_only=True)["note"] == NOTES[note]
    assert checkpoints.inspect(path).format == "F1"
    assert untrusted.read(path).read("conv_in.weight").equal(UNET["conv_in.weight"])


@pytest.mark.parametrize(
    "program",
    [Program(bytearray, 1 << 40), Program(set, (1,)), Program(Counter, [1]), Program(torch.device, 3), Program(complex, 1, 2)],
    ids=["bytearray", "tuple", "list", "number", "complex"],
)
def test_calls_with_other_values_are_refused(program: Program, tmp_path: Path) -> None:
    """Among them one that would take a terabyte."""
    with pytest.raises(BadInput, match=r"asks for code: .*; nothing of it was run"):
        checkpoints.inspect(saved({**UNET, "note": program}, tmp_path / "a.pt"))


@pytest.mark.parametrize("wrapper", [*WRAPPERS, *COPIES])
@pytest.mark.parametrize("old", [False, True])
def test_wrappers_are_taken_off_and_told(wrapper: str, old: bool, tmp_path: Path) -> None:
    path = saved({wrapper: OrderedDict(UNET), "optimizer": OPTIMISER, "epoch": 3}, tmp_path / "a.pt", old=old)
    found = checkpoints.inspect(path)
    assert (found.format, found.tensors) == ("F1", 3)
    assert (f"its weights lay in {wrapper!r}" in found.remarks) == (wrapper != "state_dict")
    assert any("EMA copy" in remark for remark in found.remarks) == (wrapper in COPIES)


def test_trained_weights_are_taken_before_their_copy(tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in UNET.items()}
    path = saved({"params_ema": other, "params": UNET}, tmp_path / "a.pt")
    assert untrusted.read(path).read("conv_out.weight").equal(UNET["conv_out.weight"])
    assert any("lay beside" in remark and "params_ema" in remark for remark in checkpoints.inspect(path).remarks)


def test_wrappers_within_wrappers(tmp_path: Path) -> None:
    path = saved([{"model": {"state_dict": {f"module.{n}": v for n, v in UNET.items()}}}, OPTIMISER], tmp_path / "a.pt")
    assert untrusted.read(path).wrappers == ("list of 2", "model", "state_dict")
    assert checkpoints.inspect(path).tensors == 3


@pytest.mark.parametrize(
    "table",
    [{"model": {"lr": 0.1}, **UNET}, {"unet": UNET, "ema": UNET}, {**UNET, "ema": UNET}, {"weights": torch.ones(2)}],
)
def test_what_is_no_wrapper_stays(table: dict[str, Any], tmp_path: Path) -> None:
    assert untrusted.read(saved(table, tmp_path / "a.pt")).wrappers == ()


@pytest.mark.parametrize("prefix", ["model.", "net.", "params_ema.", "module.student."])
def test_a_wrapper_in_every_name(prefix: str, tmp_path: Path) -> None:
    save_file({f"{prefix}{n}": v for n, v in UNET.items()}, tmp_path / "a.safetensors")
    found = checkpoints.inspect(tmp_path / "a.safetensors")
    assert (found.format, found.tensors) == ("F1", 3)
    assert any(remark.startswith("its weights lay in") for remark in found.remarks)


def test_a_prefix_that_belongs_to_the_names_stays(tmp_path: Path) -> None:
    save_file({"model.diffusion_model.input_blocks.1.1.proj_in.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    found = checkpoints.inspect(tmp_path / "a.safetensors")
    assert (found.format, found.remarks) == ("F3b", ())


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ([{"emb": torch.ones(768), "emb2": torch.ones(1280)}], "inversion"),
        ({"emb": torch.ones(2, 768), "emb2": torch.ones(2, 1280)}, "inversion"),
        ([UNET, OPTIMISER, 2000], "F10"),
        ([{f"unet.mid_block.to_k.lora_{s}.weight": torch.ones(2, 2) for s in "AB"}, 3], "F11"),
        ([{"down_blocks.0.x.weight": torch.ones(2)}, {"other": torch.ones(2)}], "F2b"),
    ],
)
def test_a_list_is_what_its_first_table_is(value: Any, tag: str, tmp_path: Path) -> None:
    found = checkpoints.inspect(saved(value, tmp_path / "a.pt"))
    assert found.format == tag
    assert tag == "F10" or not any("Selective Amnesia" in guess for guess in found.made_by)


def test_a_list_of_something_else_is_no_ddpm(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no checkpoint of a known kind: 1 tensors, e\.g\. brain"):
        checkpoints.inspect(saved([{"brain": torch.ones(2)}, OPTIMISER, 3], tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.ones(7, 9), r"one tensor of shape \(7, 9\) without a name"),
        ([1, 2, 3], "a list of 3 values"),
        ("hello", "a text"),
        (None, "nothing"),
        (3.5, "one number"),
        (torch.float16, "a value of another kind"),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_what_is_no_table_is_called_by_its_name(value: Any, what: str, old: bool, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"holds {what}, no table of tensors"):
        checkpoints.inspect(saved(value, tmp_path / "a.pt", old=old))


def array() -> bytes:
    stream = io.BytesIO()
    numpy.save(stream, numpy.ones(3))
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return stream.getvalue()


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    return stream.getvalue()


OTHERS = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438167540\n",
    "a git-annex pointer": b"../../.git/annex/objects/xX/yY/MD5E-s12--0.safetensors",
    "a web page": b"\xef\xbb\xbf\n<!DOCTYPE html><p>sign in</p>",
    "an XML document": b"<?xml version='1.0'?><Error>AccessDenied</Error>",
    "JSON text": b'{"weight_map": {}}' * 99,
    "TOML text": b'[axes]\nconcepts = ["bag"]\n',
    "text .'target: cat'.": b"target: cat\nanchor: dog\n",
    "text in UTF-16": "weights".encode("utf-16"),
    "text .'caf": ("café" * 200).encode(),
    "blank text": b" \n\n",
    "a NumPy array": array(),
    "NumPy's archive of arrays": zipped("a.npy", "b.npy"),
    "a zip archive of other things, e.g. 'model/unet": zipped("model/unet/config.json", "model/x.safetensors"),
    "a picture .JPEG.": jpeg(),
    "a picture .WebP.": b"RIFF\0\0\0\0WEBPVP8 ",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + b"\0" * 40,
    "a GGUF file": b"GGUF\x03\0\0\0" + b"\0" * 40,
    "packed by gzip": gzip.compress(save(UNET)),
    "an empty file": b"",
    "nothing but zeros": b"\0" * 4096,
}


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_checkpoint_is_called_by_its_name(what: str, ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{ending}").write_bytes(OTHERS[what])
    with pytest.raises(BadInput, match=rf"a\.{ending} is {what}.*, no checkpoint"):
        checkpoints.inspect(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a"])
def test_the_name_of_a_file_says_nothing(name: str, tmp_path: Path) -> None:
    saved(UNET, tmp_path / name)
    assert untrusted.read(tmp_path / name).read("conv_in.weight").equal(UNET["conv_in.weight"])
    (tmp_path / name).write_bytes(save(UNET))
    assert checkpoints.inspect(tmp_path / name).format == "F1"


def test_a_file_of_which_nothing_counts_says_why(tmp_path: Path) -> None:
    save_file({"model_ema.diffusion_modelx": torch.ones(2), "model_ema.num_updates": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="holds nothing that counts: 2 of the EMA copy"):
        checkpoints.inspect(tmp_path / "a.safetensors")


def test_any_bytes_end_in_a_finding_or_in_an_error_of_ours(tmp_path: Path) -> None:
    """Beginnings of every kind that is known, with random ends, and pickles of random instructions."""
    rng = random.Random(3)
    starts = [*OTHERS.values(), b"PK\x03\x04", b"\x80\x02", b"\x80\x02}q\x00", pickle.dumps({"a": 1}, 2), save(UNET), b"\xff\xfe{"]
    for i in range(1500):
        whole = rng.choice(starts)
        raw = whole[: rng.randrange(len(whole) + 1)] + rng.randbytes(rng.choice((0, 1, 7, 90)))
        path = tmp_path / rng.choice(("a.safetensors", "a.pt"))
        path.write_bytes(raw)
        try:
            checkpoints.inspect(path)
        except VestigeError as error:
            assert path.name in str(error), (i, raw[:40])
            assert "\n" not in str(error)
