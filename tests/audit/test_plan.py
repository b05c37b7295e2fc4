"""Plans: every mistake is found before anything is computed, and the spec says exactly what will run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vestige import models, registry
from vestige.audit import Request, flags, resolve
from vestige.audit.controls import Control
from vestige.data import PROXY
from vestige.errors import BadInput, BadSetting, UnknownName, VestigeError
from vestige.harness import settings, suites
from vestige.harness.settings import content
from vestige.methods import Budget
from vestige.models import Card, catalogue


@pytest.fixture(autouse=True)
def nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning loads no network and draws no picture."""

    def never(*arguments: Any, **named: Any) -> None:
        raise AssertionError("planning computed something")

    monkeypatch.setattr(models, "load", never)
    monkeypatch.setattr("vestige.diffusion.sampling.pictures", never)


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards of a model, two twins that never drew sneakers, one that never drew bags, and one of another recipe."""
    table = {
        "wardrobe": Card("wardrobe", world="wardrobe"),
        "first": Card("first", world="wardrobe", twin_of="wardrobe", never_drew=("sneaker",)),
        "second": Card("second", world="wardrobe", twin_of="wardrobe", never_drew=("sneaker",)),
        "bagless": Card("bagless", world="wardrobe", twin_of="wardrobe", never_drew=("bag",), about="never bag"),
        "other-first": Card("other-first", world="wardrobe", twin_of="other", never_drew=("sneaker",)),
    }
    monkeypatch.setattr(catalogue, "cards", lambda: table)


@pytest.mark.parametrize(("held_out", "count"), [(None, 1), (["one {concept}"], 1), (["one {concept}", "the {concept}"], 0)])
def test_a_single_held_out_prompt_is_told(held_out: list[str] | None, count: int, tmp_path: Path) -> None:
    """By a plan before anything is paid for, and by the audit as a flag; a concept file that names none has one."""
    file = tmp_path / "bag.toml"
    file.write_text('name = "bag"\n' + (f"held_out = {json.dumps(held_out)}\n" if held_out else ""))
    planned = resolve(Request(concept=str(file)))
    assert len([text for text in planned.remarks() if "bag has one held-out prompt, 'one bag'" in text]) == count
    stub: Any = SimpleNamespace(concept=planned.concept, plan=SimpleNamespace(banks=()), base=SimpleNamespace(unread=lambda texts: []))
    assert [flag.name for flag in flags._unread(stub, {})] == ["one-prompt"] * count


MISTAKES: list[tuple[dict[str, Any], type[VestigeError], str]] = [
    ({"model": "wardobe"}, UnknownName, "unknown model 'wardobe'; did you mean 'wardrobe'"),
    ({"concept": "sneeker"}, UnknownName, "unknown concept 'sneeker'; did you mean 'sneaker'"),
    ({"concept": "nowhere/mine.toml"}, BadInput, "no concept file at nowhere/mine.toml"),
    ({"suite": "quik"}, UnknownName, "unknown suite 'quik'; did you mean 'quick'"),
    ({"attacks": ("memoro",)}, UnknownName, "unknown attack 'memoro'; did you mean 'memora'"),
    ({"unlearner": "edd"}, UnknownName, "unknown unlearner 'edd'; did you mean 'esd'"),
    ({"unlearner": "esd", "settings": {"esd.step": "5"}}, UnknownName, "unknown setting of esd 'step'; did you mean 'steps'"),
    ({"unlearner": "esd", "settings": {"esd.steps": "five"}}, BadSetting, "esd.steps accepts int; given 'five'"),
    ({"unlearner": "esd", "settings": {"esd.variant": "y"}}, BadSetting, "esd.variant accepts"),
    ({"unlearner": "esd", "settings": {"esd.steps": "0"}}, BadSetting, "esd: steps is at least 1; given 0"),
    ({"settings": {"memora.start": "99"}}, BadSetting, "memora: start is a grid index within 0.."),
    ({"settings": {"rank": "8"}}, BadSetting, "a setting is METHOD.NAME=VALUE, e.g. memora.rank=8; given 'rank'"),
    ({"settings": {"memorra.rank": "8"}}, UnknownName, "unknown method in a setting 'memorra'; did you mean 'memora'"),
    ({"settings": {"esd.steps": "5"}}, UnknownName, "unknown method in a setting 'esd'"),
    ({"unlearner": "uce", "settings": {"esd.steps": "5"}}, UnknownName, "unknown method in a setting 'esd'"),
    ({"attacks": ("direct",), "settings": {"memora.rank": "8"}}, UnknownName, "unknown method in a setting 'memora'"),
    ({"unlearner": "esd", "edit": "some.safetensors"}, BadSetting, "give an unlearner or an edit, not both"),
    ({"edit": "nowhere.safetensors"}, BadInput, "there is nothing at nowhere.safetensors"),
    ({"references": "nowhere"}, BadInput, "there is nothing at nowhere"),
    ({"seeds": (0, 1, 1)}, BadSetting, "seeds are different whole numbers from 0 on; given [0, 1, 1]"),
    ({"seeds": (0, -1)}, BadSetting, "seeds are different whole numbers from 0 on"),
    (
        {"control": "twins"},
        BadSetting,
        "control is auto, twin, proxy, distilled:NUMBER, or one or more of twin:MODEL or of proxy:FILE.toml with commas between; given",
    ),
    ({"control": "twin:"}, BadSetting, "with commas between; given 'twin:'"),
    ({"control": "wardrobe-never-bag"}, BadSetting, "given 'wardrobe-never-bag', did you mean 'twin:wardrobe-never-bag'?"),
    ({"control": "proxy:digit"}, BadSetting, "given digit; --control proxy takes the built-in one"),
    ({"unlearner": "ESD"}, UnknownName, "unknown unlearner 'ESD'; did you mean 'esd'?"),
    ({"control": "twin:first,proxy:x.toml"}, BadSetting, "with commas between; given 'twin:first,proxy:x.toml'"),
    ({"control": "twin:first,twin"}, BadSetting, "with commas between; given 'twin:first,twin'"),
    ({"control": "twin:first,twin:first"}, BadSetting, "a control counts once; given first, first"),
    ({"concept": "dress", "control": "twin"}, BadSetting, "no twin of wardrobe never drew dress; use --control proxy"),
    (
        {"control": "twin:bagless"},
        BadSetting,
        "bagless drew sneaker (never bag); a twin is of the recipe of wardrobe and never drew sneaker: ",
    ),
    ({"control": "twin:first,twin:bagless"}, BadSetting, "give twin:first or twin:second"),
    ({"concept": "dress", "control": "twin:first"}, BadSetting, "none that ships fits; give a model of your own, --control proxy or"),
    (
        {"control": "twin:other-first"},
        BadSetting,
        "other-first is of the recipe of other; a twin is of the recipe of wardrobe and never drew",
    ),
    ({"preset": "relased"}, UnknownName, "did you mean 'released'"),
    ({"suite": "relearn", "settings": {"dimra.data": "folder"}}, BadSetting, "data=folder needs the folder: --attack-retain DIR"),
    ({"suite": "relearn", "attack_retain": "nowhere"}, BadInput, "there is nothing at nowhere"),
    ({"attack_retain": "nowhere"}, BadSetting, "none is among ['memora', 'direct']"),
    (
        {"suite": "relearn", "attack_retain": "x", "settings": {"dimra.data": "own"}},
        BadSetting,
        "--attack-retain x is read by attacks with",
    ),
]


@pytest.mark.parametrize(("wrong", "error", "message"), MISTAKES, ids=[message[:50] for *_, message in MISTAKES])
def test_mistake_is_found_and_named(family: None, wrong: dict[str, Any], error: type[VestigeError], message: str) -> None:
    with pytest.raises(error) as found:
        resolve(Request(**wrong)).spec()
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("esd", "lr", -1e-4),
        ("esd", "strength", -2.0),
        ("uce", "preserve", -1.0),
        ("memora", "lr", -1e-4),
        ("memora", "accumulation", 0),
        ("memora", "refine", -1),
        ("memora", "scope", "everywhere"),
    ],
)
def test_value_outside_a_settings_range_is_found(method: str, name: str, value: Any) -> None:
    """What the loop or the sampler would only find out later, or never."""
    unlearner = method if method in registry.names("unlearners") else "none"
    with pytest.raises(VestigeError, match=name):
        resolve(Request(unlearner=unlearner, settings={f"{method}.{name}": value}))


def test_every_shipped_suite_plans_for_every_unlearner() -> None:
    for suite in suites.names():
        for unlearner in (*registry.names("unlearners"), "none"):
            planned = resolve(Request(suite=suite, unlearner=unlearner))
            assert set(planned.attacks) == set(suites.load(suite, "wardrobe").attacks)
            assert planned.looks == planned.suite.looks
            assert planned.seeds == tuple(range(planned.looks[0] if planned.looks else planned.suite.replicates))
            assert (planned.unlearner is None) == (unlearner == "none")


def test_attacks_and_seeds_may_be_chosen() -> None:
    planned = resolve(Request(attacks=("direct",), seeds=(7, 3)))
    assert list(planned.attacks) == ["direct"]
    assert planned.seeds == (7, 3)


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer sets one more thing: the world steps, batch and rollouts; the preset batch and rollouts; the user rollouts."""
    table: Mapping[tuple[str, str, str], dict[str, Any]] = {
        ("wardrobe", "unlearners", "esd"): {"steps": 11, "batch": 11, "rollouts": 11},
        ("mine", "unlearners", "esd"): {"batch": 22, "rollouts": 22},
        ("mine", "attacks", "memora"): {"rank": 22, "lr": 0.22},
    }
    monkeypatch.setattr(settings, "_preset", lambda world, kind, method: table.get((world, kind, method), {}))


