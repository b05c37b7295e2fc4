"""The cells of a grid: every combination of its axes, as a request for an audit or an order of a sequence.

A cell's folder is named after what it is and by a digest of what it asks for beside the defaults, so a longer grid keeps the folders of a
shorter one.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige import models, runs
from vestige.audit import Request
from vestige.audit.tasks import plain_request
from vestige.continual import Order
from vestige.continual.tasks import order_told
from vestige.errors import VestigeError
from vestige.harness import suites

ALL = "all"  # of a suite's attacks


@dataclass(frozen=True)
class GridCell:
    """One audit or sequence.

    Arguments:
        asked: What it is.
        axes: Its place on every axis, as filters name it.
    """

    asked: Request | Order
    axes: Mapping[str, str]

    @property
    def kind(self) -> str:
        """Which of the two."""
        return "audit" if isinstance(self.asked, Request) else "sequence"

    @property
    def name(self) -> str:
        """Its folder's name."""
        plain = plain_request(self.asked) if isinstance(self.asked, Request) else order_told(self.asked)
        parts = [_short(self.axes[key]) for key in ("concept", "requests", "mode", "unlearner", "swept") if key in self.axes]
        words = "-".join([*parts, f"s{self.axes['seed']}", _short(self.axes["suite"])])
        return f"{words[-80:].lstrip('-_.')}-{runs.key({'kind': self.kind, 'asked': plain})[:8]}"

    @property
    def command(self) -> str:
        """How to run it alone."""
        return _audit_command(self.asked) if isinstance(self.asked, Request) else _sequence_command(self.asked)


def _short(part: str) -> str:
    """A place on an axis as part of a folder's name; files by their names alone."""
    return re.sub(r"[^\w.=+]+", "_", "+".join(Path(one).stem if one.endswith(".toml") else one for one in part.split("+")))


def _audit_command(asked: Request) -> str:
    plain = plain_request(asked)
    given = ["--model", asked.model, "--concept", asked.concept, "--suite", asked.suite]
    for name in sorted(plain.keys() - {"model", "concept", "suite", "attacks", "settings", "seeds", "original"}):
        given += [f"--{name.replace('_', '-')}", str(plain[name])]
    given += [word for name in asked.attacks for word in ("--attack", name)]
    given += ["--seeds", ",".join(map(str, asked.seeds))] if asked.seeds else []
    given += [] if asked.original else ["--no-original"]
    return shlex.join(["vestige", "audit", *given, *_set(asked.settings)])


def _sequence_command(asked: Order) -> str:
    plain = order_told(asked)
    given = ["--model", asked.model, "--requests", ",".join(asked.requests), "--method", asked.method]
    for name in sorted(plain.keys() - {"model", "requests", "method", "attacks", "settings", "guards", "withdrawn", "first_replicate"}):
        given += [f"--{name.replace('_', '-')}", str(plain[name])]
    given += [word for name in asked.attacks for word in ("--attack", name)]
    return shlex.join(["vestige", "continual", *given, *_set(asked.settings)])


def _set(settings: Mapping[str, Any]) -> list[str]:
    texts = {name: ",".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in settings.items()}
    return [word for name, text in texts.items() for word in ("--set", f"{name}={text}")]


def expanded(raw: Mapping[str, Any]) -> list[GridCell]:
    """Every cell of a grid whose file is in order, audits first, without those that its filters leave out."""
    axes, common = raw.get("axes", {}), dict(raw.get("common", {}))
    ways = [way for entry in raw.get("unlearners", ()) for way in _settled(entry)]
    swept = raw.get("attacks", {})
    cells = [*_audits(axes, ways, common, swept), *_sequences(axes, ways, raw.get("sequences", ()), swept)]
    only, without = raw.get("only", ()), raw.get("without", ())
    kept = [c for c in cells if (not only or any(matches(c, f) for f in only)) and not any(matches(c, f) for f in without)]
    return list({cell.name: cell for cell in kept}.values())


def matches(cell: GridCell, wanted: Mapping[str, Any]) -> bool:
    """Whether a cell lies where a filter says, on every axis that it names."""
    return all(cell.axes.get(axis) in [str(v) for v in (value if isinstance(value, list) else [value])] for axis, value in wanted.items())


