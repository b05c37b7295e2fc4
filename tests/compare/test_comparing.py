"""Audits side by side: what may be compared, what is pooled, and what is said of methods."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from audits_made_up import laid, made
from vestige.compare import Audited, collected, summarised
from vestige.errors import BadInput, UnknownName
from vestige.report.comparisons import written_as
from vestige.verdict import measure
from vestige.verdict.comparison import pooled
from vestige.verdict.intervals import Interval, t_interval, two_sided
from vestige.verdict.savings import log_speedups
from vestige.verdict.spread import Spread, sampled_interval


def told(root: Path, results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    for i, result in enumerate(results):
        laid(root / f"a{i}", result)
    return summarised(collected([root]), **more)


def row(found: dict[str, Any], method: str, field: int = 0) -> dict[str, Any]:
    (one,) = [r for r in found["fields"][field]["rows"] if r["method"] == method]
    return dict(one)


def test_one_audit_keeps_its_own_numbers_and_verdict(tmp_path: Path) -> None:
    result = made()
    one = row(told(tmp_path, [result]), "esd")
    assert one["speedup"] == pytest.approx(result["speedup"]) and one["verdict"]["kind"] == result["verdict"]["kind"]
    assert not one["verdict"]["pooled"] and one["edits"] == 1 and one["replicates"] == 3


def test_edits_with_attacks_of_their_own_are_replicates_of_one_audit(tmp_path: Path) -> None:
    """As decision 0007 pools them: `comparison.pooled` and `savings.measure` give the same numbers."""
    results = [made(12.0, edit=k, seeds=(k,)) for k in range(4)]
    one, expected = row(told(tmp_path, results), "esd"), measure(pooled(results, "memora"))
    for key in ("speedup", "savings", "reach"):
        assert one[key] == pytest.approx(getattr(expected, key).as_dict())
    assert one["edits"] == 4 and one["verdict"]["pooled"] and one["verdict"]["kind"] == "short-term"


def test_pooled_edits_are_no_more_erased_than_each_by_itself(tmp_path: Path) -> None:
    """Where no positive control was attacked, as an audit's own verdict needed none, or a bank of prompts calls the concept up."""
    results = [made(1.0, edit=k, seeds=(3 * k, 3 * k + 1, 3 * k + 2)) for k in range(5)]
    assert row(told(tmp_path / "plain", results), "esd")["verdict"]["kind"] == "erased"
    spared = row(told(tmp_path / "spared", [{**results[0], "positives_spared": True}, *results[1:]]), "esd")["verdict"]
    assert spared["kind"] == "inconclusive" and spared["flags"] == ["no-positive-control"]
    banks = [{"name": "indirect", "verdict": "not forgotten"}]
    asked = row(told(tmp_path / "asked", [{**results[0], "banks": banks}, *results[1:]]), "esd")["verdict"]
    assert asked["kind"] == "not forgotten" and "indirect" in asked["reason"]
    blocked = {**results[0]["verdict"], "flags": [{"name": "judges-disagree", "kind": "blocking", "text": "they do"}]}
    both = row(told(tmp_path / "both", [{**results[0], "banks": banks, "verdict": blocked}, *results[1:]]), "esd")["verdict"]
    assert both["kind"] == "inconclusive"


def test_contrasts_are_those_of_pooled_arms(tmp_path: Path) -> None:
    sides = {m: [made(f, method=m, edit=k, seeds=(k,)) for k in range(4)] for m, f in (("esd", 4.0), ("uce", 2.0))}
    (one,) = told(tmp_path, [*sides["esd"], *sides["uce"]], against="uce")["fields"][0]["contrasts"]["rows"]
    gaps = np.subtract(*(log_speedups(pooled(sides[method], "memora")) for method in ("esd", "uce")))
    expected = t_interval(gaps.tolist(), 0.95, len(gaps))
    assert one["log_ratio"] == pytest.approx(expected.as_dict()) and one["method"] == "esd" and one["holm"] == one["p"] < 0.05


