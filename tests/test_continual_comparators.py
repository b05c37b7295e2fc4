"""What a sequence is compared with: requests erased together, guards around a step's training, and models made otherwise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import SMALL, small, tiny_model
from test_continual import BAG, DRESS, NEON, SNEAKER, Nudge, agree, chain, go, small_world  # noqa: F401
from vestige import concepts, continual, course, edits, merging, models, registry, report_continual, training
from vestige.attention import columns as token_columns
from vestige.concepts import Concept
from vestige.continual import Guarded, Hold, columns, compared, projection, protected, rebuilt, together
from vestige.course import JOINT, Guards, Joint, Order, joint
from vestige.edits import Edit
from vestige.errors import BadInput, BadSetting, Incompatible, RunConflict
from vestige.images import Data, PictureSet
from vestige.unlearners.uce import UCE, last_word

TROUSER = concepts.load("trouser")
FIVE = (SNEAKER, BAG, DRESS, TROUSER, NEON)
AWAY = {c.target for c in FIVE}
RETAIN = PictureSet(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), "noise", captions=(("a boot",),) * 4)


# Several requests as one concept


def test_nothing_that_goes_stands_in_or_is_kept() -> None:
    """Trouser's own anchor is dress, which goes too."""
    made = joint(FIVE)
    assert TROUSER.anchor == "dress"
    assert [c.anchor for c in made.parts] == ["boot", "top", "coat", "top", "photo"]
    assert not AWAY & {*made.neighbours, *made.unrelated}
    assert not set(made.neighbours) & set(made.unrelated)
    for part, concept in zip(made.parts, FIVE, strict=True):
        texts = [p.text for p in part.prompts("training")]
        assert all(other.target not in text.split() for text in texts for other in FIVE if other is not concept)
        assert all(concept.target in text.split() for text in texts)


def test_prompts_of_all_parts_come_in_turn_and_in_one_order() -> None:
    made = joint((BAG, DRESS, NEON))
    texts, others = [p.text for p in made.prompts("training")], made.others(made.anchor)
    assert sorted(texts) == sorted(p.text for part in made.parts for p in part.prompts("training"))
    assert [next(c.target for c in made.parts if c.target in text.split()) for text in texts[:6]] == ["bag", "dress", "neon"] * 2
    table = {t: a for part in made.parts for t, a in zip((p.text for p in part.prompts()), part.others(part.anchor), strict=True)}
    assert others == [table[text] for text in texts]
    assert [p.text for p in made.prompts("training", made.anchor)] == others
    assert made.others("") == [""] * len(texts)
    assert set(made.plain()) <= set(texts)


def test_a_spread_is_shared_evenly_and_words_are_asked_for_by_whoever_names_them() -> None:
    made = joint((BAG, NEON))
    shown = [p.expects for p in made.spread(8, "training")]
    assert [("bag" in e.values(), "neon" in e.values()) for e in shown] == [(True, False), (False, True)] * 4
    kept = made.spread(6, "training", words=("top", "woodcut"))
    assert all(p.expects["object"] == "top" for p in kept[::2]) and all(p.expects["style"] == "woodcut" for p in kept[1::2])


def test_joint_data_say_which_parts_they_hold() -> None:
    one, other = joint((BAG, DRESS)), joint((BAG, TROUSER))
    assert one.as_dict()["parts"] == [c.as_dict() for c in one.parts]
    assert one.as_dict() != other.as_dict()
    assert replace(one, neighbours=()).parts == one.parts
    with pytest.raises(BadInput, match="at least two parts"):
        replace(one, parts=(BAG,))
    with pytest.raises(BadInput, match="several targets"):
        one.others("boot")


# All together


def rows(model: Any, method: UCE, concept: Concept) -> tuple[Tensor, Tensor]:
    """UCE's tail rows of one request and of its anchor, a prompt at a time."""
    erased, goals = [], []
    for text, anchor in zip([p.text for p in concept.prompts()], concept.others(concept.anchor), strict=True):
        start, stop = last_word(model, text, concept.target), last_word(model, anchor, concept.anchor)
        length = model.condition([text]).text.shape[1] - max(start, stop)
        erased.append(model.condition([text]).text[0, start : start + length])
        goals.append(model.condition([anchor]).text[0, stop : stop + length])
    return torch.cat(erased).double(), torch.cat(goals).double()


