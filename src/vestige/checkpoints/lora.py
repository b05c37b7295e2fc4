"""Low-rank adapters as they are published, kohya's, PEFT's, XLabs', diffusers' older ones and CompVis's, and edits cut to a rank.

    W <- W + alpha / rank * up @ down

A file names modules in one of six ways, one of which is to number them (see `numbered`); what it does not say of the scale is taken
as its format's convention has it, and told.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vestige.checkpoints import keymaps
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.edits.surgery import Factors
from vestige.errors import BadInput, Incompatible

Side = Literal["down", "up", "alpha", "bias"]
Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[str], Tensor]
UNGUIDE_SCALE = 8.0  # of UnGuide's released training; its files do not carry it
_SIDES: dict[str, Side] = {"down": "down", "up": "up", "A": "down", "B": "up"}
_KEYS = {
    "kohya": re.compile(r"(?P<module>lora_.+)\.(lora_(?P<side>down|up)\.weight|(?P<alpha>alpha))"),
    "peft": re.compile(
        r"(?P<module>.+)\.(lora_(?P<side>[AB]|down|up)(\.[^.]+)?\.weight|lora_B(\.[^.]+)?\.(?P<bias>bias)|(?P<alpha>alpha))"
    ),
    "xlabs": re.compile(r"(diffusion_model\.)?(?P<module>.+\.processor\.\w+_lora[12]?)\.(?P<side>down|up)\.weight(?P<alpha>)"),
    "diffusers": re.compile(r"(?P<module>.+?)(\.lora_linear_layer|[._]lora)\.((?P<side>down|up)\.weight|(?P<alpha>alpha))"),
    "compvis": re.compile(r"(?P<module>.+)\.lora\.(?P<side>[AB])(?P<alpha>)"),
    "numbered": re.compile(r"(?P<module>(unet|text_encoder):\d+):(?P<side>down|up)(?P<alpha>)"),
}
_MARKS = {
    "kohya": re.compile(r"^lora_\w+\.lora_(down|up)\.weight$"),
    "peft": re.compile(r"\.lora_([AB]|down|up)(\.[^.]+)?\.weight$"),
    "xlabs": re.compile(r"(^|\.)(double|single)_blocks\.\d+\.processor\.(qkv|proj)_lora[12]?\.(down|up)\.weight$"),
    "diffusers": re.compile(r"(\.lora_linear_layer|[._]lora)\.(down|up)\.weight$"),
    "compvis": re.compile(r"\.lora\.[AB]$"),
    "numbered": re.compile(r"^(unet|text_encoder):\d+:(up|down)$"),
}
# Adapters that are no product of two matrices added to a weight.
_FOREIGN = {
    r"\.hada_": "LoHa, a product of products",
    r"\.lokr_": "LoKr, a Kronecker product",
    r"\.lora_mid\.": "LoCon with a core tensor",
    r"dora_scale|lora_magnitude_vector": "DoRA, which also rescales every row",
    r"^lora_.*\.diff(_b)?$": "whole differences beside the factors",
}
# Ways to begin, by PEFT's names, that take the first factors off the weights: what is saved belongs to the rest, which no file holds.
_RESIDUAL = re.compile(r"pissa|corda|olora|loftq", re.IGNORECASE)
# Regular expressions that could take forever: groups repeated, and many wildcards.
_REPEATED, _WILD = re.compile(r"\)[*+{]"), re.compile(r"(\.|\\[A-Za-z]|\])[*+{]")
_COMPONENT = " component"  # the component that settings are of, with its dot; no setting has a space in its name
# Modules that older files of diffusers call by their attention processor's attribute.
_OLD = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
_OLD_CLIP = {"to_q_lora": "q_proj", "to_k_lora": "k_proj", "to_v_lora": "v_proj", "to_out_lora": "out_proj"}


@dataclass(frozen=True)
class Adapter:
    """One module's factors: names of its tensors in the file, rank, and the scale that goes onto the product."""

    module: str
    down: str
    up: str
    rank: int
    scale: float
    flipped: bool = False  # stored as (in, r) and (r, out)
    bias: str = ""  # what PEFT's lora_bias adds to the module's own, by the same scale

    def factors(self, read: Read) -> tuple[Tensor, Tensor]:
        """Down (r, in) and up (out, r), the scale folded into up; factors of a convolution as matrices."""
        down, up = read(self.down).float(), read(self.up).float()
        if self.flipped:
            down, up = down.T, up.T
        return down.flatten(1).contiguous(), up.flatten(1).contiguous() * self.scale


