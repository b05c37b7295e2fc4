"""Options of the command line that say where and how models work; and what each of several processes does with a command."""

from __future__ import annotations

import functools
import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from vestige.errors import BadSetting

SAVERS = {
    "offload": "text encoders and autoencoder rest on the CPU",
    "checkpointing": "activations are computed again",
    "slicing": "attention head by head",
    "adam8bit": "needs bitsandbytes and a GPU",
}

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "config": (
        Annotated[
            Path | None, typer.Option("--config", help="Where --model is a single file: a pipeline folder that describes it; read offline.")
        ],
        None,
    ),
    "device": (Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:N, mps, or auto: the fastest there is.")], "auto"),
    "dtype": (
        Annotated[str, typer.Option("--dtype", help="Weights' precision: float32, bfloat16, or float16, which cannot train.")],
        "float32",
    ),
    "save_memory": (
        Annotated[
            str, typer.Option("--save-memory", help="; ".join(f"{name}: {about}" for name, about in SAVERS.items()) + ". With commas.")
        ],
        "",
    ),
    "accumulation": (
        Annotated[int, typer.Option("--accumulation", min=1, help="Multiplies a method's micro-batches a training step.")],
        1,
    ),
}


def machine(command: Callable[..., None]) -> Callable[..., None]:
    """A command that also takes the options above; they hold for everything inside it."""
    own, hints = inspect.signature(command), get_type_hints(command, include_extras=True)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in _OPTIONS}
        if chosen["config"] is not None and "model" not in given:
            raise BadSetting("--config describes --model, which this command does not take; in a file write MODEL@CONFIG")
        if chosen["config"] is not None:
            given["model"] = f"{given['model']}@{chosen['config']}"
        with ExitStack() as stack:
            for context in _holding(**chosen):
                stack.enter_context(context)
            stack.enter_context(_in_chorus(given))
            command(**given)

    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, kind, default=default, annotation=told) for name, (told, default) in _OPTIONS.items()]
    kept = [p.replace(kind=kind, annotation=hints[name]) for name, p in own.parameters.items()]
    run.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, **{name: told for name, (told, _) in _OPTIONS.items()}}
    del run.__wrapped__
    return run


def _holding(config: Path | None, device: str, dtype: str, save_memory: str, accumulation: int) -> list[Any]:
    from vestige.methods import optimiser
    from vestige.models import placement

    asked = {name.strip() for name in save_memory.split(",") if name.strip()}
    unknown = sorted(asked - set(SAVERS))
    if unknown:
        raise BadSetting(f"--save-memory takes {', '.join(SAVERS)}; given {unknown[0]!r}")
    switches = {name: name in asked for name in ("offload", "checkpointing", "slicing")}
    placed = placement.Placement(device=device, dtype=dtype, **switches)
    return [placement.using(placed), optimiser.using(optimiser.FitOptions(accumulation=accumulation, eight_bit="adam8bit" in asked))]


@contextmanager
def _in_chorus(given: dict[str, Any]) -> Iterator[None]:
    """Of several processes that run one command, the first writes and speaks; the others only compute, in a folder that is thrown away."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        given |= {key: Path(folder) / key for key in ("out", "cache") if key in given}
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
