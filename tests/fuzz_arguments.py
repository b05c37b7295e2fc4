"""A process that gives every command thousands of odd arguments and damaged model folders, and says what became of them.

    python tests/fuzz_arguments.py FOLDER ARGUMENTS FOLDERS SEED[,SEED...] [PAGE]

Every try ends with exit status 0, or with 2 and one line; whatever else it ends in is told: an exception that is not ours, more lines, a
hang. `tests/cli/test_arguments_fuzz.py` runs it small. Options are those that the commands have, read off the command line itself.
Models are tiny, and after a few calls of the denoiser a try has computed enough, and ends as a refusal does.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")

import torch
import typer

from fuzz_folders import built, hurt
from oracles import tiny_model
from vestige import models, registry
from vestige.cli import app, frame
from vestige.errors import VestigeError
from vestige.models.modular import Modular

LONGEST = {signal.ITIMER_PROF: 30.0, signal.ITIMER_REAL: 300.0}  # seconds of a try, of work and of waiting, before it hangs
CALLS = 6  # of the denoiser in a try
ROOM = 6 << 30  # bytes of address space beyond what the process has when it begins
NUMBERS = ("0", "1", "2", "-1", "3", "1001", "nan", "inf", "-inf", "1e309", "1e-320", "9" * 30, "-" + "9" * 19, str(2**64), "0x10", "1.5")
WORDS = ("", " ", ",", "a,b", "none", "auto", "True", "null", "٣", "\udce9", "sneaker " * 200, "x" * 5000, "🙂", "{", "[]", "a\nb", "-")
NAMED = ("wardrobe", "sneaker", "bag", "neon", "smoke", "quick", "uce", "esd", "memora", "direct", "shipped", "drawn", "generated", "all")
PLACES = ("", ".", "..", "here", "file", "file/below", "gone/below", "loop", "pipe", "locked", "empty", "x" * 300, "\udce9", "n\nl", "~")
MENDED = (
    "a text encoder's `eos_token_id`, a tokenizer's `model_max_length` and a network's `_class_name` of another kind: TypeError and "
    "AttributeError at the first prompt. Models are now tried out when they are loaded.",
    "`model_index.json` nested 60,000 deep: RecursionError.",
    "`--count` of 2^64: a list that never ends.",
    "a pipe as `--edit`: waited for, for ever.",
    "a new line in the name of a place: an error of several lines.",
)


COMMAND: Any = typer.main.get_command(app)  # once: `vestige` makes it when it starts
USUAL = {"prompt": "a bag", "requests": "bag,dress", "file": "b.safetensors", "run": "half"}  # what a command needs


class Hang(BaseException):
    """A try takes too long."""


class Enough(VestigeError):
    """A try has computed enough."""


def files(folder: Path) -> list[str]:
    """Odd files and folders that arguments may name."""
    (folder / "file").write_bytes(b"\x00\xff text")
    (folder / "empty").mkdir()
    (folder / "locked").mkdir(mode=0)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    texts = {
        "a.toml": 'name = "sneaker"\n',
        "b.toml": 'name = 3\nneighbours = "x"\n',
        "c.toml": 'name = "' + "sneaker " * 90 + '"\n',
        "d.toml": "name = ",
        "e.toml": 'name = "x"\ntemplates = ["{concept:>999999999}"]\n',
        "f.toml": 'name = "x"\ndetector = "hf:nowhere"\nthreshold = nan\n',
        "g.toml": 'name = "x"\ncontexts = ["{concept}"]\ntemplates = ["{concept} {context}", "{concept.__class__}"]\n',
        "h.toml": 'name = "x\\u0000y"\npictures = "a\\u0000b"\n',
        "i.toml": 'name = "x"\ndetector = "file.py:f"\n',
        "a.csv": "prompt,evaluation_seed\na bag,1\n",
        "b.csv": "prompt,seed,guidance\na bag,99999999999999999999999,nan\n",
        "c.csv": "prompt\n\n",
        "d.csv": "prompt,seed\na,b,c\n",
        "a.json": "{}",
        "result.json": "[",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "b.safetensors").write_bytes(b"\xff" * 40)
    (folder / "half").mkdir()
    for name in ("result.json", "run.json", "ledger.json"):
        (folder / "half" / name).write_text('{"schema": 3}')
    return [*texts, "b.safetensors", "half"]


class Arguments:
    """Command lines, drawn at random from what the commands take."""

    def __init__(self, rng: random.Random, names: list[str]) -> None:
        self.rng, self.names = rng, names
        self.commands: dict[str, Any] = dict(COMMAND.commands)
        kinds = ("unlearners", "attacks")
        self.settings = [f"{n}.{s}" for kind in kinds for n in registry.names(kind) for s in registry.find(kind, n).__dataclass_fields__]
        self.methods = [name for kind in kinds for name in registry.names(kind)]

    def line(self) -> list[str]:
        """One command with a few options of its own, and now and then with what it does not have."""
        rng = self.rng
        name = rng.choice(list(self.commands))
        parameters = self.commands[name].params
        chosen = {rng.choice(parameters).name for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 5)))}
        words: list[str] = []
        for parameter in parameters:
            needed = parameter.required or (parameter.name in ("out", "dry_run", "prompt") and rng.random() < 0.97)
            if parameter.param_type_name == "argument":
                words += [self._value(parameter)] if needed or rng.random() < 0.7 else []
            elif parameter.name != "help" and (needed or parameter.name in chosen):
                words += self._option(parameter)
        if rng.random() < 0.03:
            words.insert(rng.randrange(len(words) + 1), rng.choice((*WORDS, "--nonsense", "--", "-x", "--out")))
        return [name, *words]

    def _option(self, parameter: Any) -> list[str]:
        flag = self.rng.choice(parameter.opts)
        if parameter.is_flag:
            return [flag]
        times = self.rng.choice((1, 1, 2)) if parameter.multiple else 1
        return [word for _ in range(times) for word in (flag, self._value(parameter))]

    def _value(self, parameter: Any) -> str:
        rng, number = self.rng, re.search(r"\b(int|float)", str(vars(parameter).get("type_descriptor", parameter)), re.IGNORECASE)
        if parameter.name in USUAL and rng.random() < 0.6:
            return USUAL[parameter.name]
        if parameter.name == "settings" and rng.random() < 0.9:
            return f"{rng.choice(self.settings)}={rng.choice((*NUMBERS, *WORDS, *NAMED))}"
        if parameter.name in ("method", "unlearner", "attack") and rng.random() < 0.8:
            return rng.choice(self.methods)
        if number:
            return rng.choice(NUMBERS) if rng.random() < 0.9 else rng.choice(WORDS)
        if parameter.name == "out" and rng.random() < 0.6:
            return f"out{rng.randrange(10**9)}"
        if parameter.default not in (None, (), "") and isinstance(parameter.default, str) and rng.random() < 0.4:
            return str(parameter.default)
        pool = rng.choice((PLACES, tuple(self.names), NAMED, WORDS, NUMBERS))
        value = rng.choice(pool)
        return rng.choice((value, value, value, f"twin:{value}", f"proxy:{value}", f"{value}@{rng.choice(PLACES)}", f"hf:{value}"))


def cheap() -> None:
    """Built-in models of prompts become tiny, and denoisers stop after a few calls."""
    load, small, seen = models.load, {}, [0]

    def loaded(name: str, placement: Any = None) -> Any:
        if models.card(name).world != "wardrobe" or models.card(name).family != "latent":
            return load(name, placement)
        return small.setdefault(name, tiny_model())

    def counting(denoise: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: Any, *given: Any) -> Any:
            seen[0] += 1
            if seen[0] % CALLS == 0:
                raise Enough("enough was computed")
            return denoise(self, *given)

        return called

    models.load = loaded  # type: ignore[assignment]
    for kind in Modular.__subclasses__():
        kind.denoise = counting(kind.denoise)  # type: ignore[method-assign]


def tried(words: list[str]) -> str:
    """What is wrong with how a command ended; "" for nothing, or how it ended well after a "+"."""

    def hang(*_: Any) -> None:
        raise Hang

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    sys.argv = ["vestige", *words]
    for heard in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(heard, hang)
    for timer, seconds in LONGEST.items():
        signal.setitimer(timer, seconds)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code, complaint = frame._answer(COMMAND)
            frame.say(complaint.encode("utf-8", "backslashreplace").decode())
    except Hang:
        return "hang: " + " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_tb(sys.exc_info()[2])[-6:]))
    except BaseException as error:
        place = " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)[-8:]))
        return f"{type(error).__name__}: {str(error)[:200]} at {place}"
    finally:
        for timer in LONGEST:
            signal.setitimer(timer, 0)
    if code not in (0, 2):
        return f"exit status {code}: {complaint[:200]}"
    if "\n" in complaint or "Traceback" in complaint:
        return f"more than a line: {complaint[:200]!r}"
    return f"+{code}"


def main(folder: Path, arguments: int, folders: int, seed: int) -> dict[str, Any]:
    """So many command lines, and so many damaged folders."""
    rng, ended, faults, slowest = random.Random(seed), Counter[str](), list[dict[str, Any]](), (0.0, "")
    (folder / "work").mkdir()
    os.chdir(folder / "work")
    os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), HOME=str(folder))
    cheap()
    drawn, wholes, did = Arguments(rng, files(Path())), built(folder / "whole"), ""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))
    turns = [False] * arguments + [True] * folders
    rng.shuffle(turns)
    for turn in turns:
        if turn:
            whole = rng.choice(wholes)
            shutil.rmtree("hurt", ignore_errors=True)
            shutil.copytree(whole, "hurt")
            did = f"{whole.name}: {hurt(Path('hurt'), wholes, rng)}"
            prompt = "class 1" if whole.name == "classes" else "a bag"
            words = ["generate", "--model", "hurt", "--prompt", prompt, "--count", "1", "--out", "out"]
            words += ["--steps", "1"]
        else:
            did, words = "", drawn.line()
        began = time.monotonic()
        said = tried(words)
        took = time.monotonic() - began
        slowest = max(slowest, (took, " ".join(words)[:200] + f" {did}"))
        ended[("folders " if turn else "arguments ") + (said if said.startswith("+") else "fault")] += 1
        if not said.startswith("+"):
            faults.append({"words": words, "did": did, "said": said})
            sys.__stderr__.write(json.dumps(faults[-1]) + "\n")
    return {"ended": dict(sorted(ended.items())), "faults": faults, "slowest": [round(slowest[0], 1), slowest[1]]}


def page(told: dict[str, Any], command: str) -> str:
    """The page of a run."""
    rows = "\n".join(f"| {what.replace(' +', ' | exit status ')} | {count:,} |" for what, count in told["ended"].items())
    faults = "\n".join(f"- `{' '.join(f['words'])[:120]}` {f['did']}: {f['said'][:200]}" for f in told["faults"]) or "None."
    found = "\n".join(f"- {one}" for one in MENDED)
    return f"""# Odd arguments and damaged folders

