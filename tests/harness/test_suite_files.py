"""Suites of a user's own: every mistake at once, the same content the same suite, families by their files, templates that load."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest

from oracles import tiny_flow, tiny_model, tiny_xl
from vestige import models, registry
from vestige.audit import Request, resolve
from vestige.continual import Order
from vestige.continual import resolve as resolve_sequence
from vestige.errors import BadInput, BadSetting, UnknownName
from vestige.harness import families, suites
from vestige.harness.suite_template import suite_template
from vestige.models.lineage import lineage

SUITE = """\
version = "mine-1"
about = "Ours."
pictures = 4
select_pictures = 2
utility_pictures = 4
replicates = 2
plasticity = false
strip = 2

[protocol]
steps = 3
guidance = 3.0

[attacks.memora]
budget = [0, 2, 4]
references = 2

[attacks.memora.settings]
lr = 2e-3
"""


def written(place: Path, text: str = SUITE, name: str = "mine.toml") -> str:
    (place / name).write_text(text)
    return str(place / name)


def test_a_file_is_a_suite_and_its_content_is_what_it_is(tmp_path: Path) -> None:
    file = written(tmp_path)
    found = suites.load(file)
    assert found.attacks["memora"].budget.points == (0, 2, 4)
    assert found.attacks["memora"].settings == {"lr": 2e-3}
    same = suites.load(written(tmp_path, f"# ours\n\n{SUITE}", "elsewhere.toml"))
    other = suites.load(written(tmp_path, SUITE.replace("pictures = 4", "pictures = 5", 1), "other.toml"))
    assert found.version == same.version == f"mine-1@{found.digest[:12]}"
    assert other.version != found.version
    assert found.told == {"suite_file": {"name": "mine.toml", "digest": found.digest}}
    assert suites.load("quick").told == {}


def test_earlier_versions_are_run_by_their_names_as_they_were() -> None:
    for name, looks in (("quick-5", (3, 5, 8, 12)), ("standard-5", (3, 5, 8, 12))):
        found, now = suites.load(name, "wardrobe"), suites.load(name.partition("-")[0], "wardrobe")
        assert (found.version, found.protocol.steps, found.looks, found.sparing) == (name, 10, looks, False)
        assert (now.protocol.steps, now.sparing) == (6, True)
        assert found.attacks == now.attacks  # how an attack is run is the same, and so is what it trains
        assert name not in suites.names()
    assert resolve(Request(suite="quick-5")).spec()["suite"] == "quick-5"


def test_audits_and_sequences_hold_its_content_and_not_its_place(tmp_path: Path) -> None:
    here, there = written(tmp_path), written(tmp_path, f"# moved\n{SUITE}", "moved.toml")
    specs = [resolve(Request(suite=file)).spec() for file in (here, there)]
    assert [spec.pop("volatile")["suite"] for spec in specs] == [here, there]
    assert specs[0] == specs[1]
    assert specs[0]["suite"].startswith("mine-1@")
    assert specs[0]["attacks"]["memora"]["settings"]["lr"] == 2e-3
    assert "suite" not in resolve(Request()).spec()["volatile"]
    chosen = resolve_sequence(Order(requests=("bag",), suite=here, attacks=("memora",)))
    assert chosen.spec()["suite"] == specs[0]["suite"]
    assert chosen.planned_calls()["memora"] > 0


def test_every_mistake_is_told_in_one_line(tmp_path: Path) -> None:
    wrong = (
        SUITE.replace("pictures = 4\n", "picturs = 4\n", 1)
        .replace("[0, 2, 4]", "[0, 4, 2]")
        .replace("lr = 2e-3", 'learning_rate = 1\nrank = "x"')
    )
    wrong = wrong.replace("plasticity = false", 'plasticity = "no"').replace("steps = 3\n", "stepps = 0\n")
    wrong += '\n[attacks.memorra]\nbudget = [0]\n\n[lent.finetune]\nbudget = "all"\n'
    with pytest.raises(BadInput) as error:
        suites.load(written(tmp_path, wrong))
    told = str(error.value)
    assert "\n" not in told
    for mistake in (
        "unknown key picturs, did you mean pictures?",
        "pictures is missing",
        "plasticity is true or false; given 'no'",
        "unknown key protocol.stepps, did you mean steps?",
        "protocol lacks steps",
        "attacks.memora.budget rises from 0 without repeats; given [0, 4, 2]",
        "attacks.memora.settings: unknown setting 'learning_rate', did you mean lr?",
        "attacks.memora.settings: memora.rank accepts int; given 'x'",
        "unknown attack 'memorra' in attacks, did you mean memora?",
        "lent.finetune.budget is a list of whole numbers",
        "lent.finetune.references is missing",
    ):
        assert mistake in told, told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lr = 2e-3", "start = 60"), "start is a grid index"),
        (("[attacks.memora]", "[attacks]\ndirect = 5\n\n[attacks.memora]"), "a table an attack"),
        (('version = "mine-1"', 'version = ""'), "version is a text on one line"),
        (("strip = 2", 'strip = 2\npositives = ["esd"]'), "positives is a list of remap, uce, negation"),
        (("[protocol]", "[protocol"), "not valid TOML"),
    ],
)
def test_mistakes(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        suites.load(written(tmp_path, SUITE.replace(*change)))


def test_what_is_no_suite_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no suite file at .*list suites --template"):
        suites.load(str(tmp_path / "none.toml"))
    with pytest.raises(BadSetting, match="which is TOML"):
        suites.load(written(tmp_path, SUITE, "mine.yaml"))
    with pytest.raises(UnknownName, match="did you mean 'quick'"):
        suites.load("quik")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A pipeline folder of each kind: tiny networks with random weights."""
    root, made = tmp_path_factory.mktemp("families"), {}
    for name, model in (("sd1", tiny_model()), ("sdxl", tiny_xl()), ("flux", tiny_flow("dev")), ("sd3", tiny_flow("sd3"))):
        model.pipeline().save_pretrained(root / name)
        made[name] = str(root / name)
    return made


