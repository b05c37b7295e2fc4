"""Words as a search handles them: rows of token tables, weights over the vocabulary, and text that reads back as the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.attention import innermost
from vestige.errors import Incompatible


def row_factors(table: Tensor, base: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
    """The change of these rows of a token table as factors, (rows, width) and (table, rows)."""
    pick = F.one_hot(torch.tensor(rows), len(base)).T.to(base)
    return table[rows] - base[rows], pick


def rows_alone(rows: Mapping[str, list[int]]) -> Callable[[Mapping[str, Tensor]], None]:
    """A projection of gradients of token tables that leaves all other rows where they are."""

    def project(gradients: Mapping[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            kept = gradient[rows[name]]  # a copy
            gradient.zero_()[rows[name]] = kept

    return project


def words(model: Model, concept: Concept) -> dict[str, list[int]]:
    """Rows that the target's words are read from, by table of token embeddings."""
    return rows_of(model, concept.target)


def rows_of(model: Model, word: str) -> dict[str, list[int]]:
    """Rows that a word's tokens are read from, by table of token embeddings: start, end and padding aside."""
    blank, ids = (model.tokens([text])[0] for text in ("", word))
    found = {}
    for name, columns in model.tables().items():
        kept = set(blank[columns].tolist())
        found[name] = [i for i in dict.fromkeys(ids[columns].tolist()) if i not in kept]
    if not all(found.values()):
        raise Incompatible(f"{model.name} knows no word of {word!r}")
    return found


def vocabulary(model: Model) -> Tensor:
    """Ids that a prompt may be made of, (n,): all but start, end, padding and their like.

    Errors:
        Incompatible, of a model that reads no tokens, or with several encoders whose vocabularies differ.
    """
    model.tokens([""])
    tokenizer = innermost(model).tokenizer
    away = set(tokenizer.all_special_ids)
    return torch.tensor([i for i in range(len(tokenizer)) if i not in away])


def joined(ids: Tensor, prefix: Tensor) -> Tensor:
    """Token weights (n, L, V): start, the prefix's weights (n, k, V), and the prompts' ids (n, L) without their last k paddings."""
    return inserted(ids, prefix, [[1] * prefix.shape[1]] * len(ids))


def inserted(ids: Tensor, free: Tensor, spots: Sequence[Sequence[int]]) -> Tensor:
    """Token weights (n, L, V) of prompts with free tokens in between, cut to the prompts' length.

    Arguments:
        ids: Prompts, (n, L).
        free: Weights of free tokens, (n, k, V); a row with fewer spots than k leaves its last ones out.
        spots: For each prompt the places, rising, in front of which its free tokens stand: 1 is right behind the start.
    """
    hard, rows = F.one_hot(ids, free.shape[-1]).to(free), []
    for i, places in enumerate(spots):
        cuts = [0, *places, ids.shape[1]]
        pieces = [hard[i, cuts[0] : cuts[1]]]
        for j in range(len(places)):
            pieces += [free[i, j : j + 1], hard[i, cuts[j + 1] : cuts[j + 2]]]
        rows.append(torch.cat(pieces)[: ids.shape[1]])
    return torch.stack(rows)


def around(model: Model, prompts: Tensor) -> Tensor:
    """Token rows (n, L) of prompts (n, K), with start, end and padding."""
    blank = model.tokens([""]).expand(len(prompts), -1)
    return torch.cat([blank[:, :1], prompts, blank[:, 1 : blank.shape[1] - prompts.shape[1]]], 1)


def read_back(model: Model, ids: Tensor) -> tuple[list[str], list[bool]]:
    """Token rows (n, L) as text, and whether each reads back as the same tokens."""
    tokenizer = innermost(model).tokenizer
    texts = [tokenizer.decode(row.tolist(), skip_special_tokens=True).strip() for row in ids]
    return texts, [bool(torch.equal(a, b)) for a, b in zip(model.tokens(texts), ids.cpu(), strict=True)]


@dataclass(frozen=True)
class Embeddings:
    """A model's table of token embeddings, to move in it and come back to words (Wen et al., 2023).

    Arguments:
        table: (V, D), float32; of several encoders that share a vocabulary, side by side.
        inverse: Its pseudo-inverse, (D, V).
        allowed: Ids that may be words of a prompt, (n,).
    """

    table: Tensor
    inverse: Tensor
    allowed: Tensor

    @staticmethod
    def of(model: Model) -> Embeddings:
        allowed = vocabulary(model)
        size = len(innermost(model).tokenizer)
        table = torch.cat([model.tensor(name).detach().float()[:size] for name in model.tables()], 1)
        wide = table.cpu().double()  # not every device has doubles
        inverse = torch.linalg.pinv(wide.T @ wide, hermitian=True) @ wide.T
        return Embeddings(table, inverse.to(table), allowed.to(table.device))

    def nearest(self, embeddings: Tensor) -> Tensor:
        """Ids (...) of the allowed tokens nearest by cosine to embeddings (..., D)."""
        near = F.normalize(embeddings, dim=-1) @ F.normalize(self.table[self.allowed], dim=-1).T
        return self.allowed[near.argmax(-1)]

    def weights(self, ids: Tensor, moving: Tensor) -> Tensor:
        """One-hot weights (..., V) of ids (...), whose gradient is that of an embedding (..., D) at their place.

        hard + (e - sg e) T+, which an encoder's table T reads as T[ids] + (e - sg e), for T+ T = 1.
        """
        return F.one_hot(ids, len(self.table)).to(moving) + (moving - moving.detach()) @ self.inverse
