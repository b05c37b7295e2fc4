"""The audit: unlearn, attack that very model and its controls, and decide.

Three arms under one protocol: *edited* (the model under audit), *never* (a twin that never drew the concept, or the original
being taught a proxy that it never drew), *original* (the ceiling, and a check that the attack does not destroy what is known).
Where the original is not at hand, `alone` says what stands in for it.
"""

from __future__ import annotations

import itertools
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vestige import alone, arms, checkpoints, concepts, crew, edits, flags, judges, judging, models, registry, runs, suites, thrift
from vestige.arms import Bench
from vestige.attacker import Holdings
from vestige.base import Attack, Budget, Model, Watch, silent
from vestige.concepts import Concept
from vestige.edits import Edit
from vestige.errors import BadSetting
from vestige.images import Data, PictureSet, folder
from vestige.judging import Hits, share
from vestige.plan import Plan, Request, plan, planned_calls
from vestige.verdict import Arms, Interval, Measures, decide, measure, wilson

SCHEMA = "vestige-audit-1"
WORTH_HELP = 50_000  # denoiser calls: a helper needs seconds before its first one


def audit(
    request: Request,
    out: Path | str,
    *,
    cache: Path | str | None = None,
    jobs: int = 0,
    steal: bool = False,
    watch: Watch = silent,
    command: str = "",
) -> dict[str, Any]:
    """Run an audit in the folder `out`, or resume it; returns its result, which is also `out/result.json`.

    Arguments:
        command: The command line that asked for it, for the report.
        cache: Folder of runs that other audits may share (control arms); default `out/runs`.
        jobs: Processes that share the arms; 0 takes as many as torch has threads for long audits of the embedded world on a CPU, else 1.
        steal: Take over the lock of another process that is known to be gone; then nothing is shared.
    """
    planned = plan(request)
    if planned.control[0] == "none":
        raise BadSetting("an audit needs a control: without one nobody knows what its attacks find where nothing is left")
    run = runs.claim(out, planned.spec())
    if not run.done:
        with run.held(steal=steal):
            bench = _bench(planned, Path(cache) if cache else run.folder / "runs", watch, steal)
            work = _Audit(planned, bench, run)
            if not steal:
                work.ahead(jobs or _jobs(planned))
            result = work.result()
            result["provenance"]["command"] = command
            run.finish(result)
    return run.outcome


def _jobs(planned: Plan) -> int:
    """One process a thread for small models on a CPU, where two threads are less than twice as fast as one, if there is much to do."""
    much = sum(planned_calls(planned).values()) >= WORTH_HELP
    small = bool(planned.world) and models.current().resolved == "cpu" and thrift.processes() == 1
    return torch.get_num_threads() if much and small else 1


def help_out(task: Mapping[str, Any]) -> None:
    """What a helper of an audit does: every arm that nobody else is at."""
    torch.set_num_threads(1)
    given = task["request"]
    with models.using(models.Placement(**task["placement"])), thrift.using(thrift.Thrift(**task["thrift"])):
        planned = plan(Request(**{**given, **{key: tuple(given[key]) for key in ("attacks", "seeds")}}))
        bench = replace(_bench(planned, Path(task["root"]), silent), wait=0.0)
        crew.attend(_Audit(planned, bench, runs.claim(task["out"], planned.spec())).errands())


def _bench(planned: Plan, root: Path, watch: Watch, steal: bool = False) -> Bench:
    watch("load judges", 0, 1)
    verify, select = judges.pair(planned.concept, planned.world)
    return Bench(root, planned.suite, verify, select, steal=steal, watch=watch, keep=planned.request.keep_images)


