"""A command's arguments and the request that it fills agree by name and by default."""

import dataclasses
import inspect
from typing import Any

import pytest

from vestige.audit import Request
from vestige.cli import acts, audits, options, sequences
from vestige.continual import Order
from vestige.continual.guards import Guards

WORK = {"out", "cache", "jobs", "steal", "dry_run", "as_json", "config", "device", "dtype", "save_memory", "accumulation"}  # how, not what
OTHER = {  # command -> argument: the fields that it fills under another name or in another form
    "audit": {"attack": "attacks", "seeds": "seeds", "settings": "settings", "no_original": "original"},
    "attack": {"method": "attacks", "seed": "seeds", "settings": "settings"},
    "continual": {"attack": "attacks", "requests": "requests", "settings": "settings", "withdraw": "withdrawn"},
}
LEFT = {  # fields that a command leaves to the request, each with a reason
    "audit": set(),
    "attack": {
        "control",
        "original",
        "unlearner",
        "edit_seed",
        "forget",
        "retain",
        "banks",
        "bank_pictures",
        "alternative",
        "unshown",
    },  # it has no control and makes no edit
    "continual": {"guards", "first_replicate"},  # the guards' own fields are arguments; pooled sequences are a study's
}
COMMANDS = [("audit", audits.audit, (Request,)), ("attack", acts.attack, (Request,)), ("continual", sequences.continual, (Order, Guards))]


def defaults(kind: type) -> dict[str, Any]:
    return {f.name: f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default for f in dataclasses.fields(kind)}


@pytest.mark.parametrize(("name", "command", "kinds"), COMMANDS)
def test_every_argument_is_a_field_and_every_field_an_argument(name, command, kinds):
    arguments = set(inspect.signature(command).parameters) - WORK
    fields = {field: value for kind in kinds for field, value in defaults(kind).items()}
    assert arguments - set(OTHER[name]) <= set(fields)
    assert set(fields) - arguments - set(OTHER[name].values()) == LEFT[name]


@pytest.mark.parametrize(("name", "command", "kinds"), COMMANDS)
def test_defaults_agree(name, command, kinds):
    given = {key: p.default for key, p in inspect.signature(command).parameters.items() if key not in {*WORK, *OTHER[name]}}
    fields = {field: value for kind in kinds for field, value in defaults(kind).items()}
    assert {key: fields[key] for key in given} == given


def test_an_argument_that_is_no_field_is_left_out_and_a_misspelt_one_is_an_error():
    made = options.filled(Request, {"model": "somewhere", "out": "runs/x"}, attacks=("memora",))
    assert (made.model, made.attacks) == ("somewhere", ("memora",))
    with pytest.raises(TypeError):
        options.filled(Request, {}, atacks=())
