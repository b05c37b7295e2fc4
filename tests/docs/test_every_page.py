"""Every page of the repository: links and anchors lead somewhere, commands parse, numbers on choosing stand where it says."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from vestige.cli import app

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

from website import standing  # noqa: E402

TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = {
    str(file.relative_to(ROOT)): file for file in [*TOP, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tools").rglob("*.md"))]
}
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def prose(text: str) -> str:
    """A page without its blocks and pieces of code."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text: str) -> list[tuple[str, str]]:
    """(path, anchor) of every link within the repository."""
    return [(path, anchor) for path, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", prose(text)) if "://" not in path]


def anchors(page: str) -> set[str]:
    """What a page's headings are called in links."""
    return {section.slug for section in standing.sections(ROOT, page)} | {standing.slug(s.title) for s in standing.sections(ROOT, page)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for path, anchor in links(PAGES[page].read_text("utf-8")):
        there = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert there.exists(), f"there is nothing at {path}"
        if anchor:
            assert anchor in anchors(str(there.relative_to(ROOT))), f"{path} has no heading #{anchor}"


def test_links_and_anchors_are_found_at_all() -> None:
    found = [link for file in PAGES.values() for link in links(file.read_text("utf-8"))]
    assert len(found) > 150
    assert sum(bool(anchor) for _, anchor in found) > 5
    assert links("[a](b.md#c) and `[no](link.md)`, [out](https://example.org/x.md)\n```\n[no](x.md)\n```\n") == [("b.md", "c")]
    assert {"the-house", "kinds-of-test-by-worth"} <= anchors("CONTRIBUTING.md")


def commands() -> list[tuple[str, str]]:
    """(page, command) of every console block; what follows a # is a remark."""
    blocks = [
        (page, block)
        for page, file in PAGES.items()
        for block in re.findall(r"^```console\n(.*?)^```", file.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    ]
    return [(page, line) for page, block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_parse(page: str, command: str) -> None:
    program, name, *rest = shlex.split(command, comments=True)
    assert program == "vestige"
    with COMMANDS[name].make_context(name, rest) as context:
        assert context.info_name == name


def test_a_command_that_is_wrong_does_not_parse() -> None:
    with pytest.raises(Exception, match="no-such-option"):
        COMMANDS["audit"].make_context("audit", ["--no-such-option"])


def rows() -> list[str]:
    lines = PAGES["docs/choosing.md"].read_text("utf-8").splitlines()
    return [line for line in lines if (line.startswith("| ") and "](" in line) or line.startswith("- **Measured")]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2:40])
def test_numbers_on_choosing_stand_in_the_pages_that_they_name(row: str) -> None:
    """With their interval where they have one; a number that is made again is changed here too."""
    there = " ".join((ROOT / "docs" / path).read_text("utf-8") for path, _ in links(row))
    said = re.sub(r"\]\([^)]*\)|`[^`]*`", "", row)
    numbers = re.findall(r"[-+]?\d+(?:\.\d+)? (?:\[[^\]]*\]|\(-?\d+ to -?\d+\))|(?<![\w.])[-+]?\d+\.\d+|\d+ %", said)
    assert numbers or "inference" in row
    assert not [number for number in numbers if number not in there]
    assert re.findall(r"`(\w+)`", row)


def test_every_link_on_choosing_names_the_suite_of_its_page() -> None:
    """And a page that names its suite is not linked without."""
    said = re.findall(r"\[([^\]]*)\]\((results/[^)#]*)", PAGES["docs/choosing.md"].read_text("utf-8"))
    suites = {path: text.partition("; ")[2].partition(", form ")[0] for text, path in said if "; " in text}
    assert len(suites) >= 8
    for path, suite in suites.items():
        assert suite in (ROOT / "docs" / path).read_text("utf-8"), path
    for text, path in said:
        named = re.search(r"suite ([\w-]+)", (ROOT / "docs" / path).read_text("utf-8").split("\n## ")[0])
        assert "; " in text or named is None or path == "results/truth_panel.md", path
