"""Concepts: prompts that spread evenly and say what they show; a user's file is read whole or refused with the reason."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vestige import data
from vestige.cli.lists import TEMPLATE
from vestige.concepts import Concept, load, names
from vestige.concepts.concept import Bank
from vestige.data import PROXY
from vestige.errors import BadInput, UnknownName

BANKS: tuple[Bank, ...] = ("training", "held-out")
MEMBERS = {
    kind: tuple(table["members"]) for kind, table in data.toml((data.folder() / "concepts/wardrobe.toml").read_text())["kinds"].items()
}


def plain(**changes: Any) -> Concept:
    settings: dict[str, Any] = {
        "name": "van",
        "contexts": ("red", "blue"),
        "context_group": "paint",
        "templates": ("a {context} {concept}",),
    }
    return Concept(**{**settings, **changes})


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return str(path)


@pytest.mark.parametrize("name", names())
def test_every_prompt_names_its_concept_once_and_is_whole(name: str) -> None:
    concept = load(name)
    for bank in BANKS:
        prompts = concept.prompts(bank)
        texts = [p.text for p in prompts]
        assert len(set(texts)) == len(texts)
        for text in texts:
            assert text.split().count(concept.target) == 1
            assert not set("{}") & set(text)
    assert concept.prompt in [p.text for p in concept.prompts("training")]
    assert not any(context in concept.prompt.split() for context in concept.contexts)


@pytest.mark.parametrize("name", names())
def test_held_out_prompts_are_other_texts(name: str) -> None:
    concept = load(name)
    training, held_out = ({p.text for p in concept.prompts(bank)} for bank in BANKS)
    assert not training & held_out
    assert not set(concept.templates) & set(concept.held_out)
    words = {*concept.neighbours, *concept.unrelated}
    assert not {p.text for w in words for p in concept.prompts("training", w)} & held_out


@pytest.mark.parametrize("name", names())
def test_prompts_say_what_their_pictures_show(name: str) -> None:
    concept = load(name)
    for bank in BANKS:
        for word in (None, *concept.neighbours, *concept.unrelated):
            for prompt in concept.prompts(bank, word):
                said = prompt.text.split()
                assert prompt.expects[concept.group] == (concept.label if word is None else word)
                assert (word or concept.target) in said
                named = [c for c in concept.contexts if c in said and c != word]
                assert [prompt.expects[concept.context_group]] == named if named else concept.context_group not in prompt.expects


@pytest.mark.parametrize("name", names())
def test_surroundings_are_complete_and_disjoint(name: str) -> None:
    concept = load(name)
    near, far = set(concept.neighbours), set(concept.unrelated)
    assert near | far | {name} == {*MEMBERS[concept.group], name}
    assert not near & far
    assert name not in near | far
    assert concept.anchor in near | far
    assert concept.source


@pytest.mark.parametrize("judge", ["verify", "select"])
def test_judges_know_every_label(judge: str) -> None:
    groups = json.loads((data.folder() / f"wardrobe/judge-{judge}/judge.json").read_text())["groups"]
    for name in names():
        concept = load(name)
        assert {concept.label, *concept.neighbours, *concept.unrelated} <= set(groups[concept.group])
        assert set(concept.contexts) <= set(groups[concept.context_group])
    assert all(load(proxy).group == group and proxy not in MEMBERS[group] for group, proxy in PROXY.items())


@pytest.mark.parametrize("name", ["sneaker", "neon", "digit"])
@pytest.mark.parametrize("bank", BANKS)
def test_spread_over_a_whole_turn_takes_every_prompt_equally_often(name: str, bank: Bank) -> None:
    concept = load(name)
    every = Counter(p.text for p in concept.prompts(bank))
    drawn = Counter(p.text for p in concept.spread(3 * len(every), bank, offset=5))
    assert drawn == Counter(dict.fromkeys(every, 3))


@pytest.mark.parametrize("name", ["sneaker", "neon"])
@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("count", [16, 24, 48, 80])
def test_spread_is_even_over_contexts(name: str, bank: Bank, count: int) -> None:
    concept = load(name)
    for replicate in range(3):
        shown = Counter(p.expects.get(concept.context_group) for p in concept.spread(count, bank, offset=replicate * count))
        shares = [shown[c] for c in concept.contexts]
        assert max(shares) - min(shares) <= 0.1 * count + 1


@pytest.mark.parametrize("name", ["sneaker", "neon"])
@pytest.mark.parametrize("group", ["neighbours", "unrelated"])
def test_spread_is_even_over_words(name: str, group: str) -> None:
    concept = load(name)
    words = getattr(concept, group)
    drawn = concept.spread(48, "held-out", words=words)
    shown = Counter(p.expects[concept.group] for p in drawn)
    assert set(shown) == set(words)
    assert max(shown.values()) - min(shown.values()) <= 1
    contexts = Counter(p.expects[concept.context_group] for p in drawn)
    assert set(contexts) == set(concept.contexts)
    assert max(contexts.values()) <= 3 * min(contexts.values())
    templates = Counter(p.text.replace(p.expects["object"], "O").replace(p.expects["style"], "S") for p in drawn)
    assert len(templates) == len(concept.held_out)


def test_offsets_continue_the_same_order() -> None:
    concept = load("sneaker")
    whole = concept.spread(40, "held-out")
    assert concept.spread(15, "held-out", offset=25) == whole[25:]
    texts = [{p.text for p in concept.spread(8, "held-out", offset=8 * k)} for k in range(5)]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 40  # five replicates of eight share no prompt


def test_spread_of_no_words_is_nothing() -> None:
    assert load("sneaker").spread(8, "held-out", words=()) == []
    assert load("sneaker").spread(0, "held-out") == []


def test_others_stand_beside_the_training_prompts() -> None:
    concept = load("sneaker")
    texts = [p.text for p in concept.prompts("training")]
    assert concept.others("boot") == [t.replace("sneaker", "boot") for t in texts]
    assert concept.others("") == concept.others(None) == [""] * len(texts)


def test_a_concept_is_as_good_as_its_name() -> None:
    concept = Concept(name="Van Gogh")
    assert (concept.target, concept.label, concept.prompt) == ("Van Gogh", "Van Gogh", "a picture of a Van Gogh")
    assert [p.text for p in concept.prompts("held-out")] == ["one Van Gogh"]
    assert [dict(p.expects) for p in concept.prompts()] == [{"object": "Van Gogh"}]


def test_target_and_label_may_differ_from_the_name() -> None:
    concept = plain(target="lorry", label="truck", group="vehicle")
    assert [(p.text, dict(p.expects)) for p in concept.prompts()] == [
        ("a red lorry", {"vehicle": "truck", "paint": "red"}),
        ("a blue lorry", {"vehicle": "truck", "paint": "blue"}),
    ]
    assert [p.expects["vehicle"] for p in concept.prompts("training", "bus")] == ["bus", "bus"]


def test_spec_of_a_concept_is_json_and_makes_it_again() -> None:
    for name in names():
        concept = load(name)
        spec: dict[str, Any] = json.loads(json.dumps(concept.as_dict()))
        fields_: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
        assert Concept(**fields_, indirect=concept.indirect) == concept


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a {style} {concept}", "use {concept} and {context} only"),
        ("a {} {concept}", "use {concept} and {context} only"),
        ("a {concept", "use {concept} and {context} only"),
        ("a {concept.name}", "use {concept} and {context} only"),
        ("a picture", "does not name the {concept}"),
    ],
)
@pytest.mark.parametrize("bank", ["templates", "held_out"])
def test_bad_template_is_refused(template: str, message: str, bank: str) -> None:
    with pytest.raises(BadInput) as error:
        plain(**{bank: (template,)})
    assert message in str(error.value)
    assert repr(template) in str(error.value)


@pytest.mark.parametrize("template", ["a {concept}", "the Van , parked", "a {context} van"])
def test_an_indirect_prompt_does_not_name_the_concept(template: str) -> None:
    with pytest.raises(BadInput, match="names it"):
        plain(indirect=(template,))
    assert [p.text for p in plain(indirect=("a caravan in {context}",)).prompts("indirect")] == ["a caravan in red", "a caravan in blue"]


@pytest.mark.parametrize("name", names())
def test_indirect_prompts_ask_for_the_context_alone(name: str) -> None:
    """Only what a picture can be right about is expected: the context, and nothing of the concept's own group."""
    concept = load(name)
    prompts = concept.prompts("indirect")
    assert prompts
    for prompt in prompts:
        assert not concept.named(prompt.text)
        assert set(prompt.expects) == {concept.context_group}
    assert not {p.text for bank in BANKS for p in concept.prompts(bank)} & {p.text for p in prompts}


