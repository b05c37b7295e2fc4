"""The report: one self-contained page that shows what the result holds, escaped, and survives what it does not hold."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pages import BROWSER, Page, browse, changed, paths, rate, strip, tint, triple
from vestige.errors import BadInput, UnknownName
from vestige.report import audits
from vestige.report.page import spread

BUDGETS = [0, 2, 5, 10, 20, 50, 100, 200]
KINDS = ["short-term", "long-term", "erased", "not forgotten", "inconclusive"]


def arm(start: float, end: float, half: float) -> dict[str, Any]:
    """A saturating curve from `start` to `end`, halfway after `half` steps, with three replicates around it."""
    scores = [start + (end - start) * b / (b + half) for b in BUDGETS]
    curve = [{"budget": b, "score": s, "low": max(0.0, s - 0.07), "high": min(1.0, s + 0.07)} for b, s in zip(BUDGETS, scores, strict=True)]
    wobble = [[min(1.0, max(0.0, s + 0.04 * math.sin(3 * k + i))) for i, s in enumerate(scores)] for k in range(3)]
    return {"curve": curve, "replicates": wobble}


def attack(**changes: Any) -> dict[str, Any]:
    found = {
        "savings": {"value": 0.82, "low": 0.74, "high": 0.87},
        "speedup": {"value": 5.5, "low": 3.9, "high": 7.7},
        "reach": triple(0.31, 0.08),
        "settings": {"rank": 4, "lr": 0.002, "self_generated": True},
        "censored": False,
        "arms": {"edited": arm(0.02, 0.95, 4), "never": arm(0.0, 0.8, 55), "original": {"curve": [{"budget": 0, "score": 0.96}]}},
        "notes": {"references": "regenerated from noise inversion"},
    }
    return found | changes


def verdict(kind: str = "short-term", **changes: Any) -> dict[str, Any]:
    reason = "Savings lies above 2/3 with its whole interval, so relearning is much cheaper than learning."
    flags = [
        {"name": "plasticity", "kind": "capping", "text": "The extra concept is taught at 0.66 of the original's speed; the line is 0.7."},
        {"name": "replicates disagree", "kind": "informing", "text": "At budget 5 the replicates span 31 points."},
    ]
    return {"kind": kind, "reason": reason, "flags": flags, "between": None, "more_replicates": None} | changes


def audit(**changes: Any) -> dict[str, Any]:
    judge = {"name": "garment-cnn", "version": "1", "weights_hash": "9f3ac1d27710be55", "threshold": 0.5}
    judge |= {"sensitivity": 0.981, "specificity": 0.994}
    weaker = {"edited": arm(0.02, 0.8, 12), "never": arm(0.0, 0.75, 50)}
    prompts = [f"a {style} picture of a sneaker" for style in ("photo", "neon", "watercolor", "mosaic", "woodcut", "sunset")]
    command = "vestige audit --model wardrobe --concept sneaker --method esd --set esd.strength=1.0 --suite quick-1 --out runs/esd"
    result = {
        "schema": "vestige-audit-1",
        "suite": "quick-1",
        "model": "wardrobe",
        "concept": "sneaker",
        "concept_kind": "object",
        "edit": {
            "method": "esd",
            "settings": {"strength": 1.0, "steps": 200, "lr": 1e-5},
            "scope": "cross-attention",
            "changed_tensors": 16,
            "changed_share": 0.0214,
            "relative_norm": 0.1312,
            "seed": 0,
        },
        "verdict": verdict(),
        "savings": attack()["savings"],
        "speedup": attack()["speedup"],
        "reach": attack()["reach"],
        "control": {"kind": "twin", "name": "wardrobe-never-sneaker"},
        "plain": {"original": rate(0.96, 0.04), "edited": rate(0.02, 0.02), "never": rate(0.0, 0.03), "recall": triple(0.02, 0.02)},
        "headline": "memora",
        "attacks": {
            "dimra": attack(savings=triple(0.55, 0.1), speedup=triple(2.2, 0.5), arms=weaker, utility={"unrelated": rate(0.43, 0.1)}),
            "memora": attack(),
        },
        "utility": {
            "neighbours": {"before": rate(0.93, 0.04), "after": rate(0.88, 0.05), "after_attack": rate(0.85, 0.05)},
            "unrelated": {"before": rate(0.97, 0.03), "after": rate(0.96, 0.03), "after_attack": rate(0.95, 0.03)},
        },
        "diagnostics": {
            "retain_loss": 0.0521,
            "excess_retain_loss": 0.0013,
            "retain_gradient": 0.213,
            "forget_gradient": 1.75,
            "gradient_cosine": -0.131,
            "distance": 0.0417,
            "forget_loss_on_line": [0.05, 0.06, 0.09, 0.2, 0.41],
            "rate_on_line": [0.96, 0.9, 0.61, 0.17, 0.02],
        },
        "detector": {"verification": judge, "selection": judge | {"name": "garment-resnet", "weights_hash": "1b7720d1aa04"}},
        "cost": {"seconds": 170.2, "denoiser_calls": 123456, "pictures": 3456, "stages": {"unlearn": 30.1, "attack": 88.9, "score": 51.2}},
        "strips": [
            {"title": "original", "budget": None, "file": "strips/original.png", "caption": "a photo picture of a sneaker"},
            {"title": "edited", "budget": None, "file": "strips/edited.png", "caption": "a photo picture of a sneaker"},
            {"title": "after recovery", "budget": 5, "file": "strips/recovered.png", "caption": "a photo picture of a sneaker"},
            {"title": "never knew", "budget": 5, "file": "strips/never.png", "caption": "a photo picture of a sneaker"},
        ],
        "sensitive": False,
        "protocol": {
            "steps": 20,
            "guidance": 3.0,
            "pictures": 48,
            "replicates": 3,
            "budgets": BUDGETS,
            "held_out_prompts": prompts,
        },
        "provenance": {
            "command": command,
            "vestige": "0.1.0",
            "torch": "2.13.0",
            "diffusers": "0.36.0",
            "python": "3.11.7",
            "commit": None,
            "model_hash": "c0ffee1234567890",
            "seeds": [0, 1, 2],
            "edit_seed": 0,
            "finished": "2026-05-04T12:30:00+00:00",
        },
    }
    return result | changes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a finished audit."""
    folder = tmp_path / "run"
    for name, shoes in {"original": range(10), "edited": (), "recovered": (0, 1, 3, 4, 6, 8, 9), "never": (4,)}.items():
        strip(folder / f"strips/{name}.png", [i in shoes for i in range(10)])
    (folder / "result.json").write_text(json.dumps(audit()), encoding="utf-8")
    return folder


