"""The page draws and names the lines by which an audit was decided, not the usual ones."""

from typing import Any

import pytest

from vestige.report.audits import LINES, render
from vestige.verdict import Lines


def audited(**lines: float) -> dict[str, Any]:
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    return {"concept": "sneaker", "verdict": {"kind": "inconclusive"}, "savings": interval, "speedup": interval, "lines": lines}


def test_usual_lines_are_the_verdicts(tmp_path):
    usual = Lines()
    assert {key: getattr(usual, key) for key in LINES} == LINES
    assert render({**audited(), "lines": None}, tmp_path) == render({**audited(**LINES), "lines": None}, tmp_path)


@pytest.mark.parametrize(("moved", "words"), [(0.41, ("0.41", "1.69×")), (0.5, ("0.5", "2×"))])
def test_a_calibrated_line_is_named_and_drawn(tmp_path, moved, words):
    usual, page = (render(audited(**{**LINES, "savings_long": line}), tmp_path) for line in (LINES["savings_long"], moved))
    assert "Relearned at most 1.5× as fast" in usual and "savings at most 1/3" in usual
    assert f"Relearned at most {words[1]} as fast" in page and f"savings at most {words[0]}" in page
    edges = [text.split('class="zone z2" x="')[1].split("%")[0] for text in (usual, page)]
    assert float(edges[1]) > float(edges[0])


def test_the_room_that_an_attack_had_is_told(tmp_path):
    curve = [{"budget": b, "score": 0.1 * b, "low": 0.0, "high": 1.0} for b in (0, 2)]
    attack = {"arms": {"edited": {"curve": curve}}, "room": {"value": 9.4, "low": 6.5, "high": 14.0}}
    page = render({**audited(), "headline": "memora", "attacks": {"memora": attack}}, tmp_path)
    assert "9.4×" in page and "the most that memora could have found" in page
    assert "the most that memora could have found" not in render({**audited(), "attacks": {"memora": {**attack, "room": None}}}, tmp_path)


def test_every_control_and_how_they_differ_is_told(tmp_path):
    curve = [{"budget": b, "score": 0.1 * b, "low": 0.0, "high": 1.0} for b in (0, 2)]
    spread = {"sd": 0.3, "freedom": 5.0, "concepts": 3, "own": 2, "source": "x", "speedup": 1.83, "reach": 0.1}
    against = [{"name": "one", "speedup": 0.94, "reach": 0.1}, {"name": "other", "speedup": 2.42, "reach": 0.2}]
    attack = {"arms": {"edited": {"curve": curve}}, "against": against, "spread": spread}
    control = {"kind": "twin", "name": "one and other", "names": ["one", "other"]}
    found = {**audited(), "control": control, "attacks": {"memora": attack}, "headline": "memora"}
    page = render(found, tmp_path)
    assert "one <b>0.94×</b>, other <b>2.4×</b>" in page and "of 4 concepts" in page and "1.8×" in page
    verdict = {"kind": "inconclusive", "between": ["erased", "long-term"], "more_controls": 2}
    assert "about 2 more of those would" in render({**found, "verdict": verdict}, tmp_path)
    alone = {"control": {**control, "names": ["one"]}, "attacks": {"memora": {**attack, "against": against[:1]}}}
    single = render({**found, **alone}, tmp_path)
    assert "The control is" in single and "Against each alone" not in single