def test_the_users_own_settings_win_then_the_preset_then_the_world(presets: None) -> None:
    chosen = Request(unlearner="esd", preset="mine", settings={"esd.rollouts": "33", "memora.lr": "0.33"})
    planned = resolve(chosen)
    assert planned.unlearner is not None
    assert (planned.unlearner.steps, planned.unlearner.batch, planned.unlearner.rollouts) == (11, 22, 33)
    memora: Any = planned.attacks["memora"][0]
    assert (memora.rank, memora.lr) == (22, 0.33)
    suite_own = suites.load("quick", "wardrobe").attacks["memora"].settings
    assert memora.start == suite_own["start"]  # neither names it: the suite's value for the world stays
    plain: Any = resolve(replace(chosen, preset="", settings={})).attacks["memora"][0]
    assert plain.lr == suite_own["lr"]


def test_the_number_of_references_is_the_users_where_an_attack_takes_any() -> None:
    usual, few = (resolve(Request(suite="compare", reference_count=n)) for n in (0, 2))
    assert (usual.attacks["memora"][1].references, few.attacks["memora"][1].references) == (8, 2)
    assert few.attacks["dimra"][1].references == usual.attacks["dimra"][1].references == 0
    assert "reference_count" not in usual.spec() and few.spec()["reference_count"] == 2
    with pytest.raises(BadSetting, match="reference_count is at least 1"):
        resolve(Request(reference_count=-1))