def test_indirect_prompts_are_in_no_spec() -> None:
    """Methods and attacks see none of them: a file that adds some leaves every finished run where it is."""
    assert plain(indirect=("a caravan",)).as_dict() == plain().as_dict()


def test_template_with_a_context_needs_contexts() -> None:
    with pytest.raises(BadInput, match="needs contexts, and none are given"):
        plain(contexts=())


@pytest.mark.parametrize("bank", ["templates", "held_out"])
def test_concept_without_prompts_is_refused(bank: str) -> None:
    with pytest.raises(BadInput):
        plain(**{bank: ()})


def test_unknown_concept_suggests() -> None:
    with pytest.raises(UnknownName, match="unknown concept 'sneeker'; did you mean 'sneaker'"):
        load("sneeker")


def test_the_template_file_loads(tmp_path: Path) -> None:
    """It speaks of the concept that its file is called after, and of no other."""
    text = TEMPLATE.format(name="hot air balloon")
    concept = load(written(tmp_path, text))
    assert concept.prompt == "a picture of a hot air balloon"
    assert (concept.name, concept.target, concept.label) == ("hot air balloon",) * 3
    assert (concept.anchor, concept.neighbours, concept.sensitive) == ("", (), False)
    called = {"prompts" if f.name == "prompt_files" else f.name for f in fields(Concept)}
    assert called - {"source"} == set(data.toml(text))


