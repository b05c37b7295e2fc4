"""Networks that look at pictures: every weight is accounted for, and pickles are not opened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from onlookers import classifier
from vestige.errors import BadInput
from vestige.metrics.reading import pretrained

KIND = "AutoModelForImageClassification"


def test_a_network_is_read_whole_for_looking_alone(tmp_path: Path) -> None:
    network = pretrained(KIND, classifier(tmp_path / "vit"), "judge")
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    stored = load_file(tmp_path / "vit/model.safetensors")  # by names of its own
    held, file = (sorted((tuple(w.shape), w.flatten().tolist()) for w in weights.values()) for weights in (network.state_dict(), stored))
    assert held == file


@pytest.mark.parametrize(("change", "headless"), [("gone", False), ("gone", True), ("more", False), ("more", True)])
def test_weights_that_are_missing_or_left_over_are_refused(tmp_path: Path, change: str, headless: bool) -> None:
    """Those left over may be another task's head, where somebody says so."""
    file = classifier(tmp_path / "vit") / "model.safetensors"
    weights = load_file(file)
    if change == "gone":
        del weights["classifier.bias"]
    else:
        weights["decoder.bias"] = torch.zeros(3)
    save_file(weights, file, metadata={"format": "pt"})
    if change == "more" and headless:
        assert pretrained(KIND, file.parent, "judge", headless=True).config.num_labels == 3
        return
    with pytest.raises(BadInput, match=rf"the judge in .* does not load whole: {'missing' if change == 'gone' else 'unexpected'}_keys"):
        pretrained(KIND, file.parent, "judge", headless=headless)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "vit")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        pretrained(KIND, folder, "judge")
