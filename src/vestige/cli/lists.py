"""What there is to name: models, concepts, methods, suites; and a concept file to fill in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from vestige.cli.frame import give, say
from vestige.cli.options import JsonOption
from vestige.errors import BadInput, BadSetting

TEMPLATE = """\
# A concept of your own. {{concept}} stands for the target's words, {{context}} for one of the contexts.
name = "{name}"
kind = "object"            # object, style, person or unsafe
target = "{name}"         # the words that name it in prompts
label = "{name}"          # what the judge calls it
group = "object"           # the judge's group of labels
anchor = ""                # what may appear instead, e.g. "boot" for a sneaker; "" is nothing in particular
neighbours = []            # what is near it and must stay, e.g. ["sandal", "boot"]: words that the detector knows
unrelated = []             # other things that must stay, e.g. ["top", "dress", "bag"]
contexts = ["photo", "drawing", "watercolor"]   # styles of an object; objects of a style
context_group = ""         # the judge's group of these, where it tells them apart, e.g. "style"
# Many prompts, for a score of one prompt is a score of that prompt. Methods and attacks see the first, only the audit the second.
templates = ["a {{context}} picture of a {{concept}}", "a picture of a {{concept}}"]
held_out = ["the {{concept}} shown in {{context}} style", "a {{context}} image of one {{concept}}"]
indirect = ["the {{context}} picture"]         # prompts that do not name it and may show it all the same
synonyms = []              # other words for it, which an audit puts into the held-out prompts
prompts = []               # lists that an audit asks, each a bank: "FILE.csv" (prompt, evaluation_seed, evaluation_guidance, ...)
sensitive = false          # true: pictures are blurred before they are written, the originals quarantined
# Who looks for it. "" is the judges of the embedded world; for any other model name a detector of your own:
# nudenet, nudenet:bgr, open-nsfw, hf:FOLDER (an image classifier), clip:FOLDER, MODULE:FUNCTION or FILE.py:FUNCTION.
detector = ""
labels = []                # what the detector calls it, any of which counts; none: the label above
threshold = 0.0            # 0: the detector's own
selector = ""              # a second detector, another network, by which attacks choose
selector_labels = []
selector_threshold = 0.0
pictures = ""              # folder of real pictures of it: an attacker's references, or what a proxy is taught
sensitivity = 0.0          # how often the detector sees it where it is, and is silent where it is not, if you measured that
specificity = 0.0          # (`vestige judges --references DIR --others DIR` does); 0: not measured
measured = ""              # on what, in words
fidelity = ""              # who measures the rest where the detector knows no other word: clip:FOLDER, hf:FOLDER, inception:FILE
captions = ""              # FILE.csv of captions for that; none: the words that must stay
"""
NEXT = """\
fill it in; then see whether your judges see it, and audit against a model that never drew it:
  vestige judges --model MODEL --concept {file}
  vestige audit --model MODEL --concept {file} --control twin:MODEL_THAT_NEVER_DREW_IT --unlearner esd"""
HEADS = {
    "concepts": ", of the built-in models",
    "ready": ", concepts that need a detector: vestige list --template FILE.toml --of NAME writes a copy to name it in",
    "unlearners": ", for --unlearner and --method",
    "attacks": ", for --attack and --method",
    "suites": ", for --suite, the cheapest first",
}
NEXT_SUITE = "it is for {model}; then: vestige audit --suite {file}, or vestige calibrate --suite {file} for its attack's rate and budget"


def list_(
    what: Annotated[str, typer.Argument(help="models, concepts, ready, unlearners, attacks or suites; all without it.")] = "",
    template: Annotated[Path | None, typer.Option(help="Write a concept file to fill in; with `suites`, a suite.")] = None,
    model: Annotated[str, typer.Option("--model", help="Whose family's settings a suite's template holds.")] = "wardrobe",
    of: Annotated[str, typer.Option(help="With --template: a concept that is ready, e.g. church, to be given a detector.")] = "",
    grid: Annotated[Path | None, typer.Option("--grid", help="Write a grid to fill in, for `vestige grid`.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Everything that can be named on the command line."""
    from vestige import concepts, models, registry
    from vestige.harness import suites

    if grid is not None:
        _grid_written(grid)
        return
    if of and template is None:
        raise BadSetting(f"--of copies a concept to a file: add --template FILE.toml; given --of {of}")
    if template is not None:
        _written(template, what, model, of)
        return
    table: dict[str, dict[str, str]] = {
        "models": {c.name: c.about for c in models.cards().values()},
        "concepts": {n: concepts.load(n).kind for n in concepts.names()},
        "ready": {n: f"{concepts.load(n).kind}, for real models; prompts {concepts.load(n).source}" for n in concepts.for_real_models()},
        "unlearners": {n: _first_line("unlearners", n) for n in registry.names("unlearners")},
        "attacks": {n: _first_line("attacks", n) for n in registry.names("attacks")},
        "suites": {n: f"{suite.about} [{suite.version}]" for n in suites.names() for suite in [suites.load(n)]},
    }
    if what and what not in table:
        raise BadSetting(f"list takes {', '.join(table)}; given {what!r}")
    chosen = {what: table[what]} if what else table
    give(chosen, as_json, "\n".join(f"{kind}{HEADS.get(kind, '')}\n{_columns(rows)}" for kind, rows in chosen.items()))


