"""What a worker process does to end a cell: it puts the result together, and writes the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vestige.audit.run import audited_to
from vestige.audit.tasks import request_from
from vestige.continual import continual
from vestige.continual.tasks import order_from
from vestige.harness.processes import working
from vestige.report import audits, ledgers

ENDING = 1000.0  # calls that the end of a cell takes beside its pieces, about: the utility after attacks, and what only results tell
FILES = ["result.json", "spec.json", "report.html"]


def end_audit(data: Mapping[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """The verdict of an audit, where its looks so far decide."""
    with working(data["means"]):
        found = audited_to(request_from(data["request"]), out, root, data["replicates"], data["command"])
    if found is None:
        return {"undecided": True}
    audits.write(out)
    return {"verdict": found["verdict"]["kind"], "speedup": found["speedup"], "reach": found["reach"], "wrote": FILES}


def end_sequence(data: Mapping[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """The result of a sequence."""
    with working(data["means"]):
        found = continual(order_from(data["order"]), out, cache=root, command=data["command"])
    ledgers.write(out)
    return {"steps": len(found["steps"]) - 1, "wrote": FILES}
