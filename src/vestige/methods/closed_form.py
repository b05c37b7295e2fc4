"""What closed forms on cross-attention are written with: rows of the text, their sums of products, and the solve that serves all matrices.

Every right-hand side of such a form is the weights W_0 times something, so one map of the text, I + X, changes every matrix to
W_0 + W_0 X. Rows are (n, D) and sums (D, D), in float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.attention import columns

KEYS_AND_VALUES = "cross-attention-kv"  # the scope of what is solved for
LACK = "there are no keys and values of the text to solve for"  # of a model without cross-attention
Rule = Literal["word", "tail"]
Words = Literal["bare", "plain", "all"]  # the concept's words alone; its training prompts without a context; all of those


def last_word(model: Model, text: str, words: str) -> int:
    """Row of the last token of `words` in the encoded `text`; 0, the start token's row, for no words."""
    return columns(model, text, words)[-1] if words else 0


def every_row(model: Model, texts: Sequence[str]) -> Tensor:
    """Embeddings of all tokens of all prompts, (n, D)."""
    return model.condition(texts).text.cpu().double().flatten(0, 1)


def worded(concept: Concept, *, anchor: str, words: Words) -> tuple[list[str], list[str]]:
    """Texts that name the concept, and the same with `anchor` in its place; "" takes the empty prompt."""
    if words == "bare":
        return [concept.target], [anchor]
    texts, anchors = [p.text for p in concept.prompts("training")], concept.others(anchor)
    if words == "plain":
        bare = set(concept.plain())
        pairs = [(t, a) for t, a in zip(texts, anchors, strict=True) if t in bare]
        texts, anchors = [t for t, _ in pairs], [a for _, a in pairs]
    return texts, anchors


def word_rows(model: Model, concept: Concept, *, rule: Rule, anchor: str, words: Words) -> tuple[Tensor, Tensor]:
    """Rows of texts that name the concept, and of those that name `anchor` instead, in the same order.

    Arguments:
        rule: "word": the row of the words' last token. "tail": every row from that token on, paired in order.
        anchor: "" takes the empty prompt, from its start token on.
    """
    texts, anchors = worded(concept, anchor=anchor, words=words)
    own, other = [], []
    c, g = model.condition(texts).text.cpu().double(), model.condition(anchors).text.cpu().double()
    for text, instead, rows, goal in zip(texts, anchors, c, g, strict=True):
        start, stop = last_word(model, text, concept.target), last_word(model, instead, anchor)
        length = 1 if rule == "word" else len(rows) - max(start, stop)
        own.append(rows[start : start + length])
        other.append(goal[stop : stop + length])
    return torch.cat(own), torch.cat(other)


def kept_rows(model: Model, concept: Concept, *, rule: Rule) -> Tensor:
    """Rows of the empty prompt, and of the training prompts of neighbours and unrelated concepts.

    Arguments:
        rule: As above, but that "tail" takes every row of a prompt; of the empty prompt, "word" takes the start token's.
    """
    named = {p.text: word for word in (*concept.neighbours, *concept.unrelated) for p in concept.prompts("training", word)}
    texts = ["", *named]
    text = model.condition(texts).text.cpu().double()
    if rule == "tail":
        return text.flatten(0, 1)
    rows = [text[0, :1]]
    for i, t in enumerate(texts[1:], start=1):
        at = last_word(model, t, named[t])
        rows.append(text[i, at : at + 1])
    return torch.cat(rows)


def no_rows(model: Model) -> Tensor:
    """(0, D)."""
    return torch.zeros(0, model.condition([""]).text.shape[-1], dtype=torch.float64)


def solved(right: Tensor, gram: Tensor, ridge: float) -> Tensor:
    """X with X (gram + ridge I) = right, by Cholesky.

    Arguments:
        right: (n, D).
        gram: (D, D), positive semi-definite.
        ridge: Above 0.
    """
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype))
    return torch.cholesky_solve(right.T, factor).T


def turn(erased: Tensor, goals: Tensor, kept: Tensor, *, ridge: float) -> Tensor:
    """X with which W_0 + W_0 X minimises sum |W e - W_0 g|^2 + |(W - W_0) kept^1/2|^2 + ridge |W - W_0|^2.

    Arguments:
        erased: e, (n, D).
        goals: g, like `erased`.
        kept: Sum of products of what must stay, (D, D).
    """
    return solved((goals - erased).T @ erased, erased.T @ erased + kept, ridge)
