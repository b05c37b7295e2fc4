"""A ledger: arithmetic on constructed inputs, and sequences on a tiny model that are killed, continued, damaged and rebuilt."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chains import BAG, DRESS, NEON, SNEAKER, Eye, Nudge, agree, chain, edits_of, go, same_edits, small_world  # noqa: F401
from vestige import concepts, continual, edits, models, runs
from vestige import continual as run
from vestige.concepts.concept import Prompt
from vestige.continual import Ledger, Order, probes, rebuilt, retention
from vestige.edits import Edit, Hook
from vestige.errors import BadInput, BadSetting, RunConflict, UnknownName
from vestige.methods import training_data
from vestige.metrics import losses

# Arithmetic


def hits(shown: int, count: int = 10) -> list[bool]:
    return [i < shown for i in range(count)]


def test_unlearning_accuracy_is_one_minus_the_rate() -> None:
    found = retention.unlearning_accuracy({"bag": hits(2), "dress": hits(0)})
    assert found is not None
    assert (found["value"], found["count"]) == (0.9, 20)
    assert 0 < found["low"] < 0.9 < found["high"] < 1
    assert retention.unlearning_accuracy({}) is None


def test_drop_is_the_mean_over_words_with_a_paired_interval() -> None:
    """Losing 5 of 10 boots and 2 of 4 coats is a drop of one half; what is equal in both states carries no noise."""
    before = {"boot": hits(10), "coat": hits(4, 4), "shirt": []}
    after = {"boot": hits(5), "coat": hits(2, 4), "shirt": []}
    found = retention.drop(before, after)
    assert found is not None
    assert (found["value"], found["count"]) == (0.5, 14)
    half = 1.96 * (0.25 * 14 / 13 * (1 / 10 + 1 / 4)) ** 0.5 / 2
    assert found["high"] - found["value"] == pytest.approx(half)
    same = retention.drop(before, before)
    assert same is not None
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    assert retention.drop({"shirt": []}, {"shirt": []}) is None
    assert (retention.drop({"boot": [True]}, {"boot": [False]}) or {})["low"] is None


def test_drop_interval_covers_at_its_rate() -> None:
    rng = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(400):
        u = torch.rand(2, 40, generator=rng)
        before, after = ({w: (row < p).tolist() for w, row in zip("ab", u, strict=True)} for p in (0.9, 0.6))
        found = retention.drop(before, after) or {}
        covered += found["low"] <= 0.3 <= found["high"]
    assert 0.92 <= covered / 400 <= 0.98


def test_reversal_is_paired_by_request_and_counts_no_fall() -> None:
    """Bag comes back in 4 of 10, dress falls by 3: reversal 0.2, where an unpaired mean would say 0.05."""
    found = retention.reversal({"bag": hits(1), "dress": hits(5)}, {"bag": hits(5), "dress": hits(2)})
    assert found is not None
    assert found["by_request"] == {"bag": pytest.approx(0.4), "dress": 0.0}
    assert found["value"] == pytest.approx(0.2)
    assert found["net"]["value"] == pytest.approx(0.05)
    assert 0 < found["low"] < 0.2 < found["high"] < 0.5
    assert retention.reversal({}, {}) is None


def test_no_change_is_no_reversal() -> None:
    found = retention.reversal({"bag": hits(3)}, {"bag": hits(3)}) or {}
    assert (found["value"], found["low"], found["high"]) == (0, 0, 0)


def moments(mean: float, deviation: float) -> Any:
    """Raw moments 0 to 3 of N(mean, deviation^2)."""
    return np.array([1, mean, mean**2 + deviation**2, mean**3 + 3 * mean * deviation**2])


def test_kid_of_pairs_is_unbiased_and_its_interval_covers() -> None:
    """In one dimension the kernel (xy + 1)^3 compares raw moments; that pairs share most of their noise must not disturb it."""
    rng = np.random.default_rng(0)
    truth = float((np.array([1, 3, 3, 1]) * (moments(0.3, 0.3) - moments(0.0, 0.3)) ** 2).sum())
    values, covered = [], 0
    for _ in range(400):
        shared = rng.standard_normal((40, 1))
        x, y = (0.3 * (0.9 * shared + math.sqrt(0.19) * rng.standard_normal((40, 1))) for _ in range(2))
        found = losses.paired_kid(x, y + 0.3) or {}
        values.append(found["value"])
        covered += found["low"] <= truth <= found["high"]
    assert np.mean(values) == pytest.approx(truth, abs=3 * np.std(values) / 20)
    assert 0.91 <= covered / 400 <= 0.98
    assert losses.paired_kid(x[:2], y[:2]) is None


def test_kid_of_a_state_with_itself_is_exactly_zero() -> None:
    wide = np.random.default_rng(0).standard_normal((27, 192))  # an odd number: such products are not symmetric to the last bit
    for same in (wide, wide.copy()):
        assert [(losses.paired_kid(wide, same) or {})[key] for key in ("value", "low", "high")] == [0, 0, 0]


# What is looked at


def test_probes_of_a_longer_list_begin_with_those_of_the_shorter() -> None:
    short, long = probes.probes([BAG, DRESS]), probes.probes([BAG, DRESS, NEON])
    assert long.requests[:2] == short.requests
    assert long.around[: len(short.around)] == short.around
    assert {"blueprint", "woodcut"} <= set(long.neighbours)


def test_no_request_is_among_the_words_that_must_stay() -> None:
    found = probes.probes([BAG, DRESS])
    assert set(found.neighbours) == {"top", "coat"}  # dress lies near bag, and is a request
    assert set(found.unrelated) == {"trouser", "pullover", "sandal", "shirt", "sneaker", "boot"}
    assert found.near([BAG]) == ["top"]
    drawn = [word for probe in found.around for word in probe.words or ()]
    assert len(drawn) == len(set(drawn))


def test_a_prompt_names_a_request_by_its_words_or_by_what_it_expects() -> None:
    assert probes.names(Prompt("a Sneaker , neon", {"object": "sneaker"}), [SNEAKER])
    assert probes.names(Prompt("a boot , neon", {"object": "boot", "style": "neon"}), [SNEAKER, NEON])
    assert probes.names(Prompt("a glowing boot", {"style": "neon"}), [NEON])
    assert not probes.names(Prompt("a handbag", {"object": "boot"}), [BAG])


# Sequences, on a tiny model with judges that see something in noise


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    Nudge.told.clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[Any]]:
    """What an uninterrupted sequence of two leaves, and what its method was told."""
    out = tmp_path_factory.mktemp("made") / "whole"
    return out, go(out), list(Nudge.told)


@pytest.fixture
def whole(tmp_path: Path, made: tuple[Path, dict[str, Any], list[Any]]) -> tuple[Path, dict[str, Any]]:
    """A copy of it to play with."""
    Nudge.told.clear()
    return Path(shutil.copytree(made[0], tmp_path / "whole")), made[1]


def test_everything_is_measured_after_every_step(whole: tuple[Path, dict[str, Any]]) -> None:
    out, result = whole
    assert result["schema"] == "vestige-continual-1"
    assert [s["request"] for s in result["steps"]] == [None, "bag", "dress"]
    assert [s["to_come"] for s in result["steps"]] == [["bag", "dress"], ["dress"], []]
    assert [list(s["unlearning_accuracies"]) for s in result["steps"]] == [[], ["bag"], ["bag", "dress"]]
    assert all(set(s["rates"]) == {"bag", "dress"} for s in result["steps"])
    assert [s["reversal"] is None for s in result["steps"]] == [True, True, False]
    rates = [s["rates"]["bag"]["value"] for s in result["steps"]]
    assert result["steps"][2]["reversal"]["value"] == pytest.approx(max(0, rates[2] - rates[1]))
    first, second, third = result["steps"]
    assert first["erosion"]["drop"]["value"] == 0
    assert list(second["ripple"]["words"]) == ["top"]
    assert set(third["ripple"]["words"]) == {"top", "coat"}
    assert third["erosion"]["pictures"] == 12
    assert [s["erosion"]["kid"]["value"] == 0 for s in result["steps"]] == [True, False, False]
    assert first["drift"]["original"] == 0 < second["drift"]["original"] == second["drift"]["previous"]
    assert (out / third["strips"]["requests"]["bag"]).is_file()
    assert (out / third["strips"]["unrelated"]).is_file()
    assert json.loads((out / "result.json").read_text()) == result


def test_what_shows_unasked_is_compared_with_the_original_at_equal_seeds(whole: tuple[Path, dict[str, Any]]) -> None:
    """Over the requests so far; the original's own rate stands at step 0."""
    first, second, third = (step["leakage"] for step in whole[1]["steps"])
    assert first["rate"] is None and first["drop"] is None
    for found, names in ((second, ["bag"]), (third, ["bag", "dress"])):
        fallen = [first["rates"][name]["value"] - found["rates"][name]["value"] for name in names]
        assert found["drop"]["value"] == pytest.approx(sum(fallen) / len(names))
        assert found["rate"]["count"] == sum(found["rates"][name]["count"] for name in names)
    assert third["rates"] != first["rates"]
    assert third["drop"]["low"] < third["drop"]["value"] < third["drop"]["high"]


