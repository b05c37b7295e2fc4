"""Restore: what comes apart from the denoiser's own weights is undone exactly, and what does not stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracles import small, tiny_classes, tiny_model
from vestige import concepts, registry
from vestige.audit import Request, resolve
from vestige.audit.restoring import with_restoring
from vestige.continual import Order
from vestige.continual import resolve as resolve_sequence
from vestige.diffusion.bottlenecks import widths
from vestige.edits import Edit, Hook
from vestige.errors import BadInput, BadSetting
from vestige.methods import Budget
from vestige.methods.stock import Stock, parts_of

SNEAKER = concepts.load("sneaker")
REMAP = Hook("unlearners", "remap", {"words": "sneaker", "towards": "boot"})


@pytest.fixture(scope="module")
def tiny() -> Any:
    return tiny_model()


def candidates(original: Any, edit: Edit | None, model: Any, points: tuple[int, ...]) -> list[Any]:
    restore = registry.build("attacks", "restore")
    return list(restore(model, SNEAKER, Budget(points), seed=0, select=lambda x: x.new_zeros(len(x)), stock=Stock(original, edit)))


def adapter(model: Any, name: str) -> dict[str, Any]:
    row, column = model.tensor(name).shape
    return {name: (torch.ones(1, column), torch.ones(row, 1))}


def test_an_edit_of_parts_alone_is_undone_exactly(tiny: Any) -> None:
    """Text encoder, adapter and hook put back one by one, and all of them: the last is the original, bit for bit."""
    text, key = tiny.scope("text-encoder")[0], tiny.scope("cross-attention-kv")[0]
    edit = Edit(tiny.fingerprint, "x", tensors={text: tiny.tensor(text) + 1}, factors=adapter(tiny, key), hooks=(REMAP,))
    assert [part.name for part in parts_of(tiny, edit)] == ["hooks", "adapter", "text_encoder"]
    view = tiny.edited(edit)
    found = candidates(tiny, edit, view, (0, 1, 2, 3, 4))
    assert [c.notes["restored"] for c in found[1:4]] == [["hooks"], ["adapter"], ["text_encoder"]]
    ends = [view.edited(c.edit) for c in found[1:]]
    assert ends[3].fingerprint == tiny.fingerprint != view.fingerprint
    assert not torch.equal(ends[0].tensor(key), tiny.tensor(key)) and torch.equal(ends[1].tensor(key), tiny.tensor(key))
    asked, other = tiny.condition(["a sneaker"]).text, tiny.condition(["a boot"]).text
    assert torch.equal(view.edited(edit_of(found[3])).condition(["a sneaker"]).text, other) and not torch.equal(asked, other)


def test_adapters_inside_the_network_are_left_out_too() -> None:
    """Receler's lie in the modules themselves, and two edits of it lie there one behind the other."""
    model, rng = tiny_model(), torch.Generator().manual_seed(0)
    hooks = []
    for _ in range(2):
        own = {}
        for place, width in widths(model).items():
            shapes = {"down.weight": (3, width), "down.bias": (3,), "up.weight": (width, 3), "up.bias": (width,)}
            own |= {f"{place}.{part}": torch.randn(shape, generator=rng) for part, shape in shapes.items()}
        hooks.append(Hook("hooks", "receler", {}, own))
    edit = Edit(model.fingerprint, "receler", hooks=tuple(hooks))
    view = model.edited(edit)
    once = model.edited(Edit(model.fingerprint, "receler", hooks=tuple(hooks[:1])))
    again = once.edited(Edit(once.fingerprint, "receler", hooks=tuple(hooks[1:])))
    x, t, c = torch.ones(1, *model.latent_shape), torch.tensor([500]), model.condition(["a"])
    with torch.no_grad():
        plain, one, both, in_turn = (m.denoise(x, t, c).value for m in (model, once, view, again))
        back = view.edited(edit_of(candidates(model, edit, view, (0, 1))[1])).denoise(x, t, c).value
    assert torch.equal(both, in_turn) and not torch.equal(both, one) and not torch.equal(one, plain)
    assert torch.equal(back, plain)


def edit_of(candidate: Any) -> Edit:
    assert candidate.edit is not None
    return candidate.edit  # type: ignore[no-any-return]


def test_the_denoisers_own_weights_stay_as_they_are(tiny: Any) -> None:
    """An adapter beside a replaced weight goes; the replaced weight stays."""
    key, other = tiny.scope("cross-attention-kv")[:2]
    tensors = {key: tiny.tensor(key) + 1, other: tiny.tensor(other) + 1}
    edit = Edit(tiny.fingerprint, "x", tensors=tensors, factors=adapter(tiny, key))
    view = tiny.edited(edit)
    end = view.edited(edit_of(candidates(tiny, edit, view, (0, 1))[-1]))
    assert all(torch.equal(end.tensor(n), tensors[n]) for n in tensors)
    assert not parts_of(tiny, Edit(tiny.fingerprint, "x", tensors=tensors))


def test_a_table_of_classes_comes_apart() -> None:
    model = tiny_classes()
    name = model.scope("class-embedding")[0]
    edit = Edit(model.fingerprint, "x", tensors={name: model.tensor(name) + 1})
    assert [part.name for part in parts_of(model, edit)] == ["class-embedding"]


def test_a_model_without_an_edit_stays_as_it_is(tiny: Any) -> None:
    assert [c.edit for c in candidates(tiny, None, tiny, (0, 1, 2))] == [None] * 3


def test_every_audit_of_such_an_edit_runs_it(tiny: Any) -> None:
    """And no other; a point for each part, and one for all."""
    planned, text = resolve(Request(suite="smoke", attacks=("direct",))), tiny.scope("text-encoder")[0]
    key = tiny.scope("cross-attention-kv")[0]
    whole = Edit(tiny.fingerprint, "x", tensors={key: tiny.tensor(key) + 1})
    assert with_restoring(planned, tiny, tiny, whole) is planned is with_restoring(planned, tiny, tiny, None)
    for hooks, points in (((), (0, 1)), ((REMAP,), (0, 1, 2, 3))):
        edit = Edit(tiny.fingerprint, "x", tensors={text: tiny.tensor(text) + 1}, hooks=hooks)
        more = with_restoring(planned, tiny, tiny, edit)
        assert list(more.attacks) == ["direct", "restore"]
        assert more.attacks["restore"][1].budget.points == points
        assert with_restoring(planned, None, tiny, edit) is planned  # nobody has the base
    asked = resolve(Request(suite="smoke", attacks=("restore",), unlearner="esd"))
    with pytest.raises(BadInput, match="nothing of this edit comes apart"):
        with_restoring(asked, tiny, tiny, whole)


def test_where_there_is_nothing_to_put_back_it_is_refused() -> None:
    with pytest.raises(BadSetting, match="restore takes parts of an edit off again, and there is none"):
        resolve(Request(attacks=("restore",)))
    with pytest.raises(BadSetting, match="restore needs the original, which is not at hand"):
        resolve(Request(attacks=("restore",), original=False))
    with pytest.raises(BadSetting, match="restore sets one edit against its original"):
        resolve_sequence(Order(requests=("bag",), attacks=("restore",)))


def test_it_has_no_settings() -> None:
    assert registry.settings(small("attacks", "restore")) == {}
