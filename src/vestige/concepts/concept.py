"""Concept: what must go, what may appear instead, what must stay, its prompts, and the label that a judge knows it by.

Built-in concepts are data, a user's own is a TOML file of the same fields; `loading` reads both. Templates hold
`{concept}` and may hold `{context}`: the style of an object, the object of a style.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vestige.errors import BadInput

Bank = Literal["training", "held-out", "indirect"]


KINDS = ("object", "style", "person", "unsafe")
_OTHERS = (".yaml", ".yml", ".json", ".txt", ".csv", ".ini", ".cfg", ".md")  # endings of files that no concept is
RATES = ("sensitivity", "specificity", "measured")  # how often the detector is right, as somebody measured
_SEEN = ("detector", "labels", "threshold", "selector", "selector_labels", "selector_threshold", "pictures")
LOOKS = (*_SEEN, *RATES, "captions", "fidelity")
ASKED = ("indirect", "prompt_files")  # no method and no attack sees them; the runs that ask hold the prompts themselves


@dataclass(frozen=True)
class Prompt:
    """A prompt and what a picture of it should show: judge's group -> label."""

    text: str
    expects: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A concept and its surroundings.

    Arguments:
        name: How users call it.
        kind: "object", "style", "person" or "unsafe"; methods choose "auto" settings by it.
        target: The words that name it in prompts.
        label: What the judge calls it.
        group: The judge's group of labels that it belongs to.
        anchor: The words of what may appear instead; "" is the empty prompt.
        neighbours: Concepts of the same group that lie near; they must stay (in-domain).
        unrelated: Other concepts that must stay (cross-domain).
        contexts: What fills `{context}`; labels of `context_group`.
        templates: Prompts for methods and attacks.
        held_out: Paraphrases that only the audit uses.
        indirect: Prompts that do not name it and may show it all the same; asked after every step of a sequence, and by audits.
        synonyms: Other words for it, which stand in the held-out prompts where an audit asks again.
        prompt_files: Lists of prompts that an audit asks, each a bank of its own: FILE.csv, FILE.csv:COLUMN or FILE.txt, as
            `concepts.prompts` reads them. In a concept file they are called `prompts`.
        sensitive: Pictures are blurred in every report, and the originals lie apart.
        source: Where the prompts come from.
        detector: Who looks for it: "nudenet", "nudenet:bgr", "open-nsfw", "hf:FOLDER" (an image classifier), "clip:FOLDER", or a
            function, "MODULE:NAME" or "FILE.py:NAME"; "" is the world's judges. Folders and files are found from the concept file.
        labels: What the detector calls it, any of which counts; () is `label`.
        threshold: Score from which a picture shows it; 0 is the detector's own.
        selector: A second detector, another network, by which attacks choose; "" lets the first choose too, and a flag says so.
        selector_labels: What that one calls it; () is `label`.
        selector_threshold: Likewise.
        pictures: Folder of real pictures of it: an attacker's references unless told otherwise, and what a proxy control is taught.
        sensitivity, specificity: Share of pictures with it in which the detector sees it, and of those without it in which it does not,
            as somebody measured; 0 is not measured.
        measured: On what, in words; needed where either is told.
        fidelity: Who measures what an edit costs the rest where the detector cannot tell what else a picture shows: "clip:FOLDER" by
            CLIP scores; "hf:FOLDER", "inception:FILE" or a world's judge ("wardrobe") by KID; "" nobody.
        captions: A list of captions for that, as `prompt_files`; "" takes the words that must stay.
    """

    name: str
    kind: Literal["object", "style", "person", "unsafe"] = "object"
    target: str = ""
    label: str = ""
    group: str = "object"
    anchor: str = ""
    neighbours: tuple[str, ...] = ()
    unrelated: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    context_group: str = ""
    templates: tuple[str, ...] = ("a picture of a {concept}",)
    held_out: tuple[str, ...] = ("one {concept}",)
    indirect: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    prompt_files: tuple[str, ...] = ()
    sensitive: bool = False
    source: str = ""
    detector: str = ""
    labels: tuple[str, ...] = ()
    threshold: float = 0.0
    selector: str = ""
    selector_labels: tuple[str, ...] = ()
    selector_threshold: float = 0.0
    pictures: str = ""
    sensitivity: float = 0.0
    specificity: float = 0.0
    measured: str = ""
    fidelity: str = ""
    captions: str = ""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            kind = {"bool": bool, "float": float}.get(str(f.type), tuple if str(f.type).startswith("tuple") else str)
            if kind is float and type(value) is int:  # TOML's 1 is a number like its 1.0
                value = float(value)
                object.__setattr__(self, f.name, value)
            listed = value if isinstance(value, tuple) else ()
            if not isinstance(value, kind) or not all(isinstance(v, str) for v in listed):
                wants = {bool: "true or false", tuple: "a list of texts", str: "a text", float: "a number such as 0.45"}[kind]
                raise BadInput(f"{f.name} should be {wants}; concept {self.name!r} gives {value!r}")
        if not self.name or not self.templates or not self.held_out:
            raise BadInput(f"a concept needs a name, templates and held_out; {self.name!r} lacks one")
        if self.kind not in KINDS:
            raise BadInput(f"kind of concept {self.name!r} is one of {', '.join(KINDS)}; given {self.kind!r}")
        for field in ("target", "label"):
            if not getattr(self, field):
                object.__setattr__(self, field, self.name)
        called = {word.lower() for word in (self.name, self.target, *self.synonyms)}
        for field in ("neighbours", "unrelated"):
            if own := called & {word.lower() for word in getattr(self, field)}:
                raise BadInput(f"{self.name} is to go, and {own.pop()!r} stands among its own {field}, which must stay; take it out there")
        self._check_detectors()
        self._check_templates()

    def _check_templates(self) -> None:
        for template in (*self.templates, *self.held_out, *self.indirect):
            try:
                plain = template.format(concept="", context="")
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                raise BadInput(f"template {template!r} of {self.name}: use {{concept}} and {{context}} only ({error})") from error
            if template in self.indirect:
                if "{concept}" in template or self.named(plain):
                    raise BadInput(f"indirect prompt {template!r} of {self.name} names it; say what may show it without its name")
            elif "{concept}" not in template:
                raise BadInput(f"template {template!r} of {self.name} does not name the {{concept}}")
            if "{context}" in template and not self.contexts:
                raise BadInput(f"template {template!r} of {self.name} needs contexts, and none are given")

    def _check_detectors(self) -> None:
        for threshold in (self.threshold, self.selector_threshold):
            if not 0 <= threshold < 1:
                raise BadInput(f"a threshold of {self.name} lies between 0 and 1; given {threshold}")
        for told_rate in ("sensitivity", "specificity"):
            if not 0 <= (rate := getattr(self, told_rate)) <= 1:
                raise BadInput(f"{told_rate} of {self.name}'s detector is a share of pictures, from 0 to 1; given {rate}")
        if bool(self.measured) != bool(self.sensitivity or self.specificity):
            raise BadInput(
                f"{self.name} states error rates of its detector with `measured`, which says on what, and neither without the other"
            )
        if self.captions and not self.fidelity:
            raise BadInput(f"captions of {self.name} are for who measures fidelity, and nobody is named")
        told = {"detector": ("labels", "threshold", "selector", "measured"), "selector": ("selector_labels", "selector_threshold")}
        for needed, fields in told.items():
            for field in fields:
                if getattr(self, field) and not getattr(self, needed):
                    raise BadInput(f"{field} of {self.name} is told to a {needed}, and none is named")

    @property
    def prompt(self) -> str:
        """The plain prompt: the first training template without a context, or the first of all."""
        plain = [t for t in self.templates if "{context}" not in t]
        return (plain or list(self.templates))[0].format(concept=self.target, context=self.contexts[0] if self.contexts else "")

    def named(self, text: str) -> bool:
        """Whether a text holds the words that name it."""
        words = "|".join(re.escape(word) for word in (self.target, *self.synonyms))
        return re.search(rf"\b(?:{words})\b", text, re.IGNORECASE) is not None

    def prompts(self, bank: Bank = "training", word: str | None = None) -> list[Prompt]:
        """Every prompt of a bank for the target (or for another word of its group), contexts in turn within each template."""
        word = self.target if word is None else word
        label = self.label if word == self.target else word
        asked = {} if bank == "indirect" else {self.group: label}
        made = []
        for template in {"training": self.templates, "held-out": self.held_out, "indirect": self.indirect}[bank]:
            for context in self.contexts if "{context}" in template else ("",):
                expects = asked | ({self.context_group: context} if context and self.context_group else {})
                made.append(Prompt(template.format(concept=word, context=context), expects))
        return made

    def told(self) -> list[str]:
        """Every prompt of every bank, those of its anchor, its neighbours and unrelated concepts too, each once."""
        words = [None, *(word for word in (self.anchor, *self.neighbours, *self.unrelated) if word)]
        banks: tuple[Bank, ...] = ("training", "held-out")
        named = [prompt.text for bank in banks for word in words for prompt in self.prompts(bank, word)]
        other = [prompt.text for word in self.synonyms for prompt in self.prompts("held-out", word)]
        return list(dict.fromkeys([*named, *(prompt.text for prompt in self.prompts("indirect")), *other]))

    def plain(self) -> list[str]:
        """Training prompts without a context; all of them where each has one."""
        bare = [t.format(concept=self.target) for t in self.templates if "{context}" not in t]
        return bare or [p.text for p in self.prompts("training")]

    def spread(self, count: int, bank: Bank, words: tuple[str, ...] | None = None, offset: int = 0) -> list[Prompt]:
        """`count` prompts spread evenly over words, templates and contexts; `offset` starts elsewhere in the same order."""
        lists = [self.prompts(bank, word) for word in (words if words is not None else (self.target,))]
        if not lists:
            return []
        # Words in turn, each round one prompt further for every word; the stride, coprime to the length, mixes templates and contexts.
        made = []
        for i in range(offset, offset + count):
            turn, word = divmod(i, len(lists))
            made.append(lists[word][(turn + word) * _coprime(len(lists[word])) % len(lists[word])])
        return made

    def others(self, word: str | None) -> list[str]:
        """Training prompts with the target replaced by `word`, in the order of `prompts("training")`; None gives the empty prompt."""
        if not word:
            return [""] * len(self.prompts("training"))
        return [p.text for p in self.prompts("training", word)]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for specs. Who looks for it is no part of what it is: specs name the judges, pictures and prompts that were used."""
        away = (*LOOKS, *ASKED, *(() if self.synonyms else ("synonyms",)))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items() if k not in away}


def _coprime(length: int) -> int:
    import math

    return next(s for s in itertools.count(max(1, round(length * 0.382))) if math.gcd(s, length) == 1)
