"""What a user asks of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vestige.concepts.album import Keep
from vestige.harness import banks


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks of an audit; every default that matters is resolved into the run's spec.

    Arguments:
        model: Built-in model or pipeline folder; the original, unless its card says it is a twin or `original` is False.
        concept: Built-in name or a TOML file; several with commas between are audited as one that was erased together.
        unlearner: Method that makes the edit; "none" audits the model as it is.
        edit: A saved edit, or an edited pipeline folder, instead of an unlearner.
        attacks: Subset of the suite's attacks; () takes all.
        seeds: Attack replicates; () takes the suite's number, or as many as decide where the suite looks more than once.
        references: The attacker's pictures: "shipped", "generated" (by the original), or a folder.
        reference_count: How many of them a replicate gets; 0 takes the suite's number.
        forget: What an unlearner may train on of the concept: "drawn" (by the model itself), or a folder.
        retain: What it may train on of everything else, likewise.
        alternative: What an unlearner that memorises something in its place is given for it: "drawn", or a folder.
        attack_retain: What an attack without the concept's pictures trains on: "shipped", or a folder with captions.
        settings: METHOD.SETTING -> value, as on the command line.
        preset: Named preset whose settings hold before `settings`.
        control: "twin", "proxy", or "auto": every twin, where there is one. "twin:MODEL" names a model that never drew the concept,
            "proxy:FILE.toml" a concept that the model cannot draw, with pictures of it; several stand with commas between; "distilled:N"
            makes N never-models of the original (`vestige.harness.never`); "none" is for an attack alone.
        keep_images: "all", or "none": scores only.
        banks: Whether the concept's banks of prompts are asked, before any attack: "auto" (all, but none of the embedded world's own
            concepts), "all", or "none".
        bank_pictures: Rows of a file of prompts that are asked, spread evenly over it; 0 asks all.
        unshown: Pictures drawn after an attack in each replicate, and by the original, to see what comes back of the concept that no attack
            was shown (`vestige.audit.unshown`); 0: that is not asked.
        original: False where `model` is the edited one and its original is not at hand: real pictures of the concept, the
            references, then say where its curves would end.
    """

    model: str = "wardrobe"
    concept: str = "sneaker"
    unlearner: str = "none"
    edit: str | None = None
    attacks: tuple[str, ...] = ()
    suite: str = "quick"
    seeds: tuple[int, ...] = ()
    edit_seed: int = 0
    references: str = "shipped"
    reference_count: int = 0
    forget: str = "drawn"
    retain: str = "drawn"
    alternative: str = "drawn"
    attack_retain: str = "shipped"
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = ""
    control: str = "auto"
    keep_images: Keep = "all"
    banks: banks.Which = "auto"
    bank_pictures: int = 0
    unshown: int = 0
    original: bool = True