def test_smallest_file_loads(tmp_path: Path) -> None:
    assert load(written(tmp_path, 'name = "sneaker"')) == Concept(name="sneaker")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\nkind = ["object"]', "kind should be a text"),
        ('name = "a"\nneighbours = "boot"', "neighbours should be a list of texts"),
        ('name = "a"\ncontexts = [1, 2]', "contexts should be a list of texts"),
        ("name = 5", "name"),
        ('name = "a"\nsensitive = "no"', "sensitive"),
        ('name = "a"\ntarget = 3.5', "target"),
        ('name = "a"\nkind = "objekt"', "kind"),
        ('name = ""', "name"),
        ("[name]\nfirst = 1", "name"),
        ('target = "sneaker"', 'has no name; the smallest concept file is: name = "sneaker"'),
        ('name = "a"\ntemplates = ["a {thing}"]', "use {concept} and {context} only"),
        ('name = "a"\ntemplates = []', "templates"),
        ('name = "a', "is not valid TOML"),
        ('name = "a"\nname = "b"', "is not valid TOML"),
    ],
)
def test_unusable_file_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        load(written(tmp_path, text))
    assert message in str(error.value)


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b'name = "\xff\xfe"')
    with pytest.raises(BadInput, match="is not valid TOML"):
        load(str(tmp_path / "mine.toml"))


def test_unknown_field_suggests(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown field in mine\.toml 'neighbors'; did you mean 'neighbours'"):
        load(written(tmp_path, 'name = "a"\nneighbors = ["b"]'))


@pytest.mark.parametrize("is_folder", [False, True])
def test_missing_file_says_how_to_write_one(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "mine.toml"
    if is_folder:
        path.mkdir()
    with pytest.raises(BadInput, match="is a folder; a concept is" if is_folder else r"no concept file at .*vestige list --template"):
        load(str(path))
