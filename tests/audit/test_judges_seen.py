"""What both judges see before an audit: rates of known pictures, the flags that would fire, error rates that are stated."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from oracles import save_pair
from vestige import cli, concepts
from vestige.audit import Request, flags, resolve, scores
from vestige.audit.judges import AFTER, DRAWN, FAR, NEAR, REAL, WITHOUT, Looked, judge_flags, judges_seen, sentence_of, to_state
from vestige.concepts import Concept, images
from vestige.errors import BadInput
from vestige.harness.bench import Bench
from vestige.metrics import loading

LOOKS = """
import torch

def whole(images):
    x = images.mean((1, 2, 3))
    return torch.stack([x, 1 - x], 1)

def red(images):
    x = images[:, 0].mean((1, 2))
    return torch.stack([x, 1 - x], 1)

whole.labels = red.labels = ["bright", "dark"]
"""
TOLD = 'name = "bright"\nneighbours = ["dark"]\ndetector = "looks.py:whole"\nselector = "looks.py:red"\npictures = "lit"\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, two judges of brightness, and pictures that are bright, dark, or red."""
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    (root / "looks.py").write_text(LOOKS)
    (root / "bright.toml").write_text(TOLD)
    for name, level in (("lit", [0.9, 0.9, 0.9]), ("unlit", [0.1, 0.1, 0.1]), ("red", [0.9, 0.1, 0.1])):
        images.save(torch.tensor(level)[None, :, None, None].expand(6, 3, 32, 32), root / name)
    return root


def seen(home: Path, tmp_path: Path, concept: str = "bright.toml", **own: Any) -> dict[str, Any]:
    plan = resolve(Request(model=str(home / "model"), concept=str(home / concept), suite="smoke", attacks=("direct",), control="none"))
    return judges_seen(plan, tmp_path, count=4, **own)


def test_rates_of_real_pictures_are_what_the_judges_see(home: Path, tmp_path: Path) -> None:
    """Bright pictures are seen by both, dark ones by none, red ones by one alone: the rates, the agreement and the gap are exact."""
    rows = {row["pictures"]: row for row in seen(home, tmp_path, others=str(home / "red"))["rows"]}
    assert set(rows) == {DRAWN, NEAR, REAL, REAL + AFTER, WITHOUT, WITHOUT + AFTER}
    assert [rows[REAL][role]["value"] for role in ("verification", "selection", "agreement")] == [1, 1, 1]
    assert [rows[WITHOUT][role]["value"] for role in ("verification", "selection", "agreement")] == [0, 1, 0]
    assert rows[WITHOUT]["gap"]["value"] == 1
    assert rows[REAL]["verification"]["low"] == pytest.approx(0.61, abs=0.01)  # Wilson's, of six
    assert rows[DRAWN]["count"] == rows[NEAR]["count"] == 4
    assert set(rows[NEAR]["right"]) == {"verification", "selection"}


def test_a_run_is_kept_and_shares_no_seed_with_an_audit(home: Path, tmp_path: Path) -> None:
    first, again = seen(home, tmp_path), seen(home, tmp_path)
    assert first == again
    assert len(list(tmp_path.glob("judges-*"))) == 1
    seen(home, tmp_path, seed=1)
    assert len(list(tmp_path.glob("judges-*"))) == 2


