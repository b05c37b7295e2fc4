"""What can be shown to whoever made a request: what was done, asked and tried, what was not, what came of it, and a verdict where asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vestige import registry
from vestige.concepts import Concept
from vestige.continual.plan import SequencePlan
from vestige.continual.probes import Probe

SCHEMA = "vestige-certificate-1"


def certificate(
    chosen: SequencePlan, concept: Concept, step: int, rows: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], original: str
) -> dict[str, Any]:
    """The certificate of one request.

    Arguments:
        step: In which it was forgotten, from 1.
        rows: The steps of the result, the original's first.
        entry: The ledger's line of that step.
        original: Fingerprint of the original.
    """
    order, name, own, last = chosen.order, concept.name, rows[step], rows[-1]
    refused = entry.get("refused")
    verdicts = {when: (row.get("verdicts") or {}).get(name) for when, row in (("after", own), ("now", last_judged(rows, name)))}
    return {
        "schema": SCHEMA,
        "request": name,
        "target": concept.target,
        "kind": concept.kind,
        "state": "rolled back" if refused else "accepted" if order.accept else "taken",
        "reasons": list(refused or []),
        "step": step,
        "mode": order.mode,
        "model": {"name": order.model, "original": original, "before": entry["before"], "after": entry["after"]},
        "edit": {"file": entry["edit"], "sha256": entry["sha256"]},
        "method": {"name": order.method, "seed": order.seed, "settings": chosen.spec()["settings"]},
        "asked": {bank: _asked(chosen, concept, bank) for bank in ("held-out", "indirect")},
        "tried": {attack: _tried(chosen, attack, own, last, name) for attack in chosen.attacks},
        "verdict": verdicts if any(verdicts.values()) else None,
        "not_tried": untried(chosen, concept, verdicts["now"] or verdicts["after"]),
        "result": {
            "original": rows[0]["rates"].get(name),
            "after": own["rates"].get(name),
            "now": last["rates"].get(name),
            "indirect": ((last.get("leakage") or {}).get("rates") or {}).get(name),
            "ripple": own["ripple"]["drop"],
            "erosion": own["erosion"]["drop"],
        },
    }


def _asked(chosen: SequencePlan, concept: Concept, bank: Any) -> dict[str, int] | None:
    """How many pictures and prompts; None for a bank that the request's file does not give."""
    if bank == "indirect" and not concept.indirect:
        return None
    prompts = Probe(concept, bank=bank).prompts(chosen.suite)
    return {"pictures": len(prompts), "prompts": len({p.text for p in prompts})}


def _tried(chosen: SequencePlan, attack: str, own: Mapping[str, Any], last: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An attack's budget and curves, right after the request's step and at the end."""
    budget = list(chosen.attacks[attack][1].budget.points)
    curves = {when: (row["attacks"].get(attack) or {}).get(name) for when, row in (("after", own), ("now", last))}
    return {"budget": budget, "replicates": chosen.order.replicates, **curves}


def last_judged(rows: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """The latest step that stands and has a verdict on a request; {} without one."""
    judged = [row for row in rows if (row.get("verdicts") or {}).get(name) and (row.get("accepted") or {"stands": True})["stands"]]
    return judged[-1] if judged else {}


def untried(chosen: SequencePlan, concept: Concept, verdict: Mapping[str, Any] | None = None) -> list[str]:
    """What nobody did, as sentences.

    Arguments:
        verdict: On the request, if one was given: its audit's attacks and banks count.
    """
    found = verdict or {}
    rows = _uncompared(verdict)
    armed = [n for n, (attack, _) in chosen.attacks.items() if attack.access == "weights"]
    armed += [n for n in found.get("attacks") or [] if registry.find("attacks", n).access == "weights"]
    if not chosen.attacks and not found.get("attacks"):
        rows.append("No attack was run: what training, or a search for prompts, would bring back is not known.")
    elif not armed:
        rows.append("No attack that trains weights was run.")
    banks = found.get("banks") or []
    if concept.synonyms and "synonyms" not in banks:
        rows.append(f"Its other words were not asked: {', '.join(concept.synonyms)}.")
    if concept.prompt_files and not set(banks) - {"synonyms", "indirect"}:
        rows.append("The lists of prompts that its file names were not asked; `vestige audit` asks them.")
    if not concept.indirect:
        rows.append("No prompts were asked that may show it without its name; its file gives none.")
    return rows


def _uncompared(verdict: Mapping[str, Any] | None) -> list[str]:
    """What a verdict lacks of a model that never drew what was to go."""
    if verdict is None:
        return ["No model that never knew it was compared: these are rates, and no verdict; `--verdict last` gives one."]
    if verdict.get("failed"):
        return [f"No verdict could be given: {verdict['failed']}."]
    control, names = verdict["control"], ", ".join(verdict["control"]["names"])
    if control["kind"] == "proxy":
        return [f"No model that never drew it was compared: {names}, which the original never drew, stood in for it."]
    if control["drew"] is None:
        return [f"That {names} never drew this request and those before it is taken from whoever gave it."]
    drew = ", ".join(control["drew"])
    return [f"No model that never drew all requests was compared: {names} drew {drew}, which had to go as well."] if drew else []