def test_an_attack_with_settings_of_ones_own_is_not_as_it_was_measured() -> None:
    usual, few, other = (
        resolve(Request(attacks=("memora",), reference_count=n, settings=own)) for n, own in ((0, {}), (4, {}), (0, {"memora.rank": 2}))
    )
    assert [planned.as_suited("memora") for planned in (usual, few, other)] == [True, False, False]


def test_settings_may_come_as_text_or_as_values() -> None:
    one, other = (
        resolve(Request(unlearner="esd", settings={"esd.lr": lr, "memora.regenerate": r})) for lr, r in (("2e-4", "no"), (2e-4, False))
    )
    assert one.spec() == other.spec()


@pytest.mark.parametrize(("concept", "variant"), [("sneaker", "u"), ("neon", "x")])
def test_spec_holds_what_auto_means(monkeypatch: pytest.MonkeyPatch, concept: str, variant: str) -> None:
    monkeypatch.setattr(settings, "_preset", lambda world, kind, method: {})
    spec = resolve(Request(concept=concept, unlearner="esd")).spec()
    assert spec["unlearner"]["settings"]["variant"] == variant


@pytest.mark.parametrize("unlearner", registry.names("unlearners"))
@pytest.mark.parametrize("concept", ["sneaker", "neon"])
def test_spec_leaves_nothing_on_auto(unlearner: str, concept: str) -> None:
    spec = resolve(Request(concept=concept, unlearner=unlearner)).spec()
    assert "auto" not in [*spec["unlearner"]["settings"].values(), *spec["control"]]
    assert all("auto" not in attack["settings"].values() for attack in spec["attacks"].values())


