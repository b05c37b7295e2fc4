"""The files that the pages on real models name: tiny models in a hub's cache, structure-true checkpoints, concepts, detectors, pictures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

import published
import published_ddpm
from onlookers import classifier
from oracles import tiny_flow, tiny_model
from published_flux import FUSED, XLABS, dotted, kohyas, written
from vestige.checkpoints import formats
from vestige.concepts import images
from vestige.edits import Edit
from vestige.models import sources
from vestige.seeds import generator

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text("utf-8") for name in ("models", "flux", "published_checkpoints", "cost")}


def console(text: str) -> list[str]:
    return [line for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


FILES = {  # what the page of published checkpoints calls its files -> who writes them
    "esd-church-from-church-esd-x.safetensors": "partial safetensors",
    "delta.bin": "delta by component",
    "SalUn-church.ckpt": "Lightning checkpoint",
    "erasediff-church.pt": "full dict",
    "selective-amnesia.ckpt": "Lightning checkpoint",
    "church_last.safetensors": "SPM",
    "LoRA_fusion_model": "pipeline",
    "church_unlearned": "text encoder folder",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages' files, and a hub cache with tiny models under their names."""
    root = tmp_path_factory.mktemp("page")
    for name, made in (("stable-diffusion", tiny_model()), ("flux", tiny_flow("dev"))):
        home = root / f"hub/models--somebody--{name}"
        (home / "refs").mkdir(parents=True)
        (home / "refs/main").write_text("b" * 40)
        made.pipeline().save_pretrained(root / name)
        shutil.move(root / name, home / "snapshots" / ("b" * 40))
    concepts(root)
    classifier(root / "dinov2", 0)
    stable_diffusion(root)
    flux(root)
    class_conditional(root)
    return root


def concepts(root: Path) -> None:
    (concept,) = re.findall(r"```toml\n(.*?)```", PAGES["models"], re.DOTALL)
    (root / "church.toml").write_text(concept)
    (root / "teapot.toml").write_text('name = "teapot"\ndetector = "looks.py:church"\npictures = "references/teapot"\n')
    told = 'group = "object"\nanchor = "automobile"\nneighbours = ["bird"]\nunrelated = ["cat"]\ndetector = "looks.py:church"\n'
    (root / "airplane.toml").write_text(f'name = "airplane"\n{told}')
    (root / "looks.py").write_text("def church(x): return x.mean((1, 2, 3))\n\n\ndef building(x): return x[:, 0].mean((1, 2))\n")
    for name in ("church", "teapot", "retained"):
        files = images.save(torch.rand(8, 3, 32, 32, generator=generator(0, name)), root / "references" / name)
    lines = [json.dumps({"file_name": file.name, "text": "a house"}) for file in files]
    (root / "references/retained/metadata.jsonl").write_text("\n".join(lines))


def stable_diffusion(root: Path) -> None:
    """Published files, each as its authors' code writes it."""
    model = tiny_model()
    for name, kind in FILES.items():
        folder = root / f"written-{name}"
        folder.mkdir()
        path, _ = published.WRITERS[kind][1](folder, model)
        shutil.move(path, root / name)
    keys = published.moved(model, "cross-attention-kv")
    save_file(published.bare(keys), root / "uce-church.safetensors")
    torch.save({**published.bare(published.base(model)), **published.bare(keys)}, root / "church_ep1.pt")
    rest = published.moved(model, "non-cross-attention")
    torch.save({**published.bare(published.base(model)), **published.bare(rest)}, root / "final_reo_unet.pt")
    (root / "receler").mkdir()
    published.receler(root / "receler", model)
    published.autoencoder(root)
    edit: Any = Edit(model.fingerprint, "x", {}, "unet", published.moved(model, "unet"))
    for name in ("forget-me-not", "sd-without-church"):
        model.edited(edit).pipeline().save_pretrained(root / name)  # type: ignore[attr-defined]
    Edit(model.fingerprint, "uce", {}, "cross-attention-kv", keys).save(root / "church.safetensors")


def flux(root: Path) -> None:
    model: Any = tiny_flow("dev")
    save_file(published.bare({n: model.tensor(n) * 1.1 for n in model.scope("attention")}), root / "esd-flux.safetensors")
    text = {n: p for n, p in published.factors(model, "attention", 2).items() if re.search(r"add_[qk]_proj", n)}
    sides = {f"{n.removesuffix('.weight')}.lora_{side}.weight": f for n, p in text.items() for side, f in zip("AB", p, strict=True)}
    save_file(sides, root / "pytorch_lora_weights.safetensors")
    save_file(kohyas(written(model, FUSED)[0]), root / "flux-kohya.safetensors")
    save_file(dotted(written(model, XLABS)[0], ("down", "up"), ""), root / "flux-xlabs.safetensors")


def class_conditional(root: Path) -> None:
    """A base that the page's program writes, a checkpoint that comes from it, and a control."""
    base = published_ddpm.network(mult=(1, 1), layers=1, attending=(), classes=10)
    forgot = {**base, "conv_in.weight": base["conv_in.weight"] * 1.1}
    for name, table in (("base", base), ("forgot", forgot)):
        (root / name).mkdir()
        published_ddpm.saved(table, root / name / "ckpt.pth")
    (program,) = re.findall(r"```python\n(.*?)```", PAGES["published_checkpoints"], re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        exec(compile(program, "published_checkpoints.md", "exec"), {})
    shutil.copytree(root / "cifar10/model", root / "cifar10/never")
    weights = root / "cifar10/never/unet/diffusion_pytorch_model.safetensors"
    other = formats.recognise(root / "forgot/ckpt.pth")
    twin = {name: other.read(name).contiguous() for name in other.shapes}
    save_file({**twin, "conv_in.weight": twin["conv_in.weight"] * 1.1}, weights)  # nobody's equal


def hub(place: Path, patch: pytest.MonkeyPatch) -> None:
    """The cache of `place` is the hub's."""
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place / "hub"))
    sources.fetched.cache_clear()
