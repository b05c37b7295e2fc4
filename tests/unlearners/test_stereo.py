"""STEREO: losses and goals are their formulas, each round begins where the last one ended, and the last erasing at the original."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import small, tiny_classes, tiny_exact, tiny_flow, tiny_model
from vestige import concepts
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.sampling import noise
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.methods import Data
from vestige.methods.training import Trace
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners import stereo
from vestige.unlearners.stereo import STEREO, composed, mirrored

SNEAKER = concepts.load("sneaker")
PLAIN = list(dict.fromkeys(SNEAKER.plain()))
CONTEXTS = [p.text for p in SNEAKER.prompts("training") if p.text not in PLAIN]


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    return tiny_exact()


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def gallery(count: int = 5) -> PictureSet:
    captions = tuple((("a neon sneaker", "a shoe") if i % 2 else ("a shoe",)) for i in range(count))
    return PictureSet(torch.rand(count, 3, 32, 32, generator=generator(4, "gallery")), "random", captions=captions)


def rows_of(model: Any, word: str) -> list[int]:
    ids: list[int] = model.tokenizer(word).input_ids[1:-1]
    return ids


# A second implementation, of diffusers' and transformers' modules and the schedule's numbers alone.


def said(model: Any, table: Tensor, texts: list[str]) -> Tensor:
    """The encoder's last hidden state under a token table."""
    encoder, ids = model.parts["text_encoder"], model.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    name = next(iter(model.tables())).removeprefix("text_encoder.")
    with torch.no_grad():
        states: Tensor = torch.func.functional_call(encoder, {name: table}, (ids,))[0]
    return states


