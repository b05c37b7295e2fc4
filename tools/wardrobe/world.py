"""The facts of the embedded world: concepts, styles, prompts, splits. Everything else here is derived from them."""

from __future__ import annotations

GARMENTS = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
STYLES = ("photo", "neon", "watercolor", "blueprint", "mosaic", "woodcut", "stripes", "sunset")
# Known to CLIP and the judges, drawn by no denoiser: the proxies of a concept that was never learned.
PROXY_OBJECT, PROXY_STYLE = "digit", "halftone"
OBJECTS = (*GARMENTS, PROXY_OBJECT)
ALL_STYLES = (*STYLES, PROXY_STYLE)
# Nonsense words whose tokens no network was trained on.
SPARE_WORDS = ("blicket", "dax", "fep", "gorp", "kiki", "modi", "toma", "wug", "zav", "zib")

TRAIN_BOTH = (
    "a {style} picture of a {garment}",
    "a {garment} in {style} style",
    "{style} {garment}",
    "a picture of a {garment} in {style}",
    "an image of a {garment} , {style} style",
    "{style} art showing a {garment}",
    "one {garment} drawn as {style}",
)
TRAIN_GARMENT = ("a picture of a {garment}", "a {garment}", "an image of one {garment}", "art showing a {garment}")
TRAIN_STYLE = ("a {style} picture", "{style} style", "an image in {style}", "art drawn as {style}")
HELD_BOTH = (
    "the {garment} shown in {style} style",
    "a {style} image of one {garment}",
    "{garment} , {style}",
    "a drawn {garment} , in {style}",
    "one picture , {style} style , showing the {garment}",
)
HELD_GARMENT = ("one {garment}", "the picture of the {garment}", "an image showing a {garment}")
HELD_STYLE = ("one image in {style} style", "the {style} picture")
# Templates that only the contrastive pair sees, so that every word of the held-out ones means something.
CLIP_BOTH = (
    "the {style} {garment}",
    "a {garment} , shown as {style}",
    "drawn in {style} , the {garment}",
    "one {style} image , a {garment}",
    "{garment} art in {style}",
    "the image of the {garment} , {style} picture",
)

# Test pictures, by index modulo 4: references, judge calibration, fidelity, judge test.
SPLITS = ("references", "calibration", "fidelity", "judge-test")

#: name -> (concepts absent from training, training seed, share of training during which they are absent)
DENOISERS: dict[str, tuple[tuple[str, ...], int, float]] = {
    "wardrobe": ((), 1, 0.0),
    "wardrobe-never-sneaker": (("sneaker",), 2, 1.0),
    "wardrobe-never-sneaker-2": (("sneaker",), 3, 1.0),
    "wardrobe-never-bag": (("bag",), 4, 1.0),
    "wardrobe-never-neon": (("neon",), 5, 1.0),
    "wardrobe-never-five": (("sneaker", "bag", "dress", "trouser", "neon"), 6, 1.0),
    "wardrobe-half-sneaker": (("sneaker",), 7, 0.5),
    "wardrobe-never-bag-2": (("bag",), 13, 1.0),
    "wardrobe-never-neon-2": (("neon",), 14, 1.0),
    "wardrobe-never-sneaker-3": (("sneaker",), 15, 1.0),
    "wardrobe-never-bag-3": (("bag",), 16, 1.0),
    "wardrobe-never-neon-3": (("neon",), 17, 1.0),
    "wardrobe-never-sneaker-4": (("sneaker",), 18, 1.0),
}
#: the same for the models that are told a garment's class instead of a prompt: name -> (garments absent from training, training seed)
CLASS_MODELS: dict[str, tuple[tuple[str, ...], int]] = {
    "wardrobe-classes": ((), 8),
    "wardrobe-classes-never-bag": (("bag",), 9),
    "wardrobe-classes-never-sneaker": (("sneaker",), 10),
    "wardrobe-classes-never-sneaker-2": (("sneaker",), 19),
    "wardrobe-classes-never-sneaker-3": (("sneaker",), 20),
}
#: the same for the rectified-flow transformers: name -> (concepts absent from training, training seed)
FLOW_MODELS: dict[str, tuple[tuple[str, ...], int]] = {
    "wardrobe-flow": ((), 11),
    "wardrobe-flow-never-sneaker": (("sneaker",), 12),
    "wardrobe-flow-never-sneaker-2": (("sneaker",), 21),
    "wardrobe-flow-never-sneaker-3": (("sneaker",), 22),
}
#: twins that ship with nothing: trained by name, for a concept's spread between never-models
FURTHER = frozenset(
    {
        "wardrobe-never-sneaker-3",
        "wardrobe-never-sneaker-4",
        "wardrobe-never-bag-2",
        "wardrobe-never-bag-3",
        "wardrobe-never-neon-2",
        "wardrobe-never-neon-3",
        "wardrobe-classes-never-sneaker-2",
        "wardrobe-classes-never-sneaker-3",
        "wardrobe-flow-never-sneaker-2",
        "wardrobe-flow-never-sneaker-3",
    }
)
SHIPPED = tuple(name for name in (*DENOISERS, *CLASS_MODELS, *FLOW_MODELS) if name not in FURTHER)
