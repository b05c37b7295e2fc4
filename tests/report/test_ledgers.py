"""A ledger's page: what the result holds, escaped, in the same frame as an audit's, and whole whatever is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pages import BROWSER, Page, browse, changed, paths, rate, strip, triple
from vestige.errors import BadInput
from vestige.report import ledgers

NAMES = ["bag", "dress", "boot"]
BUDGETS = [0, 2, 5, 12]


def step(n: int, mode: str = "sequential") -> dict[str, Any]:
    """After step n, request j < n is back in (n - j) / 10 of its pictures."""
    so_far = NAMES[:n] if mode == "sequential" else NAMES[max(0, n - 1) : n]
    curve = [rate(0.1 * at + 0.2) for at in range(len(BUDGETS))]
    return {
        "step": n,
        "request": NAMES[n - 1] if n else None,
        "rates": {name: rate(0.96 if j > n else (n - j) / 10) for j, name in enumerate(NAMES, 1)},
        "to_come": NAMES[n:],
        "unlearning_accuracy": rate(0.9) if n else None,
        "leakage": {"rate": rate(0.02 * n), "rates": {name: rate(0.12 - 0.01 * n * j) for j, name in enumerate(NAMES[:2])}},
        "reversal": {**triple(0.07, 0.02), "net": triple(0.05, 0.03)} if n > 1 and mode == "sequential" else None,
        "ripple": {"drop": triple(0.11, 0.04), "accuracy": rate(0.8)} if n else {"drop": None, "accuracy": None},
        "erosion": {"drop": triple(0.03 * n, 0.02), "accuracy": rate(0.9), "pictures": 84, "kid": triple(0.0125 * n, 0.001), "fid": None},
        "drift": {"original": 0.31 * n, "previous": 0.31 if n else 0.0},
        "attacks": {"memora": {name: {"budgets": BUDGETS, "curve": curve} for name in so_far}},
        "strips": {"requests": {name: f"strips/{n:02d}-{name}.png" for name in NAMES}, "unrelated": f"strips/{n:02d}.png"},
    }


def ledger(mode: str = "sequential", **changes: Any) -> dict[str, Any]:
    result = {
        "schema": "vestige-continual-1",
        "suite": "quick-2",
        "model": "wardrobe",
        "method": {"name": "esd", "settings": {"steps": 120, "lr": 2.5e-4}},
        "mode": mode,
        "seed": 0,
        "memory": None,
        "requests": [{"name": name, "kind": "object", "target": name, "sensitive": False} for name in NAMES],
        "neighbours": ["top", "coat"],
        "unrelated": ["shirt", "sandal"],
        "attacks": {"memora": {"settings": {"rank": 4}, "budget": BUDGETS}},
        "detector": {"verification": {"name": "garment-cnn", "version": "1"}},
        "protocol": {"steps": 10, "guidance": 3.0, "pictures": 48, "pictures_a_word": 12, "replicates": 1},
        "steps": [step(n, mode) for n in range(4)],
        "combined": "runs/ledger/combined.safetensors",
        "cost": {"seconds": 320.5},
        "provenance": {
            "vestige": "0.1.0",
            "finished": "2026-05-04T12:30:00+00:00",
            "command": "vestige continual --requests bag,dress,boot",
        },
    }
    return result | changes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for n in range(4):
        for name in [*NAMES, ""]:
            strip(folder / f"strips/{n:02d}{'-' if name else ''}{name}.png", [name != "bag" or n == 0] * 5)
    (folder / "result.json").write_text(json.dumps(ledger()), encoding="utf-8")
    return folder


def test_page_shows_what_was_forgotten_what_returned_and_what_was_lost(run: Path) -> None:
    page = Page(ledgers.write(run).read_text(encoding="utf-8"))
    for text in ("3 requests, one after another.", "forgetting bag, dress, boot with esd", "5 % [2, 8] with falls counted"):
        assert text in page.text
    for text in ("Unlearned 90 % [84, 96]", "Ripple 11 % [7, 15]", "Erosion 9 % [7, 11]", "vestige continual --requests bag,dress,boot"):
        assert text in page.text
    assert "3 boot 90 % [84, 96] 7 % [5, 9] 6 % [0, 12] 11 % [7, 15] 9 % [7, 11] 0.0375 [0.0365, 0.0385] – 0.93 0.31" in page.text


def test_diagnostics_and_notes_of_every_step_stand_on_the_page(tmp_path: Path) -> None:
    """Those of the steps that have any; none where a method notes and measures nothing."""
    told = {"excess_retain_loss": 0.0123, "retain_gradient": 0.5, "gradient_cosine": -0.25, "distance": 0.04}
    steps = [dict(step(n)) for n in range(4)]
    steps[2] |= {"diagnostics": {**told, "forget_loss_on_line": [0.03, 0.08, 0.9]}, "edit": {"notes": {"losses.attention.first": 0.86}}}
    page = Page(ledgers.render(ledger(steps=steps), tmp_path))
    assert "2 dress 0.0123 0.5 −0.25 0.04 0.03 0.9" in page.text
    assert "What the method noted, 2 dress losses.attention.first 0.86" in page.text
    plain = Page(ledgers.render(ledger(), tmp_path)).text
    assert "Why it may come back" not in plain and "What the method noted" not in plain


def test_heat_map_has_a_row_a_request_and_a_column_a_step(run: Path) -> None:
    page = Page(ledgers.write(run).read_text(encoding="utf-8"))
    assert "original 1 bag 2 dress 3 boot bag 96 % [90, 100] 0 % [0, 6] 10 % [4, 16] 20 % [14, 26] dress 96 %" in page.text
    cells = [found for found in page.all("td") if found.get("class") in ("before", "now", "after")]
    first = [found["class"] for found in cells[:12]]
    assert first == ["before", "now", "after", "after", "before", "before", "now", "after", "before", "before", "before", "now"]
    assert [found["style"] for found in cells[:4]] == ["--rate: 0.96", "--rate: 0.0", "--rate: 0.1", "--rate: 0.2"]


def test_what_is_shown_unasked_has_a_map_of_its_own(run: Path) -> None:
    """Of those requests whose files give prompts for it; a ledger without any has no such map."""
    heading = "Unasked: prompts that do not name it and may show it all the same"
    page = Page(ledgers.write(run).read_text(encoding="utf-8"))
    assert f"{heading} original 1 bag 2 dress 3 boot bag 12 % [6, 18] 12 % [6, 18] 12 %" in page.text
    assert "dress 12 % [6, 18] 11 % [5, 17] 10 % [4, 16] 9 % [3, 15]" in page.text
    assert heading not in Page(ledgers.render(ledger(steps=[step(n) | {"leakage": None} for n in range(4)]), run)).text


def test_what_an_attack_brings_back_at_its_first_middle_and_last_budget(run: Path) -> None:
    page = Page(ledgers.write(run).read_text(encoding="utf-8"))
    assert [f"budget {b} original" in page.text for b in BUDGETS] == [True, False, True, True]
    assert len(page.all("table", "heat")) == 1 + 1 + 3
    assert "budget 12 original 1 bag 2 dress 3 boot bag – 50 % [44, 56] 50 % [44, 56] 50 % [44, 56] dress – – 50 %" in page.text


def test_page_fetches_nothing_and_runs_nothing(run: Path) -> None:
    html = ledgers.write(run).read_text(encoding="utf-8")
    page = Page(html)
    targets = [found[key] for _, found in page.elements for key in ("src", "href", "data", "action", "srcset") if key in found]
    assert len(targets) == 17
    assert all(target.startswith("data:") for target in targets)
    assert not page.all("script") and not re.search(r"url\(|@import", html)
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'"}
    assert policy in page.all("meta")


def test_everything_from_the_result_is_escaped(run: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(child) for key, child in value.items()} | {evil: evil}
        if isinstance(value, list):
            return [poison(child) for child in value]
        return evil if isinstance(value, str) else value

    page = Page(ledgers.render(poison(ledger()), run))
    clean = Page(ledgers.render(ledger(), run))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in clean.elements}
    assert not [key for _, found in page.elements for key in found if key.startswith("on")]
    assert page.text.count("{{ 7 * 7 }}") > 40


def test_any_key_may_be_missing_or_null(tmp_path: Path) -> None:
    whole = ledger(steps=[step(0), step(2)])
    for path in paths(whole):
        for remove in (True, False) if isinstance(path[-1], str) else (True,):
            assert ledgers.render(changed(whole, path, remove=remove), tmp_path).rstrip().endswith("</html>"), path
            ledgers.table(changed(whole, path, remove=remove))
    assert ledgers.render({}, tmp_path).rstrip().endswith("</html>")


@pytest.mark.parametrize("file", ["../secret.png", "strips/absent.png", "result.json", ".", "", None])
def test_a_strip_that_is_no_picture_of_the_run_is_left_out(run: Path, file: str | None) -> None:
    strip(run.parent / "secret.png", [True])
    result = ledger(steps=[step(0) | {"strips": {"requests": {"bag": file}, "unrelated": file}}])
    page = Page(ledgers.render(result, run))
    assert not page.all("img") and "missing or is not a PNG inside the run's directory" in page.text


def test_requests_at_once_are_told_apart(run: Path) -> None:
    page = Page(ledgers.render(ledger("simultaneous"), run))
    assert "3 requests, all at once." in page.text and "one after another" not in page.text


def test_independent_steps_are_told_apart(run: Path) -> None:
    page = Page(ledgers.render(ledger("independent"), run))
    assert "3 requests, each by itself." in page.text and "these are 3 models" in page.text
    cells = [found["class"] for found in page.all("td") if found.get("class") in ("before", "now", "after")]
    assert "after" not in cells and cells[:12].count("now") == 3
    assert not page.all("dl", "figures")


def test_curves_of_a_negative_quantity_stay_on_the_page(run: Path) -> None:
    """An erosion below zero is a model that improved: the axis goes there, and zero stays the base line."""
    steps = [
        step(n) | {"erosion": {"drop": {"value": -0.05 * n, "low": None, "high": None}}, "ripple": {}, "reversal": {}} for n in range(4)
    ]
    page = Page(ledgers.render(ledger(steps=steps), run))
    wide = page.all("path", "curve")[0]["d"]
    places = [float(pair.split(",")[1]) for pair in wide[1:].split("L")]
    (base,) = {float(found["y1"]) for found in page.all("line", "base")[:1]}
    assert places == sorted(places) and places[0] == base and places[-1] <= 252


def test_levels_are_round_and_few() -> None:
    for low, high in ((0, 0.1), (-0.03, 0.25), (0, 1.7), (-0.5, 0.013), (0, 33.0)):
        plot = ledgers._Plot(740, 636, 300, 252, 5, low, high)
        levels = [level for _, level in plot.levels()]
        assert 4 <= len(levels) <= 11 and 0.0 in levels
        assert low - 1e-9 <= levels[0] and levels[-1] <= high + 1e-9
        assert all(plot.top <= y <= plot.bottom for y, _ in plot.levels())


def test_sensitive_results_say_that_pictures_are_blurred(run: Path) -> None:
    assert "blurred" not in ledgers.render(ledger(), run)
    requests = [{**r, "sensitive": r["name"] == "dress"} for r in ledger()["requests"]]
    page = Page(ledgers.render(ledger(requests=requests), run))
    assert "Sensitive concept." in page.text and all(picture["alt"].endswith(", blurred") for picture in page.all("img"))


def test_table_holds_rates_and_costs() -> None:
    lines = ledgers.table(ledger()).splitlines()
    assert lines[0].startswith("| drawn after | original ") and lines[2].split("|")[1:5] == [
        " bag         ",
        " 96 % [90, 100] ",
        " 0 % [0, 6]     ",
        " 10 % [4, 16]   ",
    ]
    assert "| 3 boot   | 90 % [84, 96] | 7 % [5, 9] | 6 % [0, 12] | 11 % [7, 15] | 9 % [7, 11] | 0.0375 [0.0365, 0.0385] | 0.93  |" in lines
    assert len({len(line) for line in lines[:5]}) == 1


def test_only_a_ledger_is_reported(run: Path) -> None:
    assert ledgers.is_ledger(run)
    for text in ("{", "[]", '{"schema": "vestige-audit-1"}'):
        (run / "result.json").write_text(text, encoding="utf-8")
        assert not ledgers.is_ledger(run)
        with pytest.raises(BadInput, match="holds no result of a `vestige continual`"):
            ledgers.write(run)
    (run / "result.json").unlink()
    assert not ledgers.is_ledger(run)


@pytest.mark.skipif(BROWSER is None, reason="no chromium on the path")
def test_a_browser_shows_it_without_an_error(run: Path) -> None:
    dom, console = browse(ledgers.write(run), run / "profile", "--window-size=1280,2000")
    shown = Page(dom)
    assert not console and len(shown.all("img")) == 16 and len(shown.all("path", "curve")) == 10
