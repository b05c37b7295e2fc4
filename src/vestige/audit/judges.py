"""What an audit's two judges see before an audit is paid for: in what the model draws, and in real pictures.

    drawn       the model's pictures for the concept, its neighbours and unrelated words, on held-out prompts, seeds that no audit uses
    real        pictures with the concept, and pictures without it, as they are and after the model's autoencoder

and which of an audit's flags that speak of judges would fire. Rates with Wilson's intervals; the gap between the judges is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vestige import metrics, models, runs
from vestige.audit.flags import GAP, JUDGES_DIFFER, MISSING
from vestige.audit.no_original import reconstructed
from vestige.audit.plan import Plan
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet, folder
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import pictures
from vestige.errors import BadInput
from vestige.harness.bench import NUMERICS, Bench, answered, shows, tells
from vestige.metrics import loading
from vestige.seeds import derive
from vestige.verdict import Flag
from vestige.verdict.intervals import Hits, drop, judged, rate, share

SCHEMA = "vestige-judges-1"
DRAWN, NEAR, FAR = "drawn for it", "drawn for its neighbours", "drawn for unrelated words"
REAL, WITHOUT, AFTER = "real pictures of it", "real pictures without it", ", after the autoencoder"


@dataclass(frozen=True)
class Looked:
    """What both judges saw in a set of pictures.

    Arguments:
        verify, select: Whether each picture shows the concept, by the verification and by the selection judge.
        right: By judge, whether it shows what was asked for instead; {} where nothing was, or nobody can tell.
    """

    verify: Hits
    select: Hits
    right: Mapping[str, Hits] = field(default_factory=dict)

    @property
    def apart(self) -> float:
        """The selection judge's rate less the verification judge's."""
        return share(self.select) - share(self.verify)

    def as_dict(self) -> dict[str, Any]:
        """Rates with their intervals, plain data."""
        both = [a == b for a, b in zip(self.verify, self.select, strict=True) if a is not None and b is not None]
        return {
            "count": len(self.verify),
            "verification": rate(self.verify),
            "selection": rate(self.select),
            "agreement": rate(both),
            "gap": drop({"": self.select}, {"": self.verify}),
            "right": {role: rate(hits) for role, hits in self.right.items()},
        }


def judges_seen(
    plan: Plan, root: Path, *, count: int = 48, references: str = "", others: str = "", seed: int = 0, watch: Watch = silent
) -> dict[str, Any]:
    """The rates of both judges, and what an audit would make of them; a run under `root`, computed once.

    Arguments:
        plan: Of an audit: its model, concept and suite hold, its edit and attacks do not.
        count: Pictures drawn for each of the concept, its neighbours and unrelated words, at least 1.
        references: Folder of real pictures of the concept; "" takes what its file names, if it names any.
        others: Folder of real pictures without it; "" for none.
    """
    concept, name = plan.concept, plan.request.model
    given = {REAL: references or concept.pictures, WITHOUT: others}
    if missing := [place for place in given.values() if place and not Path(place).is_dir()]:
        raise BadInput(f"no folder of pictures at {missing[0]}")
    watch("load judges", 0, 1)
    verify, select = metrics.pair(concept, plan.world)
    bench = Bench(root, plan.suite, verify, select, watch=watch, keep=plan.request.keep_images)
    watch("load model", 0, 1)
    model = models.load(name)
    real = {where: folder(place, model.image_size, least=1) for where, place in given.items() if place}
    spec = {
        "what": "judges",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "concept": concept.as_dict(),
        "protocol": asdict(plan.suite.protocol),
        "pictures": count,
        "seed": seed,
        "judges": [verify.witness(concept.label), select.witness(concept.label)],
        "real": {where: found.content for where, found in real.items()},
        **bench.kept,
        "volatile": {"model": name, "real": {where: found.source for where, found in real.items()}},
    }
    run = runs.compute(root, spec, "judges", lambda run: _looked_at(bench, model, concept, real, count, seed, run), wait=bench.wait)
    rows = {where: Looked(row["verify"], row["select"], row["right"]) for where, row in run.outcome["rows"].items()}
    raised = judge_flags(bench, concept, rows, model.image_size)
    return {
        "schema": SCHEMA,
        "model": name,
        "concept": concept.name,
        "suite": plan.suite.version,
        "detector": {"verification": verify.identity(concept.label), "selection": select.identity(concept.label)},
        "rows": [{"pictures": where, **row.as_dict()} for where, row in rows.items()],
        "flags": [asdict(flag) for flag in raised],
        "sentence": sentence_of(raised),
        "to_state": to_state(rows, name),
        "run": str(run.folder),
    }


def _looked_at(
    bench: Bench, model: Model, concept: Concept, real: Mapping[str, PictureSet], count: int, seed: int, run: runs.Run
) -> dict[str, Any]:
    """Draw, reconstruct and look: by set of pictures the hits of both judges."""
    rows = {}
    words: dict[str, tuple[str, ...] | None] = {DRAWN: None, NEAR: concept.neighbours, FAR: concept.unrelated}
    for where, asked in words.items():
        if asked == ():
            continue
        prompts = concept.spread(count, "held-out", words=asked)
        drawn = pictures(model, [p.text for p in prompts], [derive(seed, "judges", where, i) for i in range(count)], bench.suite.protocol)
        bench.watch(where, 1, 1)
        bench.album(concept).strip(drawn[: bench.suite.strip], run.folder, f"strips/{where.replace(' ', '-')}.png")
        known = {"verification": bench.verify, "selection": bench.select} if asked else {}
        right = {role: answered(judge, drawn, prompts) for role, judge in known.items() if any(tells(judge, p) for p in prompts)}
        rows[where] = {**_both(bench, drawn, concept), "right": right}
    for where, found in real.items():
        rows[where] = _both(bench, found.images, concept)
        rows[where + AFTER] = _both(bench, reconstructed(model, found.images), concept)
        bench.watch(where, 1, 1)
    return {"rows": rows}


def _both(bench: Bench, images: Tensor, concept: Concept) -> dict[str, Any]:
    return {"verify": shows(bench.verify, images, concept), "select": shows(bench.select, images, concept), "right": {}}


def judge_flags(bench: Bench, concept: Concept, rows: Mapping[str, Looked], size: tuple[int, int] = (64, 64)) -> list[Flag]:
    """What an audit would say of such judges, blocking flags first; its own numbers are of other seeds and may differ.

    Arguments:
        size: Height and width of the model's pictures.
    """
    made = []
    for where in (DRAWN, REAL + AFTER):
        if where in rows and abs(rows[where].apart) > JUDGES_DIFFER:
            a, b = (f"{share(hits):.0%}" for hits in (rows[where].verify, rows[where].select))
            text = f"in what is {where}" if where == DRAWN else f"in {where}"
            text = f"{text} one judge sees {a}, the other {b}; {JUDGES_DIFFER:.0%} between them are allowed"
            made.append(Flag("judges-disagree", "blocking", text))
    floor = max((share(rows[where].verify) for where in (NEAR, FAR, WITHOUT + AFTER) if where in rows), default=0.0)
    if share(rows[DRAWN].verify) - floor < GAP:
        text = f"{bench.verify.name} sees it in {share(rows[DRAWN].verify):.0%} of what is drawn for it, elsewhere in up to {floor:.0%}"
        made.append(Flag("not-auditable", "blocking", f"{text}; at least {GAP:.0%} between them are needed"))
    for where, row in rows.items():
        lost = max(1 - len(judged(hits)) / len(hits) for hits in (row.verify, row.select))
        if lost > MISSING:
            made.append(Flag("missing-detections", "blocking", f"{lost:.0%} of {len(row.verify)} pictures {where} could not be judged"))
    return made + _of_detectors(bench, concept, size)


def _of_detectors(bench: Bench, concept: Concept, size: tuple[int, int]) -> list[Flag]:
    """What the judges leave unsaid, whatever they see."""
    made = [
        Flag("uncovered-judge", "capping", f"{where}, and what it reads is declared nowhere: {judge.name}.files = [...]")
        for judge in (bench.verify, bench.select)
        if (where := getattr(judge, "unseen", ""))
    ]
    if loading.same(bench.verify, bench.select, size):
        made.append(Flag("one-judge", "capping", f"{bench.verify.name} both chooses and is reported; name a selector, another network"))
    words = (*concept.neighbours, *concept.unrelated)
    if (unknown := loading.unknown_words(bench.verify, concept)) and len(unknown) < len(words):
        made.append(Flag("unknown-words", "informing", f"{bench.verify.name} has no label for {', '.join(unknown)}"))
    if not any(bench.verify.knows(word) for word in words):
        text = f"{bench.verify.name} knows none of {', '.join(words) or 'the neighbours and unrelated words, of which none are named'}"
        made.append(Flag("utility-unmeasured", "capping", f"{text}: nobody would look what an edit cost them"))
    if "specificity" not in loading.error_rates(bench.verify, concept.label):
        made.append(Flag("unmeasured-judge", "informing", f"how often {bench.verify.name} is right on such pictures is stated nowhere"))
    return sorted(made, key=lambda flag: ("blocking", "capping", "informing").index(flag.kind))


def sentence_of(raised: Sequence[Flag]) -> str:
    """What an audit by these judges could say, in a sentence."""
    by_kind = {kind: list(dict.fromkeys(f.name for f in raised if f.kind == kind)) for kind in ("blocking", "capping", "informing")}
    told = [f"these judges would block every verdict ({', '.join(by_kind['blocking'])})"] if by_kind["blocking"] else []
    told += [f"they would rule out erased and long-term ({', '.join(by_kind['capping'])})"] if by_kind["capping"] else []
    if not told:
        told = ["nothing here would block or cap an audit's verdict"]
    told += [f"an audit would note {', '.join(by_kind['informing'])}"] if by_kind["informing"] else []
    return "; ".join(told)


def to_state(rows: Mapping[str, Looked], model: str) -> str:
    """Lines for the concept file: error rates on real pictures after the model's autoencoder; "" where none were given."""
    found, said = [], []
    for where, key, hit in ((REAL + AFTER, "sensitivity", True), (WITHOUT + AFTER, "specificity", False)):
        if where in rows and (seen := judged(rows[where].verify)):
            found.append(f"{key} = {sum(h == hit for h in seen) / len(seen):.3f}")
            said.append(f"{len(seen)} {where.removesuffix(AFTER)}")
    if not found:
        return ""
    on = f"{' and '.join(said)}, after the autoencoder of {Path(model).name}"
    return "\n".join([*found, f'measured = "{on}"'])
