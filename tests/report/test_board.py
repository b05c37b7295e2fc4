"""The board: every link leads somewhere, tables stand without a script and sort and filter with it, and nothing is fetched."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from audits_made_up import laid, made
from pages import BROWSER, Page, browse
from vestige.compare import collected, summarised
from vestige.report import board
from vestige.report.board_plots import frontiers


def site_of(home: Path, out: Path) -> Path:
    found = collected([home])
    return board.write_board(summarised(found), {str(a.folder): a.result for a in found.audits}, out, found.grids)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of three methods on two concepts; one method was given two edits, one missed the mark, one concept is sensitive."""
    root = tmp_path_factory.mktemp("grid")
    for method, speed, plain in (("uce", 8.0, 0.0), ("esd", 2.0, 0.0), ("sp<b>m", 4.0, 0.4)):
        for concept in ("sneaker", "bag"):
            for edit in (0, 1) if method == "esd" else (0,):
                made_up = made(speed, method=method, concept=concept, edit=edit, sensitive=concept == "bag", plain=plain)
                laid(root / "cells" / f"{concept}-{method[:2]}-{edit}", made_up, pictures=True)
    (root / "grid.json").write_text(json.dumps({"schema": "vestige-grid-1", "cells": []}))
    (root / "grid.toml").write_text("[axes]\nconcepts = ['sneaker']  # <i>\n")
    return root


