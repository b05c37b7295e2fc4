"""What the families share: weights by qualified name, views that share every tensor they leave alone, parts that are read whole."""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Generator, Tensor, nn

from vestige.diffusion import Model
from vestige.diffusion.views import hooked
from vestige.edits import Edit
from vestige.edits.surgery import Factors, attach, rebuild
from vestige.errors import BadInput, Incompatible, UnknownName
from vestige.models.sources import misnamed

Scopes = Mapping[str, Callable[[str], bool]]
Self = TypeVar("Self", bound="Modular")


class Modular(Model):
    """A model made of torch modules; a family adds conditions, times and predictions.

    Arguments:
        parts: Modules by component name, in the order in which the fingerprint reads them.
        denoiser: The component that predicts, and that adapters sit on.
        hashes: Known hashes of weights by qualified name, shared between views.
    """

    resting: frozenset[str] = frozenset()  # components that lie on the CPU while they have nothing to do

    def __init__(self, name: str, parts: Mapping[str, nn.Module], denoiser: str, hashes: dict[str, str] | None = None) -> None:
        self.name, self.parts, self.denoiser = name, dict(parts), denoiser
        if "vae" in self.parts:
            self.parts["vae"] = _steady(self.parts["vae"])
        self._hashes = {} if hashes is None else hashes
        for part in self.parts.values():
            part.requires_grad_(False)
            part.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parts[self.denoiser].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parts[self.denoiser].parameters()).dtype

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
        return hooked(self._with({n: edit.weight(n, self.tensor(n)) for n in edit.touched}), edit.hooks)

    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        view = self._with({n: self.tensor(n).clone() for n in names}, leaves=True)
        return view, {n: view._parameter(n) for n in names}

    def adapted(self, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[Model, Factors]:
        short = [n.removeprefix(f"{self.denoiser}.") for n in names]
        made, leaves = attach(self.parts[self.denoiser], short, rank=rank, alpha=alpha, init=init, rng=rng)
        return self._view({**self.parts, self.denoiser: made}, {}), {f"{self.denoiser}.{n}": pair for n, pair in leaves.items()}

    @property
    def fingerprint(self) -> str:
        precision = "" if self.dtype == torch.float32 else f" {self.dtype}"
        digest = hashlib.sha256(f"{self._identity()}{precision}\n".encode())
        for name in self._names():
            if name not in self._hashes:
                raw = self._parameter(name).detach().float().cpu().contiguous().numpy()
                self._hashes[name] = hashlib.blake2b(raw.tobytes(), digest_size=16).hexdigest()
            digest.update(f"{name} {self._hashes[name]}\n".encode())
        return digest.hexdigest()

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

    def _parameter(self, name: str) -> Tensor:
        part, _, rest = name.partition(".")
        return self.parts[part].get_parameter(rest)

    def _with(self: Self, values: Mapping[str, Tensor], *, leaves: bool = False) -> Self:
        parts = dict(self.parts)
        for part in parts:
            mine = {n[len(part) + 1 :]: v for n, v in values.items() if n.startswith(part + ".")}
            if mine:
                parts[part] = rebuild(parts[part], mine, leaves=leaves)
        unknown = [n for n in values if n.partition(".")[0] not in parts]
        if unknown:
            raise Incompatible(f"{self.name} has no component {unknown[0].partition('.')[0]!r}")
        return self._view(parts, {n: h for n, h in self._hashes.items() if n not in values})

    def _view(self: Self, parts: Mapping[str, nn.Module], hashes: dict[str, str]) -> Self:
        view = object.__new__(type(self))
        vars(view).update({**vars(self), "parts": dict(parts), "_hashes": hashes})
        return view

    def _encoded(self, images: Tensor) -> Tensor:
        """The mean of the autoencoder's posterior, scaled (and shifted, where it has a shift) as the denoiser reads it."""
        vae = cast(Any, self.parts["vae"])
        with torch.no_grad(), self._awake("vae"):
            mean = vae.encode(images.to(self.device, vae.dtype) * 2 - 1).latent_dist.mean
        return cast(Tensor, ((mean - _shift(vae)) * vae.config.scaling_factor).to(self.dtype))

    def _decoded(self, latents: Tensor) -> Tensor:
        vae = cast(Any, self.parts["vae"])
        with torch.no_grad(), self._awake("vae"):
            images = vae.decode((latents.to(vae.dtype) / vae.config.scaling_factor) + _shift(vae), return_dict=False)[0]
        return cast(Tensor, (images / 2 + 0.5).clamp(0, 1).float())


def _shift(vae: Any) -> float:
    return float(getattr(vae.config, "shift_factor", None) or 0)


def _steady(vae: Any) -> nn.Module:
    """The autoencoder; in single precision if it says that it overflows in half."""
    if vae.dtype != torch.float16 or not getattr(vae.config, "force_upcast", False):
        return cast(nn.Module, vae)
    return cast(nn.Module, copy.deepcopy(vae).float())


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from a side or both."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def frozen(module: nn.Module) -> nn.Module:
    """The module around the same storage with parameters of its own, so that switching off their gradients leaves the given one's on."""
    return rebuild(module, {n: p.data for n, p in module.named_parameters()})


def present(folders: Mapping[str, Path], name: str) -> None:
    """Refuse a model of which a folder is missing."""
    for part, folder in folders.items():
        if not folder.is_dir():
            raise BadInput(f"{name} has no folder {part} at {folder}; give a folder in diffusers' layout")


def whole(kind: Any, folder: Path, what: str, **precision: torch.dtype) -> nn.Module:
    """A component read from its folder; every weight must be there, and no other.

    Arguments:
        kind: Its class, of diffusers or transformers.
        what: How errors call it, e.g. "unet of wardrobe".
        precision: The dtype, by the name that the class gives it; weights that are there as "fp16" alone are converted.
    """
    from safetensors import SafetensorError

    variants = {"variant": "fp16"} if _halved(folder) else {}
    try:
        made, report = kind.from_pretrained(folder, output_loading_info=True, local_files_only=True, **variants, **precision)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        odd = next((f"{file.name} is {told}" for file in sorted(folder.glob("*.safetensors")) if (told := misnamed(file))), str(error))
        raise BadInput(f"{what} cannot be read from {folder} ({odd})") from error
    wrong = [f"{key} {sorted(report[key])[:3]}" for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]]
    if wrong:
        raise BadInput(f"{what} does not load whole: {'; '.join(wrong)}")
    return cast(nn.Module, made)


def _halved(folder: Path) -> bool:
    """Whether a component's weights are there in half precision alone."""
    files = [p.name for p in folder.glob("*.safetensors")]
    return bool(files) and all(".fp16." in name for name in files)
