"""The verdict on a request of a sequence: an ordinary audit of what the steps so far, as one edit, made of the original.

Nothing is measured in another way than `vestige audit --edit` does. The audits are runs among the sequence's own, by their content, and
share every arm whose model and protocol are the same, with each other and with the sequence's attacks: the never-models, the positive
controls and the original of a request are attacked once, however often it is asked.

A never-model of a sequence drew none of the requests so far. Where no twin is known to lack all of them, one that lacks the request alone
stands in, or a proxy: `drew` in a verdict's control says which requests so far the control did draw.
Source: ours.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vestige import concepts, models, runs
from vestige.audit import Request, audit, resolve
from vestige.audit.plan import Plan
from vestige.concepts import Concept
from vestige.continual.acceptance import VERDICT, limits
from vestige.continual.order import Order, When
from vestige.errors import BadSetting, Diverged
from vestige.harness import suites
from vestige.harness.bench import Bench

UNMADE = "an edit that is still to be made"


@dataclass(frozen=True)
class Due:
    """A verdict that is due after a step: on which request, and its audit with every name found; the edit alone is still to be made."""

    step: int
    concept: Concept
    plan: Plan

    def content(self) -> str:
        """Hash of everything but the edit."""
        return runs.key(replace(self.plan, request=replace(self.plan.request, edit=None)).spec())


def timing(order: Order) -> When:
    """When verdicts are given: after every step where a step stands by its verdict."""
    return "every" if VERDICT in limits(order.accept) else order.verdict


def due(order: Order, rounds: Iterable[tuple[int, Sequence[Concept]]]) -> tuple[Due, ...]:
    """Every verdict of a sequence; what is wrong with its audits is found here.

    Arguments:
        rounds: Steps after which verdicts are given, each with the requests so far.
    """
    if order.verdict not in ("none", "last", "every"):
        raise BadSetting(f"verdict is none, last or every; given {order.verdict!r}")
    if timing(order) == "none":
        if order.control != "auto":
            raise BadSetting(f"--control {order.control} is of the audits that give verdicts, and none is asked for: add --verdict last")
        return ()
    if order.protocol:
        raise BadSetting(
            f"{order.protocol}'s requests come from no concept file that an audit could read; audit the edit of a step instead"
        )
    if order.control == "none":
        raise BadSetting("a verdict needs a control: without one nobody knows what attacks find where nothing is left")
    return tuple(Due(step, c, resolve(request_of(order, c, so_far, UNMADE))) for step, so_far in rounds for c in so_far)


def attackers_of(order: Order) -> tuple[str, ...]:
    """The attacks of a verdict."""
    return order.attacks or tuple(suites.load(order.suite, models.world_of(order.model)).attacks)


def request_of(order: Order, concept: Concept, so_far: Sequence[Concept], edit: str) -> Request:
    """The audit that gives the verdict on a request.

    Arguments:
        so_far: The requests that the edited model was to forget.
        edit: File of all steps so far as one edit of the original.
    """
    world, used = models.world_of(order.model), attackers_of(order)
    return Request(
        model=order.model,
        concept=next(name for name in order.requests if concepts.load(name, world).name == concept.name),
        edit=edit,
        attacks=order.attacks,
        suite=order.suite,
        references=_references(order, concept, world),
        attack_retain=order.attack_retain,
        settings={key: value for key, value in order.settings.items() if key.partition(".")[0] in used},
        preset=order.preset,
        control=_control(order, so_far),
        keep_images=order.keep_images,
    )


def _references(order: Order, concept: Concept, world: str) -> str:
    """An attacker's pictures, as an audit is told of them."""
    if order.references == "known":
        return "shipped" if concept.pictures or (world and not concept.detector) else "generated"
    return "generated" if order.references == "generated" else str(Path(order.references) / concept.name)


def _control(order: Order, so_far: Sequence[Concept]) -> str:
    """Twins that lack every request so far, those that lack the fewest others; where there are none, what an audit takes."""
    if order.control != "auto":
        return order.control
    lacking = [name for name in models.twins(order.model, so_far[0].name) if set(_lacks(name, so_far)) == {c.name for c in so_far}]
    missed = {name: len(models.card(name).never_drew) for name in lacking}
    return ",".join(f"twin:{name}" for name in lacking if missed[name] == min(missed.values())) or "auto"


