"""The audit's own parts: what an attacker without the concept's pictures is given, and what a run is keyed by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from onlookers import Onlooker
from oracles import small, tiny_model
from vestige import concepts
from vestige.audit import Request, flags, power, resolve
from vestige.concepts.captions import METADATA
from vestige.concepts.images import PictureSet, save
from vestige.data import PROXY
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.harness import arms, diagnostics, suites, tries
from vestige.harness.attacker import AttackerData
from vestige.harness.bench import Bench
from vestige.harness.unlearning import unlearned
from vestige.methods import Budget, Candidate
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.verdict import Arms, Flag, Interval, Lines, measure

SMOKE = suites.load("smoke", "wardrobe")


class Bright(Onlooker):
    """Sees the concept where a picture is bright above."""

    def identity(self, label: str) -> dict[str, Any]:
        return {"name": "bright", "label": label}

    def shows(self, images_: Tensor, label: str) -> Tensor:
        return images_[:, :, :16].mean((1, 2, 3))


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def bench(root: Path) -> Bench:
    return Bench(root, replace(SMOKE, pictures=4, select_pictures=0, strip=2), Bright(), Bright())


def given(tmp_path: Path, tiny: LatentModel, concept: str = "sneaker", replicate: int = 0, source: str = "shipped", **own: Any) -> Any:
    settings = {f"dimra.{k}": v for k, v in {"retain_pictures": 72, **own}.items()}
    planned = resolve(Request(suite="relearn", concept=concept, attack_retain=source, settings=settings))
    attack, count = planned.attacks["dimra"][0], planned.attacks["dimra"][1].references
    held = AttackerData(original=tiny, world="wardrobe", protocol=planned.suite.protocol, retain=source, cache=tmp_path / "pictures")
    return held.of(planned.concept, attack, count, replicate)


def test_shipped_pictures_are_for_models_that_draw_such_pictures(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before anything is trained; a folder, or what a concept's file names, is taken in any size."""
    monkeypatch.setattr(AttackerData, "_given", lambda held: None)  # what lies in the folder is another matter
    large: Any = SimpleNamespace(image_size=(512, 512), name="large")
    attacks = {name: small("attacks", name) for name in ("memora", "dimra", "direct")}
    named = replace(concepts.load("sneaker"), pictures="somewhere")
    for model, concept, sources, refused in (
        (tiny, concepts.load("sneaker"), {}, ()),
        (large, concepts.load("sneaker"), {}, ("memora", "dimra")),
        (large, named, {}, ("dimra",)),
        (large, named, {"retain": "a folder"}, ()),
        (large, concepts.load("sneaker"), {"retain": "a folder", "references": "generated"}, ()),
    ):
        held = AttackerData(original=model, world="", protocol=SMOKE.protocol, **sources)
        for name, attack in attacks.items():
            if name not in refused:
                held.check(concept, [attack])
                continue
            option = "--references DIR" if name == "memora" else "--attack-retain DIR"
            with pytest.raises(BadInput, match=f"32 x 32 pixels; large draws 512 x 512: give pictures of your own with {option}"):
                held.check(concept, [attack])


@pytest.mark.parametrize("name", ["sneaker", "neon", "dress"])
def test_shipped_retained_pictures_hold_neither_the_concept_nor_a_proxy(tmp_path: Path, tiny: LatentModel, name: str) -> None:
    concept, found = concepts.load(name), given(tmp_path, tiny, name)
    assert len(found) == 72
    seen = {(group, label) for labels in found.labels for group, label in labels.items()}
    assert not seen & {(concept.group, concept.label), *PROXY.items()}
    assert {label for group, label in seen if group == concept.group} == {*concept.neighbours, *concept.unrelated}
    for captions, labels in zip(found.captions, found.labels, strict=True):
        assert any(labels[concept.group] in text and labels[concept.context_group] in text for text in captions)
        assert not any(concept.target in text for text in captions)


def test_replicates_share_no_retained_picture(tmp_path: Path, tiny: LatentModel) -> None:
    sets = [given(tmp_path, tiny, replicate=k) for k in range(3)]
    pixels = [image.numpy().tobytes() for found in sets for image in found.images]
    assert len(set(pixels)) == len(pixels) == 216
    assert given(tmp_path, tiny, replicate=1).content == sets[1].content


def test_retained_pictures_drawn_by_the_original(tmp_path: Path, tiny: LatentModel) -> None:
    one, again, other = (given(tmp_path, tiny, replicate=k, data="original", retain_pictures=6) for k in (0, 0, 1))
    assert len(one) == len(one.captions) == 6
    assert one.source == "generated by tiny"
    assert not any("sneaker" in text for row in one.captions for text in row)
    assert one.content == again.content != other.content


def test_an_attacker_that_draws_its_own_is_given_nothing(tmp_path: Path, tiny: LatentModel) -> None:
    assert given(tmp_path, tiny, data="own") is None