def test_the_command_says_it_in_a_table(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = [
        "--model",
        home / "model",
        "--concept",
        home / "bright.toml",
        "--others",
        home / "unlit",
        "--suite",
        "smoke",
        "--cache",
        tmp_path,
    ]
    cli.app(["judges", "--count", "2", *map(str, told)], standalone_mode=False)
    said = capsys.readouterr().out
    assert "6 real pictures of it, after the autoencoder" in said
    assert "specificity = " in said
    cli.app(["judges", "--count", "2", *map(str, told), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["schema"] == "vestige-judges-1"


def bench(tmp_path: Path, concept: Concept) -> Bench:
    return Bench(tmp_path, SimpleNamespace(), *loading.pair(concept, ""))  # type: ignore[arg-type]


def row(verify: int, select: int, of: int = 20) -> Looked:
    return Looked([i < verify for i in range(of)], [i < select for i in range(of)])


def test_flags_are_the_audits(home: Path, tmp_path: Path) -> None:
    concept = concepts.load(str(home / "bright.toml"))
    own = bench(tmp_path, concept)

    def names(**rows: Looked) -> list[str]:
        return [
            flag.name
            for flag in judge_flags(
                own, concept, {{"drawn": DRAWN, "near": NEAR, "far": FAR, "real": REAL + AFTER}[k]: v for k, v in rows.items()}
            )
        ]

    assert names(drawn=row(20, 18)) == ["unmeasured-judge"]
    assert names(drawn=row(20, 16)) == ["judges-disagree", "unmeasured-judge"]
    assert names(drawn=row(20, 20), real=row(10, 14)) == ["judges-disagree", "unmeasured-judge"]
    assert names(drawn=row(9, 9)) == ["not-auditable", "unmeasured-judge"]
    assert names(drawn=row(20, 20), near=row(11, 11)) == ["not-auditable", "unmeasured-judge"]
    lost = Looked([None, None, *[True] * 18], [True] * 20)
    assert names(drawn=lost) == ["missing-detections", "unmeasured-judge"]
    assert "would block every verdict (judges-disagree)" in sentence_of(judge_flags(own, concept, {DRAWN: row(20, 16)}))
    assert sentence_of([]) == "nothing here would block or cap an audit's verdict"


def test_one_judge_that_knows_no_other_word_caps(home: Path, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(
        TOLD.replace('selector = "looks.py:red"\n', "").replace('["dark"]', '["elsewhere"]').replace("looks.py", f"{home}/looks.py")
    )
    concept = concepts.load(str(tmp_path / "one.toml"))
    raised = judge_flags(bench(tmp_path, concept), concept, {DRAWN: row(20, 20)})
    assert {f.name for f in raised if f.kind == "capping"} == {"one-judge", "utility-unmeasured"}
    assert "rule out erased and long-term (one-judge, utility-unmeasured)" in sentence_of(raised)


def test_what_was_measured_can_be_stated_and_answers_the_flag(home: Path, tmp_path: Path) -> None:
    """By the concept file, where stored scores stay, for it is part of the audit and not of its arms; or by the function itself."""
    lines = to_state({REAL + AFTER: row(19, 19), WITHOUT + AFTER: row(1, 1)}, "a/model")
    assert lines.splitlines()[:2] == ["sensitivity = 0.950", "specificity = 0.950"]
    plain = concepts.load(str(home / "bright.toml"))
    (home / "stated.toml").write_text(f"{TOLD}{lines}\n")
    stated = concepts.load(str(home / "stated.toml"))
    assert stated.as_dict() == plain.as_dict()
    (before, _), (after, _) = loading.pair(plain, ""), loading.pair(stated, "")
    assert before.identity("bright") == after.identity("bright")
    assert "stated" not in loading.contents(plain)
    assert loading.contents(stated)["stated"]["specificity"] == 0.95
    for concept, told in ((plain, True), (stated, False)):
        experiment: Any = SimpleNamespace(
            bench=bench(tmp_path, concept),
            concept=concept,
            base=SimpleNamespace(image_size=(32, 32)),
            plan=SimpleNamespace(control=SimpleNamespace(kind="proxy", of_the_concept=False), guesses_floor=False),
        )
        assert ("unmeasured-judge" in [f.name for f in flags._detectors(experiment)]) == told
        assert scores.false_positives(experiment) == pytest.approx(0.0 if told else 0.05)
    (home / "own.py").write_text(f'{LOOKS}\nwhole.specificity, whole.measured = 0.9, "by hand"\nred.specificity = 2\n')
    function = concepts.load(written(home, 'detector = "own.py:whole"\n'))
    assert loading.error_rates(loading.pair(function, "")[0], "bright") == {"specificity": 0.9, "measured": "by hand"}
    with pytest.raises(BadInput, match=r"specificity of .*red is a share of pictures"):
        loading.pair(concepts.load(written(home, 'detector = "own.py:red"\n')), "")


def written(home: Path, rest: str) -> str:
    (home / "function.toml").write_text(f'name = "bright"\n{rest}')
    return str(home / "function.toml")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ('detector = "looks.py:whole"\nspecificity = 0.9\n', "neither without the other"),
        ('detector = "looks.py:whole"\nmeasured = "nothing"\n', "neither without the other"),
        ('detector = "looks.py:whole"\nspecificity = 1.5\nmeasured = "x"\n', "a share of pictures"),
        ('specificity = 0.9\nmeasured = "x"\n', "told to a detector"),
    ],
)
def test_rates_without_a_basis_are_refused(rest: str, message: str, home: Path) -> None:
    with pytest.raises(BadInput, match=message):
        concepts.load(written(home, rest))
