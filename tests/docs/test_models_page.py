"""The pages on real models: every command is planned or run as it stands, with tiny models and structure-true files under their names."""

from __future__ import annotations

import json
import re
import shlex
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
from oracles import script, tiny_flow, tiny_model
from published_flux import FUSED, XLABS, dotted, kohyas, written
from vestige import cli
from vestige.checkpoints import formats
from vestige.checkpoints.kinds import KINDS
from vestige.concepts import images
from vestige.edits import Edit
from vestige.models import sources
from vestige.seeds import generator

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text("utf-8") for name in ("models", "flux", "published_checkpoints", "cost")}


def console(text: str) -> list[str]:
    return [line for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


COMMANDS = [command for text in PAGES.values() for command in console(text)]
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGES["published_checkpoints"], re.DOTALL | re.MULTILINE))
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
        files = images.save(torch.rand(4, 3, 32, 32, generator=generator(0, name)), root / "references" / name)
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
    save_file({name: other.read(name).contiguous() for name in other.shapes}, weights)


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place / "hub"))
    sources.fetched.cache_clear()
    return place


def ran(command: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command says; an audit or a sequence is only planned."""
    name, *rest = shlex.split(command)[1:]
    dry = ["--dry-run"] if name in ("audit", "continual") and "--dry-run" not in rest else []
    cli.app([name, *rest, "--json", *dry], standalone_mode=False)
    sources.fetched.cache_clear()
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(command: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(command, capsys)
    kind = shlex.split(command)[1]
    if kind in ("audit", "continual"):
        assert sum(told["planned_calls"].values()) > 0
    elif kind == "inspect":
        assert bool(told["refusal"]) == (told["format"] == "F9"), told["refusal"]
    else:
        assert told
    for place in ("exported", "exported-flux"):
        shutil.rmtree(there / place, ignore_errors=True)


def test_pages_have_commands() -> None:
    kinds = {name: {shlex.split(c)[1] for c in console(text)} for name, text in PAGES.items()}
    assert kinds["models"] >= {"audit", "continual", "unlearn", "export"}
    assert kinds["flux"] >= {"audit", "inspect", "export"}
    assert kinds["published_checkpoints"] == {"audit", "inspect"}
    assert len(COMMANDS) >= 40
    assert len(COMMANDS) == len(set(COMMANDS))


@pytest.mark.parametrize("section", [name for name, text in SECTIONS.items() if "**`inspect` says:**" in text])
def test_inspect_says_what_the_section_says(section: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says = re.search(r"\*\*`inspect` says:\*\* (.*?)\n\n", SECTIONS[section], re.DOTALL)
    assert says is not None
    (command,) = (c for c in console(SECTIONS[section]) if c.split()[1] == "inspect")
    found = ran(command, capsys)
    assert f"`{found['format']}`" in says[1]
    guesses = [guess.removesuffix(" (its name says so)") for guess in found["made_by"]]
    assert any(f"`{guess}`" in says[1] for guess in guesses), guesses


def test_page_names_every_format() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", PAGES["published_checkpoints"], re.MULTILINE))
    assert rows == KINDS


def test_costs_are_what_the_plan_counts(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row a command, in their order; where this fails, the numbers here are the ones that the page should have."""
    rows = re.findall(r"^\| [\w, ]+ \|((?: [\d,]+ \|){7})$", PAGES["cost"], re.MULTILINE)
    told = [[int(cell.replace(",", "")) for cell in row.split("|")[:-1]] for row in rows]
    counted = []
    for command in console(PAGES["cost"]):
        calls = ran(command, capsys)["planned_calls"]
        parts = ("scoring", "attacks", "positives", "restoring", "utility", "unlearning")
        counted.append([calls.get(part, 0) for part in parts] + [sum(calls.values())])
    assert told == counted
    (quick,) = (row[-1] for row, command in zip(counted, console(PAGES["cost"]), strict=True) if "quick --attack memora --ref" in command)
    assert f"{quick:,} calls" in PAGES["cost"]
    assert f"that is {quick * 1.83 / 3600:.0f} hours" in PAGES["cost"]
    assert f"it is {quick / 20 / 3600:.1f} hours" in PAGES["cost"]


def test_sizes_are_those_of_the_published_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of the table that `benchmarks/structure.py` prints, computed again; the others take half a minute."""
    structure = script("benchmarks/structure.py", monkeypatch)
    found = {name: structure.counted(structure.NETWORKS[name]) for name in ("SD 1.4, 256 px", "CIFAR-10 DDPM, 32 px")}
    assert found["SD 1.4, 256 px"][0] == pytest.approx(0.8595, abs=1e-4)
    for name, (weights, work) in found.items():
        assert structure.line(name, weights, work, work / found["SD 1.4, 256 px"][1]) in PAGES["cost"]
    assert structure.HEAD in PAGES["cost"]


def test_links_lead_somewhere() -> None:
    for name, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text):
            assert (DOCS / target).exists(), f"{name}: {target}"
        for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
            headings = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
            assert anchor in headings, f"{name}: {anchor}"
