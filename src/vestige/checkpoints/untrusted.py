"""Files of strangers: tables of tensors, read after every size they claim has been checked, and without running anything.

Every check comes before the first allocation that a file asks for; what is allocated is never more than the file holds.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestige import contents, files
from vestige.checkpoints import legacy, pickles
from vestige.checkpoints.wrappers import LONGEST_NAME, flat, unwrapped
from vestige.errors import BadInput

MOST_TENSORS = 100_000
LARGEST_HEADER = 1 << 25  # bytes of a safetensors header, or of an archive's pickle
LARGEST_TEXT = 1 << 23  # bytes of a JSON file
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_KINDS = {"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"}
_EXTRAS = {"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}  # records beside pickle and data


@dataclass(frozen=True)
class Stored:
    """What a file holds, by name; a tensor is read when it is asked for.

    Arguments:
        kind: "safetensors" or "pickle".
        shapes: Every tensor's shape.
        dtypes: Every tensor's dtype as torch calls it, for floating-point numbers; else the file's own word.
        read: Name -> tensor, in memory of its own or mapped from the file.
        metadata: Text that a safetensors file carries.
        wrappers: What the table lay in, outermost first, e.g. ("state_dict",).
        beside: Copies of the weights that lie beside the table and are not read, e.g. ("params_ema",).
        nested: Names at the top that were tables themselves.
        others: What was no tensor: name -> kind of value.
    """

    path: Path
    kind: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    read: Callable[[str], Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    nested: frozenset[str] = frozenset()
    others: Mapping[str, str] = field(default_factory=dict)


def read(path: Path) -> Stored:
    """A file of tensors, by what is in it and not by its name; nothing in it is run.

    It is safetensors, or what `torch.save` wrote, since PyTorch 1.6 or before; of any other it is said what it is.
    """
    if not path.is_file():  # a pipe or a device would be waited for
        raise BadInput(f"{path} is no file")
    if is_archive(path):
        return _archive(path)
    return _legacy(path) if _is_pickle(path) else _safetensors(path)


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, as `torch.save` writes."""
    return _start(path) == b"PK\x03\x04"


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as a pickle does, and not with the length of a safetensors header, which would be too long by far."""
    start = _start(path)
    return start[:1] == b"\x80" and start[3:4] > bytes([LARGEST_HEADER >> 24])


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror or error})") from error


def text(path: Path) -> Any:
    """A JSON file of bounded size."""
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise BadInput(f"{path} is larger than {LARGEST_TEXT >> 20} MB, which no configuration is")
        return json.loads(path.read_text(files.UTF8))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON file ({str(error)[:80]})") from error


def inside(folder: Path, name: str) -> Path:
    """A file that an index in `folder` names; a name that leads elsewhere is refused."""
    if not name or Path(name).name != name or "\\" in name:
        raise BadInput(f"{folder} has an index that names {name[:80]!r}, a path; its files lie beside it")
    return folder / name


def _safetensors(path: Path) -> Stored:
    from safetensors import SafetensorError, safe_open

    header = _header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, "its metadata are no texts")
    try:
        file: Any = safe_open(path, "pt")
        file.__enter__()
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise _broken(path, str(error)) from error

    def tensor(name: str) -> Tensor:
        try:
            # Cloned, because a mapped file's tensors are not aligned, and sums over them would differ in the last bit.
            made: Tensor = file.get_tensor(name).clone()
        except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
            raise _broken(path, str(error)) from error
        return made

    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    dtypes = {name: DTYPES.get(entry["dtype"], entry["dtype"]) for name, entry in header.items()}
    return Stored(path, "safetensors", shapes, dtypes, tensor, metadata)


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, every offset checked against the file's size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(size - 8, LARGEST_HEADER):
            if what := contents.kind(path):
                raise BadInput(f"{path} is {what}, no checkpoint")
            raise _broken(path, f"its header is said to have {length:,} bytes, the file has {size:,}")
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its header is no JSON: {str(error)[:80]}") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is no table")
    _check_entries(path, header, size - 8 - length)
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name comes twice")
    return made


def _check_entries(path: Path, header: Mapping[str, Any], room: int) -> None:
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry) or len(name) > LONGEST_NAME:
            raise _broken(path, f"its entry {name[:60]!r} is damaged")
        dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = isinstance(shape, list) and isinstance(span, list) and all(type(n) is int and n >= 0 for n in (*shape, *span))
        if not whole or len(span) != 2 or len(shape) > pickles.WIDEST or not isinstance(dtype, str) or dtype not in WIDTHS:
            raise _broken(path, f"its entry {name[:60]!r} has dtype {str(dtype)[:20]!r}, shape {str(shape)[:60]}, place {str(span)[:60]}")
        if math.prod(shape) * WIDTHS[dtype] != span[1] - span[0] or span[1] > room:
            raise _broken(path, f"{name[:60]!r} of shape {tuple(shape)} does not fit its place {span} among {room:,} bytes")
        spans.append(span)
    if len(spans) > MOST_TENSORS:
        raise _broken(path, f"it names {len(spans):,} tensors")
    spans.sort()
    if any(before[1] > after[0] for before, after in itertools.pairwise(spans)):
        raise _broken(path, "its tensors overlap")


def _archive(path: Path) -> Stored:
    """What `torch.save` wrote: an archive of one pickle and its storages."""
    try:
        with zipfile.ZipFile(path) as archive:
            root, sizes = _members(path, archive)
            code = archive.read(f"{root}/data.pkl")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError, LookupError, struct.error) as error:
        raise BadInput(f"{path} is no whole archive of PyTorch ({str(error)[:80]}); was its copy or download cut short?") from error
    planned, wrappers, beside = unwrapped(pickles.plan(code, sizes, str(path)), path)
    lazy, nested, others = flat(planned, path)
    shapes, dtypes = _described(path, lazy)
    loaded = _loaded(path, lazy, pickles.mentioned(code))
    return Stored(path, "pickle", shapes, dtypes, loaded.__getitem__, {}, wrappers, beside, nested, others)


def _legacy(path: Path) -> Stored:
    """What `torch.save` wrote before it wrote archives."""
    made = legacy.open_legacy(path)
    planned, wrappers, beside = unwrapped(made.value, path)
    lazy, nested, others = flat(planned, path)
    shapes, dtypes = _described(path, lazy)
    return Stored(path, "pickle", shapes, dtypes, lambda name: made.read(lazy[name]), {}, wrappers, beside, nested, others)


def _described(path: Path, lazy: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes and dtypes of the tensors that a pickle describes."""
    if len(lazy) > MOST_TENSORS:
        raise BadInput(f"{path} names {len(lazy):,} tensors; at most {MOST_TENSORS:,} are read")
    dtypes = {n: _KINDS.get(v.record.kind.removeprefix("torch ").removesuffix("Storage"), v.record.kind) for n, v in lazy.items()}
    return {name: value.shape for name, value in lazy.items()}, dtypes


