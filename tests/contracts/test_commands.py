"""Every command with every method on every family of models, from its arguments to its exit: it works, or one line says who lacks what."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command import answered
from hurry import sketches
from oracles import SMALL, tiny_classes, tiny_flow, tiny_model, tiny_xl
from vestige import models, registry
from vestige.concepts import images
from vestige.harness import suites
from vestige.models.classes import ClassModel
from vestige.seeds import generator

__all__ = ["sketches"]  # a fixture that holds here too
SLOW = pytest.mark.slow
KEPT = 12  # pictures of the rest: the judge, which tosses a coin for each, has to leave some
# A family's models by seed: two seeds differ in their denoisers alone, as a model and its twin do.
MADE: dict[str, Callable[[int], Any]] = {
    "latent": tiny_model,
    "classes": lambda seed: tiny_classes("unet", seed),
    "flow": lambda seed: tiny_flow("dev", seed),
    "xl": tiny_xl,
    "dit": lambda seed: tiny_classes("dit", seed),
    "pixels": lambda seed: tiny_classes(pixels=True, seed=seed),
    "sd3": lambda seed: tiny_flow("sd3", seed),
}
OTHERS = ("classes", "flow")
FIRST = [pytest.param(name, marks=SLOW) for name in MADE]  # every attack in one audit takes a minute


def shared(names: Sequence[str]) -> list[Any]:
    """Every method on every family; on the first, and on one of two others in turn, with the quick tests."""
    quick = {(home, name) for i, name in enumerate(names) for home in ("latent", OTHERS[i % len(OTHERS)])}
    return [pytest.param(home, name, marks=() if (home, name) in quick else SLOW) for home in MADE for name in names]


UNLEARNERS, ATTACKS = registry.names("unlearners"), registry.names("attacks")
SEVERAL = [name for name in ATTACKS if registry.find("attacks", name).brings == "several"]

# (method, family) -> what it says where it does not work; everything else works. A new method is expected to.
NO_CROSS = "model has no U-Net with cross-attention; .*, choose another method"
ONCE = ("retrain",)  # it hands out a model that is there already, and the second step would be that model again
LACKS: dict[tuple[str, str], str] = {("restore", name): "restore takes parts of an edit off again, and there is none" for name in MADE}
for told_classes in ("classes", "dit", "pixels"):
    LACKS |= {(name, told_classes): NO_CROSS for name in ("concept_ablation", "duge", "forget_me_not", "uce")}
    LACKS |= {
        (name, told_classes): "model reads no tokens; a model that"
        for name in ("mma", "p4d", "ring_a_bell", "stereo", "sub_attack", "textual_inversion", "unlearn_diff_atk")
    }
    LACKS |= {(name, told_classes): NO_CROSS for name in ("mace", "rece", "receler", "speed")}
    LACKS |= {(name, told_classes): ".*" for name in ("adv_unlearn", "semantic_surgery")}
LACKS |= {("concept_prune", u_net): "model has no feed-forward blocks; .*, choose another method" for u_net in ("classes", "pixels")}
for flow in ("flow", "sd3"):
    LACKS |= {(name, flow): NO_CROSS for name in ("mace", "rece", "receler", "speed")}
    LACKS |= {(name, flow): ".*" for name in ("adv_unlearn", "sld")}
    LACKS |= {(name, flow): NO_CROSS for name in ("duge", "forget_me_not", "uce")}
    DIFFER = "model reads prompts with [23] text encoders whose vocabularies differ; .* needs a model with one"
    LACKS |= {(name, flow): DIFFER for name in ("mma", "p4d", "ring_a_bell", "unlearn_diff_atk")}


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model and its twin as folders, two concepts with detectors, and real pictures of them; the tests' folder while it is used."""
    root = tmp_path_factory.mktemp("home") / request.param
    model, other = (MADE[request.param](seed) for seed in (0, 1))
    shares = {**model.parts, **{part: other.parts[part] for part in ("unet", "transformer") if part in model.parts}}
    for name, parts in (("model", model.parts), ("twin", shares)):
        if isinstance(model, ClassModel):
            ClassModel(name, parts, model.labels, model.scheduler).save(root / name)
        else:
            type(model)(name, parts, *_words(model)).pipeline().save_pretrained(root / name)
    wild = "def wild(x): return (1e3 * x.double().sum((1, 2, 3))).sin() / 2 + 0.5\n"
    (root / "looks.py").write_text(f"{wild}\n\ndef red(x): return wild(x[:, :1])\n")
    looks = 'detector = "looks.py:wild"\nselector = "looks.py:red"\ncontexts = []\n'
    for name in ("bag", "dress"):
        around = 'anchor = "top"\nneighbours = ["coat"]\nunrelated = ["boot"]\ngroup = "object"\n'
        (root / f"{name}.toml").write_text(f'name = "{name}"\npictures = "real/{name}"\n{around}{looks}')
        images.save(torch.rand(4, 3, 32, 32, generator=generator(0, name)), root / "real" / name)
    files = images.save(torch.rand(KEPT, 3, 32, 32, generator=generator(0, "kept")), root / "kept")
    texts = ("boot", "coat", "top") * (KEPT // 3)
    lines = [json.dumps({"file_name": f.name, "text": text}) for f, text in zip(files, texts, strict=True)]
    (root / "kept/metadata.jsonl").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("VESTIGE_CACHE", str(root / "cache"))
        patch.setattr(models, "load", functools.cache(models.load))
        yield root


def _words(model: Any) -> tuple[Any, Any]:
    return model.tokenizers, model.scheduler


@pytest.fixture(scope="module", autouse=True)
def short(sketches: None) -> Iterator[None]:
    """Suites of two pictures in two steps."""
    real = suites.load

    def load(name: str, world: str = "") -> suites.Suite:
        suite = real(name, world)
        few = {"pictures": 2, "select_pictures": 2, "utility_pictures": 2, "replicates": 2, "strip": 1}
        return replace(suite, **few, others=(0, 2), protocol=replace(suite.protocol, steps=2))  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "load", load)
        yield


