"""Audits of several concepts that were erased together: how they are planned, what is refused, and who looks."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oracles import tiny_model
from vestige import concepts, data, metrics, models
from vestige.attacks.multimemora import MultiMemoRa
from vestige.audit import Request, audit, resolve
from vestige.concepts.images import shipped
from vestige.concepts.joint import Joint, joint
from vestige.errors import BadInput, BadSetting, UnknownName
from vestige.harness.attacker import AttackerData
from vestige.harness.settings import requested
from vestige.metrics import classifier
from vestige.metrics.judge import Detector
from vestige.metrics.several import AnyOf, levelled
from vestige.report import audits
from worlds_small import furnish


def plan(**own: Any) -> Any:
    return resolve(Request(**{"concept": "sneaker,bag", "unlearner": "uce", **own}))


def test_the_suite_gives_the_attacks_of_several() -> None:
    planned = plan()
    assert isinstance(planned.concept, Joint) and planned.concept.name == "sneaker+bag"
    assert list(planned.attacks) == ["multimemora", "direct"] and list(plan(concept="sneaker").attacks) == ["memora", "direct"]
    assert planned.control.names == ("wardrobe-never-five",) and list(planned.positives) == ["uce"]


def test_the_forecast_counts_each_concept() -> None:
    """MemoRa's calls on each of two concepts; direct trains nothing."""
    one, two = plan(concept="bag", attacks=("memora",), seeds=(0, 1)), plan(attacks=("multimemora",), seeds=(0, 1))
    (attack, own), (single, its) = two.attacks["multimemora"], one.attacks["memora"]
    assert two.attacking(attack, own) == 2 * one.attacking(single, its) > 0


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"attacks": ("memora",)}, "memora brings back one concept, and sneaker\\+bag is several; use multimemora"),
        ({"concept": "bag", "attacks": ("multimemora",)}, "bag is one; use memora"),
        ({"unlearner": "spm"}, "it cannot erase several together"),
        ({"concept": "sneaker,coat"}, "a twin that drew none of them: twin:MODEL; given 'auto' for sneaker and coat"),
        (
            {"control": "twin:wardrobe-never-bag"},
            "wardrobe-never-bag drew sneaker .* never drew sneaker or bag: give twin:wardrobe-never-five$",
        ),
        ({"concept": "sneaker,coat", "control": "twin:wardrobe-never-five"}, "drew coat .* give a model of your own$"),
        ({"control": "proxy"}, "a twin that drew none of them"),
        ({"control": "distilled:2"}, "a twin that drew none of them"),
        ({"concept": "bag,bag"}, "concepts that are erased together differ"),
        ({"concept": "bag,"}, "a comma stands between two concepts; given 'bag,'"),
        ({"unshown": 64}, "with unshown is of one concept"),
        ({"original": False, "unlearner": "none"}, "without an original is of one concept"),
        ({"forget": "folder"}, "--forget is pictures of one concept"),
        ({"settings": {"multimemora.weights": "1,1,1"}}, "one a concept, of sneaker, bag; given 3"),
    ],
)
def test_what_an_audit_of_several_refuses(own: dict[str, Any], why: str) -> None:
    with pytest.raises(BadSetting, match=why):
        plan(**own)


def test_memora_s_settings_are_pointed_to_the_attack_in_its_place() -> None:
    """As a list that can be pasted: what the suite sets stays, and the caller's own stand in it."""
    with pytest.raises(
        BadSetting, match=r"memora.rank, memora.lr: multimemora takes the place of memora, .*; give multimemora\.memora="
    ) as told:
        plan(settings={"memora.rank": "8", "memora.lr": "3e-4"})
    key, _, value = str(told.value).partition("give ")[2].partition("=")
    asked = plan(settings={key: value}).attacks["multimemora"][0]
    usual = plan().attacks["multimemora"][0]
    assert isinstance(asked, MultiMemoRa) and isinstance(usual, MultiMemoRa)
    assert asked.inner() == replace(usual.inner(), rank=8, lr=3e-4)  # type: ignore[call-arg]
    with pytest.raises(UnknownName, match="unknown method in a setting 'memora'"):
        plan(attacks=("direct",), settings={"memora.rank": "8"})