def test_page_shows_the_verdict_and_its_numbers(run: Path) -> None:
    page = Page(audits.write(run).read_text(encoding="utf-8"))
    for text in ("Hidden, not gone.", "verdict short-term", "5.5 times as fast [3.9, 7.7] as a model that never knew it"):
        assert text in page.text
    for text in ("0.82 [0.74, 0.87]", "88 % [83, 93]", "plasticity", "garment-resnet", "2 min 50 s", "vestige audit --model wardrobe"):
        assert text in page.text


def test_page_says_which_way_of_attacking_counts(run: Path) -> None:
    assert "every way that" not in Page(audits.write(run).read_text(encoding="utf-8")).text
    result = json.loads((run / "result.json").read_text())
    first = result["attacks"][result["headline"]]
    first |= {
        "edited_variant": "raw",
        "never_variant": "as given",
        "ways": {arm: {"as given": [], "raw": []} for arm in ("edited", "never")},
    }
    (run / "result.json").write_text(json.dumps(result))
    text = " ".join(Page(audits.write(run).read_text(encoding="utf-8")).text.split())
    assert "raw on the edited model, as given on the one that never knew" in text


def test_diagnostics_stand_with_what_they_tell(run: Path) -> None:
    text = Page(audits.write(run).read_text(encoding="utf-8")).text
    assert re.search(r"excess retain loss\s+0\.0013\s", text) and re.search(r"cosine with the forgotten's gradient\s+−0\.131\s", text)
    assert re.search(r"0\s%\s+25\s%\s+50\s%\s+75\s%\s+100\s%", text) and re.search(r"96\s%\s+90\s%\s+61\s%\s+17\s%\s+2\s%", text)
    assert "Why it may come back" not in audits.render(audit(diagnostics={}), run)


def test_what_attacks_leave_stands_beside_what_they_bring_back(run: Path) -> None:
    html = audits.render(audit(), run)
    assert "unrelated left" in html and "43" in html.partition("unrelated left")[2][:3000]
    for found in (older := audit())["attacks"].values():
        found.pop("utility", None)
    assert "unrelated left" not in audits.render(older, run)


