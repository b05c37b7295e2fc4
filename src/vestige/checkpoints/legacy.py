"""What `torch.save` wrote before PyTorch 1.6, read without PyTorch's loader: no archive, but five pickles and the storages after them.

    a magic number | a version | how the machine counts | the value | the storages' keys | for each key: its count, its elements

Each pickle is walked symbolically, as an archive's is. Where the storages lie follows from their counts, which have to be those that the
value claims and to end exactly where the file does; then a tensor is cut out of the file's bytes, at most as many as the file has.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestige.checkpoints import pickles
from vestige.checkpoints.pickles import Lazy, Record
from vestige.errors import BadInput

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
LARGEST = 1 << 25  # bytes of all pickles together
_DTYPES = {"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Bool": torch.bool}
_DTYPES |= {"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8}


@dataclass(frozen=True)
class Legacy:
    """A file of this kind.

    Arguments:
        value: What it holds, with `Lazy` in place of tensors.
        read: Such a place -> its tensor.
    """

    value: Any
    read: Callable[[Lazy], Tensor]


def open_legacy(path: Path) -> Legacy:
    """A file whose first byte is a pickle's; one that is damaged, or a pickle of another kind, is refused."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(min(size, LARGEST))
    what, start, values = str(path), 0, []
    for name in ("magic number", "version", "machine", "value", "keys"):
        end = _end(head, start, path, cut=size > LARGEST)
        values.append(pickles.plan(head[start:end], None, what))
        start = end
        _check(path, name, values[-1])
    records = _records(path, values[3])
    places = _places(path, values[4], records, start, size)
    return Legacy(values[3], lambda lazy: _tensor(path, lazy, places[lazy.record.key]))


def _end(head: bytes, start: int, path: Path, *, cut: bool) -> int:
    """Where the pickle that begins at `start` ends."""
    try:
        for op, _, position in pickletools.genops(head[start:]):
            if op.name == "STOP" and position is not None:
                return start + position + 1
    except (ValueError, IndexError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        reason = f"its pickles take more than {LARGEST:,} bytes" if cut else f"{type(error).__name__}: {str(error)[:80]}"
        raise BadInput(f"{path} holds no whole pickle ({reason}); was its copy cut short?") from None
    raise BadInput(f"{path} holds no whole pickle (it does not end); was its copy cut short?")


def _check(path: Path, name: str, value: Any) -> None:
    """What `torch.save` writes around the value."""
    if name == "magic number" and (type(value) is not int or value != MAGIC):
        raise BadInput(f"{path} is a pickle that `torch.save` did not write; save its tensors as safetensors where its origin is trusted")
    if name == "version" and value != VERSION:
        raise BadInput(f"{path} is of version {str(value)[:20]} of PyTorch's format before 1.6; version {VERSION} is read")
    if name == "machine" and not (isinstance(value, dict) and value.get("little_endian") is True):
        raise BadInput(f"{path} was written on a machine with another order of bytes; save it again on this one")
    if name == "keys" and not (isinstance(value, list) and all(isinstance(key, str) for key in value) and len(set(value)) == len(value)):
        raise BadInput(f"{path} has no list of storages after its table; was its copy cut short?")


def _records(path: Path, value: Any) -> dict[str, Record]:
    """Every storage that the value refers to; one that is said to be two different things is refused."""
    found: dict[str, Record] = {}
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, list | tuple):
            todo += item
        elif isinstance(item, Lazy | Record):
            record = item.record if isinstance(item, Lazy) else item
            if found.setdefault(record.key, record) != record:
                raise BadInput(f"{path} says that storage {record.key[:20]!r} is two different things")
    return found


def _places(path: Path, keys: list[str], records: Mapping[str, Record], start: int, size: int) -> dict[str, int]:
    """Key -> where its elements begin. Counts are read from the file, never more than it has bytes for."""
    if not records.keys() <= set(keys):
        raise BadInput(f"{path} refers to {len(records.keys() - set(keys))} storages that it does not hold; was its copy cut short?")
    if unused := set(keys) - records.keys():
        raise BadInput(f"{path} holds {len(unused)} storages that no tensor refers to, so their size cannot be told")
    places = {}
    with path.open("rb") as file:
        for key in keys:
            file.seek(start)
            raw, record = file.read(8), records[key]
            count = struct.unpack("<q", raw)[0] if len(raw) == 8 else -1
            if count != record.count:
                raise BadInput(f"{path}: storage {key[:20]!r} is said to hold {record.count} elements, and the file has {count}")
            places[key] = start + 8
            start += 8 + count * pickles.STORAGES[record.kind]
            if start > size:
                raise BadInput(f"{path} ends within storage {key[:20]!r}; was its copy or download cut short?")
    if start != size:
        raise BadInput(f"{path} has {size - start:,} bytes after its last storage; no checkpoint has")
    return places


def _tensor(path: Path, lazy: Lazy, place: int) -> Tensor:
    """A tensor in memory of its own: the elements between its first and its last, seen by its strides."""
    kind = lazy.record.kind
    dtype, width = _DTYPES[kind.removeprefix("torch ").removesuffix("Storage")], pickles.STORAGES[kind]
    if 0 in lazy.shape:
        return torch.empty(lazy.shape, dtype=dtype)
    reach = sum((n - 1) * step for n, step in zip(lazy.shape, lazy.stride, strict=True)) + 1
    try:
        with path.open("rb") as file:
            file.seek(place + lazy.offset * width)
            raw = bytearray(file.read(reach * width))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror or error})") from error
    if len(raw) < reach * width:
        raise BadInput(f"{path} has become shorter while it was read")
    return torch.frombuffer(raw, dtype=dtype).as_strided(lazy.shape, lazy.stride).clone(memory_format=torch.contiguous_format)
