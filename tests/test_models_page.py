"""docs/models.md: every command is planned as it stands, with tiny models under the names that it uses."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from oracles import tiny_flow, tiny_model
from vestige import cli, images
from vestige.models import sources
from vestige.sampling import generator

TEXT = (Path(__file__).parents[1] / "docs/models.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, and a hub cache with tiny models under its names."""
    root = tmp_path_factory.mktemp("page")
    for name, made in (("stable-diffusion", tiny_model()), ("flux", tiny_flow("dev"))):
        home = root / f"hub/models--somebody--{name}"
        (home / "refs").mkdir(parents=True)
        (home / "refs/main").write_text("b" * 40)
        made.pipeline().save_pretrained(root / name)
        shutil.move(root / name, home / "snapshots" / ("b" * 40))
    (concept,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (root / "church.toml").write_text(concept)
    (root / "teapot.toml").write_text('name = "teapot"\ndetector = "looks.py:church"\npictures = "references/teapot"\n')
    (root / "looks.py").write_text("def church(x): return x.mean((1, 2, 3))\n\n\ndef building(x): return x[:, 0].mean((1, 2))\n")
    for name in ("church", "teapot"):
        images.save(torch.rand(4, 3, 32, 32, generator=generator(0, name)), root / "references" / name)
    model, rng = tiny_model(), generator(1)
    changed = {n: model.tensor(n) for n in model.scope("cross-attention-kv")}
    moved = {n.removeprefix("unet."): v + 0.1 * v.std() * torch.randn(v.shape, generator=rng) for n, v in changed.items()}
    save_file(moved, root / "checkpoint.safetensors")
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_planned(command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place / "hub"))
    sources.fetched.cache_clear()
    name, *rest = shlex.split(command)[1:]
    cli.app([name, *rest, "--json", *(["--dry-run"] if name == "audit" else [])], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    sources.fetched.cache_clear()
    assert (sum(told["planned_calls"].values()) > 0) if name == "audit" else told


def test_the_page_has_commands() -> None:
    assert {shlex.split(c)[1] for c in COMMANDS} == {"audit", "inspect"}
    assert len(COMMANDS) >= 4
