"""The class-conditional models that ship: loaded whole, named with their twins, told of garments only, and audited end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from oracles import scheduler as tiny_scheduler
from oracles import small, tiny_classes, tiny_denoiser, tiny_model, tiny_parts
from vestige import api, concepts, data, models, registry
from vestige.audit import Request, resolve
from vestige.audit.controls import Control
from vestige.cli import app
from vestige.concepts.images import PictureSet
from vestige.data import PROXY
from vestige.diffusion.sampling import Drawing, pictures
from vestige.errors import BadInput, Incompatible
from vestige.harness import settings
from vestige.harness.settings import configured, told
from vestige.methods import Data
from vestige.metrics import classifier
from vestige.models import Card
from vestige.models.classes import ClassModel
from vestige.seeds import derive

NAMES = sorted(name for name, found in models.cards().items() if found.family == "classes")
ORIGINAL = "wardrobe-classes"
GARMENTS = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
BAG, NEON = concepts.load("bag"), concepts.load("neon")
LABEL = "unet.class_embedding.weight"
PRESETS = data.toml((data.folder() / "presets.toml").read_text("utf-8"))[ORIGINAL]["unlearners"]


@pytest.fixture(scope="module")
def original() -> ClassModel:
    return load(ORIGINAL)


def load(name: str) -> ClassModel:
    model = models.load(name)
    assert isinstance(model, ClassModel)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_of_the_file_is_the_models_and_no_other(name: str, original: ClassModel) -> None:
    from safetensors.torch import load_file

    model, found = load(name), models.card(name)
    stored = {f"unet.{k}": v for k, v in load_file(found.parts["unet"] / "diffusion_pytorch_model.safetensors").items()}
    assert set(stored) == set(model.scope("unet"))
    assert all(torch.equal(model.tensor(n), v.float()) for n, v in stored.items())
    assert all(v.isfinite().all() for v in stored.values())
    assert not any(p.requires_grad for part in model.parts.values() for p in part.parameters())
    assert (model.fingerprint == original.fingerprint) == (name == ORIGINAL)
    shared = [n for n in model._names() if n.startswith("vae.")]
    assert shared
    wardrobe = models.load("wardrobe")
    assert all(torch.equal(model.tensor(n), wardrobe.tensor(n)) for n in shared)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_the_garments_the_proxy_and_nothing(name: str) -> None:
    model = load(name)
    words = [*GARMENTS, PROXY["object"], ""]
    assert model.condition(words).text.argmax(-1).flatten().tolist() == list(range(12))
    assert (model.rows, model.labels.null) == (12, 11)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_classes_are_on_the_card(name: str) -> None:
    found = models.card(name)
    assert found.groups == ("object",)
    assert f"{ORIGINAL}/class_labels.json" in found.hashes
    assert f"{name}/unet/diffusion_pytorch_model.safetensors" in found.hashes


@pytest.mark.parametrize("concept", ["bag", "sneaker"])
def test_twins_are_those_of_the_family(concept: str) -> None:
    assert models.twins(ORIGINAL, concept) == [f"{ORIGINAL}-never-{concept}"]
    assert not set(models.twins("wardrobe", concept)) & set(NAMES)
    assert resolve(Request(model=ORIGINAL, concept=concept, suite="smoke")).control == Control("twin", (f"{ORIGINAL}-never-{concept}",))
    assert resolve(Request(model=f"{ORIGINAL}-never-{concept}", concept=concept, suite="smoke")).original == ORIGINAL


def test_the_original_draws_bags_and_the_twin_none(original: ClassModel) -> None:
    judge = classifier.load(data.folder() / "wardrobe/judge-select")

    def drawn(model: ClassModel, word: str) -> float:
        made = pictures(model, [word] * 12, [derive(3, word, i) for i in range(12)], Drawing(steps=10))
        return float((judge.shows(made, word) >= judge.threshold(word)).float().mean())

    twin = load(f"{ORIGINAL}-never-bag")
    assert [drawn(original, word) >= 0.75 for word in ("bag", "top", "boot")] == [True] * 3
    assert drawn(twin, "bag") <= 0.25
    assert drawn(twin, "boot") >= 0.75


def test_nothing_is_expected_of_a_style_that_is_not_told() -> None:
    """The prompts stay as they are; what a picture of each should show is the garment alone."""
    one, plain = (
        resolve(Request(model=ORIGINAL, concept="bag", suite="smoke")).concept,
        resolve(Request(concept="bag", suite="smoke")).concept,
    )
    assert plain == BAG
    for bank in ("training", "held-out"):
        asked, given = one.prompts(bank), BAG.prompts(bank)
        assert [p.text for p in asked] == [p.text for p in given]
        assert {json.dumps(p.expects) for p in asked} == {json.dumps({"object": "bag"})}
        assert any("style" in p.expects for p in given)
    spread = one.spread(24, "held-out", words=one.neighbours)
    assert {p.expects["object"] for p in spread} == set(one.neighbours)
    assert all(len(p.expects) == 1 for p in spread)


@pytest.mark.parametrize("name", ["neon", "blueprint"])
def test_a_style_is_refused(name: str) -> None:
    message = f"{name} is a concept of the group 'style', which {ORIGINAL} is never told; it is told of object"
    with pytest.raises(BadInput, match=message):
        resolve(Request(model=ORIGINAL, concept=name, suite="smoke"))
    with pytest.raises(BadInput, match=message):
        api.unlearn(load(ORIGINAL), name, method="dimum")
    done = CliRunner().invoke(app, ["audit", "--model", ORIGINAL, "--concept", name, "--suite", "smoke"])
    assert done.exit_code != 0


def test_a_model_that_is_told_of_all_is_given_the_concept_as_it_is() -> None:
    assert told(NEON, models.card("wardrobe")) is NEON
    assert told(BAG, Card("both", groups=("object", "style"))) is BAG
    assert told(NEON, Card("styles", groups=("style",))).context_group == ""


@pytest.mark.parametrize("method", sorted(PRESETS))
def test_presets_of_the_class_model_hold_for_it_and_its_twins_alone(method: str, tmp_path: Path) -> None:
    def resolved(model: str) -> Any:
        return configured("unlearners", method, "wardrobe", "", {}, model=model)

    own = registry.settings(resolved(ORIGINAL))
    assert all(own[key] == value for key, value in PRESETS[method].items())
    assert all(resolved(name) == resolved(ORIGINAL) for name in NAMES)
    other = registry.build("unlearners", method, settings._preset("wardrobe", "unlearners", method))
    assert resolved("wardrobe") == resolved("wardrobe-never-bag") == resolved(str(tmp_path)) == other
    assert resolve(Request(model=ORIGINAL, concept="bag", suite="smoke", unlearner=method)).unlearner == resolved(ORIGINAL).resolved(BAG)


def test_methods_without_a_preset_of_the_models_own_take_the_worlds() -> None:
    assert "concept_ablation" not in PRESETS
    kind, name = "unlearners", "concept_ablation"
    assert configured(kind, name, "wardrobe", "", {}, model=ORIGINAL) == configured(kind, name, "wardrobe", "", {})


def test_a_folder_named_like_a_preset_takes_nothing_from_it() -> None:
    assert configured("attacks", "memora", "", "", {}, model="released") == registry.build("attacks", "memora", {})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that the audits share."""
    return tmp_path_factory.mktemp("runs")


