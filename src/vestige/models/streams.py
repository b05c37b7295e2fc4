"""Scopes of transformers with joint attention, where queries of text and picture attend to both."""

from __future__ import annotations

import re
from collections.abc import Callable

from vestige.models.modular import bias_or_gain

_TEXT = re.compile(r"\.attn\.(add_[qkv]_proj|to_add_out)\.")
_PICTURE = re.compile(r"\.attn2?\.(to_[qkv]|to_out(\.0)?|to_qkv_mlp_proj)\.")
_BLOCK = re.compile(r"^transformer\.(single_)?transformer_blocks\.")


def _is_norm(name: str) -> bool:
    return re.search(r"\.norm[^.]*\.", name) is not None


def _of_denoiser(chosen: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda name: name.startswith("transformer.") and chosen(name)


# Scope -> which weights, by qualified name. Attention is joint: queries of text and picture attend to both. What the text brings to
# it, the projections of the text's own stream, is called `cross-attention` here (EraseAnything adapts its queries and keys), and the
# picture's `self-attention`; blocks of a single stream have but one set of projections, which counts as the picture's. `attention` is
# both: esd-x of the released ESD for FLUX. Norms and the modulations inside them (AdaLN) move under `unet`, the whole denoiser.
SCOPES: dict[str, Callable[[str], bool]] = {
    **{
        scope: _of_denoiser(chosen)
        for scope, chosen in {
            "cross-attention": lambda n: _TEXT.search(n) is not None,
            "cross-attention-kv": lambda n: re.search(r"\.attn\.add_[kv]_proj\.weight$", n) is not None,
            "self-attention": lambda n: _PICTURE.search(n) is not None,
            "attention": lambda n: n.endswith(".weight") and bool(_TEXT.search(n) or _PICTURE.search(n)),
            "non-cross-attention": lambda n: not _TEXT.search(n) and not _is_norm(n),
            "transformers": lambda n: _BLOCK.match(n) is not None and n.endswith(".weight") and not _is_norm(n),
            "biases-and-gains": bias_or_gain,
            "unet": lambda n: True,
        }.items()
    },
    "text-encoder": lambda n: n.startswith("text_encoder"),
    "all": lambda n: n.startswith(("transformer.", "text_encoder")),
}