def test_page_fetches_nothing_and_runs_nothing(run: Path) -> None:
    html = audits.write(run).read_text(encoding="utf-8")
    page = Page(html)
    targets = [found[key] for _, found in page.elements for key in ("src", "href", "data", "action", "srcset") if key in found]
    assert targets and all(target.startswith(("data:", "#")) for target in targets)
    assert not page.all("script") and not page.all("iframe") and not re.search(r"url\(|@import", html)
    assert {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'"} in page.all(
        "meta"
    )


def test_pictures_are_the_files_of_the_run(run: Path) -> None:
    page = Page(audits.write(run).read_text(encoding="utf-8"))
    sources = [picture["src"].removeprefix("data:image/png;base64,") for picture in page.all("img", "pixels")]
    assert [base64.b64decode(source) for source in sources] == [(run / s["file"]).read_bytes() for s in audit()["strips"]]
    assert all(picture["alt"].startswith("10 pictures in a row") for picture in page.all("img"))
    assert Image.open(io.BytesIO(base64.b64decode(sources[0]))).size == (320, 32)


@pytest.mark.parametrize("file", ["../secret.png", "strips/absent.png", "result.json", ".", ""])
def test_a_strip_that_is_no_picture_of_the_run_is_left_out(run: Path, file: str) -> None:
    strip(run.parent / "secret.png", [True])
    page = Page(audits.render(audit(strips=[{"title": "edited", "file": file}]), run))
    assert not page.all("img") and "missing or is not a PNG inside the run's directory" in page.text


def test_everything_from_the_result_is_escaped(run: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: child if key == "file" else poison(child) for key, child in value.items()} | {evil: evil}
        if isinstance(value, list):
            return [poison(child) for child in value]
        return evil if isinstance(value, str) else value

    result = poison(audit())
    result["attacks"][evil] = attack(arms={evil: arm(0.1, 0.9, 3), "never": arm(0.0, 0.5, 30)})
    result["utility"][evil] = {"before": rate(0.5)}
    result["detector"][evil] = {"name": evil}
    page = Page(audits.render(result, run))
    clean = Page(audits.render(audit(), run))
    assert not page.all("script") and {tag for tag, _ in page.elements} <= {tag for tag, _ in clean.elements} | {"li"}
    assert not [key for _, found in page.elements for key in found if key.startswith("on")]
    assert all(found["src"].startswith("data:image/png;base64,") for found in page.all("img"))
    assert page.text.count("{{ 7 * 7 }}") > 40


@pytest.mark.parametrize("kind", [*KINDS, "another"])
@pytest.mark.parametrize("edit", [True, False])
def test_every_verdict_has_words_and_a_marker(tmp_path: Path, kind: str, edit: bool) -> None:
    changes = {} if edit else {"edit": None}
    page = Page(audits.render(audit(verdict=verdict(kind, between=["long-term", "short-term"], more_replicates=2), **changes), tmp_path))
    assert f"verdict {kind}" in page.text and len(page.all("svg", "marker")) == 6
    assert ("edited by esd" in page.text) is edit and ("this model 93" in page.text) is not edit
    if kind == "inconclusive":
        assert "between long-term and short-term . About 2 more replicates of the attack would settle it. Attacked," in page.text
    html = audits.render(audit(verdict=verdict(kind)), tmp_path)
    assert not re.search(r"[a-z][.,][A-Za-z]", re.sub(r"<[^>]*>", "", html[html.index("<main>") : html.index('<dl class="figures">')]))


@pytest.mark.parametrize(
    ("between", "headline"), [(["long-term", "short-term"], "Not gone."), (["erased", "long-term"], "Undecided."), (None, "Undecided.")]
)
def test_what_is_open_and_what_is_not(tmp_path: Path, between: list[str] | None, headline: str) -> None:
    """Undecided between two ways of not being gone is an answer to whether it is gone."""
    page = Page(audits.render(audit(verdict=verdict("inconclusive", between=between)), tmp_path))
    assert headline in page.text
    assert ("yet it is not gone" in page.text) is (headline == "Not gone.")


