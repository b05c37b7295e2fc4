"""A process that reads thousands of damaged files and says what became of them; `checkpoints/test_untrusted.py` runs it.

It works under a limit on memory and with an ear on everything that Python does: a program, a connection or a file written outside
its folder is counted.
"""

from __future__ import annotations

import encodings
import io
import json
import pickle
import random
import re
import resource
import struct
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from vestige import checkpoints
from vestige.checkpoints import formats, untrusted
from vestige.errors import VestigeError

ROOM = 512 << 20  # bytes of address space beyond what the process has when it begins
# Written by hand: the order of a header's metadata changes from process to process, and damage is to be the same every time.
EDIT = json.dumps(
    {
        "__metadata__": {"edit": json.dumps({"base": "x", "method": "m", "hooks": []}), "format": "vestige-edit-1"},
        "tensor:unet.a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
    }
).encode()
LEAVES = ("weight", "bias")
CODECS = str(Path(encodings.__file__).parent)  # which zipfile and pickletools import when a name asks for one
# Of the Selective Amnesia code's network, which is translated while it is read.
EMBEDDINGS = {
    f"{kind}emb.dense.{i}.{leaf}": (4, n)[: 2 - (leaf == "bias")] for kind in "tc" for i, n in enumerate((1, 4)) for leaf in LEAVES
}
EMBEDDINGS |= {"classes_emb.weight": (3, 1), "null_classes_emb": (1,), "conv_in.weight": (1, 3, 3, 3), "mid.attn_1.q.weight": (1, 1, 1, 1)}
HUGE = (2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, 0, 1, 255)
WATCHED = re.compile(
    r"^(os\.(system|exec|posix_spawn|fork|remove|rename|putenv)|subprocess\.Popen|socket\.|shutil\.|ctypes\.dlopen|compile|exec)"
)


def seeds() -> dict[str, bytes]:
    """Small files of every container and kind."""
    unet = {f"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_{s}.weight": torch.ones(4, 6) for s in "kv"}
    compvis = {f"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_{s}.weight": torch.ones(4, 6) for s in "kv"}
    kohya = {f"lora_unet_mid_block_proj_in.lora_{s}.weight": torch.ones(4, 4) for s in ("down", "up")}
    peft = {f"unet.mid_block.attn.to_k.lora_{s}.weight": torch.ones(4, 4) for s in "AB"}
    module = torch.nn.ModuleDict({"module": torch.nn.ModuleDict({"conv_in": torch.nn.Linear(3, 4), "conv_out": torch.nn.BatchNorm1d(4)})})
    for parameter in module.parameters():
        torch.nn.init.ones_(parameter)
    made = {
        "partial.safetensors": save(unet),
        "kohya.safetensors": save({**kohya, "lora_unet_mid_block_proj_in.alpha": torch.tensor(2.0)}, {"rank": "4"}),
        "edit.safetensors": struct.pack("<Q", len(EDIT)) + EDIT + b"\0" * 12,
    }
    tables: dict[str, Any] = {
        "partial.pt": unet,
        "delta.ckpt": {"state_dict": compvis, "epoch": 3, "lr": 1e-5},
        "delta.bin": {"unet": unet},
        "lora.bin": {k: torch.nn.Parameter(v) for k, v in peft.items()},
        "ckpt.pth": [module.state_dict(), {"state": {}}, 7],
        "classes.pth": [{n: torch.ones(shape) for n, shape in EMBEDDINGS.items()}, {"state": {}}, 7],
        "modules.pt": {"unet.mid_block.conv": {"weight": torch.ones(2, 2).t(), "bias": torch.ones(2)[1:]}},
    }
    for name, table in tables.items():
        stream = io.BytesIO()
        torch.save(table, stream)
        made[name] = stream.getvalue()
    parts = torch.ones(2, 4, 6)
    old, whole = dict(zip(unet, parts, strict=True)), dict(zip(compvis, parts, strict=True))
    return {**made, "old.pt": legacy(old), "old.ckpt": legacy({"state_dict": whole, "epoch": 3, "lr": 1e-5})}


