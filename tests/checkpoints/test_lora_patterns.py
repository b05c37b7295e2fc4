"""Scales by pattern: PEFT's own rule, held against PEFT's own function."""

from __future__ import annotations

import pytest
import torch
from peft.utils.other import get_pattern_key

from vestige.checkpoints import lora
from vestige.errors import BadInput

MODULES = [
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k",
    "up_blocks.0.resnets.0.conv1",
]
PATTERNS = [
    {".*attn2.*to_k": 1},
    {r"down_blocks\.\d.*": 1},
    {"k": 1},
    {"to_k": 1},
    {"attn2.to_k": 1, "to_k": 2},
    {"to_k": 2, "attn2.to_k": 1},
    {r"^down_blocks\.1.*attn1\.to_k": 3},
    {"attn[12].to_(k|v)": 1},
    {"conv": 1},
]


def scales(told: dict[str, object], prefix: str = "base_model.model.") -> dict[str, float]:
    names = {f"{prefix}{m}.lora_{s}.weight": (4, 6) if s == "A" else (6, 4) for m in MODULES for s in "AB"}
    found, stray = lora.adapters("peft", names, lambda name: torch.zeros(names[name]), lora.scales({}, told))
    assert stray == []
    return {adapter.module: adapter.scale for adapter in found}


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_alpha_of_a_module_is_what_peft_finds(pattern: dict[str, int]) -> None:
    found = scales({"r": 4, "lora_alpha": 4, "alpha_pattern": pattern})
    assert found == {m: pattern.get(get_pattern_key(pattern.keys(), m), 4) / 4 for m in MODULES}


def test_patterns_of_a_component_are_matched_within_it() -> None:
    """diffusers keeps each component's configuration under its name; keys do not name the component."""
    names = {f"unet.{MODULES[0]}.lora_{s}.weight": (4, 6) if s == "A" else (6, 4) for s in "AB"}
    metadata = '{"unet.r": 4, "unet.lora_alpha": 4, "unet.alpha_pattern": {"^down_blocks.*": 1}}'
    told = lora.scales({"lora_adapter_metadata": metadata}, {})
    (adapter,), _ = lora.adapters("peft", names, lambda name: torch.zeros(names[name]), told)
    assert adapter.scale == 0.25


def test_ranks_by_pattern_are_held_against_the_factors() -> None:
    assert scales({"r": 8, "lora_alpha": 8, "rank_pattern": {".*": 4}}) == dict.fromkeys(MODULES, 2.0)
    with pytest.raises(BadInput, match="rank 8, and its factors have rank 4"):
        scales({"r": 8, "lora_alpha": 8, "rank_pattern": {"conv1": 4}})


@pytest.mark.parametrize("key", ["(a+)+$", "((x|y)*)*", ".*a.*b.*c.*d.*e.*", "to_k" * 100, "(", "[", "x{99999999999999999999}"])
def test_keys_that_are_no_pattern_or_would_take_forever_are_refused(key: str) -> None:
    with pytest.raises(BadInput, match="alpha_pattern has the key"):
        scales({"r": 4, "lora_alpha": 4, "alpha_pattern": {key: 1}})


@pytest.mark.parametrize("begun", ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq"])
def test_factors_of_a_residual_are_refused(begun: str) -> None:
    """PEFT takes the first factors off the weights; what it saves belongs to what is left of them."""
    with pytest.raises(BadInput, match=f"it began as '{begun}'"):
        scales({"r": 4, "lora_alpha": 4, "init_lora_weights": begun})


@pytest.mark.parametrize("begun", [True, False, "gaussian", "eva", "orthogonal"])
def test_other_ways_to_begin_change_no_weight(begun: object) -> None:
    assert scales({"r": 4, "lora_alpha": 4, "init_lora_weights": begun}) == dict.fromkeys(MODULES, 1.0)