def test_any_key_may_be_missing_or_null(tmp_path: Path) -> None:
    whole = audit(strips=audit()["strips"][:1], control={"kind": "proxy", "name": "teapot"})
    whole["attacks"] = {"memora": attack(arms={"edited": {"curve": arm(0, 1, 3)["curve"][:2], "replicates": [[0.1, 0.2]]}})}
    assert "taught under the same protocol" in audits.render(whole, tmp_path)
    for path in paths(whole):
        for remove in (True, False) if isinstance(path[-1], str) else (True,):
            assert audits.render(changed(whole, path, remove=remove), tmp_path).rstrip().endswith("</html>"), path
    results: list[dict[str, Any]] = [{}, {"verdict": {}}, {"attacks": {"memora": {}}, "savings": {"value": math.nan}}]
    for empty in results:
        assert "Undecided." in audits.render(empty, tmp_path)


def test_without_intervals_there_are_no_brackets_and_no_bands(tmp_path: Path) -> None:
    bare = {"value": 0.5, "low": None, "high": None}
    arms = {key: {"curve": [{"budget": b, "score": b / 200, "low": None, "high": None} for b in BUDGETS]} for key in ("edited", "never")}
    changes = dict.fromkeys(("savings", "speedup", "reach"), bare) | {"utility": {}, "plain": {}, "detector": {}}
    page = Page(audits.render(audit(attacks={"memora": attack(arms=arms)}, verdict=verdict(flags=[], reason=""), **changes), tmp_path))
    assert not page.all("polygon") and not re.search(r"\[.*?\]", page.text) and "too few replicates for an interval" in page.text
    assert "relearned it 0.50 times as fast as a model" in page.text and len(page.all("path", "curve")) == 4


def test_curves_stand_on_a_logarithmic_axis_and_their_names_apart(tmp_path: Path) -> None:
    budgets = [0, 1, 3, 7, 15, 31]
    arms = {
        key: {"curve": [{"budget": b, "score": s} for b in budgets]} for key, s in (("edited", 0.5), ("never", 0.49), ("original", 0.51))
    }
    page = Page(audits.render(audit(attacks={"memora": attack(arms=arms)}), tmp_path))
    for drawing in (0, 1):
        coordinates = [tuple(map(float, pair.split(","))) for pair in page.all("path", "curve")[3 * drawing]["d"][1:].split("L")]
        steps = [after[0] - before[0] for before, after in pairwise(coordinates)]
        assert max(steps) - min(steps) < 0.3  # log(1 + b) is equally spaced here; coordinates are rounded to 0.1
        original, never, edited = (float(found["y"]) for found in page.all("text", "label")[3 * drawing : 3 * drawing + 3])
        assert never - edited >= 32 and edited - original >= 32


def test_a_table_holds_the_numbers_behind_the_curves(run: Path) -> None:
    page = Page(audits.write(run).read_text(encoding="utf-8"))
    assert "budget original never knew edited 0 96 % 0 % [0, 7] 2 % [0, 9]" in page.text


def test_where_savings_is_a_lower_bound_the_words_rest_on_reach(tmp_path: Path) -> None:
    page = Page(audits.render(audit(attacks={"memora": attack(censored=True)}), tmp_path))
    assert "its recall rose 0.31 [0.23, 0.39] higher than for a model that never knew it" in page.text
    assert "≥ 0.82" in page.text and "savings is only a lower bound" in page.text and len(page.all("figure", "scale")) == 2


def test_sensitive_results_say_that_pictures_are_blurred(run: Path) -> None:
    assert "blurred" not in audits.render(audit(), run)
    page = Page(audits.render(audit(sensitive=True), run))
    assert "Sensitive concept." in page.text and all(picture["alt"].endswith(", blurred") for picture in page.all("img"))


