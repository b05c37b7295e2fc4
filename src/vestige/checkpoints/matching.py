"""Tensor by tensor: a published artefact against a model. Whatever does not belong is a reason to refuse, and the evidence for it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vestige import registry
from vestige.checkpoints import ddpm, flux_names, keymaps, lora, numbered
from vestige.checkpoints.findings import Finding
from vestige.checkpoints.formats import Artefact
from vestige.diffusion import Model
from vestige.edits import Hook, precision
from vestige.edits.surgery import Factors
from vestige.errors import BadInput, Incompatible

NEARLY_WHOLE = 0.95  # a file with more of a denoiser's weights than this was meant to hold them all
UNRELATED = 0.1  # cosine between a weight and its edited self below which they have nothing to do with each other
_REPLACED = ("F1", "F2", "F2b", "F3", "F3b", "F4", "F6", "F7", "F10")
WHOLE = ("F1", "F3", "F4", "F10")
_FACTORS = ("F5", "F11", "F12", "F13")
# Kinds that are recognised and cannot become an edit, with the reason.
_WORDS = (
    "it adds words of its own ({}) and changes no weight, so nothing is forgotten or recovered until a prompt says them; "
    "`vestige attack --method textual_inversion` makes and scores one"
)
_STEERED = (
    "it is a sparse autoencoder of {}, a dictionary of activations: it changes nothing by itself. SAeUron steers by which latents belong "
    "to the concept, the mean of each at every step, and a multiplier; these are statistics of pictures drawn on the authors' grid of "
    "steps, and none of them is in the file"
)


@dataclass
class Work:
    """A checkpoint on its way to an edit."""

    artefact: Artefact
    model: Model
    finding: Finding
    tensors: dict[str, Tensor] = field(default_factory=dict)
    factors: Factors = field(default_factory=dict)
    hooks: tuple[Hook, ...] = ()
    cosines: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = self.model.scope("all")
        self.denoiser = "transformer" if any(n.startswith("transformer.") for n in self.names) else "unet"

    def note(self, **known: Any) -> None:
        self.finding = replace(self.finding, **known)

    def refuse(self, reason: str) -> None:
        self.note(refusal=self.finding.refusal or reason)


def beyond(artefact: Artefact) -> str:
    """Why no model whatever can hold it; "" if one may."""
    if artefact.tag == "F10" and ddpm.theirs(artefact.shapes):
        return ddpm.lacking(artefact.shapes)
    if kind := lora.foreign(artefact.shapes):
        return f"its adapters are {kind}, not a product of two matrices; merge it into the model where it was made and save the pipeline"
    if artefact.tag == "F9":
        return _STEERED.format("; of ".join(_dictionaries(artefact)))
    return _WORDS.format(", ".join(list(artefact.shapes)[:3])) if artefact.tag == "inversion" else ""


def _dictionaries(artefact: Artefact) -> list[str]:
    """Every autoencoder: where it listens, and how large it is."""
    told = []
    for name, shape in sorted(artefact.shapes.items()):
        place, _, leaf = name.rpartition("/")
        if leaf == "W_dec" and len(shape) == 2:
            most = artefact.config.get("k")
            some = f", of which {most} at a time" if isinstance(most, int) else ""
            told.append(f"{place or 'an unnamed block'} ({shape[0]:,} latents{some}, of {shape[1]:,} numbers)")
    return told or ["an unnamed block"]


def fill(work: Work) -> None:
    """Match every tensor with the model."""
    artefact = work.artefact
    if reason := beyond(artefact):
        work.refuse(reason)
    elif artefact.tag in _REPLACED:
        _replaced(work)
    elif artefact.tag in _FACTORS:
        _factored(work)
    elif artefact.tag == "F8":
        _bottlenecks(work)


def _replaced(work: Work) -> None:
    """Tensors that stand in a weight's place."""
    artefact, table = work.artefact, keymaps.weights(work.names, work.denoiser)
    spelled = {name: table.get(_spelling(name, table)) for name in artefact.shapes}
    matched = {ours: name for name, ours in spelled.items() if ours is not None}
    unexpected = tuple(name for name, ours in spelled.items() if ours is None)
    work.note(matched=len(matched), unexpected=unexpected)
    twice = len(spelled) - len(unexpected) - len(matched)
    if unexpected or twice:
        what = f"{len(unexpected)} of its {len(spelled)} tensors are no weights of {work.model.name}, e.g. {_few(unexpected)}"
        work.refuse(what if unexpected else f"{twice} weights come twice under two names")
        return
    wrong = [n for ours, n in matched.items() if artefact.shapes[n] != tuple(work.model.tensor(ours).shape)]
    if wrong:
        pairs = (f"{n} {artefact.shapes[n]} instead of {tuple(work.model.tensor(table[_spelling(n, table)]).shape)}" for n in wrong[:3])
        work.refuse(f"it was made from another base than {work.model.name}: {len(wrong)} shapes differ, e.g. {'; '.join(pairs)}")
        return
    _complete(work, matched)
    if not work.finding.refusal:
        _compared(work, matched)