def test_joint_uce_solves_for_all_targets_at_once() -> None:
    """The derivative of the summed objective is zero at the edit; every preserved word counts once."""
    model, concept = tiny_model(), joint((BAG, NEON))
    method = UCE().resolved(concept)
    edit = together(method, concept)(model, concept, seed=0)
    pairs = [rows(model, method, part) for part in concept.parts]
    own, goals = (torch.cat(part) for part in zip(*pairs, strict=True))
    kept, words = list[str](), set[str]()  # a prompt that an object and a style both name, "neon boot", counts for each
    for part in concept.parts:
        fresh = [w for w in (*part.neighbours, *part.unrelated) if w not in words]
        kept += ["", *{p.text: None for w in fresh for p in part.prompts("training", w)}]
        words |= {*fresh}
    held = model.condition(kept).text.double().flatten(0, 1)
    for name in edit.touched:
        base, made = model.tensor(name).double(), edit.tensors[name].double()
        slope = (own @ made.T - goals @ base.T).T @ own + float(method.preserve) * (made - base) @ held.T @ held
        slope = slope + method.ridge * (made - base)
        size = ((own @ base.T - goals @ base.T).T @ own).norm()
        assert slope.norm() < 1e-4 * size


def test_joint_uce_is_neither_sum_nor_sequence() -> None:
    model, concept = tiny_model(), joint((BAG, DRESS))
    method = UCE(preserve=0.1)
    edit = together(method, concept)(model, concept, seed=0)
    singles = [method(model, part, seed=0) for part in concept.parts]
    summed = edits.combine(model, [(one, 1.0) for one in singles])
    name = edit.touched[0]
    assert not torch.allclose(edit.tensors[name], summed.tensors[name], rtol=1e-3)
    assert all(not torch.allclose(edit.tensors[name], one.tensors[name], rtol=1e-3) for one in singles)


