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

PLAN = ("resolving", "controls", "plan")
ARMS = ("bench", "unlearning", "utility", "arms")
AUDIT = ("alone", "case", "rates", "scores", "flags", "statement", "audit", "recovery")
LEDGER = ("retention", "ledger", "probes", "guards", "course", "account", "continual")
ARTEFACTS = ("pickles", "legacy", "untrusted", "keymaps", "bfl", "ddpm", "lowrank", "artefacts", "origins", "findings", "modelcards")
LAYERS = (
    {"errors", "ranges", "registry", "durable", "locks", "runs"},
    {"base"},
    {
        "concepts",
        "images",
        "material",
        "album",
        "judging",
        "prompts",
        "views",
        "edits",
        "deltas",
        "attention",
        "sampling",
        "thrift",
        "training",
        "regeneration",
        "together",
        "merging",
        "protocols",
        *ARTEFACTS,
    },
    {"models", "matching", "checkpoints", "exports", "hooks", "unlearners", "attacks", "metrics"},
    {
        "savings",
        "verdict",
        "comparison",
        "suites",
        "judges",
        "drawing",
        *PLAN,
        "diagnostics",
        "calls",
        *ARMS,
        "attacker",
        "crew",
        *AUDIT,
        *LEDGER,
    },
    {"pages", "report", "report_continual", "api", "machine", "cli"},
    {"__main__"},
)
DATA = "data"  # no code: a folder that anyone may ask for its place

SHARED = ("modular", "timesteps", "labels", "sigmas", "mmdit", "packing", "streams")
PARTS = ("savings", "verdict", "suites", "judges", "drawing", *PLAN, "diagnostics", "calls", *ARMS, "attacker", "crew", *AUDIT, *LEDGER)
COMMANDS = ("audits", "acts", "sequences", "lists", "files")