def _members(path: Path, archive: zipfile.ZipFile) -> tuple[str, dict[str, int]]:
    """The archive's root, and the bytes of every storage; anything that `torch.save` does not write is refused."""
    entries, size = archive.infolist(), path.stat().st_size
    if not 0 < len(entries) <= MOST_TENSORS or len({e.filename for e in entries}) < len(entries):
        raise BadInput(f"{path} is an archive of {len(entries):,} entries, or of entries with the same name; no checkpoint is")
    root = entries[0].filename.partition("/")[0]
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        numpy, first = all(entry.filename.endswith(".npy") for entry in entries), entries[0].filename[:60]
        what = "NumPy's archive of arrays" if numpy else f"a zip archive of other things, e.g. {first!r} (unpack it first)"
        raise BadInput(f"{path} is {what}, no checkpoint")
    sizes = {}
    for entry in entries:
        head, _, rest = entry.filename.partition("/")
        plain = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size <= size and not entry.flag_bits & 1
        if not plain:
            raise BadInput(f"{path} has a compressed entry {entry.filename[:60]!r}; PyTorch writes none, so its size is not to be believed")
        key = rest.removeprefix("data/") if rest.startswith("data/") else ""
        if head != root or not root or ".." in entry.filename or not (key.isdigit() or rest == "data.pkl" or rest in _EXTRAS):
            raise BadInput(f"{path} has an entry {entry.filename[:60]!r}, which no table of tensors has (a program, or a path elsewhere)")
        if rest in ("data.pkl", *_EXTRAS) and entry.file_size > LARGEST_HEADER:
            raise BadInput(f"{path} has an entry {entry.filename[:60]!r} of {entry.file_size:,} bytes; at most {LARGEST_HEADER:,} are read")
        if rest == "byteorder" and archive.read(entry) != b"little":
            raise BadInput(f"{path} was written on a machine with another order of bytes; save it again on this one")
        if key:
            sizes[key] = entry.file_size
    if sum(sizes.values()) > size:
        raise BadInput(f"{path} has storages of {sum(sizes.values()):,} bytes within {size:,}; they overlap")
    return root, sizes


def _loaded(path: Path, lazy: Mapping[str, Any], mentioned: Iterable[str]) -> dict[str, Tensor]:
    """The tensors, mapped from the file; they have to be those that the pickle was found to describe.

    Arguments:
        mentioned: Names in the pickle that nothing calls; for each stands an empty class, and nothing is imported.
    """
    empty: list[Any] = [type(name, (), {"__module__": module}) for module, _, name in (one.partition(" ") for one in mentioned)]
    misnamed = path.suffix == ".safetensors"  # by a path so called, PyTorch would take it for one
    try:
        with path.open("rb") as stream, torch.serialization.safe_globals(empty) if empty else nullcontext():
            value = torch.load(stream if misnamed else path, map_location="cpu", weights_only=True, mmap=not misnamed)
    except Exception as error:  # whatever its reader of archives and pickles stumbles over
        raise BadInput(f"{path} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0][:100]})") from error
    found, _, _ = flat(unwrapped(value, path)[0], path)
    if {n: tuple(t.shape) for n, t in found.items()} != {n: v.shape for n, v in lazy.items()}:
        raise BadInput(f"{path} describes other tensors than PyTorch finds in it; it was tampered with")
    return found


def _broken(path: Path, why: str) -> BadInput:
    return BadInput(f"{path} is not a whole safetensors file ({why}); was its copy or download cut short?")