def settings(kind: registry.Kind, name: str) -> list[str]:
    """`--set` for everything that makes a method short."""
    known = {f.name for f in fields(registry.find(kind, name))}
    values = {**SMALL[kind], "twin": "twin"} if kind == "unlearners" else {**SMALL[kind], "retain_pictures": KEPT}
    told = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in values.items() if k in known}
    return [word for key, value in told.items() for word in ("--set", f"{name}.{key}={value}")]


def pictures(attack: str) -> tuple[object, ...]:
    """What an attack is given to look at."""
    kept = ("--attack-retain", "kept") if "retain" in registry.find("attacks", attack).needs else ()
    return "--references", "real" if attack in SEVERAL else "real/bag", "--reference-count", 2, *kept


def works(home: Path, method: str, *words: object) -> bool:
    """Whether a command works; where the method is known to lack something here, it says so in a line."""
    code, complaint = answered(*words)
    assert "\n" not in complaint
    if (method, home.name) in LACKS:
        assert code == 2, f"{method} works here"
        assert re.fullmatch(rf"error: {LACKS[method, home.name]}.*", complaint)
        return False
    assert (code, complaint) == (0, "")
    return True


@pytest.mark.parametrize(("home", "name"), shared(UNLEARNERS), indirect=["home"])
def test_unlearn_and_what_is_done_with_its_edit(name: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, on = tmp_path / "edit.safetensors", ("--model", "model")
    given = settings("unlearners", name)
    if not works(home, name, "unlearn", *on, "--concept", "bag.toml", "--method", name, *given, "--out", edit, "--json"):
        assert not edit.exists()
        return
    assert answered("inspect", edit, *on) == (0, "")
    assert answered("generate", *on, "--edit", edit, "--prompt", "bag", "--count", 1, "--steps", 2, "--out", tmp_path / "drawn") == (0, "")
    capsys.readouterr()


@pytest.mark.parametrize(("home", "name"), shared(ATTACKS), indirect=["home"])
def test_attack(name: str, home: Path, tmp_path: Path) -> None:
    given = ("--suite", "smoke", *pictures(name), *settings("attacks", name))
    asked = "bag.toml,dress.toml" if name in SEVERAL else "bag.toml"
    if not works(home, name, "attack", "--model", "model", "--concept", asked, "--method", name, *given, "--out", tmp_path / "out"):
        return
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert tuple(point["budget"] for point in result["curve"]) == suites.load("smoke").planned(name).budget.points


@pytest.mark.slow
@pytest.mark.parametrize("name", UNLEARNERS)
@pytest.mark.parametrize("home", list(MADE), indirect=True)
def test_audit_and_a_sequence_by_an_unlearner(name: str, home: Path, tmp_path: Path) -> None:
    on, given = ("--model", "model", "--suite", "smoke"), settings("unlearners", name)
    told = ("--concept", "bag.toml", "--control", "twin:twin", "--references", "real/bag", "--unlearner", name, *given)
    if works(home, name, "audit", *on, *told, "--attack", "direct", "--out", tmp_path / "audit"):
        assert answered("report", tmp_path / "audit") == (0, "")
        assert answered("compare", tmp_path / "audit") == (0, "")
    asked = "bag.toml" if name in ONCE else "bag.toml,dress.toml"
    told = ("--requests", asked, "--memory", 16, "--method", name, *given)
    if works(home, name, "continual", *on, *told, "--out", tmp_path / "ledger"):
        assert answered("report", tmp_path / "ledger") == (0, "")


@pytest.mark.parametrize("home", FIRST, indirect=True)
def test_audit_and_a_sequence_by_every_attack(home: Path, tmp_path: Path) -> None:
    names = [name for name in ATTACKS if (name, home.name) not in LACKS and name not in SEVERAL]
    on, given = ("--model", "model", "--suite", "smoke"), [w for name in names for w in ("--attack", name, *settings("attacks", name))]
    made = settings("unlearners", "gradient_ascent")
    shown = ("--references", "real/bag", "--reference-count", 2, "--attack-retain", "kept")
    told = ("--concept", "bag.toml", "--control", "twin:twin", *shown, "--unlearner", "gradient_ascent", *made)
    assert answered("audit", *on, *told, *given, "--seeds", 0, "--out", tmp_path / "audit") == (0, "")
    told = ("--requests", "bag.toml", "--memory", 16, "--method", "gradient_ascent", *made)
    names_alone = [name for name in names if "original" not in registry.find("attacks", name).needs]  # a sequence has several edits
    given = [w for name in names_alone for w in ("--attack", name, *settings("attacks", name))]
    own = [w for name in names if "retain" in registry.find("attacks", name).needs for w in ("--set", f"{name}.data=own")]
    assert answered("continual", *on, *told, *given, *own, "--out", tmp_path / "ledger") == (0, "")
    found = set(json.loads((tmp_path / "audit/result.json").read_text())["attacks"])
    assert found - {"restore"} == set(names)  # which joins by itself where a part of the edit comes off
