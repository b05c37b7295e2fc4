"""Imports point one way, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vestige

ROOT = Path(vestige.__file__).parent
FILES = {p: ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in sorted(ROOT.rglob("*.py"))}
MODULES = {name: path for path, name in FILES.items() if path != ROOT / "__init__.py"}

# Who sees whom: one line a room; it may import these and nothing else of ours. Imports for types alone count.
BELOW = "errors contents files seeds data registry runs verdict concepts edits metrics diffusion models methods"
METHODS = "errors seeds registry concepts edits diffusion methods"
SEES = {
    room: frozenset(seen.split())
    for room, seen in {
        "errors": "",
        "seeds": "",
        "contents": "errors",
        "data": "errors",
        "files": "errors",
        "registry": "errors",
        "verdict": "errors",
        "runs": "errors files",
        "engine": "errors files runs",
        "concepts": "errors files seeds data",
        "report": "errors files data",
        "compare": "errors files verdict",
        "edits": "errors files registry",
        "metrics": "errors files data verdict concepts",
        "diffusion": "errors registry edits",
        "models": "errors contents files data edits diffusion",
        "methods": "errors files seeds concepts edits diffusion",
        "checkpoints": "errors contents files registry edits diffusion",
        "unlearners": METHODS,
        "attacks": METHODS,
        "harness": BELOW,
        "audit": f"{BELOW} engine harness checkpoints",
        "continual": f"{BELOW} engine harness audit",
        "grid": f"{BELOW} engine harness checkpoints audit continual report",
        "api": f"{BELOW} engine harness checkpoints audit continual grid report",
        "cli": f"{BELOW} engine harness checkpoints audit continual grid report compare api",
        "__main__": "cli",
    }.items()
}
ALONE = ("unlearners", "attacks")  # no method sees another
ALSO = {("unlearners.retrain", "models"): "its edit is another model, which only a card knows to be a twin"}
HEAVY = {"diffusers", "transformers", "peft", "accelerate", "torchmetrics", "nudenet", "onnxruntime", "sklearn", "matplotlib"}
WITHOUT_TORCH = {
    "",
    *("errors", "files", "data", "registry", "runs", "engine", "verdict", "report", "compare", "cli", "api", "__main__"),  # whole rooms
    *("concepts.concept", "concepts.joint", "diffusion.model", "diffusion.noising", "methods.contract", "continual.retention"),
}


def for_types(node: ast.stmt) -> bool:
    """Whether this is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(nodes: list[ast.stmt], inside: bool = True) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported at run time; with `inside`, within functions too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the whole name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif for_types(node):
            yield from imports(node.orelse, inside)
        elif inside or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports([child for child in children(node) if isinstance(child, ast.stmt)], inside)


def children(node: ast.AST) -> Iterator[ast.AST]:
    """Statements below a statement, through handlers and match cases."""
    for child in ast.iter_child_nodes(node):
        yield from children(child) if isinstance(child, ast.ExceptHandler | ast.match_case) else (child,)


def ours(dotted: str) -> str | None:
    """The module of ours that an import names, "edits.edit" for `vestige.edits.edit.Edit`; "" for the package; None for others'."""
    head, *rest = dotted.split(".")
    if head != "vestige":
        return None
    while rest and ".".join(rest) not in MODULES:
        rest.pop()
    return ".".join(rest)


def room(module: str) -> str:
    """Where a module stands."""
    return module.split(".")[0]


def handed(face: str) -> dict[str, str]:
    """What a room's face hands on: name -> the module that defines it."""
    tree = ast.parse(MODULES[face].read_text("utf-8")) if face in MODULES and MODULES[face].name == "__init__.py" else ast.parse("")
    return {a.asname or a.name: (n.module or "")[8:] for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}


def complaint(source: str, dotted: str) -> str | None:
    """Why `source` may not import `dotted`, e.g. "vestige.edits.Edit"."""
    target = ours(dotted)
    if target is None:
        return None
    if target == "":
        return "import the module that holds the name, not the package"
    here, there = room(source), room(target)
    assert here in SEES, f"vestige.{source} stands in no room; say in {Path(__file__).name} what it sees"
    if here != there and there not in SEES[here] and (source, there) not in ALSO:
        return f"{here} sees {', '.join(sorted(SEES[here])) or 'nothing of ours'}"
    if here == there and here in ALONE and source != here:
        return "a method sees no other method; move what both need to vestige.methods"
    if here == there and target == here and source != here:
        return "within a room a name comes from its module"
    name = dotted.rpartition(".")[2]
    if here != there and target != there and handed(there).get(name) == target:
        return f"{name} is handed on by vestige.{there}"
    return None


def edges(module: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports, for types too."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    lines = [(line, name) for line, name in imports(tree.body) if ours(name) is not None]
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and for_types(n)]
    return lines + [found for n in guarded for found in imports(n.body) if ours(found[1]) is not None]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    wrong = [f"line {line}: {name}: {why}" for line, name in edges(module) if (why := complaint(module, name))]
    assert not wrong, "\n".join(wrong)


