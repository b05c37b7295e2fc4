"""The site: docstrings come out as they read, every method has its page, every page its place, and all is built without a warning."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from pages import BROWSER, Page, browse
from vestige import registry
from vestige.cli import app

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

from website import build, docstrings, measured, methods, reference, standing  # noqa: E402

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
METHODS = [(kind, name) for kind in methods.KINDS for name in registry.names(kind)]
LINK = re.compile(r"\]\(([^)#\s:]+)(?:#([^)\s]*))?\)")


def without_code(text: str) -> str:
    return re.sub(r"^```(?:text|console|toml|python|sh|bash)?\n.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site") / "source"
    build.stage(place)
    return place


# Docstrings


SAMPLE = """Erase: one line
    of two.

    w' = w - |g| * 2      a formula

More, about `a|b` and x_t.

Arguments, beside those of others:
    a: Its meaning,
        over two lines.
    b, c: Of both.
Returns:
    Pictures, (B, 3, H, W).
Errors:
    BadInput, for none.
"""


def test_a_docstring_is_read_into_its_parts() -> None:
    doc = docstrings.read(SAMPLE.replace("\n    of two", " of two"))
    assert doc.summary == "Erase: one line of two."
    assert [kind for kind, _ in doc.blocks] == ["text", "code", "text"]
    assert doc.blocks[1][1] == "w' = w - |g| * 2      a formula"
    assert doc.arguments == {"a": "Its meaning, over two lines.", "b": "Of both.", "c": "Of both."}
    assert (doc.returns, doc.errors) == ("Pictures, (B, 3, H, W).", "BadInput, for none.")
    assert docstrings.read("What it does.\n\nRaises:\n    BadInput: A value.").errors == "BadInput: A value."
    assert docstrings.read(None).summary == ""


@pytest.mark.parametrize(
    "text", ["mean |a - b|^2, 2 * x_t_0 * P* <g, h> [0, 1]", "1. not a list", "- neither", "# no heading", "a `b|c*` d"]
)
def test_text_reads_the_same_as_markdown(text: str) -> None:
    """By the parser that the site uses, where it is at hand; it comes with rich."""
    from markdown_it import MarkdownIt

    (line,) = re.findall(r"<p>(.*)</p>", MarkdownIt().render(docstrings.escaped(text)))
    shown = line.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("<code>", "`").replace("</code>", "`")
    assert shown == text
    assert MarkdownIt().render(docstrings.escaped("the *edited model*, c*")) == "<p>the <em>edited model</em>, c*</p>\n"
    table = MarkdownIt().enable("table").render(f"| a | b |\n|---|---|\n| {docstrings.cell(text)} | x |\n")
    assert table.count("<td>") == 2


def test_no_section_of_a_docstring_is_taken_for_text() -> None:
    """A headed list that the reader does not know would be printed as a formula."""
    known = {"Arguments", "Returns", "Errors", "Raises"}
    for file in (ROOT / "src/vestige").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                heads = re.findall(r"^([A-Z][a-z]+):\n {4}\w", ast.get_docstring(node) or "", re.MULTILINE)
                assert set(heads) <= known, (file.name, node.name, heads)


# Methods


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_method_has_a_page_that_names_every_setting(kind: registry.Kind, name: str) -> None:
    cls, text = registry.find(kind, name), methods.page(ROOT, kind, name)
    told = text.partition("## Settings\n")[2].partition("\n## ")[0]
    rows = {row[1].strip("` "): row for line in told.splitlines() if len(row := re.split(r"(?<!\\)\|", line)) == 6}
    for field in dataclasses.fields(cls):
        _, _, accepts, default, meaning, _ = rows[field.name]
        assert accepts.strip() and len(meaning.strip()) > 4
        assert (default.strip() == "") == (field.default is field.default_factory is dataclasses.MISSING)
    families, states, _ = measured.matrix(ROOT)
    assert all(f"| {family} |" in text for family in families)
    assert text.count("refuses: ") == sum("refuses" in state for state in states[name])
    assert cls.paper.title in text.replace("\\", "") and f"py:class}} {cls.__name__}" in text
    assert all(key in text for told in measured.of_presets(kind, name).values() for key in told)
    assert "## What it costs" in text and "## Where it stands" in text
    (command,) = re.findall(r"```console\nvestige (\w+) (.*)\n```", text)
    with COMMANDS[command[0]].make_context(command[0], shlex.split(command[1])) as context:
        assert context.params["method"] == name


def test_pages_are_of_what_is_registered(staged: Path) -> None:
    assert {f"{kind}/{file.name}" for kind in methods.KINDS for file in (staged / kind).iterdir()} == {
        f"{kind}/{name}.md" for kind, name in METHODS
    } | {"unlearners/index.md", "attacks/index.md"}
    assert all(f"({name}.md)" in methods.index(kind) for kind, name in METHODS)


def test_costs_are_the_methods_own() -> None:
    calls = registry.build("unlearners", "esd").calls(0, 0)
    assert f"| defaults | {calls:,} |" in methods.page(ROOT, "unlearners", "esd")
    assert "| quick | 0, 2, 5, 12, 30, 80 | 8 |" in methods.page(ROOT, "attacks", "memora")


def test_where_a_method_stands_is_found_by_its_rows(tmp_path: Path) -> None:
    page = "# Of it\n\n| m | F |\n|---|---|\n| ESD | 2 |\n\n## Words, `here`\n\nundo that, as ESD does\n\n```\n# ESD\n```\n\n"
    page += "## Words, `here`\n\n| undo | 1 |\n"
    (tmp_path / "a.md").write_text(page)
    found = list(standing.sections(tmp_path, "a.md"))
    assert [s.slug for s in found] == ["", "words-here", "words-here-1"]
    rows, named = standing.met(found, "esd", "ESD")
    assert ([s.slug for s in rows], [s.slug for s in named]) == ([""], ["words-here"])
    rows, named = standing.met(found, "undo", "Undo")  # a word, too: only where it stands alone
    assert ([s.slug for s in rows], named) == (["words-here-1"], [])


# The reference


@pytest.mark.parametrize("room", reference.ROOMS)
def test_every_public_name_is_described(room: str) -> None:
    text, module = reference.page(room), importlib.import_module(room)
    for name in getattr(module, "__all__", reference.names(room)):
        assert f"\n## {docstrings.escaped(name)}\n" in text
    for signature in re.findall(r"\{py:(?:class|function|method|exception)\} \w+(\(.*)", text):
        before, arrow, back = signature.rpartition(") -> ")
        ast.parse(f"def f{before if arrow else signature[:-1]}) -> {back if arrow else 'None'}: ...")


def test_names_that_differ_in_case_alone_have_anchors_of_their_own() -> None:
    found = reference.anchors("vestige.models")
    assert (found["Card"], found["card"]) == ("card", "card-1") and "vestige.models.md#card-1" in reference.index()


def test_faces_are_all_there() -> None:
    """A room whose face hands names on is in the reference."""
    faces = {f"vestige.{f.parent.name}" for f in (ROOT / "src/vestige").glob("*/__init__.py") if "__all__" in f.read_text("utf-8")}
    assert faces <= set(reference.ROOMS)


def test_commands_are_those_of_the_help() -> None:
    text = reference.commands()
    assert {"audit", "unlearn", "attack", "list"} <= set(re.findall(r"^## vestige (\w+)$", text, re.MULTILINE))
    assert "`--unlearner`" in text and "`--json`" in text


# The whole


def test_every_link_of_the_staged_pages_leads_somewhere(staged: Path) -> None:
    pages = {file: file.read_text("utf-8") for file in staged.rglob("*.md")}
    assert len(pages) > 140
    slugs = {f: {s.slug for s in standing.sections(staged, f.relative_to(staged).as_posix())} for f in pages}
    for file, text in pages.items():
        for path, anchor in LINK.findall(without_code(text)):
            there = (file.parent / path).resolve()
            assert there.is_file(), f"{file.name}: {path}"
            assert not anchor or there.suffix != ".md" or anchor in slugs[there], f"{file.name}: {path}#{anchor}"


def test_every_page_has_one_place(staged: Path) -> None:
    """Each hangs in the tree of contents, once."""
    hung = []
    for file in staged.rglob("*.md"):
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", file.read_text("utf-8"), re.DOTALL | re.MULTILINE):
            names = [line.partition("<")[2].rstrip(">") or line for line in block.splitlines() if line and not line.startswith(":")]
            hung += [(file.parent / f"{name}.md").resolve().relative_to(staged.resolve()).as_posix() for name in names]
    assert len(hung) == len(set(hung))
    assert set(hung) | {"index.md"} == {file.relative_to(staged).as_posix() for file in staged.rglob("*.md")}


def test_nothing_that_is_made_is_committed() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "site", "build"], capture_output=True, text=True, check=False)
    assert listed.stdout == ""


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    places = ", ".join(f"Path({str(tmp_path / name)!r})" for name in ("site", "source"))
    program = f"import sys; sys.path[:0] = [{str(ROOT / 'tools')!r}]; from pathlib import Path; from website import build; "
    program += f"sys.exit(build.main({places}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    site = tmp_path / "site"
    for file in site.rglob("*.html"):
        page = Page(file.read_text("utf-8"))
        loads = [e.get("src", "") for _, e in page.elements] + [e["href"] for e in page.all("link") if "href" in e]
        assert not [load for load in loads if "//" in load], file
        for load in loads:
            there = load.partition("?")[0].partition("#")[0]
            assert not there or (file.parent / there).is_file() or load.startswith("data:"), f"{file}: {load}"
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", sheet.read_text("utf-8")), sheet
    index = json.loads((site / "searchindex.js").read_text("utf-8").removeprefix("Search.setIndex(").removesuffix(")"))
    assert "sneaker" in index["terms"] and any(term.startswith("ebbing") for term in index["terms"])  # as they are stemmed
    assert "unlearners/esd" in index["docnames"]
    assert "[source]" in (site / "api/vestige.html").read_text("utf-8")
    if BROWSER is not None:
        elements, said = browse(site / "unlearners/esd.html", tmp_path / "profile")
        assert "rollout_guidance" in Page(elements).text and said == []