def test_an_unknown_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown concept 'snaeker'"):
        plan(concept="bag,snaeker")
    (tmp_path / "sneaker").mkdir()
    with pytest.raises(BadInput, match="there is none for bag"):
        plan(references=str(tmp_path))


def test_references_are_dealt_concept_after_concept() -> None:
    """To each what it would be dealt alone."""
    held = AttackerData(original=tiny_model(), world="wardrobe", protocol=plan().suite.protocol)
    found = held.shown(requested("sneaker,bag", models.card("wardrobe")), 3, 1)
    alone = held.shown(concepts.load("bag"), 3, 1)
    assert found is not None and [row["object"] for row in found.labels] == ["sneaker"] * 3 + ["bag"] * 3
    assert alone is not None and torch.equal(found.images[3:], alone.images)


@pytest.fixture(scope="module")
def shown() -> torch.Tensor:
    words = ("sneaker", "bag", "coat")
    return torch.cat([shipped(data.references("wardrobe"), {"object": word}).images[:8] for word in words])


def test_a_picture_shows_several_where_it_shows_any(shown: torch.Tensor) -> None:
    """By each label's own threshold; what else it shows, the world's judge tells as ever."""
    pair = joint([concepts.load("sneaker"), concepts.load("bag")])
    single, (judge, other) = classifier.load(data.judge("wardrobe", "verify")), metrics.pair(pair, "wardrobe")
    each = torch.stack([single.shows(shown, word) >= single.threshold(word) for word in ("sneaker", "bag")])
    found = judge.shows(shown, pair.label) >= judge.threshold(pair.label)
    assert torch.equal(found, each.any(0)) and found.any() and not found.all()
    assert set(judge.identity(pair.label)["parts"]) == {"sneaker", "bag"} and judge.weights_hash != other.weights_hash
    assert judge.labelled(shown) == single.labelled(shown) and torch.equal(judge.shows(shown, "coat"), single.shows(shown, "coat"))


def test_what_one_part_could_not_judge_is_missing_unless_another_is_seen(shown: torch.Tensor) -> None:
    def blind(images: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 1), math.nan)

    def bright(images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))[:, None]

    one, two = (
        Detector(name=n, version="1", weights_hash=n, labels=(n,), look=look, level=0.4) for n, look in (("a", blind), ("b", bright))
    )
    levels = torch.tensor([0.1, 0.39, 0.41, 0.9])
    found = AnyOf("a+b", (("a", one), ("b", two))).shows(levels[:, None, None, None].expand(4, 3, 8, 8), "a+b")
    assert found.isnan().tolist() == [True, True, False, False] and (found[2:] >= 0.5).all() and found[2] < found[3] < 1


def test_stretching_keeps_order_and_puts_the_threshold_at_a_half() -> None:
    scores = torch.linspace(0, 1, 101, dtype=torch.float64)
    for threshold in (0.05, 0.5, 0.93):
        found = levelled(scores, threshold)
        assert found.diff().gt(0).all() and found[0] == 0 and found[-1] == 1
        assert torch.equal(found >= 0.5, scores >= threshold)


@pytest.mark.slow
def test_an_audit_of_several_from_end_to_end(tmp_path: Path) -> None:
    """Concepts with a detector of their own, on a tiny model: a verdict, its page, and the attack's pictures of both."""
    home = furnish(tmp_path)
    text = (home / "bag.toml").read_text()
    (home / "scarf.toml").write_text(text.replace('name = "bag"', 'name = "scarf"'))
    suite = (home / "suite.toml").read_text().replace("[attacks.memora]", "[attacks.multimemora]")
    own = 'memora = ["sampling_steps=2", "start=1", "points=1", "batch=1", "rank=1"]'
    (home / "suite.toml").write_text(re.sub(r"settings = .*", f"settings = {{ {own} }}", suite))
    asked = {"model": str(home / "model"), "concept": f"{home}/bag.toml,{home}/scarf.toml", "suite": str(home / "suite.toml")}
    request = Request(**asked, unlearner="uce", control=f"twin:{home}/twin", seeds=(0, 1))
    found = audit(request, home / "out")
    audits.write(home / "out")
    assert found["concept"] == "bag+scarf" and set(found["attacks"]) == {"multimemora", "direct"} and found["verdict"]["kind"]
    assert set(found["detector"]["verification"]["parts"]) == {"bag", "scarf"} and (home / "out" / "report.html").is_file()
