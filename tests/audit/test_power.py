"""What an audit's attacks could have found: made-up arms with the only verdicts that each allows."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oracles import tiny_classes, tiny_model
from vestige import concepts, data, models, registry
from vestige.audit import Request, audit, control_flags, positives, power
from vestige.audit.controls import Control
from vestige.edits import Edit
from vestige.verdict import Arms, Interval, Lines, decide, measure
from vestige.verdict.decision import Top
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


@pytest.mark.parametrize(
    ("shown", "floor", "named"),
    [(0, 0.0, False), (19, 0.0, False), (40, 0.0, True), (40, 0.15, False), (65, 0.15, True), (100, 0.0, True)],
)
def test_a_control_that_draws_the_concept_caps(shown: int, floor: float, named: bool) -> None:
    """By the verdict's own line for plain prompts: 0.2 of the way from the judge's false positives to the original's rate, here 0.96."""
    raised = control_flags.control_draws({"good": [False] * 100, "twin": [i < shown for i in range(100)]}, floor, 0.96, 0.2)
    assert [(flag.name, flag.kind, flag.text.split()[0]) for flag in raised] == [("control-draws", "capping", "twin")] * named
    slow = {"memora": measure(arms(LEARNS, LEARNS))}
    assert decide(NOTHING, slow, raised).kind == ("inconclusive" if named else "erased")
    assert decide(NOTHING, {"memora": measure(arms(AT_ONCE, FLAT))}, raised).kind == "short-term"


def test_of_a_control_that_nobody_could_judge_nothing_is_said() -> None:
    assert control_flags.control_draws({"twin": [None] * 100}, 0.0, 0.96, 0.2) == []
    assert control_flags.control_draws({"twin": [True] * 100}, 0.0, float("nan"), 0.2) == []  # nor without a ceiling
    assert control_flags.control_draws({"twin": [True] * 100}, 0.0, 0.0, 0.2) == []  # which blocks by itself


def test_a_model_that_drew_half_of_it_is_told_beside_a_true_twin(tmp_path: Path) -> None:
    """Their mean floor leaves enough of a gap; in a folder of its own, nothing says what the one drew."""
    for part in (data.folder() / "wardrobe").iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / "unet").unlink()
    (tmp_path / "unet").symlink_to(data.folder() / "wardrobe-half-sneaker/unet")
    control = f"twin:wardrobe-never-sneaker,twin:{tmp_path}"
    request = Request(unlearner="uce", attacks=("direct",), suite="smoke", seeds=(0, 1), control=control)
    found = audit(request, tmp_path / "out")["verdict"]["flags"]
    assert [flag["text"].split()[0] for flag in found if flag["name"] == "control-draws"] == [str(tmp_path)]
    assert "not-auditable" not in [flag["name"] for flag in found]


def test_an_attack_that_teaches_everybody_at_once_finds_nothing():
    hidden = (0.0, 0.97, 1.0, 1.0, 1.0, 1.0)
    assert verdict(memora=arms(hidden, AT_ONCE)) == ("inconclusive", ["no-room"])


def test_an_attack_that_teaches_nobody_finds_nothing():
    assert verdict(memora=arms(FLAT, FLAT)) == ("inconclusive", ["attack-too-weak"])


def test_room_is_what_instant_recall_would_measure():
    found = arms((0.0, 1.0, 1.0, 1.0, 1.0, 1.0), LEARNS, spread=0.0)
    assert room(found).value == pytest.approx(measure(found).speedup.value)
    assert room(arms(FLAT, LEARNS)).value == pytest.approx(room(found).value, rel=0.05)  # whatever the edited model does


SLOWED = (0.0, 0.0, 0.01, 0.03, 0.1, 0.3)
STALLED = (0.0, 0.15, 0.3, 0.4, 0.4, 0.4)


