"""SPEED: the paper's formula with its inverses gives the same weights; what is protected stays, and the rest is the constrained optimum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import tiny_exact, tiny_flow
from vestige import concepts
from vestige.concepts import Concept
from vestige.concepts.joint import joint
from vestige.edits import Edit
from vestige.errors import BadSetting, Incompatible
from vestige.methods.closed_form import KEYS_AND_VALUES
from vestige.models.latent import LatentModel
from vestige.unlearners.speed import SPEED, centres, kept_directions

SNEAKER, BAG, NEON = (concepts.load(name) for name in ("sneaker", "bag", "neon"))
WAYS: list[dict[str, Any]] = [
    {},
    {"words": "all"},
    {"rule": "tail", "words": "plain", "threshold": 0.3},
    {"matrices": "both", "ridge": 0.1},
]
EYE = torch.eye(32, dtype=torch.float64)


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    return tiny_exact()


def made(model: LatentModel, concept: Concept = SNEAKER, seed: int = 0, **settings: Any) -> Edit:
    return SPEED(**settings)(model, concept, seed=seed)


def changes(model: LatentModel, edit: Edit) -> dict[str, Tensor]:
    return {name: edit.tensors[name] - model.tensor(name) for name in edit.touched}


def row(model: LatentModel, text: str, word: str) -> int:
    """Where the one token of a word stands."""
    (token,) = model.tokenizer(word).input_ids[1:-1]
    return int(model.tokenizer(text).input_ids.index(token))


def grams(model: LatentModel, rule: str, texts: list[tuple[str, str]], words: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Sums over tokens, means over texts, of target by target and of anchor by target, token by token."""
    own, across = torch.zeros(32, 32, dtype=torch.float64), torch.zeros(32, 32, dtype=torch.float64)
    for text, other in texts:
        e, g = model.condition([text, other]).text
        at, to = row(model, text, words[0]), row(model, other, words[1])
        for k in range(1 if rule == "word" else len(e) - max(at, to)):
            own += torch.outer(e[at + k], e[at + k]) / len(texts)
            across += torch.outer(g[to + k], e[at + k]) / len(texts)
    return own, across


def pairs(concept: Concept, words: str) -> list[tuple[str, str]]:
    texts = [p.text for p in concept.prompts("training")]
    if words == "plain":
        texts = [t for t in texts if t in concept.plain()]
    texts = [concept.target] if words == "bare" else texts
    return [(t, t.replace(concept.target, concept.anchor)) for t in texts]


def published(model: LatentModel, weight: Tensor, method: SPEED, retained: Tensor, held: Tensor) -> Tensor:
    """The change of a matrix by the formula as it is published: projectors, four inverses, nothing shared."""
    target, anchor = grams(model, method.rule, pairs(SNEAKER, method.words), (SNEAKER.target, SNEAKER.anchor))
    u, s, _ = torch.linalg.svd(retained.T @ retained / len(retained))
    small = u[:, s < float(method.threshold)]
    p, k = small @ small.T, held.T
    m = (target @ p + float(method.ridge) * EYE).inverse()
    inner = m @ k @ (k.T @ p @ m @ k).inverse() @ k.T @ p
    return weight @ (anchor - target) @ p @ (EYE - inner) @ m


@pytest.mark.parametrize("settings", WAYS)
def test_the_published_formula_gives_the_same_weights(exact: LatentModel, settings: dict[str, Any]) -> None:
    method = SPEED(copies=0, choose=False, **settings).resolved(SNEAKER)
    edit, kept, held = method(exact, SNEAKER, seed=0), method.kept(exact, SNEAKER), method.held(exact)
    wanted = ["to_v"] if method.matrices == "values" else ["to_k", "to_v"]
    assert set(edit.touched) == {n for n in exact.scope(KEYS_AND_VALUES) if any(kind in n for kind in wanted)}
    for name, change in changes(exact, edit).items():
        other = published(exact, exact.tensor(name), method, kept, held)
        torch.testing.assert_close(change, other, atol=1e-7 * float(other.norm()), rtol=0)
        assert float(change.norm()) > 1e-3 * float(exact.tensor(name).norm())