@pytest.mark.parametrize("method", [m for m in JOINT if m != "uce"])
def test_trained_methods_see_every_target(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part's prompts are encoded for training, and the edit is finite and its own."""
    model, concept = tiny_model(), joint((BAG, NEON))
    asked: set[str] = set()
    plain = type(model).condition
    monkeypatch.setattr(type(model), "condition", lambda self, prompts: asked.update(prompts) or plain(self, prompts))
    more = {"esd": {"prompts": "all"}, "duge": {}, "concept_ablation": {"retain_weight": 1.0, "retain": "others"}}[method]
    edit = small("unlearners", method, **more)(model, concept, seed=0)
    for part in concept.parts:
        assert asked & {p.text for p in part.prompts()}
    assert all(v.isfinite().all() for v in edit.tensors.values())
    assert edit.notes["concept"] == "bag+neon"


def test_one_step_forgets_all_requests(tmp_path: Path) -> None:
    result = go(tmp_path / "out", "bag", "dress", "neon", method="uce", mode="simultaneous")
    assert [s["request"] for s in result["steps"]] == [None, "bag+dress+neon"]
    assert list(result["steps"][1]["unlearning_accuracies"]) == ["bag", "dress", "neon"]
    assert [s["to_come"] for s in result["steps"]] == [["bag", "dress", "neon"], []]
    assert result["steps"][1]["reversal"] is None
    ((name, before, after),) = chain(tmp_path / "out")
    original = models.load("")
    assert (name, before) == ("bag+dress+neon", original.fingerprint)
    assert original.edited(rebuilt(tmp_path / "out")).fingerprint == after
    page = report_continual.write(tmp_path / "out").read_text()
    assert "3 requests, all at once." in page and "one after another" not in page
    with pytest.raises(RunConflict, match=r"request 1 is 'bag\+dress\+neon' there"):
        go(tmp_path / "out", "bag", "dress", method="uce", mode="simultaneous")


@pytest.mark.parametrize("method", ["concept_ablation", "duge"])
def test_a_method_that_rehearses_forgets_all_with_one_memory(method: str, tmp_path: Path) -> None:
    own = {f"{method}.{k}": v for k, v in SMALL["unlearners"].items() if k in settings(method)}
    result = go(tmp_path / "out", "bag", "dress", method=method, mode="simultaneous", memory=40, settings=own)
    assert result["steps"][1]["memory"] > 0
    assert result["steps"][1]["drift"]["original"] > 0
    assert Edit.load(tmp_path / "out/combined.safetensors").notes["concept"] == "bag+dress"


@pytest.mark.parametrize("name", registry.names("unlearners"))
def test_methods_of_one_target_are_refused_together(name: str) -> None:
    order = Order(requests=("bag", "dress"), mode="simultaneous", method=name)
    if name in JOINT:
        assert isinstance(course.course(order).steps[0], Joint)
        return
    with pytest.raises(BadSetting, match="cannot erase several together; concept_ablation, duge, esd, uce can"):
        course.course(order)


def test_duge_by_the_concepts_words_is_refused_together() -> None:
    with pytest.raises(BadSetting, match="tokens=concept"):
        course.course(Order(requests=("bag", "dress"), mode="simultaneous", method="duge", settings={"duge.tokens": "concept"}))


# Guards


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
    model = tiny_model()
    plain = small("unlearners", method)(model, BAG, seed=0)
    held = guarded(method)(model, BAG, seed=0)
    assert held.base == model.fingerprint
    assert all(torch.equal(plain.tensors[n], held.tensors[n]) for n in plain.tensors)


@pytest.mark.parametrize("method", TRAINED)
def test_a_share_is_all_that_moves(method: str) -> None:
    model, share = tiny_model(), 0.1
    own = {"weight_decay": 0.1} if "weight_decay" in settings(method) else {}
    moved = changes(model, guarded(method, own, share=share)(model, BAG, seed=0))
    count = sum(v.numel() for v in moved.values())
    assert 0 < sum(int((v != 0).sum()) for v in moved.values()) <= round(share * count)


def test_chosen_weights_are_those_with_the_largest_product_with_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are those of the method's own loss at the weights that enter the step, averaged over the same batches."""
    monkeypatch.setattr(continual, "PASSES", 2)
    model = tiny_model()
    sums: dict[str, Tensor] = {}
    plain = training.fit

    def measured(leaves: Any, loss: Any, how: Any, *, seed: int, **more: Any) -> Any:
        for step in range(2):
            value = loss(training.generator(seed, "step", step, 0))
            slopes = torch.autograd.grad(value, list(leaves.values()))
            for name, slope in zip(leaves, slopes, strict=True):
                sums[name] = sums.get(name, 0) + slope * min(1, 1 / float(torch.cat([s.flatten() for s in slopes]).norm())) ** 0
        return plain(leaves, loss, replace(how, steps=1), seed=seed, **more)

    own = settings("esd", variant="strict", steps=4)
    monkeypatch.setattr("vestige.unlearners.esd.fit", measured)
    registry.build("unlearners", "esd", own)(model, BAG, seed=0)
    monkeypatch.undo()
    monkeypatch.setattr(continual, "PASSES", 2)
    hold: list[Hold] = []
    choose = Hold.choose
    monkeypatch.setattr(Hold, "choose", lambda self: (choose(self), hold.append(self)))
    Guarded(method="esd", settings=own, guards=vars(Guards(share=0.05)))(model, BAG, seed=0)
    scores = torch.cat([(model.tensor(n) * sums[n]).abs().flatten() for n in sums])
    chosen = torch.cat([hold[0].mask[n].flatten() for n in sums])  # type: ignore[index]
    assert int(chosen.sum()) == round(0.05 * len(chosen))
    assert scores[chosen].min() >= scores[~chosen].max() * (1 - 1e-4)


def test_the_pull_is_the_trainers_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    """Added to gradients, it gives what the same penalty in the loss gives."""
    model = tiny_model()
    own = settings("esd", variant="strict", steps=3)
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


def test_a_strong_pull_keeps_the_weights_near_its_goal() -> None:
    """Towards the model that enters the step, or towards the original."""
    original = tiny_model()
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
    model = tiny_model()
    words = protected(BAG, [DRESS])
    assert "dress" in dict(words) and "bag" not in dict(words) and dict(words)["dress"] == tuple(p.text for p in DRESS.prompts())
    words = words[:4]
    held = columns(model, words)
    own = {"steps": 5, "lr": 1e-2} | ({"variant": "x"} if method == "esd" else {})
    free = changes(model, guarded(method, own)(model, BAG, seed=0))
    kept = changes(model, guarded(method, own, words, project=True)(model, BAG, seed=0))
    target, names = columns(model, [("bag", ("a bag",))]), model.scope("cross-attention-kv")

    def moved(by: dict[str, Tensor], rows_: Tensor) -> float:
        return sum(float((by[name] @ rows_).norm()) for name in names)

    assert moved(free, held) > 0.1
    assert moved(kept, held) < 1e-2 * moved(free, held)
    assert moved(kept, target) > 0.1 * moved(free, target)


def test_the_edit_is_the_model_that_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last view's weights under the projection are the edit's."""
    model, views = tiny_model(), []
    plain = Hold._instrumented
    monkeypatch.setattr(Hold, "_instrumented", lambda self, view: views.append(plain(self, view)) or views[-1])
    edit = guarded("concept_ablation", {"steps": 3, "lr": 1e-2}, protected(BAG, [])[:3], project=True)(model, BAG, seed=0)
    name = model.scope("cross-attention-kv")[0]
    module = views[-1].parts["unet"].get_submodule(name.removeprefix("unet.").removesuffix(".weight"))
    assert torch.equal(module.weight, edit.tensors[name])
    assert not torch.equal(module.weight, model.tensor(name))


def test_a_column_is_the_mean_of_a_words_tokens() -> None:
    model = tiny_model()
    texts = ("a boot", "a neon picture of a boot")
    by_hand = [model.condition([t]).text[0, token_columns(model, t, "boot")] for t in texts]
    assert torch.allclose(columns(model, [("boot", texts)])[:, 0], torch.cat(by_hand).mean(0), atol=1e-6)
    with pytest.raises(BadInput, match="neither neighbours nor unrelated"):
        columns(model, [])


def test_adapters_cannot_be_held() -> None:
    with pytest.raises(Incompatible, match="an adapter's"):
        guarded("spm", pull=1.0)(tiny_model(), BAG, seed=0)


@pytest.mark.parametrize("guards", [{"pull": -1.0}, {"share": 0.0}, {"share": 1.1}, {"share": 0.5, "project": True}, {"pull_towards": "x"}])
def test_senseless_guards_are_refused(guards: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=r"given|either"):
        Guards(**guards)


def test_guards_are_for_methods_that_train() -> None:
    with pytest.raises(BadSetting, match="uce does not train"):
        course.course(Order(requests=("bag",), method="uce", guards=Guards(pull=1.0)))


SMALL_CA = {f"concept_ablation.{k}": v for k, v in SMALL["unlearners"].items() if k in settings("concept_ablation")}


@pytest.mark.parametrize("guards", [Guards(pull=10.0), Guards(share=0.2), Guards(project=True)], ids=["pull", "share", "project"])
def test_a_guarded_sequence_is_a_ledger_like_any_other(guards: Guards, tmp_path: Path) -> None:
    """It resumes, continues, says how it was held, and is not continued otherwise."""
    more: dict[str, Any] = {"method": "concept_ablation", "settings": SMALL_CA, "guards": guards}
    result = go(tmp_path / "whole", **more)
    assert result["guards"] == vars(guards)
    go(tmp_path / "grown", "bag", **more)
    assert agree(go(tmp_path / "grown", **more), result)
    assert chain(tmp_path / "grown") == chain(tmp_path / "whole")
    second = Edit.load(tmp_path / "whole/edits/02-dress.safetensors")
    assert second.notes["guards"] == vars(guards)
    assert ("bag" in second.notes["protected"]) == guards.project
    with pytest.raises(RunConflict, match="guards"):
        go(tmp_path / "whole", **{**more, "guards": Guards()})


def test_a_ledger_without_guards_has_the_spec_it_always_had() -> None:
    assert "guards" not in course.course(Order(requests=("bag",))).spec()


# What became of the original otherwise


def test_a_merge_is_measured_like_a_sequence(tmp_path: Path) -> None:
    go(tmp_path / "alone", mode="independent")
    original = models.load("")
    parts = [Edit.load(file) for file in sorted((tmp_path / "alone/edits").iterdir())]
    merged = merging.ties(original, parts, share=0.5)
    order = Order(requests=("bag", "dress"), suite="smoke")
    result = compared(order, merged, tmp_path / "merged")
    assert (result["method"]["name"], result["mode"], result["memory"]) == ("ties", "simultaneous", None)
    last = result["steps"][-1]
    assert last["fingerprint"] == original.edited(merged).fingerprint[:16]
    assert list(last["unlearning_accuracies"]) == ["bag", "dress"]
    assert last["drift"]["original"] > 0
    assert compared(order, merged, tmp_path / "merged") == result
    with pytest.raises(RunConflict):
        compared(order, merging.ties(original, parts, share=0.1), tmp_path / "merged")
    assert Nudge.told


def test_no_edit_is_the_original(tmp_path: Path) -> None:
    original = models.load("")
    name = original.scope("cross-attention-kv")[0]
    same = Edit(original.fingerprint, "twin", tensors={name: original.tensor(name)})
    first, last = compared(Order(requests=("bag", "dress"), suite="smoke"), same, tmp_path / "out")["steps"]
    assert first["rates"] == last["rates"]
    assert last["drift"]["original"] == 0
    assert last["erosion"]["kid"]["value"] == 0
