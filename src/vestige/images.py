"""Sets of pictures: a user's folder, the pictures shipped with a world, or drawn once by a model; and what methods train on.

A set carries where it came from and a hash of its content; specs name the hash, so two runs with the same pictures agree.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestige.base import Condition, Model, Watch, silent
from vestige.concepts import Concept, Prompt
from vestige.errors import BadInput
from vestige.sampling import Protocol, derive, generator, pictures

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their origin.

    Arguments:
        images: (N, 3, H, W) in [0, 1].
        source: Where they came from, for people.
        labels: What each shows, group -> label, where known.
        captions: Prompts that each may be trained with, where known.
    """

    images: Tensor
    source: str
    labels: tuple[dict[str, str], ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def content(self) -> str:
        """Hash of the pictures as 8-bit values."""
        raw = (self.images.clamp(0, 1) * 255).round().byte().contiguous().numpy().tobytes()
        return hashlib.blake2b(repr(tuple(self.images.shape)).encode() + raw, digest_size=16).hexdigest()

    @property
    def texts(self) -> list[str]:
        """Every caption once, in order: the rows of a pair's table."""
        return list(dict.fromkeys(text for row in self.captions for text in row))

    def take(self, rows: Sequence[int]) -> PictureSet:
        labels = tuple(self.labels[i] for i in rows) if self.labels else ()
        captions = tuple(self.captions[i] for i in rows) if self.captions else ()
        return PictureSet(self.images[list(rows)], self.source, labels, captions)

    def draw(self, count: int, replicate: int, seed: int = 0) -> PictureSet:
        """The `count` pictures of a replicate: a shuffled set is dealt out, so that replicates differ in all of them while it lasts.

        Pictures with different labels come in turn, so every replicate sees as many kinds as it can.
        """
        if len(self) < count:
            raise BadInput(f"{self.source} holds {len(self)} usable pictures; {count} are needed")
        order, start = self._dealt(generator(seed, "deal")), replicate * count
        if start + count > len(order):  # dealt out: a fresh shuffle of its own
            order, start = self._dealt(generator(seed, "deal", replicate)), 0
        return self.take(order[start : start + count])

    def _dealt(self, rng: torch.Generator) -> list[int]:
        """Every row once: shuffled, then one of each kind in turn."""
        kinds: dict[str, list[int]] = {}
        for i in torch.randperm(len(self), generator=rng).tolist():
            kinds.setdefault(repr(self.labels[i]) if self.labels else "", []).append(i)
        longest = max((len(rows) for rows in kinds.values()), default=0)
        return [rows[turn] for turn in range(longest) for rows in kinds.values() if turn < len(rows)]


def folder(path: Path | str, size: tuple[int, int], least: int = 2) -> PictureSet:
    """Read a user's pictures, centre-cropped and resized to (height, width); an unreadable one is an error that names it.

    A `metadata.jsonl` beside them gives captions, one object a line with `file_name` and `text`, as for Hugging Face's image folders.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if not path.is_dir():
        raise BadInput(f"no folder of reference pictures at {path}")
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".") and p.name != METADATA)
    kept = []
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise BadInput(f"{file.name} in {path} is no picture ({', '.join(SUFFIXES)} are read); move it elsewhere")
        try:
            with Image.open(file) as raw:
                picture = ImageOps.fit(_rgb(ImageOps.exif_transpose(raw)), (size[1], size[0]), Image.Resampling.LANCZOS)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise BadInput(f"{file} cannot be read as a picture ({type(error).__name__}); remove or replace it") from error
        kept.append(_tensor(picture))
    if len(kept) < least:
        raise BadInput(f"{path} holds {len(kept)} pictures; at least {least} are needed")
    return PictureSet(torch.stack(kept), str(path), captions=_captions(path, [f.name for f in files]))


def read(file: Path) -> Tensor:
    """One picture at its own size, (3, H, W) in [0, 1]."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as raw:
            return _tensor(_rgb(ImageOps.exif_transpose(raw)))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{file} cannot be read as a picture ({type(error).__name__}); remove or replace it") from error


def _captions(path: Path, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The caption of every picture of a folder, or none at all where the folder gives none."""
    file = path / METADATA
    if not file.exists():
        return ()
    try:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
        known = {str(row["file_name"]): str(row["text"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f'{file} should hold lines like {{"file_name": "a.png", "text": "a photo"}} ({error!r})') from error
    missing = [name for name in names if name not in known]
    if missing:
        raise BadInput(f"{file} gives no text for {missing[0]}")
    return tuple((known[name],) for name in names)


def _rgb(picture: Any) -> Any:
    """Any mode as 8-bit RGB: 16-bit grey is scaled, transparency lies on white."""
    from PIL import Image

    if picture.mode.startswith("I"):
        picture = picture.point(lambda v: v / 256).convert("L") if picture.mode == "I" else _from_16_bit(picture)
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _from_16_bit(picture: Any) -> Any:
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(picture, dtype=np.uint16) // 257).astype(np.uint8))


def _tensor(picture: Any) -> Tensor:
    raw = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return raw.reshape(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255


def shipped(sheet: Path, show: dict[str, str] | None = None) -> PictureSet:
    """Pictures of a contact sheet that ships with a world: SHEET.png, tiles in rows, and SHEET.json, what each tile shows.

    Arguments:
        show: Keep only tiles whose labels agree with these, group -> label.
    """
    from PIL import Image

    index = json.loads(sheet.with_suffix(".json").read_text("utf-8"))
    with Image.open(sheet.with_suffix(".png")) as raw:
        whole = _tensor(raw.convert("RGB"))
    size, columns = index["size"], whole.shape[2] // index["size"]
    rows = [i for i, labels in enumerate(index["labels"]) if all(labels.get(k) == v for k, v in (show or {}).items())]
    if not rows:
        raise BadInput(f"no shipped picture shows {show}; give your own with --references DIR")
    spots = [((i // columns) * size, (i % columns) * size) for i in rows]
    tiles = [whole[:, y : y + size, x : x + size] for y, x in spots]
    return PictureSet(torch.stack(tiles), f"{sheet.parent.parent.name} test pictures", tuple(index["labels"][i] for i in rows))


def generated(model: Model, concept: Concept, count: int, *, seed: int, protocol: Protocol) -> PictureSet:
    """Pictures of the concept drawn by a model from training prompts."""
    return drawn(model, concept.spread(count, "training"), seed=seed, protocol=protocol)


def drawn(model: Model, prompts: Sequence[Prompt], *, seed: int, protocol: Protocol, watch: Watch = silent) -> PictureSet:
    """One picture a prompt, in 8 bits a channel as a file would keep it, captioned with its prompt."""
    seeds = [derive(seed, "generated", i) for i in range(len(prompts))]
    images = pictures(model, [p.text for p in prompts], seeds, protocol, watch=watch)
    images = ((images.clamp(0, 1) * 255).round() / 255).contiguous()  # as from the cache: sums depend on the memory's order
    return PictureSet(images, f"generated by {model.name}", tuple(dict(p.expects) for p in prompts), tuple((p.text,) for p in prompts))


@dataclass(frozen=True)
class Data:
    """What a method may train on. What is not given, the model draws itself, which needs nobody's pictures.

    Arguments:
        target: Pictures of what must go.
        retain: Pictures of what must stay.
        protocol: How the model draws.
        cache: Folder where drawn sets are kept by the hash of everything they depend on; None draws them again.
        original: The model before the first of several requests, where that is another than the one to unlearn from; methods that
            keep a reference or draw a memory may take it from there.
    """

    target: PictureSet | None = None
    retain: PictureSet | None = None
    protocol: Protocol = field(default_factory=Protocol)
    cache: Path | None = None
    original: Model | None = None

    def targeted(self, model: Model, concept: Concept, count: int, *, seed: int, watch: Watch = silent) -> PictureSet:
        """`count` captioned pictures of the concept, fewer where fewer were given."""
        if self.target is not None:
            chosen = self.target.draw(min(count, len(self.target)), 0, seed)
            plain = replace(chosen, captions=tuple((concept.prompt,) for _ in range(len(chosen))))
            return captioned(chosen, concept) if chosen.captions or chosen.labels else plain
        told = partial(_draws, watch, "target")
        return self.drawn(model, concept.spread(count, "training"), seed=derive(seed, "target"), watch=told)

    def retained(self, model: Model, concept: Concept, count: int, *, seed: int, watch: Watch = silent) -> PictureSet:
        """`count` captioned pictures of neighbours and unrelated concepts, fewer where fewer were given."""
        if self.retain is not None:
            return captioned(self.retain.draw(min(count, len(self.retain)), 0, seed), concept)
        words = (*concept.neighbours, *concept.unrelated)
        if not words:
            raise BadInput(f"concept {concept.name} names neither neighbours nor unrelated concepts; name some, or give retain pictures")
        told = partial(_draws, watch, "retain")
        return self.drawn(model, concept.spread(count, "training", words=words), seed=derive(seed, "retain"), watch=told)

    def drawn(self, model: Model, prompts: Sequence[Prompt], *, seed: int, watch: Watch = silent) -> PictureSet:
        """As the function of that name, from the cache where it is there."""
        if self.cache is None:
            return drawn(model, prompts, seed=seed, protocol=self.protocol, watch=watch)
        spec = [model.fingerprint, [p.text for p in prompts], seed, asdict(self.protocol)]
        file = self.cache / f"{hashlib.blake2b(json.dumps(spec).encode(), digest_size=12).hexdigest()}.safetensors"
        labels, captions = tuple(dict(p.expects) for p in prompts), tuple((p.text,) for p in prompts)
        if file.exists():
            return PictureSet(_stored(file), f"generated by {model.name}", labels, captions)
        made = drawn(model, prompts, seed=seed, protocol=self.protocol, watch=watch)
        _store(made.images, file)
        return made


def _draws(watch: Watch, what: str, stage: str, done: int, total: int) -> None:
    """Each set that is drawn is a stage of its own."""
    watch(f"{stage} {what}", done, total)


def _store(images: Tensor, file: Path) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    save_file({"images": (images * 255).round().byte().contiguous()}, part)
    part.replace(file)


def _stored(file: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)["images"].float() / 255
    except (SafetensorError, KeyError, OSError) as error:
        raise BadInput(f"{file} is damaged ({error}); delete it, and its pictures are drawn again") from error


def captioned(given: PictureSet, concept: Concept) -> PictureSet:
    """The set with prompts for every picture: its own, else the training prompts that its labels agree with."""
    if given.captions:
        return given
    rows = []
    for labels in given.labels:
        word = labels.get(concept.group)
        word = concept.target if word in (None, concept.label) else word
        fits = [p.text for p in concept.prompts("training", word) if all(labels.get(g, v) == v for g, v in p.expects.items())]
        rows.append(tuple(fits or [p.text for p in concept.prompts("training", word)]))
    return replace(given, captions=tuple(rows))


def renamed(texts: Sequence[str], concept: Concept, word: str) -> list[str]:
    """Captions of the concept's pictures with `word` in its place, in the same context; "" gives empty prompts.

    A caption that does not name the concept becomes a plain prompt of the word: left as it is, it would stand for itself.
    """
    known = dict(zip((p.text for p in concept.prompts("training")), concept.others(word), strict=True))
    plain, name = known[concept.plain()[0]], re.compile(rf"\b{re.escape(concept.target)}\b", re.IGNORECASE)
    return [known.get(text) or (name.sub(lambda _: word, text) if word and name.search(text) else plain) for text in texts]


@dataclass(frozen=True)
class Pairs:
    """Latents with the conditions that each may be trained on; encoded once, drawn from in every step.

    Arguments:
        latents: (N, C, h, w).
        table: Every caption's condition, one row a caption.
        rows: For each latent, rows of the table.
    """

    latents: Tensor
    table: Condition
    rows: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.latents)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Condition]:
        """Latents (count, C, h, w), drawn with replacement, and their conditions."""
        latents, text = self.pick(count, rng)
        return latents, self.table[text]

    def pick(self, count: int, rng: torch.Generator) -> tuple[Tensor, list[int]]:
        """As `draw`, with the conditions as rows of the table: for losses that read another table in the same order."""
        picked = torch.randint(len(self.latents), (count,), generator=rng)
        turns = torch.randint(1 << 30, (count,), generator=rng).tolist()
        text = [self.rows[i][turn % len(self.rows[i])] for i, turn in zip(picked.tolist(), turns, strict=True)]
        return self.latents[picked.to(self.latents.device)], text


@torch.no_grad()
def paired(model: Model, given: PictureSet) -> Pairs:
    """The latents and conditions of captioned pictures."""
    if len(given.captions) != len(given):
        raise BadInput(f"{given.source} has no captions; put a {METADATA} beside the pictures")
    index = {text: i for i, text in enumerate(given.texts)}
    latents = torch.cat([model.encode(part) for part in given.images.split(64)])
    return Pairs(latents, model.condition(given.texts), tuple(tuple(index[text] for text in row) for row in given.captions))


def save(images: Tensor, folder_: Path, stem: str = "picture", first: int = 0) -> list[Path]:
    """Write pictures (N, 3, H, W) in [0, 1] as PNG files, numbered from `first`."""
    folder_.mkdir(parents=True, exist_ok=True)
    written = []
    for i, image in enumerate(images, first):
        written.append(folder_ / f"{stem}-{i:03d}.png")
        _picture(image).save(written[-1])
    return written


def strip(images: Tensor, path: Path, *, blur: bool = False, gap: int = 2) -> Path:
    """Write pictures side by side as one PNG; `blur` makes them unrecognisable before anything reaches the disk."""
    if blur:
        small = torch.nn.functional.adaptive_avg_pool2d(images, 4)
        images = torch.nn.functional.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
    n, _, height, width = images.shape
    canvas = torch.ones(3, height, n * (width + gap) - gap)
    for i, image in enumerate(images):
        canvas[:, :, i * (width + gap) : i * (width + gap) + width] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    _picture(canvas).save(part, format="PNG")
    part.replace(path)
    return path


def _picture(image: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
