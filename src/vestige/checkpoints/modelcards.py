"""The model card of an export: what was done to which base, what is lost, and what an audit found. Metadata as the hub reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vestige.checkpoints.lora import Loss
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.errors import BadInput, Incompatible

LICENCE = (
    "## Licence\n\nThese weights derive from the base model's, so its licence and its restrictions of use hold for them. "
    "State it here before you publish them."
)


def audited(folder: Path, edited: Model) -> dict[str, Any]:
    """An audit's result; one of another edit is refused."""
    file = folder / "result.json" if folder.is_dir() else folder
    try:
        result = json.loads(file.read_text("utf-8"))
        mark, verdict = str(result["provenance"]["edited_hash"]), dict(result["verdict"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder} holds no finished audit ({error}); give the folder that `vestige audit --out` wrote") from error
    if not mark or not any(name.startswith(mark) for name in (edited.fingerprint, *edited.earlier)):
        raise Incompatible(f"{folder} is an audit of another edit ({mark[:12]}); this one makes {edited.fingerprint[:12]}")
    return {**result, "verdict": verdict}


def model_card(edit: Edit, model: Model, form: str, loss: Loss | None, audit: Mapping[str, Any]) -> str:
    """The model card, with metadata as the hub reads them."""
    concept = str(edit.notes.get("concept") or "a concept")
    front = {"license": "other", "license_name": "as-the-base-model", "base_model": model.name, "library_name": "diffusers"}
    head = [*(f"{key}: {json.dumps(value)}" for key, value in front.items()), "tags:"]
    head += [f"- {tag}" for tag in ("vestige", "machine-unlearning", "concept-erasure", *(("lora",) if loss else ()))]
    rows = [
        ("Method", edit.method),
        ("Arguments", f"`{json.dumps(dict(edit.settings), sort_keys=True)}`"),
        ("Seed", str(edit.notes.get("seed", "not known"))),
        ("Base", f"`{model.name}`"),
        ("Fingerprint of the base", f"`{edit.base}`"),
        ("Scope", edit.scope),
        ("Changed weights", str(len(edit.touched))),
    ]
    table = [f"| {label} | {_cell(value)} |" for label, value in rows]
    title, about = f"# {_cell(model.name)} without {_cell(concept)}", f"{form}; made with Vestige."
    parts = [title, about, "| | |\n|---|---|\n" + "\n".join(table), *_lossy(loss), _judged(audit), LICENCE]
    return "---\n" + "\n".join(head) + "\n---\n\n" + "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _lossy(loss: Loss | None) -> Sequence[str]:
    if loss is None:
        return []
    out = f" {len(loss.left_out)} changed weights that no LoRA can hold (biases, norms, embeddings) are left out." if loss.left_out else ""
    name, share = loss.worst
    text = f"At rank {loss.rank} it loses {loss.error:.2%} of the change's norm; most of it in `{name}`: {share:.2%}.{out}"
    return [f"## What the LoRA leaves out\n\n{text}"]


def _judged(audit: Mapping[str, Any]) -> str:
    if not audit:
        return "## Audit\n\nNot audited: whether the concept is gone, hidden, or quick to come back is not known."
    found = [f"**{audit['verdict']['kind']}**: {audit['verdict'].get('reason', '')}", ""]
    for key, label in (("speedup", "Relearns F times faster than a model that never knew"), ("savings", "Savings"), ("reach", "Reach")):
        if isinstance(interval := audit.get(key), Mapping) and interval.get("value") is not None:
            ends = [interval.get("low"), interval.get("high")]
            shown = "no interval" if None in ends else f"[{ends[0]:.2f}, {ends[1]:.2f}]"
            found.append(f"- {label}: {interval['value']:.2f} {shown}")
    found.append(f"- Concept {audit.get('concept')}, suite {audit.get('suite')}")
    note = "The audit was of the edit itself; a LoRA that leaves something out is another model." if audit.get("verdict") else ""
    return "## Audit\n\n" + "\n".join(found) + f"\n\n{note}"
