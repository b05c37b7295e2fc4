"""Files of strangers: nothing in them runs, and no size that they claim is believed."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from fuzz_checkpoints import Program
from vestige import checkpoints
from vestige.checkpoints import pickles, untrusted
from vestige.errors import BadInput

COUNT = 4000


def test_thousands_of_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """None crashes, hangs, takes memory beyond what it holds, or runs anything; a crash would end the process without an answer."""
    script = Path(__file__).parents[1] / "fuzz_checkpoints.py"
    command = [sys.executable, "-W", "error", str(script), str(tmp_path), str(COUNT), "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["found"]["read"] + told["found"]["refused"] == COUNT
    assert told["found"]["read"] > 100, "some damage is harmless, or nothing is read at all"
    assert told["found"]["programmed"] > 100
    assert told["heard"] == []
    assert told["left"] == []
    assert told["slowest"] < 5
    assert told["grown"] < 64 << 20


def archive(code: bytes, records: dict[str, bytes] | None = None, **more: bytes) -> bytes:
    """What `torch.save` writes, around any pickle."""
    stream = io.BytesIO()
    entries = {"data.pkl": code, "byteorder": b"little", "version": b"3\n", **{f"data/{k}": v for k, v in (records or {}).items()}, **more}
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in entries.items():
            file.writestr(f"archive/{name}", content)
    return stream.getvalue()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("hidden", [False, True])
def test_malicious_pickle_runs_nothing_and_is_named(protocol: int, hidden: bool, tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    table = {"a": torch.ones(2), "b": Program(os.system, f"touch {mark}")} if hidden else Program(os.system, f"touch {mark}")
    if hidden:
        torch.save(table, tmp_path / "a.pt", pickle_protocol=protocol)
    else:
        (tmp_path / "a.pt").write_bytes(archive(pickle.dumps(table, protocol=protocol)))
    with pytest.raises(BadInput, match=r"asks for code: .*; nothing of it was run"):
        checkpoints.inspect(tmp_path / "a.pt")
    assert not mark.exists()
    os.system(f"touch {mark}")
    assert mark.exists(), "it would have"


def test_weights_only_stands_behind_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the plan were fooled, torch's own reader still runs nothing."""
    mark = tmp_path / "owned"
    torch.save({"down_blocks.0.x": torch.ones(2), "b": Program(os.system, f"touch {mark}")}, tmp_path / "a.pt")
    monkeypatch.setattr(pickles, "plan", lambda *_: {})
    with pytest.raises(BadInput, match="cannot be loaded"):
        checkpoints.inspect(tmp_path / "a.pt")
    assert not mark.exists()


def header(entries: dict[str, Any], data: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header({"a": F32}, length=2**63), "its header is said to have 9,223,372,036,854,775,808 bytes"),
        (header({"a": F32}, length=2**24), "its header is said to have"),
        (header({"a": {**F32, "shape": [2**40, 2**40]}}), "does not fit its place"),
        (header({"a": {**F32, "shape": [2**62, 0], "data_offsets": [0, 0]}, "b": F32}), "no checkpoint of a known kind"),
        (header({"a": {**F32, "shape": [-2]}}), "has dtype 'F32', shape"),
        (header({"a": {**F32, "shape": [1] * 40}}), "shape"),
        (header({"a": {**F32, "data_offsets": [0, 800], "shape": [200]}}), "does not fit its place"),
        (header({"a": {**F32, "dtype": "F4096"}}), "dtype 'F4096'"),
        (header({"a": F32, "b": F32}), "its tensors overlap"),
        (header({"a": F32, "__metadata__": {"x": 3}}), "its metadata are no texts"),
        (b"\x10" + b"\0" * 7 + b'{"a":1,"a":1}   ', "a name comes twice"),
        (struct.pack("<Q", 60_000) + b"[" * 60_000, "its header is no JSON"),
        (b"", "is an empty file, no checkpoint"),
        (save({"x.weight": torch.ones(9)})[:-5], "not a whole safetensors file"),
    ],
)
def test_absurd_headers_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        checkpoints.inspect(tmp_path / "a.safetensors")