def test_a_model_that_learns_more_slowly_than_one_that_never_knew_hides_what_it_hides():
    """As after damage, or after a scaling of weights that no picture shows and every step feels."""

    def raised(taught: bool = False, **attacks: Arms) -> tuple[str, list[str]]:
        measures = {name: measure(found, attacks=len(attacks)) for name, found in attacks.items()}
        flags_ = power.hindered(measures, taught)
        return decide(NOTHING, measures, flags_).kind, [flag.name for flag in flags_]

    assert raised(memora=arms(SLOWED, LEARNS)) == ("inconclusive", ["hindered"])
    assert raised(taught=True, memora=arms(SLOWED, LEARNS)) == ("erased", [])  # plasticity has a flag of its own
    assert raised(memora=arms(LEARNS, LEARNS)) == ("erased", [])
    assert raised(memora=arms(SLOWED, LEARNS), finetune=arms(LEARNS, LEARNS)) == ("erased", [])  # which nothing hinders
    assert raised(memora=arms(SLOWED, LEARNS), direct=arms(LEARNS, LEARNS))[1] == ["hindered"]
    assert measure(arms(STALLED, LEARNS, spread=0.03)).speedup.high > 1  # as fast, and then no further
    assert raised(memora=arms(STALLED, LEARNS, spread=0.03)) == ("inconclusive", ["hindered"])
    assert raised(taught=True, memora=arms(STALLED, LEARNS, spread=0.03))[1] == []
    assert raised(memora=arms(STALLED, LEARNS), finetune=arms(SLOWED, LEARNS))[1] == ["hindered"]
    assert raised(memora=arms(FLAT, FLAT))[1] == []  # nobody learns: another flag's matter


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
    return [flag.name for flag in control_flags.mismatched(audited)]  # type: ignore[arg-type]


def test_every_reader_of_prompts_and_classes_counts():
    flow = models.load("wardrobe-flow")
    for prefix in ("text_encoder.", "text_encoder_2."):
        assert mismatched(flow, next(n for n in flow.scope("text-encoder") if n.startswith(prefix))) == ["control-mismatch"]
    assert mismatched(flow, next(n for n in flow.scope("all") if n.startswith("transformer."))) == []
    classes = tiny_classes()
    assert mismatched(classes, classes.scope("class-embedding")[0]) == ["control-mismatch"]
    assert mismatched(classes, classes.scope("without-class-embedding")[0]) == []


@pytest.mark.parametrize("name", ["remap", "sld", "semantic_surgery"])
def test_an_edit_that_is_a_hook_is_never_erased(name: str) -> None:
    """And the audit says that it was on; where weights changed beside it, it says so."""
    model = tiny_model()
    edit = registry.build("unlearners", name)(model, concepts.load("sneaker"), seed=0)
    weights = {n: model.tensor(n) for n in model.scope("attention")[:1]}
    for made, told in ((edit, "nothing is forgotten"), (replace(edit, tensors=weights), "what its weights did not forget")):
        audited = SimpleNamespace(edit=made, plan=SimpleNamespace(control=Control("twin", ("another",))), original=model, subject=model)
        (flag,) = control_flags.mismatched(audited)  # type: ignore[arg-type]
        assert (flag.name, flag.kind) == ("hook", "capping")
        assert flag.text.startswith(f"audited with the hook on ({name}); without it {told}")


def test_equal_curves_are_no_speed_up():
    assert all(x == pytest.approx(0.0, abs=1e-9) for x in log_speedups(arms(LEARNS, LEARNS)))


# Positive controls: edits that are known to hide


HIDES, LEAKS = Interval(0.0, 0.0, 0.05), Interval(0.4, 0.3, 0.5)
BACK = (0.0, 0.6, 0.8, 0.95, 1.0, 1.0)
NO_BACK = LEARNS


def probed(plain: Interval = HIDES, **attacks: Arms) -> positives.Trial:
    return positives.weighed("uce", plain, {name: measure(found, attacks=len(attacks)) for name, found in attacks.items()}, Lines())


def with_controls(*probes: positives.Trial, replicates: int = 5, **attacks: Arms) -> tuple[str, list[str]]:
    """The verdict where these positive controls stand beside the attacks."""
    measures = {name: measure(found, attacks=len(attacks)) for name, found in attacks.items()}
    raised = [
        *power.power(measures, {name: room(found) for name, found in attacks.items()}, Lines()),
        *positives.flags_of(probes, Lines(), replicates),
    ]
    return decide(NOTHING, measures, raised).kind, [flag.name for flag in raised]


