"""Begin a build folder with the networks that ship, so that a new twin is trained without what it shares with its base.

    WARDROBE_BUILD=build/wardrobe python tools/wardrobe/restore.py

Autoencoder, tokenizer, CLIP and the flow models' T5 are written in float32, as their trainers write them; the first three are marked as
done for `build.sh`.
Shipped weights are rounded to float16: a latent differs from that of the unrounded autoencoder by about a thousandth.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import flow
import torch
from diffusers import AutoencoderKL
from loop import BUILD
from transformers import CLIPModel, T5EncoderModel

SHIPPED = Path(__file__).resolve().parents[2] / "src/vestige/data/wardrobe"
FLOW = SHIPPED.parent / flow.BASE


def main() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    AutoencoderKL.from_pretrained(SHIPPED / "vae", torch_dtype=torch.float32).save_pretrained(BUILD / "vae")
    CLIPModel.from_pretrained(SHIPPED / "clip", dtype=torch.float32).save_pretrained(BUILD / "clip")
    shutil.copytree(SHIPPED / "tokenizer", BUILD / "tokenizer", dirs_exist_ok=True)
    T5EncoderModel.from_pretrained(FLOW / "text_encoder_2", dtype=torch.float32).save_pretrained(BUILD / flow.BASE / "text_encoder_2")
    for unit in ("vae", "clip"):
        (BUILD / f"{unit}.done").touch()


if __name__ == "__main__":
    main()
