"""Published checkpoints as Edits: every tensor of a file is matched with a weight of the model, set aside by name, or refused.

`load` is the one way in, for saved edits and for the formats of `kinds.KINDS`; `inspect` says what it found on that way. A weight
that a file holds at a lower precision than the model counts as changed only where it differs beyond that rounding.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from vestige import registry
from vestige.checkpoints import ddpm, lora, origins, untrusted
from vestige.checkpoints.findings import Finding, lines, moved_by_block
from vestige.checkpoints.formats import Artefact, recognise
from vestige.checkpoints.kinds import KINDS
from vestige.checkpoints.matching import WHOLE, Work, beyond, fill
from vestige.diffusion import Model
from vestige.edits import Edit, measure
from vestige.edits.edit import FORMAT
from vestige.errors import BadInput, BadSetting, Incompatible, VestigeError

SCOPES = ("cross-attention-kv", "cross-attention", "self-attention", "attention", "transformers", "non-cross-attention")
WIDER = ("unet", "text-encoder", "all")


def load(path: Path | str, model: Model) -> Edit:
    """The edit that a saved edit or a published checkpoint is on `model`; one that cannot be is refused with the evidence."""
    found, edit = _examined(Path(path), model)
    if edit is None:
        raise Incompatible(f"{path}: {found.refusal}")
    return edit


def inspect(path: Path | str, model: Model | None = None) -> Finding:
    """What a file or folder is; with a model, what it would change there. One that is no checkpoint at all is an error."""
    path = Path(path)
    if model is not None:
        return _examined(path, model)[0]
    if _is_edit(path):
        edit = _edit(path)
        return Finding(str(path), "edit", f"an edit by {edit.method}", (edit.method,), len(edit.tensors) + 2 * len(edit.factors))
    artefact = recognise(path)
    return replace(_named(artefact), refusal=beyond(artefact))


def class_pipeline(path: Path | str, *, size: int) -> Any:
    """A class-conditional DDPM of the Selective Amnesia code as a diffusers pipeline, to audit its descendants against.

    Arguments:
        size: Side of a picture in pixels: 32 for CIFAR-10, 64 for STL-10. No weight tells it.
    """
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    artefact = recognise(Path(path))
    if artefact.tag != "F10" or "class_embedding.weight" not in artefact.shapes:
        raise Incompatible(f"{path}: {beyond(artefact) or 'it is no class-conditional DDPM in the layout of the Selective Amnesia code'}")
    settings = ddpm.config(artefact.shapes, size)
    fold = 2 ** (len(settings["block_out_channels"]) - 1)
    if size < 1 or size % fold:
        raise BadSetting(f"size is a multiple of {fold}, by which this network makes pictures smaller; given {size}")
    try:
        with torch.device("meta"):
            unet = UNet2DModel(**settings)
        unet.load_state_dict({name: artefact.read(name) for name in artefact.shapes}, assign=True)
    except (RuntimeError, ValueError) as error:
        raise Incompatible(f"{path} is no network of the Selective Amnesia code ({str(error).splitlines()[0][:200]})") from error
    schedule = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return DDIMPipeline(unet, schedule)


def _examined(path: Path, model: Model) -> tuple[Finding, Edit | None]:
    if _is_edit(path):
        edit = _edit(path)
        edit.check(model)
        found = Finding(str(path), "edit", f"an edit by {edit.method}", (edit.method,), len(edit.tensors) + 2 * len(edit.factors))
        remarks = (remark,) if (remark := edit.remark(model)) else ()
        return replace(found, matched=len(edit.touched), remarks=remarks, **moved_by_block(model, measure(model, edit))), edit
    artefact = recognise(path)
    work = Work(artefact, model, _named(artefact))
    try:
        fill(work)
    except Incompatible as error:
        work.refuse(str(error))
    if not work.finding.refusal:
        _beside(work)
    if work.finding.refusal:
        return work.finding, None
    edit = _made(work)
    _measured(work, edit)
    return work.finding, None if work.finding.refusal else replace(edit, settings=_settings(work.finding))


def _is_edit(path: Path) -> bool:
    return path.is_file() and not untrusted.is_archive(path) and untrusted.read(path).metadata.get("format") == FORMAT


def _edit(path: Path) -> Edit:
    """A saved edit, whose hooks have to be components and whose numbers finite."""
    if "edit" not in untrusted.read(path).metadata:
        raise BadInput(f"{path} has a damaged edit header (it says nothing of the edit)")
    edit = Edit.load(path)
    for hook in edit.hooks:
        if hook.kind not in get_args(registry.Kind):
            raise BadInput(f"{path} asks for a hook of kind {hook.kind!r}; kinds are {', '.join(get_args(registry.Kind))}")
    for name, value in (*edit.tensors.items(), *((n, f) for n, pair in edit.factors.items() for f in pair)):
        if not value.isfinite().all():
            raise BadInput(f"{path} holds numbers that are not finite, in {name}")
    return edit


def _named(artefact: Artefact) -> Finding:
    """What names and shapes alone say."""
    names = artefact.shapes
    adapters = [s for n, s in names.items() if re.search(r"lora_(down|A)(\.[^.]+)?\.weight$|:down$", n)]
    about = {"metadata": artefact.metadata, "rank": adapters[0][0] if adapters else None}
    guess = origins.probable(artefact.tag, artefact.path, list(names), names, about)
    remarks = [*artefact.remarks]
    if any("EMA" in reason for reason in artefact.aside):
        remarks.append("it carries an EMA copy, which unlearning seldom updates; the trained weights are taken")
    if artefact.tag == "F5" and "SPM" in guess:
        remarks.append(
            "SPM scales its adapters at every prompt; they are taken always on, at full strength, as plain LoRA loaders take them"
        )
    if artefact.tag == "F12":
        remarks.append(
            f"its scale is not in the file, {lora.UNGUIDE_SCALE:g} (UnGuide's training) is taken; the blend of two networks that "
            "UnGuide draws with is not part of it"
        )
    if artefact.tag == "F10":
        remarks.append(
            "the first element is the trained network, and is what is taken; a copy smoothed over the training, with which Selective "
            "Amnesia's code draws, may stand at the end of the list"
        )
    if artefact.tag == "F10" and any(stored.kind == "translated" for stored, _ in artefact.places.values()):
        remarks.append("its network was written anew in diffusers' layout, where it computes the same: see `vestige.checkpoints.ddpm`")
    what = KINDS[artefact.tag]
    return Finding(
        str(artefact.path),
        artefact.tag,
        what,
        tuple(guess),
        len(names),
        dict(artefact.dtypes),
        aside=artefact.aside,
        remarks=tuple(remarks),
    )


def _made(work: Work) -> Edit:
    finding = work.finding
    edit = Edit(work.model.fingerprint, "published", _settings(finding), "all", work.tensors, work.factors, work.hooks)
    return replace(edit, scope=_scope(work.model, edit.touched) if edit.touched else "hooks")


def _beside(work: Work) -> None:
    """Refuse a folder that differs in what no edit holds: its weights on this model would be a third model, that nobody published."""
    path = work.artefact.path
    lines_ = work.model.unlike(path) if path.is_dir() else []
    if lines_:
        more = f" and {len(lines_) - 4} more" if len(lines_) > 4 else ""
        work.refuse(
            f"it differs from {work.model.name} in more than an edit holds (weights of the denoiser and text encoders): "
            f"{'; '.join(lines_[:4])}{more}; name the base that it was made from, or audit the folder as it is with --model {path}"
        )


def _settings(finding: Finding) -> dict[str, Any]:
    return {"file": Path(finding.file).name, "format": finding.format, "probably": list(finding.made_by)}


def _scope(model: Model, touched: list[str]) -> str:
    """The narrowest scope that holds every weight."""
    for scope in (*SCOPES, *WIDER):
        try:
            if set(touched) <= set(model.scope(scope)):
                return scope
        except VestigeError:
            continue
    return "all"


def _measured(work: Work, edit: Edit) -> None:
    changes = [c for c in measure(work.model, edit) if c.norm > 0]
    if not changes and not edit.hooks:
        work.note(changed=0)
        work.refuse(f"it changes nothing: {_idle(work)}")
        return
    work.note(**moved_by_block(work.model, changes))
    about = {"metadata": work.artefact.metadata, "share": work.finding.share, "rank": _rank(edit)}
    names = [c.name for c in changes]
    guess = origins.probable(work.artefact.tag, work.artefact.path, names, work.artefact.shapes, about)
    everything = len(names) == len([n for n in work.names if n.startswith(f"{work.denoiser}.")]) > 0 and work.artefact.tag in WHOLE
    remarks = work.finding.remarks
    if everything:
        remarks = (*remarks, "every weight moved; if it was made from another release of this base, that difference counts as the edit's")
    work.note(made_by=tuple(guess), remarks=remarks)


def _idle(work: Work) -> str:
    """Why a checkpoint that fits changes no weight."""
    if work.factors:
        zero = "its scale is zero (alpha 0), or the second of its factors, as before any training"
        why = zero if not any(up.any() for _, up in work.factors.values()) else "the product of its factors is zero"
        return f"{why}, in all of {len(work.factors)} modules"
    trap = "converted from a CompVis checkpoint? convert it again without extracting the EMA copy, which is the untouched model"
    near = f" ({work.finding.rounded} of them at the file's precision)" if work.finding.rounded else ""
    return f"it equals {work.model.name} in every weight{near}; {trap}"


def _rank(edit: Edit) -> int | None:
    return max((len(down) for down, _ in edit.factors.values()), default=None)


def described(path: Path | str, model: Model | None = None) -> tuple[dict[str, Any], str]:
    """A finding as plain data and for reading; of a saved edit, also what it says of itself and how far it moves every weight."""
    found = inspect(path, model)
    if found.format != "edit":
        return found.as_dict(), "\n".join(lines(found))
    edit = _edit(Path(path))
    told: dict[str, Any] = {key: getattr(edit, key) for key in ("method", "scope", "base")}
    told |= {"settings": dict(edit.settings), "tensors": len(edit.tensors), "low_rank": len(edit.factors)}
    told |= {"hooks": [hook.name for hook in edit.hooks], "notes": dict(edit.notes)}
    rows = [f"{key:<11} {value}" for key, value in told.items()]
    rows += [f"{'note':<11} {remark}" for remark in found.remarks]
    if model is not None:
        changes = measure(model, edit)
        told["changes"] = [vars(change) for change in changes]
        rows += [f"{c.relative:8.4f}  {c.share:6.1%}  {c.name}" for c in changes[:20]]
    return {**found.as_dict(), **told}, "\n".join(rows)
