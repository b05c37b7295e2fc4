"""Names of classes, and which class a prompt names."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from vestige import files
from vestige.errors import BadInput

FILE = "class_labels.json"
SHOWN = 12  # names in an error


@final
@dataclass(frozen=True)
class Labels:
    """The classes of a class-conditional model.

    A prompt names a class if it holds one of its names as whole words, whatever the case ("a picture of a sneaker"); where names
    overlap, the longest counts ("white shark", not "shark"). Every class is also called "class" and its number. The empty
    prompt is the null class.

    Arguments:
        names: Class -> its names.
        null: The class of the empty prompt.
    """

    names: Mapping[int, tuple[str, ...]]
    null: int

    def find(self, prompt: str, model: str) -> int:
        """The one class that a prompt names; an error, which names the model, if there is none or more than one."""
        if not prompt.strip():
            return self.null
        given, found, at = _words(prompt), [], 0
        while at < len(given):
            spans = (given[at : at + length] for length in range(self._longest, 0, -1))
            span = next((s for s in spans if s in self._table), None)
            if span is not None:
                found.append(span)
            at += len(span or (1,))
        fits = set.intersection(*(self._table[s] for s in found)) if found else set()
        if len(fits) == 1:
            return next(iter(fits))
        if not found:
            raise BadInput(f"{prompt!r} names no class of {model}{self._close(given)} {self._known()}")
        said = " and ".join(dict.fromkeys(repr(" ".join(s)) for s in found))
        which = ", ".join(f"class {i}" for i in sorted(set.union(*(self._table[s] for s in found))))
        raise BadInput(f"{prompt!r} names {said}, that is {which} of {model}; a class-conditional model draws one class a prompt")

    @cached_property
    def _table(self) -> dict[tuple[str, ...], set[int]]:
        """The words of a name -> the classes that it may mean."""
        table: dict[tuple[str, ...], set[int]] = {}
        for label, names in self.names.items():
            for name in (*names, f"class {label}"):
                table.setdefault(_words(name), set()).add(label)
        return table

    @cached_property
    def _longest(self) -> int:
        return max(len(words) for words in self._table)

    def _close(self, given: tuple[str, ...]) -> str:
        names = [name.lower() for own in self.names.values() for name in own]
        close = [match for word in (" ".join(given), *given) for match in difflib.get_close_matches(word, names, n=1, cutoff=0.6)]
        return f"; did you mean {close[0]!r}?" if close else ";"

    def _known(self) -> str:
        first = [names[0] for names in self.names.values()]
        more = f", ... ({len(first)} in all)" if len(first) > SHOWN else ""
        return f"known: {', '.join(first[:SHOWN])}{more}"

    def check(self, rows: int, model: str) -> None:
        """Refuse classes that do not fit a denoiser with this many class embeddings."""
        wrong = [i for i in (*self.names, self.null) if not 0 <= i < rows]
        if wrong:
            raise BadInput(f"{model} has {rows} class embeddings; class {wrong[0]} is to lie within 0..{rows - 1}")
        nameless = [i for i, own in self.names.items() if not own]
        if nameless or not self.names:
            raise BadInput(f"{f'class {nameless[0]}' if nameless else 'every class'} of {model} lacks a name; give it one in {FILE}")
        if self.null in self.names:
            raise BadInput(
                f"{model} has no embedding left for the empty prompt: class {self.null} is {self.names[self.null][0]!r}; "
                "guidance and unlearning need a null class"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `class_labels.json`."""
        return {"classes": {str(i): ", ".join(names) for i, names in self.names.items()}, "null": self.null}


def named(names: Mapping[int, str], null: int) -> Labels:
    """Labels from one text a class, synonyms parted by commas."""
    return Labels({i: tuple(n.strip() for n in text.split(",") if _words(n)) for i, text in sorted(names.items())}, null)


def read(folder: Path, rows: int, model: str) -> Labels:
    """The classes in a folder's `class_labels.json`, else in the `id2label` of its `model_index.json`.

    Arguments:
        rows: Class embeddings that the denoiser has; the last one is the null class unless the file says which.
    """
    own, index = folder / FILE, folder / "model_index.json"
    file = own if own.is_file() else index
    try:
        data = json.loads(file.read_text(files.UTF8))
        table = data["classes"] if file == own else data["id2label"]
        pairs = table.items() if isinstance(table, dict) else enumerate(table)
        return named({int(i): _name(text) for i, text in pairs}, int(data.get("null", rows - 1)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f'{model} needs the names of its classes: write {own}, e.g. {{"classes": ["cat", "dog"], "null": 2}}') from error


def _name(given: Any) -> str:
    """A class's name, a text or a whole number; no other value becomes one."""
    if type(given) not in (str, int):
        raise TypeError(f"a class is called {given!r}")
    return str(given)


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", text.lower()))
