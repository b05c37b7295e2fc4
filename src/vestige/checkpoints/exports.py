"""Edits as files that others read: a diffusers folder, partial safetensors as ESD and UCE publish, LoRA for kohya's tools or diffusers.

A LoRA holds a change exactly where the edit is one of that rank; any other change is cut to the rank by its singular values, and what is
lost is part of the answer. Every export comes with a model card that says what was done to which base.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestige import files
from vestige.checkpoints import flux_names, keymaps
from vestige.checkpoints.lora import Loss, low_rank
from vestige.checkpoints.modelcards import audited, model_card
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.edits.precision import wide
from vestige.edits.surgery import Factors
from vestige.errors import BadInput, BadSetting, Incompatible

FORMS: dict[str, str] = {
    "folder": "a whole pipeline in diffusers' layout",
    "partial": "edit.safetensors: the changed weights in diffusers' names, as ESD and UCE are published",
    "kohya": "lora.safetensors: a LoRA in kohya's names",
    "lora": "pytorch_lora_weights.safetensors: a LoRA in diffusers' names, for `pipeline.load_lora_weights`",
}


@dataclass(frozen=True)
class Export:
    """What was written."""

    folder: Path
    form: str
    files: tuple[Path, ...]
    loss: Loss | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        loss = None if self.loss is None else {**vars(self.loss), "worst": list(self.loss.worst), "left_out": list(self.loss.left_out)}
        return {"folder": str(self.folder), "form": self.form, "files": [str(f) for f in self.files], "loss": loss}


def export(edit: Edit, model: Model, folder: Path | str, form: str, *, rank: int = 0, audit: Path | str | None = None) -> Export:
    """Write an edit of `model` into a folder, with a model card.

    Arguments:
        folder: New or empty.
        rank: Of a LoRA; 0 takes the edit's own where it is low-rank, else 8.
        audit: Folder of an audit of this very edit, whose verdict goes onto the card.
    """
    folder = Path(folder)
    if form not in FORMS:
        raise BadSetting(f"an export is one of {', '.join(FORMS)}; given {form!r}")
    if rank < 0:
        raise BadSetting(f"rank is at least 1, or 0 for the edit's own; given {rank}")
    vacant(folder)
    edit.check(model)
    if edit.hooks:
        names = ", ".join(hook.name for hook in edit.hooks)
        raise Incompatible(f"{edit.method} acts at inference time ({names}); no file of weights can hold that, keep the edit itself")
    verdict = {} if audit is None else audited(Path(audit), model.edited(edit))
    with files.assembled(folder) as part:
        made = _folder(edit, model, part) if form == "folder" else _file(edit, model, part, form, rank)
        page = part / "README.md"
        page.write_text(model_card(edit, model, FORMS[form], made.loss, verdict), "utf-8")
    return Export(folder, form, tuple(folder / file.relative_to(part) for file in (*made.files, page)), made.loss)


def vacant(folder: Path) -> None:
    """Refuse a place that is taken, or where no folder can be made."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is there and not empty; choose another folder")
    files.ready_folder(folder.parent)


def _folder(edit: Edit, model: Model, folder: Path) -> Export:
    """The edited model as a pipeline."""
    view: Any = model.edited(edit)
    if hasattr(view, "save"):
        view.save(folder)
    elif hasattr(view, "pipeline"):
        view.pipeline().save_pretrained(folder)
    else:
        raise Incompatible(f"{model.name} is no pipeline; export the change alone (partial, kohya, lora)")
    return Export(folder, "folder", tuple(sorted(p for p in folder.rglob("*") if p.is_file())))


def _file(edit: Edit, model: Model, folder: Path, form: str, rank: int) -> Export:
    loss = None
    if form == "partial":
        name, values = "edit.safetensors", partial(edit, model)
    else:
        factors, loss = low_rank(edit, model, rank)
        written = {"kohya": ("lora.safetensors", kohya), "lora": ("pytorch_lora_weights.safetensors", diffusers)}[form]
        name, values = written[0], written[1](factors, model)
    folder.mkdir(parents=True, exist_ok=True)
    _save(values, folder / name)
    return Export(folder, form, (folder / name,), loss)


