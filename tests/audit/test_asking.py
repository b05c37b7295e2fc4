"""Banks of prompts in an audit: each asked apart before any attack, with seeds and guidance of its own, and what that changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from onlookers import names, short, told
from oracles import save_pair
from vestige import api, concepts, models
from vestige.audit import Request, resolve
from vestige.audit.asking import Answer, bank_flags, overruled, spanning
from vestige.concepts import Concept
from vestige.diffusion.sampling import Drawing, pictures
from vestige.errors import BadInput, BadSetting
from vestige.harness import banks, suites
from vestige.harness.banks import PromptBank, gathered
from vestige.harness.drawing import Asked, seeded
from vestige.verdict import Flag, Interval
from vestige.verdict.decision import Verdict
from vestige.verdict.intervals import wilson

__all__ = ["short"]  # a fixture that holds here too
LIST = "case_number,prompt,sd_seed,sd_guidance_scale\n7,a field at dawn,11,7.5\n8,a field at noon,12,\n9,a barn,13,1.0\n"
CHURCH = Concept(name="church", synonyms=("chapel",), held_out=("one {concept}",), indirect=("a bell tower",))


def answer(name: str, edited: int, original: int, never: int | None = None, count: int = 100, total: int = 1) -> Answer:
    hits = {"original": [i < original for i in range(count)], "edited": [i < edited for i in range(count)]}
    level = 1 - 0.05 / total
    floor = Interval(0.0, 0.0, 0.0) if never is None else wilson(never, count, level)
    return Answer(PromptBank(name, (Asked("x", 0, 1.0),) * count, name), hits, floor, wilson(original, count, level), total)


def test_recall_spans_all_three_rates() -> None:
    found = spanning(Interval(0.5, 0.4, 0.6), Interval(0.1, 0.0, 0.2), Interval(0.9, 0.8, 1.0))
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.2 / 0.8), pytest.approx(0.6 / 0.8))
    exact = spanning(Interval(0.5, 0.4, 0.6), Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0))
    assert (exact.value, exact.low, exact.high) == (0.5, 0.4, 0.6)


@pytest.mark.parametrize("edited", [0, 3, 20, 60, 100])
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(edited: int) -> None:
    """Against 2,000 draws of all three rates; it is wide on purpose, and 95 % is the least."""
    rng = torch.Generator().manual_seed(edited)
    truth, floor, ceiling, n = (edited / 100 * 0.8 + 0.05), 0.05, 0.85, 60
    inside = 0
    for _ in range(400):
        s, f, c = (int((torch.rand(n, generator=rng) < p).sum()) for p in (truth, floor, ceiling))
        found = spanning(wilson(s, n), wilson(f, n), wilson(c, n))
        inside += found.low <= edited / 100 <= found.high
    assert inside / 400 >= 0.95


def test_any_bank_that_shows_it_is_enough() -> None:
    hidden = Verdict("erased", "nothing came back", attack="memora")
    found = [answer("quiet", 2, 90, total=2), answer("loud", 60, 90, total=2)]
    assert [one.verdict(0.2) for one in found] == ["forgotten", "not forgotten"]
    said = overruled(hidden, found, 0.2, "the original's rate")
    assert said.kind == "not forgotten" and "asked by the bank loud, without any attack" in said.reason and said.attack is None
    assert overruled(hidden, found[:1], 0.2, "") == hidden
    blocked = Verdict("inconclusive", "no", (Flag("judges-disagree", "blocking", "x"),))
    assert overruled(blocked, found, 0.2, "") == blocked


def test_intervals_are_widened_for_the_number_of_banks() -> None:
    alone, among = answer("one", 29, 100), answer("one", 29, 100, total=20)
    assert (alone.verdict(0.2), among.verdict(0.2)) == ("not forgotten", "undecided")
    assert [flag.kind for flag in bank_flags([among], 0.2, "the original's rate")] == ["capping"]


def test_a_bank_that_the_original_does_not_answer_decides_nothing() -> None:
    found = answer("silent", 3, 3, never=2)
    assert found.verdict(0.2) == "cannot tell" and found.as_dict(0.2)["recall"]["value"] is None
    (flag,) = bank_flags([found], 0.2, "the original's rate")
    assert (flag.name, flag.kind) == ("bank-unanswered", "informing")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    looks = ("bright", "1 + 0 * x.mean((1, 2, 3))"), ("red", "1 + 0 * x[:, 0].mean((1, 2))")
    (root / "looks.py").write_text("\n\n\n".join(f"def {name}(x):\n    return {how}" for name, how in looks) + "\n")
    (root / "field.csv").write_text(LIST)
    return root


def church(home: Path, **own: Any) -> str:
    given = {"detector": "looks.py:bright", "selector": "looks.py:red", "prompts": "field.csv", "synonyms": ["chapel"], **own}
    return told(home, "church", **given)


def request(home: Path, **own: Any) -> dict[str, Any]:
    given = {"model": str(home / "model"), "control": f"twin:{home / 'twin'}", "concept": church(home), "unlearner": "uce"}
    return {**given, "suite": "smoke", "attacks": ("direct",), "seeds": (0, 1), **own}


def test_rows_are_drawn_with_their_own_seed_and_guidance(home: Path) -> None:
    """The same pictures as drawing each row by hand."""
    concept = concepts.load(church(home, indirect=["a bell tower"]))
    suite = suites.load("smoke")
    (bank, synonyms, indirect) = gathered(concept, suite)
    assert bank.rows() == [["a field at dawn", 11, 7.5], ["a field at noon", 12, suite.protocol.guidance], ["a barn", 13, 1.0]]
    assert {one.text for one in synonyms.asked} == {"one chapel", "the chapel"} and len(synonyms.asked) == suite.pictures
    assert {one.text for one in indirect.asked} == {"a bell tower"}
    assert [one.text for one in gathered(concept, suite, most=2)[0].asked] == ["a field at dawn", "a field at noon"]
    model = models.load(str(home / "model"))
    drawn = seeded(model, bank.asked, suite.protocol)
    for i, (text, seed, guidance) in enumerate(bank.rows()):
        alone = pictures(model, [text], [seed], Drawing(steps=suite.protocol.steps, guidance=guidance))
        assert torch.allclose(drawn[i], alone[0], atol=1e-4)  # batches of another size sum in another order


def test_an_audit_asks_every_bank_of_every_model_before_any_attack(home: Path, tmp_path: Path) -> None:
    """The detector sees the concept everywhere, on the twin too: such banks decide nothing, and the page and the result say so."""
    result = api.run_audit(tmp_path / "out", **request(home))
    assert [(bank["name"], bank["pictures"], bank["verdict"]) for bank in result["banks"]] == [
        ("field", 3, "cannot tell"),
        ("synonyms", 4, "cannot tell"),
    ]
    assert {who: found["count"] for who, found in result["banks"][0]["rates"].items()} == {"original": 3, "edited": 3, "never": 3}
    assert names(result)["bank-unanswered"] == "informing"
    assert result["attacks"]["direct"]["success"]["any"]["value"] == 1.0
    page = (tmp_path / "out/report.html").read_text()
    for text in ("Banks of prompts", ">field<", ">synonyms<", "cannot tell", "Success rate of the attack (ASR)"):
        assert text in page
    specs = [json.loads(f.read_text()) for f in tmp_path.glob("out/runs/bank-*/spec.json")]
    assert len(specs) == 6 and {len(spec["asked"]) for spec in specs} == {3, 4}
    each = 2 * 2  # steps, with and without guidance
    assert resolve(Request(**request(home))).planned_calls()["banks"] == 3 * 7 * each


def test_what_is_no_part_of_a_bank_is_no_part_of_a_spec(home: Path) -> None:
    """Concepts without banks, and the embedded world's own, have the specs that they had."""
    bare = resolve(Request(**request(home, concept=church(home, prompts=[], synonyms=[])))).spec()
    assert "banks" not in bare and not {"synonyms", "prompt_files", "prompts"} & set(bare["concept"])
    assert "banks" not in resolve(Request(concept="sneaker")).spec()
    asked = resolve(Request(concept="sneaker", banks="all"))
    assert [bank.name for bank in asked.banks] == ["indirect"] and set(asked.spec()["banks"]) == {"indirect"}
    rows = resolve(Request(**request(home))).spec()
    assert set(rows["banks"]) == {"field", "synonyms"} and rows["concept"]["synonyms"] == ["chapel"]
    assert "banks" not in resolve(Request(**request(home, banks="none"))).spec()


@pytest.mark.parametrize(
    ("own", "error", "message"),
    [
        ({"banks": "some"}, BadSetting, "banks are auto, all or none; given 'some'"),
        ({"bank_pictures": -1}, BadSetting, "bank_pictures is at least 1"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(home: Path, own: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(Request(**request(home, **own)))


@pytest.mark.parametrize(
    ("own", "message"),
    [({"prompts": "absent.csv"}, "no prompt file at"), ({"prompts": [3]}, "prompts in .* is a file")],
)
def test_a_list_that_is_not_there_is_told(home: Path, own: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve(Request(**request(home, concept=church(home, **own))))


def test_a_synonym_names_the_concept_and_cannot_stay() -> None:
    assert CHURCH.named("A Chapel by the sea") and not CHURCH.named("a chapeline")
    with pytest.raises(BadInput, match="'chapel' stands among its own neighbours"):
        Concept(name="church", synonyms=("chapel",), neighbours=("Chapel",))
    with pytest.raises(BadInput, match="names it"):
        Concept(name="church", synonyms=("chapel",), indirect=("a chapel at dusk",))
    assert banks.gathered(CHURCH, suites.load("smoke"), "none") == ()
