"""Tokenizers: read from their folders, and held against the text encoders whose embeddings their ids pick."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from vestige.errors import BadInput, Incompatible

CLIP = 77  # tokens that its text encoders read
COVERED = 0.9  # of a table's rows, at least; tables are padded to a round number of rows, or have rows for words that were added
SPELLED = 0.99  # of a vocabulary's words, at least, are made by its merges; all of CLIP's are
_FILES: Mapping[str, Sequence[str]] = {"CLIP": ("vocab.json", "merges.txt"), "Qwen": ("vocab.json", "merges.txt"), "T5": ("spiece.model",)}


def load(kind: Any, folder: Path, what: str) -> Any:
    """A tokenizer from its folder.

    Arguments:
        kind: Its class, of transformers.
        what: How errors call it, e.g. "tokenizer of wardrobe".
    """
    needed = next((files for start, files in _FILES.items() if kind.__name__.startswith(start)), ())
    lacking = [file for file in needed if not (folder / file).is_file()]
    if lacking and not (folder / "tokenizer.json").is_file():
        raise BadInput(f"{what} lacks {folder / lacking[0]} (or a tokenizer.json in its place); fetch it again")
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its readers raise whatever they stumble over, the bare Exception included
        named = ", ".join(str(folder / file) for file in ("tokenizer.json", *needed) if (folder / file).is_file())
        raise BadInput(f"{what} cannot be read from {named or folder} ({type(error).__name__}: {error}); fetch it again") from error


def fits(tokenizer: Any, encoder: Any, what: str) -> None:
    """Refuse a tokenizer that knows more words than the encoder has embeddings, or hardly any of them, or cannot make its own words."""
    words = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor
    if not hasattr(words, "get_vocab"):
        return
    vocabulary, rows = words.get_vocab(), encoder.get_input_embeddings().num_embeddings
    highest = max(vocabulary.values(), default=-1)
    if highest >= rows:
        raise Incompatible(f"{what} has {highest + 1} words and its text encoder {rows} embeddings; give the two that belong together")
    if len(vocabulary) < COVERED * rows:
        raise Incompatible(
            f"{what} has {len(vocabulary)} words for the {rows} embeddings of its text encoder; its vocabulary (vocab.json and merges.txt, "
            "spiece.model or tokenizer.json) is missing, cut or another model's"
        )
    made = _spelled(words)
    if made < SPELLED:
        raise Incompatible(
            f"{what} can spell {made:.0%} of its own words; its merges (merges.txt, or those of tokenizer.json) are cut or another model's"
        )


def _spelled(words: Any) -> float:
    """Of a byte-pair vocabulary's words, the share that its merges make; 1 where the tokenizer is of another kind."""
    backend = getattr(words, "backend_tokenizer", None)
    if backend is None:
        return 1.0
    told = json.loads(backend.to_str())
    model, suffix = told["model"], told["model"].get("end_of_word_suffix") or ""
    if model.get("type") != "BPE" or model.get("ignore_merges") or model.get("byte_fallback"):
        return 1.0
    merged = {a + b for a, b in (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])}
    single = {*(extra["content"] for extra in told["added_tokens"]), model.get("unk_token")}
    longer = [word for word in model["vocab"] if word not in single and len(word.removesuffix(suffix)) > 1]
    return sum(word in merged for word in longer) / len(longer) if longer else 1.0


def length(tokenizer: Any, most: int = CLIP) -> int:
    """How many tokens an encoder is given, its start and end included."""
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 3:
        raise Incompatible(f"a tokenizer says model_max_length = {str(longest)[:40]}, which leaves no room for a word; set it to {most}")
    return int(min(longest, most))


def room(tokenizer: Any, encoder: Any, what: str) -> None:
    """Refuse a tokenizer that cuts prompts where its CLIP encoder has no places any more, or where no word is left."""
    cut, places = length(tokenizer), int(encoder.config.max_position_embeddings)
    if not 3 <= cut <= places:
        raise Incompatible(f"{what} cuts prompts at {cut} tokens and its text encoder has {places} places; set its model_max_length")


def ends(tokenizer: Any, encoder: Any, what: str) -> None:
    """Refuse a CLIP encoder that takes its pooled state from another token than the tokenizer's end; 2 stands for the highest number."""
    end = encoder.config.eos_token_id
    if end != tokenizer.eos_token_id and (end != 2 or tokenizer.eos_token_id != max(tokenizer.get_vocab().values())):
        raise Incompatible(
            f"{what} ends prompts with token {tokenizer.eos_token_id} and its text encoder looks for {str(end)[:40]} (eos_token_id); "
            "give the two that belong together"
        )


def ids(tokenizer: Any, prompts: Sequence[str], count: int) -> Tensor:
    """Token ids (B, L), padded and cut to a number of tokens."""
    given = tokenizer(list(prompts), padding="max_length", max_length=count, truncation=True, return_tensors="pt")
    return cast(Tensor, given.input_ids)


def longer(prompts: Sequence[str], lengths: Mapping[Any, int]) -> list[str]:
    """The prompts whose end no encoder reads.

    Arguments:
        lengths: Each encoder's tokenizer -> how many tokens it is given.
    """
    if not prompts:
        return []
    counts = [[len(one) - most for one in words(list(prompts), verbose=False).input_ids] for words, most in lengths.items()]
    return [prompt for prompt, *over in zip(prompts, *counts, strict=True) if min(over) > 0]


def reads(reader: str) -> Any:
    """The class that reads an encoder's tokenizer."""
    import transformers

    first = {"CLIP": "CLIPTokenizer", "T5": "T5TokenizerFast", "Qwen": "Qwen2TokenizerFast"}
    return getattr(transformers, next((kind for start, kind in first.items() if reader.startswith(start)), "AutoProcessor"))
