"""What can go wrong, each with what was given, what is acceptable and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shortened(text: str, most: int = 80) -> str:
    """A user's words as an error quotes them, on one line and not too long."""
    return repr(text if len(text) <= most else f"{text[: most - 4]} ...")


class VestigeError(Exception):
    """Every error that a user's input can cause; the command line prints its message without a traceback."""


class UnknownName(VestigeError):
    """A name that no component, concept, model or suite carries; `brief` leaves out those that are known where one of them is meant.

    So does the message where there are more than `MANY`. Capitals make no difference to what is meant.
    """

    MANY = 30

    def __init__(self, kind: str, given: str, known: Iterable[str], meant: str = "", more: str = "") -> None:
        names = sorted(known)
        plain = {name.lower(): name for name in names}
        close = [meant] if meant in names else [plain[c] for c in difflib.get_close_matches(given.lower(), plain, n=1, cutoff=0.5)]
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        whole = f"unknown {kind} {given!r}{hint} known: {', '.join(names) or 'none'}{more}"
        self.brief = f"unknown {kind} {given!r}{hint}" if close else whole
        many = bool(close) and len(names) > self.MANY
        super().__init__(f"{self.brief} `vestige list` names all{more}" if many else whole)


class BadSetting(VestigeError):
    """A setting that a component does not have, or a value that it does not accept."""


class BadInput(VestigeError):
    """A file, folder or picture that cannot be used."""


class Incompatible(VestigeError):
    """Two things that do not belong together: an edit and another base, an attack and a model without what it needs."""


class HalfPrecision(Incompatible):
    """Training in float16: gradients below 6e-8 are zero there, above 65504 infinite, and Adam's 1e-8 is zero too."""

    def __init__(self, who: str) -> None:
        super().__init__(
            f"{who} cannot train in float16, where small gradients are zero and large ones infinite; use bfloat16, which takes the same "
            "memory (--dtype bfloat16), or float32; float16 is for drawing, and for methods that train nothing (uce, remap)"
        )


class Diverged(VestigeError, FloatingPointError):
    """A loss that is no longer a number."""


class MissingDependency(VestigeError):
    """An optional package that a feature needs."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f'{feature} needs {package}, which is not installed; pip install "vestige[{extra}]"')


class RunConflict(VestigeError):
    """A run directory that is locked, or that holds another spec."""
