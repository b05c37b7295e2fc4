"""A word that textual inversion found, as diffusers reads it: the same condition under a name of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from oracles import tiny_flow, tiny_model
from vestige import concepts
from vestige.checkpoints import exports
from vestige.edits import Edit
from vestige.methods.wording import row_factors, words
from vestige.seeds import generator

WORDS = {"one token": "sneaker", "several": "ankle boot"}


def inverted(model: Any, target: str) -> Edit:
    """The target's own rows of every token table, moved at random."""
    from dataclasses import replace

    rows = words(model, replace(concepts.load("sneaker"), target=target))
    factors = {}
    for i, (name, own) in enumerate(rows.items()):
        base = model.tensor(name)
        factors[name] = row_factors(base + torch.randn(base.shape, generator=generator(i, "rows")), base, own)
    return Edit(model.fingerprint, "textual_inversion", {}, "text-encoder", factors=factors)


@pytest.mark.parametrize("target", WORDS.values(), ids=WORDS)
def test_diffusers_reads_the_learned_word(tmp_path: Path, target: str) -> None:
    model = tiny_model()
    edit = inverted(model, target)
    (file,) = exports.embeddings(edit, model, target, tmp_path)
    pipe = model.pipeline()
    pipe.load_textual_inversion(str(file))
    prompt = pipe.maybe_convert_prompt(f"a photo of a <{target.replace(' ', '-')}>", pipe.tokenizer)
    ids = pipe.tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    theirs = pipe.text_encoder(ids)[0]
    ours = model.edited(edit).condition([f"a photo of a {target}"]).text
    assert torch.allclose(theirs, ours, atol=1e-5)  # one matrix of embeddings more, another order of sums
    assert not torch.allclose(model.condition([f"a photo of a {target}"]).text, ours, atol=1e-2)


def test_what_a_pipeline_learns_does_not_reach_the_model(tmp_path: Path) -> None:
    model = tiny_model()
    before, ids = model.fingerprint, model.tokens(["a <sneaker>"])
    (file,) = exports.embeddings(inverted(model, "sneaker"), model, "sneaker", tmp_path)
    model.pipeline().load_textual_inversion(str(file))
    assert torch.equal(model.tokens(["a <sneaker>"]), ids) and model.fingerprint == before


def test_each_encoder_has_a_file(tmp_path: Path) -> None:
    model = tiny_flow("dev")
    edit = inverted(model, "sneaker")
    found = exports.embeddings(edit, model, "sneaker", tmp_path)
    assert [file.name for file in found] == ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    pipe = model.pipeline()
    pipe.load_textual_inversion(str(found[1]), text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
    assert "<sneaker>" in pipe.tokenizer_2.get_vocab()


def test_an_edit_of_anything_else_is_no_word(tmp_path: Path) -> None:
    model = tiny_model()
    edit = inverted(model, "sneaker")
    name = model.scope("attention")[0]
    low = (torch.zeros(1, model.tensor(name).shape[1]), torch.zeros(len(model.tensor(name)), 1))
    more = Edit(model.fingerprint, "x", factors={**edit.factors, name: low})
    assert exports.embeddings(more, model, "sneaker", tmp_path) == []
    assert exports.adapter(edit, model, tmp_path) is None
    assert not any(tmp_path.iterdir())
