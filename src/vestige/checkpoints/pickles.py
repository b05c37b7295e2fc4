"""What a torch file would do if it were loaded, found out without loading it.

A pickle is a program. `plan` walks its instructions symbolically: nothing is imported, called or allocated, and everything that is not
a table of tensors is refused by name. A name that is only mentioned, as a key or a value, stays a name. What remains is checked against
the archive's records, so that `torch.load(weights_only=True)` afterwards finds no size that it could be fooled by.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vestige.errors import BadInput

MOST_NODES = 2_000_000  # values of a pickle that are looked at, shared ones as often as they are met
DEEPEST = 32
WIDEST = 8  # dimensions of a tensor
# Storage class -> bytes an element.
STORAGES = {
    **{f"torch {name}Storage": size for name, size in {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Bool": 1}.items()},
    **{f"torch {name}Storage": size for name, size in {"Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}.items()},
}
_ORDERED, _TENSOR, _PARAMETER = "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
# What may be called beside tensors, as weights_only calls it, and with values of what kinds; none of them can be told to be large.
_VALUES: dict[str, tuple[tuple[type, ...], ...]] = {
    "torch device": ((str,), (str, int)),
    "torch.serialization _get_layout": ((str,),),
    "collections Counter": ((dict,),),
    "__builtin__ set": ((list,),),
    "builtins set": ((list,),),
    "_codecs encode": ((str, str),),  # bytes, as Python 3 writes them for Python 2
}
_PLAIN = {_ORDERED, _TENSOR, _PARAMETER, "torch Size", *STORAGES}
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError)
_CALLED = ("INST", "STACK_GLOBAL", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID")
_NUMBERS = ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES")
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Global:
    """A name that a pickle mentions."""

    name: str


@dataclass(frozen=True)
class Value:
    """What is no tensor, no table and no plain data, by the name of its kind."""

    kind: str


@dataclass(frozen=True)
class Record:
    """A storage that a pickle refers to: its file within the archive, and how many elements it says that it has."""

    key: str
    kind: str
    count: int


@dataclass(frozen=True)
class Lazy:
    """A tensor as a pickle describes it."""

    record: Record
    shape: tuple[int, ...]
    offset: int = 0
    stride: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """What its elements take."""
        return math.prod(self.shape) * STORAGES[self.record.kind]


class _Refused(Exception):
    """Not a table of tensors, with the reason."""


class _Calls(_Refused):
    """A name is called that no table of tensors calls."""


def plan(code: bytes, sizes: Mapping[str, int] | None, what: str) -> Any:
    """The value that a pickle would make, with `Lazy` in place of tensors; anything but plain data and tensors is refused.

    Arguments:
        code: The pickle.
        sizes: Bytes of every storage in its archive, by key; None takes what the pickle says, which the caller has to check.
        what: How errors call the file.
    """
    try:
        if any(op.name in _CALLED for op, _, _ in pickletools.genops(code)):
            raise _Calls
        made = _Machine(sizes).run(code)
        _bounded(made)
    except _Calls:
        raise BadInput(f"{what} is refused: {_asked(code)}; convert it to safetensors where its origin is trusted") from None
    except _Refused as reason:
        raise BadInput(f"{what} is refused: {reason}; convert it to safetensors where its origin is trusted") from None
    except _DAMAGE as error:
        raise BadInput(f"{what} holds no whole pickle ({type(error).__name__}: {str(error)[:80]}); was its copy cut short?") from None
    return made


def mentioned(code: bytes) -> list[str]:
    """The names in a pickle, up to where it is damaged, that belong to no table of tensors: "MODULE NAME", or "an instruction ..."."""
    found = set()
    with suppress(*_DAMAGE):
        for op, argument, _ in pickletools.genops(code):
            if op.name in ("GLOBAL", "INST"):
                found.add(str(argument))
            elif op.name in _CALLED:  # puts a name together out of parts
                found.add(f"an instruction {op.name}")
    return sorted(found - _PLAIN - _VALUES.keys())


def _asked(code: bytes) -> str:
    names = mentioned(code) or ["an unknown one"]
    shown = ", ".join(name if name.startswith("an ") else name.replace(" ", ".") for name in names[:4])
    return f"it asks for code: {shown}{', ...' if len(names) > 4 else ''}; nothing of it was run"


def _bounded(made: Any) -> None:
    """Refuse values that are nested without end, or so often that walking them would not end."""
    left, todo = MOST_NODES, [(made, 0)]
    while todo:
        value, depth = todo.pop()
        left -= 1
        if depth > DEEPEST or left < 0:
            raise _Refused(f"it is nested deeper than {DEEPEST} levels" if depth > DEEPEST else f"it has more than {MOST_NODES:,} values")
        if isinstance(value, dict):
            todo += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list | tuple):
            todo += [(item, depth + 1) for item in value]
        if len(todo) > MOST_NODES:
            raise _Refused(f"it has more than {MOST_NODES:,} values")


class _Machine:
    """The pickle machine without its powers."""

    def __init__(self, sizes: Mapping[str, int] | None) -> None:
        self.sizes = sizes
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, code: bytes) -> Any:
        for op, argument, _ in pickletools.genops(code):
            if op.name == "STOP":
                if len(self.stack) != 1 or self.marks:
                    raise ValueError("values are left over")
                return self.stack[0]
            self.step(op.name, argument)
        raise ValueError("it does not end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _NUMBERS or name in _TEXTS:
            stack.append(_CONSTANTS.get(name, argument))
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        elif name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name not in ("PROTO", "FRAME"):
            self.compound(name, argument)

    def compound(self, name: str, argument: Any) -> None:
        """Instructions that put together what lies on the stack."""
        if name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, self.stack = self.stack, self.marks.pop()
            if name == "TUPLE":
                self.stack.append(tuple(items))
            elif name == "APPENDS":
                self.target(list).extend(items)
            else:
                self.target(dict).update(zip(items[::2], items[1::2], strict=True))
        elif name == "APPEND":
            item = self.stack.pop()
            self.target(list).append(item)
        elif name == "SETITEM":
            value, key = self.stack.pop(), self.stack.pop()
            self.target(dict)[key] = value
        elif name == "GLOBAL":
            self.stack.append(Global(argument))
        elif name == "BINPERSID":
            self.stack.append(self.record(self.stack.pop()))
        elif name == "REDUCE":
            arguments, function = self.stack.pop(), self.stack.pop()
            self.stack.append(self.call(function, arguments))
        elif name == "BUILD":
            self.stack.pop()  # the attributes of a state dict (its modules' versions), of no use here
            self.target(dict)
        else:
            raise _Refused(f"it has an instruction {name}, which no table of tensors needs")

    def target(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"a {type(self.stack[-1]).__name__} where a {kind.__name__} must be")
        return self.stack[-1]

    def record(self, given: Any) -> Record:
        """A storage; its size has to be that of the archive's record."""
        storage, kind, key, _, count, *view = given
        if view not in ([], [None]):
            raise _Refused("a storage is part of another one, which no checkpoint of today's kinds is made of")
        if storage != "storage" or not isinstance(kind, Global) or kind.name not in STORAGES or not isinstance(key, str):
            raise _Refused(f"it refers to something that is no storage of a known kind ({str(given)[:60]})")
        sizes = {key: -1} if self.sizes is None else self.sizes
        fits = type(count) is int and key in sizes and (self.sizes is None or count * STORAGES[kind.name] == sizes[key])
        if not fits or count < 0:
            there = f"{sizes[key]:,} bytes" if key in sizes else "nothing"
            raise _Refused(f"storage {key[:20]!r} is said to hold {count} elements of {kind.name}, and the archive has {there}")
        return Record(key, kind.name, count)

    def call(self, function: Any, arguments: Any) -> Any:
        name = function.name if isinstance(function, Global) else ""
        if name == _ORDERED:
            return dict(*arguments)
        if name == "torch Size":
            return tuple(arguments[0])
        if name == _PARAMETER and isinstance(arguments[0], Lazy):
            return arguments[0]
        if tuple(map(type, arguments)) in _VALUES.get(name, ()) and (name != "_codecs encode" or arguments[1] == "latin1"):
            return Value(name.rpartition(" ")[2])
        if name != _TENSOR:
            raise _Calls
        return _tensor(*arguments[:4])


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def _tensor(record: Any, offset: Any, shape: Any, stride: Any) -> Lazy:
    """A tensor inside its storage; one that reaches beyond it, or that is made larger by repeating, is refused."""
    numbers = (offset, *shape, *stride)
    if not isinstance(record, Record) or any(type(n) is not int or n < 0 for n in numbers) or not len(stride) == len(shape) <= WIDEST:
        raise _Refused(f"a tensor has an impossible shape ({str((offset, shape, stride))[:80]})")
    count = math.prod(shape)
    reach = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1 if count else offset
    if reach > record.count or count > record.count:
        raise _Refused(f"a tensor of shape {tuple(shape)} does not fit into its storage of {record.count:,} elements")
    return Lazy(record, tuple(shape), offset, tuple(stride))
