"""What a model is beside its weights, as plain data: configurations, tokenizers and stored buffers, to be hashed or compared.

Only what can change a picture is told, and of configurations only what differs from their class's defaults, so that a newer library
with one more setting says the same of the same files.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vestige.edits import precision
from vestige.errors import BadInput

# Digests of what surrounds the models that ship with the package: it adds nothing to their fingerprints, under which results are stored.
RELEASED = frozenset(
    {
        "71b3fff3cec88c4e7bcf5ec105396c85",  # wardrobe and its twins
        "0bfb3a0e821c39f51315807b163c5a3d",  # wardrobe-classes
        "589ad6dbf3c829108920dcf2e5f20cb6",  # wardrobe-flow
    }
)
# Of a configuration: how it was saved, how it is trained, and what libraries derive or note for themselves.
_SILENT = re.compile(
    r"^_|dropout|^(torch_)?dtype$|^(transformers_version|architectures|model_type|name_or_path|problem_type|id2label|label2id|"
    r"output_(attentions|hidden_states)|return_dict|use_cache|initializer_(range|factor)|chunk_size_feed_forward|"
    r"tie_word_embeddings|is_encoder_decoder|num_decoder_layers|gradient_checkpointing)$"
)
# What tells two tokenizers with one vocabulary apart: capitals, accents, spaces, numbers, punctuation, words of no vocabulary.
_PROBE = ("", "A photo of a Sneaker, 2nd-hand!", "  caf\u00e9 na\u00efve \u4e2d ", "it's 1,024.5 (don't)", "<a> zxqj_\tv\u01d4")


def digest(told: Any) -> str:
    """Hash of plain data."""
    return hashlib.blake2b(_plain(told).encode(), digest_size=16).hexdigest()


def of_module(module: nn.Module) -> dict[str, Any]:
    """A component's class, and what its configuration says."""
    config = getattr(module, "config", None)
    if config is None:
        return {"class": type(module).__name__}
    if hasattr(config, "to_dict"):  # transformers'
        told, usual = config.to_dict(), type(config)().to_dict()
    else:
        signature = inspect.signature(type(module).__init__).parameters
        told, usual = dict(config), {name: p.default for name, p in signature.items()}
    return {"class": type(module).__name__, **_unusual(told, usual)}


def _unusual(told: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in told.items():
        if _SILENT.search(name) or (name == "shift_factor" and not value):  # no shift and a shift of 0 are one
            continue
        known = usual.get(name)
        if isinstance(value, dict):
            value = _unusual(value, known if isinstance(known, dict) else {})
            known = {}
        if _plain(value) != _plain(known):
            kept[name] = json.loads(_plain(value))
    return kept


def buffers(part: str, module: nn.Module) -> dict[str, Tensor]:
    """Numbers that are stored with a component's weights and are none, e.g. running statistics, by qualified name."""
    weights = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {f"{part}.{n}": v for n, v in module.state_dict().items() if n not in weights and v.is_floating_point()}


def of_buffers(part: str, module: nn.Module) -> dict[str, str]:
    """The hash of each of them."""
    return {n: hashlib.blake2b(v.float().cpu().numpy().tobytes(), digest_size=16).hexdigest() for n, v in buffers(part, module).items()}


def of_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer reads: its pieces and how they are joined, its special tokens, and its answers to a few texts."""
    words = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds one
    backend = getattr(words, "backend_tokenizer", None)
    inner = json.loads(backend.to_str())["model"] if backend is not None else {"vocab": words.get_vocab()}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in inner.get("merges", ())]
    ends = {name: getattr(words, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk")}
    template = getattr(tokenizer, "chat_template", None) or getattr(words, "chat_template", None)
    return {
        "vocabulary": digest([inner["vocab"], sorted(words.get_vocab().items())]),
        "merges": digest([inner.get("type"), inner.get("end_of_word_suffix"), merges]),
        "special": ends,
        "length": min(int(words.model_max_length), 1 << 20),
        "padding": [getattr(words, "padding_side", None), getattr(words, "truncation_side", None)],
        "template": None if template is None else digest(template),
        "reads": digest([list(words(text).input_ids) for text in _PROBE]),
    }


def read_tokenizer(like: Any, folder: Path) -> dict[str, Any]:
    """What the tokenizer in a folder reads, as one of the class of `like`."""
    try:
        return of_tokenizer(type(like).from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"the tokenizer in {folder} cannot be read ({error})") from error


def told(folder: Path) -> dict[str, Any]:
    """What a component's configuration says; {} where there is none."""
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def named(folder: Path) -> str:
    """The class that a component's configuration names; "" where it names none."""
    config = told(folder)
    return str(config.get("_class_name") or next(iter(config.get("architectures") or ()), ""))


def moved(part: str, there: nn.Module, here: nn.Module) -> list[str]:
    """How far a component's numbers lie from the model's, beyond the rounding of a file of lower precision."""
    theirs, mine = ({**{f"{part}.{n}": p.detach() for n, p in one.named_parameters()}, **buffers(part, one)} for one in (there, here))
    far, exact = {}, precision.exact_in(value.cpu() for value in mine.values())
    for name, value in mine.items():
        other, value = theirs[name].cpu(), value.cpu()
        if not torch.equal(other.double(), value.double()) and not precision.roundings(other, value, precision.exact_in([other]), exact):
            far[name] = ((other.double() - value.double()).norm() / value.double().norm().clamp_min(1e-12)).item()
    if not far:
        return []
    worst = max(far, key=far.__getitem__)
    return [f"{len(far)} of the {len(mine)} weights of its {part} differ, {worst} by {far[worst]:.1%}"]


def hollow(like: nn.Module, folder: Path) -> nn.Module:
    """A component of a folder without its weights: its configuration, read as the class of `like`."""
    kind: Any = type(like)
    try:
        with torch.device("meta"):
            if hasattr(kind, "config_class") and not hasattr(kind, "load_config"):
                return cast(nn.Module, kind(kind.config_class.from_pretrained(folder, local_files_only=True)))
            return cast(nn.Module, kind.from_config(kind.load_config(folder, local_files_only=True)))
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise BadInput(f"the configuration in {folder} is none of a {kind.__name__} ({error})") from error


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Where two descriptions differ, each with both values; hashes are said to differ, and no more."""
    for name in sorted({*there, *here}):
        where, old, new = f"{prefix}{name}", there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{where}.")
        elif _plain(old) != _plain(new):
            yield f"{where} differs" if _hash(old) or _hash(new) else f"{where} is {_said(old)} there and {_said(new)} here"


def _said(value: Any) -> str:
    return "the default" if value is None else _plain(value)


def _hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) is not None


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