def _spelling(name: str, table: Mapping[str, str]) -> str:
    """A tensor's name as the table of spellings has it."""
    plain = keymaps.plain(name).replace("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")
    return plain if plain in table else re.sub(r"^(text_encoder\.)?(text_model\.)?", "text_encoder.", name)


def _few(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _complete(work: Work, matched: Mapping[str, str]) -> None:
    """Refuse a denoiser that was meant to be whole and is not."""
    whole = [n for n in work.names if n.startswith(f"{work.denoiser}.")]
    missing = [n for n in whole if n not in matched]
    there = len(whole) - len(missing)
    partial = work.artefact.tag not in WHOLE and there < NEARLY_WHOLE * len(whole)
    if missing and there and not partial:
        work.note(missing=tuple(missing))
        work.refuse(f"it lacks {len(missing)} of the {len(whole)} weights of the {work.denoiser}, e.g. {_few(missing)}; was it cut short?")
    half = sum(n.endswith(".weight") and n in matched and n[:-6] + "bias" in missing for n in whole)
    if partial and half:
        work.note(remarks=(*work.finding.remarks, f"{half} modules come with a weight and without the bias that they have"))


def _compared(work: Work, matched: Mapping[str, str]) -> None:
    """Keep what differs from the model, beyond the file's own rounding."""
    rounded, own = 0, _precisions(work, matched)
    for ours, name in matched.items():
        value, base = work.artefact.read(name), work.model.tensor(ours).cpu()
        if not value.is_floating_point():
            raise Incompatible(f"{name} holds whole numbers ({value.dtype}); weights are floating-point numbers")
        exact = value.to(base.dtype)
        if not exact.isfinite().all():
            raise Incompatible(f"{name} holds {int((~exact.isfinite()).sum())} numbers that are not finite")
        if torch.equal(exact, base):
            continue
        theirs, mine = own[ours.partition(".")[0]]
        if precision.roundings(value, base, {*theirs, *_low(value)}, {*mine, *_low(base)}):
            rounded += 1
            continue
        work.tensors[ours] = exact.clone()
        if base.dim() > 1 and base.numel() >= 64:
            work.cosines.append(torch.nn.functional.cosine_similarity(base.flatten().double(), exact.flatten().double(), 0).item())
    work.note(rounded=rounded, changed=len(work.tensors))
    _related(work)


def _precisions(work: Work, matched: Mapping[str, str]) -> dict[str, tuple[tuple[torch.dtype, ...], tuple[torch.dtype, ...]]]:
    """Component -> the low precisions that hold all of the file's weights of it, and all of the model's, whatever holds them now."""
    made = {}
    for part in {ours.partition(".")[0] for ours in matched}:
        file = (work.artefact.read(name) for ours, name in matched.items() if ours.startswith(f"{part}."))
        model = (work.model.tensor(name).cpu() for name in work.names if name.startswith(f"{part}."))
        made[part] = (precision.exact_in(file), precision.exact_in(model))
    return made


def _low(value: Tensor) -> set[torch.dtype]:
    """A tensor's own precision, where it is below float32."""
    return {value.dtype} if value.element_size() < 4 else set()


def _related(work: Work) -> None:
    """Refuse weights that have nothing to do with the base's, which fit by their shapes alone; a whole pipeline stands for itself."""
    middle = sorted(work.cosines)[len(work.cosines) // 2] if work.cosines else 1.0
    if middle >= UNRELATED:
        return
    what = f"half of its {len(work.cosines)} changed matrices have a cosine of at most {middle:.3f} to those of {work.model.name}"
    if str(work.artefact.config.get("_class_name", "")).endswith("Pipeline"):
        work.note(remarks=(*work.finding.remarks, f"{what}: it was trained anew, or made from another base"))
    else:
        why = f"its shapes fit {work.model.name} by accident, it was made from another base"
        work.refuse(f"{why}: {what}, where edits stay above {UNRELATED}")


def _factored(work: Work) -> None:
    """Low-rank factors."""
    artefact = work.artefact
    table = {module: (name,) for module, name in keymaps.modules(work.names, work.denoiser).items()} | flux_names.spelled(work.names)
    told = lora.scales(artefact.metadata, artefact.config)
    try:
        found, stray = lora.adapters(lora.style(artefact.shapes), artefact.shapes, artefact.read, told)
    except BadInput as error:
        work.refuse(str(error))
        return
    if artefact.tag == "F13":
        table = numbered.modules(work.names, {a.module: (artefact.shapes[a.up][0], artefact.shapes[a.down][-1]) for a in found}, work.model)
    unknown = [a.module for a in found if not _parts(a.module, table)]
    work.note(matched=len(found) - len(unknown), unexpected=(*unknown, *stray))
    if unknown and artefact.tag == "F13":
        work.refuse(f"its {len(found)} modules are numbered, and no order of {work.model.name}'s modules fits them, or several do")
        return
    if unknown or stray:
        of = f"{len(unknown)} of its {len(found)} modules" if unknown else f"{len(stray)} of its tensors"
        work.refuse(f"{of} are not in {work.model.name}, e.g. {_few(unknown or stray)}")
        return
    for adapter in found:
        if reason := _adapted(work, adapter, _parts(adapter.module, table)):
            work.refuse(reason)
            return


def _adapted(work: Work, adapter: lora.Adapter, parts: flux_names.Parts) -> str:
    """Take one module's factors, for the weights that it stands for; why not, where they do not fit."""
    down, up = adapter.factors(work.artefact.read)
    shapes = [tuple(work.model.tensor(name).shape) for name in parts]
    rows, width = [shape[0] for shape in shapes], math.prod(shapes[0][1:])
    if (up.shape[0], down.shape[1]) != (sum(rows), width):
        has = f"the weight has shape {shapes[0]}" if len(parts) == 1 else f"{', '.join(parts)} have {sum(rows)} rows of {width}"
        maps = f"{adapter.module} maps {down.shape[1]} numbers to {up.shape[0]}"
        return f"it was made from another base than {work.model.name}: {maps}, {has}"
    if not (down.isfinite().all() and up.isfinite().all()):
        return f"the adapter of {adapter.module} holds numbers that are not finite"
    made = flux_names.parted((down, up), parts, rows)
    if twice := sorted(made.keys() & work.factors.keys()):
        return f"{twice[0]} has two adapters"
    work.factors |= made
    return _biased(work, adapter, parts, rows) if adapter.bias else ""


def _biased(work: Work, adapter: lora.Adapter, parts: flux_names.Parts, rows: list[int]) -> str:
    """Add what an adapter adds to a module's bias; why not, where it does not fit."""
    names = [f"{name.removesuffix('weight')}bias" for name in parts]
    added = work.artefact.read(adapter.bias).float().flatten() * adapter.scale
    if missing := [name for name in names if name not in work.names]:
        return f"its {adapter.bias} goes onto a bias, and {work.model.name} has no {missing[0]}"
    if len(added) != sum(rows) or not added.isfinite().all():
        return f"its {adapter.bias} holds {len(added)} numbers, finite or not, for {sum(rows)} rows"
    for name, part in zip(names, added.split(rows), strict=True):
        base = work.model.tensor(name).cpu()
        work.tensors[name] = (base.float() + part).to(base.dtype)
    return ""


def _parts(spelled: str, table: Mapping[str, flux_names.Parts]) -> flux_names.Parts:
    """The weights that a module stands for; none where the model has no such module."""
    plain = keymaps.plain(spelled)
    return table.get(plain) or table.get(re.sub(r"^(text_encoder\.)?(text_model\.)?", "text_encoder.", spelled), ())


def _bottlenecks(work: Work) -> None:
    """Receler's adapters, which stay beside the network and work at inference."""
    found = {name: work.artefact.read(name).float() for name in work.artefact.shapes}
    if not all(value.isfinite().all() for value in found.values()):
        work.refuse("its adapters hold numbers that are not finite")
        return
    if not any(value.any() for name, value in found.items() if ".up." in name):
        work.refuse("its adapters give zero whatever they see, so they change nothing")
        return
    hook = Hook("hooks", "receler", {}, found)
    registry.find("hooks", "receler").hook(work.model, tensors=found)  # refuses what does not fit
    work.note(matched=len(found), changed=0)
    work.hooks = (hook,)