def test_a_request_without_indirect_prompts_has_no_leakage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = replace(BAG, indirect=())
    monkeypatch.setattr(concepts, "load", lambda name, world="": plain)
    assert [step["leakage"] for step in go(tmp_path / "plain", "bag")["steps"]] == [None, None]
    assert not probes.probes([plain]).indirect


def test_drift_is_the_relative_distance_of_the_weights(whole: tuple[Path, dict[str, Any]]) -> None:
    out, result = whole
    original, first, second = models.load(""), *(next(iter(e.values())) for e in edits_of(out))
    base = original.tensor(original.scope("cross-attention-kv")[0])
    drift = result["steps"][2]["drift"]
    assert drift["original"] == pytest.approx(((second - base).norm() / base.norm()).item(), rel=1e-5)
    assert drift["previous"] == pytest.approx(((second - first).norm() / first.norm()).item(), rel=1e-5)


def test_every_prefix_is_rebuilt_bit_for_bit(whole: tuple[Path, dict[str, Any]]) -> None:
    """As a chain of views, as one edit, and as the file beside the ledger."""
    out, _ = whole
    original = models.load("")
    after = [entry[2] for entry in chain(out)]
    assert [m.fingerprint for _, m in Ledger(runs.Run(out, {}), "sequential").states(original)] == after
    assert [original.edited(rebuilt(out, n)).fingerprint for n in (0, 1, 2)] == [original.fingerprint, *after]
    assert original.edited(Edit.load(out / "combined.safetensors")).fingerprint == after[-1]
    with pytest.raises(BadInput, match="holds 2 steps; given 3"):
        rebuilt(out, 3)
    with pytest.raises(BadInput, match="is no ledger"):
        rebuilt(out / "nowhere")