@pytest.mark.parametrize("unlearner", [*registry.names("unlearners"), "none"])
def test_spec_is_json_and_stable(unlearner: str) -> None:
    request = Request(unlearner=unlearner, settings={"memora.rank": "8", "memora.lr": "1e-3"})
    spec = resolve(request).spec()
    assert json.loads(json.dumps(spec)) == spec
    swapped = replace(request, settings=dict(reversed(list(request.settings.items()))))
    assert json.dumps(resolve(swapped).spec()) == json.dumps(spec)
    assert json.dumps(resolve(request).spec()) == json.dumps(spec)


@pytest.mark.parametrize(
    "change",
    [
        {"concept": "bag"},
        {"unlearner": "uce"},
        {"suite": "smoke"},
        {"seeds": (0, 1)},
        {"edit_seed": 1},
        {"references": "generated"},
        {"control": "proxy"},
        {"attacks": ("direct",)},
        {"settings": {"memora.rank": 8}},
        {"preset": "released"},
        {"model": "second"},
    ],
    ids=str,
)
def test_every_change_of_a_request_is_another_spec(family: None, change: dict[str, Any]) -> None:
    assert resolve(Request(**change)).spec() != resolve(Request()).spec()


def test_spec_holds_the_content_of_files_and_their_names_only_on_the_side(tmp_path: Path) -> None:
    one, copy = tmp_path / "one.safetensors", tmp_path / "copy.safetensors"
    one.write_bytes(b"edit")
    copy.write_bytes(b"edit")
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(b"a picture")
    specs = [resolve(Request(edit=str(path), references=str(tmp_path))).spec() for path in (one, copy)]
    names = [spec.pop("volatile")["edit"] for spec in specs]
    assert names == [str(one), str(copy)]
    assert specs[0] == specs[1]
    copy.write_bytes(b"other")
    changed = resolve(Request(edit=str(copy), references=str(tmp_path))).spec()
    assert changed["edit"] != specs[0]["edit"]
    assert changed["references"] != specs[0]["references"]


def test_spec_of_an_audit_names_retained_pictures_where_an_attack_reads_them(tmp_path: Path) -> None:
    """And only there: other audits' specs stay what they were."""
    (tmp_path / "a.png").write_bytes(b"1")
    asked: list[dict[str, Any]] = [{}, {"suite": "relearn"}, {"suite": "relearn", "attack_retain": str(tmp_path)}]
    specs = [resolve(Request(**request)).spec() for request in asked]
    assert "attack_retain" not in specs[0]
    assert specs[1]["attack_retain"] == "shipped"
    assert specs[2]["attack_retain"] == content(tmp_path)