def style(names: Mapping[str, Any]) -> str:
    """Which way of naming a file's adapters follow; "" if it holds none."""
    return next((kind for kind, mark in _MARKS.items() if any(mark.search(name) for name in names)), "")


def foreign(names: Mapping[str, Any]) -> str:
    """What kind of adapter a file holds that is no low-rank product; "" if none."""
    return next((kind for mark, kind in _FOREIGN.items() if any(re.search(mark, name) for name in names)), "")


def adapters(kind: str, shapes: Shapes, read: Read, told: Mapping[str, Any]) -> tuple[list[Adapter], list[str]]:
    """The adapters of a file, and the names that belong to none.

    Arguments:
        kind: As from `style`.
        shapes: Every tensor's shape.
        told: What else is known of the scale, as from `scales`.
    """
    found: dict[str, dict[str, str]] = {}
    stray = []
    for name in shapes:
        match = _KEYS[kind].fullmatch(name)
        if match is None:
            stray.append(name)
            continue
        groups = match.groupdict()
        side = "alpha" if match["alpha"] else "bias" if groups.get("bias") else _SIDES[match["side"]]
        if side in (seen := found.setdefault(match["module"], {})):
            raise BadInput(f"the adapter of {match['module']} comes twice ({seen[side]!r} and {name!r}); give a file with one adapter")
        seen[side] = name
    made = []
    for module, own in found.items():
        if {"down", "up"} <= set(own):
            made.append(_adapter(kind, module, own, shapes, read, told))
        else:
            stray += own.values()
    return made, stray


def _adapter(
    kind: str,
    module: str,
    own: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    told: Mapping[str, Any],
) -> Adapter:
    down, up = shapes[own["down"]], shapes[own["up"]]
    flipped = kind == "compvis"
    if min(len(down), len(up)) < 2 or (down[-1] != up[0] if flipped else down[0] != up[1]):
        raise BadInput(f"the factors of {module} have shapes {down} and {up}, which have no rank in common")
    rank = up[0] if flipped else down[0]
    if rank < 1:
        raise BadInput(f"the adapter of {module} has rank {rank}")
    config = told.get(module.partition(".")[0]) or told.get("", {})
    if _RESIDUAL.match(begun := str(config.get("init_lora_weights", ""))):
        raise BadInput(
            f"the configuration says that it began as {begun[:40]!r}, which takes the first factors off the base's weights, so its factors "
            "do not belong to the base; save it again with PEFT's path_initial_model_for_weight_conversion, or merged, as a pipeline"
        )
    alpha = _number(own["alpha"], shapes, read) if "alpha" in own else _told(config, module, kind, rank)
    spread = 1 if flipped else math.sqrt(rank) if config.get("use_rslora") else rank
    return Adapter(module_name(kind, module), own["down"], own["up"], rank, alpha / spread, flipped, own.get("bias", ""))


def _number(name: str, shapes: Shapes, read: Read) -> float:
    if math.prod(shapes[name]) != 1:
        raise BadInput(f"{name} has shape {shapes[name]}; a scale is one number")
    value = float(read(name).item())
    if not math.isfinite(value):
        raise BadInput(f"{name} is {value}; a scale is finite")
    return value


def _told(told: Mapping[str, Any], module: str, kind: str, rank: int) -> float:
    """Alpha from what stands beside the tensors; by convention the rank, so that the scale is 1."""
    value = _patterned(told, "alpha_pattern", module, told.get("lora_alpha", UNGUIDE_SCALE if kind == "compvis" else rank))
    ranked = _patterned(told, "rank_pattern", module, told.get("r", rank))
    if kind == "peft" and ranked != rank:
        raise BadInput(
            f"the configuration gives {module} rank {str(ranked)[:40]}, and its factors have rank {rank}; give those of one adapter"
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"the configuration gives {str(value)[:40]!r} as alpha of {module}; a number is expected")
    return float(value)