def test_low_rank_edits_and_hooks_chain_too() -> None:
    from vestige.continual.ledger import chained

    original = models.load("")
    name = original.scope("cross-attention-kv")[0]
    rows, columns = original.tensor(name).shape
    rng = torch.Generator().manual_seed(0)
    factors = {name: (torch.randn(2, columns, generator=rng), torch.randn(rows, 2, generator=rng))}
    first = Edit(original.fingerprint, "a", factors=factors)
    middle = original.edited(first)
    hook = Hook("unlearners", "remap", {"words": "bag", "towards": "top"})
    second = Edit(middle.fingerprint, "b", tensors={name: middle.tensor(name) * 2}, hooks=(hook,))
    final = middle.edited(second)
    one = chained(original, final, [first, second])
    assert original.edited(one).fingerprint == final.fingerprint
    assert one.hooks == (hook,)


def test_the_same_command_returns_the_stored_result(whole: tuple[Path, dict[str, Any]]) -> None:
    out, result = whole
    assert go(out) == result
    assert not Nudge.told


def test_diagnostics_of_every_step_stand_in_the_result(whole: tuple[Path, dict[str, Any]]) -> None:
    """And in the ledger, from where a continued sequence takes them."""
    out, result = whole
    told = [{"distance": len(step["request"]) / 10} if step["request"] else None for step in result["steps"]]
    assert [step.get("diagnostics") for step in result["steps"]] == told
    assert [step["diagnostics"] for step in json.loads((out / "ledger.json").read_text())["steps"]] == told[1:]


