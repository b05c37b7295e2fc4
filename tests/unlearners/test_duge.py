"""DUGE: each loss is its formula, dropping one changes nothing else, and training does what the losses say."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import Gaussian, scheduler, tiny_model, tiny_parts, tokenizer
from vestige import concepts, registry
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.attention import columns, recording
from vestige.diffusion.sampling import Drawing
from vestige.edits import Edit
from vestige.errors import BadInput, Incompatible
from vestige.methods import Data, Training, fit
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import denoising, importance, noisy
from vestige.methods.training_data import drawn, paired
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator
from vestige.unlearners.duge import CALIBRATION, DUGE, _kind

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"steps": 3, "batch": 2, "lr": 1e-3, "target_pictures": 4, "retain_pictures": 4}
FAST = Drawing(steps=2)
silent: Callable[..., None] = lambda *_: None  # noqa: E731


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def made(model: Model, concept: Concept = SNEAKER, data: Data | None = None, seed: int = 0, **settings: Any) -> Edit:
    return DUGE(**{**SMALL, **settings})(model, concept, seed=seed, data=data or Data(protocol=FAST))


def equal(one: Edit, other: Edit) -> bool:
    return one.touched == other.touched and all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)


def sides(model: Model, method: DUGE, phi: Model | None = None, concept: Concept = SNEAKER) -> Any:
    return method._sides(model, phi or model, concept, Data(protocol=FAST), 0, silent)


def naive(maps: dict[str, Tensor], goals: dict[str, Tensor], counted: list[list[int]], pooled: bool) -> float:
    """L_U with loops for every mean and sum."""
    total = 0.0
    for name, own in maps.items():
        inner = []
        for b in range(own.shape[0]):
            for h in range(own.shape[1]):
                rows = [own[b, h].mean(0)] if pooled else list(own[b, h])
                goal = [goals[name][b, h].mean(0)] if pooled else list(goals[name][b, h])
                for a, g in zip(rows, goal, strict=True):
                    inner.append(sum(float(a[k] - g[k]) ** 2 for k in counted[b]))
        total += sum(inner) / len(inner)
    return total / len(maps)


@pytest.mark.parametrize("tokens", ["all", "concept"])
@pytest.mark.parametrize("reference", ["null", "text", "picture"])
def test_attention_loss_is_its_formula(exact: LatentModel, reference: Any, tokens: Any) -> None:
    """On one batch, whose pictures, times and noise are drawn again from an equal generator."""
    other = LatentModel("other", {name: part.double() for name, part in tiny_parts(1).items()}, tokenizer(), scheduler())
    method = DUGE(**SMALL, reference_condition=reference, tokens=tokens, layers=("mid_block", "down_blocks"))
    seen = sides(exact, method, other)
    value = method._attention(exact, other, seen, generator(3))
    rng = generator(3)
    latents, rows = seen.pairs.pick(2, rng)
    t = exact.draw_times(2, rng)
    eps = torch.randn(latents[:, 0].shape, generator=rng).double()
    signal, level = (v.reshape(-1, 1, 1, 1) for v in exact.schedule(t))
    given = Data(protocol=FAST).targeted(exact, SNEAKER, 4, seed=0)
    texts = [given.texts[r] for r in rows]
    swapped = ["" if reference == "null" else re.sub("sneaker", "boot", text) for text in texts]
    with torch.no_grad(), recording(exact, method.layers) as maps:
        exact.denoise(signal * latents[:, 0] + level * eps, t, exact.condition(texts))
    with torch.no_grad(), recording(other, method.layers) as goals:
        other.denoise(signal * latents[:, 1] + level * eps, t, other.condition(swapped))
    counted = [columns(exact, text, "sneaker") if tokens == "concept" else list(range(77)) for text in texts]
    assert len(maps) == 2
    assert float(value) == pytest.approx(naive(maps, goals, counted, reference == "picture"), rel=1e-5)


def test_start_asks_for_all_attention_on_the_first_token(exact: LatentModel) -> None:
    method = DUGE(**SMALL, reference_condition="start")
    seen = sides(exact, method)
    value = method._attention(exact, exact, seen, generator(3))
    rng = generator(3)
    latents, rows = seen.pairs.pick(2, rng)
    t, _, x_t = noisy(exact, latents[:, 0], rng)
    with torch.no_grad(), recording(exact) as maps:
        exact.denoise(x_t, t, seen.pairs.table[rows])
    expected = [(((1 - own[..., 0]) ** 2) + (own[..., 1:] ** 2).sum(-1)).mean() for own in maps.values()]
    assert float(value) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-6)


def test_pictures_of_the_reference_are_the_anchors_from_the_same_noise(tiny: LatentModel) -> None:
    latents = sides(tiny, DUGE(**SMALL, reference_condition="picture")).pairs.latents
    prompts = SNEAKER.spread(4, "training")
    for side, word in enumerate(("sneaker", "boot")):
        swapped = [replace(p, text=p.text.replace("sneaker", word)) for p in prompts]
        expected = paired(tiny, drawn(tiny, swapped, seed=derive(0, "target"), protocol=FAST)).latents
        torch.testing.assert_close(latents[:, side], expected, atol=1e-5, rtol=1e-5)
    same = sides(tiny, DUGE(**SMALL)).pairs.latents
    assert torch.equal(same[:, 0], same[:, 1])


def test_a_concept_that_is_its_own_anchor_leaves_the_model_bit_for_bit(tiny: LatentModel) -> None:
    """Both sides see the same, so there is no gradient; calibrating on it is refused."""
    itself = replace(SNEAKER, anchor="sneaker")
    edit = made(tiny, itself, reference_condition="text", calibrate=False, retain_weight=0.0)
    assert all(torch.equal(edit.tensors[n], tiny.tensor(n)) for n in edit.touched)
    assert edit.notes["losses"]["attention"] == {"first": 0.0, "last": 0.0}
    with pytest.raises(BadInput, match="maps are the reference's already"):
        made(tiny, itself, reference_condition="text")


def test_memory_alone_is_plain_training_on_the_memory(tiny: LatentModel) -> None:
    """L_U and L_reg dropped: a loop of its own, on the same draws."""
    edit = made(tiny, attention_weight=0.0, pull_weight=0.0)
    words = replace(SNEAKER, neighbours=())
    memory = paired(tiny, Data(protocol=FAST).retained(tiny, words, 4, seed=derive(0, "unrelated")))
    student, leaves = tiny.trainable(tiny.scope("cross-attention"))

    def loss(rng: torch.Generator) -> Tensor:
        own = torch.Generator().manual_seed(torch.randint(1 << 62, (3,), generator=rng).tolist()[1])
        return denoising(student, *memory.draw(2, own), own)

    for _ in fit(leaves, loss, Training(steps=3, lr=1e-3), seed=derive(0, "duge")):
        pass
    for name in edit.touched:
        torch.testing.assert_close(edit.tensors[name], leaves[name].detach(), atol=1e-6, rtol=1e-5)
    for changed in ({"reference_condition": "text"}, {"tokens": "concept"}, {"layers": ("mid_block",)}, {"calibrate": False}):
        assert equal(made(tiny, attention_weight=0.0, pull_weight=0.0, **changed), edit)


def test_a_weight_of_zero_changes_nothing_else(tiny: LatentModel) -> None:
    plain = made(tiny)
    assert equal(made(tiny, related_pictures=3, related_weight=0.0), plain)
    assert not equal(made(tiny, related_pictures=3, related_weight=1.0), plain)
    alone = made(tiny, retain_weight=0.0)
    assert alone.notes["weights"]["attention"] == plain.notes["weights"]["attention"]
    assert alone.notes["losses"]["attention"]["first"] != 0
    assert "unrelated" not in alone.notes["losses"]
    assert equal(made(tiny, pull_weight=0.0, importance="mas"), made(tiny, pull_weight=0.0))
    assert equal(made(tiny, retain_weight=0.0, dropout=0.5, calibrate=False), made(tiny, retain_weight=0.0, calibrate=False))


def test_calibration_makes_the_gradients_equally_long(exact: LatentModel) -> None:
    """Measured again, by backward(), at the unedited model, on the tensors that L_U reaches."""
    edit = made(exact)
    method = DUGE(**SMALL)
    student, leaves = exact.trainable(exact.scope("cross-attention"))
    memory = paired(exact, Data(protocol=FAST).retained(exact, replace(SNEAKER, neighbours=()), 4, seed=derive(0, "unrelated")))
    seen, lengths = sides(exact, method), {}
    for name in ("attention", "memory"):
        for i in range(CALIBRATION):
            rng = generator(derive(0, "calibrate"), name, i)
            value = method._attention(student, exact, seen, rng) if name == "attention" else denoising(student, *memory.draw(2, rng), rng)
            (value / CALIBRATION).backward()
        if name == "attention":
            reached = [n for n, leaf in leaves.items() if leaf.grad is not None]
        slopes = {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None and n in reached}
        lengths[name] = torch.cat([slope.flatten() for slope in slopes.values()]).norm().item()
        for leaf in leaves.values():
            leaf.grad = None
    assert len(reached) == len(leaves) - 3  # all but the last layer's value and output
    assert edit.notes["gradient_norms"] == pytest.approx(lengths, rel=1e-6)
    assert edit.notes["weights"]["attention"] * lengths["attention"] == pytest.approx(lengths["memory"], rel=1e-6)
    twice = made(exact, attention_weight=2.0)
    assert twice.notes["weights"]["attention"] == pytest.approx(2 * edit.notes["weights"]["attention"])
    assert made(exact, calibrate=False, attention_weight=7.0).notes["weights"]["attention"] == 7.0


def test_without_a_memory_it_is_calibrated_on_the_concepts_own_pictures(tiny: LatentModel) -> None:
    edit = made(tiny, retain_pictures=0)
    assert set(edit.notes["weights"]) == {"attention"}
    assert edit.notes["gradient_norms"]["memory"] > 0
    assert edit.notes["weights"]["attention"] > 0


def test_attention_loss_alone_leaves_the_last_values_and_outputs(tiny: LatentModel) -> None:
    edit = made(tiny, retain_weight=0.0, pull_weight=0.0)
    still = {n for n in edit.touched if torch.equal(edit.tensors[n], tiny.tensor(n))}
    last = "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2"
    assert still == {f"{last}.to_v.weight", f"{last}.to_out.0.weight", f"{last}.to_out.0.bias"}


@pytest.mark.parametrize("reference", ["null", "text", "picture", "start"])
def test_training_brings_the_maps_to_the_reference(tiny: LatentModel, reference: Any) -> None:
    method = DUGE(**{**SMALL, "steps": 25, "batch": 4, "lr": 3e-3}, reference_condition=reference, retain_weight=0.0, pull_weight=0.0)
    edited = tiny.edited(method(tiny, SNEAKER, seed=0, data=Data(protocol=FAST)))
    seen = sides(tiny, method)
    with torch.no_grad():
        before, after = (sum(float(method._attention(m, tiny, seen, generator(i))) for i in range(8)) for m in (tiny, edited))
    assert after < 0.5 * before


@pytest.mark.parametrize("kind", ["uniform", "mas"])
def test_pull_is_a_weighted_sum_over_all_weights(exact: LatentModel, kind: Any) -> None:
    method = DUGE(**SMALL, importance=kind, pull_weight=0.3)
    memory = paired(exact, Data(protocol=FAST).retained(exact, SNEAKER, 3, seed=0))
    _, leaves = exact.trainable(exact.scope("cross-attention"))
    with torch.no_grad():
        for i, leaf in enumerate(leaves.values()):
            leaf.add_(0.01 * (i + 1))
    held = memory.latents, memory.table[[r[0] for r in memory.rows]]
    omega = importance(exact, list(leaves), *held, seed=derive(0, "importance"))
    expected = sum(
        float(((omega[n] if kind == "mas" else 1.0) * (leaf.detach() - exact.tensor(n)) ** 2).sum()) for n, leaf in leaves.items()
    )
    assert method._pull(exact, leaves, {"unrelated": memory}, 0)(leaves).item() == pytest.approx(0.3 * expected, rel=1e-9)


def test_importance_is_the_mean_of_absolute_slopes(exact: LatentModel) -> None:
    """By central differences along single weights, and scaled to mean 1."""
    names = exact.scope("cross-attention-kv")
    x = torch.randn(3, *exact.latent_shape, generator=generator(5)).double()
    condition = exact.condition(["a bag", "a boot", "neon"])
    omega = importance(exact, names, x, condition, seed=4)
    assert float(torch.cat([o.flatten() for o in omega.values()]).mean()) == pytest.approx(1.0)
    ratios = []
    for name, spot in ((names[0], (3, 5)), (names[1], (0, 7)), (names[-1], (2, 2))):
        slopes = []
        for i in range(3):
            sizes = []
            for step in (1e-5, -1e-5):
                value = exact.tensor(name).clone()
                value[spot] += step
                view, rng = exact.edited(Edit(exact.fingerprint, "nudge", {}, "all", {name: value})), generator(4, "importance", i)
                t = exact.draw_times(1, rng)
                eps = torch.randn(1, *exact.latent_shape, generator=rng).double()
                signal, level = (v.reshape(-1, 1, 1, 1) for v in exact.schedule(t))
                with torch.no_grad():
                    sizes.append(float(view.denoise(signal * x[i : i + 1] + level * eps, t, condition[i : i + 1]).noise.square().sum()))
            slopes.append(abs(sizes[0] - sizes[1]) / 2e-5)
        ratios.append(sum(slopes) / float(omega[name][spot]))
    assert ratios[1:] == pytest.approx([ratios[0]] * 2, rel=1e-4)


def test_a_heavy_pull_holds_the_weights(tiny: LatentModel) -> None:
    moved = []
    for weight in (0.0, 1.0, 1e3):
        edit = made(tiny, steps=15, pull_weight=weight)
        moved.append(sum(float((edit.tensors[n] - tiny.tensor(n)).square().sum()) for n in edit.touched))
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 0.5 * moved[0]


def test_the_reference_may_be_the_original(tiny: LatentModel) -> None:
    """Then the maps, the pull and all drawn pictures are the original's."""
    first = tiny.edited(made(tiny, concepts.load("bag"), lr=1e-2))
    given = Data(protocol=FAST, original=tiny)
    previous, original = (made(first, data=given, reference=kind) for kind in ("previous", "original"))
    assert previous.base == original.base == first.fingerprint
    assert previous.notes["losses"]["pull"]["first"] == 0
    gaps = [float((first.tensor(n) - tiny.tensor(n)).square().sum()) for n in original.touched]
    assert original.notes["losses"]["pull"]["first"] == pytest.approx(1e-3 * sum(gaps), rel=1e-4)
    assert not equal(previous, original)
    assert equal(made(first, data=Data(protocol=FAST), reference="original"), made(first))
    ours = DUGE(**SMALL)._memories(first, SNEAKER, given, 0, silent)["unrelated"]
    own = DUGE(**SMALL)._memories(tiny, SNEAKER, Data(protocol=FAST), 0, silent)["unrelated"]
    assert torch.equal(ours.images, own.images)
    heavy: dict[str, Any] = {"steps": 30, "attention_weight": 0.0, "retain_weight": 1e-6, "pull_weight": 1.0, "reference": "original"}
    heavy["calibrate"] = False
    back = made(first, data=given, **heavy)
    after = [float((back.tensors[n] - tiny.tensor(n)).square().sum()) for n in back.touched]
    assert sum(after) < 0.8 * sum(gaps)


