"""Guards around a step's training: a pull, a share of the weights, a projection."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chains import BAG, DRESS, agree, chain, go, small_world  # noqa: F401
from hurry import sketches  # noqa: F401
from oracles import SMALL, small, tiny_model
from vestige import continual, registry
from vestige.concepts.images import PictureSet
from vestige.continual import Order, guards
from vestige.continual.guards import Guarded, Guards, Hold, projection, protected, word_embeddings
from vestige.diffusion import Model
from vestige.diffusion.attention import columns as token_columns
from vestige.edits import Edit
from vestige.errors import BadInput, BadSetting, Incompatible, RunConflict
from vestige.methods import Data, optimiser, training
from vestige.methods.collapse import collapsed

pytestmark = pytest.mark.usefixtures("sketches")

RETAIN = PictureSet(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), "noise", captions=(("a boot",),) * 4)


@functools.cache
def tiny() -> Model:
    """One for all tests: whatever trains, trains a view of it."""
    return tiny_model()


def settings(method: str, **own: Any) -> dict[str, Any]:
    return registry.settings(small("unlearners", method, **own))


def guarded(method: str = "concept_ablation", own: dict[str, Any] | None = None, words: Any = (), **guards: Any) -> Guarded:
    return Guarded(method=method, settings=settings(method, **(own or {})), guards=vars(Guards(**guards)), protected=words)


def changes(model: Any, edit: Edit) -> dict[str, Tensor]:
    return {n: edit.tensors[n] - model.tensor(n) for n in edit.tensors}


TRAINED = ("concept_ablation", "esd", "forget_me_not", "duge")


@pytest.mark.parametrize("method", TRAINED)
def test_guards_that_hold_nothing_change_nothing(method: str) -> None:
    """Bit for bit, though the view is instrumented; pictures are the unguarded model's too."""
    model = tiny()
    plain = small("unlearners", method)(model, BAG, seed=0)
    held = guarded(method)(model, BAG, seed=0)
    assert held.base == model.fingerprint
    assert all(torch.equal(plain.tensors[n], held.tensors[n]) for n in plain.tensors)


@pytest.mark.parametrize("method", TRAINED)
def test_a_share_is_all_that_moves(method: str) -> None:
    model, share = tiny(), 0.1
    own = {"weight_decay": 0.1} if "weight_decay" in settings(method) else {}
    moved = changes(model, guarded(method, own, share=share)(model, BAG, seed=0))
    count = sum(v.numel() for v in moved.values())
    assert 0 < sum(int((v != 0).sum()) for v in moved.values()) <= round(share * count)


