"""Published evaluation protocols: their numbers, as data."""

from __future__ import annotations

import re

from vestige.harness.protocols import published


def test_published_protocol() -> None:
    """Twenty-one prompts, fifteen of them classified; seeds run on from prompt to prompt."""
    known = published()
    assert len(known.prompts) == 21
    assert len(set(known.prompts) - set(known.unclassified)) == 15
    assert set(known.sequence) <= set(known.prompts) - set(known.unclassified)
    assert all(re.fullmatch(rf"A photo of ((a|an|the) )?{name}", text) for name, text in known.prompts.items())
    seeds = [seed for name in known.prompts for seed in known.seeds(name)]
    assert seeds == list(range(1, 1 + 21 * 8))
    assert known.seeds("broccoli")[0] == 1 + 8 * 1 + 0
    assert (known.protocol.steps, known.protocol.guidance) == (50, 8.0)