@pytest.mark.parametrize("data", ["retain", "folder"])
def test_retained_pictures_from_a_folder(tmp_path: Path, tiny: LatentModel, data: str) -> None:
    images = torch.rand(5, 3, 32, 32, generator=generator(0, "folder"))
    files = save(images, tmp_path / "mine")
    rows = [json.dumps({"file_name": f.name, "text": f"a boot {i}"}) for i, f in enumerate(files)]
    (tmp_path / "mine" / METADATA).write_text("\n".join(rows))
    found = given(tmp_path, tiny, source=str(tmp_path / "mine"), data=data, retain_pictures=4)
    assert len(found) == 4
    for image, (text,) in zip(found.images, found.captions, strict=True):
        assert (image - images[int(text[-1])]).abs().max() < 1 / 254


def arm(root: Path, model: LatentModel, name: str, references: PictureSet | None, **own: Any) -> Any:
    return arms.run_arm(bench(root), model, concepts.load("sneaker"), (name, small("attacks", name, **own)), Budget((0, 1)), 0, references)


@pytest.mark.parametrize(("name", "own"), [("dimra", {}), ("memora", {"captions": "templates"}), ("unlearn_diff_atk", {})])
def test_arms_are_keyed_by_captions_where_they_train_on_them(tmp_path: Path, tiny: LatentModel, name: str, own: dict[str, Any]) -> None:
    images = torch.zeros(2, 3, 32, 32)
    boots, bags = (PictureSet(images, "dark", captions=((f"a {word}",),) * 2) for word in ("boot", "bag"))
    first, second = (arm(tmp_path, tiny, name, s, **own) for s in (boots, bags))
    assert first.spec["captions"] == [["a boot"]] * 2
    assert first.folder != second.folder
    assert arm(tmp_path, tiny, name, boots, **own).folder == first.folder