def test_continuing_equals_running_the_longer_list_at_once(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, result = whole
    first = go(tmp_path / "grown", "bag")
    assert first["steps"][1]["rates"]["bag"] == result["steps"][1]["rates"]["bag"]
    assert agree(go(tmp_path / "grown"), result)
    assert chain(tmp_path / "grown") == chain(out)
    assert same_edits(tmp_path / "grown", out)
    assert [name for name, *_ in Nudge.told] == ["bag", "dress"]  # no step was taken twice


def killed_at(event: int, out: Path) -> bool:
    """A sequence in a process of its own that is killed at an event of any of its runs; whether it got that far."""
    child = os.fork()
    if not child:
        seen, plain = 0, runs.Run.event

        def counted(self: runs.Run, name: str, /, **data: Any) -> None:
            nonlocal seen
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            plain(self, name, **data)

        runs.Run.event = counted  # type: ignore[method-assign]
        try:
            go(out)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


# The events of a sequence of two: it opens (0) and looks at the original (1-5); each step opens its unlearning (6, 15), is
# unlearned (7, 16), recorded (8, 17), looked at (9-13, 18-22) and measured (14, 23).
@pytest.mark.parametrize("event", [3, 6, 7, 8, 11, 14, 16, 22])
def test_killed_anywhere_it_resumes_to_the_same_ledger(whole: tuple[Path, dict[str, Any]], tmp_path: Path, event: int) -> None:
    out, result = whole
    assert killed_at(event, tmp_path / "killed")
    assert not (tmp_path / "killed/result.json").exists()
    assert len(chain(tmp_path / "killed")) == (event > 7) + (event > 16)
    assert agree(go(tmp_path / "killed"), result)
    assert chain(tmp_path / "killed") == chain(out)
    assert same_edits(tmp_path / "killed", out)


def test_a_killed_sequence_may_ask_for_more(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, result = whole
    go(tmp_path / "grown", "bag")
    (tmp_path / "grown/result.json").unlink()
    assert agree(go(tmp_path / "grown"), result)


# Refusals


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (("dress", "bag"), "request 1 is 'bag' there and 'dress' here"),
        (("bag",), "has already forgotten bag, dress; given only bag"),
        (("bag", "boot", "dress"), "request 2 is 'dress' there and 'boot' here"),
    ],
)
def test_another_list_is_refused(whole: tuple[Path, dict[str, Any]], requests: tuple[str, ...], message: str) -> None:
    with pytest.raises(RunConflict, match=message):
        go(whole[0], *requests)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": "uce"}, "method is 'nudge' there and 'uce' here"),
        ({"settings": {"nudge.size": 2.0}}, "settings.size is 1.0 there and 2.0 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"mode": "independent"}, "mode is 'sequential' there and 'independent' here"),
        ({"memory": 13}, "memory is 12 there and 13 here"),
        ({"model": "wardrobe-never-bag"}, "model is 'wardrobe' there"),
    ],
)
def test_another_model_method_or_setting_is_refused(whole: tuple[Path, dict[str, Any]], more: dict[str, Any], message: str) -> None:
    with pytest.raises(RunConflict, match=message):
        go(whole[0], **more)