def _save(values: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    with files.written(path) as part:
        save_file({name: value.detach().cpu().contiguous() for name, value in values.items()}, part, metadata={"format": "pt"})


def adapter(edit: Edit, model: Model, folder: Path) -> Path | None:
    """An edit of low-rank factors as `pipeline.load_lora_weights(folder)` reads it; None where it adapts anything but the denoiser."""
    if edit.tensors or edit.hooks or {name.partition(".")[0] for name in edit.factors} not in ({"unet"}, {"transformer"}):
        return None
    made = folder / "pytorch_lora_weights.safetensors"
    _save(diffusers(edit.factors, model), made)
    return made


def embeddings(edit: Edit, model: Model, target: str, folder: Path) -> list[Path]:
    """The vectors that an edit of token tables alone gives the target's own tokens, as `pipeline.load_textual_inversion` reads them.

    One file an encoder, each with one word, `<target>`, of as many vectors as the target has tokens. [] where an edit changes more, or
    the tables of a model are not told apart.
    """
    tables = set(edit.factors)
    if edit.tensors or edit.hooks or not tables or not all(".embed" in name or name.endswith("shared.weight") for name in tables):
        return []
    blank, ids = (model.tokens([text])[0] for text in ("", target))
    word, made, edited = f"<{re.sub(r'[^a-zA-Z0-9]+', '-', target).strip('-')}>", [], model.edited(edit)
    for name, columns in model.tables().items():
        if name in tables:
            kept = [i for i in ids[columns].tolist() if i not in set(blank[columns].tolist())]
            made.append(folder / f"learned_embeds{name.partition('.')[0].removeprefix('text_encoder')}.safetensors")
            _save({word: edited.tensor(name)[kept]}, made[-1])
    return made


def partial(edit: Edit, model: Model) -> dict[str, Tensor]:
    """The new value of every changed weight; a denoiser's without its component, unless another component changes too."""
    values = {name: edit.weight(name, model.tensor(name)).to(model.tensor(name)) for name in edit.touched}
    if not values:
        raise Incompatible(f"{edit.method} changes no weight; there is nothing to write")
    parts = {name.partition(".")[0] for name in values}
    return {name.partition(".")[2]: v for name, v in values.items()} if parts in ({"unet"}, {"transformer"}) else values


def kohya(factors: Factors, model: Model) -> dict[str, Tensor]:
    """Factors in kohya's names; alpha is the rank, so that the scale is 1. FLUX.1's projections come as the modules that hold them."""
    made: dict[str, Tensor] = {}
    names = model.scope("all")
    fused, holds = flux_names.fused_modules(names), flux_names.holding(names)
    for module in dict.fromkeys(holds[name] for name in factors if name in holds):
        rows = [len(model.tensor(part)) for part in fused[module]]
        made |= _kohyas(
            flux_names.kohya_module(module), flux_names.joined_factors(factors, fused[module], rows), model.tensor(fused[module][0])
        )
    encoders = len({name.partition(".")[0] for name in names if name.startswith("text_encoder")})
    for name in (name for name in factors if name not in holds):
        spelled = [] if name.startswith("transformer.") else keymaps.kohya_names(name, encoders)
        if not spelled:
            raise Incompatible(f"kohya's format has no name for {name}; export it as lora, partial or folder")
        made |= _kohyas(spelled[0], factors[name], model.tensor(name))
    return made


def _kohyas(module: str, pair: tuple[Tensor, Tensor], weight: Tensor) -> dict[str, Tensor]:
    down, up = _shaped(pair, weight)
    return {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up, f"{module}.alpha": torch.tensor(float(len(down)))}


def diffusers(factors: Factors, model: Model) -> dict[str, Tensor]:
    """Factors in the names that diffusers and PEFT read; no alpha, so that the scale is 1."""
    made: dict[str, Tensor] = {}
    for name, pair in factors.items():
        module = name.removesuffix(".weight")
        down, up = _shaped(pair, model.tensor(name))
        made |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    return made


def _shaped(pair: tuple[Tensor, Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of a convolution as convolutions: down with its kernel, up pointwise."""
    down, up = (factor.to(wide(weight).dtype) for factor in pair)
    if weight.dim() == 2:
        return down, up
    return down.reshape(len(down), *weight.shape[1:]), up.reshape(*up.shape, *(1 for _ in weight.shape[2:]))