@pytest.mark.parametrize("settings", WAYS)
def test_what_is_protected_is_untouched_and_the_rest_is_optimal(exact: LatentModel, settings: dict[str, Any]) -> None:
    """The objective's gradient has no component along a free direction, and the change none along a protected one."""
    method = SPEED(copies=0, choose=False, **settings).resolved(SNEAKER)
    kept = method.kept(exact, SNEAKER)
    basis = kept_directions(kept.T @ kept / len(kept), method.held(exact), float(method.threshold))
    torch.testing.assert_close(basis.T @ basis, EYE[: basis.shape[1], : basis.shape[1]])
    assert 4 <= basis.shape[1] < 32
    target, anchor = grams(exact, method.rule, pairs(SNEAKER, method.words), (SNEAKER.target, SNEAKER.anchor))
    free = EYE - basis @ basis.T
    for name, change in changes(exact, method(exact, SNEAKER, seed=0)).items():
        weight = exact.tensor(name)
        slope = (weight + change) @ target - weight @ anchor + float(method.ridge) * change
        assert float((slope @ free).norm()) < 1e-9 * float((weight @ (target - anchor) @ free).norm())
        assert float((change @ basis).norm()) < 1e-9 * float(change.norm())


def test_retained_embeddings_keep_their_outputs(exact: LatentModel) -> None:
    """All of them, where every direction that they have is protected; the start token and the centres always."""
    method = SPEED(threshold=1e-9, copies=0, choose=False)
    edit = method(exact, SNEAKER, seed=0)
    kept = torch.stack([exact.condition([w]).text[0, row(exact, w, w)] for w in (*SNEAKER.neighbours, *SNEAKER.unrelated)])
    start = exact.condition([""]).text[0, :1]
    e = exact.condition(["sneaker"]).text[0, row(exact, "sneaker", "sneaker")]
    for name, change in changes(exact, edit).items():
        for stays in (kept, start, method.held(exact)):
            assert float((stays @ change.T).norm()) < 1e-9 * float((stays @ exact.tensor(name).T).norm())
        assert float((change @ e).norm()) > 1e-2 * float((exact.tensor(name) @ e).norm())
    loose = changes(exact, made(exact, threshold=5.0))
    assert all(float((start @ change.T).norm()) < 1e-9 * float(change.norm()) for change in loose.values())