def test_specs_of_other_arms_are_what_they_were(tmp_path: Path, tiny: LatentModel) -> None:
    """Stored runs stay valid."""
    keys = {"what", "numerics", "model", "concept", "attack", "settings", "budget", "replicate", "references", "protocol"}
    keys |= {"pictures", "select_pictures", "judges", "volatile"}
    pictures = PictureSet(torch.rand(2, 3, 32, 32, generator=generator(0, "arm")), "random", captions=(("a sneaker",),) * 2)
    assert set(arm(tmp_path, tiny, "memora", pictures).spec) == keys
    labelled = PictureSet(pictures.images, "random", ({"object": "sneaker", "style": "neon"},) * 2)
    assert set(arm(tmp_path, tiny, "memora", labelled, captions="templates").spec) == keys
    assert set(arm(tmp_path, tiny, "direct", None).spec) == keys
    run = unlearned(tmp_path, tiny, concepts.load("sneaker"), "uce", small("unlearners", "uce"), 0)
    assert set(run.spec) == {"what", "numerics", "model", "concept", "method", "settings", "seed", "data", "volatile"}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each batch of arms had."""
    counted, plainly = list[int](), tries.pictures
    monkeypatch.setattr(tries, "pictures", lambda m, prompts, *a, **k: counted.append(len(prompts)) or plainly(m, prompts, *a, **k))
    return counted


def test_the_plain_state_of_a_model_is_drawn_once_for_all_attacks(tmp_path: Path, tiny: LatentModel, drawn: list[int]) -> None:
    pictures = PictureSet(torch.rand(2, 3, 32, 32, generator=generator(0, "arm")), "random")
    first, second = (arm(tmp_path, tiny, name, pictures) for name in ("memora", "finetune"))
    assert drawn == [4] * 3  # the plain state, and each attack's last point
    one, other = (run.outcome["points"][0] for run in (first, second))
    whole = arms.plain_arm(bench(tmp_path), tiny, concepts.load("sneaker"), 0)
    assert len(drawn) == 3
    assert one["hits"] == other["hits"] == whole.outcome["points"][0]["hits"]
    assert one["shared"] and not first.outcome["points"][1].get("shared")
    assert "references_show" in one["notes"] and "loss_first" in other["notes"]  # each attack's own
    strips = {run.path("strips/000000.png").read_bytes() for run in (first, second, whole)}
    assert len(strips) == 1


def test_each_of_several_tries_is_drawn_once(tmp_path: Path, tiny: LatentModel, drawn: list[int]) -> None:
    """Bit for bit what is found when every number of tries is drawn anew."""
    place, prompts = bench(tmp_path), arms.verification(concepts.load("sneaker"), 4, 0)
    search, wanted = tries.Tries(), [(prompts, (0, "verification"))]
    for count in (1, 2, 4):
        (found,) = search.pictures(place, tiny, wanted, Candidate(count - 1, tries=count))
        assert torch.equal(found, tries.pictures_for(place, tiny, prompts, Candidate(count - 1, tries=count), (0, "verification")))
    assert len(drawn) == 4 + (1 + 2 + 4)


def test_sets_of_prompts_share_batches_and_nothing_else(tmp_path: Path, tiny: LatentModel, drawn: list[int]) -> None:
    """Their pictures differ by rounding alone from those drawn apart, as for every size of batch (1e-5 of a range of 1)."""
    place, concept = bench(tmp_path), concepts.load("sneaker")
    wanted = [(arms.verification(concept, 4, 0), (0, "verification")), (concept.spread(2, "training"), (0, "selection"))]
    together = tries.Tries().pictures(place, tiny, wanted, Candidate(0))
    assert drawn == [6]
    for found, (prompts, purpose) in zip(together, wanted, strict=True):
        torch.testing.assert_close(found, tries.pictures_for(place, tiny, prompts, Candidate(0), purpose), atol=1e-5, rtol=0)


def test_rate_along_the_line_ends_at_both_models(tmp_path: Path, tiny: LatentModel) -> None:
    concept, place = concepts.load("sneaker"), bench(tmp_path)
    name = tiny.scope("unet")[-1]  # the output's bias: the edited model draws nothing but a flat picture
    edit = Edit(tiny.fingerprint, "shift", {}, "unet", {name: tiny.tensor(name) + 3.0})
    rates = arms.line(place, tiny, edit, concept)
    assert len(rates) == len(diagnostics.LINE)
    plain = [
        arms.run_arm(place, m, concept, ("direct", small("attacks", "direct")), Budget((0,)), 0, None) for m in (tiny, tiny.edited(edit))
    ]
    ends = [sum(run.outcome["points"][0]["hits"]) / 4 for run in plain]
    assert [rates[0], rates[-1]] == ends
    assert arms.line(place, tiny, edit, concept) == rates


def never(*rates: Sequence[float]) -> list[Any]:
    def points(row: Sequence[float]) -> list[dict[str, Any]]:
        return [{"hits": [i < round(10 * r) for i in range(10)], "selected": None} for r in row]

    return [SimpleNamespace(outcome={"points": points(row)}) for row in rates]


@pytest.mark.parametrize(
    ("attack", "rates", "raised"),
    [
        ("dimra", ((0.0, 0.1, 0.3), (0.0, 0.0, 0.2)), True),
        ("dimra", ((0.0, 0.9, 0.1), (0.1, 0.0, 0.1)), False),
        ("memora", ((0.0, 0.5, 0.9),), False),
    ],
)
def test_flag_where_data_without_the_concept_teach_it(attack: str, rates: Any, raised: bool) -> None:
    found = power._leak(attack, never(*rates))
    assert [f.name for f in found] == (["data-leaks"] if raised else [])
    if raised:
        assert (found[0].kind, "from 0% to 25%" in found[0].text) == ("informing", True)


def curves(last: float, attack: str = "memora") -> dict[str, Any]:
    """Measures of an attack that lifts edited and never arm alike, up to a rate."""
    rows = ((0.0, last / 2, last), (0.02, last / 2, last), (0.0, last / 2, last))
    return {attack: measure(Arms((0, 2, 10), rows, rows, floor=0.0, ceiling=1.0))}


def test_an_attack_that_teaches_nobody_proves_nothing() -> None:
    def raised(measures: dict[str, Any]) -> list[Flag]:
        return power.power(measures, dict.fromkeys(measures, Interval(9.0, 8.0, 10.0)), Lines())

    (flag,) = raised(curves(0.03))
    assert (flag.name, flag.kind) == ("attack-too-weak", "capping")
    assert "memora 3%" in flag.text
    assert raised(curves(0.5)) == []
    assert raised(curves(0.03) | curves(0.5, "textual_inversion")) == [], "one that teaches is enough"
    (flag,) = raised(curves(0.03, "dimra"))
    assert flag.name == "no-armed-attack", "an attack without the concept's pictures is not meant to teach it, and finds little by itself"


def test_an_attack_that_wrecks_the_model_is_flagged() -> None:
    """By what it took from the edited model, not by what the edit had taken before; each attack for itself."""
    good, half = {"right": [True] * 48}, {"right": [True, False] * 24}
    for damaged in (good, half):
        usable = {group: {"after": damaged} for group in ("neighbours", "unrelated")}
        gentle, rough = ({"neighbours": damaged, "unrelated": after} for after in (damaged, {"right": [False] * 48}))
        (flag,) = flags._wrecked(usable, {"dimra": gentle, "memora": rough})
        assert (flag.name, flag.kind) == ("attack-wrecks", "informing")
        lost = "50%" if damaged is half else "100%"
        assert flag.text.startswith(f"memora took {lost}") and "unrelated concepts" in flag.text
