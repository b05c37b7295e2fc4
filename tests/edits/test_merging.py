"""TIES: closed form on small tensors, limits and symmetries, and refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from oracles import tiny_model
from vestige import edits
from vestige.edits import Edit, Hook
from vestige.edits.merging import disjoint_mean, ties, trimmed
from vestige.errors import BadSetting, Incompatible

MODEL = tiny_model()
NAMES = MODEL.scope("cross-attention-kv")[:2]


def edit(seed: int, names: list[str] = NAMES) -> Edit:
    rng = torch.Generator().manual_seed(seed)
    tensors = {n: MODEL.tensor(n) + torch.randn(MODEL.tensor(n).shape, generator=rng) for n in names}
    return Edit(MODEL.fingerprint, f"m{seed}", {"a": seed}, "cross-attention-kv", tensors, notes={"concept": f"c{seed}", "seed": 0})


def change(made: Edit, name: str = NAMES[0]) -> Tensor:
    return made.weight(name, MODEL.tensor(name)).double() - MODEL.tensor(name).double()


def naive(changes: list[list[float]], share: float) -> list[float]:
    """The rule, an entry at a time."""
    kept = []
    for row in changes:
        edge = sorted(map(abs, row))[-max(1, round(share * len(row)))]
        kept.append([x if abs(x) >= edge else 0.0 for x in row])
    out = []
    for column in zip(*kept, strict=True):
        total = sum(column)
        agree = [x for x in column if x * total > 0]
        out.append(sum(agree) / len(agree) if agree else 0.0)
    return out


def test_closed_form_on_a_small_tensor() -> None:
    """Entry by entry: agreement is averaged, a minority is dropped, zeros do not count, a draw elects nothing."""
    rows = torch.tensor([[2.0, 3.0, 4.0, 1.0, 0.0], [4.0, -1.0, 0.0, -1.0, 0.0]], dtype=torch.float64)
    assert disjoint_mean(rows).tolist() == [3.0, 3.0, 4.0, 0.0, 0.0]


def test_trimming_counts_over_all_weights_together() -> None:
    made = trimmed({"a": torch.tensor([5.0, -4.0, 0.1]), "b": torch.tensor([3.0, 0.2, -0.3])}, 0.5)
    assert made["a"].tolist() == [5.0, -4.0, 0.0]
    assert made["b"].tolist() == [3.0, 0.0, 0.0]


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_it_is_the_rule_written_naively(share: float) -> None:
    parts = [edit(i, NAMES[:1]) for i in range(3)]
    expected = naive([change(p).flatten().tolist() for p in parts], share)
    assert change(ties(MODEL, parts, share=share)).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_one_edit_merges_to_its_own_trimmed_self() -> None:
    one = edit(0)
    assert all(torch.equal(ties(MODEL, [one], share=1.0).tensors[n], one.tensors[n]) for n in NAMES)
    made = ties(MODEL, [one], share=0.25)
    kept = torch.cat([change(made, n).flatten() for n in NAMES])
    whole = torch.cat([change(one, n).flatten() for n in NAMES])
    assert int((kept != 0).sum()) == round(0.25 * len(whole))
    assert kept[kept != 0].abs().min() >= whole[kept == 0].abs().max()
    assert torch.allclose(kept[kept != 0], whole[kept != 0], atol=1e-6)


def test_opposite_edits_cancel_and_equal_ones_stay() -> None:
    """Doubling a weight and setting it to zero are opposite exactly, in floating point too."""
    double, zero = (Edit(MODEL.fingerprint, "m", tensors={n: k * MODEL.tensor(n) for n in NAMES}) for k in (2, 0))
    one = edit(0)
    assert change(ties(MODEL, [one, one], share=1.0)).sub(change(one)).abs().max() < 1e-6
    assert change(ties(MODEL, [double, zero], share=1.0)).abs().max() == 0
    assert change(ties(MODEL, [double, zero, double], share=1.0)).equal(MODEL.tensor(NAMES[0]).double())


def test_the_majority_is_kept_where_a_mean_would_wear_it_down() -> None:
    """Two edits move a weight up, one down by less: the mean is of the two."""
    name = NAMES[0]

    def moved(by: float) -> Edit:
        return Edit(MODEL.fingerprint, "m", tensors={name: MODEL.tensor(name) + by})

    made = ties(MODEL, [moved(1.0), moved(3.0), moved(-1.0)], share=1.0)
    assert change(made).numpy() == pytest.approx(2.0, abs=1e-5)
    summed = edits.combine(MODEL, [(moved(by), 1 / 3) for by in (1.0, 3.0, -1.0)])
    assert change(summed).numpy() == pytest.approx(1.0, abs=1e-5)


def test_order_makes_no_difference_bit_for_bit() -> None:
    parts = [edit(i) for i in range(3)]
    first = ties(MODEL, parts, share=0.6)
    for order in itertools.permutations(parts):
        other = ties(MODEL, order, share=0.6)
        assert all(torch.equal(other.tensors[n], first.tensors[n]) for n in NAMES)


def test_edits_of_different_weights_do_not_shrink_each_other() -> None:
    one, other = edit(0, NAMES[:1]), edit(1, NAMES[1:])
    made = ties(MODEL, [one, other], share=1.0)
    assert change(made, NAMES[0]).sub(change(one, NAMES[0])).abs().max() < 1e-6
    assert change(made, NAMES[1]).sub(change(other, NAMES[1])).abs().max() < 1e-6


def test_the_scale_multiplies_the_change() -> None:
    parts = [edit(0), edit(1)]
    assert torch.allclose(change(ties(MODEL, parts, scale=2.0)), 2 * change(ties(MODEL, parts)), atol=1e-6)
    assert change(ties(MODEL, parts, scale=0.0)).abs().max() == 0


def test_low_rank_edits_merge_by_what_they_do() -> None:
    name = NAMES[0]
    rows, columns = MODEL.tensor(name).shape
    down, up = torch.ones(1, columns), torch.ones(rows, 1)
    low = Edit(MODEL.fingerprint, "low", factors={name: (down, up)})
    made = ties(MODEL, [low], share=1.0)
    assert change(made).numpy() == pytest.approx(1.0, abs=1e-6)
    assert not made.factors


def test_it_says_what_was_merged_and_applies_to_the_model() -> None:
    made = ties(MODEL, [edit(0), edit(1)], share=0.5, scale=1.5)
    assert (made.method, made.base) == ("ties", MODEL.fingerprint)
    assert made.settings["parts"] == [{"method": "m0", "settings": {"a": 0}}, {"method": "m1", "settings": {"a": 1}}]
    assert (made.settings["share"], made.settings["scale"], made.notes["concept"]) == (0.5, 1.5, "c0, c1")
    assert MODEL.edited(made).fingerprint != MODEL.fingerprint


def test_what_cannot_be_merged_is_refused() -> None:
    hook = Edit(MODEL.fingerprint, "remap", hooks=(Hook("unlearners", "remap", {}),))
    with pytest.raises(Incompatible, match="acts at inference time"):
        ties(MODEL, [hook])
    for parts, share in (([], 0.2), ([edit(0)], 0.0), ([edit(0)], 1.1)):
        with pytest.raises(BadSetting, match="share above 0 and at most 1"):
            ties(MODEL, parts, share=share)
    with pytest.raises(Incompatible, match="was made on a model"):
        ties(tiny_model(1), [edit(0)])
