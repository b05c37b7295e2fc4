"""The class-conditional U-Net that the codes of Selective Amnesia, SalUn and EraseDiff share, as diffusers' UNet2DModel.

The same function, in other weights.

Every block of theirs projects the embeddings of time and class side by side; diffusers adds the two before it projects. With embeddings
twice as wide the sum is the pair: time fills the first half and leaves the second zero, class the other way round, and SiLU keeps zeros.

    W silu([t, c]) = W silu([t, 0] + [0, c])

A class's embedding goes through an MLP of theirs that hears nothing else; its outputs are the rows of diffusers' table, the null class
last. Everything else is called differently and means the same. Training the translation moves weights that were no weights before: the
zeros, and every row of the table by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[str], Tensor]
_EMBEDDINGS = {f"{kind}emb.dense.{i}.{leaf}" for kind in "tc" for i in (0, 1) for leaf in ("weight", "bias")}
_EMBEDDINGS |= {"classes_emb.weight", "null_classes_emb"}
_BLOCK = {"norm1": "norm1", "conv1": "conv1", "temb_cemb_proj": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
_BLOCK |= {"nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_MIDDLE = {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}
_OUTSIDE = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
_LEVEL = re.compile(r"(down|up)\.(\d+)\.(block|attn)\.(\d+)\.(\w+)")
_RESAMPLED = re.compile(r"(down|up)\.(\d+)\.(down|up)sample\.conv")
_MID = re.compile(r"mid\.(block_1|attn_1|block_2)\.(\w+)")


def theirs(names: Iterable[str]) -> bool:
    """Whether a network of this code has these names."""
    return "temb.dense.0.weight" in set(names)


def lacking(shapes: Shapes) -> str:
    """Why a network in these names cannot be translated; "" if it can."""
    if any(".temb_proj." in name for name in shapes):
        return "it is a DDPM that is told no class (its blocks project the time alone), and no model here is without a condition"
    if missing := sorted(_EMBEDDINGS - set(shapes)):
        return f"it is a DDPM in the layout of the Selective Amnesia code that lacks {len(missing)} of its embeddings, e.g. {missing[0]}"
    made = _named(shapes)
    if unknown := sorted(name for name in set(shapes) - _EMBEDDINGS if name not in made):
        return f"it is a DDPM in the layout of the Selective Amnesia code with weights of another kind, e.g. {unknown[0]}"
    ch = shapes["null_classes_emb"][-1] if shapes["null_classes_emb"] else 0
    wide, classes = 4 * ch, shapes["classes_emb.weight"][:1]
    expected = {"null_classes_emb": (ch,), "classes_emb.weight": (*classes, ch)}
    for kind in ("temb", "cemb"):
        expected |= {f"{kind}.dense.0.weight": (wide, ch), f"{kind}.dense.1.weight": (wide, wide)}
        expected |= {f"{kind}.dense.{i}.bias": (wide,) for i in (0, 1)}
    wrong = [name for name, shape in expected.items() if shapes[name] != shape]
    return f"its {wrong[0]} has shape {shapes[wrong[0]]}; in the Selective Amnesia code it has {expected[wrong[0]]}" if wrong else ""


def translated(shapes: Shapes, read: Read) -> tuple[dict[str, tuple[int, ...]], Read]:
    """Shapes in diffusers' names, and how a tensor is read by such a name; for a network that lacks nothing.

    Arguments:
        read: Their name -> tensor.
    """
    ch, classes = shapes["null_classes_emb"][0], shapes["classes_emb.weight"][0]
    both = 8 * ch
    made: dict[str, tuple[int, ...]] = {"time_embedding.linear_1.weight": (both, ch), "time_embedding.linear_2.weight": (both, both)}
    made |= {
        "time_embedding.linear_1.bias": (both,),
        "time_embedding.linear_2.bias": (both,),
        "class_embedding.weight": (classes + 1, both),
    }
    own = {ours: name for name, ours in _named(shapes).items()}
    made |= {ours: (*shapes[name][:1], math.prod(shapes[name][1:])) if _flat(ours) else shapes[name] for ours, name in own.items()}

    def tensor(name: str) -> Tensor:
        if name == "class_embedding.weight":
            return _table(read)
        if name.startswith("time_embedding."):
            return _time(name, read)
        return read(own[name]).reshape(made[name])

    return made, tensor


def _flat(name: str) -> bool:
    """Their attention projects by pointwise convolutions, diffusers by matrices."""
    return re.search(r"\.attentions\.\d+\.to_.*weight$", name) is not None


def _named(names: Iterable[str]) -> dict[str, str]:
    """Their name -> diffusers', of every weight outside the embeddings."""
    names = list(names)
    levels = 1 + max((int(match[2]) for match in map(_LEVEL.match, names) if match), default=0)
    made = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        if ours := _module(module, levels):
            made[name] = f"{ours}.{leaf}"
    return made


