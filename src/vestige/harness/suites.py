"""Suites: fixed, versioned protocols of an audit, as data (`data/suites/NAME.toml`).

A suite fixes the sampler, the numbers of pictures, the attacks with their settings and budgets. Changing anything that moves
a number raises its version. Any other attack runs under it as at home: by the settings, budget and references of the suite that lists or
lends it. A suite of a user's own is a file, `suite_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vestige import data, registry
from vestige.diffusion.sampling import Drawing
from vestige.errors import BadSetting, UnknownName
from vestige.harness import suite_files
from vestige.methods import Budget

TUPLES = ("others", "positives", "looks")


@dataclass(frozen=True)
class Planned:
    """One attack of a suite: its settings, its budget and how many references a replicate gets."""

    settings: Mapping[str, Any]
    budget: Budget
    references: int


@dataclass(frozen=True)
class Suite:
    """A protocol.

    Arguments:
        version: Changes whenever a number could.
        about: What it is for, in a sentence.
        pictures: Pictures a score, scored by the verification judge on held-out prompts.
        select_pictures: Pictures by which the selection judge picks the best candidate so far; 0 keeps the latest.
        utility_pictures: Pictures each for neighbours and unrelated concepts.
        replicates: Default number of attack replicates.
        plasticity: Whether the edited model is taught a new concept, to see that it can still learn.
        strip: Pictures shown in the report.
        others: Budget of attacks that it does not list; (): their own.
        lent: How attacks that it does not run by itself are run where they are asked for.
        positives: Positive controls, by the names of `harness.positives`.
        sparing: Whether what decides nothing is left out: the inner points of the original's arms, and replicates of a way of attacking
            that is clearly worse (`harness.ways`).
        looks: Numbers of replicates at which an audit looks whether they decide, and stops; (): `replicates`, and once.
        file: Of a user's own suite, where it lies, and `digest`, the hash of all that it says, of which `version` has the first digits.
        known: How never-models differ under its attacks, measured beforehand: the form of one version in `data/calibration.toml`.
    """

    version: str
    about: str
    protocol: Drawing
    pictures: int
    select_pictures: int
    utility_pictures: int
    replicates: int
    plasticity: bool
    strip: int
    attacks: Mapping[str, Planned] = field(default_factory=dict)
    others: tuple[int, ...] = ()
    lent: Mapping[str, Planned] = field(default_factory=dict)
    positives: tuple[str, ...] = ()
    looks: tuple[int, ...] = ()
    sparing: bool = False
    file: str = ""
    digest: str = ""
    known: Mapping[str, Any] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, Any]:
        """What results say of a user's own suite beside its version; {} for one that ships."""
        return {"suite_file": {"name": Path(self.file).name, "digest": self.digest}} if self.file else {}

    def planned(self, attack: str, world: str = "") -> Planned:
        """How it runs an attack; one that it does not list as the suite does where that is at home, else by its own first one's budget."""
        if attack in self.attacks:
            return self.attacks[attack]
        first = next(iter(self.attacks.values()))
        needs = registry.find("attacks", attack).needs
        homes = ({**suite.lent, **suite.attacks} for suite in (load(name, world) for name in _homes()))
        found = next((home[attack] for home in homes if attack in home), Planned({}, first.budget, first.references if needs else 0))
        if not self.others:
            return found
        return replace(found, budget=Budget(self.others), references=min(found.references, first.references))


def names() -> list[str]:
    """Every suite, cheapest first."""
    return sorted((file.stem for file in (data.folder() / "suites").glob("*.toml")), key=lambda name: int(_raw(name)["place"]))


def earlier() -> list[str]:
    """Versions before the present ones, which are run by their own names as they always were."""
    return sorted(file.stem for file in (data.folder() / "suites/earlier").glob("*.toml"))


def _homes() -> list[str]:
    """Suites that between them list or lend every attack."""
    return sorted((name for name in names() if "home" in _raw(name)), key=lambda name: int(_raw(name)["home"]))


def _raw(name: str) -> dict[str, Any]:
    return data.shipped_table(f"suites/{name}")


def load(name: str, world: str = "") -> Suite:
    """A suite with its settings for a world; without one, the attacks' own defaults hold.

    Arguments:
        name: One that ships, an earlier version of one (`quick-5`), or FILE.toml, a user's own, whose settings hold for any model.
    """
    if suite_files.is_file(name):
        raw = suite_files.read(Path(name))
        digest = suite_files.content_of(raw)
        own = _made({**raw, "version": f"{raw['version']}@{digest[: suite_files.DIGITS]}"}, world)
        return replace(own, file=name, digest=digest)
    if name in earlier():
        return _made(data.shipped_table(f"suites/earlier/{name}"), world)
    if name not in names():
        if Path(name).is_file():
            raise BadSetting(f"{name} is no suite file, which is TOML, NAME.toml; `vestige list suites --template NAME.toml` writes one")
        if Path(name).is_dir():
            raise BadSetting(f"{name} is a folder; a suite is a name or a file, NAME.toml")
        raise UnknownName("suite", name, names())
    return _made(_raw(name), world)


def _made(raw: Mapping[str, Any], world: str) -> Suite:
    attacks, lent = (
        {
            attack: Planned(
                {**plan.get("settings", {}), **plan.get("worlds", {}).get(world, {})},
                Budget(tuple(plan["budget"])),
                plan.get("references", 0),
            )
            for attack, plan in raw.get(part, {}).items()
        }
        for part in ("attacks", "lent")
    )
    rest = {k: v for k, v in raw.items() if k not in ("protocol", "attacks", "lent", *TUPLES, "place", "home")}
    told: dict[str, Any] = {key: tuple(raw.get(key, ())) for key in TUPLES}
    return Suite(**rest, **told, protocol=Drawing(**raw["protocol"]), attacks=attacks, lent=lent)
