"""Flags that read an edit's scope, and flags of audits in which no picture could be judged."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from oracles import tiny_model
from vestige.audit.flags import _edit
from vestige.audit.power import _objective
from vestige.diffusion import Model
from vestige.edits import Edit


@dataclass(frozen=True)
class Audited:
    subject: Model
    edit: Edit


def raised(scope: str, *names: str) -> list[str]:
    model = tiny_model()
    edit = Edit(model.fingerprint, "made up", scope=scope, tensors={name: model.tensor(name) + 1 for name in names})
    return [f"{flag.name}: {flag.kind}" for flag in _edit(Audited(model, edit))]  # type: ignore[arg-type]


KEY, REST = "cross-attention-kv", "unet.conv_in.weight"


def test_an_edit_within_its_scope_raises_nothing():
    assert not raised(KEY, tiny_model().scope(KEY)[0])
    assert not raised("all", REST)


def test_an_edit_outside_its_scope_blocks():
    assert raised(KEY, REST) == ["out-of-scope: blocking"]


def test_edits_that_were_added_up_may_change_what_either_may():
    model = tiny_model()
    inside, other = model.scope(KEY)[0], next(n for n in model.scope("self-attention") if n not in model.scope(KEY))
    assert not raised(f"{KEY}+self-attention", inside, other)
    assert raised(f"{KEY}+self-attention", inside, REST) == ["out-of-scope: blocking"]


@pytest.mark.parametrize("scope", ["nobody knows it", f"{KEY}+nobody knows it", ""])
def test_a_scope_that_is_not_known_allows_nothing(scope):
    assert raised(scope, REST) == ["out-of-scope: blocking"]


class Stuck:
    outcome: ClassVar[Any] = {"points": [{"notes": {"loss_first": 1.0, "loss_last": 1.0}}]}


@pytest.mark.parametrize(("plain", "surface", "flags"), [(0.1, 0.2, 1), (0.3, 0.2, 0), (0.3, 0.4, 1), (None, 0.2, 0)])
def test_a_stuck_objective_is_told_below_the_audits_own_line(plain, surface, flags):
    """Where no picture could be judged there is no plain score to compare; that has a flag of its own."""
    assert len(_objective("memora", [Stuck()], plain, surface)) == flags  # type: ignore[list-item]