def _patterned(told: Mapping[str, Any], table: str, module: str, usual: Any) -> Any:
    """A module's own value in a table of patterns, by PEFT's rule: the first key that, as a regular expression, is the end of its name.

    An end begins where the name does or after a dot. Names are the network's: without `base_model.model.`, and without the component
    where the table is a component's own.
    """
    patterns, name = told.get(table), module.removeprefix("base_model.model.").removeprefix(str(told.get(_COMPONENT, "")))
    for key, value in patterns.items() if isinstance(patterns, dict) else ():
        if len(key) > 300 or _REPEATED.search(key) or len(_WILD.findall(key)) > 4:
            raise BadInput(f"the configuration's {table} has the key {key[:60]!r}, too involved to be looked for; name the modules plainly")
        try:
            if re.match(rf"(.*\.)?({key})$", name):
                return value
        except (re.error, OverflowError) as error:
            raise BadInput(f"the configuration's {table} has the key {key[:60]!r}, no regular expression ({error})") from error
    return usual


def module_name(kind: str, module: str) -> str:
    """A module's dotted path as it is called today; kohya's flattened names, XLabs' and numbers stay as they are."""
    if kind in ("kohya", "xlabs", "numbered"):
        return module
    name = module.removeprefix("base_model.model.").replace(".processor", "")
    head, dot, last = name.rpartition(".")
    old = _OLD_CLIP if ".self_attn" in head else _OLD
    return f"{head}{dot}{old.get(f'{last}_lora' if kind == 'diffusers' else last, last)}"


def scales(metadata: Mapping[str, str], config: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """What a file's metadata (diffusers) or an `adapter_config.json` beside it (PEFT) say of the scale, by component; "" is any."""
    try:
        found = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        found = {}
    made: dict[str, dict[str, Any]] = {"": dict(config)}
    for key, value in found.items() if isinstance(found, dict) else ():
        component, _, setting = str(key).rpartition(".")
        made.setdefault(component, {_COMPONENT: f"{component}."} if component else {})[setting] = value
    return made


@dataclass(frozen=True)
class Loss:
    """What a LoRA of a given rank leaves out of an edit, by Frobenius norm.

    Arguments:
        error: Norm of what is lost, relative to the norm of the whole change.
        worst: The weight that loses most of its own change, and how much of it.
        left_out: Changed weights that a LoRA cannot hold at all: biases, norms, embeddings of words.
    """

    rank: int
    error: float
    worst: tuple[str, float]
    left_out: tuple[str, ...]


def low_rank(edit: Edit, model: Model, rank: int) -> tuple[Factors, Loss]:
    """An edit's change as factors, and what they leave out.

    The best approximation of each weight's change at this rank (Eckart and Young, 1936), its singular values shared evenly between
    the two factors. An edit of low-rank factors whose rank suffices is taken as it is.

    Arguments:
        rank: 0 takes the edit's own rank where it is low-rank, else 8; a weight that is smaller keeps its own.
    """
    own = max((len(down) for down, _ in edit.factors.values()), default=0)
    rank = rank or (own if own and not edit.tensors else 8)
    factors: Factors = {}
    lost, whole = {}, {}
    for name in edit.touched:
        base = model.tensor(name).double().cpu()
        delta = edit.weight(name, model.tensor(name)).double().cpu() - base
        if name in edit.factors and name not in edit.tensors:
            delta = _product(edit.factors[name])
        whole[name] = lost[name] = delta.norm().item()
        if whole[name] == 0 or base.dim() < 2 or keymaps.plain(name).partition(".")[2].startswith("embeddings."):
            continue
        factors[name] = _factors(edit, name, delta.flatten(1), rank)
        lost[name] = (delta.flatten(1) - _product(factors[name])).norm().item()
    total = math.hypot(*whole.values())
    if not factors or not total:
        raise Incompatible(f"{edit.method} changes no matrix; a LoRA cannot hold it, export it as folder or partial")
    worst = max(factors, key=lambda n: lost[n] / whole[n])
    left = tuple(n for n in edit.touched if whole[n] > 0 and n not in factors)
    return factors, Loss(rank, math.hypot(*lost.values()) / total, (worst, lost[worst] / whole[worst]), left)


def _product(pair: tuple[Tensor, Tensor]) -> Tensor:
    down, up = (f.double().cpu() for f in pair)
    return up @ down


def _factors(edit: Edit, name: str, delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    if name in edit.factors and name not in edit.tensors and len(edit.factors[name][0]) <= rank:
        down, up = edit.factors[name]
        return down.float().cpu(), up.float().cpu()
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    root = values[:rank].sqrt()
    return (root[:, None] * right[:rank]).float(), (left[:, :rank] * root).float()