# The edges within a layer, each with its reason.
SIDEWAYS = {
    ("edits", "views"): "an edit is put on a pipeline",
    ("deltas", "edits"): "edits are added up",
    ("registry", "errors"): "everyone refuses in the same words",
    **{(module, "errors"): "everyone refuses in the same words" for module in ("durable", "locks", "runs")},
    ("locks", "durable"): "a lock is a file",
    **{("runs", part): "a run is files under a lock" for part in ("durable", "locks")},
    **{("material", part): "pictures are drawn or given, for a concept" for part in ("images", "concepts", "sampling")},
    ("album", "images"): "pictures are written",
    ("images", "sampling"): "pictures are dealt by seeds",
    ("training", "thrift"): "what memory and processes change about a fit",
    ("training", "sampling"): "seeds are derived in one place",
    ("regeneration", "concepts"): "captions are a concept's prompts",
    ("regeneration", "images"): "references are a set of pictures",
    ("regeneration", "sampling"): "pictures are inverted and drawn",
    ("regeneration", "training"): "the settings of a fit that its attacks share",
    ("together", "concepts"): "several concepts are one",
    ("protocols", "concepts"): "files are read as a concept's are",
    ("protocols", "sampling"): "how pictures are drawn",
    **{("models", f"models.{family}"): "a family is loaded when a card names it" for family in ("latent", "flow", "classes")},
    **{(f"models.{family}", f"models.{part}"): "what families share" for family in ("latent", "flow", "classes") for part in SHARED},
    ("models", "models.sources"): "where files come from",
    ("models.mmdit", "models.packing"): "a layout packs its latents",
    **{
        (b, a): "a stranger's file, from its bytes to its meaning"
        for i, b in enumerate(ARTEFACTS)
        for a in ("edits", "deltas", *ARTEFACTS[:i])
    },
    ("checkpoints", "matching"): "a checkpoint is matched with a model",
    ("unlearners.retrain", "models"): "its edit is another model, which only a card knows to be a twin",
    ("comparison", "savings"): "measures of an audit, pooled",
    ("report", "pages"): "a page",
    ("report_continual", "pages"): "a page",
    ("api", "report"): "an audit's page is written with it",
    ("api", "report_continual"): "a ledger's page is written with it",
    **{("cli", f"cli.{part}"): "commands stand in one frame" for part in ("frame", *COMMANDS)},
    **{(f"cli.{group}", f"cli.{part}"): "what commands share" for group in COMMANDS for part in ("frame", "options", "forecast")},
    ("cli.forecast", "cli.frame"): "a forecast is a result too",
    **{(f"cli.{group}", "machine"): "where and how a command's models work" for group in COMMANDS},
    ("cli.audits", "report"): "a command",
    ("cli.audits", "report_continual"): "a command",
    ("cli.sequences", "report_continual"): "a command",
    **{(b, a): "the parts of an audit, each from those before" for i, b in enumerate(PARTS) for a in PARTS[:i]},
}
ONLY = {  # modules that see less than their layer would allow
    "savings": {"base", "errors"},
    "verdict": {"errors", "savings"},
    "pages": set(),
    "report": {"errors", "runs"},
    "report_continual": {"errors", "runs"},
    "retention": {"savings"},
    "comparison": {"errors", "savings"},
    "runs": {"errors", "durable", "locks"},
    "locks": {"errors", "durable"},
    "durable": {"errors"},
    "registry": {"errors"},
    "ranges": set(),
    "errors": set(),
}
HEAVY = {"diffusers", "transformers", "peft", "accelerate", "torchmetrics", "nudenet", "onnxruntime", "sklearn", "matplotlib"}
WITHOUT_TORCH = {
    "",
    *LAYERS[0],
    *LAYERS[1],
    "concepts",
    "together",
    "savings",
    "verdict",
    "retention",
    "pages",
    "report",
    "report_continual",
    *(module for module in MODULES if module.split(".")[0] == "cli"),
    "__main__",
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
    """The module of ours that an import names, "edits" for `vestige.edits.Edit`; "" for the package; None for others'."""
    head, *rest = dotted.split(".")
    if head != "vestige":
        return None
    while rest and ".".join(rest) not in MODULES:
        rest.pop()
    return ".".join(rest)


def layer(module: str) -> int:
    """The number of a module's layer."""
    found = [i for i, names in enumerate(LAYERS) if module.split(".")[0] in names]
    assert found, f"vestige.{module} belongs to no layer; give it one in {Path(__file__).name}"
    return found[0]


def complaint(source: str, target: str) -> str | None:
    """Why `source` may not import `target`."""
    if source == target or target == DATA or (source, target) in SIDEWAYS:
        return None
    if target == "":
        return "import the module that holds the name, not the package"
    if source in ONLY and target not in ONLY[source]:
        return f"{source} sees only {sorted(ONLY[source])}"
    if layer(target) > layer(source):
        return f"upward: layer {layer(source)} imports layer {layer(target)}"
    if layer(target) == layer(source):
        return "sideways: move what both need one layer down, or give the edge a reason in SIDEWAYS"
    return None


@pytest.mark.parametrize("module", [m for m in MODULES if m != DATA])
def test_imports_point_one_way(module):
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    edges = [(line, ours(name)) for line, name in imports(tree.body)]
    wrong = [f"line {line}: vestige.{target}: {why}" for line, target in edges if target is not None and (why := complaint(module, target))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["", *(m for m in MODULES if m != DATA)])
def test_nothing_heavy_at_module_level(module):
    path = MODULES.get(module, ROOT / "__init__.py")
    heads = {name.split(".")[0] for _, name in imports(ast.parse(path.read_text("utf-8")).body, inside=False)}
    forbidden = HEAVY | ({"torch"} if module in WITHOUT_TORCH else set())
    assert not heads & forbidden, f"import {sorted(heads & forbidden)} inside the function that needs it"


@pytest.mark.parametrize("module", sorted(LAYERS[0]))
def test_lowest_layer_needs_the_standard_library_only(module):
    heads = {name.split(".")[0] for _, name in imports(ast.parse(MODULES[module].read_text("utf-8")).body)}
    assert heads <= {*sys.stdlib_module_names, "vestige"}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("base", "edits"),
        ("edits", "models.latent"),
        ("unlearners.esd", "unlearners.uce"),
        ("attacks.memora", "unlearners.esd"),
        ("attacks.memora", "metrics.detection"),
        ("unlearners.esd", "audit"),
        ("verdict", "sampling"),
        ("report", "verdict"),
        ("runs", "registry"),
    ],
)
def test_a_wrong_edge_is_seen(source, target):
    assert complaint(source, target)


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
