"""What components say of themselves: configurations are read here, and what is not honoured, or does not fit beside the rest, is refused.

A setting that changes what a network computes is either taken into account by its family or refused; none is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vestige.errors import BadInput, Incompatible

Honoured = Mapping[str, Sequence[Any]]  # setting -> the values under which a network is called as it is meant to be

UNET: Honoured = {
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "addition_embed_type": (None, "text", "text_time"),
    "encoder_hid_dim_type": (None, "text_proj"),
    "time_embedding_type": ("positional",),
    "attention_type": ("default",),
    "dual_cross_attention": (False,),
}
CLASS_UNET: Honoured = {"class_embed_type": (None,), "time_embedding_type": ("positional", "learned")}
AUTOENCODER: Honoured = {"in_channels": (3,), "out_channels": (3,), "latents_mean": (None,), "latents_std": (None,)}
READER: Honoured = {"use_attention_mask": (None, False)}
SIZES = 6  # what SDXL is told beside the text: height and width before cropping, top and left of the crop, height and width
DEEPEST, WIDEST = 1000, 2**24  # no network has more layers, no table more rows; a damaged file may say so
LARGEST = 4096  # latents along a side


def configuration(folder: Path, what: str, file: str = "config.json") -> dict[str, Any]:
    """A component's configuration; a damaged one, and one of quantised weights, is refused.

    Arguments:
        what: How errors call the component, e.g. "unet of wardrobe".
    """
    path = folder / file
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"{what} cannot be read: {path}: {error.strerror or error}; give a folder in diffusers' layout") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{what} cannot be read: {path} is no JSON ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise BadInput(f"{what} cannot be read: {path} holds no table; fetch it again")
    quantised = found.get("quantization_config")
    if quantised is not None:
        method = quantised.get("quant_method", "its own way") if isinstance(quantised, dict) else "its own way"
        raise Incompatible(f"{what} is stored quantised ({method}), and only whole weights are read; give it in float32 or in 16 bits")
    _plausible(found, path)
    return found


def _plausible(found: Mapping[str, Any], path: Path) -> None:
    """Refuse numbers that no network has, before one of that size is built."""
    for key, value in found.items():
        deep = "layers" in key or "blocks" in key
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > (DEEPEST if deep and not isinstance(value, list) else WIDEST):
                raise BadInput(f"{path} says {key} = {number}, more than any network has; fetch it again")


def honour(config: Mapping[str, Any], known: Honoured, what: str) -> None:
    """Refuse a setting under which the network would be called otherwise than it is meant to be."""
    for key, accepted in known.items():
        value = config.get(key)
        if key in config and value not in accepted:
            shown = " or ".join(repr(one) for one in accepted)
            raise Incompatible(f"{what} has {key} = {str(value)[:60]!r}, which is not supported; {shown} is")


def equal(given: int, reads: int, what: str) -> None:
    """Refuse two parts of which one gives vectors of a width that the other does not read."""
    if given != reads:
        raise Incompatible(f"{what}: {given} and {reads}; give parts that belong together")


def autoencoder(config: Any, channels: int, name: str) -> None:
    """Refuse an autoencoder that has not this many channels, or whose latents are scaled in a way that is not read."""
    honour(config, AUTOENCODER, f"vae of {name}")
    equal(int(config["latent_channels"]), channels, f"vae and denoiser of {name} have different numbers of channels")


def sides(size: Any, name: str) -> tuple[int, int]:
    """(height, width) from a side or both."""
    both = (size, size) if isinstance(size, int) else size
    if size is None:
        raise Incompatible(f"{name} does not say the size of its pictures; set sample_size in its denoiser's config.json")
    if not isinstance(both, Sequence) or len(both) != 2 or not all(type(n) is int and 0 < n <= LARGEST * 8 for n in both):
        raise Incompatible(f"{name} has pictures of size {str(size)[:60]}; a side, or height and width, is expected")
    return both[0], both[1]


def latent(unet: Any, vae: Any, readers: Sequence[Any], name: str) -> None:
    """Refuse a U-Net with cross-attention that is told what is not known here, or that does not fit its autoencoder and text encoders.

    Arguments:
        unet: Its configuration; `vae` likewise, and `readers`: those of the text encoders, in order.
    """
    if unet["in_channels"] != unet["out_channels"]:
        raise Incompatible(f"{name} has a U-Net with {unet['in_channels']} input channels (inpainting?); 4 in, 4 out is supported")
    honour(unet, UNET, f"unet of {name}")
    for reader in readers:
        honour(reader.to_dict(), READER, f"a text encoder of {name}")
    autoencoder(vae, unet["in_channels"], name)
    _told(unet, readers, name)
    wide = sum(reader.hidden_size for reader in readers)
    reads = unet["encoder_hid_dim"] if unet.get("encoder_hid_dim") is not None else unet.get("cross_attention_dim", wide)
    for width in reads if isinstance(reads, list | tuple) else (reads,):
        equal(wide, width, f"text encoder and unet of {name} do not fit: the states' width and what cross-attention reads are")


def _told(unet: Any, readers: Sequence[Any], name: str) -> None:
    """Refuse numbers beside the text other than SDXL's."""
    kind = unet.get("addition_embed_type")
    if (len(readers) == 2) != (kind == "text_time"):
        raise Incompatible(f"{name} has {len(readers)} text encoder(s) and a U-Net with addition_embed_type = {kind!r}; SDXL has two, and "
                           "'text_time'")  # fmt: skip
    if kind != "text_time":
        return
    left = (unet.get("projection_class_embeddings_input_dim") or 0) - readers[1].projection_dim
    if left != SIZES * (unet.get("addition_time_embed_dim") or 0):
        raise Incompatible(
            f"{name} has a U-Net that is told other numbers than a picture's sizes and place (a refiner, with an aesthetic score?); "
            "give the base model"
        )
