"""A suite to fill in, with what is usual for a model's family and where that is from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vestige import registry
from vestige.harness.families import customs
from vestige.harness.suites import load
from vestige.models import Card

HEAD = """\
# A protocol of your own, for {about}: vestige audit --suite FILE.toml
# Whatever it says is part of every audit's identity; results show its version and the first digits of a hash of its content.
version = "mine-1"         # its name in results
about = "What it is for, in a sentence."
pictures = 48              # a score, on held-out prompts, by the verification judge
select_pictures = 16       # by which the selection judge picks the best candidate so far; 0 keeps the latest
utility_pictures = 240     # each of neighbours and of unrelated concepts; 240 notice twice the loss that is allowed
replicates = 5             # of every attack, where they are fixed; three are the fewest that give an interval
looks = [3, 5, 8, 12]      # replicates at which an audit looks whether they decide; leave it out to run a fixed number
plasticity = false         # whether the edited model is taught a new concept, to see that it still learns
sparing = true             # leaves out what decides nothing: inner points of the original's arms, ways of attacking that are clearly worse,
                           # and positive controls where the verdict rests on what came back
strip = 8                  # pictures shown in the report
positives = ["remap", "uce"]   # edits that are known to hide, attacked too: what the audit would have found; negation is a third
"""
PROTOCOL = """
# {usual}
[protocol]
steps = {steps}
guidance = {guidance}
batch = {batch}{spaces} # pictures drawn at once; no number depends on it but by rounding
"""
ATTACK = """
# Settings: {source}.
# Steps at which it is scored, from 0 on. Whether a model that never drew the concept learns about half of it by the last one, and not
# before the third, decides what an audit can find: `vestige calibrate` looks for the cheapest rate and budget that do.
[attacks.memora]
budget = {budget}
references = 8             # pictures of the concept that a replicate gets

[attacks.memora.settings]
{settings}

# Further seeds of the same prompts: what the plain model still shows.
[attacks.direct]
budget = [0, 1, 3, 7]
"""


def suite_template(card: Card) -> str:
    """A commented suite for a model: by its family's customs, or for one that ships as `quick` has it."""
    own = customs(card)
    if own is None:
        quick = load("quick", card.world)
        planned, drawn = quick.attacks["memora"], quick.protocol
        made = registry.settings(registry.build("attacks", "memora", planned.settings))
        settings = {key: made[key] for key in planned.settings}
        about, usual = card.name, f"As {quick.version} draws."
        return _text(about, usual, (drawn.steps, drawn.guidance, drawn.batch), f"those of {quick.version}", planned.budget.points, settings)
    attack = own.attacks["memora"]
    usual = f"Usual for {own.about}, {own.pixels} pixels: {own.source}. Fewer steps cost less, in every picture."
    return _text(own.about, usual, (own.steps, own.guidance, 8), attack["source"], attack["budget"], attack["settings"])


def _text(
    about: str, usual: str, drawn: tuple[int, float, int], source: str, budget: tuple[int, ...] | list[int], settings: Mapping[str, Any]
) -> str:
    steps, guidance, batch = drawn
    spaces = " " * max(0, 17 - len(str(batch)))
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    protocol = PROTOCOL.format(usual=usual, steps=steps, guidance=guidance, batch=batch, spaces=spaces)
    return HEAD.format(about=about) + protocol + ATTACK.format(source=source, budget=list(budget), settings=lines)