@pytest.mark.parametrize("method", ["esd", "salun", "selective_amnesia"])
def test_chosen_weights_are_those_with_the_largest_product_with_their_gradient(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are those of the method's own loss at the weights that enter the step, averaged over the same batches."""
    monkeypatch.setattr(guards, "PASSES", 2)
    model = tiny()
    sums: dict[str, Tensor] = {}
    plain = training.fit

    def measured(leaves: Any, loss: Any, how: Any, *, seed: int, **more: Any) -> Any:
        for step in range(2):
            value = loss(training.generator(seed, "step", step, 0))
            slopes = torch.autograd.grad(value, list(leaves.values()))
            for name, slope in zip(leaves, slopes, strict=True):
                sums[name] = sums.get(name, 0) + slope * min(1, 1 / float(torch.cat([s.flatten() for s in slopes]).norm())) ** 0
        return plain(leaves, loss, replace(how, steps=1), seed=seed, **more)

    own = settings(method, steps=4, **({"variant": "strict"} if method == "esd" else {}))
    monkeypatch.setattr(f"vestige.unlearners.{method}.fit", measured)
    registry.build("unlearners", method, own)(model, BAG, seed=0)
    monkeypatch.undo()
    monkeypatch.setattr(guards, "PASSES", 2)
    hold: list[Hold] = []
    choose = Hold.choose
    monkeypatch.setattr(Hold, "choose", lambda self: (choose(self), hold.append(self)))
    Guarded(method=method, settings=own, guards=vars(Guards(share=0.05)))(model, BAG, seed=0)
    scores = torch.cat([(model.tensor(n) * sums[n]).abs().flatten() for n in sums])
    chosen = torch.cat([hold[0].mask[n].flatten() for n in sums])  # type: ignore[index]
    assert int(chosen.sum()) == round(0.05 * len(chosen))
    assert scores[chosen].min() >= scores[~chosen].max() * (1 - 1e-4)


@pytest.mark.parametrize(
    ("method", "looks"),
    [("salun", "salun.largest"), ("selective_amnesia", "selective_amnesia.Pull"), ("duge", "duge.Pull"), ("erasediff", "erasediff.fit")],
)
def test_what_a_method_sees_before_it_trains_is_what_may_move(method: str, looks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saliency, Fisher information, importance and adaptive weights are of the share that trains, and of nothing else."""
    given: dict[str, Any] = {"duge": {"importance": "mas", "pull_weight": 1.0}, "erasediff": {"forget_weight": "cosine"}}.get(method, {})
    model, share, seen = tiny(), 0.1, list[dict[str, Tensor]]()
    room = __import__(f"vestige.unlearners.{method}", fromlist=["x"])
    plain = getattr(room, looks.split(".")[1])

    def spied(*asked: Any, **named: Any) -> Any:
        if method == "salun":
            seen.append(dict(asked[0]))
        elif method == "erasediff":
            value = asked[1](training.generator(0, "x"))
            slopes = torch.autograd.grad(value, list(asked[0].values()))
            seen.append(dict(zip(asked[0], slopes, strict=True)))
        else:
            seen.append(dict(asked[2]))
        return plain(*asked, **named)

    monkeypatch.setattr(room, looks.split(".")[1], spied)
    guarded(method, given, share=share)(model, BAG, seed=0)
    whole, held = (sum(int((v != 0).sum()) for v in one.values()) for one in (seen[0], seen[-1]))
    count = sum(v.numel() for v in seen[-1].values())
    assert whole > 0.5 * count and 0 < held <= round(share * count)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_pull_is_the_trainers_pull(monkeypatch: pytest.MonkeyPatch, accumulation: int) -> None:
    """Added to gradients, it gives what the same penalty in the loss gives, in however many passes the gradient is made."""
    model = tiny()
    own = settings("esd", variant="strict", steps=3)
    with optimiser.using(optimiser.FitOptions(accumulation=accumulation)):
        _check_pull(model, own, monkeypatch)


def _check_pull(model: Model, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    held = Guarded(method="esd", settings=own, guards=vars(Guards(pull=50.0)))(model, BAG, seed=0)
    free = registry.build("unlearners", "esd", own)(model, BAG, seed=0)
    plain = training.fit

    def pulled(leaves: Any, *given: Any, **more: Any) -> Any:
        count = sum(v.numel() for v in leaves.values())
        goals = {n: model.tensor(n) for n in leaves}
        weights = {n: torch.tensor(v.numel() / count) for n, v in leaves.items()}
        return plain(leaves, *given, **more, pulls=[training.Pull(50.0, goals, weights)])

    monkeypatch.setattr("vestige.unlearners.esd.fit", pulled)
    expected = registry.build("unlearners", "esd", own)(model, BAG, seed=0)
    for name, value in expected.tensors.items():
        assert torch.allclose(held.tensors[name], value, atol=1e-5)
    assert any(not torch.equal(held.tensors[n], free.tensors[n]) for n in free.tensors)


@pytest.mark.slow
def test_a_strong_pull_keeps_the_weights_near_its_goal() -> None:
    """Towards the model that enters the step, or towards the original."""
    original = tiny()
    names = original.scope("cross-attention-kv")
    shifted = Edit(original.fingerprint, "shift", tensors={n: original.tensor(n) + 0.05 for n in names})
    start = original.edited(shifted)
    data = Data(retain=RETAIN, original=original)
    own = {"steps": 40, "lr": 5e-3, "weight_decay": 0.0}

    def gap(goal: Any, **guards: Any) -> float:
        edit = guarded("concept_ablation", own, **guards)(start, BAG, seed=0, data=data)
        return math.sqrt(sum(float((edit.tensors[n] - goal.tensor(n)).square().sum()) for n in names))

    assert gap(start, pull=1e6) < 0.3 * gap(start)
    assert gap(original, pull=1e6, pull_towards="original") < 0.3 * gap(original)


@pytest.mark.parametrize("passes", [1, 2])
def test_damping_passes_every_gradient_through_the_selection(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    """The method's own loss, in however many passes the gradient is made: each pass's is damped."""
    model, found = tiny(), list[dict[str, Tensor]]()

    def gathered(leaves: Any, loss: Any, *_: Any, **__: Any) -> Any:
        each = []
        for micro in range(passes):
            before = {n: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone() for n, leaf in leaves.items()}
            loss(training.generator(0, "step", micro)).backward()
            each.append({n: leaf.grad - before[n] for n, leaf in leaves.items()})
        found.extend(each)
        return iter(())

    monkeypatch.setattr("vestige.unlearners.concept_ablation.fit", gathered)
    registry.build("unlearners", "concept_ablation", settings("concept_ablation"))(model, BAG, seed=0)
    guarded("concept_ablation", damp=3)(model, BAG, seed=0)
    for plain, damped in zip(found[:passes], found[passes:], strict=True):
        assert any(not torch.equal(plain[n], damped[n]) for n in plain)
        for name, slope in plain.items():
            torch.testing.assert_close(damped[name], collapsed(slope, 3), rtol=1e-3, atol=1e-3 * float(slope.abs().max()))


def test_the_projection_is_the_formula_and_leaks_what_it_says() -> None:
    rng = torch.Generator().manual_seed(0)
    c = torch.randn(12, 4, generator=rng)
    p = projection(c)
    assert torch.allclose(p, p.T, atol=1e-12)
    _, sizes, right = torch.linalg.svd(c.double(), full_matrices=False)
    rho = max(1e-4, 1e-6 * float((c.double() ** 2).sum()) / 4)
    for size, v in zip(sizes, right, strict=True):
        along = c.double() @ v / size
        assert torch.allclose(p @ along, rho / (size**2 + rho) * along, atol=1e-10)
    across = torch.linalg.svd(c.double())[0][:, 4:]
    assert torch.allclose(p @ across, across, atol=1e-10)


@pytest.mark.parametrize("method", TRAINED)
def test_projected_updates_leave_protected_words_where_they_were(method: str) -> None:
    """Keys and values of every protected column stay, under Adam too; without the guard they move. Bag's own may move."""
    model = tiny()
    words = protected(BAG, [DRESS])
    assert "dress" in dict(words) and "bag" not in dict(words) and dict(words)["dress"] == tuple(p.text for p in DRESS.prompts())
    words = words[:4]
    held = word_embeddings(model, words)
    own = {"steps": 5, "lr": 1e-2} | ({"variant": "x"} if method == "esd" else {})
    free = changes(model, guarded(method, own)(model, BAG, seed=0))
    kept = changes(model, guarded(method, own, words, project=True)(model, BAG, seed=0))
    target, names = word_embeddings(model, [("bag", ("a bag",))]), model.scope("cross-attention-kv")

    def moved(by: dict[str, Tensor], rows_: Tensor) -> float:
        return sum(float((by[name] @ rows_).norm()) for name in names)

    assert moved(free, held) > 0.1
    assert moved(kept, held) < 1e-2 * moved(free, held)
    assert moved(kept, target) > 0.1 * moved(free, target)


def test_the_edit_is_the_model_that_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last view's weights under the projection are the edit's."""
    model, views = tiny(), []
    plain = Hold._instrumented
    monkeypatch.setattr(Hold, "_instrumented", lambda self, view: views.append(plain(self, view)) or views[-1])
    edit = guarded("concept_ablation", {"steps": 3, "lr": 1e-2}, protected(BAG, [])[:3], project=True)(model, BAG, seed=0)
    name = model.scope("cross-attention-kv")[0]
    module = views[-1].parts["unet"].get_submodule(name.removeprefix("unet.").removesuffix(".weight"))
    assert torch.equal(module.weight, edit.tensors[name])
    assert not torch.equal(module.weight, model.tensor(name))


def test_a_column_is_the_mean_of_a_words_tokens() -> None:
    model = tiny()
    texts = ("a boot", "a neon picture of a boot")
    by_hand = [model.condition([t]).text[0, token_columns(model, t, "boot")] for t in texts]
    assert torch.allclose(word_embeddings(model, [("boot", texts)])[:, 0], torch.cat(by_hand).mean(0), atol=1e-6)
    with pytest.raises(BadInput, match="neither neighbours nor unrelated"):
        word_embeddings(model, [])


def test_adapters_cannot_be_held() -> None:
    with pytest.raises(Incompatible, match="an adapter's"):
        guarded("spm", pull=1.0)(tiny(), BAG, seed=0)


@pytest.mark.parametrize(
    "guards",
    [
        {"pull": -1.0},
        {"share": 0.0},
        {"share": 1.1},
        {"share": 0.5, "project": True},
        {"pull_towards": "x"},
        {"damp": -1},
        {"damp": 2, "share": 0.5},
    ],
)
def test_senseless_guards_are_refused(guards: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=r"given|either"):
        Guards(**guards)


def test_guards_are_for_methods_that_train() -> None:
    with pytest.raises(BadSetting, match="uce does not train"):
        continual.resolve(Order(requests=("bag",), method="uce", guards=Guards(pull=1.0)))


SMALL_CA = {f"concept_ablation.{k}": v for k, v in SMALL["unlearners"].items() if k in settings("concept_ablation")}


SLOWLY = pytest.mark.slow


@pytest.mark.parametrize(
    "guards",
    [
        pytest.param(Guards(pull=10.0), id="pull", marks=SLOWLY),
        pytest.param(Guards(share=0.2), id="share", marks=SLOWLY),
        pytest.param(Guards(project=True), id="project"),
    ],
)
def test_a_guarded_sequence_is_a_ledger_like_any_other(guards: Guards, tmp_path: Path) -> None:
    """It resumes, continues by the very runs of the whole, says how it was held, and is not continued otherwise."""
    more: dict[str, Any] = {"method": "concept_ablation", "settings": SMALL_CA, "guards": guards, "cache": tmp_path / "cache"}
    result = go(tmp_path / "whole", **more)
    taken = sorted(path.name for path in (tmp_path / "cache").glob("unlearn-*"))
    assert result["guards"] == guards.as_dict()
    go(tmp_path / "grown", "bag", **more)
    assert agree(go(tmp_path / "grown", **more), result)
    assert sorted(path.name for path in (tmp_path / "cache").glob("unlearn-*")) == taken  # asked of the method likewise
    assert chain(tmp_path / "grown") == chain(tmp_path / "whole")
    second = Edit.load(tmp_path / "whole/edits/02-dress.safetensors")
    assert second.notes["guards"] == guards.as_dict()
    assert ("bag" in second.notes["protected"]) == guards.project
    with pytest.raises(RunConflict, match="guards"):
        go(tmp_path / "whole", **{**more, "guards": Guards()})


def test_a_ledger_without_guards_has_the_spec_it_always_had() -> None:
    assert "guards" not in continual.resolve(Order(requests=("bag",))).spec()