def test_no_circle():
    """A face counts as the modules that it hands on, so no room can hide one."""
    graph = {m: {ours(name) for _, name in edges(m)} - {m, "", None} for m in MODULES}
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set(), list(graph[start])
        while todo:
            if (one := todo.pop()) not in seen:
                seen.add(one)
                todo += graph.get(one, ())
        reached[start] = seen
    assert not sorted(m for m in graph if m in reached[m])


def test_the_house_has_few_doors():
    assert len(list(ROOT.glob("*.py"))) <= 8
    assert {p.parent.name for p in ROOT.glob("*/__init__.py")} <= SEES.keys()


# Public functions and classes of one name: the same act in sibling rooms, or a command and what it calls.
SAME_ACT = {"load", "names", "read", "render", "resolve", "table", "write", "current", "using", "identity", "measure", "scheduled"}
COMMANDS = {"audit", "continual", "export", "generate", "inspect", "unlearn"}
# None may be added.
STILL_SHARED = {"beside", "digest", "flat", "folder", "kept", "kind", "modules", "moved", "named", "plain", "room", "told", "whole"}


def test_a_public_name_means_one_thing():
    where: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(module)
    shared = {name for name, modules in where.items() if len(modules) > 1}
    assert shared <= SAME_ACT | COMMANDS | STILL_SHARED, {name: where[name] for name in shared - SAME_ACT - COMMANDS - STILL_SHARED}
    assert shared >= STILL_SHARED, "a name that is one thing's now leaves the list"


@pytest.mark.parametrize("face", sorted({room(m) for m in MODULES if MODULES[m].name == "__init__.py"} - {"data", "cli"}))
def test_a_face_defines_nothing(face):
    tree = ast.parse(MODULES[face].read_text("utf-8"))
    assert ast.get_docstring(tree)
    assert all(isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign) for node in tree.body)
    modules = {m.split(".")[1] for m in MODULES if m.startswith(f"{face}.")}
    assert not handed(face).keys() & modules, "no name of a face may be a module's"


@pytest.mark.parametrize("module", ["", *MODULES])
def test_nothing_heavy_at_module_level(module):
    path = MODULES.get(module, ROOT / "__init__.py")
    heads = {name.split(".")[0] for _, name in imports(ast.parse(path.read_text("utf-8")).body, inside=False)}
    forbidden = HEAVY | ({"torch"} if {module, room(module)} & WITHOUT_TORCH else set())
    assert not heads & forbidden, f"import {sorted(heads & forbidden)} inside the function that needs it"


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in ("errors", "files", "registry", "runs", "data")])
def test_lowest_rooms_need_the_standard_library_only(module):
    heads = {name.split(".")[0] for _, name in imports(ast.parse(MODULES[module].read_text("utf-8")).body)}
    assert heads <= {*sys.stdlib_module_names, "vestige", "tomli"}


@pytest.mark.parametrize(
    ("source", "dotted"),
    [
        ("edits.edit", "vestige.diffusion.Model"),
        ("edits.edit", "vestige.models.latent.LatentModel"),
        ("unlearners.esd", "vestige.unlearners.uce.UCE"),
        ("attacks.memora", "vestige.unlearners.esd.ESD"),
        ("attacks.memora", "vestige.metrics.classifier.load"),
        ("unlearners.esd", "vestige.audit.run.audit"),
        ("verdict.decision", "vestige.diffusion.sampling.sample"),
        ("report.audits", "vestige.verdict.decision.decide"),
        ("runs.run", "vestige.registry.find"),
        ("audit.run", "vestige.continual.ledger.Ledger"),
        ("audit.run", "vestige.concepts.concept.Concept"),
        ("edits.merging", "vestige.edits.Edit"),
    ],
)
def test_a_wrong_edge_is_seen(source, dotted):
    assert complaint(source, dotted)


def test_imports_are_found_wherever_they_hide():
    code = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import hidden
else:
    import a
try:
    import b
except ImportError:
    import c
def f():
    with x:
        from d import e
class K:
    import g
"""
    body = ast.parse(code).body
    assert [name for _, name in imports(body)] == ["typing.TYPE_CHECKING", "a", "b", "c", "d.e", "g"]
    assert "d.e" not in [name for _, name in imports(body, inside=False)]


def loaded(code: str) -> set[str]:
    """Top-level packages in memory after running some code in a fresh interpreter."""
    tail = "\nimport sys; print('\\nLOADED', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


HELP = """
import runpy, sys
sys.argv = ["vestige", "--help"]
try:
    runpy.run_module("vestige", run_name="__main__")
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize("code", ["import vestige; vestige.__version__; dir(vestige)", HELP], ids=["import", "help"])
def test_neither_import_nor_help_loads_torch(code):
    assert not loaded(code) & {"torch", *HEAVY}


TESTS = sorted(Path(__file__).parent.rglob("test_*.py"))


def test_no_test_imports_another():
    """What several tests share stands beside them in a module of its own: a fixture that another file defines runs there unseen."""
    known = {path.stem for path in TESTS}
    found = {p.name: heads & known for p in TESTS if (heads := {n.split(".")[0] for _, n in imports(ast.parse(p.read_text("utf-8")).body)})}
    assert not {name: others for name, others in found.items() if others}


def test_names_of_test_files_are_unique():
    """Files of one name in two folders are one module to pytest."""
    names = [path.name for path in TESTS]
    assert len(names) == len(set(names))