@pytest.fixture(scope="module")
def site(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site_of(home, tmp_path_factory.mktemp("site") / "board").parent


def test_every_page_is_whole_and_every_link_leads_somewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == 1 + 3 + 2 + 8 and {p.name for p in site.glob("data/*")} == {"comparison.csv", "comparison.json", "grid.toml"}
    for path in pages:
        text = path.read_text("utf-8")
        shown = Page(text)
        for link in shown.all("a"):
            place = link["href"].split("#")[0]
            assert not place or (path.parent / place).is_file(), f"{path.name}: {link}"
        assert "://" not in text.replace("http://www.w3.org/2000/svg", "") and "sp<b>m" not in text
        assert all(img["src"].startswith("data:image/png") and img["alt"] for img in shown.all("img"))


def test_a_sweep_has_a_frontier_for_each_of_its_points(tmp_path: Path) -> None:
    """What a weak attack leaves hidden beats nothing that a strong one was tried on."""
    rows = []
    for method, rank, speed in (("uce", 1, 1.1), ("uce", 16, 8.0), ("esd", 1, 1.5), ("esd", 16, 4.0)):
        laid(tmp_path / "g" / "cells" / f"{method}-{rank}", made(speed, method=method), pictures=True)
        rows.append({"cell": f"{method}-{rank}", "state": "finished", "unlearner": method, "swept": f"memora.rank={rank}"})
    (tmp_path / "g" / "grid.json").write_text(json.dumps({"cells": rows}))
    site = site_of(tmp_path / "g", tmp_path / "board").parent
    shown = (site / "index.html").read_text("utf-8")
    assert len(Page(shown).all("svg", "front")) == 2 * 2 and shown.count("On the frontier") == 2
    assert "On the frontier: uce." in shown and "On the frontier: esd." in shown
    assert {path.name for path in (site / "methods").iterdir()} == {"uce.html", "esd.html"}
    page = (site / "methods" / "uce.html").read_text("utf-8")
    assert page.count("memora.rank=16") >= 1 and page.count("memora.rank=1<") >= 1


def test_the_board_stands_without_a_script(site: Path) -> None:
    shown = Page((site / "index.html").read_text("utf-8"))
    heads = [h for h in shown.all("th") if h.get("scope") == "col" and h.get("role") == "columnheader"]
    rows = [r for r in shown.all("tr") if "data-method" in r]
    assert len(heads) == 11 and all(h["data-sort"] in ("text", "number") for h in heads) and len(rows) == 6
    assert [r["data-compared"] for r in rows] == ["yes", "yes", "no"] * 2 and len(shown.all("form", "filter")) == 1
    assert "hidden" in shown.all("form", "filter")[0]  # nothing that does nothing is shown
    for words in (
        "Who forgot",
        "short-term",
        "not compared: plain rate 0.40 above 0.1",
        "The frontier",
        "Holm's p counts all",
        "16 are needed",
    ):
        assert words in shown.text
    assert len(shown.all("svg", "front")) == 4 and len(shown.all("table", "heat")) == 1


def test_the_policy_allows_this_script_alone(site: Path) -> None:
    text = (site / "index.html").read_text("utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    told = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{told}'" in text and "default-src 'none'" in text


def test_sensitive_pictures_are_said_to_be_blurred(site: Path) -> None:
    bag, sneaker = ((site / "concepts" / f"{name}.html").read_text("utf-8") for name in ("bag", "sneaker"))
    assert "All pictures are blurred" in bag and ", blurred" in bag and "blurred" not in sneaker
    assert len(Page(bag).all("img")) == 2 + 2 * 3 and "quarantine" not in bag


def test_files_hold_the_numbers(site: Path) -> None:
    rows = list(csv.DictReader((site / "data/comparison.csv").read_text("utf-8").splitlines()))
    found = json.loads((site / "data/comparison.json").read_text())
    told = {(r["method"], r["concept"]): r["speedup"]["value"] for r in found["fields"][0]["rows"]}
    assert {(r["method"], r["concept"]): float(r["F"]) for r in rows} == pytest.approx(told) and len(rows) == 6


def point(method: str, kept: float, speedup: float, **more: Any) -> dict[str, Any]:
    stages = {"before": {"value": 1.0}, "after": {"value": kept}}
    return {"method": method, "utility": {"neighbours": stages}, "speedup": {"value": speedup}, "not_compared": [], **more}


def test_the_frontier_holds_what_no_other_beats() -> None:
    """Worked by hand; below F = 1 nothing is more forgotten; what is not compared, or has a lower bound only, is on no frontier."""
    rows = [
        point("a", 0.9, 0.5),
        point("b", 0.8, 0.4),
        point("c", 1.0, 3.0),
        point("d", 0.95, 4.0),
        point("e", 1.0, 1.0, not_compared=["x"]),
    ]
    found = frontiers(rows, "sneaker")
    assert found is not None and found["best"] == ["a", "c"] and frontiers([point("a", 0.9, None)], "bag") is None  # type: ignore[arg-type]


DRIVER = """
const table = document.querySelector("table.board"), told = document.documentElement.dataset;
const head = [...table.tHead.rows[0].cells].find((cell) => cell.textContent.startsWith("F,"));
const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
const order = () => shown().map((row) => row.dataset.method + "/" + row.dataset.concept).join(" ");
head.querySelector("button").click(); told.up = order(); told.sorted = head.getAttribute("aria-sort");
head.querySelector("button").click(); told.down = order();
const form = document.querySelector("form.filter"), changed = () => form.dispatchEvent(new Event("input"));
form.elements.concept.value = "bag"; changed(); told.bag = order(); told.count = form.querySelector("output").textContent;
form.elements.compared.checked = true; form.elements.method.value = " ES"; changed(); told.one = order();
"""


def driven(site: Path, name: str, driver: str) -> Path:
    """The board's page with one more script, which its policy is made to allow."""
    digest = b64encode(hashlib.sha256(driver.encode()).digest()).decode()
    text = (site / "index.html").read_text("utf-8").replace("script-src '", f"script-src 'sha256-{digest}' '")
    page = site / name
    page.write_text(text.replace("</body>", f"<script>{driver}</script></body>"), encoding="utf-8")
    return page


@pytest.mark.skipif(BROWSER is None, reason="no chromium on the path")
def test_a_browser_sorts_and_filters(home: Path, tmp_path: Path) -> None:
    site = site_of(home, tmp_path / "site").parent
    dom, console = browse(driven(site, "driven.html", DRIVER), tmp_path / "profile", "--window-size=390,2000")
    told = {key[5:]: value for key, value in Page(dom).all("html")[0].items() if key.startswith("data-")}
    up = told["up"].split()
    found = json.loads((site / "data/comparison.json").read_text())["fields"][0]["rows"]
    speeds = {f"{r['method']}/{r['concept']}": r["speedup"]["value"] for r in found}
    assert not console and [speeds[name] for name in up] == sorted(speeds.values()) and told["sorted"] == "ascending"
    assert [speeds[name] for name in told["down"].split()] == sorted(speeds.values(), reverse=True)
    assert len(told["bag"].split()) == 3 and told["count"] == "3 of 6" and told["one"] == "esd/bag"


@pytest.mark.skipif(BROWSER is None, reason="no chromium on the path")
def test_a_browser_follows_a_link_to_a_method(home: Path, tmp_path: Path) -> None:
    site = site_of(home, tmp_path / "site").parent
    page = driven(site, "driven.html", 'document.querySelector("tbody th a").click();')
    dom, console = browse(page, tmp_path / "profile", "--virtual-time-budget=3000")
    assert not console and "<title>esd – Vestige board</title>" in dom and dom.count("<img") == 8
