"""Loss of precision: a quantiser that rounds to nearest, pruning by magnitude, noise from seeds, and an edit that comes off by itself."""

from __future__ import annotations

import pytest
import torch

from oracles import tiny_model
from vestige import concepts, registry
from vestige.attacks.perturb import Perturb, pruned, quantised
from vestige.edits import Edit, Hook
from vestige.methods import Budget, Candidate
from vestige.models.latent import LatentModel
from vestige.seeds import generator

BAG = concepts.load("bag")


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def run(model: LatentModel, points: tuple[int, ...], seed: int = 0, **settings: object) -> list[Candidate]:
    return list(Perturb(**settings)(model, BAG, Budget(points), seed=seed, select=lambda x: torch.zeros(len(x))))  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2, 8])
def test_quantiser_takes_the_nearest_of_all_levels(bits: int) -> None:
    """Against a search over every level."""
    w = torch.randn(3, 5, generator=generator(bits), dtype=torch.float64)
    levels = torch.linspace(-1, 1, 2**bits - 1, dtype=torch.float64) * w.abs().max()
    nearest = levels[(w[..., None] - levels).abs().argmin(-1)]
    torch.testing.assert_close(quantised(w, bits), nearest, atol=1e-12, rtol=0)
    torch.testing.assert_close(quantised(quantised(w, bits), bits), quantised(w, bits), atol=1e-12, rtol=0)
    assert torch.equal(quantised(torch.zeros(3, 3), bits), torch.zeros(3, 3))


def test_pruning_takes_the_smallest_and_leaves_the_rest() -> None:
    w = torch.randn(4, 3, 3, 3, generator=generator(0))
    out = pruned(w, 0.3)
    gone = out == 0
    assert gone.sum() == int(0.3 * w.numel())
    assert torch.equal(out[~gone], w[~gone])
    assert w[gone].abs().max() <= w[~gone].abs().min()


def test_ladder_takes_kinds_in_turn_from_the_slightest() -> None:
    made = Perturb(bits=(4, 8), noise=(0.1,), prune=(0.5, 0.1, 0.3)).ladder()
    assert made == [("quantise", 8), ("noise", 0.1), ("prune", 0.1), ("quantise", 4), ("prune", 0.3), ("prune", 0.5)]


def test_a_rung_is_what_it_says_and_leaves_biases_alone(tiny: LatentModel) -> None:
    for candidate in run(tiny, (0, 1, 2, 3))[1:]:
        assert candidate.edit is not None
        view, kind = tiny.edited(candidate.edit), candidate.notes["kind"]
        for name in tiny.scope("unet"):
            before, after = tiny.tensor(name), view.tensor(name)
            if before.dim() < 2:
                assert torch.equal(before, after)
            elif kind == "noise":
                assert 0 < (after - before).std() < 0.02 * before.std() + 1e-9  # the rung says 0.01 of the tensor's own
            else:
                assert torch.equal(after, quantised(before, 8) if kind == "quantise" else pruned(before, 0.1))
        assert all(torch.equal(tiny.tensor(n), view.tensor(n)) for n in tiny.scope("text-encoder"))


def test_noise_comes_from_the_seed_and_the_last_rung_stands(tiny: LatentModel) -> None:
    one, again, other = (run(tiny, (0, 1, 5), seed, bits=(), prune=(), noise=(0.1,)) for seed in (0, 0, 1))
    edits = [[c.edit for c in rows[1:] if c.edit is not None] for rows in (one, again, other)]
    marks = [[tiny.edited(e).fingerprint for e in row] for row in edits]
    assert marks[0] == marks[1]
    assert marks[0][0] == marks[0][1]
    assert marks[0] != marks[2]


def test_an_edit_below_half_a_bin_comes_off_by_itself(tiny: LatentModel) -> None:
    """What quantisation undoes exactly: both models round to the same weights, and draw the same."""
    name = tiny.scope("cross-attention-kv")[0]
    w = quantised(tiny.tensor(name), 4)
    base = tiny.edited(Edit(tiny.fingerprint, "bins", {}, "unet", {name: w}))
    step = w.abs().max() / 7
    least = torch.where(w.abs() < w.abs().max(), 0.4 * step, 0.0)  # the largest magnitude sets the bins, and stays
    edited = base.edited(Edit(base.fingerprint, "small", {}, "unet", {name: w + least}))
    hook = Hook("attacks", "perturb", {"kind": "quantise", "strength": 4, "scope": "cross-attention-kv", "seed": 0})
    views = [m.edited(Edit(m.fingerprint, "perturb", hooks=(hook,))) for m in (base, edited)]
    assert edited.fingerprint != base.fingerprint
    assert views[0].fingerprint == views[1].fingerprint


@pytest.mark.parametrize("wrong", [{"bits": (1,)}, {"noise": (0.0,)}, {"prune": (1.0,)}, {"bits": (), "noise": (), "prune": ()}])
def test_impossible_strengths_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"bits|noise"):
        registry.find("attacks", "perturb")(**wrong)