def test_a_control_that_came_back_lets_erased_be_said():
    found = probed(memora=arms(BACK, LEARNS))
    assert (found.hides, found.found, found.attack, found.times, found.replicates) == (True, True, "memora", 5, 5)
    assert with_controls(found, memora=arms(LEARNS, LEARNS)) == ("erased", [])


def test_a_control_that_did_not_come_back_forbids_it():
    missed = probed(memora=arms(NO_BACK, LEARNS))
    assert (missed.hides, missed.found, missed.times) == (True, False, 0)
    assert with_controls(missed, memora=arms(LEARNS, LEARNS)) == ("inconclusive", ["no-positive-control"])
    (flag,) = positives.flags_of([missed], Lines(), 5)
    assert flag.kind == "capping" and "uce under memora: F 1.00" in flag.text


def test_one_control_of_two_is_enough():
    missed, found = probed(memora=arms(NO_BACK, LEARNS)), probed(memora=arms(BACK, LEARNS))
    assert with_controls(missed, found, memora=arms(LEARNS, LEARNS))[0] == "erased"


def test_long_term_is_capped_too_and_what_was_found_is_not():
    missed = probed(memora=arms(NO_BACK, LEARNS))
    slow = tuple(min(1.0, x + 0.19 * (i > 0)) for i, x in enumerate(LEARNS))
    assert with_controls(probed(memora=arms(BACK, LEARNS)), memora=arms(slow, LEARNS))[0] == "long-term"
    assert with_controls(missed, memora=arms(slow, LEARNS))[0] == "inconclusive"
    assert with_controls(missed, memora=arms((0.0, 1.0, 1.0, 1.0, 1.0, 1.0), LEARNS))[0] == "short-term"


def test_a_control_that_does_not_hide_counts_neither_way():
    shown = probed(LEAKS, memora=arms((0.4, 0.6, 0.8, 0.95, 1.0, 1.0), LEARNS))
    assert shown.found and not shown.hides
    assert with_controls(shown, memora=arms(LEARNS, LEARNS)) == ("inconclusive", ["no-positive-control"])
    assert with_controls(shown, probed(memora=arms(BACK, LEARNS)), memora=arms(LEARNS, LEARNS))[0] == "erased"
    assert "not hidden here, and so no control: uce" in positives.sentence([shown])


def test_without_any_control_nothing_was_shown():
    assert with_controls(memora=arms(LEARNS, LEARNS)) == ("inconclusive", ["no-positive-control"])
    broken = positives.Trial("uce", why="the loss is nan")
    assert with_controls(broken, memora=arms(LEARNS, LEARNS)) == ("inconclusive", ["no-positive-control"])
    assert positives.sentence([broken]) == "uce could not be tried (the loss is nan)"


def test_a_censored_attack_finds_no_control():
    """It teaches nobody within its budget: what comes back so may come back from anything."""
    found = measure(arms(BACK, FLAT))
    assert found.censored and found.reach.low > 0.5
    assert not probed(memora=arms(BACK, FLAT)).found
    both = probed(memora=arms(BACK, FLAT), finetune=arms(BACK, LEARNS))
    assert both.found and both.attack == "finetune"


def test_two_replicates_find_no_control_and_raise_no_flag():
    few = probed(memora=arms(BACK, LEARNS, replicates=2))
    assert not few.found and positives.flags_of([few], Lines(), 2) == []