def table(shape: tuple[int, ...], stride: tuple[int, ...], count: int = 4, offset: int = 0) -> bytes:
    """The pickle of one tensor of four numbers that claims more."""
    stream = io.BytesIO()
    torch.save({"down_blocks.0.x": torch.arange(4.0)}, stream)
    with zipfile.ZipFile(stream) as file:
        code = file.read("archive/data.pkl")
    number = lambda n: pickle.dumps(n, protocol=2)[2:-1]  # noqa: E731
    tuples = b"".join(b"(" + b"".join(map(number, t)) + b"t" for t in (shape, stride))
    start, end = code.index(b"K\x04tq"), code.index(b"\x89ccollections")
    place = code[start + 3 : start + 5]  # the memo of the storage's identity
    return code[:start] + number(count) + b"t" + place + b"Q" + number(offset) + tuples + code[end:]


def test_a_tensor_of_four_numbers_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(archive(table((2, 2), (2, 1)), {"0": torch.arange(4.0).numpy().tobytes()}))
    assert untrusted.read(tmp_path / "a.pt").read("down_blocks.0.x").tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (table((2**40,), (1,)), "does not fit into its storage of 4 elements"),
        (table((2**20, 2**20), (0, 0)), "does not fit into its storage of 4 elements"),
        (table((4,), (1,), offset=1), "does not fit into its storage"),
        (table((4,), (1,), offset=-1), "impossible shape"),
        (table((4,), (-1,)), "impossible shape"),
        (table((1,) * 30, (1,) * 30), "impossible shape"),
        (table((4,), (1,), count=2**40), "is said to hold 1099511627776 elements"),
        (table((2,), (1,), count=2), "is said to hold 2 elements"),
    ],
)
def test_tensors_that_claim_more_than_the_archive_holds_are_refused(code: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(archive(code, {"0": b"\0" * 16}))
    with pytest.raises(BadInput, match=message):
        checkpoints.inspect(tmp_path / "a.pt")


def test_values_that_double_at_every_level_are_refused(tmp_path: Path) -> None:
    """Thirty lists of twice the one before: a hundred bytes that nobody can walk."""
    value: list[Any] = []
    for _ in range(30):
        value = [value, value]
    (tmp_path / "a.pt").write_bytes(archive(pickle.dumps({"a": value}, protocol=2)))
    with pytest.raises(BadInput, match="more than 2,000,000 values"):
        checkpoints.inspect(tmp_path / "a.pt")


def test_value_that_holds_itself_is_refused(tmp_path: Path) -> None:
    value: dict[str, Any] = {}
    value["a"] = value
    (tmp_path / "a.pt").write_bytes(archive(pickle.dumps(value, protocol=2)))
    with pytest.raises(BadInput, match="nested deeper than"):
        checkpoints.inspect(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"code/run.py": b"x"}, "which no table of tensors has"),
        ({"data/../../evil": b"x"}, "which no table of tensors has"),
        ({"../evil": b"x"}, "which no table of tensors has"),
        ({"constants.pkl": b"x"}, "which no table of tensors has"),
        ({"byteorder": b"big"}, "another order of bytes"),
    ],
)
def test_archives_of_anything_else_are_refused(more: dict[str, bytes], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(archive(pickle.dumps({}, protocol=2), **more))
    with pytest.raises(BadInput, match=message):
        checkpoints.inspect(tmp_path / "a.pt")


def test_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A bomb: a hundred megabytes of zeros in a hundred kilobytes."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 100_000_000)
    assert (tmp_path / "a.pt").stat().st_size < 200_000
    with pytest.raises(BadInput, match="a compressed entry"):
        checkpoints.inspect(tmp_path / "a.pt")


def old(table: Any, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    torch.save(table, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def test_pickle_from_before_archives_equals_torchs_own_reading(tmp_path: Path) -> None:
    """Every dtype, views that share a storage, transposed, empty, and a number alone."""
    whole = torch.arange(24.0).reshape(4, 6)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    table = {f"down_blocks.0.{i}": torch.arange(5).to(kind) for i, kind in enumerate(kinds)}
    table |= {"a": whole, "b": whole.t(), "c": whole[1:3, 2:], "d": whole[::2, 1], "e": torch.empty(0, 3), "f": torch.tensor(5.0)}
    table |= {"p": torch.nn.Parameter(torch.ones(2)), "x": torch.ones(1).expand(1)}
    (tmp_path / "a.pt").write_bytes(old({"state_dict": table, "epoch": 3}))
    stored, theirs = untrusted.read(tmp_path / "a.pt"), torch.load(tmp_path / "a.pt", weights_only=True)["state_dict"]
    assert (stored.kind, stored.wrappers, set(stored.shapes)) == ("pickle", ("state_dict",), set(theirs))
    for name, value in theirs.items():
        assert stored.read(name).dtype == value.dtype
        assert torch.equal(stored.read(name), value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_malicious_pickle_from_before_archives_runs_nothing_and_is_named(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    table = {"a": torch.ones(2), "b": Program(os.system, f"touch {mark}")}
    for code in (old(table, protocol), pickle.dumps(table["b"], protocol=protocol)):
        (tmp_path / "a.pt").write_bytes(code)
        with pytest.raises(BadInput, match=r"asks for code: .*; nothing of it was run"):
            checkpoints.inspect(tmp_path / "a.pt")
        assert not mark.exists()
    (tmp_path / "a.pt").write_bytes(old(table))
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert mark.exists(), "it would have"


COUNTED = struct.pack("<q", 4)  # before the elements of the storage below


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:-1], "ends within storage"),
        (lambda d: d[:-16], "ends within storage"),
        (lambda d: d[:-17], "is said to hold 4 elements, and the file has -1"),
        (lambda d: d[:-30], "holds no whole pickle"),
        (lambda d: d + b"x", "has 1 bytes after its last storage"),
        (lambda d: d.replace(COUNTED, struct.pack("<q", 2**40)), "is said to hold 4 elements, and the file has 1099511627776"),
        (lambda d: d.replace(b"K\x04Nt", b"\x8a\x06\0\0\0\0\0\x01Nt"), "is said to hold 1099511627776 elements, and the file has 4"),
        (lambda d: d.replace(b"K\x04Nt", b"J\xff\xff\xff\xffNt"), "is said to hold -1 elements"),
        (lambda d: d.replace(b"K\x04Nt", b"K\x04(K\0K\0K\x02tt"), "a storage is part of another one"),
        (lambda d: d.replace(b"K\x02K\x02\x86", b"K\x02K\x09\x86"), "does not fit into its storage of 4 elements"),
        (lambda d: d.replace(b"M\xe9\x03.", b"M\xe8\x03.", 1), "version 1000 of PyTorch's format"),
        (lambda d: d.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"), "another order of bytes"),
        (lambda d: d.replace(b"\xfc\x9c", b"\xfd\x9c", 1), "`torch.save` did not write"),
        (lambda d: d.replace(b"]q\x00X", b"]q\x00Y"), "holds no whole pickle"),
        (lambda d: d.replace(b"FloatStorage", b"LongStorage"), "ends within storage"),
        (lambda d: pickle.dumps({"a": 1}, protocol=2), "`torch.save` did not write"),
    ],
)  # fmt: skip
def test_damaged_pickles_from_before_archives_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    data = old({"down_blocks.0.x": torch.ones(2, 2)})
    (tmp_path / "a.pt").write_bytes(data)
    assert checkpoints.inspect(tmp_path / "a.pt").format == "F2b"
    assert change(data) != data
    (tmp_path / "a.pt").write_bytes(change(data))
    with pytest.raises(BadInput, match=message):
        checkpoints.inspect(tmp_path / "a.pt")


def test_storage_that_nothing_refers_to_is_refused(tmp_path: Path) -> None:
    """Its size could not be told, and what follows it would be read from a wrong place."""
    data = old({"down_blocks.0.x": torch.ones(2, 2)})
    head, keys, rest = data.partition(b"\x80\x02]q\x00")
    (tmp_path / "a.pt").write_bytes(head + pickle.dumps([*pickle.loads(keys + rest), "7"], protocol=2) + rest[rest.index(b".") + 1 :])
    with pytest.raises(BadInput, match="1 storages that no tensor refers to"):
        checkpoints.inspect(tmp_path / "a.pt")


def test_edit_whose_header_lacks_the_edit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(save({"tensor:unet.a": torch.ones(2)}, {"format": "vestige-edit-1"}))
    with pytest.raises(BadInput, match="damaged edit header"):
        checkpoints.inspect(tmp_path / "a.safetensors")


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(BadInput, match="no edit at"):
        checkpoints.inspect(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "text", ["{", "[" * 60_000, "3", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "b/../../c"}}']
)
def test_damaged_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    with pytest.raises(BadInput):
        checkpoints.inspect(tmp_path)
