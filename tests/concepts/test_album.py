"""Pictures of a sensitive concept: blurred and small where people look, whole in quarantine alone, and nowhere if none are kept.

The concept that stands in for a sensitive one is a bag. Everything that a model decodes while a command runs is remembered; then every
file that the command left is searched for a picture whose detail is one of those.
"""

from __future__ import annotations

import ast
import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

import vestige
from onlookers import short, told
from oracles import save_pair
from vestige import api, cli
from vestige.concepts import album, images
from vestige.concepts.album import NOTICE, QUARANTINE, Album
from vestige.errors import BadSetting
from vestige.harness import diagnostics
from vestige.models.latent import LatentModel
from vestige.report.audits import render
from vestige.seeds import generator

__all__ = ["short"]  # a fixture that holds here too
SIDE = 32
ALIKE = 0.6  # correlation of detail above which two pictures are one


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    (root / "looks.py").write_text(
        "def colour(images):\n    return images.mean((2, 3)).softmax(1)\n\ncolour.labels = ['bag', 'top', 'dress']\n"
    )
    return root


def sensitive(home: Path, **own: Any) -> str:
    return told(home, detector="looks.py:colour", threshold=0.34, **{"sensitive": True, **own})


@pytest.fixture(autouse=True)
def no_diagnostics(monkeypatch: pytest.MonkeyPatch) -> None:
    """They draw much and write nothing that training did not."""
    monkeypatch.setattr(diagnostics, "measured", lambda *given, **named: {})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every picture that a model decodes from now on."""
    drawn: list[Tensor] = []
    decode = LatentModel.decode

    def remembered(self: LatentModel, latents: Tensor) -> Tensor:
        made = decode(self, latents)
        drawn.extend(made.detach().cpu())
        return made

    monkeypatch.setattr(LatentModel, "decode", remembered)
    return drawn


def detail(pictures: Tensor) -> Tensor:
    """What a blur takes away, (N, D), each of length one: what is left of a copy at another size or brightness still points there."""
    same = F.interpolate(pictures.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
    coarse = F.interpolate(F.adaptive_avg_pool2d(same, 8), size=(SIDE, SIDE), mode="bilinear")
    fine = (same - coarse)[..., 2:-2, 2:-2]
    faint = fine.flatten(1).std(1) < 2 / 255  # nothing but rounding is left
    fine = F.normalize(fine.flatten(1), dim=1)
    fine[faint] = 0
    return fine


def pixels(raw: bytes) -> Tensor | None:
    try:
        with Image.open(io.BytesIO(raw)) as found:
            return torch.from_numpy(np.array(found.convert("RGB"))).permute(2, 0, 1).float() / 255
    except (OSError, ValueError):
        return None


def tiles(picture: Tensor) -> Iterator[Tensor]:
    """A picture, and if it is a strip, its parts."""
    height, width = picture.shape[-2:]
    yield picture
    if width > height:
        yield from (picture[:, :, x : x + height] for x in range(0, width - height + 1, height + 2))


def arrays(file: Path) -> Iterator[Tensor]:
    """Pictures in a file of tensors, whatever its values are called."""
    from safetensors.torch import load_file

    for value in load_file(file).values():
        if value.dim() == 4 and value.shape[1] == 3 and min(value.shape[2:]) >= 8:
            yield from value.float() / (255 if value.dtype == torch.uint8 else 1)


def found_in(file: Path) -> Iterator[Tensor]:
    raw = file.read_bytes()
    if file.suffix == ".safetensors":
        yield from arrays(file)
        return
    embedded = [base64.b64decode(code) for code in re.findall(rb"base64,([A-Za-z0-9+/=]+)", raw)]
    for picture in map(pixels, [raw, *embedded]):
        if picture is not None:
            yield from tiles(picture)


def copies(root: Path, drawn: list[Tensor]) -> tuple[set[Path], set[Path]]:
    """Files that hold an unblurred copy of something drawn, outside and inside of a quarantine."""
    known = detail(torch.stack(drawn))
    found = [f for f in root.rglob("*") if f.is_file() and any((detail(p[None]) @ known.T).max() > ALIKE for p in found_in(f))]
    inside = {f for f in found if QUARANTINE in f.relative_to(root).parts}
    return {f.relative_to(root) for f in set(found) - inside}, {f.relative_to(root) for f in inside}


AUDIT = {"suite": "smoke", "attacks": ("direct",), "seeds": (0,), "unlearner": "gradient_ascent"}
TRAINS = {"steps": "1", "batch": "2", "target_pictures": "2", "retain_pictures": "2"}


def audited(home: Path, out: Path, concept: str, **own: Any) -> dict[str, Any]:
    settings = {f"gradient_ascent.{k}": v for k, v in TRAINS.items()}
    given = {"model": str(home / "model"), "control": f"twin:{home / 'twin'}", "settings": settings, **AUDIT, **own}
    return api.run_audit(out, concept=concept, **given)


def test_a_sensitive_audit_leaves_no_unblurred_copy_outside_of_quarantine(home: Path, tmp_path: Path, seen: list[Tensor]) -> None:
    result = audited(home, tmp_path / "audit", sensitive(home))
    outside, inside = copies(tmp_path, seen)
    assert not outside
    places = {f.parts[1] if f.parts[1] != "runs" else f.parts[2].split("-")[0] for f in inside}
    assert {"arm", "quarantine", "utility"} <= places  # contact sheets, and what the unlearner trained on
    for folder in tmp_path.rglob(QUARANTINE):
        assert (folder / "NOTICE.txt").read_text() == NOTICE
    shown = [tmp_path / "audit" / strip["file"] for strip in result["strips"]]
    assert shown
    for file in shown:
        with Image.open(file) as strip:
            assert strip.height == SIDE // 2  # no original resolution
    page = (tmp_path / "audit/report.html").read_bytes()
    assert page.count(b"base64,") == len(shown)


def test_an_audit_of_something_else_shows_what_was_drawn(home: Path, tmp_path: Path, seen: list[Tensor]) -> None:
    """The search finds copies where there are some."""
    audited(home, tmp_path / "audit", sensitive(home, sensitive=False))
    outside, inside = copies(tmp_path, seen)
    names = {f.name for f in outside}
    assert {"report.html", "original-000000.png", "000000.png", "strip.png"} <= names
    assert any(f.suffix == ".safetensors" for f in outside)
    assert not inside


@pytest.mark.parametrize("hidden", [True, False])
def test_an_audit_that_keeps_none_leaves_scores_only(home: Path, tmp_path: Path, seen: list[Tensor], hidden: bool) -> None:
    result = audited(home, tmp_path / "audit", sensitive(home, sensitive=hidden), keep_images="none")
    assert seen and copies(tmp_path, seen) == (set(), set())
    assert not [f for f in tmp_path.rglob("*") if f.suffix in images.SUFFIXES or f.name == QUARANTINE]
    assert b"base64," not in (tmp_path / "audit/report.html").read_bytes()
    assert result["strips"] == [] and result["plain"]["edited"]["count"] == 4
    assert list(tmp_path.glob("audit/runs/arm-*/scores/*.json"))


def run(*arguments: Any) -> Any:
    done = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_generate_and_attack_keep_as_they_are_told(home: Path, tmp_path: Path, seen: list[Tensor]) -> None:
    model, concept = ("--model", home / "model"), ("--concept", sensitive(home))
    short = ("--steps", 2, "--count", 2)
    run("generate", "--prompt", "a bag", *short, *model, *concept, "--out", tmp_path / "concept")
    run("generate", "--prompt", "a bag", *short, *model, "--sensitive", "--out", tmp_path / "told")
    run("generate", "--prompt", "a bag", *short, *model, *concept, "--keep-images", "none", "--out", tmp_path / "none")
    run("attack", "--method", "direct", "--suite", "smoke", *model, *concept, "--out", tmp_path / "attack")
    run("attack", "--method", "direct", "--suite", "smoke", *model, *concept, "--keep-images", "none", "--out", tmp_path / "attack-none")
    outside, inside = copies(tmp_path, seen)
    assert not outside
    assert {f.parts[0] for f in inside} == {"concept", "told", "attack"}
    assert sorted(f.name for f in (tmp_path / "none").iterdir()) == ["scores.json"]
    assert not list((tmp_path / "attack-none").rglob("*.png"))
    run("generate", "--prompt", "a bag", *short, *model, "--out", tmp_path / "plain")
    assert {f.name for f in copies(tmp_path / "plain", seen)[0]} == {"picture-000.png", "picture-001.png"}


def test_other_ways_of_keeping_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="pictures are kept: all or none; given 'some'"):
        audited(home, tmp_path, sensitive(home), keep_images="some")
    with pytest.raises(BadSetting, match="given 'some'"):
        Album(keep="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(32, 32), (512, 512), (24, 600), (6, 6)])
def test_blurred_copies_are_small_and_hold_no_detail(tmp_path: Path, shape: tuple[int, int]) -> None:
    shown = torch.rand(2, 3, *shape, generator=generator(0))
    Album(sensitive=True).strip(shown, tmp_path, "strip.png")
    copy = pixels((tmp_path / "strip.png").read_bytes())
    whole = pixels((tmp_path / QUARANTINE / "strip.png").read_bytes())
    assert copy is not None and whole is not None
    assert copy.shape[1] <= max(4, min(shape[0] // 2, album.LARGEST))
    assert whole.shape[1:] == (shape[0], 2 * shape[1] + 2)
    steps = copy[:, :, : copy.shape[2] // 2 - 1].diff(dim=2).abs().max() if shape != (6, 6) else torch.zeros(())
    assert steps < 0.2  # noise of the original has steps of up to one


def test_a_report_embeds_nothing_from_quarantine(tmp_path: Path) -> None:
    Album(sensitive=True).strip(torch.rand(2, 3, 32, 32, generator=generator(0)), tmp_path, "strips/a.png")
    for file, count in (("strips/a.png", 1), ("quarantine/strips/a.png", 0), ("strips/../quarantine/strips/a.png", 0)):
        page = render({"sensitive": True, "strips": [{"title": "edited", "file": file}]}, tmp_path)
        assert page.count("base64,") == count


def test_one_module_writes_pictures() -> None:
    """Whoever calls the writers of `images` decides what is blurred: the album alone, and probes, whose pictures a distance reads again."""
    root = Path(vestige.__file__).parent
    callers = {}
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("images.save", "images.strip", "_picture"):
                callers.setdefault(file.relative_to(root).as_posix(), set()).add(ast.unparse(node.func))
    assert callers == {
        "concepts/album.py": {"images.save", "images.strip"},
        "concepts/images.py": {"_picture"},
        "continual/probes.py": {"images.save"},
    }