def test_pictures_that_an_attack_draws_itself_are_planned() -> None:
    drawn, given = (
        resolve(Request(suite="relearn", seeds=(0, 1), settings={"dimra.data": data})).planned_calls()["attacks"]
        for data in ("own", "retain")
    )
    assert drawn - given == 12 * 96 * 20 * 2  # arms (three models, two replicates, two ways), pictures, steps, guidance
    few, many = (resolve(Request(suite="adaptive", settings={"conditions.draws": draws})).planned_calls()["attacks"] for draws in (1, 2))
    assert many == 2 * few > 0


def test_content_follows_names_and_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a").write_bytes(b"1")
    (folder / "b").write_bytes(b"2")
    first = content(folder)
    assert content(folder.rename(tmp_path / "moved")) == first
    (tmp_path / "moved/b").rename(tmp_path / "moved/c")
    second = content(tmp_path / "moved")
    assert second != first
    (tmp_path / "moved/c").write_bytes(b"3")
    assert content(tmp_path / "moved") not in (first, second)


def test_control_is_the_twin(family: None) -> None:
    planned = resolve(Request(concept="bag"))
    assert planned.control == Control("twin", ("bagless",))
    assert planned.original == "wardrobe"


def test_control_of_a_twin_is_another_twin(family: None) -> None:
    for model, other in (("first", "second"), ("second", "first")):
        planned = resolve(Request(model=model))
        assert planned.control == Control("twin", (other,))
        assert planned.original == "wardrobe"


def test_every_twin_is_a_control(family: None) -> None:
    planned = resolve(Request(control="twin"))
    assert planned.control == Control("twin", ("first", "second")) and planned.control.told == "first and second"
    one = resolve(Request(control="twin:second"))
    assert planned.planned_calls()["scoring"] == pytest.approx(one.planned_calls()["scoring"] * 1.5, rel=0.1)


def test_one_control_and_several_in_a_spec() -> None:
    several, one = (resolve(Request(control=asked)).spec()["control"] for asked in ("auto", "twin:wardrobe-never-sneaker"))
    assert one == ["twin", "wardrobe-never-sneaker"]
    assert several[0] == "twin" and set(several[1]) >= {"wardrobe-never-sneaker", "wardrobe-never-sneaker-2"}


@pytest.mark.parametrize(
    "twin", ["wardrobe", "wardrobe-half-sneaker", "wardrobe-never-bag", "wardrobe-never-neon", "wardrobe-flow-never-sneaker"]
)
def test_a_shipped_model_that_drew_the_concept_is_no_twin(twin: str) -> None:
    """Nor one of another recipe; those that are twins are named."""
    with pytest.raises(BadSetting) as found:
        resolve(Request(model="wardrobe-never-five", control=f"twin:wardrobe-never-sneaker,twin:{twin}"))
    told, others = str(found.value).split("never drew sneaker: ")
    assert told.startswith(twin) and others == "give twin:wardrobe-never-sneaker or twin:wardrobe-never-sneaker-2"


def test_a_concept_of_a_users_own_is_what_the_judges_call_it(tmp_path: Path) -> None:
    """And of what no shipped model was asked for, or of a model of the user's own, nothing is known."""
    for label, twin, refused in (("sneaker", "never-bag", True), ("sneaker", "never-sneaker", False), ("zebra", "never-bag", False)):
        (tmp_path / "mine.toml").write_text(f'name = "mine"\nlabel = "{label}"\ngroup = "object"\n')
        asked = Request(concept=str(tmp_path / "mine.toml"), control=f"twin:wardrobe-{twin}")
        if refused:
            with pytest.raises(BadSetting, match="wardrobe-never-bag drew sneaker"):
                resolve(asked)
        else:
            assert resolve(asked).control.names == (f"wardrobe-{twin}",)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(BadSetting, match="wardrobe-half-sneaker drew sneaker"):
        resolve(Request(model=str(tmp_path), control="twin:wardrobe-half-sneaker"))
    assert resolve(Request(control=f"twin:{tmp_path}")).control.kind == "twin"
    assert resolve(Request(concept="digit", control="twin:wardrobe-never-bag")).control.kind == "twin"  # which no denoiser drew