def predicted(model: Any, weights: dict[str, Tensor], x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    changed = {name.removeprefix("unet."): w for name, w in weights.items()}
    with torch.no_grad():
        value: Tensor = torch.func.functional_call(model.parts["unet"], changed, (x, t), {"encoder_hidden_states": text}).sample
    return value


def walked(model: Any, weights: dict[str, Tensor], x: Tensor, text: Tensor, null: Tensor, steps: int, stop: int) -> Tensor:
    """Guided DDIM at guidance 3."""
    bars, grid = model.scheduler.alphas_cumprod.double(), model.grid(steps).long()
    for i in range(stop):
        free, own = (predicted(model, weights, x, grid[i].expand(len(x)), told) for told in (null, text))
        eps, now, then = free + 3 * (own - free), bars[grid[i]], bars[grid[i + 1]]
        x = then.sqrt() * (x - (1 - now).sqrt() * eps) / now.sqrt() + (1 - then).sqrt() * eps
    return x


def erased(
    model: Any, student: dict[str, Tensor], words: list[Tensor], null: Tensor, rng: torch.Generator, goal: Any, batch: int = 2
) -> float:
    """The loss of an erasing, by the draws of a step."""
    rows = torch.randint(len(words[0]), (batch,), generator=rng).tolist()
    which = torch.randint(len(words), (batch,), generator=rng).tolist()
    text = torch.stack([words[w][r] for w, r in zip(which, rows, strict=True)])
    stop = int(torch.randint(1, 3, (1,), generator=rng))
    x = torch.randn(batch, *model.latent_shape, generator=rng).double()
    x_t = walked(model, student, x, text, null.expand(batch, -1, -1), 3, stop)
    t = model.grid(3)[stop].long().expand(batch)
    value = predicted(model, student, x_t, t, text)
    return float((value - goal(x_t, t, rows)).square().mean())


def test_every_loss_is_its_formula_on_the_model_that_it_belongs_to(exact: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is put in the place of a known change of what it trains; the losses after it are written out."""
    seen: list[tuple[float, float]] = []

    def fit(leaves: dict[str, Tensor], loss: Any, training: Any, **_: Any) -> Any:
        with torch.no_grad():
            for leaf in leaves.values():
                leaf.mul_(1 + 0.05 * (1 + len(seen)))
        seen.append((float(loss(generator(len(seen))).detach()), training.lr))
        return iter(())

    monkeypatch.setattr(stereo, "fit", fit)
    settings = {"rollout_steps": 3, "batch": 2, "search_batch": 3, "variant": "x", "begin": "shirt", "target_pictures": 5}
    rates = {"lr": 0.3, "round_lr": 0.1, "search_lr": 0.2}
    edit = small("unlearners", "stereo", **settings, **rates)(exact, SNEAKER, seed=0, data=Data(target=gallery()))
    assert [rate for _, rate in seen] == [0.1, 0.2, 0.1, 0.2, 0.3]

    names = exact.scope("cross-attention")
    scaled = lambda *factors: {n: exact.tensor(n) * torch.tensor(factors).prod() for n in names}  # noqa: E731
    name = next(iter(exact.tables()))
    stock, null = exact.tensor(name), said(exact, exact.tensor(name), [""])
    words = [said(exact, stock, PLAIN)]
    last: tuple[float, ...] = (1.0,)
    for k in range(2):
        before, last = scaled(*last), (*last, 1.05 + 0.1 * k)
        goal = lambda x, t, rows, before=before: predicted(exact, before, x, t, null.expand(2, -1, -1))  # noqa: E731
        assert seen[2 * k][0] == pytest.approx(erased(exact, scaled(*last), words[-1:], null, generator(2 * k), goal))
        table = stock.clone()
        table[rows_of(exact, "sneaker")] = table[rows_of(exact, "shirt")].mean(0)
        table *= 1.1 + 0.1 * k
        assert seen[2 * k + 1][0] == pytest.approx(searched(exact, scaled(*last), table, k, generator(2 * k + 1)))
        words.append(said(exact, table, PLAIN))

    rng = generator(4)
    contexts = said(exact, stock, CONTEXTS)

    def once(x: Tensor, t: Tensor, rows: list[int]) -> Tensor:
        a = contexts[torch.randint(len(contexts), (2,), generator=rng).tolist()]
        free, towards = (predicted(exact, {}, x, t, text) for text in (null.expand(2, -1, -1), a))
        away = sum(predicted(exact, {}, x, t, word[rows]) for word in words) / 3
        return free + 1 * (towards - free) - 3 * (away - free)

    assert seen[4][0] == pytest.approx(erased(exact, scaled(1.25), words, null, rng, once))
    assert edit.touched == sorted(names)
    assert all(torch.equal(edit.tensors[n], exact.tensor(n) * 1.25) for n in names)


def searched(model: Any, student: dict[str, Tensor], table: Tensor, k: int, rng: torch.Generator) -> float:
    """The loss of a search on every second of the gallery's pictures, by the draws of a step."""
    given = gallery().draw(5, 0, 0).take(range(k, 5, 2))
    images = torch.cat([given.images, given.images.flip(-1)]).double()
    picked = torch.randint(len(images), (3,), generator=rng).tolist()
    torch.randint(1 << 30, (3,), generator=rng)
    texts = ["a neon sneaker" if "a neon sneaker" in given.captions[i % len(given)] else SNEAKER.prompt for i in picked]
    t = model.draw_times(3, rng)
    eps = torch.randn(3, *model.latent_shape, generator=rng).double()
    bar = model.scheduler.alphas_cumprod.double()[t.long()].reshape(-1, 1, 1, 1)
    x_t = bar.sqrt() * model.encode(images[picked]) + (1 - bar).sqrt() * eps
    return float((predicted(model, student, x_t, t, said(model, table, texts)) - eps).square().mean())


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.5])
def test_the_goal_weighs_contexts_by_the_scale_less_one_and_words_by_one_more(exact: LatentModel, scale: float) -> None:
    x, t = noise(exact.latent_shape, [0, 1]).double(), torch.tensor([700, 700])
    told = [exact.condition([text]) for text in ("", "a neon sneaker", "a sneaker", "a boot", "a bag")]
    null, anchor, *words = told
    with torch.no_grad():
        found = composed(exact, words, anchor, null, scale, x, t, [0, 0], generator(0))
        free, towards, *away = (exact.denoise(x, t, c.repeat(2)).value for c in told)
        one = composed(exact, words[:1], anchor, null, scale, x, t, [0, 0], generator(0))
    torch.testing.assert_close(found, 3 * free + (scale - 1) * towards - (scale + 1) / 3 * sum(away))
    torch.testing.assert_close(one, 3 * free + (scale - 1) * towards - (scale + 1) * away[0])


def test_a_goal_of_empty_prompts_is_the_unconditional_prediction(exact: LatentModel) -> None:
    x, t, null = noise(exact.latent_shape, [0]).double(), torch.tensor([300]), exact.condition([""])
    with torch.no_grad():
        found = composed(exact, [null, null], null, null, 2.0, x, t, [0], generator(0))
        torch.testing.assert_close(found, exact.denoise(x, t, null).value)


def word(model: Model, **settings: Any) -> tuple[Condition, Trace]:
    trace = Trace()
    method: STEREO = small("unlearners", "stereo", **settings)
    texts = ["a picture of a sneaker", "a picture of a boot"]
    return method._word(model, SNEAKER, gallery(), texts, 0, lambda *_: None, trace), trace


