"""`vestige continual` on the embedded model: what a user types, what a user reads, and what happens when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command import height, vestige
from hurry import hurry  # noqa: F401

ARGUMENTS = ["continual", "--requests", "bag,dress", "--method", "uce", "--suite", "smoke"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli") / "ledger"


@pytest.fixture(scope="module")
def result(out: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(vestige(*ARGUMENTS, "--out", out, "--json").stdout)
    return made


def test_json_keeps_its_contract(result: dict[str, Any], out: Path) -> None:
    assert result["schema"] == "vestige-continual-1"
    assert (result["model"], result["method"]["name"], result["mode"]) == ("wardrobe", "uce", "sequential")
    assert [s["request"] for s in result["steps"]] == [None, "bag", "dress"]
    for step in result["steps"]:
        assert {"rates", "unlearning_accuracy", "to_come", "reversal", "ripple", "erosion", "drift", "attacks", "strips"} <= set(step)
        assert all(height(out / file) == 32 for file in (*step["strips"]["requests"].values(), step["strips"]["unrelated"]))
    assert json.loads((out / "result.json").read_text()) == result
    assert Path(result["report"]).is_file()


def test_the_embedded_model_forgets_one_after_the_other(result: dict[str, Any]) -> None:
    bag, dress = ([s["rates"][name]["value"] for s in result["steps"]] for name in ("bag", "dress"))
    assert bag[0] >= 0.75 and max(bag[1:]) <= 0.25
    assert min(dress[:2]) >= 0.75 and dress[2] <= 0.25


def test_the_same_command_prints_the_stored_tables(result: dict[str, Any], out: Path) -> None:
    done = vestige(*ARGUMENTS, "--out", out)
    assert done.stdout.startswith("| drawn after | original ")
    assert "| 2 dress  |" in done.stdout and f"report       {result['report']}" in done.stdout
    assert json.loads((out / "result.json").read_text()) == result


def test_the_ledger_is_one_edit_of_the_original(result: dict[str, Any]) -> None:
    shown = json.loads(vestige("inspect", result["combined"], "--model", "wardrobe", "--json").stdout)
    assert shown["method"] == "continual"
    assert shown["notes"]["concept"] == "bag, dress"
    assert [part["method"] for part in shown["settings"]["parts"]] == ["uce", "uce"]


def test_its_page_can_be_written_again(result: dict[str, Any], out: Path) -> None:
    again = Path(vestige("report", out, "--out", out.parent / "again.html").stdout.strip())
    assert again.read_text() == Path(result["report"]).read_text()


def test_another_list_or_method_is_one_line(result: dict[str, Any], out: Path) -> None:
    for changes, message in (
        (["--requests", "dress,bag"], "request 1 is 'bag' there and 'dress' here"),
        (["--method", "remap"], "method is 'uce' there and 'remap' here"),
    ):
        done = vestige(*ARGUMENTS, *changes, "--out", out, check=False)
        assert done.returncode == 2
        assert message in done.stderr and "Traceback" not in done.stderr


def test_help_says_how_to_go_on() -> None:
    text = " ".join(vestige("continual", "--help").stdout.split())
    for part in ("--requests", "--mode", "--memory", "--dry-run", "a longer list of requests continues it"):
        assert part in text


def test_dry_run_says_what_it_would_do(tmp_path: Path) -> None:
    arguments = ["--requests", "bag,dress", "--method", "esd", "--attack", "memora", "--dry-run", "--json"]
    planned = json.loads(vestige("continual", *arguments, cwd=tmp_path).stdout)
    assert [c["name"] for c in planned["spec"]["requests"]] == ["bag", "dress"]
    assert planned["spec"]["settings"]["steps"] == 120
    assert planned["spec"]["memory"] is None
    assert planned["spec"]["attacks"]["memora"]["budget"][0] == 0
    assert set(planned["planned_calls"]) == {"scoring", "unlearning", "memora"}
    assert planned["expected_seconds"] > 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--requests", "bog"], "did you mean 'bag'"),
        (["--requests", ","], "requests are one or more different concepts"),
        (["--requests", "bag,bag"], "requests are one or more different concepts"),
        (["--requests", "bag", "--mode", "simultaneous"], "mode is sequential or independent"),
        (["--requests", "bag", "--method", "ucee"], "did you mean 'uce'"),
        (["--requests", "bag", "--set", "uce.ridg=1"], "did you mean 'ridge'"),
        (["--requests", "bag", "--set", "esd.lr=1"], "unknown method in a setting 'esd'"),
        (["--requests", "bag", "--attack", "memoro"], "did you mean 'memora'"),
        ([], "requests are one or more different concepts, e.g. bag,dress; given none"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = vestige("continual", *arguments, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
