"""An attack whose numbers stop being finite costs itself, is told by name, and bars verdicts of absence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oracles import small, tiny_model
from vestige import concepts, errors, metrics
from vestige.audit import flags, run
from vestige.harness import arms, suites
from vestige.harness.attacker import AttackerData
from vestige.harness.bench import Bench
from vestige.harness.unlearning import unlearned
from vestige.methods import Budget


def experiment(**tried: Any) -> Any:
    def attack(name: str) -> dict[str, Any]:
        if isinstance(tried[name], str):
            raise errors.Diverged(tried[name])
        found: dict[str, Any] = tried[name]
        return found

    def taught() -> dict[str, Any]:
        raise errors.Diverged("memora on wardrobe, replicate 0: the loss is nan")

    return SimpleNamespace(plan=SimpleNamespace(attacks=dict.fromkeys(tried)), attack=attack, taught=taught)


def test_the_others_go_on() -> None:
    found, failed = run._attacked(experiment(memora="memora on x: the loss is nan", direct={"edited": []}))
    assert found == {"direct": {"edited": []}}
    assert failed == {"memora": "memora on x: the loss is nan"}


def test_without_any_other_there_is_one_line() -> None:
    with pytest.raises(errors.VestigeError, match=r"memora on x: the loss is nan; no other attack was asked for"):
        run._attacked(experiment(memora="memora on x: the loss is nan"))


def test_a_lesson_that_diverges_is_left_out() -> None:
    failed: dict[str, str] = {}
    assert run._taught(experiment(), failed) == {}
    assert "the loss is nan" in failed["the lesson"]


def test_the_flag_caps() -> None:
    (flag,) = flags.failures({"memora": "memora on x: the loss is nan"})
    assert (flag.name, flag.kind) == ("attack-failed", "capping")
    assert flag.text == "memora on x: the loss is nan; memora is in no number here"


def test_an_arm_names_who_diverged_and_is_not_done(tmp_path: Path) -> None:
    model, concept = tiny_model(), concepts.load("sneaker")
    verify, select = metrics.pair(concept, "wardrobe")
    suite = replace(suites.load("smoke", "wardrobe"), pictures=2, select_pictures=0, strip=1)
    held = AttackerData(original=model, world="wardrobe", protocol=suite.protocol)
    attack = small("attacks", "finetune", lr=1e30)
    told = held.of(concept, attack, 4, 0, proxy=False, watch=lambda *_: None)
    with pytest.raises(errors.Diverged, match=r"^finetune on tiny, replicate 0: the loss is (nan|inf) at step \d"):
        arms.run_arm(Bench(tmp_path, suite, verify, select), model, concept, ("finetune", attack), Budget((0, 4)), 0, told)
    done = [json.loads((f.parent / "spec.json").read_text())["attack"] for f in tmp_path.glob("*/result.json")]
    assert done == ["direct"]  # the plain state, which every attack on the model begins with


def test_an_unlearner_names_itself(tmp_path: Path) -> None:
    method = small("unlearners", "esd", lr=1e30)
    with pytest.raises(errors.Diverged, match=r"^esd on tiny: the loss is (nan|inf)"):
        unlearned(tmp_path, tiny_model(), concepts.load("sneaker"), "esd", method, 0)
