"""The kit for small worlds, on a world of bars and discs: a killed build resumes, and what it packs is what an audit takes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vestige import concepts, models
from vestige.cli import app
from vestige.metrics.detectors import users_function

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

from worlds import autoencoder, denoiser, glyphs, icons, judges, latents, loop, measure, pack, pictures, styles, text, world  # noqa: E402

OBJECTS = ("bar", "beam", "disc", "cross")


def shapes(folder: Path) -> world.Drawings:
    """Eight drawings of each of the four: a standing and a lying bar, a disc, a cross, of several widths; the last four are held out."""
    y, x = torch.meshgrid(torch.arange(48) - 23.5, torch.arange(48) - 23.5, indexing="ij")
    drawn = []
    for k in range(8):
        bar, beam = x.abs() < 4 + k, y.abs() < 4 + k
        drawn += [bar & (y.abs() < 20), beam & (x.abs() < 20), x.hypot(y) < 10 + k, (bar & (y.abs() < 20)) | (beam & (x.abs() < 20))]
    label = torch.arange(4).repeat(8)
    return world.Drawings(torch.stack(drawn)[:, None].byte() * 255, label, torch.arange(32) >= 16)


SHAPES = world.World(
    name="shapes",
    objects=OBJECTS[:3],
    styles=("photo", "neon"),
    proxy=OBJECTS[3],
    proxy_style="halftone",
    renderers={name: styles.of_one(getattr(styles, name)) for name in ("photo", "neon", "halftone")},
    source=shapes,
    fetch=lambda folder: None,
    denoisers={"shapes": world.Denoiser((), 1), "shapes-never-bar": world.Denoiser(("bar",), 2)},
    concepts={
        "bar": world.Near("beam", ("beam",)),
        "cross": world.Near("disc", ("disc",)),
        "neon": world.Near("photo", ("photo",)),
    },
    seed=3,
    steps=world.Steps(autoencoder=2, text=2, select=2, verify=2, denoiser=4, batch=4, latents=480),
    width=(16, 32),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole build, two or four steps of every network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDS_BUILD", str(tmp_path_factory.mktemp("worlds")))
        patch.setattr(judges, "ROUNDS", 96)
        patch.setattr(pack, "CALIBRATION", 64)
        autoencoder.main(SHAPES)
        text.main(SHAPES, size=4)
        latents.main(SHAPES)
        for name in SHAPES.denoisers:
            denoiser.main(SHAPES, name)
        for name in judges.NAMES:
            judges.main(SHAPES, name, size=4)
        pack.main(SHAPES)
        yield pack.out(SHAPES)


def test_a_killed_training_resumes_to_the_same_weights(tmp_path):
    class Killed(Exception):
        pass

    def trained(folder, stop=None):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 1)

        def loss(rng, step):
            if step == stop:
                raise Killed
            return net(torch.randn(8, 3, generator=rng)).square().mean()

        return loop.train(folder, "net", net, loss, steps=10, lr=0.1, seed=5, ema=0.9, every=2)

    whole = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "killed", stop=7)
    again = trained(tmp_path / "killed")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    steps = [[line.split(",")[:3] for line in (tmp_path / kind / "net.csv").read_text().split()] for kind in ("whole", "killed")]
    assert steps[0][-1] == steps[1][-1], "the loss after resuming is the loss without"


def test_a_denoiser_that_was_killed_is_the_one_that_was_not(built, monkeypatch):
    whole = torch.load(SHAPES.build / "shapes.state.pt", weights_only=True)["mean"]
    (SHAPES.build / "shapes.state.pt").unlink()
    real = denoiser.objective

    def killed(*given):
        killed.steps += 1
        if killed.steps > 3:
            raise KeyboardInterrupt
        return real(*given)

    killed.steps = 0
    every = lambda *a, **k: loop.train(*a, **k | {"every": 1})  # noqa: E731
    monkeypatch.setattr(denoiser, "train", every)
    monkeypatch.setattr(denoiser, "objective", killed)
    with pytest.raises(KeyboardInterrupt):
        denoiser.main(SHAPES, "shapes")
    assert torch.load(SHAPES.build / "shapes.state.pt", weights_only=True)["step"] == 3
    monkeypatch.setattr(denoiser, "objective", real)
    denoiser.main(SHAPES, "shapes")
    again = torch.load(SHAPES.build / "shapes.state.pt", weights_only=True)["mean"]
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_a_text_encoder_resumes_with_the_tokenizer_that_it_began_with(built):
    before = (SHAPES.build / "tokenizer/tokenizer.json").read_bytes()
    weights = torch.load(SHAPES.build / "text.state.pt", weights_only=True)["mean"]
    (SHAPES.build / "text.state.pt").unlink()
    text.main(SHAPES, size=4)
    assert (SHAPES.build / "tokenizer/tokenizer.json").read_bytes() == before
    again = torch.load(SHAPES.build / "text.state.pt", weights_only=True)["mean"]
    assert all(torch.equal(again[key], value) for key, value in weights.items())


def test_a_twin_never_sees_what_it_never_drew(built):
    data = torch.load(SHAPES.build / "latents.pt", weights_only=True)
    assert set(data["object"].tolist()) == {0, 1, 2}, "the proxy has no latents"
    seen = {name: set(data["object"][denoiser.kept(SHAPES, name, data)].tolist()) for name in SHAPES.denoisers}
    assert seen == {"shapes": {0, 1, 2}, "shapes-never-bar": {1, 2}}


def test_drawings_that_are_held_out_teach_nobody_and_are_dealt_once(built):
    every = pictures.drawings(SHAPES)
    trained = pictures.Pictures.of(SHAPES, held=False)
    parts = [pictures.Pictures.of(SHAPES, held=True, part=part) for part in ("references", "test")]
    assert [len(p.label) for p in (trained, *parts)] == [16, 8, 8]
    raw = [set(map(bytes, (r.numpy().tobytes() for r in p.raw))) for p in (trained, *parts)]
    assert not (raw[0] & raw[1] or raw[0] & raw[2] or raw[1] & raw[2])
    assert int(every.held.sum()) == 16


def test_pictures_repeat_with_their_generator_and_move_with_another():
    x = [pictures.moved(shapes(Path()).raw, world.Moves(flip=True), loop.generator(1, k)) for k in (0, 0, 1)]
    assert x[0].shape == (32, 32, 32, 1)
    assert (x[0] == x[1]).all()
    assert (x[0] != x[2]).any()


def test_what_is_packed_loads_and_draws_as_the_network_that_was_trained(built):
    base, twin = (models.load(str(built / name)) for name in SHAPES.denoisers)
    assert base.fingerprint != twin.fingerprint
    prompts, wanted = measure.asked(SHAPES)
    x = measure.drawn(SHAPES, "shapes", prompts[:2], 7)
    assert x.shape == (2, 3, 32, 32)
    assert wanted[0] == ("bar", "photo")
    assert not base.unread(concepts.load(str(built / "concepts/bar.toml")).told())


def test_concept_files_say_what_the_world_says(built):
    bar, neon = (concepts.load(str(built / f"concepts/{name}.toml")) for name in ("bar", "neon"))
    assert bar.neighbours == ("beam",)
    assert bar.unrelated == ("disc",)
    assert len(bar.prompts("training")) >= 8
    assert len(bar.prompts("held-out")) >= 4
    assert not {p.text for p in bar.prompts("training")} & {p.text for p in bar.prompts("held-out")}
    assert bar.prompts("indirect")
    assert neon.kind == "style"
    assert neon.prompts("indirect")
    assert bar.detector.endswith("looks.py:verify")
    assert neon.selector.endswith("looks.py:select_style")


def test_references_are_captioned_and_show_every_style(built):
    lines = [json.loads(line) for line in (built / "references/bar/metadata.jsonl").read_text().splitlines()]
    assert len(lines) == pack.REFERENCES == len(list((built / "references/bar").glob("*.png")))
    assert all("bar" in line["text"] for line in lines)
    assert {word for line in lines for word in SHAPES.styles if word in line["text"]} == set(SHAPES.styles)


@pytest.mark.parametrize("group", ["object", "style"])
def test_judges_are_two_functions_that_declare_their_weights(built, group):
    suffix = "" if group == "object" else "_style"
    found = [users_function(f"{built}/judges/looks.py:{name}{suffix}") for name in judges.NAMES]
    assert found[0].weights_hash != found[1].weights_hash
    assert found[0].name != found[1].name
    for who in found:
        assert who.labels == (SHAPES.all_objects if group == "object" else SHAPES.all_styles)
        assert not who.unseen
        scores = who.look(torch.rand(3, 3, 32, 32))
        assert torch.allclose(scores.sum(1), torch.ones(3))
        assert who.embed(torch.rand(3, 3, 32, 32)).shape == (3, 128)


@pytest.mark.parametrize("control", ["twin:{0}/shapes-never-bar", "proxy:{0}/concepts/cross.toml"])
def test_an_audit_takes_the_folder_the_concept_file_and_the_control(built, tmp_path, control):
    asked = ["audit", "--model", f"{built}/shapes", "--concept", f"{built}/concepts/bar.toml", "--control", control.format(built)]
    asked += ["--unlearner", "uce", "--suite", "smoke", "--dry-run", "--json", "--out", f"{tmp_path}/out", "--cache", f"{tmp_path}/cache"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output


def test_glyphs_leave_out_what_is_no_letter():
    drawn = shapes(Path()).raw[:4, 0].numpy()  # four letters, as a font draws them
    fonts = np.stack([drawn, drawn, drawn, drawn[[1, 0, 3, 2]]])
    assert glyphs.readable(fonts).tolist() == [True, True, True, False]


def test_a_family_is_held_out_or_not_on_every_machine():
    assert [glyphs.held(family) for family in ("DejaVu Sans", "Lato", "Inter", "Go")] == [True, True, False, False]
    assert 0.35 < sum(glyphs.held(str(k)) for k in range(1000)) / 1000 < 0.45


def test_icons_are_found_by_their_other_names():
    told = {"icons": {"a": {"body": '<g fill="currentColor"/>'}}, "aliases": {"b": {"parent": "a"}}, "width": 20, "height": 10}
    assert 'viewBox="0 0 20 10"' in (icons.svg(told, "b") or "")
    assert "currentColor" not in (icons.svg(told, "a") or "")
    assert icons.svg(told, "c") is None


@pytest.mark.parametrize("name", ["letters", "charms"])
def test_the_facts_of_a_world_fit_together(name):
    facts = world.load(name)
    assert facts.name == name == facts.base
    assert set(facts.renderers) == set(facts.all_styles)
    words = {*facts.all_objects, *facts.all_styles}
    assert len(words) == len(facts.all_objects) + len(facts.all_styles)
    assert not words & facts.prompts.words()
    for concept, near in facts.concepts.items():
        members = facts.objects if facts.group(concept) == "object" else facts.styles
        assert {near.anchor, *near.neighbours} <= set(members) - {concept}
    absent = [d.absent for d in facts.denoisers.values()]
    assert all(set(words) <= {*facts.objects, *facts.styles} for words in absent)
    assert len({d.seed for d in facts.denoisers.values()}) == len(absent)
    named = [a[0] for a in absent if len(a) == 1 and a[0] in facts.objects]
    assert max(map(named.count, named)) >= 3, "what is audited needs three never-models"
    text.tokenizer(text.words(facts))