def _settled(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """An unlearner's entry, once for every combination of settings that are lists."""
    settings = entry.get("settings", {})
    for chosen in itertools.product(*(value if isinstance(value, list) else [value] for value in settings.values())):
        yield {**entry, "settings": dict(zip(settings, chosen, strict=True))}


def _way(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What an unlearner is called on its axis, what it asks for, and its settings as requests have them."""
    method = entry.get("method", "none")
    settings = {f"{method}.{name}": value for name, value in entry.get("settings", {}).items()}
    told = entry.get("name") or ",".join([entry.get("edit", method), *(f"{n}={v}" for n, v in entry.get("settings", {}).items())])
    given = {key: entry[key] for key in ("edit", "preset", "alternative") if key in entry}
    return told, {**given, "unlearner": method}, settings


def _sweep(swept: Mapping[str, Mapping[str, Any]], attacks: Sequence[str]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Every combination of the attacks' settings that are lists: its place on the axis, {} without any, and all settings of theirs.

    Arguments:
        swept: Attack -> setting -> a value, or a list of them.
        attacks: Those that a cell runs.
    """
    own = {f"{name}.{key}": value for name, table in swept.items() if name in attacks for key, value in table.items()}
    varied = [key for key, value in own.items() if isinstance(value, list)]
    for chosen in itertools.product(*(value if isinstance(value, list) else [value] for value in own.values())):
        settings = dict(zip(own, chosen, strict=True))
        told = ",".join(f"{key}={_point(settings[key])}" for key in varied)
        yield ({"swept": told} if told else {}), settings


def _point(value: Any) -> str:
    return "|".join(map(str, value)) if isinstance(value, list) else str(value)


def _run_by(attack: str, suite: str, model: str) -> tuple[str, ...]:
    """The attacks of a point of the axis; none of a suite or a model that is not there, which whoever plans the cell says."""
    if attack != ALL:
        return tuple(attack.split("+"))
    try:
        return tuple(suites.load(suite, models.card(model).world).attacks)
    except (VestigeError, OSError):
        return ()


def _audits(
    axes: Mapping[str, Any], ways: Sequence[Mapping[str, Any]], common: Mapping[str, Any], swept: Mapping[str, Any]
) -> Iterator[GridCell]:
    own = {key: value for key, value in common.items() if key not in ("settings", "attacks")}
    own |= {"seeds": tuple(own["seeds"])} if "seeds" in own else {}
    everywhere, tests = axes.get("models", ["wardrobe"]), axes.get("suites", ["quick"])
    points = {at: list(_points(axes.get("attacks", [ALL]), *at, swept)) for at in itertools.product(everywhere, tests)}
    for model, concept, entry, suite in itertools.product(everywhere, axes.get("concepts", []), ways, tests):
        told, given, settings = _way(entry)
        for (attack, point, chosen), seed in itertools.product(points[model, suite], axes.get("seeds", [0])):
            asked = {"model": model, "concept": concept, "suite": suite, "edit_seed": seed}
            names = () if attack == ALL else tuple(attack.split("+"))
            every = {**common.get("settings", {}), **chosen, **settings}
            place = {"model": model, "concept": concept, "unlearner": told, "suite": suite, "attacks": attack, "seed": str(seed), **point}
            yield GridCell(Request(**{**own, **given, **asked, "attacks": names, "settings": every}), place)


def _points(
    attacks: Sequence[str], model: str, suite: str, swept: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Every point of the axis of attacks under every combination of its settings."""
    for attack in attacks:
        for point, settings in _sweep(swept, _run_by(attack, suite, model) if swept else ()):
            yield attack, point, settings


def _sequences(
    axes: Mapping[str, Any], ways: Sequence[Mapping[str, Any]], sequences: Sequence[Mapping[str, Any]], swept: Mapping[str, Any]
) -> Iterator[GridCell]:
    rows = (axes.get("models", ["wardrobe"]), sequences, ways, axes.get("suites", ["quick"]), axes.get("seeds", [0]))
    for model, entry, way, suite, seed in itertools.product(*rows):
        told, given, settings = _way(way)
        if given["unlearner"] == "none" or "edit" in given:
            continue
        own = {key: value for key, value in entry.items() if key not in ("modes", "requests", "attacks", "settings")}
        for mode, (point, chosen) in itertools.product(entry.get("modes", ["sequential"]), _sweep(swept, entry.get("attacks", ()))):
            place = {
                "model": model,
                "requests": "+".join(entry["requests"]),
                "unlearner": told,
                "suite": suite,
                "seed": str(seed),
                "mode": mode,
                **point,
            }
            order = Order(
                **own,
                model=model,
                requests=tuple(entry["requests"]),
                method=given["unlearner"],
                mode=mode,
                suite=suite,
                seed=seed,
                attacks=tuple(entry.get("attacks", ())),
                preset=given.get("preset", ""),
                settings={**entry.get("settings", {}), **chosen, **settings},
            )
            yield GridCell(order, place)