def _lacks(twin: str, requests: Sequence[Concept]) -> list[str]:
    """Which requests a built-in model never drew."""
    return [c.name for c in requests if c.name in models.card(twin).never_drew]


def planned_audits(asked: Sequence[Due], *, most: bool = False) -> int:
    """Calls of all verdicts if nothing is stored, at most: what audits of one request under one control share is counted once.

    Arguments:
        most: If only the last look of every audit decides, not the first.
    """
    total, seen = 0, set[tuple[str, Any]]()
    for one in asked:
        plan, mark = one.plan.most if most else one.plan, (one.concept.name, one.plan.control)
        total += sum(plan.planned_calls().values()) - (_shared(plan) if mark in seen else 0)
        seen.add(mark)
    return total


def _shared(plan: Plan) -> int:
    """Calls for controls, which do not depend on the edit."""
    calls = plan.planned_calls()
    one, two = (replace(plan, control=replace(plan.control, names=("",) * n)).planned_calls() for n in (1, 2))
    side = sum(two.get(part, 0) - one.get(part, 0) for part in ("attacks", "scoring"))
    return len(plan.control.names) * side + sum(calls.get(part, 0) for part in ("positives", "controls", "floor"))


def verdict_on(order: Order, bench: Bench, out: Path, concept: Concept, so_far: Sequence[Concept], edit: Path) -> dict[str, Any]:
    """The verdict on a request, computed or stored, as it stands in a sequence's result.

    Arguments:
        out: Folder of the sequence; places within it are relative.
        so_far: The requests that the edited model was to forget.
        edit: File of all steps so far as one edit of the original.
    """
    asked = request_of(order, concept, so_far, str(edit))
    folder = bench.root / f"audit-{runs.key(resolve(asked).spec())[:12]}"
    place = str(folder.relative_to(out) if folder.is_relative_to(out) else folder)
    try:
        result = audit(asked, folder, cache=bench.root, steal=bench.steal, watch=bench.watch, command=_command(asked))
    except Diverged as error:
        return {"kind": None, "failed": str(error), "run": place}
    verdict = result["verdict"]
    return {
        **{key: verdict[key] for key in ("kind", "reason", "attack", "between", "flags")},
        **{key: result[key] for key in ("speedup", "savings", "reach", "would_have_found")},
        "plain": result["plain"]["recall"],
        "control": {**{key: result["control"][key] for key in ("kind", "names")}, "drew": _drew(result["control"], concept, so_far)},
        "attacks": list(result["attacks"]),
        "replicates": result["protocol"]["replicates"],
        "banks": [bank["name"] for bank in result["banks"]],
        "run": place,
    }


def _drew(control: Mapping[str, Any], concept: Concept, so_far: Sequence[Concept]) -> list[str] | None:
    """Which requests so far a control did draw; None of a twin of a user's own, where only the user knows."""
    if control["kind"] == "proxy":
        return [c.name for c in so_far]
    if control["kind"] == "distilled":
        return [c.name for c in so_far if c.name != concept.name]
    if not set(control["names"]) <= models.cards().keys():
        return None
    return [c.name for c in so_far if any(not _lacks(name, [c]) for name in control["names"])]


def _command(asked: Request) -> str:
    """The command that gives the same verdict by itself."""
    words = ["vestige", "audit", "--model", asked.model, "--concept", asked.concept, "--edit", str(asked.edit), "--suite", asked.suite]
    words += ["--control", asked.control, "--references", asked.references, "--keep-images", asked.keep_images]
    words += [word for name in asked.attacks for word in ("--attack", name)]
    words += ["--attack-retain", asked.attack_retain] if asked.attack_retain != "shipped" else []
    words += ["--preset", asked.preset] if asked.preset else []
    return shlex.join([*words, *(word for key, value in asked.settings.items() for word in ("--set", f"{key}={value}"))])