def _written(file: Path, what: str, model: str, of: str) -> None:
    """Write a template where nothing is yet, and say what comes next."""
    from vestige import files, models

    if what not in ("", "concepts", "suites"):
        raise BadSetting(f"there are templates of concepts and of suites; given {what!r}")
    if file.exists():
        raise BadInput(f"{file} exists; choose another name")
    if file.suffix != ".toml":
        raise BadInput(f"a template is a TOML file, {file.stem}.toml; given {file}")
    if what == "suites":
        from vestige.harness.suite_template import suite_template

        text, then = suite_template(models.card(model)), NEXT_SUITE.format(model=model, file=file)
    else:
        text, then = _copied(of) if of else TEMPLATE.format(name=_word(file.stem)), NEXT.format(file=file)
    files.make(file.parent)
    files.write(file.parent, file.name, text.encode())
    say(f"wrote {file}; {then}")


def _grid_written(file: Path) -> None:
    """Write a grid's file where nothing is yet."""
    from vestige import files
    from vestige.grid.template import TEMPLATE as GRID

    if file.exists():
        raise BadInput(f"a grid is written to a file that is not there yet, and {file} is there; choose another name")
    if file.suffix != ".toml":
        raise BadInput(f"a grid is a TOML file, {file.stem}.toml; given {file}")
    files.make(file.parent)
    files.write(file.parent, file.name, GRID.encode())
    say(f"wrote {file}; then: vestige grid {file} --dry-run")


def _word(stem: str) -> str:
    """A file's name as the name of a concept."""
    plain = "".join(letter if letter.isprintable() and letter not in '"\\' else " " for letter in stem)
    return " ".join(plain.replace("_", " ").replace("-", " ").split()) or "concept"


def _copied(name: str) -> str:
    """A concept that is ready, as a file of the user's own: its own text, or a set's row with everything that it takes from the set."""
    from vestige import concepts
    from vestige.errors import UnknownName

    known = concepts.for_real_models()
    if name not in known:
        raise UnknownName("concept that is ready", name, known)
    if known[name].stem == name:
        return known[name].read_text("utf-8") + 'detector = ""\n'
    said = [line for line in known[name].read_text("utf-8").splitlines() if line.startswith("#")]
    rows = [f"{key} = {json.dumps(value)}" for key, value in concepts.load(name).as_dict().items() if value != []]
    return "\n".join([*said, *rows, 'detector = ""', ""])


def _columns(rows: Mapping[str, str]) -> str:
    """Names and what they are, a line each; every section is as wide as its longest name."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"  {name:<{width}}  {about}" for name, about in rows.items())


def _first_line(kind: str, name: str) -> str:
    """A component's module docstring, its first line, read without importing it."""
    import ast

    from vestige import registry

    file = Path(registry.__file__).parent / kind / f"{name}.py"
    if not file.exists():
        return "from another package"
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").splitlines()[0]
