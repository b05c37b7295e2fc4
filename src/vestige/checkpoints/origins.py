"""Which method probably made a checkpoint: from its format, the weights that it changes and how many of each, and its file's name.

Formats and scopes are shared by many methods, so this is a guess, and says what it rests on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

_NAMED = {
    "ESD": r"\besd|erased[-_](?!.*towards_)",
    "UCE": r"\buce|erased-.*towards_",
    "Concept Ablation": r"\bdelta|ablat",
    "Forget-Me-Not": r"\bfmn|forget[-_]?me",
    "SalUn": r"\bsalun",
    "EraseDiff": r"\berasediff",
    "ScissorHands": r"scissor",
    "Selective Amnesia": r"\bsa[-_]|amnesia",
    "SPM": r"\bspm",
    "MACE": r"\bmace|lora_fusion",
    "RECE": r"\brece|_ep\d+",
    "STEREO": r"\bstereo|reo_unet",
    "RACE": r"(?<![-_])\brace[-_](?!car)|-adv-pgd-",
    "EAP": r"-adversarial-gumbel-",
    "ResAlign": r"\bres[-_]?align",
    "SPEED": r"\bspeed",
    "ConceptPrune": r"concept[-_]?prune|skill_ratio_",
    "AdvUnlearn": r"\badvunlearn",
    "MemoRa (a recovery)": r"\bmemora",
}
_BY_FORMAT = {
    "F3b": ("Concept Ablation",),
    "F6": ("ESD (its first demonstration)",),
    "F7": ("AdvUnlearn",),
    "F8": ("Receler",),
    "F9": ("SAeUron",),
    "F10": ("Selective Amnesia", "SalUn", "EraseDiff"),
    "F12": ("UnGuide",),
}
_KV = re.compile(r"attn2\.to_[kv]\.weight$")
_V = re.compile(r"attn2\.to_v\.weight$")
_FEED_FORWARD = re.compile(r"\.ff\.net\.2\.weight$")


def probable(tag: str, path: Path, changed: Collection[str], shapes: Mapping[str, tuple[int, ...]], about: Mapping[str, Any]) -> list[str]:
    """Names of methods, the likeliest first.

    Arguments:
        tag: The format.
        changed: Names of the weights that differ from the base, or of all where that is not known.
        shapes: Shapes of the tensors in the file.
        about: "metadata" of the file, "share" of the weights moved among changed tensors, "rank" of adapters; each where known.
    """
    guessed = list(_BY_FORMAT.get(tag, ()))
    if tag in ("F1", "F2", "F2b", "F3", "F4"):
        guessed += _by_scope(tag, changed, about.get("share"))
    if tag == "F5":
        guessed += _kohya(shapes, about)
    if tag == "F11":
        flux = changed and all(re.search(r"attn\.add_[kq]_proj", n) for n in changed)
        guessed += ["EraseAnything"] if flux else ["any trainer that writes PEFT's names, e.g. MemoRa (a recovery)"]
    stem = f"{path.parent.name}/{path.name}".lower()
    named = [method for method, pattern in _NAMED.items() if re.search(pattern, stem.replace("/", " "))]
    return list(dict.fromkeys([f"{m} (its name says so)" for m in named] + [g for g in guessed if g not in named]))


def _by_scope(tag: str, changed: Collection[str], share: float | None) -> list[str]:
    """Methods that touch exactly these weights and write this format."""
    if not changed:
        return []
    attention = ["attn2" in name for name in changed]
    if all(_V.search(n) for n in changed):
        return ["SPEED"]
    if all(_FEED_FORWARD.search(n) for n in changed):
        return ["ConceptPrune"]
    if all(_KV.search(n) for n in changed):
        written = {"F1": ["UCE (older)", "RECE"], "F2": ["UCE", "ESD (esd-x-strict)"], "F2b": ["Concept Ablation", "SPEED"], "F4": ["MACE"]}
        return written.get(tag, ["UCE", "Concept Ablation"])
    if all(attention):
        fmn = [] if tag == "F3" else ["Forget-Me-Not (cross-attention alone)"]
        return ["ESD (esd-x)", *fmn, *(["STEREO"] if tag == "F1" else [])]
    if not any(attention):
        return ["ESD (esd-u)", "EraseDiff", *{"F1": ["STEREO"], "F3": ["Selective Amnesia"]}.get(tag, [])]
    if share is not None and 0.4 < share < 0.6:
        return ["SalUn (half of all weights moved)"]
    if tag == "F4":
        return ["Forget-Me-Not", "CoGFD", "Meta-Unlearning"]
    return ["SalUn", "EraseDiff", "ScissorHands", "Selective Amnesia"] if tag in ("F1", "F3") else ["ESD (esd-all)"]


def _kohya(shapes: Mapping[str, tuple[int, ...]], about: Mapping[str, Any]) -> list[str]:
    metadata = about.get("metadata") or {}
    convolution = any(name.endswith("lora_down.weight") and len(shape) == 4 for name, shape in shapes.items())
    if "prompts" in metadata or (about.get("rank") == 1 and convolution):
        return ["SPM"]
    xlabs = any(".processor." in name for name in shapes)
    return ["any trainer that writes XLabs' names"] if xlabs else ["any trainer that writes kohya's names, e.g. LECO"]