def test_audit_completes_on_the_command_line(tmp_path: Path, cache: Path) -> None:
    """Unlearned by DiMUM, attacked by DiMRA, against the twin."""
    tiny = ["dimum.steps=2", "dimum.batch=2", "dimum.retain_pictures=8", "dimum.alternative_pictures=4", "dimra.retain_pictures=16"]
    command = ["audit", "--model", ORIGINAL, "--concept", "sneaker", "--unlearner", "dimum", "--suite", "smoke", "--attack", "dimra"]
    command += ["--seeds", "0", *(word for item in (*tiny, "dimra.batch=2") for word in ("--set", item))]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "audit"), "--cache", str(cache), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "audit/result.json").read_text())
    assert result["model"] == ORIGINAL
    twin = f"{ORIGINAL}-never-sneaker"
    assert result["control"] == {"kind": "twin", "name": twin, "names": [twin]}
    found = result["attacks"]["dimra"]
    assert [len(found["arms"][arm]["curve"]) for arm in ("edited", "never", "original")] == [3, 3, 3]
    assert found["notes"]["edited"]["pictures"] > 0
    assert found["notes"]["edited"]["naming_target"] == 0
    assert result["edit"]["method"] == "dimum"
    assert result["edit"]["changed_tensors"] > 0
    assert result["plain"]["original"]["value"] > result["plain"]["never"]["value"]
    assert result["utility"]["unrelated"]["before"]["value"] > 0.5  # no style is expected; each would be drawn one time in eight
    assert (tmp_path / "audit/report.html").is_file()


def test_audit_completes_from_python(tmp_path: Path, cache: Path) -> None:
    """As the model is, attacked by MemoRa: what was never unlearned shows as the original does."""
    tiny = {"sampling_steps": 3, "start": 1, "points": 2, "batch": 2, "rank": 2, "regenerate": False}
    asked: dict[str, Any] = {"model": ORIGINAL, "concept": "sneaker", "suite": "smoke", "attacks": ("memora",), "seeds": (0, 1)}
    result = api.run_audit(tmp_path / "audit", cache=cache, **asked, settings={f"memora.{key}": value for key, value in tiny.items()})
    assert result["plain"]["edited"] == result["plain"]["original"]
    assert result["verdict"]["kind"] in ("not forgotten", "inconclusive")