def legacy(table: Any) -> bytes:
    """What PyTorch wrote before 1.6, of tensors in one storage; its key is an address, and damage is to be the same every time."""
    stream = io.BytesIO()
    torch.save(table, stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    for key in set(re.findall(rb"X.\0\0\0(\d{6,})", data)):
        data = data.replace(struct.pack("<cI", b"X", len(key)) + key, b"X\1\0\0\0000")
    return data


def flipped(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def spliced(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(data)) for _ in range(3))
    return rng.choice((data[:a] + data[b:], data[:b] + data[a:], data[:a] + data[b:c] + data[a:b] + data[c:]))


def numbered(data: bytes, rng: random.Random) -> bytes:
    """A number, as text or as bytes, becomes an absurd one."""
    digits = list(re.finditer(rb"\d+", data))
    if digits and rng.random() < 0.5:
        match = rng.choice(digits)
        return data[: match.start()] + str(rng.choice(HUGE)).encode() + data[match.end() :]
    at = rng.randrange(max(1, len(data) - 8))
    form, limit = rng.choice((("<Q", 2**64), ("<I", 2**32), ("<H", 2**16)))
    value = struct.pack(form, rng.choice(HUGE) % limit)
    return data[:at] + value + data[at + len(value) :]


def lengthened(data: bytes, rng: random.Random) -> bytes:
    """The header's length of a safetensors file."""
    return struct.pack("<Q", rng.choice((*HUGE, len(data) - 8, len(data)))) + data[8:]


def repacked(data: bytes, rng: random.Random) -> bytes:
    """A valid archive around a damaged pickle, or with an entry too much, too short, compressed or elsewhere."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(e.filename, archive.read(e)) for e in archive.infolist()]
    except zipfile.BadZipFile:
        return lengthened(data, rng)
    at = next(i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
    root = entries[at][0].partition("/")[0]
    way = rng.randrange(6)
    if way < 3:
        entries[at] = (entries[at][0], rng.choice((flipped, spliced, numbered))(entries[at][1], rng))
    elif way == 3:
        entries.append((rng.choice(("../../evil", f"{root}/code/x.py", f"{root}/data/../../x", "/etc/passwd", f"{root}/data/0")), b"x" * 9))
    elif way == 4:
        i = rng.randrange(len(entries))
        entries[i] = (entries[i][0], entries[i][1][: rng.randrange(1 + len(entries[i][1]))])
    stream = io.BytesIO()
    form = zipfile.ZIP_DEFLATED if way == 5 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", form) as archive:
        warnings.simplefilter("ignore")  # two entries of one name are meant
        for name, content in entries:
            archive.writestr(name, content)
    return stream.getvalue()


class Program:
    """What a malicious pickle is made of."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def programmed(data: bytes, rng: random.Random) -> bytes:
    """A pickle that would run something, alone or in the place of an archive's."""
    import os

    programs = (Program(os.system, "touch owned"), Program(eval, "1"), Program(exec, "import os"), Program(getattr, "os", "system"))
    code = pickle.dumps({"a": rng.choice(programs)}, protocol=rng.choice((0, 1, 2, 3, 4)))
    if rng.random() < 0.2:
        return code
    if rng.random() < 0.2:
        start = legacy({})
        return start[: start.index(b"\x80\x02}q\x00.")] + code + pickle.dumps([], protocol=2)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in (("archive/data.pkl", code), ("archive/byteorder", b"little"), ("archive/version", b"3\n")):
            archive.writestr(name, content)
    return stream.getvalue()


WAYS = (flipped, flipped, cut, spliced, numbered, numbered, repacked, repacked, repacked, lengthened, programmed)


def main(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Read `count` damaged files; everything but an error of ours is let through, and ends the process."""
    rng, found, heard = random.Random(seed), Counter[str](), list[str]()
    sources = sorted(seeds().items())
    for name, data in sources:  # whole files come first, so that everything is imported before the limit
        (folder / name).write_bytes(data)
        checkpoints.inspect(folder / name)
        (folder / name).unlink()
    listening = [False]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        file = str(getattr(arguments[0], "co_filename", "")) if arguments else ""
        if listening[0] and WATCHED.match(event) and not file.startswith(CODECS):
            heard.append(event)

    sys.addaudithook(hear)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    slowest = 0.0
    for i in range(count):
        name, data = sources[i % len(sources)]
        way = rng.choice(WAYS)
        path = folder / name
        path.write_bytes(way(data, rng) or b"\0")
        began, listening[0] = time.monotonic(), True
        try:
            checkpoints.inspect(path)
            source = untrusted.read(path) if name.startswith("edit") else formats.recognise(path)
            for key in source.shapes:
                source.read(key)
            found["read"] += 1
        except VestigeError:
            found["refused"] += 1
            found[way.__name__] += 1
        finally:
            listening[0] = False
        slowest = max(slowest, time.monotonic() - began)
    left = [p.name for p in folder.iterdir() if p.name not in dict(sources)]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"found": dict(found), "heard": sorted(set(heard)), "slowest": slowest, "left": left, "grown": grown}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