def test_a_given_memory_is_parted_by_what_it_shows(tiny: LatentModel) -> None:
    names = ["bag", "sneaker", "boot", "dress", "sandal", "coat"]
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 3, 32, 32) / 10
    labelled = PictureSet(images, "mine", labels=tuple({"object": n, "style": "neon"} for n in names))
    told = PictureSet(images, "mine", captions=tuple((f"a neon {n}",) for n in names))
    for given in (labelled, told):
        assert [_kind(given, i, SNEAKER) for i in range(6)] == ["unrelated", "target", "related", "unrelated", "related", "unrelated"]
        found = DUGE(**SMALL, related_pictures=9)._memories(tiny, SNEAKER, Data(retain=given), 0, silent)
        assert sorted(round(float(i.mean()) * 10) for i in found["unrelated"].images) == [0, 3, 5]
        assert sorted(round(float(i.mean()) * 10) for i in found["related"].images) == [2, 4]
        assert all("sneaker" not in text for held in found.values() for text in held.texts)
        with pytest.raises(BadInput, match="mine holds no unrelated picture to sneaker"):
            made(tiny, data=Data(retain=given.take([1, 2]), protocol=FAST))
    lone = replace(SNEAKER, unrelated=())
    assert [_kind(told, i, lone) for i in range(6)].count("unrelated") == 5


