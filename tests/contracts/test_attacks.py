"""What every attack promises, whichever the registry finds."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import counted, small, tiny_model
from vestige import concepts, registry
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.concepts.joint import joint, targets
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit, Hook
from vestige.errors import VestigeError
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import TRAINED
from vestige.methods.stock import Stock
from vestige.models.latent import LatentModel

NAMES = registry.names("attacks")
SNEAKER, BAG = (concepts.load(word) for word in ("sneaker", "bag"))
PAIR = joint([SNEAKER, BAG])
# What each access may not touch: the weights, in any way that reads, trains or replaces them.
WEIGHTS = ("tensor", "scope", "trainable", "adapted", "edited")
FORBIDDEN: dict[str, tuple[str, ...]] = {"prompts": WEIGHTS, "gradients": WEIGHTS, "weights": ()}

pytestmark = pytest.mark.parametrize("name", NAMES)


def concept_of(name: str) -> Concept:
    """What it is asked to bring back: a concept, or two."""
    return PAIR if registry.find("attacks", name).brings == "several" else SNEAKER


def pictures(name: str, count: int = 2) -> PictureSet | None:
    """Only for an attack that says it needs them: of the concept, or captioned ones of what was retained."""
    needs, count = registry.find("attacks", name).needs, count * len(targets(concept_of(name)))
    given = PictureSet(torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(5)), "random")
    if "retain" in needs:
        return replace(given, captions=(("a picture of a boot", "a boot"),) * count)
    return given if "pictures" in needs else None


def select(name: str) -> Callable[[Tensor], Tensor]:
    """A judge that sees the concept in everything; in nothing, for an attack that must train without it."""
    seen = "retain" not in registry.find("attacks", name).needs
    return lambda images: torch.full((len(images),), seen)


@functools.cache
def another() -> LatentModel:
    """A public base that the attacked model was not made of."""
    return tiny_model(seed=1)


def held(name: str) -> dict[str, Any]:
    """What an attack is handed: pictures, or the public base: another model, or with an edit of three parts on it."""
    made = registry.find("attacks", name)
    if "original" not in made.needs:
        return {"pictures": pictures(name)}
    if not made.restores:
        return {"stock": Stock(another())}
    model = tiny_model()
    text, key = model.scope("text-encoder")[0], model.scope("cross-attention-kv")[0]
    row, column = model.tensor(key).shape
    factors = {key: (torch.ones(1, column), torch.ones(row, 1))}
    hook = Hook("unlearners", "remap", {"words": "sneaker", "towards": "boot"})
    edit = Edit(model.fingerprint, "made up", tensors={text: model.tensor(text) + 1}, factors=factors, hooks=(hook,))
    return {"stock": Stock(model, edit)}


def attack(name: str, model: Any, points: tuple[int, ...], seed: int = 0, method: Any = None) -> list[Candidate]:
    method = small("attacks", name) if method is None else method
    return list(method(model, concept_of(name), Budget(points), seed=seed, select=select(name), **held(name)))


def same(one: Candidate, other: Candidate) -> bool:
    if (one.spent, one.tries, one.prompts, one.edit is None) != (other.spent, other.tries, other.prompts, other.edit is None):
        return False
    if one.churn != other.churn:
        return False
    starts = [None if c.start is None else (c.start.share, c.start.latents.tolist()) for c in (one, other)]
    kept = [None if c.kept is None else (c.kept.where.tolist(), c.kept.latents.tolist()) for c in (one, other)]
    if starts[0] != starts[1] or kept[0] != kept[1]:
        return False
    if one.edit is None or other.edit is None:
        return True
    hooks = [[(h.kind, h.name, h.arguments) for h in e.hooks] for e in (one.edit, other.edit)]
    if hooks[0] != hooks[1]:
        return False
    payloads = [
        {**e.tensors, **{f"{n}:{i}": f for n, pair in e.factors.items() for i, f in enumerate(pair)}}
        | {f"hook {i}:{n}": t for i, hook in enumerate(e.hooks) for n, t in hook.tensors.items()}
        for e in (one.edit, other.edit)
    ]
    return payloads[0].keys() == payloads[1].keys() and all(torch.equal(payloads[0][k], payloads[1][k]) for k in payloads[0])


class Guard:
    """A model that refuses what an attack's access does not cover, and prediction with gradients where that is more than it covers."""

    def __init__(self, inner: LatentModel, access: str) -> None:
        self._inner, self._access = inner, access

    def __getattr__(self, name: str) -> Any:
        if name in FORBIDDEN[self._access] or name == "parts":
            raise AssertionError(f"access {self._access!r} does not cover {name}")
        return getattr(self._inner, name)

    def denoise(self, *arguments: Any) -> Any:
        if self._access == "prompts" and torch.is_grad_enabled():
            raise AssertionError("prompt access computes no gradients")
        return self._inner.denoise(*arguments)


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def candidates(tiny: LatentModel) -> Callable[[str], list[Candidate]]:
    """The small attack's candidates at (0, 2, 4), made once."""
    made: dict[str, list[Candidate]] = {}

    def make(name: str) -> list[Candidate]:
        if name not in made:
            made[name] = attack(name, tiny, (0, 2, 4))
        return made[name]

    return make