def test_several_audits_share_a_page_and_suites_are_not_mixed_silently(tmp_path: Path) -> None:
    for name, suite in (("a", "quick-1"), ("b", "quick-1"), ("c", "standard-1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(audit(suite=suite, concept=name)), encoding="utf-8")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "result.json").write_text('{"schema": "vestige-edit-1"}', encoding="utf-8")  # another kind of run is passed over
    page = Page(audits.write(tmp_path, tmp_path / "pages" / "all.html").read_text(encoding="utf-8"))
    identities = [found["id"] for _, found in page.elements if "id" in found]
    assert "3 audits" in page.text and "Different suites." in page.text
    assert len(page.all("article")) == 3 and len(identities) == len(set(identities))
    shutil.rmtree(tmp_path / "c")
    assert "Different suites." not in audits.write(tmp_path).read_text(encoding="utf-8")


def test_a_result_that_cannot_be_reported_says_what_to_do(run: Path) -> None:
    page = audits.write(run).read_text(encoding="utf-8")
    for text, message in (
        ("{", r"not readable as JSON .* run the audit again"),
        ("[]", r"holds 'list', not the result of an audit"),
        ('{"schema": "vestige-edit-1"}', r"'vestige-edit-1'.*written by `vestige audit`"),
    ):
        (run / "result.json").write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match=message):
            audits.write(run)
    (run / "result.json").unlink()
    with pytest.raises(BadInput, match=r"holds no result\.json.*finish this one by running its `vestige audit` command again"):
        audits.write(run)
    assert (run / "report.html").read_text(encoding="utf-8") == page and not list(run.glob(".report*"))


def test_table_as_markdown() -> None:
    text = audits.table(
        [audit(), audit(edit=None, concept="a|b <i>", savings={"value": -0.004, "low": None, "high": None}), {}], "markdown"
    )
    head, rule, first, second, third = text.splitlines()
    assert head.startswith("| model | concept | method | attack | verdict | savings |") and rule.count("|") == 12
    assert first.startswith("| wardrobe | sneaker | esd | memora | short-term | 0.82 [0.74, 0.87] | 5.5 [3.9, 7.7] |")
    assert first.endswith("| 0.31 [0.23, 0.39] | -5.0 | -1.0 | quick-1 |")
    assert "| a\\|b &lt;i&gt; | – | memora | short-term | 0.00 |" in second and third == "| " + " | ".join(["–"] * 11) + " |"


def test_table_as_csv_keeps_every_digit() -> None:
    (row,) = csv.DictReader(io.StringIO(audits.table([audit(concept='a, "b"\nc', speedup=triple(5.4321, 0.125))], "csv")))
    assert row["concept"] == 'a, "b"\nc' and row["speedup"] == "5.4321" and row["savings_low"] == "0.74"
    assert row["neighbours_points"] == "-5.0" and row["suite"] == "quick-1" and len(row) == 17


def test_table_as_latex_is_escaped() -> None:
    text = audits.table([audit(concept="50%_{x}\\")], "latex")
    assert "50\\%\\_\\{x\\}\\textbackslash{} & esd & memora" in text and text.count("&") == 20
    assert text.startswith("\\begin{tabular}{lllllrrrrrl}") and text.endswith("\\end{tabular}\n")


def test_unknown_table_style() -> None:
    with pytest.raises(UnknownName, match="unknown table style 'markdwn'; did you mean 'markdown'"):
        audits.table([], "markdwn")  # type: ignore[arg-type]


def test_labels_keep_their_order_inside_the_frame() -> None:
    assert spread([0.0, 300.0], gap=32, top=10, bottom=280) == [10, 280]
    assert spread([270.0, 268.0, 266.0], gap=32, top=10, bottom=280) == [280, 248, 216]
    assert spread([], gap=32, top=10, bottom=280) == []


@pytest.mark.skipif(BROWSER is None, reason="no chromium on the path")
def test_a_browser_shows_curves_and_pictures_without_an_error(run: Path) -> None:
    page = audits.write(run)
    shot = run / "page.png"
    dom, console = browse(page, run / "profile", f"--screenshot={shot}", "--window-size=1280,2000")
    shown = Page(dom)
    assert not console and len(shown.all("path", "curve")) == 8 and len(shown.all("img")) == 4
    counts = Image.open(shot).convert("RGB").getcolors(2**24) or []
    pixels = {colour: count for count, colour in counts}
    assert all(pixels.get(tint(seed), 0) > 500 for seed in range(10))  # the pictures are decoded and painted
    assert pixels.get((187, 68, 0), 0) > 500 and pixels.get((11, 102, 168), 0) > 200  # and the two curves are drawn


@pytest.mark.skipif(BROWSER is None, reason="no chromium on the path")
def test_a_browser_refuses_scripts_and_fetches_on_the_page(run: Path) -> None:
    """The console is watched, and the page's policy holds even where an element slipped in."""
    intruders = "<script>document.title = 'taken'</script><img src='report.html'></main>"
    page = run / "tampered.html"
    page.write_text(audits.write(run).read_text(encoding="utf-8").replace("</main>", intruders), encoding="utf-8")
    dom, console = browse(page, run / "profile")
    assert len(console) == 2 and all("Content Security Policy" in line for line in console) and "<title>sneaker" in dom