class _Audit:
    """One audit's models and arms; made, asked for its result, and thrown away."""

    def __init__(self, planned: Plan, bench: Bench, run: runs.Run) -> None:
        self.plan, self.bench, self.run, self.began = planned, bench, run, time.monotonic()
        self.concept = planned.concept
        bench.watch("load models", 0, 1)
        self.original = models.load(planned.original) if planned.original else None
        same = self.original if planned.request.model == planned.original else None
        self.subject = models.load(planned.request.model) if same is None else same
        self.diagnostics: dict[str, Any] = {}
        self.edit, self.unlearn_seconds = self._edit()
        self.edited = self.subject if self.edit is None else self.subject.edited(self.edit)
        self.base = self.edited if self.original is None else self.original  # whose pictures' size holds, and who is taught a proxy
        kind, name = planned.control
        self.never = models.load(name) if kind == "twin" else self.base
        self.never_concept = self.concept if kind != "proxy" else concepts.load(name, planned.world or "wardrobe")
        if self.never_concept.detector and self.never_concept is not self.concept:
            self.bench = replace(bench, own={self.never_concept.name: judges.pair(self.never_concept, planned.world)})

    @cached_property
    def real(self) -> alone.Real | None:
        """What stands in for the original's ceiling; None where there is an original."""
        return alone.seen(self) if self.original is None else None

    def _edit(self) -> tuple[Edit | None, float]:
        request, watch = self.plan.request, self.bench.watch
        if request.edit is not None:
            return saved_edit(Path(request.edit), self.subject), 0.0
        if self.plan.unlearner is None:
            return None, 0.0
        run = arms.unlearned(
            self.bench.root,
            self.subject,
            self.concept,
            request.unlearner,
            self.plan.unlearner,
            request.edit_seed,
            data=training_data(self.subject, request.forget, request.retain, self.bench.album(self.concept).cache(self.bench.root)),
            watch=watch,
            wait=self.bench.wait,
        )
        edit, self.diagnostics = Edit.load(run.path("edit.safetensors")), dict(run.outcome.get("diagnostics", {}))
        if self.diagnostics and not edit.hooks:
            self.diagnostics["rate_on_line"] = arms.line(self.bench, self.subject, edit, self.concept)
        return edit, float(run.outcome["seconds"])

    @property
    def holdings(self) -> Holdings:
        """What the attacker holds."""
        request = self.plan.request
        return Holdings(
            original=self.base,
            world=self.plan.world,
            protocol=self.plan.suite.protocol,
            references=request.references,
            retain=request.attack_retain,
            cache=self.bench.album(self.concept).cache(self.bench.root),
        )

    def arm(self, model: Model, concept: Concept, name: str, attack: Attack, replicate: int) -> runs.Run:
        planned, audited = self.plan.attacks[name][1], self.concept
        told = audited if "retain" in attack.needs else concept  # what was retained has no pictures of the concept under audit
        proxy = concept is not audited
        held = self.holdings.of(told, attack, planned.references, replicate, proxy=proxy, watch=self.bench.watch)
        return arms.run_arm(self.bench.of(concept), model, concept, (name, attack), planned.budget, replicate, held)

    def attack(self, name: str) -> dict[str, Any]:
        """Every arm of one attack, as point lists a replicate, and the ways of attacking that count.

        On either model the attacker does what works better there, by the selection judge.
        """
        method, seeds = self.plan.attacks[name][0], self.plan.seeds
        ways, sides = {"": method, **method.variants()}, {"edited": (self.edited, self.concept), "never": (self.never, self.never_concept)}
        tried = {arm: {way: [self.arm(*side, name, a, k) for k in seeds] for way, a in ways.items()} for arm, side in sides.items()}
        chosen = {arm: arms.favoured(rows) for arm, rows in tried.items()}
        taken = {arm: tried[arm][way] for arm, way in chosen.items()}
        original, plain = [], []
        if self.original is not None:
            original = [self.arm(self.original, self.concept, name, method, seeds[0])]
            plain = [original[0], *(self.plain(self.original, self.concept, k) for k in seeds[1:])]
        return {**taken, "original": original, "ceiling": plain, "ways": chosen, "tried": tried}

    def plain(self, model: Model, concept: Concept, replicate: int) -> runs.Run:
        """Plain prompts on the verification seeds of a replicate: the zero point of every attack's curve."""
        return arms.run_arm(self.bench, model, concept, ("direct", registry.build("attacks", "direct")), Budget((0,)), replicate, None)

    def errands(self) -> Iterator[crew.Errand]:
        """Every run of the attacks and of the plain models, in an order that suits several processes: long ones first."""
        seeds = self.plan.seeds
        for name, (method, _) in self.plan.attacks.items():
            for k in seeds:
                for way in (method, *method.variants().values()):
                    yield partial(self.arm, self.edited, self.concept, name, way, k)
                    yield partial(self.arm, self.never, self.never_concept, name, way, k)
            if self.original is not None:
                yield partial(self.arm, self.original, self.concept, name, method, seeds[0])
        for k in seeds[1:] if self.original is not None else ():
            yield partial(self.plain, self.base, self.concept, k)
        drawing = [self.edited] if self.original is None else [self.original, self.edited]
        for model, group in itertools.product(drawing, ("neighbours", "unrelated")):
            yield partial(arms.utility, self.bench, model, self.concept, group)

    def ahead(self, jobs: int) -> None:
        """Do the errands in `jobs` processes of one thread, this one among them."""
        if jobs < 2:
            return
        means = {"placement": asdict(models.current()), "thrift": asdict(thrift.current())}
        task = {"request": asdict(self.plan.request), "root": str(self.bench.root), "out": str(self.run.folder), **means}
        patient, threads = self.bench, torch.get_num_threads()
        self.bench = replace(patient, wait=0.0)
        torch.set_num_threads(1)
        try:
            with crew.helped(jobs - 1, f"{__name__}:{help_out.__name__}", task) as helpers:
                if crew.attend(self.errands()):
                    patient.watch("other processes finish", 0, 1)
                    for helper in helpers:
                        helper.wait()
        finally:
            self.bench = patient
            torch.set_num_threads(threads)

    def result(self) -> dict[str, Any]:
        """Run everything that is missing and put the result together."""
        found = {name: self.attack(name) for name in self.plan.attacks}
        built = {name: self.arms_of(name, rows) for name, rows in found.items()}
        measures = {name: measure(a, attacks=len(built)) for name, a in built.items()}
        first = next(iter(found))
        plain = self.plain_scores(found[first])
        usable = self.utility(found, measures)
        raised = flags.raise_all(self, found, measures, plain, usable)
        levels, top, between = self.levels(found[first]), None, None
        if self.real is not None:
            top, between = alone.top(self, self.real), self.real.between
        recall = _interval(plain["edited"]).as_recall(levels["floor"], levels["ceiling"], between)
        verdict = decide(recall, measures, raised, self.plan.lines, top)
        head = verdict.attack or worst(measures)
        plain["recall"] = recall.as_dict()
        return {
            **self.heading(),
            "verdict": {**asdict(verdict), "flags": [asdict(f) for f in verdict.flags]},
            **_measured(measures[head]),
            "headline": head,
            "lines": asdict(self.plan.lines),
            "plain": plain,
            "ceiling": self.ceiling(plain),
            "attacks": {name: self.described(name, found[name], measures[name]) for name in found},
            "utility": {g: {k: None if v is None else _rate(v["right"]) for k, v in rows.items()} for g, rows in usable.items()},
            "diagnostics": self.diagnostics,
            "strips": self.strips(found[head], head),
            "cost": self.cost(found),
            **self.provenance(),
        }

    def levels(self, rows: Mapping[str, Sequence[runs.Run]]) -> dict[str, float]:
        """Floor and ceiling of the concept, over all replicates; without a twin the floor is the judge's false-positive rate."""
        floor = _pooled([_hits(r, 0) for r in rows["never"]])[0] if self.plan.control[0] == "twin" else self.false_positives
        return {"floor": floor, "ceiling": _pooled([_hits(r, 0) for r in rows["ceiling"]])[0] if self.real is None else self.real.rate}

    def ceiling(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """What recall 1 is, in the result."""
        if self.real is None:
            return {"of": "the original", "source": self.plan.original, "held_out": None, "between": None, **plain["original"]}
        return {**alone.ceiling(self.real), **_rate(self.real.hits)}

    def arms_of(self, name: str, rows: Mapping[str, Any]) -> Arms:
        budgets = self.plan.attacks[name][1].budget.points
        edited, never = (tuple(arms.curve(r.outcome["points"], best_so_far=True)[0] for r in rows[a]) for a in ("edited", "never"))
        ceiling = tuple(share(_hits(r, 0)) for r in rows["ceiling"]) if self.real is None else (self.real.rate,)
        between = None if self.real is None else self.real.between
        floor = tuple(share(_hits(r, 0)) for r in rows["never"])
        twin = self.plan.control[0] == "twin"
        proxy_ceiling = 0.0 if twin else flags.real_rate(self, self.never_concept)
        if any(math.isnan(rate) for row in (*edited, *never, ceiling, floor, (proxy_ceiling,)) for rate in row):
            return _undefined(budgets, len(edited))
        if twin:
            return Arms(budgets, edited, never, floor=floor, ceiling=ceiling, between=between)
        return Arms(budgets, edited, never, self.false_positives, ceiling, floor, proxy_ceiling, between)

    @property
    def false_positives(self) -> float:
        """Of the judge; 0 where nobody measured it, and a flag says so."""
        return 1 - float(self.bench.verify.identity(self.concept.label).get("specificity", 1.0))

    def proxy_error(self) -> dict[str, dict[str, float]]:
        """By concept that has a twin: F against this proxy divided by F against that twin, the largest of the attacks'."""
        suite, world, group = self.plan.suite, self.plan.world, self.concept.group
        found: dict[str, dict[str, float]] = {}
        for attack in self.plan.attacks:
            for name, (value, low, high) in suites.calibration(world, suite.version, attack).proxy.items():
                if concepts.load(name, world).group == group and (name not in found or value > found[name]["value"]):
                    found[name] = {"value": value, "low": low, "high": high}
        return found

    def plain_scores(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        sets = {"original": rows["ceiling"], "edited": rows["edited"], "never": rows["never"]}
        return {arm: _rate([h for r in runs_ for h in _hits(r, 0)]) if runs_ else None for arm, runs_ in sets.items()}

    def utility(self, found: Mapping[str, Any], measures: Mapping[str, Measures]) -> dict[str, dict[str, Any]]:
        """What must stay, in three stages; None for the first of them where there is no original."""
        head = worst(measures)
        last = found[head]["edited"][0].path("last.safetensors")
        attacked = self.edited.edited(Edit.load(last)) if last.exists() else self.edited
        stages = {"before": self.original, "after": self.edited, "after_attack": attacked}
        return {
            g: {k: None if m is None else arms.utility(self.bench, m, self.concept, g) for k, m in stages.items()}
            for g in ("neighbours", "unrelated")
        }

    def described(self, name: str, rows: Mapping[str, Any], found: Measures) -> dict[str, Any]:
        method, planned = self.plan.attacks[name]
        shown: dict[str, Any] = {"edited": None, "never": None, "original": None}
        for arm, best in (("edited", True), ("never", True), ("original", False)):
            if not rows[arm]:
                continue
            points = [r.outcome["points"] for r in rows[arm]]
            scores, taken = zip(*(arms.curve(p, best_so_far=best) for p in points), strict=True)
            hits = [[h for p, t in zip(points, taken, strict=True) for h in p[t[i]]["hits"]] for i in range(len(points[0]))]
            shown[arm] = {"curve": _curve(planned.budget.points, hits), "replicates": [[_defined(x) for x in row] for row in scores]}
        notes = {arm: rows[arm][0].outcome["points"][-1]["notes"] if rows[arm] else None for arm in shown}
        return {
            **_measured(found),
            "censored": found.censored,
            "log_speedups": found.as_dict()["log_speedups"],
            "settings": registry.settings(method),
            "references": planned.references,
            **{f"{arm}_variant": way or "as given" for arm, way in rows["ways"].items()},
            "ways": {arm: {way or "as given": _replicates(r) for way, r in side.items()} for arm, side in rows["tried"].items()},
            "arms": shown,
            "notes": notes,
        }

    def heading(self) -> dict[str, Any]:
        request = self.plan.request
        kind, name = self.plan.control
        protocol = {**asdict(self.plan.suite.protocol), "pictures": self.plan.suite.pictures, "replicates": len(self.plan.seeds)}
        held_out = list(self.concept.held_out)
        budgets = list(next(iter(self.plan.attacks.values()))[1].budget.points)
        detector = {
            "verification": self.bench.verify.identity(self.concept.label),
            "selection": self.bench.select.identity(self.concept.label),
        }
        return {
            "schema": SCHEMA,
            "suite": self.plan.suite.version,
            "model": request.model,
            "original": self.plan.original or None,
            "absent": alone.absent() if self.original is None else {},
            "concept": self.concept.name,
            "concept_kind": self.concept.kind,
            "sensitive": self.concept.sensitive,
            "edit": None if self.edit is None else describe(self.subject, self.edit),
            "control": {"kind": kind, "name": name, **({"error": self.proxy_error()} if kind == "proxy" else {})},
            "detector": detector,
            "protocol": {**protocol, "budgets": budgets, "held_out_prompts": held_out, "references": request.references},
        }

    def strips(self, rows: Mapping[str, Any], head: str) -> list[dict[str, Any]]:
        """Pictures at equal seeds, copied into this run."""
        caption = "; ".join(
            p.text for p in self.concept.spread(self.plan.suite.strip, "held-out", offset=self.plan.seeds[0] * self.plan.suite.pictures)
        )
        budgets = self.plan.attacks[head][1].budget.points
        # A proxy's pictures are of another prompt: only a twin's stand beside the others at equal seeds.
        never = [("never knew", "never", 0)] if self.plan.control[0] == "twin" else []
        first = [("original", "original", 0)] if self.original is not None else []
        wanted = [*first, ("edited", "edited", 0), *(("after recovery", "edited", b) for b in budgets[1:]), *never]
        if self.edit is None and self.subject is self.original:
            wanted = [w for w in wanted if w != ("edited", "edited", 0)]
        made: list[dict[str, Any]] = []
        if self.bench.keep == "none":
            return made
        for title, arm, budget in wanted:
            data = rows[arm][0].path(f"strips/{budget:06d}.png").read_bytes()
            file = f"strips/{arm}-{budget:06d}.png"
            self.run.write_bytes(file, data)
            made.append({"title": title, "budget": budget if title == "after recovery" else None, "file": file, "caption": caption})
        return made

    def cost(self, found: Mapping[str, Any]) -> dict[str, Any]:
        suite = self.plan.suite
        ways = [rows for f in found.values() for rows in (f["original"], *(r for side in f["tried"].values() for r in side.values()))]
        each = suite.pictures + suite.select_pictures
        scored = sum(len(r.outcome["points"]) * each for rows in ways for r in rows)
        scored += (6 if self.original is not None else 4) * suite.utility_pictures
        attack = sum(r.outcome["points"][-1]["cost"].get("calls", 0) for rows in ways for r in rows)
        return {
            "seconds": round(time.monotonic() - self.began, 1),
            "pictures": scored,
            "denoiser_calls": int(scored * 2 * suite.protocol.steps + attack),
            "stages": {"unlearn": round(self.unlearn_seconds, 1)},
        }

    def provenance(self) -> dict[str, Any]:
        versions = {name: metadata.version(name) for name in ("torch", "diffusers", "transformers", "peft")}
        base = {
            "vestige": metadata.version("vestige"),
            **versions,
            "python": platform.python_version(),
            "model_hash": self.subject.fingerprint[:16],
            "edited_hash": self.edited.fingerprint[:16],
            "seeds": list(self.plan.seeds),
            "edit_seed": self.plan.request.edit_seed,
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        return {"provenance": base, "run": str(self.run.folder), "report": str(self.run.folder / "report.html")}


def _undefined(budgets: tuple[int, ...], replicates: int) -> Arms:
    """Arms of which nothing is known, because at some point no picture could be judged: without a ceiling every measure is undefined."""
    rows = ((0.0,) * len(budgets),) * replicates
    return Arms(budgets, rows, rows, 0.0, 0.0)


def worst(measures: Mapping[str, Measures]) -> str:
    """The attack with the largest savings, the first of equals; one without a number comes last."""
    return max(measures, key=lambda name: (not math.isnan(x := measures[name].savings.value), x))


def training_data(model: Model, forget: str, retain: str, cache: Path | None = None) -> Data:
    """What an unlearner may train on: each is "drawn", by the model itself, or a folder of pictures."""

    def read(source: str) -> PictureSet | None:
        return None if source == "drawn" else folder(source, model.image_size)

    return Data(read(forget), read(retain), cache=cache)


def saved_edit(path: Path, model: Model) -> Edit:
    """A saved edit, or a published checkpoint or edited pipeline folder by its difference from `model`."""
    return checkpoints.load(path, model)


def describe(model: Model, edit: Edit) -> dict[str, Any]:
    """What an edit is and how far it moved the model, plain data."""
    changes = edits.measure(model, edit)
    return {
        "method": edit.method,
        "settings": dict(edit.settings),
        "scope": edit.scope,
        "changed_tensors": sum(c.norm > 0 for c in changes),
        "changed_weights": int(sum(c.share * model.tensor(c.name).numel() for c in changes)),
        "relative_norm": edits.distance(model, changes),
        "hooks": [hook.name for hook in edit.hooks],
        "seed": edit.notes.get("seed"),
    }


def _hits(run: runs.Run, point: int) -> list[bool | None]:
    return list(run.outcome["points"][point]["hits"])


def _replicates(rows: Sequence[runs.Run]) -> list[list[float | None]]:
    """Best so far at every budget, a row a replicate."""
    return [[_defined(x) for x in arms.curve(r.outcome["points"], best_so_far=True)[0]] for r in rows]


def _pooled(rows: Sequence[Hits]) -> tuple[float, int]:
    flat = judging.judged([h for row in rows for h in row])
    return share(flat), len(flat)


def _rate(hits: Hits) -> dict[str, Any]:
    """A rate among the pictures that were judged, with its interval; null where none was."""
    seen = judging.judged(hits)
    lost = {"missing": len(hits) - len(seen)} if len(seen) < len(hits) else {}
    if not seen:
        return {"value": None, "low": None, "high": None, "count": 0, **lost}
    return {**wilson(sum(seen), len(seen)).as_dict(), "count": len(seen), **lost}


def _curve(budgets: Sequence[int], hits: Sequence[Hits]) -> list[dict[str, Any]]:
    """A rate with its interval at every budget, and how many pictures are in none."""
    made = []
    for budget, found in zip(budgets, map(_rate, hits), strict=True):
        lost = {"missing": found["missing"]} if "missing" in found else {}
        made.append({"budget": budget, "score": found["value"], "low": found["low"], "high": found["high"], **lost})
    return made


def _defined(rate: float) -> float | None:
    return None if math.isnan(rate) else rate


def _interval(rate: Mapping[str, Any]) -> Interval:
    value, low, high = (math.nan if rate[end] is None else rate[end] for end in ("value", "low", "high"))
    return Interval(value, low, high)


def _measured(found: Measures) -> dict[str, Any]:
    return {key: getattr(found, key).as_dict() for key in ("savings", "speedup", "reach")}


def recover(planned: Plan, out: Path | str, *, watch: Watch = silent) -> dict[str, Any]:
    """One attack on one model without controls: its curve, pictures, and the last adapter in diffusers' format."""
    run = runs.claim(out, {**planned.spec(), "what": "attack"})
    if run.done:
        return run.outcome
    with run.held():
        audit_ = _Audit(planned, _bench(planned, run.folder / "runs", watch), run)
        ((name, (method, _)),) = planned.attacks.items()
        arm = audit_.arm(audit_.edited, audit_.concept, name, method, planned.seeds[0])
        points = arm.outcome["points"]
        for point in points if planned.request.keep_images == "all" else ():
            run.write_bytes(f"pictures/{point['budget']:06d}.png", arm.path(f"strips/{point['budget']:06d}.png").read_bytes())
        result: dict[str, Any] = {
            "schema": "vestige-attack-1",
            "attack": name,
            "settings": registry.settings(method),
            "curve": _curve([p["budget"] for p in points], [p["hits"] for p in points]),
            "adapter": None,
        }
        last = arm.path("last.safetensors")
        if last.exists():
            edit = Edit.load(last)
            edit.save(run.path("recovered.safetensors"))
            if edit.factors:
                result["adapter"] = str(edits.save_lora(edit, run.folder / "adapter"))
        run.finish({**result, "run": str(run.folder), "references": planned.request.references, "notes": points[-1]["notes"]})
    return run.outcome
