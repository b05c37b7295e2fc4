"""Recipes for the user's own hardware: the full network is built, every block runs for a few steps on a tiny one, commands exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from vestige import concepts, models, registry
from vestige.concepts import images
from vestige.models.classes import ClassModel

TEXT = (Path(__file__).parents[2] / "docs/recipes/cifar10.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page's Python defines; nothing runs on import."""
    made: dict[str, Any] = {"__name__": "recipe"}
    for block in blocks("python"):
        exec(compile(block, "cifar10.md", "exec"), made)
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, names: dict[str, Any]) -> Path:
    """A few pictures in the page's layout, and a model trained on them for two steps."""
    root = tmp_path_factory.mktemp("recipe")
    for part, classes in (("train", names["NAMES"]), ("retain", names["NAMES"][1:])):
        files = images.save(torch.rand(len(classes), 3, 32, 32, generator=torch.Generator().manual_seed(0)), root / part)
        lines = [json.dumps({"file_name": f.name, "text": c}) for f, c in zip(files, classes, strict=True)]
        (root / part / "metadata.jsonl").write_text("\n".join(lines))
    (root / "airplane.toml").write_text(blocks("toml")[0])
    names["train"](root / "model", root / "train", device="cpu", width=32, steps=2, batch=2)
    return root


def test_full_network_is_what_the_page_says(names: dict[str, Any]) -> None:
    """Attention at 16 pixels (and in the middle), a null class, and the size of the network that the public code trains."""
    with torch.device("meta"):
        network = names["network"]()
    assert 30e6 < sum(p.numel() for p in network.parameters()) < 45e6
    assert network.class_embedding.num_embeddings == 11
    blocks_with = {n.rpartition(".attentions")[0] for n, _ in network.named_modules() if n.endswith(".to_q")}
    assert blocks_with == {"down_blocks.1", "up_blocks.2", "mid_block"}


def test_trained_model_loads(place: Path) -> None:
    model = models.load(str(place / "model"))
    assert isinstance(model, ClassModel)
    assert (model.latent_shape, model.image_size, model.labels.null) == ((3, 32, 32), (32, 32), 10)
    signal, level = model.schedule(torch.tensor([0, 999]))
    assert signal[0] > 0.999
    assert level[1] > 0.999


def test_concept_names_classes_only(place: Path) -> None:
    concept, model = concepts.load(str(place / "airplane.toml")), models.load(str(place / "model"))
    words = [concept.target, concept.anchor, *concept.neighbours, *concept.unrelated]
    texts = [p.text for word in words for bank in ("training", "held-out") for p in concept.prompts(bank, word)]
    assert set(model.condition(texts).text.argmax(-1).flatten().tolist()) == set(range(10))


def test_unlearning_and_relearning_run(place: Path, names: dict[str, Any]) -> None:
    concept = concepts.load(str(place / "airplane.toml"))
    model = names["on"]("cpu", str(place / "model"))
    tiny = {"steps": 2, "batch": 2, "retain_pictures": 4, "alternative_pictures": 2, "lr": 1e-4}
    edit = names["unlearn"](model, concept, place / "retain", scope="without-class-embedding", **tiny)
    assert set(edit.touched) == set(model.scope("without-class-embedding"))
    settings = {"batch": 2, "retain_pictures": 4, "lr": 1e-4, "dropout": 0.1}
    show = lambda x: torch.ones(len(x), dtype=torch.bool)  # noqa: E731
    assert names["relearn"](model, edit, concept, place / "retain", show, points=(0, 1), count=2, steps=2, **settings) == {0: 1.0, 1: 1.0}


def test_suggested_settings_exist() -> None:
    for name, method in (("unlearn", ("unlearners", "dimum")), ("relearn", ("attacks", "dimra"))):
        (text,) = re.findall(rf"`{name}\(\.\.\., (.*?)\)`", TEXT, re.DOTALL)
        registry.build(*method, dict(pair.split("=") for pair in re.split(r",\s*", text)))  # type: ignore[arg-type]


def commands() -> list[list[str]]:
    return [shlex.split(line)[1:] for block in blocks("sh") for line in block.splitlines()]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_and_their_settings_exist(words: list[str]) -> None:
    from typer.main import get_command

    from vestige.cli import app

    command = get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    context = command.make_context(words[0], words[1:])
    method, own = context.params.get("method"), {}
    for item in context.params.get("set_") or context.params.get("settings") or ():
        key, _, value = item.partition("=")
        assert key.partition(".")[0] == method
        own[key.partition(".")[2]] = value
    if method:
        registry.build("unlearners", method, own)
    assert ("--set" in words) == bool(own)