def test_another_concept_of_the_same_name_is_refused(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    own = tmp_path / "bag.toml"
    own.write_text('name = "bag"\nanchor = "coat"\nneighbours = ["top"]\n')
    with pytest.raises(RunConflict, match="'bag', differs from the ledger's in anchor, "):
        go(whole[0], str(own), "dress")


def spoil(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("longer", [False, True])
def test_a_damaged_or_missing_step_is_refused_and_never_taken_again(whole: tuple[Path, dict[str, Any]], longer: bool) -> None:
    out, _ = whole
    requests = ("bag", "dress", *(("boot",) if longer else ()))
    file = out / "edits/01-bag.safetensors"
    spoil(file)
    with pytest.raises(BadInput, match=r"the edit of step 1, .* is damaged"):
        go(out, *requests)
    file.unlink()
    with pytest.raises(BadInput, match=r"the edit of step 1, .* is missing, and later steps rest on it"):
        go(out, *requests)
    assert not Nudge.told


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other", "steps": [], "memory": null}', '{"schema": "vestige-ledger-1"}'])
def test_a_damaged_ledger_is_refused(whole: tuple[Path, dict[str, Any]], text: str) -> None:
    (whole[0] / "ledger.json").write_text(text)
    with pytest.raises(BadInput, match=r"ledger\.json is damaged"):
        go(whole[0])


def test_a_lost_ledger_is_refused(whole: tuple[Path, dict[str, Any]]) -> None:
    (whole[0] / "ledger.json").unlink()
    with pytest.raises(BadInput, match=r"ledger\.json is missing, though steps were taken"):
        go(whole[0])


def test_steps_that_lead_elsewhere_are_refused(whole: tuple[Path, dict[str, Any]]) -> None:
    """Whole files in the wrong places: the chain of fingerprints breaks."""
    out, _ = whole
    ledger = json.loads((out / "ledger.json").read_text())
    ledger["steps"][1]["before"] = ledger["steps"][0]["before"]
    (out / "ledger.json").write_text(json.dumps(ledger))
    with pytest.raises(BadInput, match="step 2 was taken from another model"):
        go(out, "bag", "dress", "boot")


@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        (Order(), BadSetting, "given none"),
        (Order(requests=("bag", "bag")), BadSetting, "different concepts"),
        (Order(requests=("bog",)), UnknownName, "did you mean 'bag'"),
        (Order(requests=("bag",), mode="simultaneous"), BadSetting, "mode is sequential or independent"),  # type: ignore[arg-type]
        (Order(requests=("bag",), mode="cumulative", method="dimum"), BadSetting, "cannot erase several together"),
        (Order(requests=("bag",), memory=0), BadSetting, "memory and replicates are at least 1"),
        (Order(requests=("bag",), attacks=("memoro",)), UnknownName, "did you mean 'memora'"),
        (Order(requests=("bag",), settings={"esd.lr": 1}), UnknownName, "unknown method in a setting 'esd'"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(order: Order, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        run.continual(order, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What a step is given


def test_the_memory_is_the_originals_and_never_shows_a_request(made: tuple[Path, dict[str, Any], list[Any]]) -> None:
    _, result, ((one, before_one, first), (two, before_two, second)) = made
    assert (one, two) == ("bag", "dress")
    assert before_one is None and before_two is models.load("")
    assert len(first) == len(first.captions) == len(first.labels) > 0
    for memory, requests in ((first, [BAG]), (second, [BAG, DRESS])):
        assert not any(probes.names(Prompt(text, {}), requests) for (text,) in memory.captions)
        for concept in requests:
            assert not (Eye("select").shows(memory.images, concept.label) >= 0.5).any()
    rows = {row.numpy().tobytes() for row in first.images}
    assert {row.numpy().tobytes() for row in second.images} <= rows  # a part of the first: drawn once
    assert [s.get("memory") for s in result["steps"]] == [None, len(first), len(second)]


def test_a_memory_that_changed_is_refused(whole: tuple[Path, dict[str, Any]]) -> None:
    out, _ = whole
    (file,) = (out / "runs/pictures").iterdir()
    training_data._store(torch.rand(12, 3, 32, 32), file)
    with pytest.raises(BadInput, match="not the one that earlier steps rehearsed"):
        go(out, "bag", "dress", "boot")


def test_a_method_that_does_not_rehearse_gets_no_memory(tmp_path: Path) -> None:
    result = go(tmp_path / "out", "bag", method="uce")
    assert result["memory"] is None
    assert not (tmp_path / "out/runs/pictures").exists()


def test_independent_steps_start_from_the_original_and_merge(tmp_path: Path) -> None:
    result = go(tmp_path / "out", mode="independent")
    original = models.load("")
    assert [before for _, before, _ in chain(tmp_path / "out")] == [original.fingerprint] * 2
    assert [list(s["unlearning_accuracies"]) for s in result["steps"]] == [[], ["bag"], ["dress"]]
    assert all(s["reversal"] is None for s in result["steps"])
    assert result["combined"] is None
    parts = [Edit.load(file) for file in sorted((tmp_path / "out/edits").iterdir())]
    merged = edits.combine(original, [(part, 0.5) for part in parts])
    assert merged.base == original.fingerprint
    with pytest.raises(BadInput, match="independent edits are no chain"):
        rebuilt(tmp_path / "out")


def test_cumulative_steps_forget_every_request_so_far_again(tmp_path: Path) -> None:
    """The chain and the first step are a sequence's; the second step is one edit of both requests, from the model of the first."""
    from vestige.concepts.joint import joint
    from vestige.unlearners.uce import UCE

    plain, again = (go(tmp_path / mode, method="uce", mode=mode) for mode in ("sequential", "cumulative"))
    assert [s["request"] for s in again["steps"]] == [None, "bag", "dress"]
    assert [list(s["unlearning_accuracies"]) for s in again["steps"]] == [[], ["bag"], ["bag", "dress"]]
    assert again["steps"][1] == plain["steps"][1]
    assert again["steps"][2]["reversal"] is not None
    _, first = next(Ledger(runs.Run(tmp_path / "cumulative", {}), "cumulative").states(models.load("")))
    both = UCE()(first, joint([BAG, DRESS]), seed=0)
    assert first.edited(both).fingerprint == chain(tmp_path / "cumulative")[1][2] != chain(tmp_path / "sequential")[1][2]
    assert rebuilt(tmp_path / "cumulative").touched == both.touched


def test_a_cumulative_ledger_is_continued(tmp_path: Path) -> None:
    go(tmp_path / "grown", "bag", method="uce", mode="cumulative")
    grown = go(tmp_path / "grown", method="uce", mode="cumulative")
    assert agree(grown, go(tmp_path / "whole", method="uce", mode="cumulative"))


def test_attacks_are_added_to_a_finished_ledger(whole: tuple[Path, dict[str, Any]]) -> None:
    """They measure and change nothing, so they are no part of what a ledger insists on."""
    out, result = whole
    attacked = go(out, attacks=("direct",), replicates=2)
    assert not Nudge.told
    assert [list(s["attacks"]["direct"]) for s in attacked["steps"]] == [[], ["bag"], ["bag", "dress"]]
    found = attacked["steps"][2]["attacks"]["direct"]["bag"]
    assert found["budgets"] == [0, 1]
    assert [rate["count"] for rate in found["curve"]] == [12, 12]
    for before, after in zip(result["steps"], attacked["steps"], strict=True):
        assert {**after, "attacks": {}} == before


def test_planned_calls_count_what_is_drawn() -> None:
    chosen = continual.resolve(Order(requests=("bag", "dress"), method="nudge", suite="smoke", attacks=("direct",)))
    calls = chosen.planned_calls()
    assert calls["scoring"] == 3 * (2 * 6 + 2 * 4 + 9 * 2) * 2  # states, pictures, sampling steps; no guidance
    assert calls["memory"] == 200 * 2 * 20
    assert calls["direct"] == 3 * 2 * (6 + 4) * 2  # arms, tries, pictures of both judges
