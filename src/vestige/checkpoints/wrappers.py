"""What training scripts wrap around a table of weights, taken off: containers, optimisers and counters beside it, tables in tables.

It works on what a pickle was found to describe and on what PyTorch loaded from it alike, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vestige.checkpoints import pickles
from vestige.errors import BadInput

LONGEST_NAME = 512
# What training scripts call the table of weights that they wrap: the trained ones, and copies smoothed over the training.
WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "net", "student", "weights")
COPIES = ("ema", "params_ema", "model_ema")
_COMPONENTS = {"unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"}


def unwrapped(value: Any, path: Path) -> tuple[dict[Any, Any], tuple[str, ...], tuple[str, ...]]:
    """The table of tensors inside whatever a training script wrapped around it, those wrappers, and the copies beside it."""
    wrappers: list[str] = []
    beside: list[str] = []
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        wrappers.append(f"list of {len(value)}")
        value = value[0]
    elif isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(one, pickles.Lazy | Tensor) for one in value):
        value = {str(i): one for i, one in enumerate(value)}
        wrappers.append(f"list of {len(value)} tensors")
    while isinstance(value, dict) and (name := _wrapper(value)):
        beside += [copy for copy in COPIES if copy != name and isinstance(value.get(copy), dict)]
        wrappers.append(name)
        value = value[name]
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds {_kind(value)}, no table of tensors")
    return value, tuple(wrappers), tuple(beside)


def _wrapper(table: Mapping[Any, Any]) -> str:
    """The name under which a table holds the weights and not their parts; "" if it holds them itself."""
    if isinstance(table.get("state_dict"), dict):
        return "state_dict"
    own = any("." in name for name, value in table.items() if isinstance(name, str) and isinstance(value, pickles.Lazy | Tensor))
    if own or _COMPONENTS & table.keys():
        return ""
    return next((name for name in (*WRAPPERS, *COPIES) if _holds(table.get(name))), "")


def _holds(value: Any) -> bool:
    """Whether a value is a table with a tensor somewhere in it."""
    return isinstance(value, dict) and any(isinstance(one, pickles.Lazy | Tensor) or _holds(one) for one in value.values())


def _kind(value: Any) -> str:
    """What a value is, for people."""
    if isinstance(value, pickles.Lazy | Tensor):
        return f"one tensor of shape {tuple(value.shape)} without a name"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} values"
    if value is None:
        return "nothing"
    return {str: "a text", bool: "a truth value", int: "one number", float: "one number"}.get(type(value), "a value of another kind")


def flat(table: Mapping[Any, Any], path: Path) -> tuple[dict[str, Any], frozenset[str], dict[str, str]]:
    """Tensors by dotted name, names at the top that are tables, and what is no tensor."""
    flat: dict[str, Any] = {}
    others: dict[str, str] = {}
    for name, value in _leaves(table, ""):
        if len(name) > LONGEST_NAME or name in flat or name in others:
            raise BadInput(f"{path} names {name[:60]!r} twice, or at a length of {len(name)}")
        if isinstance(value, pickles.Lazy):
            flat[name] = value
        elif isinstance(value, Tensor):
            flat[name] = value.detach()
        else:
            others[name] = type(value).__name__
    return flat, frozenset(str(key) for key, value in table.items() if isinstance(value, dict)), others


def _leaves(table: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for place, (key, value) in enumerate(table.items()):
        name = (
            f"{prefix}{key}" if isinstance(key, str | int) else f"{prefix}<{place}>"
        )  # what it mentions is called differently once loaded
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