def test_limits_of_the_ridge(exact: LatentModel) -> None:
    """All weight on W_0: no edit. Hardly any: what the concept has outside the protected directions speaks for the anchor."""
    stiff = changes(exact, made(exact, ridge=1e12))
    assert all(float(change.norm()) < 1e-9 for change in stiff.values())
    method = SPEED(ridge=1e-8, copies=0, choose=False)
    edit = method(exact, SNEAKER, seed=0)
    e, g = (exact.condition([w]).text[0, row(exact, w, w)] for w in (SNEAKER.target, SNEAKER.anchor))
    for name in edit.touched:
        torch.testing.assert_close(edit.tensors[name] @ e, exact.tensor(name) @ g, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("copies", [0, 3])
def test_what_counts_as_retained_is_what_the_edit_would_move(exact: LatentModel, copies: int) -> None:
    """By a loop over embeddings; copies lie along the direction that the matrix weakens most, and are chosen likewise."""
    method = SPEED(words="all", copies=copies).resolved(SNEAKER)
    kept = method.kept(exact, SNEAKER)
    target, anchor = grams(exact, "word", pairs(SNEAKER, "all"), (SNEAKER.target, SNEAKER.anchor))
    weight = exact.tensor(method(exact, SNEAKER, seed=0).touched[1])
    moved = weight @ (anchor - target) @ (EYE + target).inverse()

    def chosen(rows: list[Tensor]) -> list[Tensor]:
        far = [float((moved @ r).norm()) for r in rows]
        return [r for r, d in zip(rows, far, strict=True) if d >= sum(far) / len(far)]

    rows = chosen(list(kept))
    assert 0 < len(rows) < len(kept)
    values, vectors = torch.linalg.eigh(weight.T @ weight)
    assert float(values[0]) < 0.9 * float(values[1])
    noise = torch.randn(copies, len(rows), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    sides = []
    for sign in (1, -1):  # which way a singular direction points is nobody's choice
        more = chosen([r + sign * float(z) * vectors[:, 0] for own in noise for r, z in zip(rows, own, strict=True)]) if copies else []
        assert len(more) < copies * len(rows) or not copies
        sides.append(torch.stack([torch.outer(r, r) for r in (*rows, *more)]).mean(0))
    found = method._retained(weight, moved, kept, torch.Generator().manual_seed(5))
    assert any(torch.allclose(found, side, atol=1e-9, rtol=1e-9) for side in sides)


def test_seeds_matter_to_copies_alone(exact: LatentModel) -> None:
    one, other, plain, same = (made(exact, seed=s, copies=c) for s, c in ((0, 10), (1, 10), (0, 0), (1, 0)))
    assert any(not torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)
    assert all(torch.equal(plain.tensors[n], same.tensors[n]) for n in plain.touched)


def test_centres_are_the_means_of_their_groups() -> None:
    rows = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 4 * torch.arange(40)[:, None] // 10
    found = centres(rows, 3)
    group = torch.tensor([min(range(3), key=lambda i: float((r - found[i]).norm())) for r in rows])
    torch.testing.assert_close(found, torch.stack([rows[group == i].mean(0) for i in range(3)]))
    assert len(centres(rows[:1].expand(6, 5), 3)) == 1
    assert len(centres(rows, 0)) == 0


def test_several_concepts_weigh_alike(exact: LatentModel) -> None:
    """Their sums of products are the mean of each one's, however many prompts each has; no one's words are retained."""
    method, parts = SPEED(words="all"), joint([SNEAKER, replace(NEON, templates=NEON.templates[:2])])
    e, g = method.pairs(exact, parts)
    alone = [method.pairs(exact, part) for part in parts.parts]
    torch.testing.assert_close(e.T @ e, (alone[0][0].T @ alone[0][0] + alone[1][0].T @ alone[1][0]) / 2)
    torch.testing.assert_close(g.T @ e, (alone[0][1].T @ alone[0][0] + alone[1][1].T @ alone[1][0]) / 2)
    bare = SPEED()
    assert len(bare.kept(exact, parts)) == len({*parts.neighbours, *parts.unrelated})
    named = replace(SNEAKER, unrelated=(*SNEAKER.unrelated, "high sneaker"))
    assert len(bare.kept(exact, named)) == len(bare.kept(exact, SNEAKER))


def test_settings_are_the_released_ones_of_a_kind() -> None:
    keys = ("matrices", "rule", "words", "threshold", "ridge", "choose", "copies", "centres")
    got = {kind: SPEED().resolved(replace(SNEAKER, kind=kind)) for kind in ("object", "style", "person", "unsafe")}  # type: ignore[arg-type]
    plain = ["values", "word", "bare", 0.1, 1.0, True, 10, 3]
    assert [getattr(got["object"], k) for k in keys] == [getattr(got["style"], k) for k in keys] == plain
    assert [getattr(got["person"], k) for k in keys] == ["values", "word", "bare", 1e-4, 0.05, False, 10, 3]
    assert [getattr(got["unsafe"], k) for k in keys] == ["values", "tail", *plain[2:]]


def test_a_concept_without_company_keeps_the_empty_prompt(exact: LatentModel) -> None:
    alone = replace(SNEAKER, neighbours=(), unrelated=())
    torch.testing.assert_close(SPEED().kept(exact, alone), exact.condition([""]).text[0, 1:])


def test_where_nothing_is_left_to_move_it_says_so(exact: LatentModel) -> None:
    with pytest.raises(BadSetting, match="takes every direction of sneaker"):
        made(exact, threshold=0.0)


@pytest.mark.parametrize("bad", [{"ridge": 0.0}, {"threshold": -0.1}, {"copies": -1}, {"centres": -1}])
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is above 0|is at least 0"):
        SPEED(**bad)


def test_joint_attention_is_refused() -> None:
    with pytest.raises(Incompatible, match="there are no keys and values of the text to solve for"):
        SPEED()(tiny_flow("dev"), BAG, seed=0)
