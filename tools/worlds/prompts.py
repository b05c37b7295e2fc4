"""Prompts of a world, in banks: what denoisers are trained on, what only audits ask, what the text encoder sees besides."""

from __future__ import annotations

from dataclasses import dataclass

# Nonsense words whose tokens no network was trained on.
SPARE_WORDS = ("blicket", "dax", "fep", "gorp", "kiki", "modi", "toma", "wug", "zav", "zib")


@dataclass(frozen=True)
class Prompts:
    """Templates that hold `{object}`, `{style}` or both.

    Arguments:
        both: Trained, naming an object and a style.
        object: Trained, naming the object only.
        style: Trained, naming the style only.
        held_both: Paraphrases that no denoiser saw.
        held_object: Likewise; of a style's concept file the indirect prompts.
        held_style: Likewise; of an object's concept file the indirect prompts.
        text_both: Only the text encoder sees these, so that every word of the held-out ones means something.
        text_object: Likewise.
        text_style: Likewise.
    """

    both: tuple[str, ...]
    object: tuple[str, ...]
    style: tuple[str, ...]
    held_both: tuple[str, ...]
    held_object: tuple[str, ...]
    held_style: tuple[str, ...]
    text_both: tuple[str, ...]
    text_object: tuple[str, ...]
    text_style: tuple[str, ...]

    def words(self) -> set[str]:
        """Every word of every template that is no blank."""
        banks = (self.both, self.object, self.style, self.held_both, self.held_object, self.held_style)
        every = (*banks, self.text_both, self.text_object, self.text_style)
        return {word for bank in every for template in bank for word in template.split() if "{" not in word}


PROMPTS = Prompts(
    both=(
        "a {style} picture of a {object}",
        "a {object} in {style} style",
        "{style} {object}",
        "a picture of a {object} in {style}",
        "an image of a {object} , {style} style",
        "{style} art showing a {object}",
        "one {object} drawn as {style}",
    ),
    object=("a picture of a {object}", "a {object}", "an image of one {object}", "art showing a {object}"),
    style=("a {style} picture", "{style} style", "an image in {style}", "art drawn as {style}"),
    held_both=(
        "the {object} shown in {style} style",
        "a {style} image of one {object}",
        "{object} , {style}",
        "a drawn {object} , in {style}",
        "one picture , {style} style , showing the {object}",
    ),
    held_object=("one {object}", "the picture of the {object}", "an image showing a {object}"),
    held_style=("one image in {style} style", "the {style} picture"),
    text_both=(
        "the {style} {object}",
        "a {object} , shown as {style}",
        "drawn in {style} , the {object}",
        "one {style} image , a {object}",
        "{object} art in {style}",
        "the image of the {object} , {style} picture",
    ),
    text_object=("the {object}", "the image of one {object}"),
    text_style=("the {style} image",),
)