def test_equal_edits_are_one_edit(tmp_path: Path) -> None:
    """A method without chance makes the same edit under every seed: five audits of it are no five edits."""
    results = [made(4.0, method="uce", edit=0, seeds=(0, 1, 2), mark="same") for _ in range(3)]
    for k, result in enumerate(results):
        result["provenance"] = {**result["provenance"], "edit_seed": k}
    found = told(tmp_path, results)
    one = row(found, "uce")
    assert one["edits"] == 1 and one["edit_seeds"] == 3 and one["deterministic"] and one["speedup"] == pytest.approx(results[0]["speedup"])
    assert "counted as one edit: uce (sneaker)" in found["fields"][0]["remarks"][0]


def test_edits_under_the_same_attacks_do_not_multiply_them(tmp_path: Path) -> None:
    """Ten edits that all met replicates 0 to 2 leave the replicates' part of the interval as it was."""
    few = row(told(tmp_path / "few", [made(4.0, edit=0)]), "esd")
    many = row(told(tmp_path / "many", [made(4.0, edit=k) for k in range(10)]), "esd")
    width = [np.log(r["speedup"]["high"] / r["speedup"]["low"]) for r in (few, many)]
    assert many["edits"] == 10 and width[1] > 0.5 * width[0]  # ten times the replicates would make it a sixth
    alone = told(tmp_path / "alone", [made(4.0, edit=k, seeds=(0,)) for k in range(3)])
    assert row(alone, "esd")["speedup"]["low"] == 0.0 or row(alone, "esd")["speedup"]["low"] is None
    assert "one attack replicate" in alone["fields"][0]["remarks"][-1]


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"plain": 0.3}, "plain rate 0.30 above 0.1"), ({"neighbours": 0.8}, "neighbours fell by 12 points")],
)
def test_a_method_that_misses_the_mark_is_told_and_not_contrasted(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    found = told(tmp_path, [made(method="uce"), made(method="spm", **changes)])
    assert row(found, "spm")["not_compared"][0].startswith(why)
    assert found["fields"][0]["contrasts"] == {"against": None, "comparisons": 0, "rows": [], "without": ["uce and spm"]}


def test_fields_stand_apart(tmp_path: Path) -> None:
    """Another suite, another form of the verdict: no number of one is set beside one of the other."""
    laid(tmp_path / "new", made(method="uce"))
    laid(tmp_path / "suite", made(method="esd", suite="quick-6"))
    laid(tmp_path / "form", made(method="spm"), form="2")
    found = summarised(collected([tmp_path]))
    assert [len(field["rows"]) for field in found["fields"]] == [1, 1, 1]
    assert "suites (quick-5, quick-6) and forms of the verdict (2, 3)" in found["remarks"][0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"control": {"kind": "twin", "name": "u", "names": ["u"]}}, "never-models differ"),
        ({"detector": {"verification": {"name": "other"}}}, "judges differ"),
        ({"protocol": {"steps": 5}}, "sampler and budgets differ"),
    ],
)
def test_what_does_not_compare_is_left_out_and_told(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    found = told(tmp_path, [made(method="uce"), made(method="esd"), made(method="spm", **change)])["fields"][0]
    assert [r["method"] for r in found["rows"]] == ["esd", "uce"] or [r["method"] for r in found["rows"]] == ["uce", "esd"]
    ((folder, told_why),) = found["left_out"].items()
    assert folder.endswith("a2") and why in told_why


def test_namesakes_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    found = told(tmp_path, [made(), made(mark="x") | {"edit": {"method": "esd", "settings": {"lr": 1e-3}}}])
    assert {r["method"] for r in found["fields"][0]["rows"]} == {"esd (lr 0.0001)", "esd (lr 0.001)"}


def test_a_grid_means_its_cells_and_names_its_methods(tmp_path: Path) -> None:
    for name in ("one", "two"):
        laid(tmp_path / "cells" / name, made(method="esd", edit=int(name == "two"), seeds=(int(name == "two"),)))
    laid(tmp_path / "cells" / "chain", made() | {"schema": "vestige-continual-1"})
    rows = [{"cell": name, "state": "finished", "unlearner": "gentle"} for name in ("one", "two")]
    failed = {"cell": "three", "state": "failed", "why": "it diverged"}
    (tmp_path / "grid.json").write_text(json.dumps({"schema": "vestige-grid-1", "cells": [*rows, failed]}))
    there = collected([tmp_path])
    found = summarised(there)
    assert row(found, "gentle")["edits"] == 2 and list(there.grids) == [tmp_path]
    assert "cell three failed: it diverged" in found["remarks"] and any("sequences are not compared" in r for r in found["remarks"])


SPEEDS = {("uce", "1"): 2.0, ("uce", "16"): 8.0, ("uce", "4"): 4.0, ("esd", "1"): 1.5, ("esd", "16"): 3.0, ("esd", "4"): 2.0}


def swept_grid(root: Path, concepts: tuple[str, ...] = ("sneaker",)) -> Path:
    """Two methods, each attacked at three ranks, as a grid lays them."""
    rows = []
    for (method, rank), speed in SPEEDS.items():
        for concept in concepts:
            result = made(speed, method=method, concept=concept)
            result["attacks"]["memora"]["settings"] = {"rank": int(rank)}
            laid(root / "cells" / f"{concept}-{method}-{rank}", result, pictures=True)
            rows.append({"cell": f"{concept}-{method}-{rank}", "state": "finished", "unlearner": method, "swept": f"memora.rank={rank}"})
    (root / "grid.json").write_text(json.dumps({"schema": "vestige-grid-1", "cells": rows}))
    return root


def test_a_sweep_of_an_attack_is_rows_apart(tmp_path: Path) -> None:
    """Nothing is left out for its attack's settings, nothing pooled over them, and methods meet under equal settings alone."""
    found = summarised(collected([swept_grid(tmp_path)]))
    (field,) = found["fields"]
    assert field["left_out"] == {} and field["swept"] == ["memora.rank=1", "memora.rank=4", "memora.rank=16"]
    shown = {(row["method"], row["swept"].partition("=")[2]): row["speedup"] for row in field["rows"]}
    assert len(shown) == 6 and all(row["edits"] == 1 for row in field["rows"])
    for which, speed in SPEEDS.items():
        assert shown[which] == pytest.approx(made(speed, method=which[0])["speedup"])
    pairs = field["contrasts"]["rows"]
    assert [(c["swept"], {c["method"], c["against"]}) for c in pairs] == [(swept, {"uce", "esd"}) for swept in field["swept"]]
    assert field["contrasts"]["comparisons"] == 3 and len({json.dumps(c["ratio"]) for c in pairs}) == 3


def test_every_attack_is_told_apart_where_there_are_several(tmp_path: Path) -> None:
    """The first table holds the one that finds most, whose number the second one's would otherwise hide."""
    strong, weak = made(6.0), made(1.2)
    strong["attacks"]["dimra"] = {**weak["attacks"]["memora"], "censored": True}
    text = written_as(told(tmp_path, [strong]), "markdown")
    apart = text.partition("### Attack by attack")[2].splitlines()[4:6]
    assert [line.split("|")[3].strip() for line in apart] == ["memora", "dimra"]
    fast, slow = (f"{one['speedup']['value']:.1f} [" for one in (strong, weak))
    assert apart[0].split("|")[4].startswith(f" {fast}") and apart[1].split("|")[4].startswith(f" at least {slow}")
    assert "Attack by attack" not in written_as(told(tmp_path / "one", [made(6.0)]), "markdown")


def test_reach_is_a_table_of_methods_by_attacks(tmp_path: Path) -> None:
    """Marked where a row's interval excludes a model that never knew; a dash where an attack did not run."""
    fast, slow = made(12.0), made(1.0, method="uce")
    for result in (fast, slow):
        result["attacks"]["dimra"] = {**slow["attacks"]["memora"]}
    fast["attacks"]["restore"] = {**fast["attacks"]["memora"]}
    found = told(tmp_path, [fast, slow])
    head, _, *lines = written_as(found, "markdown").partition("### Reach under each attack")[2].splitlines()[2:6]
    far = row(found, "esd")["attacks"]["memora"]["reach"]
    assert head == "| method | concept | memora | dimra | restore |" and far["low"] > 0
    (esd,), (uce,) = ([line.split(" | ") for line in lines if name in line] for name in ("esd", "uce"))
    assert esd[2] == esd[4].removesuffix(" |") == f"{far['value']:.2f}\\*" and "*" not in esd[3] and uce[4] == "– |"


def test_p_of_a_row_is_corrected_over_rows_and_attacks(tmp_path: Path) -> None:
    """Of one method against a model that never knew, as a paired t test has it; Holm's over all that the table prints."""
    results = [made(6.0), made(1.02, method="uce", edit=1)]
    results[0]["attacks"]["dimra"] = {**made(1.3, edit=2)["attacks"]["memora"]}
    results[1]["attacks"]["dimra"] = {**made(1.1, edit=3)["attacks"]["memora"]}
    spread = np.random.default_rng(5)
    for one in results:  # an audit of two attacks widens its intervals, and its p is of the attack alone
        for found in one["attacks"].values():
            found["log_speedups"] = [x + spread.normal(0, 0.1) for x in found["log_speedups"]]
            wide = t_interval(found["log_speedups"], 0.975, len(found["log_speedups"]))
            found["speedup"] = {end: math.exp(getattr(wide, end)) for end in ("value", "low", "high")}
    field = told(tmp_path, results)["fields"][0]
    every = {(r["method"], name): found for r in field["rows"] for name, found in r["attacks"].items()}
    for (method, name), found in every.items():
        logs = results[0 if method == "esd" else 1]["attacks"][name]["log_speedups"]
        assert found["p"] == pytest.approx(stats.ttest_1samp(logs, 0).pvalue)
    assert field["comparisons"] == 4
    assert min(every.values(), key=lambda found: found["p"])["holm"] == pytest.approx(min(1.0, 4 * min(f["p"] for f in every.values())))


def test_there_is_no_p_where_a_file_tells_one_replicate(tmp_path: Path) -> None:
    result = made(6.0)
    result["attacks"]["memora"]["log_speedups"] = result["attacks"]["memora"]["log_speedups"][:1]
    assert row(told(tmp_path, [result]), "esd")["attacks"]["memora"]["p"] is None


def test_p_of_a_row_knows_the_level_and_the_least_variance_of_its_interval(tmp_path: Path) -> None:
    """Scores of few pictures that happen to agree, looked at several times: p is of the variance that the interval has, not of none."""
    result = made(2.0, noise=1e-6)
    one = result["attacks"]["memora"]
    logs, spread = one["log_speedups"], Spread(0.01, 6.0, 3, 1, "elsewhere")
    one["spread"] = {"sd": 0.1, "freedom": 6.0, "concepts": 3, "own": 1, "source": "elsewhere", "speedup": 1.2, "reach": 0.1}
    one["level"], one["least"] = 0.97, [0.02, 0.01]
    wide = sampled_interval(logs, 0.97, 3, spread, 1, 0.02)
    one["speedup"] = {end: math.exp(getattr(wide, end)) for end in ("value", "low", "high")}
    parts = ((0.02 / 3 / 2, 2.0), (0.01, 6.0))
    freedom = sum(v for v, _ in parts) ** 2 / sum(v**2 / df for v, df in parts)
    expected = 2 * stats.t.sf(np.mean(logs) / math.sqrt(sum(v for v, _ in parts)), freedom)
    assert row(told(tmp_path, [result]), "esd")["attacks"]["memora"]["p"] == pytest.approx(expected)


def test_an_audit_that_tells_less_is_a_row_nonetheless(tmp_path: Path) -> None:
    older = made(2.0)
    older["attacks"]["memora"] = {k: v for k, v in older["attacks"]["memora"].items() if k != "log_speedups"} | {"reach": None}
    one = row(told(tmp_path, [older, made(4.0, method="uce")]), "esd")
    assert one["speedup"] == pytest.approx(older["speedup"]) and one["reach"]["value"] is None and one["attacks"]["memora"]["p"] is None


def test_a_lopsided_interval_that_holds_zero_has_no_small_p() -> None:
    assert two_sided(Interval(1.0, -0.5, 1.4), 0.95, 4.0) > 0.05 > two_sided(Interval(1.0, 0.5, 1.4), 0.95, 4.0)
    assert two_sided(Interval(-1.0, -1.4, 0.5), 0.95, 4.0) > 0.05


def test_what_a_method_costs_is_told(tmp_path: Path) -> None:
    results = [made(edit=k) for k in range(2)]
    for result, seconds in zip(results, (10.0, 30.0), strict=True):
        result["cost"] = {"denoiser_calls": 123_456, "stages": {"unlearn": seconds}, "seconds": 99.0}
    text = written_as(told(tmp_path, results), "markdown").partition("### Cost")[2]
    assert "| esd | sneaker | 20 | 123,456 |" in text


def test_a_sweep_is_told_in_every_form(tmp_path: Path) -> None:
    found = summarised(collected([swept_grid(tmp_path, ("sneaker", "bag"))]))
    text = written_as(found, "markdown")
    assert text.count("| its settings |") == 4 and text.count("memora.rank=16") >= 2 * 2 + 2 + 1
    assert written_as(found, "csv").splitlines()[0].startswith("suite,form,model,swept,method")
    assert "its settings" not in written_as(told(tmp_path / "plain", [made()]), "markdown")


def test_over_concepts_and_ranks(tmp_path: Path) -> None:
    speeds = {"uce": 6.0, "esd": 3.0, "spm": 2.0}
    results = [made(f * g, method=m, concept=c, plain=0.01 * f) for m, f in speeds.items() for c, g in (("sneaker", 1.0), ("bag", 1.5))]
    field = told(tmp_path, results)["fields"][0]
    over = {m["method"]: m for m in field["methods"]}
    each = [r["speedup"]["value"] for r in field["rows"] if r["method"] == "uce"]
    assert over["uce"]["concepts"] == ["bag", "sneaker"] and over["uce"]["speedup"]["value"] == pytest.approx(np.sqrt(each[0] * each[1]))
    assert field["contrasts"]["comparisons"] == 3 and all(set(c["concepts"]) == {"bag", "sneaker"} for c in field["contrasts"]["rows"])
    plain = next(r for r in field["ranks"] if r["surface"] == "plain rate" and r["of"] == "all")
    assert plain["rows"] == 6 and plain["methods"] == 3 and plain["kendall"] > 0.5
    assert field["kinds"] == [{"attack": "memora", "methods": 3, "needed": 16, "p": None, "swept": ""}]


def without(result: dict[str, Any], *place: str) -> dict[str, Any]:
    """A result that does not tell what lies there."""
    table = result
    for key in place[:-1]:
        table = table[key]
    del table[place[-1]]
    return result


@pytest.mark.parametrize(
    "place",
    [
        ("plain",),
        ("control",),
        ("provenance", "seeds"),
        ("attacks", "memora", "arms"),
        ("attacks", "memora", "arms", "never"),
        ("attacks", "memora", "arms", "edited", "curve"),
        ("attacks", "memora", "arms", "edited", "replicates"),
    ],
)
def test_audits_of_older_forms_are_pooled_by_their_own_numbers(tmp_path: Path, place: tuple[str, ...]) -> None:
    found = told(tmp_path, [without(made(4.0, edit=k, seeds=(k, k + 10)), *place) for k in range(3)])
    each = [made(4.0, edit=k, seeds=(k, k + 10))["speedup"]["value"] for k in range(3)]
    one = row(found, "esd")
    assert one["speedup"]["value"] == pytest.approx(math.exp(np.mean(np.log(each)))) and one["edits"] == 3
    assert any("every audit keeps its own levels" in remark for remark in found["fields"][0]["remarks"])


def test_an_edit_that_tells_no_replicates_is_not_left_out_of_the_mean(tmp_path: Path) -> None:
    results = [made(speed, edit=k, seeds=(k, k + 10)) for k, speed in enumerate((2.0, 4.0, 8.0))]
    results[2]["attacks"]["memora"] |= {"log_speedups": None, "arms": None}
    found = told(tmp_path, results)
    assert row(found, "esd")["speedup"]["value"] == pytest.approx(math.exp(np.mean([np.log(r["speedup"]["value"]) for r in results])))
    assert "each counts once" in found["fields"][0]["remarks"][-1]


DAMAGED: list[tuple[tuple[str, ...], Any, str]] = [
    (("verdict", "flags"), 5, "verdict.flags is a list; given '5'"),
    (("attacks",), {"memora": None}, "attacks.memora is a table; given 'None'"),
    (("attacks", "memora", "log_speedups"), [0.1, "odd"], "attacks.memora.log_speedups[1] is a finite number; given 'odd'"),
    (("plain", "edited", "value"), -5, "plain.edited.value is a number from 0 to 1; given '-5'"),
    (("provenance", "seeds"), [None], "provenance.seeds[0] is a whole number from 0 on; given 'None'"),
    (("cost", "seconds"), math.nan, "cost.seconds is a finite number; given 'nan'"),
    (("edit",), "esd", "edit is a table; given 'esd'"),
    (("strips",), ["a.png"], "strips[0] is a table; given 'a.png'"),
    (("lines", "surface"), "low", "lines.surface is a number from 0 to 1; given 'low'"),
]


@pytest.mark.parametrize(("place", "value", "why"), DAMAGED)
def test_a_damaged_result_is_passed_over_and_the_place_is_told(tmp_path: Path, place: tuple[str, ...], value: Any, why: str) -> None:
    result = made()
    table = result
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = value
    found = told(tmp_path, [result, made(method="uce")])
    assert [r["method"] for r in found["fields"][0]["rows"]] == ["uce"]
    (remark,) = found["remarks"]
    assert f"a0/result.json is damaged: {why}; delete it and run the audit again" in remark


def test_what_is_no_audit_is_passed_over(tmp_path: Path) -> None:
    """A run that an audit rests on has a result too, and no schema."""
    laid(tmp_path / "mine", made())
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm/result.json").write_text('{"points": []}')
    found = collected([tmp_path])
    assert len(found.audits) == 1 and "names no concept, verdict or attack" in found.remarks[0]


def test_a_grid_s_name_covers_no_two_methods(tmp_path: Path) -> None:
    """Two settings, or two methods, that a grid calls alike are no edits of one method."""
    edits = {"a": {"method": "esd", "settings": {"lr": 1e-4}}, "b": {"method": "esd", "settings": {"lr": 1e-3}}, "c": {"method": "uce"}}
    for name, edit in edits.items():
        laid(tmp_path / "cells" / name, made(mark=name) | {"edit": edit})
    rows = [{"cell": name, "state": "finished", "unlearner": "mine"} for name in edits]
    (tmp_path / "grid.json").write_text(json.dumps({"cells": rows}))
    (field,) = summarised(collected([tmp_path]))["fields"]
    assert {r["method"]: r["edits"] for r in field["rows"]} == {"mine (esd, lr 0.0001)": 1, "mine (esd, lr 0.001)": 1, "mine (uce)": 1}


def test_a_model_as_it_is_enters_no_rank_whatever_a_grid_calls_it(tmp_path: Path) -> None:
    rows = []
    for k, method in enumerate(("none", "uce", "esd", "spm", "rece")):
        result = made(2.0 + k, method=method, plain=0.01 * k) | ({"edit": None} if method == "none" else {})
        laid(tmp_path / "cells" / method, result)
        rows.append({"cell": method, "state": "finished", "unlearner": method})
    (tmp_path / "grid.json").write_text(json.dumps({"cells": rows}))
    found = summarised(collected([tmp_path]))
    assert row(found, "none")["not_compared"] == ["nothing was edited"]
    assert {rank["rows"] for rank in found["fields"][0]["ranks"]} == {4}


def test_a_named_audit_that_tells_no_edit_is_of_one(tmp_path: Path) -> None:
    """As a record of a study, which keeps the method alone."""
    result = made()
    del result["edit"]
    folder = laid(tmp_path / "a", result)
    assert not Audited(folder, result, {}, "esd").unedited and Audited(folder, result, {}).unedited
    assert Audited(folder, result | {"edit": None}, {}, "none").unedited


def test_without_an_original_the_model_itself_is_what_was_edited(tmp_path: Path) -> None:
    result = made() | {"edit": None}
    result["plain"]["original"] = None
    one = row(told(tmp_path, [result]), "an unnamed method")
    assert one["not_compared"] == []


def test_cells_that_a_grid_does_not_name_and_odd_grids_are_told(tmp_path: Path) -> None:
    for name in ("old", "new"):
        laid(tmp_path / "cells" / name, made(mark=name, edit=int(name == "old")))
    (tmp_path / "grid.json").write_text(json.dumps({"cells": [3, {"cell": "new", "state": "finished", "unlearner": "esd"}]}))
    (remark,) = collected([tmp_path]).remarks
    assert "grid.json does not name them" in remark and remark.endswith(": old")
    (tmp_path / "grid.json").write_text('{"cells": 5}')
    assert len(collected([tmp_path]).audits) == 2


def test_a_grid_without_a_finished_cell_says_what_failed(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "grid.json").write_text(json.dumps({"cells": [{"cell": "a", "state": "failed", "why": "no memory"}]}))
    with pytest.raises(BadInput, match="finished no cell yet; cell a failed: no memory"):
        collected([tmp_path])


def test_every_form_says_what_is_a_lower_bound_and_escapes_names(tmp_path: Path) -> None:
    result = made(6.0)
    result["attacks"]["memora"]["censored"] = True
    laid(tmp_path / "cells/a", result)
    (tmp_path / "grid.json").write_text(json.dumps({"cells": [{"cell": "a", "unlearner": "[ours]"}]}))
    found = summarised(collected([tmp_path]))
    (line,) = csv.DictReader(written_as(found, "csv").splitlines())
    assert line["F_is_lower_bound"] == "yes" and float(line["F"]) == found["fields"][0]["rows"][0]["speedup"]["value"]
    assert "| at least " in written_as(found, "markdown") and "& at least " in written_as(found, "latex")
    assert "\n  {[}ours] & " in written_as(found, "latex")  # else the end of the row before takes it for its argument


def test_latex_writes_a_small_p_as_it_is_read(tmp_path: Path) -> None:
    """A bare < is an exclamation mark in LaTeX's first encoding."""
    sides = [made(f, method=m, edit=k, seeds=(k,), noise=0.001) for m, f in (("esd", 8.0), ("uce", 2.0)) for k in range(6)]
    found = told(tmp_path, sides)
    assert found["fields"][0]["contrasts"]["rows"][0]["p"] < 0.001
    assert "\\textless{}0.001" in written_as(found, "latex") and "| <0.001 |" in written_as(found, "markdown")


def test_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no finished audit"):
        collected([tmp_path])
    laid(tmp_path / "x", made())
    with pytest.raises(UnknownName, match="unknown method 'nobody'"):
        told(tmp_path / "more", [made()], against="nobody")