def test_calls_are_those_that_are_made(name: str, tiny: LatentModel) -> None:
    """Counted while it runs; a search makes less than it may where it succeeds early, or its probes are cheap."""
    method, given = small("attacks", name), pictures(name)
    for setting in (None, "batch", "sampling_steps", "draws", "targets"):
        if setting is None or hasattr(method, setting):
            asked = method if setting is None else replace(method, **{setting: 2 * getattr(method, setting)})
            with counted() as seen:
                attack(name, tiny, (0, 2, 4), method=asked)
            made, each = seen["plain"] + TRAINED * seen["trained"], len(targets(concept_of(name)))
            told = each * asked.calls(4, 0 if given is None else len(given) // each)
            assert made <= told <= 2 * made if name in ("conditions", "unlearn_diff_atk") else told == made, setting


def test_tries_are_those_of_its_candidates(name: str, candidates: Callable[[str], list[Candidate]]) -> None:
    method = small("attacks", name)
    assert [c.tries for c in candidates(name)] == [method.tries(c.spent) for c in candidates(name)]


def test_contract_is_declared(name: str) -> None:
    made = registry.find("attacks", name)
    assert issubclass(made, Attack)
    assert isinstance(made.paper, Paper)
    assert made.paper.title
    assert made.access in FORBIDDEN
    assert made.needs <= {"pictures", "retain", "original"}
    assert len(made.needs) <= 1  # both come through the same argument
    if "retain" in made.needs:  # by which the audit knows how many of which to hand over
        assert {"data", "retain_pictures"} <= registry.settings(made()).keys()


def test_what_it_cannot_bring_back_is_refused(name: str, tiny: LatentModel) -> None:
    """Several concepts, or one; and the attack that it names instead does that."""
    made = registry.find("attacks", name)
    wrong = {"one": PAIR, "several": SNEAKER}.get(made.brings)
    if wrong is None:
        small("attacks", name).check(SNEAKER), small("attacks", name).check(PAIR)
        return
    with pytest.raises(VestigeError, match="brings back"):
        small("attacks", name).check(wrong)
    small("attacks", name).check(concept_of(name))
    if made.counterpart:
        other = registry.find("attacks", made.counterpart)
        assert other.counterpart == name and other.brings != made.brings


def test_docstring_says_how_the_attack_differs_from_the_released_code(name: str) -> None:
    made = registry.find("attacks", name)
    assert made.__doc__
    if made.paper.code:
        assert "Differs from the released code" in made.__doc__
    arguments = "".join((base.__doc__ or "").partition("Arguments")[2] for base in made.__mro__)
    for field in fields(made):
        assert re.search(rf"^\s+{field.name}: ", arguments, re.MULTILINE), f"{field.name} is not described"


def test_zero_budget_is_the_plain_model(name: str, tiny: LatentModel) -> None:
    (found,) = attack(name, tiny, (0,))
    assert (found.spent, found.edit, found.tries, found.prompts) == (0, None, 1, None)


@pytest.mark.parametrize("points", [(0,), (0, 3), (0, 1, 2, 5)])
def test_every_point_of_the_budget_once_and_in_order(name: str, tiny: LatentModel, points: tuple[int, ...]) -> None:
    assert tuple(c.spent for c in attack(name, tiny, points)) == points


def test_spending_more_offers_more(name: str, candidates: Callable[..., list[Candidate]]) -> None:
    """Another edit, more tries or other prompts at every point."""
    found = candidates(name)
    assert not any(same(a, b) for i, a in enumerate(found) for b in found[:i])
    kinds = [(c.edit is not None, c.prompts is not None) for c in found[1:]]
    assert len(set(kinds)) == 1
    for key in found[0].cost:
        spent = [c.cost[key] for c in found]
        assert spent == sorted(spent)
        assert spent[0] >= 0


def test_a_shorter_budget_is_a_prefix(name: str, tiny: LatentModel, candidates: Callable[..., list[Candidate]]) -> None:
    for short, long in zip(attack(name, tiny, (0, 2)), candidates(name), strict=False):
        assert same(short, long)


def test_points_in_between_change_nothing(name: str, tiny: LatentModel, candidates: Callable[..., list[Candidate]]) -> None:
    assert same(attack(name, tiny, (0, 1, 3, 4))[-1], candidates(name)[-1])


def test_candidates_are_not_overwritten_by_later_ones(name: str, tiny: LatentModel, candidates: Callable[..., list[Candidate]]) -> None:
    """A candidate kept aside is still itself when the attack has gone on."""
    method, kept = small("attacks", name), []
    for candidate, reference in zip(
        method(tiny, concept_of(name), Budget((0, 2, 4)), seed=0, select=select(name), **held(name)), candidates(name), strict=True
    ):
        assert same(candidate, reference)
        kept.append(candidate)
    assert all(same(a, b) for a, b in zip(kept, candidates(name), strict=True))


def test_equal_seeds_equal_candidates_whatever_the_global_generator_says(
    name: str, tiny: LatentModel, candidates: Callable[..., list[Candidate]]
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        state = torch.random.get_rng_state()
        again = attack(name, tiny, (0, 2, 4))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert all(same(a, b) for a, b in zip(again, candidates(name), strict=True))


def test_other_seeds_other_edits(name: str, tiny: LatentModel, candidates: Callable[..., list[Candidate]]) -> None:
    if "original" in registry.find("attacks", name).needs:  # nothing is drawn at random: the base has one text encoder
        return
    other, found = attack(name, tiny, (0, 2, 4), seed=1), candidates(name)
    drawn = [not (name == "perturb" and c.notes.get("kind") != "noise") for c in found]  # of perturb, the noise alone is drawn
    assert not any(same(a, b) for a, b, seeded in zip(other, found, drawn, strict=True) if seeded and a.edit is not None)


def test_model_is_unchanged(name: str) -> None:
    """Also while the attack is under way, and when it is abandoned half-way."""
    model = tiny_model()
    mark = model.fingerprint
    running = small("attacks", name)(model, concept_of(name), Budget((0, 1, 2)), seed=0, select=select(name), **held(name))
    for _ in range(2):
        next(running)
        model._hashes.clear()
        assert model.fingerprint == mark
    running.close()
    model._hashes.clear()
    assert model.fingerprint == mark
    assert not any(p.requires_grad or p.grad is not None for part in model.parts.values() for p in part.parameters())


def test_no_more_than_the_declared_access_is_used(name: str, tiny: LatentModel, candidates: Callable[..., list[Candidate]]) -> None:
    made = registry.find("attacks", name)
    found = attack(name, Guard(tiny, made.access), (0, 2, 4))
    assert all(same(a, b) for a, b in zip(found, candidates(name), strict=True))
    if made.access == "prompts":
        assert all(c.edit is None for c in found)


def test_pictures_that_are_not_needed_are_not_used(name: str, tiny: LatentModel, candidates: Callable[..., list[Candidate]]) -> None:
    """And where they are needed, an attack without them is refused."""
    method, needed = small("attacks", name), registry.find("attacks", name).needs
    budget = Budget((0, 2, 4))
    if needed:
        what = {
            "pictures": f"reference pictures of {re.escape(concept_of(name).name)}",
            "retain": "pictures of what was retained, without sneaker",
        }
        what["original"] = "needs the original model, the public base"
        with pytest.raises(VestigeError, match=what[next(iter(needed))]):
            list(method(tiny, concept_of(name), budget, seed=0, select=select(name), pictures=None))
    else:
        given = PictureSet(torch.zeros(3, 3, 32, 32), "unasked")
        found = list(method(tiny, concept_of(name), budget, seed=0, select=select(name), pictures=given))
        assert all(same(a, b) for a, b in zip(found, candidates(name), strict=True))


def test_edits_fit_the_model_and_the_disk(name: str, tmp_path: Path, tiny: LatentModel, candidates: Callable[..., list[Candidate]]) -> None:
    for candidate in candidates(name):
        json.dumps([dict(candidate.cost), dict(candidate.notes)])
        if candidate.edit is None:
            continue
        edit = candidate.edit
        assert (edit.base, edit.method, edit.notes["concept"]) == (tiny.fingerprint, name, concept_of(name).name)
        assert edit.touched or edit.hooks
        if edit.touched:
            assert set(edit.touched) <= set(tiny.scope(edit.scope))
        back = Edit.load(edit.save(tmp_path / f"{candidate.spent}.safetensors"))
        drawn = [sample(tiny.edited(e), noise(tiny.latent_shape, [0]), tiny.condition(["a sneaker"]), steps=2) for e in (edit, back)]
        assert drawn[0].isfinite().all()
        assert same(replace(candidate, edit=back), candidate)
        torch.testing.assert_close(*drawn, atol=1e-4, rtol=1e-4)  # a file's tensors lie at other addresses, and kernels round by those


def test_an_edited_model_can_be_attacked(name: str, tiny: LatentModel) -> None:
    """The edit that an attack finds belongs on top of the one under attack."""
    kv = tiny.scope("cross-attention-kv")[0]
    view = tiny.edited(Edit(tiny.fingerprint, "shift", tensors={kv: tiny.tensor(kv) + 0.1}))
    for candidate in attack(name, view, (0, 2)):
        if candidate.edit is not None:
            assert candidate.edit.base == view.fingerprint
            view.edited(candidate.edit)


def test_a_hooked_model_can_be_attacked(name: str, tiny: LatentModel) -> None:
    remapped = tiny.edited(registry.build("unlearners", "remap")(tiny, SNEAKER, seed=0))
    for candidate in attack(name, remapped, (0, 2)):
        if candidate.edit is not None:
            assert candidate.edit.base == remapped.fingerprint
            remapped.edited(candidate.edit)


def test_variants_are_attacks_of_their_own(name: str, tiny: LatentModel, candidates: Callable[..., list[Candidate]]) -> None:
    for other in small("attacks", name).variants().values():
        assert type(other) is registry.find("attacks", name)
        assert other != small("attacks", name)
        found = attack(name, tiny, (0, 2), method=other)
        assert [c.spent for c in found] == [0, 2]
        assert not same(found[-1], candidates(name)[1])


def test_attack_survives_its_spec(name: str) -> None:
    for made in (small("attacks", name), registry.build("attacks", name), *small("attacks", name).variants().values()):
        assert registry.build("attacks", name, json.loads(json.dumps(registry.settings(made)))) == made