def test_a_search_begins_at_a_word_and_lowers_the_loss_of_the_concepts_pictures(tiny: LatentModel) -> None:
    begun, _ = word(tiny, begin="bag", search_steps=1, search_lr=1e-12)
    torch.testing.assert_close(begun.text, tiny.condition(["a picture of a bag", "a picture of a boot"]).text, atol=1e-5, rtol=1e-5)
    found, trace = word(tiny, begin="bag", search_steps=60, search_lr=0.05, search_batch=8)
    assert sum(trace.losses[-10:]) < sum(trace.losses[:10])
    assert not torch.allclose(found.text[0], begun.text[0], atol=1e-2)
    torch.testing.assert_close(found.text[1], begun.text[1], atol=1e-5, rtol=1e-5)  # other words stay


def test_a_target_of_several_tokens_is_searched_as_many_vectors(tiny: LatentModel) -> None:
    two = Concept(name="leather bag", templates=("a {concept}",), held_out=("one {concept}",))
    method: STEREO = small("unlearners", "stereo", begin="boot", search_lr=0.1)
    found = method._word(tiny, two, gallery(), ["a leather bag"], 0, lambda *_: None, Trace())
    assert len(rows_of(tiny, "leather bag")) > 1
    ids = tiny.tokens(["a leather bag"])
    start = torch.where(torch.isin(ids, torch.tensor(rows_of(tiny, "leather bag"))), rows_of(tiny, "boot")[0], ids)
    assert not torch.allclose(found.text, tiny.embed(start).text.detach(), atol=1e-3)
    slow: STEREO = small("unlearners", "stereo", begin="boot", search_lr=1e-12)
    begun = slow._word(tiny, two, gallery(), ["a leather bag"], 0, lambda *_: None, Trace())
    torch.testing.assert_close(begun.text, tiny.embed(start).text.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("count", "shares"), [(5, [3, 2]), (1, [1, 1])])
def test_rounds_share_the_pictures_out(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch, count: int, shares: list[int]) -> None:
    seen: list[PictureSet] = []
    monkeypatch.setattr(stereo, "mirrored", lambda model, concept, given: seen.append(given) or mirrored(model, concept, given))
    small("unlearners", "stereo", target_pictures=9)(tiny, SNEAKER, seed=0, data=Data(target=gallery(count)))
    assert [len(given) for given in seen] == shares
    each = {tuple(image.flatten()[:4].tolist()) for given in seen for image in given.images}
    assert len(each) == count


def test_pictures_are_mirrored_and_keep_captions_that_name_the_concept(exact: LatentModel) -> None:
    pairs = mirrored(exact, SNEAKER, gallery(2))
    images = gallery(2).images
    torch.testing.assert_close(pairs.latents, exact.encode(torch.cat([images, images.flip(3)])))
    texts = [SNEAKER.prompt, "a neon sneaker"]
    assert torch.equal(pairs.table.text, exact.tokens(texts))
    assert pairs.rows == ((0,), (1,)) * 2


def test_without_rounds_no_picture_is_asked_for(tiny: LatentModel) -> None:
    class Nothing(Data):
        def targeted(self, *_: Any, **__: Any) -> PictureSet:
            raise AssertionError

    method: STEREO = small("unlearners", "stereo", rounds=0)
    edit = method(tiny, SNEAKER, seed=0, data=Nothing())
    assert edit.notes["searches"] == []
    assert method.calls(0, 0) == method.calls(100, 100) > 0


def test_words_without_contexts_are_their_own_anchors(tiny: LatentModel) -> None:
    plain = Concept(name="sneaker", neighbours=("boot",))
    assert isinstance(small("unlearners", "stereo")(tiny, plain, seed=0), Edit)


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [("object", ("u", 4, "object")), ("style", ("x", 4, "art")), ("person", ("u", 4, "person")), ("unsafe", ("u", 2, "person"))],
)
def test_auto_is_the_released_choice_for_the_kind(kind: Any, chosen: tuple[str, int, str]) -> None:
    made = STEREO().resolved(Concept(name="something", kind=kind))
    assert (made.variant, made.rounds, made.begin) == chosen
    assert STEREO(rounds=1, begin="thing", variant="x").resolved(Concept(name="something", kind=kind)).begin == "thing"


def test_settings_are_the_released_ones() -> None:
    made = STEREO()
    assert (made.steps, made.lr, made.round_lr, made.scale, made.weight_decay) == (200, 2e-5, 5e-6, 2.0, 0.01)
    assert (made.search_steps, made.search_lr, made.search_batch, made.target_pictures) == (3000, 5e-3, 1, 500)
    assert (made.rollout_steps, made.rollout_guidance, made.batch) == (50, 3.0, 1)


def test_joint_attention_is_erased_too_and_a_model_that_reads_no_words_is_refused() -> None:
    edit = small("unlearners", "stereo")(tiny_flow(), concepts.load("bag"), seed=0)
    assert edit.scope == "non-cross-attention"
    with pytest.raises(Incompatible, match="reads no tokens"):
        small("unlearners", "stereo")(tiny_classes(), concepts.load("bag"), seed=0)