def given() -> Data:
    """Retained pictures of two classes; the alternatives are drawn in two steps."""
    kept = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Data(retain=PictureSet(kept, "random", captions=(("a boot",), ("a coat",)) * 2), protocol=Drawing(steps=2))


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_dimum_may_leave_the_class_embeddings_frozen(kind: str) -> None:
    """The ablation that a claim needs: what hides in the forgotten class's row alone, no attacker on retained data moves."""
    model = tiny_classes(kind)
    tables = model.scope("class-embedding")
    whole, frozen = (small("unlearners", "dimum", scope=s)(model, BAG, seed=0, data=given()) for s in ("unet", "without-class-embedding"))
    assert set(frozen.touched) == set(whole.touched) - set(tables)
    assert frozen.scope == "without-class-embedding"
    view = model.edited(frozen)
    assert all(torch.equal(view.tensor(n), model.tensor(n)) for n in tables)
    assert any(not torch.equal(view.tensor(n), model.tensor(n)) for n in frozen.touched)
    for name in tables:
        moved = (whole.tensors[name] != model.tensor(name)).any(1).nonzero().flatten().tolist()
        assert 8 in moved
        assert set(moved) <= {4, 8, 9, 10}  # coat, bag, boot, and the null class by dropout


@pytest.mark.parametrize("method", ["dimum", "gradient_ascent", "salun", "erasediff", "selective_amnesia"])
def test_methods_with_a_scope_leave_the_class_embeddings_frozen(method: str) -> None:
    model = tiny_classes()
    edit = small("unlearners", method, scope="without-class-embedding")(model, BAG, seed=0, data=given())
    assert LABEL not in edit.touched
    assert torch.equal(model.edited(edit).tensor(LABEL), model.tensor(LABEL))


@pytest.fixture(scope="module")
def dit_pipeline() -> Any:
    from diffusers import DiTPipeline

    parts = {"transformer": tiny_denoiser("dit"), "vae": tiny_parts()["vae"]}
    return DiTPipeline(**parts, scheduler=tiny_scheduler(), id2label=dict(enumerate(GARMENTS)))


def test_a_class_pipeline_in_a_class_pipeline_out(dit_pipeline: Any) -> None:
    settings = {"steps": 2, "batch": 2, "retain_pictures": 4, "alternative_pictures": 2, "lr": 1e-2}
    before = {n: p.clone() for n, p in dit_pipeline.transformer.named_parameters()}
    made = api.unlearn(dit_pipeline, BAG, method="dimum", **settings)
    assert type(made) is type(dit_pipeline)
    assert made.get_label_ids(["bag", "top"]) == [8, 0]
    assert all(torch.equal(p, before[n]) for n, p in dit_pipeline.transformer.named_parameters())
    edit = api.unlearn(ClassModel.from_pipeline(dit_pipeline), BAG, method="dimum", **settings)
    assert ClassModel.from_pipeline(made).fingerprint == ClassModel.from_pipeline(dit_pipeline).edited(edit).fingerprint
    assert ClassModel.from_pipeline(made).fingerprint != ClassModel.from_pipeline(dit_pipeline).fingerprint


def test_a_pipeline_that_does_not_name_its_classes_says_what_to_do() -> None:
    from diffusers import DDIMPipeline

    pipe = DDIMPipeline(tiny_denoiser(channels=3), tiny_scheduler())
    with pytest.raises(Incompatible, match=r"DDIMPipeline has no text encoder and does not name its classes; name them"):
        api.unlearn(pipe, BAG, method="dimum")
    model = ClassModel.from_pipeline(pipe, classes=GARMENTS)
    edit = api.unlearn(model, BAG, method="dimum", steps=2, batch=2, retain_pictures=4, alternative_pictures=2)
    made = edit.to_pipeline(pipe)
    assert ClassModel.from_pipeline(made, classes=GARMENTS).fingerprint == model.edited(edit).fingerprint


def test_a_text_pipeline_is_still_one() -> None:
    pipe = tiny_model().pipeline()
    made = api.unlearn(pipe, BAG, method="uce")
    assert type(made) is type(pipe)
    assert models.from_pipeline(pipe).fingerprint == tiny_model().fingerprint
    with pytest.raises(Incompatible, match=r"Stable Diffusion's layout is supported"):
        api.unlearn(object(), BAG)
