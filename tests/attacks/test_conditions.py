"""Conditions: what the hook computes, which tries are drawn, and which of them is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import Gaussian, tiny_model
from vestige import concepts
from vestige.attacks.conditions import Conditions
from vestige.concepts import Concept
from vestige.diffusion.sampling import noise, predict, sample
from vestige.methods import Budget, Candidate
from vestige.models.latent import LatentModel

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"draws": 2, "sampling_steps": 2}
PROMPTS = ["a neon picture of a sneaker", "a bag", "", "one sneaker"]


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def hooked(model: Any, others: tuple[str, ...] = (), weights: tuple[float, ...] = (), scale: float = 1.0) -> Any:
    return Conditions.hook(model, words="sneaker", others=others, weights=weights, scale=scale)


def test_conditions_are_mixed_where_the_concept_is_named(tiny: LatentModel) -> None:
    plain = tiny.condition(PROMPTS).text
    boot, bag = (tiny.condition([p.replace("sneaker", word) for p in PROMPTS]).text for word in ("boot", "bag"))
    found = hooked(tiny, ("boot", "bag"), (0.25, -0.5)).condition(PROMPTS).text
    wanted = 1.25 * plain + 0.25 * boot - 0.5 * bag
    torch.testing.assert_close(found[[0, 3]], wanted[[0, 3]])
    assert torch.equal(found[[1, 2]], plain[[1, 2]])


def test_swap_is_the_other_words_condition(tiny: LatentModel) -> None:
    found = hooked(tiny, ("boot",), (1.0,)).condition(["a SNEAKER , sneakers"])
    torch.testing.assert_close(found.text, tiny.condition(["a boot , sneakers"]).text)


def test_without_others_and_at_scale_one_nothing_changes(tiny: LatentModel) -> None:
    x, t = noise(tiny.latent_shape, [0, 1]), torch.tensor([500, 20])
    given = tiny.condition(PROMPTS[:2])
    same = hooked(tiny)
    assert torch.equal(same.condition(PROMPTS[:2]).text, given.text)
    assert torch.equal(same.denoise(x, t, given).value, tiny.denoise(x, t, given).value)
    assert same.fingerprint != tiny.fingerprint  # a view of its own


@pytest.mark.parametrize("kind", ["noise", "data", "velocity"])
@pytest.mark.parametrize("scale", [-1.5, 0.0, 0.5, 2.0])
def test_scale_multiplies_the_guidance(kind: str, scale: float) -> None:
    """Exact on the Gaussian, whatever the network predicts and whatever guidance the sampler has."""
    model = Gaussian(kind=kind)
    x, t = noise((1, 2, 2), [0, 1]).double(), torch.tensor(0.6, dtype=torch.float64)
    given, null = model.condition(["0.8", "0.3"]), model.condition([""])
    for guidance in (1.0, 3.0):
        found = predict(hooked(model, scale=scale), x, t, given, null, guidance).value
        torch.testing.assert_close(found, predict(model, x, t, given, null, guidance * scale).value)


def run(model: Any, points: tuple[int, ...], scores: list[float], method: Conditions | None = None) -> list[Candidate]:
    """The attack under a judge that says these scores, try by try."""
    said = iter(scores)

    def judge(images: Tensor) -> Tensor:
        return torch.full((len(images),), next(said))

    method = method or Conditions(**SMALL)
    return list(method(model, SNEAKER, Budget(points), seed=0, select=judge))


def test_best_try_so_far_is_kept_and_of_equals_the_latest(tiny: LatentModel) -> None:
    method = Conditions(**SMALL)
    found = run(tiny, (0, 1, 2, 3, 4, 5), [0.2, 0.5, 0.1, 0.5, 0.4])
    tries = [method.probe(SNEAKER, 0, i)[1] for i in range(1, 6)]
    assert found[0].edit is None
    kept = [c.edit.hooks[0].arguments for c in found[1:] if c.edit is not None]
    assert kept == [tries[0], tries[1], tries[1], tries[3], tries[3]]
    assert [c.notes["best"]["share"] for c in found[1:]] == pytest.approx([0.2, 0.5, 0.5, 0.5, 0.5])


def test_candidate_draws_what_the_judge_saw(tiny: LatentModel) -> None:
    """The edit's view and the hook are the same model."""
    (_, found) = run(tiny, (0, 5), [0.0, 0.0, 0.0, 0.0, 1.0])
    assert found.edit is not None
    views = tiny.edited(found.edit), Conditions.hook(tiny, **found.edit.hooks[0].arguments)
    drawn = [sample(v, noise(tiny.latent_shape, [3]), v.condition(["a sneaker"]), steps=2) for v in views]
    assert torch.equal(*drawn)
    assert views[0].fingerprint == views[1].fingerprint != tiny.fingerprint


def test_tries_take_the_kinds_in_turn_within_their_ranges() -> None:
    method = Conditions(reach=2.0)
    made = [method.probe(SNEAKER, 3, i) for i in range(1, 501)]
    assert [kind for kind, _ in made[:6]] == ["swap", "mix", "average", "guidance", "both", "swap"]
    ranges: dict[str, list[float]] = {}
    for kind, a in made:
        assert a["words"] == "sneaker"
        assert set(a["others"]) <= {"sandal", "boot"}
        if kind in ("swap", "mix", "average"):
            assert a["scale"] == 1.0
        if kind == "swap":
            assert a["weights"] == [1.0]
        if kind == "average":
            assert len(a["weights"]) == 2
            assert min(a["weights"]) >= 0
            assert sum(a["weights"]) <= 1
        if kind in ("mix", "both"):
            ranges.setdefault("weight", []).extend(a["weights"])
        if kind in ("guidance", "both"):
            ranges.setdefault("scale", []).append(a["scale"])
    for name, (low, high) in {"weight": (-2, 1), "scale": (-2, 3)}.items():
        values = ranges[name]
        assert low <= min(values) < low + 0.2
        assert high - 0.2 < max(values) <= high
    assert {a["others"][0] for kind, a in made if kind == "swap"} == {"sandal", "boot"}
    means = torch.tensor([a["weights"] for kind, a in made if kind == "average"]).mean(0)
    assert (means - 1 / 3).abs().max() < 0.08  # uniform on the simplex of three


def test_a_concept_alone_is_only_guided() -> None:
    kinds = {Conditions().probe(Concept(name="hat"), 0, i)[0] for i in range(1, 9)}
    assert kinds == {"guidance"}


def test_cost_is_the_number_of_denoiser_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny_model(), 0
    denoise = model.denoise

    def spy(x_t: Tensor, t: Tensor, condition: Any) -> Any:
        nonlocal rows
        rows += len(x_t)
        return denoise(x_t, t, condition)

    monkeypatch.setattr(model, "denoise", spy)
    found = run(model, (0, 5), [0.0] * 5)
    assert found[-1].cost["calls"] == rows > 0


@pytest.mark.parametrize("wrong", [{"probes": ()}, {"reach": 0.0}, {"draws": 0}, {"sampling_steps": 0}], ids=str)
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"name at least one probe|is above 0|is at least 1"):
        Conditions(**wrong)
