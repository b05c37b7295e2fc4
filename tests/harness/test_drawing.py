"""Pictures for prompts outside an audit: each on its own seed and guidance, judged in parts, scores kept with who gave them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import tiny_model
from vestige import api, metrics
from vestige.concepts import Concept
from vestige.concepts.album import Album
from vestige.concepts.prompts import parsed
from vestige.diffusion.sampling import Drawing, pictures
from vestige.harness import drawing
from vestige.harness.drawing import Asked, draw, from_prompts, of_set
from vestige.metrics import Detector
from vestige.models.latent import LatentModel

SHORT = Drawing(steps=2, batch=3)


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def test_prompts_are_drawn_as_by_the_library(tiny: LatentModel, tmp_path: Path) -> None:
    made = draw(tiny, from_prompts(["a bag"] * 4, 7, 3.0), Album(), tmp_path, SHORT)
    from vestige.concepts import images

    kept = torch.stack([images.read(Path(file)) for file in made["files"]])
    assert [Path(f).name for f in made["files"]] == [f"picture-{i:03d}.png" for i in range(4)]
    assert (kept - api.generate(tiny, ["a bag"] * 4, seed=7, steps=2)).abs().max() <= 0.51 / 255
    assert "rate" not in made and not (tmp_path / "scores.json").exists()


SET = parsed(f"prompt,seed,guidance\na bag,{2**64 - 1},7.5\na hat,3,\na coat,,1\n".encode(), "x", "x")


def test_a_set_is_drawn_on_its_own_seeds_and_guidance(tiny: LatentModel) -> None:
    asked = of_set(SET, 1, 0, 3.0)
    assert [(a.text, a.guidance) for a in asked] == [("a bag", 7.5), ("a hat", 3.0), ("a coat", 1.0)]
    assert [a.seed for a in asked[:2]] == [2**64 - 1, 3]
    drawn = drawing.seeded(tiny, asked, SHORT)
    for one, picture in zip(asked, drawn, strict=True):
        alone = pictures(tiny, [one.text], [one.seed], Drawing(steps=2, guidance=one.guidance))[0]
        torch.testing.assert_close(picture, alone, atol=1e-4, rtol=1e-4)


def test_further_pictures_of_a_row_have_seeds_of_their_own() -> None:
    asked = of_set(SET, 3, 0, 3.0)
    assert len(asked) == 9 and len({a.seed for a in asked}) == 9
    assert [a.seed for a in asked[::3]][:2] == [2**64 - 1, 3]
    assert asked == of_set(SET, 3, 0, 3.0)
    assert asked[1].seed != of_set(SET, 3, 1, 3.0)[1].seed


def shy(images: Tensor) -> Tensor:
    """Two labels; a picture whose left half is the darker one cannot be judged."""
    scores = images.mean((2, 3))[:, :2]
    scores[images[..., :16].mean((1, 2, 3)) < images[..., 16:].mean((1, 2, 3))] = math.nan
    return scores


def test_scores_are_kept_with_who_gave_them(tiny: LatentModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Detector(name="shy", version="1", weights_hash="h", labels=("one", "two"), look=shy, sets={"any": ("one", "two")}, level=0.5)
    monkeypatch.setattr(metrics, "pair", lambda concept, world: (judge, judge))
    asked = [Asked(f"prompt {i // 4}", i, 3.0) for i in range(8)]
    made = draw(tiny, asked, Album(keep="none"), tmp_path, SHORT, concept=Concept(name="any"))
    kept: dict[str, Any] = json.loads((tmp_path / "scores.json").read_text())
    drawn = drawing.seeded(tiny, asked, SHORT)
    raw = judge.raw(drawn)
    missing = int(raw.isnan().any(1).sum())
    assert 0 < missing < 8
    rate = kept["rate"]
    assert (rate["missing"], rate["count"], rate["detector"], rate["weights_hash"], rate["threshold"]) == (
        missing,
        8 - missing,
        "shy",
        "h",
        0.5,
    )
    seen = raw[~raw.isnan().any(1)].amax(1) >= 0.5
    assert rate["value"] == pytest.approx(seen.float().mean().item())
    assert [row[0] is None for row in kept["scores"]] == raw.isnan().any(1).tolist()
    assert kept["columns"] == ["one", "two"] and set(kept["sets"]["any"]) == {"0.2", "0.45", "0.6"}
    assert made["files"] == [] and f"{missing} missing" in made["text"]
    assert list(tmp_path.iterdir()) == [tmp_path / "scores.json"]