def test_scope_may_be_keys_and_values(tiny: LatentModel) -> None:
    edit = made(tiny, scope="cross-attention-kv")
    assert edit.touched == sorted(tiny.scope("cross-attention-kv"))


def test_models_without_cross_attention_are_refused() -> None:
    with pytest.raises(Incompatible, match="gaussian has no U-Net with cross-attention"):
        made(Gaussian())


def test_layers_are_a_setting(tiny: LatentModel) -> None:
    method = registry.build("unlearners", "duge", {"layers": "mid_block,4x4"})
    assert method.layers == ("mid_block", "4x4")
    assert registry.build("unlearners", "duge", registry.settings(method)) == method
    assert registry.build("unlearners", "duge", {"layers": "all"}).layers == "all"
    assert not equal(made(tiny, layers=("mid_block",)), made(tiny))
    assert equal(made(tiny, layers=("4x4",)), made(tiny))  # the tiny network attends at one resolution


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"attention_weight": 0.0, "retain_weight": 0.0}, "has to remain"),
        ({"attention_weight": 0.0, "retain_pictures": 0}, "has to remain"),
        ({"pull_weight": -1.0}, "at least 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"importance": "mas", "retain_pictures": 0}, "measured on the memory"),
        ({"steps": 0}, "at least 1"),
        ({"lr": 0.0}, "above 0"),
    ],
)
def test_senseless_settings_are_refused(bad: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DUGE(**bad)


def test_forecast_counts_two_memories_of_one_size() -> None:
    one, both = (DUGE(retain_pictures=4, related_pictures=count) for count in (0, 4))
    assert both.calls(0, 0) - one.calls(0, 0) == TRAINED * one.steps * one.batch
