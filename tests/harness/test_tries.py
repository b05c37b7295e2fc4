"""Pictures of a candidate: what they begin from or keep is dealt to every set of prompts anew, and nothing else splits a batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vestige import concepts
from vestige.diffusion.noising import Churn, Kept, Start
from vestige.harness import arms, tries
from vestige.harness.tries import Tries
from vestige.methods import Candidate

BAG = concepts.load("bag")
LATENTS, ALL = torch.zeros(3, 4, 8, 8), torch.ones(8, 8)


@pytest.mark.parametrize(
    ("candidate", "batches"),
    [
        (Candidate(1, kept=Kept(LATENTS, ALL)), [5, 4]),
        (Candidate(1, start=Start(LATENTS, 0.5)), [5, 4]),
        (Candidate(1, churn=Churn(1.0)), [9]),
    ],
)
def test_what_is_given_of_pictures_is_dealt_to_each_set_from_the_first_on(
    candidate: Candidate, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, dict[str, Any]]] = []

    def draw(model: Any, texts: list[str], *_: Any, **how: Any) -> torch.Tensor:
        seen.append((len(texts), how))
        return torch.zeros(len(texts), 3, 8, 8)

    monkeypatch.setattr(tries, "pictures", draw)
    bench: Any = SimpleNamespace(suite=SimpleNamespace(protocol=None))
    wanted = [(BAG.spread(5, "held-out"), (0, "verification")), (BAG.spread(4, "training"), (0, "selection"))]
    made = Tries(label="bag").pictures(bench, SimpleNamespace(), wanted, candidate)  # type: ignore[arg-type]
    assert [len(part) for part in made] == [5, 4]
    assert [count for count, _ in seen] == batches
    told = {"start": candidate.start, "churn": candidate.churn, "kept": candidate.kept}
    assert all(how == told for _, how in seen)
    assert not arms.plain(candidate) and arms.plain(Candidate(1))


def test_another_part_kept_is_another_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(tries, "pictures", lambda *_, **how: drawn.append(how["kept"]) or torch.zeros(2, 3, 8, 8))
    bench: Any = SimpleNamespace(suite=SimpleNamespace(protocol=None))
    view, wanted, own = SimpleNamespace(), [(BAG.spread(2, "held-out"), (0, "verification"))], Tries(label="bag")
    parts = [Kept(LATENTS, ALL), Kept(LATENTS, ALL * 0)]
    for kept in (parts[0], parts[0], parts[1]):
        own.pictures(bench, view, wanted, Candidate(1, kept=kept))  # type: ignore[arg-type]
    assert len(drawn) == 2 and all(a is b for a, b in zip(drawn, parts, strict=True))