def test_control_of_the_only_twin_is_a_proxy(family: None) -> None:
    planned = resolve(Request(model="bagless", concept="bag"))
    assert planned.control == Control("proxy", (PROXY["object"],))
    assert planned.original == "wardrobe"


@pytest.mark.parametrize(("concept", "proxy"), [("dress", "digit"), ("neon", "halftone")])
def test_control_is_a_proxy_where_no_twin_is(family: None, concept: str, proxy: str) -> None:
    assert resolve(Request(concept=concept)).control == Control("proxy", (proxy,))
    assert resolve(Request(concept="sneaker", control="proxy")).control == Control("proxy", ("digit",))


def test_model_of_another_world_has_no_control(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(BadSetting, match="neither a twin that never drew sneaker nor a proxy concept"):
        resolve(Request(model=str(tmp_path)))


def test_a_concept_of_the_users_own_finds_its_twin_by_name(family: None, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "sneaker"\ntarget = "shoe"')
    assert resolve(Request(concept=str(path))).control.kind == "twin"
    path.write_text('name = "hat"')
    assert resolve(Request(concept=str(path))).control == Control("proxy", ("digit",))


@pytest.mark.parametrize("suite", suites.names())
def test_planned_calls_are_positive_and_grow_with_the_seeds(suite: str) -> None:
    totals = []
    for n in (2, 3, 6):
        calls = resolve(Request(suite=suite, unlearner="esd", seeds=tuple(range(n)))).planned_calls()
        assert all(v > 0 and isinstance(v, int) for v in calls.values())
        totals.append(calls)
    for part in ("scoring", "attacks"):
        assert totals[0][part] < totals[1][part] < totals[2][part]
    assert totals[0]["unlearning"] == totals[2]["unlearning"]
    assert totals[0]["utility"] == totals[2]["utility"]


@pytest.mark.parametrize("name", registry.names("attacks"))
def test_an_attack_that_a_suite_does_not_list_runs_as_at_home(name: str) -> None:
    """With rates that suit the world, and over its own budget: the defaults are made for networks a hundred times as large."""
    quick = suites.load("quick", "wardrobe")
    homes = [suites.load(home, "wardrobe") for home in suites._homes()]
    (home,) = ({**suite.attacks, **suite.lent}[name] for suite in homes if name in {**suite.attacks, **suite.lent})
    several = registry.find("attacks", name).brings == "several"
    asked = resolve(Request(suite="quick", concept="sneaker,bag" if several else "sneaker", attacks=(name,), unlearner="uce"))
    method, planned = asked.attacks[name]
    assert planned == home == quick.planned(name, "wardrobe")
    assert {k: v for k, v in registry.settings(method).items() if k in home.settings} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in home.settings.items()
    }
    assert set(home.settings) or name in ("direct", "inpainting", "interpolate", "partial_diffusion", "perturb", "restore")
    assert suites.load("smoke", "wardrobe").planned(name, "wardrobe").budget.last <= 6


def test_planned_calls_grow_with_the_suite() -> None:
    fixed = {suite: tuple(range(suites.load(suite).replicates)) for suite in suites.names()}
    sums = [sum(resolve(Request(suite=suite, seeds=seeds)).planned_calls().values()) for suite, seeds in fixed.items()]
    assert sums == sorted(sums)
    assert "unlearning" not in resolve(Request()).planned_calls()


@pytest.mark.parametrize("points", [(), (1, 2), (0, 2, 2), (0, 3, 1)])
def test_a_budget_rises_from_zero(points: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a budget rises from 0 without repeats"):
        Budget(points)