def _module(name: str, levels: int) -> str:
    """A module's name; "" for one that diffusers has no place for. On the way up, diffusers counts levels from the middle."""
    place: Callable[[str, str], str] = lambda way, i: f"{way}_blocks.{i if way == 'down' else levels - 1 - int(i)}"  # noqa: E731
    if match := _LEVEL.fullmatch(name):
        way, i, kind, j, inside = match.groups()
        known, within = (_BLOCK, "resnets") if kind == "block" else (_ATTENTION, "attentions")
        return f"{place(way, i)}.{within}.{j}.{known[inside]}" if inside in known else ""
    if match := _RESAMPLED.fullmatch(name):
        return f"{place(match[1], match[2])}.{match[3]}samplers.0.conv"
    if match := _MID.fullmatch(name):
        known = _ATTENTION if match[1] == "attn_1" else _BLOCK
        return f"mid_block.{_MIDDLE[match[1]]}.{known[match[2]]}" if match[2] in known else ""
    return _OUTSIDE.get(name, "")


def _time(name: str, read: Read) -> Tensor:
    """The time's MLP, whose second half of outputs is zero."""
    _, layer, leaf = name.split(".")
    value = read(f"temb.dense.{0 if layer == 'linear_1' else 1}.{leaf}")
    more = len(value)
    if leaf == "bias":
        return F.pad(value, (0, more))
    return F.pad(value, (0, 0 if layer == "linear_1" else more, 0, more))


def _table(read: Read) -> Tensor:
    """What the class's MLP makes of every class and of the null class, after a first half of zeros."""
    rows = torch.cat([read("classes_emb.weight"), read("null_classes_emb")[None]])
    exact = rows.double()
    for i in (0, 1):
        exact = F.linear(F.silu(exact) if i else exact, read(f"cemb.dense.{i}.weight").double(), read(f"cemb.dense.{i}.bias").double())
    return F.pad(exact.to(rows.dtype), (exact.shape[1], 0))


def config(shapes: Shapes, size: int) -> dict[str, Any]:
    """Settings of the UNet2DModel that has these weights, in diffusers' names.

    Arguments:
        size: Side of a picture in pixels, which no weight tells.
    """
    levels = sorted({int(match[1]) for match in (re.match(r"down_blocks\.(\d+)\.", name) for name in shapes) if match})
    attending = [any(name.startswith(f"down_blocks.{i}.attentions.") for name in shapes) for i in levels]
    return {
        "sample_size": size,
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": tuple(shapes[f"down_blocks.{i}.resnets.0.conv2.weight"][0] for i in levels),
        "layers_per_block": len({name for name in shapes if re.fullmatch(r"down_blocks\.0\.resnets\.\d+\.conv1\.weight", name)}),
        "down_block_types": tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in attending),
        "up_block_types": tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in attending[::-1]),
        "time_embedding_dim": shapes["class_embedding.weight"][1],
        "num_class_embeds": shapes["class_embedding.weight"][0],
        "attention_head_dim": None,  # one head
        "downsample_padding": 0,
        "norm_eps": 1e-6,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }
