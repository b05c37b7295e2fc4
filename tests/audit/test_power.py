"""What an audit's attacks could have found: made-up arms with the only verdicts that each allows."""

from types import SimpleNamespace
from typing import Any

import pytest

from oracles import tiny_classes
from vestige import models, registry
from vestige.audit import flags, power
from vestige.audit.controls import Control
from vestige.edits import Edit
from vestige.verdict import Arms, Interval, Lines, decide, measure
from vestige.verdict.savings import Curves, log_speedups, room

BUDGETS = (0, 2, 5, 12, 30, 80)
NOTHING = Interval(0.0, 0.0, 0.02)


def arms(edited: tuple[float, ...], never: tuple[float, ...], spread: float = 0.01, replicates: int = 5) -> Arms:
    """Replicates that differ a little around two curves, on a scale from 0 to 1."""

    def around(curve: tuple[float, ...]) -> Curves:
        steps = [spread * (k - (replicates - 1) / 2) for k in range(replicates)]
        return tuple(tuple(min(1.0, max(0.0, x + step)) for x in curve) for step in steps)

    return Arms(BUDGETS, around(edited), around(never), 0.0, 1.0)


def verdict(**attacks: Arms) -> tuple[str, list[str]]:
    measures = {name: measure(found, attacks=len(attacks)) for name, found in attacks.items()}
    raised = power.power(measures, {name: room(found) for name, found in attacks.items()}, Lines())
    return decide(NOTHING, measures, raised).kind, [flag.name for flag in raised]


FLAT = (0.0,) * 6
LEARNS = (0.0, 0.02, 0.1, 0.25, 0.5, 0.8)
AT_ONCE = (0.0, 0.85, 0.97, 1.0, 1.0, 1.0)


def test_an_armed_attack_that_teaches_slowly_may_say_erased():
    assert verdict(memora=arms(LEARNS, LEARNS)) == ("erased", [])


@pytest.mark.parametrize("attack", ["direct", "conditions", "partial_diffusion", "dimra", "unlearn_diff_atk"])
def test_no_other_attack_alone_says_erased_or_long_term(attack):
    assert verdict(**{attack: arms(LEARNS, LEARNS)}) == ("inconclusive", ["no-armed-attack"])
    assert verdict(**{attack: arms(FLAT, FLAT)}) == ("inconclusive", ["no-armed-attack"])
    slow = tuple(x + 0.15 * (i > 0) for i, x in enumerate(LEARNS))
    assert verdict(**{attack: arms(slow, LEARNS)})[0] == "inconclusive"


def test_what_such_an_attack_does_find_still_counts():
    assert verdict(direct=arms((0.0, 0.9, 1.0, 1.0, 1.0, 1.0), FLAT))[0] == "short-term"


def test_every_armed_attack_has_weights_and_pictures():
    known = [name for name in registry.names("attacks") if power.armed(name)]
    assert {"memora", "finetune"} <= set(known) and not {"direct", "dimra", "conditions"} & set(known)


def test_an_attack_that_teaches_everybody_at_once_finds_nothing():
    hidden = (0.0, 0.97, 1.0, 1.0, 1.0, 1.0)
    assert verdict(memora=arms(hidden, AT_ONCE)) == ("inconclusive", ["no-room"])


def test_an_attack_that_teaches_nobody_finds_nothing():
    assert verdict(memora=arms(FLAT, FLAT)) == ("inconclusive", ["attack-too-weak"])


def test_room_is_what_instant_recall_would_measure():
    found = arms((0.0, 1.0, 1.0, 1.0, 1.0, 1.0), LEARNS, spread=0.0)
    assert room(found).value == pytest.approx(measure(found).speedup.value)
    assert room(arms(FLAT, LEARNS)).value == pytest.approx(room(found).value, rel=0.05)  # whatever the edited model does


def test_getting_further_is_no_erasure():
    """Slow at first and beyond the control at last: F is near 1, and reach excludes erased."""
    early, late = (0.0, 0.0, 0.02, 0.1, 0.45, 1.0), (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
    found = measure(arms(early, late))
    assert found.speedup.high < 1.5 and found.reach.low > 0.2
    made = decide(NOTHING, {"memora": found})
    assert made.kind != "erased" and "erased" not in (made.between or ())


@pytest.mark.parametrize("count", [1, 2])
def test_two_replicates_decide_nothing(count):
    found = measure(arms((0.0, 1.0, 1.0, 1.0, 1.0, 1.0), FLAT, replicates=count))
    assert decide(NOTHING, {"memora": found}, (), Lines(replicates=2)).kind == "inconclusive"


def run(*points: list[bool]) -> Any:
    return SimpleNamespace(outcome={"points": [{"hits": row} for row in points]})


@pytest.mark.parametrize(("left", "named"), [(48, []), (44, []), (24, ["attack-destroys"]), (0, ["attack-destroys"])])
def test_an_attack_that_spoils_the_original_is_told(left, named):
    end = [i < left for i in range(48)]
    found = {"memora": {"original": [run([True] * 48, end)]}, "direct": {"original": [run([True] * 48, [False] * 48)]}}
    assert [flag.name for flag in power.destroyed(found)] == named


def mismatched(model: Any, name: str) -> list[str]:
    edit = Edit(model.fingerprint, "made up", tensors={name: model.tensor(name) * 0.5})
    audited = SimpleNamespace(edit=edit, plan=SimpleNamespace(control=Control("twin", ("another",))), original=model, subject=model)
    return [flag.name for flag in flags._control(audited)]  # type: ignore[arg-type]


def test_every_reader_of_prompts_and_classes_counts():
    flow = models.load("wardrobe-flow")
    for prefix in ("text_encoder.", "text_encoder_2."):
        assert mismatched(flow, next(n for n in flow.scope("text-encoder") if n.startswith(prefix))) == ["control-mismatch"]
    assert mismatched(flow, next(n for n in flow.scope("all") if n.startswith("transformer."))) == []
    classes = tiny_classes()
    assert mismatched(classes, classes.scope("class-embedding")[0]) == ["control-mismatch"]
    assert mismatched(classes, classes.scope("without-class-embedding")[0]) == []


def test_equal_curves_are_no_speed_up():
    assert all(x == pytest.approx(0.0, abs=1e-9) for x in log_speedups(arms(LEARNS, LEARNS)))
