"""What the families share: weights by qualified name, views that share every tensor they leave alone, parts that are read whole."""

from __future__ import annotations

import copy
import hashlib
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Generator, Tensor, nn

from vestige.diffusion import Model
from vestige.diffusion.views import hooked
from vestige.edits import Edit, precision
from vestige.edits.surgery import Factors, attach, rebuild
from vestige.errors import HalfPrecision, Incompatible, UnknownName
from vestige.models import sources, surroundings
from vestige.models.reading import whole

_BIAS_OR_GAIN = re.compile(r"(\.bias|norm\w*\.weight)$")
Scopes = Mapping[str, Callable[[str], bool]]
Self = TypeVar("Self", bound="Modular")
Value = TypeVar("Value")


def bias_or_gain(name: str) -> bool:
    """Whether a weight is one of a vector: a bias, or the gains of a norm, of picture features or of queries and keys."""
    return _BIAS_OR_GAIN.search(name) is not None


class Modular(Model):
    """A model made of torch modules; a family adds conditions, times and predictions.

    Arguments:
        parts: Modules by component name, in the order in which the fingerprint reads them.
        denoiser: The component that predicts, and that adapters sit on.
        hashes: Known hashes of weights by qualified name, shared between views.
    """

    shifts: ClassVar[bool] = False  # the autoencoder's shift is read, as diffusers' pipelines of rectified flow do and others do not
    resting: frozenset[str] = frozenset()  # components that lie on the CPU while they have nothing to do

    def __init__(self, name: str, parts: Mapping[str, nn.Module], denoiser: str, hashes: dict[str, str] | None = None) -> None:
        self.name, self.parts, self.denoiser = name, dict(parts), denoiser
        if "vae" in self.parts:
            self.parts["vae"] = _steady(self.parts["vae"])
        self._hashes = {} if hashes is None else hashes
        self._known: dict[str, str] = {}  # what views share, worked out once
        for part in self.parts.values():
            part.requires_grad_(False)
            part.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parts[self.denoiser].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parts[self.denoiser].parameters()).dtype

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def placed(self, device: torch.device | str, *, offload: bool = False, checkpointing: bool = False, slicing: bool = False) -> None:
        """Move the model, and choose what it saves memory by; for a model that has just been loaded, before views are made of it.

        Arguments:
            offload: Everything but the denoiser stays on the CPU while it has nothing to do.
            checkpointing: The denoiser's activations are computed again in the backward pass instead of being kept.
            slicing: Attention is computed head by head.
        """
        network = cast(Any, self.parts[self.denoiser])
        for asked, switch in ((checkpointing, "enable_gradient_checkpointing"), (slicing, "set_attention_slice")):
            if asked and not hasattr(network, switch):
                raise Incompatible(f"{type(network).__name__} of {self.name} has no {switch}; leave that memory option out")
        if checkpointing:
            network.enable_gradient_checkpointing()
        if slicing:
            network.set_attention_slice("max")
        self.resting = frozenset(part for part in self.parts if offload and part != self.denoiser)
        for part, module in self.parts.items():
            module.to("cpu" if part in self.resting else device)

    @contextmanager
    def _awake(self, *parts: str) -> Iterator[None]:
        """These components, where the denoiser is. Views share their weights, so all of a model's views move with it."""
        moved = [self.parts[part] for part in parts if part in self.resting]
        try:
            for module in moved:
                module.to(self.device)
            yield
        finally:
            for module in moved:
                module.to("cpu")

    def tensor(self, name: str) -> Tensor:
        try:
            return self._parameter(name).detach()
        except (KeyError, AttributeError):
            raise Incompatible(f"{self.name} has no weight named {name!r}") from None

    def edited(self, edit: Edit) -> Model:
        edit.check(self)
        apart = {n: pair for n, pair in edit.factors.items() if self._stays(n)}
        whole = {n: edit.weight(n, self.tensor(n)) for n in edit.touched if n not in apart}
        values = whole | {n: edit.tensors[n] for n in apart if n in edit.tensors}
        return hooked(self._with(values, factors=apart), edit.hooks)

    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        self._trains(names)
        view = self._with({n: self.tensor(n).clone() for n in names}, leaves=True)
        return view, {n: precision.leaf(*view._place(n)) for n in names}

    def adapted(self, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[Model, Factors]:
        self._trains(names)
        short = [n.removeprefix(f"{self.denoiser}.") for n in names]
        made, leaves = attach(self.parts[self.denoiser], short, rank=rank, alpha=alpha, init=init, rng=rng)
        return self._view({**self.parts, self.denoiser: made}, {}), {f"{self.denoiser}.{n}": pair for n, pair in leaves.items()}

    @property
    def fingerprint(self) -> str:
        plain, around = self._of_weights(), self._around()
        return hashlib.sha256(f"{plain} {around}\n".encode()).hexdigest() if around else plain

    @property
    def earlier(self) -> tuple[str, ...]:
        return (self._of_weights(),) if self._around() else ()

    def _of_weights(self) -> str:
        precision = "" if self.dtype == torch.float32 else f" {self.dtype}"
        digest = hashlib.sha256(f"{self._identity()}{precision}\n".encode())
        for name in self._names():
            if name not in self._hashes:
                raw = self._parameter(name).detach().float().cpu().contiguous().numpy()
                self._hashes[name] = hashlib.blake2b(raw.tobytes(), digest_size=16).hexdigest()
            digest.update(f"{name} {self._hashes[name]}\n".encode())
        return digest.hexdigest()

    def _around(self) -> str:
        """Hash of what surrounds the weights; "" where that is what surrounds a model that ships with the package."""
        if "around" not in self._known:
            self._known["around"] = surroundings.digest(self.surroundings())
        return "" if self._known["around"] in surroundings.RELEASED else self._known["around"]

    def surroundings(self) -> dict[str, Any]:
        """What makes pictures beside the weights and the noise levels, plain data by component."""
        parts = {part: surroundings.of_module(module) for part, module in self.parts.items()}
        stored = {name: value for part, module in self.parts.items() for name, value in surroundings.of_buffers(part, module).items()}
        words = {part: surroundings.of_tokenizer(tokenizer) for part, tokenizer in self._words().items()}
        return {**parts, **({"buffers": stored} if stored else {}), **words, "scheduler": self._sampled()}

    def unlike(self, folder: Path) -> list[str]:
        found, whole_ = list[str](), (folder / sources.INDEX).is_file()
        spots = {part: folder / part for part in self.parts} if whole_ else self._alone(folder)
        for part, spot in spots.items():
            if (spot / "config.json").is_file():
                found += self._differing(part, spot, not whole_)
        if not whole_:
            return found
        for part, words in self._words().items():
            if (folder / part).is_dir():
                there = surroundings.read_tokenizer(words, folder / part)
                found += surroundings.differences(there, surroundings.of_tokenizer(words), f"{part}.")
        if (folder / "scheduler/scheduler_config.json").is_file():
            found += surroundings.differences(self._levels(folder / "scheduler"), self._levels(None), "scheduler.")
        return [*found, *self._indexed(folder)]

    def _alone(self, folder: Path) -> dict[str, Path]:
        """The one component that a folder can be, by the class that its configuration names."""
        named = surroundings.named(folder)
        fits = [part for part, module in self.parts.items() if type(module).__name__ == named]
        return {fits[0]: folder} if len(fits) == 1 else {}

    def _differing(self, part: str, spot: Path, alone: bool) -> list[str]:
        """How a component in a folder differs: its configuration, and of one that no edit changes, its weights.

        Arguments:
            alone: The folder is all there is, and often less than diffusers saves: only what its configuration says is compared.
        """
        mine, told = self.parts[part], surroundings.told(spot)
        named = surroundings.named(spot)
        if hasattr(type(mine), "load_config") and named != type(mine).__name__:
            return [f"{part} is a {named} there and a {type(mine).__name__} here"]
        both = [surroundings.of_module(one) for one in (surroundings.hollow(mine, spot), mine)]
        there, here = ({k: v for k, v in one.items() if k in told or not alone} for one in both)
        found = list(surroundings.differences(there, here, f"{part}."))
        if part != "vae" or found or not any(f.name.endswith(sources.WEIGHTS) for f in spot.iterdir()):
            return found
        return surroundings.moved(part, whole(type(mine), spot, f"{part} of {spot.parent}", torch_dtype=torch.float32), mine)

    @abstractmethod
    def _levels(self, folder: Path | None) -> dict[str, Any]:
        """Noise levels and what the network predicts, plain data: of a scheduler's folder, or None for the model's own."""

    def _indexed(self, folder: Path) -> list[str]:
        """What a pipeline folder's index says otherwise."""
        return []

    def _words(self) -> dict[str, Any]:
        """Tokenizers by component name."""
        return {}

    def _sampled(self) -> dict[str, Any]:
        """What decides where sampling steps, beside what `_identity` tells."""
        return {}

    def tables(self) -> dict[str, slice]:
        found = [name for name in self._names() if name.endswith(("token_embedding.weight", ".shared.weight"))]
        return dict.fromkeys(found, slice(None)) if found else super().tables()

    @abstractmethod
    def _identity(self) -> str:
        """What tells two models with equal weights apart, e.g. the noise schedule."""

    def _chosen(self, name: str, scopes: Scopes) -> list[str]:
        if name not in scopes:
            raise UnknownName("scope", name, scopes)
        chosen = [n for n in self._names() if scopes[name](n)]
        if not chosen:
            raise Incompatible(f"scope {name!r} selects no weight of {self.name}")
        return chosen

    def _names(self) -> list[str]:
        return [f"{part}.{n}" for part, module in self.parts.items() for n, _ in module.named_parameters()]

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """The component that holds a weight, and the weight's name there."""
        part, _, rest = name.partition(".")
        return self.parts[part], rest

    def _parameter(self, name: str) -> Tensor:
        return precision.weight(*self._place(name))

    def _stays(self, name: str) -> bool:
        """Whether factors of a weight stay beside it; a weight that is not there is an error."""
        self.tensor(name)
        return precision.beside(*self._place(name))

    def _trains(self, names: Sequence[str]) -> None:
        """Refuse to train what half precision cannot hold the gradients of."""
        if torch.float16 in {self.dtype, *(self.tensor(n).dtype for n in names)}:
            raise HalfPrecision(self.name)

    def _with(self: Self, values: Mapping[str, Tensor], *, leaves: bool = False, factors: Factors | None = None) -> Self:
        parts, factors = dict(self.parts), factors or {}
        touched = {*values, *factors}
        for part in parts:
            mine, pairs = _within(part, values), _within(part, factors)
            if mine or pairs:
                parts[part] = rebuild(parts[part], mine, leaves=leaves, factors=pairs)
        unknown = sorted(n for n in touched if n.partition(".")[0] not in parts)
        if unknown:
            raise Incompatible(f"{self.name} has no component {unknown[0].partition('.')[0]!r}")
        return self._view(parts, {n: h for n, h in self._hashes.items() if n not in touched})

    def _view(self: Self, parts: Mapping[str, nn.Module], hashes: dict[str, str]) -> Self:
        view = object.__new__(type(self))
        vars(view).update({**vars(self), "parts": dict(parts), "_hashes": hashes})
        return view

    @property
    def _shift(self) -> float:
        return float(getattr(cast(Any, self.parts["vae"]).config, "shift_factor", None) or 0) if self.shifts else 0.0

    def _encoded(self, images: Tensor) -> Tensor:
        """The mean of the autoencoder's posterior, scaled (and shifted, where that is read) as the denoiser reads it."""
        vae = cast(Any, self.parts["vae"])
        with torch.no_grad(), self._awake("vae"):
            mean = vae.encode(images.to(self.device, vae.dtype) * 2 - 1).latent_dist.mean
        return cast(Tensor, ((mean - self._shift) * vae.config.scaling_factor).to(self.dtype))

    def _decoded(self, latents: Tensor) -> Tensor:
        vae = cast(Any, self.parts["vae"])
        with torch.no_grad(), self._awake("vae"):
            images = vae.decode((latents.to(vae.dtype) / vae.config.scaling_factor) + self._shift, return_dict=False)[0]
        return cast(Tensor, (images / 2 + 0.5).clamp(0, 1).float())


def _within(part: str, table: Mapping[str, Value]) -> dict[str, Value]:
    """The rows of a table by weight that speak of a component, by their names there."""
    return {name[len(part) + 1 :]: value for name, value in table.items() if name.startswith(part + ".")}


def _steady(vae: Any) -> nn.Module:
    """The autoencoder; in single precision if it says that it overflows in half."""
    if vae.dtype != torch.float16 or not getattr(vae.config, "force_upcast", False):
        return cast(nn.Module, vae)
    return cast(nn.Module, copy.deepcopy(vae).float())
