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
# A concept of your own. {concept} stands for the target's words, {context} for one of the contexts.
name = "sneaker"
kind = "object"            # object, style, person or unsafe
target = "sneaker"         # the words that name it in prompts
label = "sneaker"          # what the judge calls it
group = "object"           # the judge's group of labels
anchor = "boot"            # what may appear instead; "" is nothing in particular
neighbours = ["sandal", "boot"]
unrelated = ["top", "dress", "bag"]
contexts = ["photo", "neon", "watercolor"]
context_group = "style"
templates = ["a {context} picture of a {concept}", "a picture of a {concept}"]
held_out = ["the {concept} shown in {context} style", "a {context} image of one {concept}"]
indirect = ["the {context} picture"]         # prompts that do not name it and may show it all the same
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
fidelity = ""              # who measures the rest where the detector knows no other word: clip:FOLDER, hf:FOLDER, inception:FILE
captions = ""              # FILE.csv of captions for that; none: the words that must stay
"""


def list_(
    what: Annotated[str, typer.Argument(help="models, concepts, ready, unlearners, attacks or suites; all without it.")] = "",
    template: Annotated[Path | None, typer.Option(help="Write a concept file to fill in.")] = None,
    of: Annotated[str, typer.Option(help="With --template: a concept that is ready, e.g. church, to be given a detector.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Everything that can be named on the command line."""
    from vestige import concepts, files, models, registry
    from vestige.harness import suites

    if template is not None:
        if template.exists():
            raise BadInput(f"{template} exists; choose another name")
        files.make(template.parent)
        files.write(template.parent, template.name, (_copied(of) if of else TEMPLATE).encode())
        say(f"wrote {template}; then: vestige audit --model MODEL --concept {template}")
        return
    table: dict[str, dict[str, str]] = {
        "models": {c.name: c.about for c in models.cards().values()},
        "concepts": {n: concepts.load(n).kind for n in concepts.names()},
        "ready": {n: f"{concepts.load(n).kind}, for real models: {concepts.load(n).source}" for n in concepts.for_real_models()},
        "unlearners": {n: _first_line("unlearners", n) for n in registry.names("unlearners")},
        "attacks": {n: _first_line("attacks", n) for n in registry.names("attacks")},
        "suites": {n: f"{suite.about} [{suite.version}]" for n in suites.names() for suite in [suites.load(n)]},
    }
    if what and what not in table:
        raise BadSetting(f"list takes {', '.join(table)}; given {what!r}")
    chosen = {what: table[what]} if what else table
    give(chosen, as_json, "\n".join(f"{kind}\n{_columns(rows)}" for kind, rows in chosen.items()))


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