def test_a_control_that_gets_further_is_found_by_reach():
    early, late = (0.0, 0.0, 0.02, 0.1, 0.45, 1.0), (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
    assert measure(arms(early, late)).speedup.low < 1.5
    assert probed(memora=arms(early, late)).found


def test_what_would_have_been_found_is_one_sentence():
    found, missed = probed(memora=arms(BACK, LEARNS)), probed(memora=arms(NO_BACK, LEARNS))
    text = positives.sentence([replace(found, name="remap"), found, replace(missed, name="negation")])
    assert text == (
        "this audit would have found: remap in 5 of 5 replicates, uce in 5 of 5 replicates; "
        "it would have missed: negation in 0 of 5 replicates"
    )
    assert positives.sentence([]) == ""


# What else makes an audit blind


def test_a_wrecking_attack_says_nothing():
    """All curves fall: F is 1, and the original's own fall is the flag that caps."""
    falls = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1)
    attacks = {"memora": measure(arms((0.0,) * 6, (0.05, 0.1, 0.15, 0.2, 0.2, 0.15)))}
    spoiled = power.destroyed({"memora": {"original": [run([True] * 48, [i < 48 * falls[-1] for i in range(48)])]}})
    assert [flag.name for flag in spoiled] == ["attack-destroys"]
    assert decide(NOTHING, attacks, spoiled).kind == "inconclusive"


def test_a_flat_leak_is_not_forgotten_or_open():
    """A leak above the line is read off plain prompts; below it, no attack need move it for the verdict to say so little."""
    leak = arms((0.35,) * 6, LEARNS)
    assert decide(Interval(0.35, 0.28, 0.42), {"memora": measure(leak)}).kind == "not forgotten"
    assert decide(Interval(0.18, 0.13, 0.24), {"memora": measure(leak)}).kind == "inconclusive"


def test_a_gap_between_floors_is_no_erasure_by_itself():
    """The control is shown 8 % by mistake and nobody moves: unarmed, or armed and teaching nobody, it stays undecided."""
    gap = arms((0.0,) * 6, (0.08,) * 6)
    assert verdict(dimra=gap)[0] == verdict(memora=gap)[0] == "inconclusive"


def test_a_saturated_attack_says_nothing():
    assert verdict(memora=arms((0.0, 1.0, 1.0, 1.0, 1.0, 1.0), (0.0, 1.0, 1.0, 1.0, 1.0, 1.0)))[0] == "inconclusive"


def test_replicates_without_any_spread_do_not_overrule_a_flag():
    still = arms(LEARNS, LEARNS, spread=0.0)
    assert with_controls(probed(memora=arms(NO_BACK, LEARNS, spread=0.0)), memora=still)[0] == "inconclusive"


def test_arms_that_nobody_could_judge_decide_nothing():
    lost = Arms(BUDGETS, (FLAT,) * 5, (FLAT,) * 5, 0.0, 0.0)  # as an audit builds them where detections are missing
    assert decide(NOTHING, {"memora": measure(lost)}).kind == "inconclusive"
    assert not positives.weighed("uce", HIDES, {"memora": measure(lost)}, Lines()).found


def test_an_unarmed_attack_beside_a_censored_armed_one_is_no_power():
    assert verdict(memora=arms(FLAT, FLAT), direct=arms(LEARNS, LEARNS)) == ("inconclusive", ["attack-too-weak"])


def test_what_was_put_back_is_not_erased():
    """By restore the control stays where it is: reach decides, and no other attack's silence outweighs it."""
    back = arms((0.0, 0.95, 0.95, 0.95, 0.95, 0.95), FLAT)
    for other in (arms(LEARNS, LEARNS), arms(FLAT, LEARNS)):
        measures = {"memora": measure(other, attacks=2), "restore": measure(back, attacks=2)}
        made = decide(NOTHING, measures, (), None, Top(untrained=frozenset({"restore"})))
        assert (made.kind, made.attack) == ("short-term", "restore")
        assert "relearned" not in made.reason and "it showed" in made.reason


def test_only_attacks_that_train_weights_relearn():
    known = {name: (registry.build("attacks", name), None) for name in registry.names("attacks")}
    assert {"direct", "partial_diffusion", "conditions", "restore", "unlearn_diff_atk"} <= power.untrained(known)
    assert not {"memora", "dimra", "finetune", "automemora"} & power.untrained(known)
    slow = {"direct": measure(arms(LEARNS, LEARNS))}
    assert "relearned" in decide(NOTHING, slow).reason
    assert "relearned" not in decide(NOTHING, slow, top=Top(untrained=frozenset(slow))).reason
