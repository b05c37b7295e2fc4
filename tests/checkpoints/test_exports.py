"""Exports: other tools read them and draw the same pictures; what a LoRA cannot hold is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import published
from oracles import tiny_classes, tiny_model
from vestige import checkpoints
from vestige.checkpoints import export, exports
from vestige.checkpoints.lora import low_rank
from vestige.diffusion import Model
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit, Hook
from vestige.errors import BadInput, BadSetting, Incompatible
from vestige.models.latent import LatentModel

KV, NOTES = "cross-attention-kv", {"concept": "bag", "seed": 3}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def draw(model: Model) -> Tensor:
    return sample(model, noise(model.latent_shape, [0, 1]), model.condition(["a sneaker", "neon"]), steps=3)


def replaced(model: Any, scope: str = KV) -> Edit:
    return Edit(model.fingerprint, "uce", {"strength": 1.0}, scope, published.moved(model, scope), notes=NOTES)


def adapted(model: LatentModel, scope: str = "attention", rank: int = 3) -> Edit:
    return Edit(model.fingerprint, "spm", {"rank": rank}, scope, factors=published.factors(model, scope, rank), notes=NOTES)


def test_folder_is_read_by_diffusers_and_draws_the_same(tiny: LatentModel, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    edit = replaced(tiny)
    export(edit, tiny, tmp_path / "out", "folder")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    assert torch.equal(draw(LatentModel.from_pipeline(pipe)), draw(tiny.edited(edit)))
    back = checkpoints.load(tmp_path / "out", tiny)
    assert all(torch.equal(back.tensors[n], edit.tensors[n]) for n in edit.touched)


def test_folder_of_a_class_conditional_model(tmp_path: Path) -> None:
    from vestige import models

    model = tiny_classes()
    edit = replaced(model, "attention")
    export(edit, model, tmp_path / "out", "folder")
    assert models.load(str(tmp_path / "out")).fingerprint == model.edited(edit).fingerprint


@pytest.mark.parametrize("scope", [KV, "text-encoder", "all"])
def test_partial_round_trip_is_exact(scope: str, tiny: LatentModel, tmp_path: Path) -> None:
    edit = replaced(tiny, scope)
    export(edit, tiny, tmp_path / "out", "partial")
    back = checkpoints.load(tmp_path / "out/edit.safetensors", tiny)
    assert back.touched == edit.touched
    assert all(torch.equal(back.tensors[n], edit.tensors[n]) for n in edit.touched)


def test_partial_has_the_keys_that_esd_and_uce_publish_and_loads_as_theirs_do(tiny: LatentModel, tmp_path: Path) -> None:
    edit = replaced(tiny)
    export(edit, tiny, tmp_path / "out", "partial")
    table = load_file(tmp_path / "out/edit.safetensors")
    assert set(table) == {n.removeprefix("unet.") for n in tiny.scope(KV)}
    other = tiny_model()
    assert other.parts["unet"].load_state_dict(table, strict=False).unexpected_keys == []
    assert torch.equal(draw(other), draw(tiny.edited(edit)))


def test_partial_of_factors_holds_their_sum(tiny: LatentModel, tmp_path: Path) -> None:
    edit = adapted(tiny)
    export(edit, tiny, tmp_path / "out", "partial")
    assert torch.equal(draw(tiny.edited(checkpoints.load(tmp_path / "out/edit.safetensors", tiny))), draw(tiny.edited(edit)))


@pytest.mark.parametrize(("form", "file"), [("kohya", "lora.safetensors"), ("lora", "pytorch_lora_weights.safetensors")])
@pytest.mark.parametrize("scope", ["attention", "transformers"])
def test_lora_is_read_by_diffusers_and_draws_the_same(form: str, file: str, scope: str, tiny: LatentModel, tmp_path: Path) -> None:
    """Linear maps and 1 x 1 convolutions; peft adds the product to the output instead of the weight, another order of sums."""
    edit = adapted(tiny, scope)
    made = export(edit, tiny, tmp_path / "out", form)
    assert made.loss and made.loss.error < 1e-6
    assert made.loss.rank == 3
    pipe = tiny.pipeline()
    pipe.load_lora_weights(tmp_path / "out", weight_name=file)
    theirs = LatentModel("theirs", {**tiny.parts, "unet": pipe.unet}, tiny.tokenizer, tiny.scheduler)
    torch.testing.assert_close(draw(theirs), draw(tiny.edited(edit)), rtol=1e-4, atol=1e-5)
    assert (draw(theirs) - draw(tiny)).abs().max() > 1e-3
    back = checkpoints.load(tmp_path / "out" / file, tiny)
    torch.testing.assert_close(draw(tiny.edited(back)), draw(tiny.edited(edit)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["kohya", "lora"])
def test_lora_of_a_text_encoder_is_read_by_diffusers(form: str, tiny: LatentModel, tmp_path: Path) -> None:
    edit = Edit(tiny.fingerprint, "x", {}, "text-encoder", factors=published.projections(tiny, 4), notes=NOTES)
    made = export(edit, tiny, tmp_path / "out", form)
    pipe = tiny.pipeline()
    pipe.load_lora_weights(tmp_path / "out", weight_name=made.files[0].name)
    theirs = LatentModel("theirs", {**tiny.parts, "text_encoder": pipe.text_encoder}, tiny.tokenizer, tiny.scheduler)
    torch.testing.assert_close(draw(theirs), draw(tiny.edited(edit)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(draw(theirs), draw(tiny), atol=1e-4)


def test_lora_in_kohyas_names_has_the_documented_keys(tiny: LatentModel, tmp_path: Path) -> None:
    export(adapted(tiny, "transformers", 1), tiny, tmp_path / "out", "kohya")
    table = load_file(tmp_path / "out/lora.safetensors")
    head = "lora_unet_mid_block_attentions_0"
    assert {n.partition(".")[2] for n in table} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert table[f"{head}_proj_in.lora_down.weight"].shape == (1, 32, 1, 1)
    assert table[f"{head}_proj_in.lora_up.weight"].shape == (32, 1, 1, 1)
    assert table[f"{head}_transformer_blocks_0_attn2_to_k.lora_down.weight"].shape == (1, 32)
    assert table[f"{head}_proj_in.alpha"] == 1.0


def test_cut_to_a_rank_is_the_best_there_is(tiny: LatentModel) -> None:
    """The lost norm is that of the singular values left out (Eckart and Young), over all weights."""
    edit = replaced(tiny)
    factors, loss = low_rank(edit, tiny, 4)
    lost = whole = 0.0
    for name in edit.touched:
        values = torch.linalg.svdvals(edit.tensors[name].double() - tiny.tensor(name).double())
        lost, whole = lost + values[4:].square().sum().item(), whole + values.square().sum().item()
        assert [len(side) for side in (factors[name][0], factors[name][1].T)] == [4, 4]
    assert loss.error == pytest.approx((lost / whole) ** 0.5, rel=1e-4)  # factors are kept in single precision
    assert loss.worst[1] >= loss.error
    assert loss.left_out == ()


def test_error_falls_with_the_rank_and_vanishes_at_the_full_one(tiny: LatentModel) -> None:
    errors = [low_rank(replaced(tiny), tiny, rank)[1].error for rank in (1, 4, 16, 32)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6


def test_what_no_lora_can_hold_is_told_and_counts_as_lost(tiny: LatentModel) -> None:
    edit = replaced(tiny, "unet")
    factors, loss = low_rank(edit, tiny, 10_000)
    vectors = [n for n in edit.touched if tiny.tensor(n).dim() < 2]
    assert set(loss.left_out) == set(vectors)
    assert not set(factors) & set(vectors)
    assert loss.error > 0.01


def test_edit_of_vectors_alone_has_no_lora(tiny: LatentModel, tmp_path: Path) -> None:
    name = "unet.conv_in.bias"
    edit = Edit(tiny.fingerprint, "x", tensors={name: tiny.tensor(name) + 1})
    with pytest.raises(Incompatible, match="changes no matrix"):
        export(edit, tiny, tmp_path / "out", "lora")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", exports.FORMS)
def test_every_export_has_a_card_with_metadata(form: str, tiny: LatentModel, tmp_path: Path) -> None:
    edit = adapted(tiny)
    made = export(edit, tiny, tmp_path / "out", form)
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert made.files[-1] == tmp_path / "out/README.md"
    front = card.split("---\n")[1]
    assert 'base_model: "tiny"' in front
    assert 'license: "other"' in front
    assert "- machine-unlearning" in front
    assert ("- lora" in front) == (form in ("kohya", "lora"))
    for text in ("spm", '"rank": 3', tiny.fingerprint, "bag", "Not audited", "licence"):
        assert text in card
    json.dumps(made.as_dict())


def test_card_carries_the_verdict_of_an_audit_of_this_edit_and_of_no_other(tiny: LatentModel, tmp_path: Path) -> None:
    edit, run = replaced(tiny), tmp_path / "run"
    run.mkdir()
    result = {
        "verdict": {"kind": "short-term", "reason": "relearned at once"},
        "savings": {"value": 0.81, "low": 0.7, "high": 0.9},
        "provenance": {"edited_hash": tiny.edited(edit).fingerprint[:16]},
        "concept": "bag",
        "suite": "quick-2",
    }
    (run / "result.json").write_text(json.dumps(result))
    export(edit, tiny, tmp_path / "out", "partial", audit=run)
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert "**short-term**: relearned at once" in card
    assert "Savings: 0.81 [0.70, 0.90]" in card
    with pytest.raises(Incompatible, match="an audit of another edit"):
        export(adapted(tiny), tiny, tmp_path / "other", "partial", audit=run)
    with pytest.raises(BadInput, match="no finished audit"):
        export(edit, tiny, tmp_path / "none", "partial", audit=tmp_path)


def test_mistakes_are_refused_before_anything_is_written(tiny: LatentModel, tmp_path: Path) -> None:
    edit = replaced(tiny)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").write_text("x")
    hooked = replace(edit, hooks=(Hook("unlearners", "remap", {"words": "bag", "towards": "boot"}),))
    cases: list[tuple[Edit, dict[str, Any], type[Exception], str]] = [
        (edit, {"form": "onnx"}, BadSetting, "an export is one of"),
        (edit, {"form": "lora", "rank": -1}, BadSetting, "rank is at least 1"),
        (edit, {"form": "partial", "folder": tmp_path / "full"}, BadInput, "not empty"),
        (hooked, {"form": "partial"}, Incompatible, "acts at inference time"),
        (replace(edit, base="other"), {"form": "partial"}, Incompatible, "was made on a model"),
        (Edit(tiny.fingerprint, "nothing"), {"form": "partial"}, Incompatible, "changes no weight"),
    ]
    for given, arguments, error, message in cases:
        with pytest.raises(error, match=message):
            export(given, tiny, **{"folder": tmp_path / "out", **arguments})
    assert not (tmp_path / "out").exists()


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: LatentModel) -> None:
    from typer.testing import CliRunner

    from vestige import models
    from vestige.cli import app

    monkeypatch.setattr(models, "load", lambda *_: tiny)
    path, _ = published.f5(tmp_path, tiny)
    run = CliRunner()
    told = run.invoke(app, ["inspect", str(path), "--model", "tiny", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["made_by"] == ["SPM"]
    text = run.invoke(app, ["inspect", str(path)]).stdout
    assert "F5: a LoRA in kohya's names" in text
    assert "matched" not in text
    done = run.invoke(app, ["export", str(path), "--as", "lora", "--model", "tiny", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["loss"]["rank"] == 1
    assert (tmp_path / "out/pytorch_lora_weights.safetensors").is_file()