`{command}`, so many of each for every seed.

Every command and every option, with numbers out of range, words of the wrong kind, places that cannot be read or written, files that
hold something else; and pipeline folders of every family with a part or file missing, cut, swapped with another model's, a Git LFS
pointer, no JSON, or a configuration with a value of another kind or size. A try is to end with exit status 0, or with 2 and one line.

| what | ended with | tries |
|---|---|---|
{rows}

The slowest took {told["slowest"][0]} s.

## Faults

{faults}

## What earlier runs found, mended since

{found}
"""


def together(folder: Path, arguments: str, folders: str, seeds: list[str]) -> dict[str, Any]:
    """The tries of several processes, a seed each."""
    own = [folder / seed for seed in seeds]
    for place in own:
        place.mkdir()
    command = [sys.executable, "-W", "ignore", __file__]
    each = [subprocess.Popen([*command, place, arguments, folders, place.name], stdout=subprocess.PIPE, text=True) for place in own]
    found = [json.loads(process.communicate()[0]) for process in each]
    ended = sum((Counter(one["ended"]) for one in found), Counter[str]())
    faults = [fault for one in found for fault in one["faults"]]
    return {"ended": dict(sorted(ended.items())), "faults": faults, "slowest": max(one["slowest"] for one in found)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = list(sys.argv)
    target = Path(given[5]).resolve() if given[5:] else None
    place, seeds = Path(given[1]).resolve(), given[4].split(",")
    told = together(place, *given[2:4], seeds) if seeds[1:] else main(place, int(given[2]), int(given[3]), int(given[4]))
    if target is not None:
        command = " ".join(["python -W ignore tests/fuzz_arguments.py", place.name, *given[2:5]])
        target.write_text(page(told, command), "utf-8", "backslashreplace")
    sys.__stdout__.write(json.dumps(told, indent=1).encode("utf-8", "backslashreplace").decode() + "\n")
    sys.exit(bool(told["faults"]))
