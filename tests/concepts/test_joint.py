"""Several requests as one concept, and methods that erase them all in one step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chains import BAG, DRESS, NEON, SNEAKER, chain, go, small_world  # noqa: F401
from oracles import SMALL, small, tiny_model
from vestige import concepts, continual, edits, models, registry
from vestige.concepts import Concept
from vestige.concepts.joint import Joint, joint, targets
from vestige.continual import Order, rebuilt
from vestige.edits import Edit
from vestige.errors import BadInput, BadSetting, RunConflict
from vestige.methods.closed_form import last_word
from vestige.report import ledgers
from vestige.unlearners.uce import UCE

TROUSER = concepts.load("trouser")
# A method that is able to and not named here, or the other way round, fails below.
JOINT = ("adv_unlearn", "concept_ablation", "concept_prune", "duge", "eap", "esd", "mace", "race", "rece", "receler", "redistil")
JOINT += ("semantic_surgery", "sld", "speed", "uce", "undo")
FIVE = (SNEAKER, BAG, DRESS, TROUSER, NEON)
AWAY = {c.target for c in FIVE}


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


def test_a_text_names_several_where_it_names_one() -> None:
    both = joint([SNEAKER, BAG])
    assert both.named("a sneaker") and both.named("Bag") and not both.named("a boot") and not both.named("")


def test_joint_data_say_which_parts_they_hold() -> None:
    one, other = joint((BAG, DRESS)), joint((BAG, TROUSER))
    assert one.as_dict()["parts"] == [c.as_dict() for c in one.parts]
    assert one.as_dict() != other.as_dict()
    assert replace(one, neighbours=()).parts == one.parts
    with pytest.raises(BadInput, match="at least two parts"):
        replace(one, parts=(BAG,))
    with pytest.raises(BadInput, match="several targets"):
        one.others("boot")


def test_targets_keep_every_word_once() -> None:
    """By the part that names it first; a single concept is its own target, as it is."""
    made = joint(FIVE)
    parts = targets(made)
    assert [c.target for c in parts] == [c.target for c in FIVE]
    words = [word for part in parts for word in (*part.neighbours, *part.unrelated)]
    assert len(words) == len(set(words))
    assert set(words) == {*made.neighbours, *made.unrelated}
    assert parts[0].neighbours == (*made.parts[0].neighbours, *made.parts[0].unrelated)
    assert targets(BAG) == (BAG,)


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
    edit = method(model, concept, seed=0)
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
    edit = method(model, concept, seed=0)
    singles = [method(model, part, seed=0) for part in concept.parts]
    summed = edits.combine(model, [(one, 1.0) for one in singles])
    name = edit.touched[0]
    assert not torch.allclose(edit.tensors[name], summed.tensors[name], rtol=1e-3)
    assert all(not torch.allclose(edit.tensors[name], one.tensors[name], rtol=1e-3) for one in singles)


@pytest.mark.parametrize("method", [m for m in JOINT if registry.find("unlearners", m)().trains])
def test_trained_methods_see_every_target(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part's prompts are encoded for training, and the edit is finite and its own."""
    model, concept = tiny_model(), joint((BAG, NEON))
    asked: set[str] = set()
    plain = type(model).condition
    monkeypatch.setattr(type(model), "condition", lambda self, prompts: asked.update(prompts) or plain(self, prompts))
    more = {"esd": {"prompts": "all"}, "duge": {}, "concept_ablation": {"retain_weight": 1.0, "retain": "others"}}.get(method, {})
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
    page = ledgers.write(tmp_path / "out").read_text()
    assert "3 requests, all at once." in page and "one after another" not in page
    with pytest.raises(RunConflict, match=r"request 1 is 'bag\+dress\+neon' there"):
        go(tmp_path / "out", "bag", "dress", method="uce", mode="simultaneous")


@pytest.mark.parametrize("method", ["concept_ablation", "duge"])
def test_a_method_that_rehearses_forgets_all_with_one_memory(method: str, tmp_path: Path) -> None:
    own = {f"{method}.{k}": v for k, v in SMALL["unlearners"].items() if k in registry.settings(small("unlearners", method))}
    result = go(tmp_path / "out", "bag", "dress", method=method, mode="simultaneous", memory=40, settings=own)
    assert result["steps"][1]["memory"] > 0
    assert result["steps"][1]["drift"]["original"] > 0
    assert Edit.load(tmp_path / "out/combined.safetensors").notes["concept"] == "bag+dress"


def test_mace_forgets_all_so_far_again_in_every_step(tmp_path: Path) -> None:
    """The second step is the edit of both requests, with an adapter each, from the model that the first one left."""
    own = {f"mace.{k}": v for k, v in SMALL["unlearners"].items() if k in registry.settings(small("unlearners", "mace"))}
    result = go(tmp_path / "out", "bag", "dress", method="mace", mode="cumulative", settings=own)
    assert result["steps"][2]["drift"]["original"] > result["steps"][1]["drift"]["original"] > 0
    assert Edit.load(next((tmp_path / "out/edits").glob("*2*"))).notes["concept"] == "bag+dress"


@pytest.mark.parametrize("name", registry.names("unlearners"))
def test_methods_of_one_target_are_refused_together(name: str) -> None:
    order = Order(requests=("bag", "dress"), mode="simultaneous", method=name)
    if name in JOINT:
        assert isinstance(continual.resolve(order).steps[0], Joint)
        return
    with pytest.raises(BadSetting, match=f"cannot erase several together; {', '.join(JOINT)} can"):
        continual.resolve(order)


def test_duge_by_the_concepts_words_is_refused_together() -> None:
    with pytest.raises(BadSetting, match="tokens=concept"):
        continual.resolve(Order(requests=("bag", "dress"), mode="simultaneous", method="duge", settings={"duge.tokens": "concept"}))
