"""Components by name, settings from text: what is accepted, what is refused and with which words."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest

import vestige
from vestige.errors import BadSetting, UnknownName, VestigeError
from vestige.methods import Attack, Unlearner
from vestige.registry import Kind, build, coerce, find, names, settings

OWN: list[tuple[Kind, str]] = [
    (kind, path.stem) for kind in ("unlearners", "attacks") for path in sorted((Path(vestige.__file__).parent / kind).glob("[!_]*.py"))
]
AUTO = float | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What another package might offer."""

    size: float | Literal["auto"] = "auto"
    words: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.size != "auto" and self.size < 0:
            raise ValueError("size is at least 0")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with two unlearners, one of them under a name of ours."""

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        offered = {"vestige.unlearners": ["borrowed", "esd"]}.get(group, [])
        return [metadata.EntryPoint(name, f"{__name__}:Foreign", group) for name in offered]

    monkeypatch.setattr(metadata, "entry_points", entry_points)


@pytest.mark.parametrize(
    ("given", "hint", "expected"),
    [
        ("3", int, 3),
        (3, int, 3),
        (3.0, int, 3),
        ("-2", int, -2),
        ("1e-5", float, 1e-5),
        (2, float, 2.0),
        ("text", str, "text"),
        ("true", bool, True),
        ("No", bool, False),
        ("1", bool, True),
        (0, bool, False),
        (False, bool, False),
        ("tail", Literal["word", "tail"], "tail"),
        ("2", Literal[1, 2], 2),
        (1, Literal[1, 2], 1),
        ("none", Optional[int], None),  # noqa: UP045
        (None, Optional[int], None),  # noqa: UP045
        ("7", Optional[int], 7),  # noqa: UP045
        ("None", int | None, None),
        ("auto", AUTO, "auto"),
        ("0.25", AUTO, 0.25),
        (1, AUTO, 1.0),
        ("auto", Union[float, Literal["auto"]], "auto"),  # noqa: UP007
        ("4", int | float, 4),
        ("4.5", int | float, 4.5),
        ("1,2,3", tuple[int, ...], (1, 2, 3)),
        ([1, 2], tuple[int, ...], (1, 2)),
        ("0.9,0.99", tuple[float, float], (0.9, 0.99)),
        ("a,b,", tuple[str, ...], ("a", "b")),
        ("", tuple[str, ...], ()),
    ],
)
def test_values_become_what_the_hint_says(given: Any, hint: Any, expected: Any) -> None:
    made = coerce(given, hint, "method.setting")
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("given", "hint", "accepted"),
    [
        ("three", int, "int"),
        ("3.5", int, "int"),
        (3.5, int, "int"),
        (True, int, "int"),
        (None, int, "int"),
        (math.inf, int, "int"),
        (math.nan, int, "int"),
        ("much", float, "float"),
        (False, float, "float"),
        ([1.0], float, "float"),
        ("perhaps", bool, "bool"),
        (2, bool, "bool"),
        ("head", Literal["word", "tail"], "'word', 'tail'"),
        ("x", Optional[int], "int"),  # noqa: UP045
        ("", Optional[int], "int"),  # noqa: UP045
        ("automatic", AUTO, "'auto'"),
        ("automatic", AUTO, "float"),
        ("1,two", tuple[int, ...], "int"),
        (5, tuple[int, ...], "int"),
        (None, tuple[int, ...], "int"),
        ("0.9", tuple[float, float], "float"),
        ("0.9,0.99,0.999", tuple[float, float], "float"),
    ],
)
def test_other_values_are_refused_with_what_is_accepted(given: Any, hint: Any, accepted: str) -> None:
    with pytest.raises(BadSetting, match=r"method\.setting accepts") as error:
        coerce(given, hint, "method.setting")
    assert accepted in str(error.value)
    assert "given" in str(error.value)


def test_the_folder_is_the_listing() -> None:
    for kind in ("unlearners", "attacks"):
        assert names(kind) == [name for k, name in OWN if k == kind]


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_every_component_is_found_and_final(kind: Kind, name: str) -> None:
    made: Any = find(kind, name)
    assert issubclass(made, Unlearner if kind == "unlearners" else Attack)
    assert made.__name__.lower() == name.replace("_", "")
    assert made.__module__ == f"vestige.{kind}.{name}"
    assert getattr(made, "__final__", False)
    assert made.__dataclass_params__.frozen
    assert all(f.kw_only for f in fields(made))


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_settings_survive_json(kind: Kind, name: str) -> None:
    made = build(kind, name)
    spec = json.loads(json.dumps(settings(made)))
    assert set(spec) == {f.name for f in fields(made)}
    assert build(kind, name, spec) == made


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_settings_survive_the_command_line(kind: Kind, name: str) -> None:
    made = build(kind, name)
    text = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in settings(made).items()}
    assert build(kind, name, text) == made


@pytest.mark.parametrize(
    ("kind", "given", "suggested"), [("unlearners", "uec", "uce"), ("attacks", "memorra", "memora"), ("attacks", "Direct", "direct")]
)
def test_close_component_is_suggested(kind: Kind, given: str, suggested: str) -> None:
    with pytest.raises(UnknownName, match=rf"unknown {kind[:-1]} '{given}'; did you mean '{suggested}'\? known: "):
        find(kind, given)


@pytest.mark.parametrize("name", ["", "zzzzzz", "_private", "__init__", "attacks", "a/b", "../attacks/direct"])
def test_nonsense_names_are_unknown(name: str) -> None:
    with pytest.raises(UnknownName, match=r"known: .*esd"):
        find("unlearners", name)


def test_unknown_setting_suggests_the_close_name() -> None:
    with pytest.raises(UnknownName, match="unknown setting of memora 'ranks'; did you mean 'rank'"):
        build("attacks", "memora", {"ranks": 8})


def test_value_that_a_method_refuses_is_a_bad_setting() -> None:
    with pytest.raises(BadSetting, match=r"memora: start is a grid index within 0\.\.50; given 60"):
        build("attacks", "memora", {"start": "60"})
    with pytest.raises(BadSetting, match="uce: ridge is above 0"):
        build("unlearners", "uce", {"ridge": 0})


def test_entry_points_are_listed_after_ours(foreign: None) -> None:
    own = [name for kind, name in OWN if kind == "unlearners"]
    assert names("unlearners") == [*own, "borrowed"]
    assert "borrowed" not in names("attacks")


def test_entry_point_builds_like_a_component_of_ours(foreign: None) -> None:
    assert find("unlearners", "borrowed") is Foreign
    made = build("unlearners", "borrowed", {"size": "2", "words": "a,b", "limit": "none"})
    assert made == Foreign(size=2.0, words=("a", "b"))
    assert build("unlearners", "borrowed", json.loads(json.dumps(settings(made)))) == made
    assert settings(made) == {"size": 2.0, "words": ["a", "b"], "limit": None}
    with pytest.raises(BadSetting, match="borrowed: size is at least 0"):
        build("unlearners", "borrowed", {"size": -1})


def test_our_own_component_wins_over_an_entry_point_of_its_name(foreign: None) -> None:
    assert find("unlearners", "esd").__module__ == "vestige.unlearners.esd"
    assert names("unlearners").count("esd") == 1


def test_entry_points_are_suggested(foreign: None) -> None:
    with pytest.raises(UnknownName, match="did you mean 'borrowed'"):
        find("unlearners", "borowed")


def test_errors_are_all_of_one_kind() -> None:
    """The command line prints these without a traceback."""
    assert issubclass(UnknownName, VestigeError)
    assert issubclass(BadSetting, VestigeError)
