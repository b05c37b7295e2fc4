"""A method's name in code, anywhere on the site, leads to its page, but not on that page."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from pygments.lexers import TextLexer
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

from website import methods

# Names that pages also use for other things: a control, a step of a method, a setting's value.
WORDS = frozenset({"direct", "restore", "conditions", "inversion", "interpolate", "perturb", "retrain", "undo"})


def places() -> dict[str, str]:
    """Method -> document."""
    return {name: f"{kind}/{name}" for kind in methods.KINDS for name in methods.own_names(kind)}


class MethodLinks(SphinxPostTransform):
    """Puts the links where the names stand."""

    default_priority = 20

    def run(self, **_: Any) -> None:
        here, pages, builder = self.env.docname, places(), self.app.builder
        tables = here.startswith(
            ("docs/results/matrix", "docs/choosing", "index", "unlearners/index", "attacks/index")
        )  # there every name is a method's
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext()
            there = pages.get(name, here)
            linked = any(isinstance(node, nodes.reference | nodes.title) for node in _above(literal))
            if there == here or linked or (name in WORDS and not tables):
                continue
            link = nodes.reference("", "", internal=True, refuri=builder.get_relative_uri(here, there))
            literal.replace_self(link)
            link += literal


def _above(node: nodes.Node) -> list[nodes.Node]:
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's way in."""
    app.add_post_transform(MethodLinks)
    app.add_lexer("console", TextLexer)  # commands here stand without a prompt; the usual lexer takes them for output
    return {"parallel_read_safe": True, "parallel_write_safe": True}