def test_families_are_told_by_configurations(folders: dict[str, str], tmp_path: Path) -> None:
    assert {name: lineage(models.card(folder)) for name, folder in folders.items()} == {name: name for name in folders}
    assert lineage(models.Card("somewhere", family="classes")) == "classes"
    assert lineage(models.card("wardrobe")) == lineage(models.card("wardrobe-flow")) == ""
    second = tmp_path / "sd2"
    second.mkdir()
    for part in ("unet", "scheduler"):
        (second / part).mkdir()
    (second / "model_index.json").write_text((Path(folders["sd1"]) / "model_index.json").read_text())
    (second / "unet/config.json").write_text(json.dumps({"cross_attention_dim": 1024}))
    assert lineage(models.card(str(second))) == "sd2"
    (second / "unet/config.json").write_text(json.dumps({"cross_attention_dim": 768}))
    assert lineage(models.card(str(second))) == "sd1"
    (second / "scheduler/scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    assert lineage(models.card(str(second))) == "sd2"


def test_drawing_is_what_diffusers_does_unless_told_otherwise() -> None:
    for name, own in families._table().items():
        call = inspect.signature(getattr(diffusers, own.pipeline).__call__).parameters
        assert (own.steps, own.guidance) == (call["num_inference_steps"].default, call["guidance_scale"].default), name


def test_memora_on_stable_diffusion_1_is_as_it_was_and_never_the_garments() -> None:
    """Written out and equal to its defaults, so arms stored before are found; every family's are settings that it takes."""
    made = {name: registry.build("attacks", "memora", own.attacks["memora"]["settings"]) for name, own in families._table().items()}
    assert made["sd1"] == made["sd2"] == registry.build("attacks", "memora")
    garments = suites.load("quick", "wardrobe").attacks["memora"].settings["lr"]
    assert all(one.lr == 1e-4 != garments for one in made.values())
    assert all(own.attacks["memora"]["budget"][-1] == 500 for own in families._table().values())


def test_a_plan_says_whose_settings_hold(folders: dict[str, str], tmp_path: Path) -> None:
    own = {"model": folders["sdxl"], "concept": concept(tmp_path), "control": f"twin:{folders['sd1']}", "references": pictures(tmp_path)}
    planned = resolve(Request(**own, attacks=("memora",)))
    assert planned.attacks["memora"][0].guidance == planned.attacks["memora"][0].render_guidance == 5.0
    drawn, attacked, advice, prompt = planned.remarks()
    assert "has one held-out prompt" in prompt
    assert "is read as SDXL, usually drawn in 50 steps at guidance 5, 1024 pixels (diffusers' defaults); quick-" in drawn
    assert "by the settings that are usual for SDXL (ours: as for Stable Diffusion 1.4" in attacked
    assert "for up to 80 steps; usual are up to 500" in attacked
    assert f"vestige list suites --template FILE.toml --model {folders['sdxl']}" in advice
    changed = resolve(Request(**own, attacks=("memora", "finetune"), settings={"memora.lr": "1e-3"}))
    assert "memora runs with lr 0.001 for 0.0001 of what is usual" in changed.remarks()[1]
    assert "finetune runs by its own defaults" in changed.remarks()[2]
    assert resolve(Request()).remarks() == []


def concept(place: Path) -> str:
    (place / "looks.py").write_text("def church(x): return x.mean((1, 2, 3))\n")
    (place / "church.toml").write_text('name = "church"\ndetector = "looks.py:church"\n')
    return str(place / "church.toml")


def pictures(place: Path) -> str:
    import torch

    from vestige.concepts import images

    images.save(torch.rand(8, 3, 8, 8), place / "references")
    return str(place / "references")


def test_too_few_references_are_told_before_anything_is_computed(folders: dict[str, str], tmp_path: Path) -> None:
    """By counting files: an unlearner's minutes are not spent first."""
    own = {"model": folders["sdxl"], "concept": concept(tmp_path), "control": f"twin:{folders['sd1']}", "unlearner": "esd"}
    few = pictures(tmp_path)
    for file in sorted(Path(few).glob("*.png"))[6:]:
        file.unlink()
    with pytest.raises(BadInput, match=r"holds 6 pictures; memora takes 8 a replicate: .*--reference-count"):
        resolve(Request(**own, references=few))
    assert resolve(Request(**own, references=few, reference_count=6))


def test_slips_are_met_with_what_was_meant() -> None:
    with pytest.raises(UnknownName, match="unknown setting of memora 'learning_rate'; did you mean 'lr'"):
        registry.build("attacks", "memora", {"learning_rate": 1e-3})
    with pytest.raises(UnknownName, match="nor is there a folder or a file at my-twin"):
        models.card("my-twin")


@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux", "sd3"])
def test_templates_load_and_say_where_their_values_are_from(name: str, folders: dict[str, str], tmp_path: Path) -> None:
    text = suite_template(models.card(folders[name]))
    found = suites.load(written(tmp_path, text))
    usual: Any = families._table()[name]
    assert (found.protocol.steps, found.protocol.guidance) == (usual.steps, usual.guidance)
    assert dict(found.attacks["memora"].settings) == usual.attacks["memora"]["settings"]
    assert found.attacks["memora"].budget.last == 500
    assert usual.source in text
    assert usual.attacks["memora"]["source"] in text


def test_the_embedded_worlds_template_is_quick(tmp_path: Path) -> None:
    found, quick = suites.load(written(tmp_path, suite_template(models.card("wardrobe")))), suites.load("quick", "wardrobe")
    assert (found.attacks, found.protocol, found.positives) == (quick.attacks, quick.protocol, quick.positives)
    assert (found.pictures, found.select_pictures, found.replicates) == (quick.pictures, quick.select_pictures, quick.replicates)
