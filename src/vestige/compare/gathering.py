"""Which audits are meant by a folder: one, several, or all cells of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige import files
from vestige.compare.forms import damage
from vestige.errors import BadInput

Result = Mapping[str, Any]
UNTOLD = "not told"


@dataclass(frozen=True)
class Audited:
    """A finished audit.

    Arguments:
        folder: Where it lies.
        result: Its result.json.
        spec: Its spec.json; {} without one.
        name: What its grid calls the method; "" where no grid does.
        axes: Its place on the grid's axes.
    """

    folder: Path
    result: Result
    spec: Result
    name: str = ""
    axes: Result | None = None

    @property
    def form(self) -> str:
        """Of the verdict: the same arms may be judged otherwise under another."""
        return str(self.spec.get("verdict", UNTOLD))

    @property
    def concept(self) -> str:
        return str(self.result.get("concept"))

    @property
    def swept(self) -> str:
        """Under which of a grid's settings of attacks it ran; "" where the grid varies none."""
        return str((self.axes or {}).get("swept") or "")

    @property
    def edit(self) -> str:
        """Which edited model it is about, by its content; two edits that are equal to the bit are one."""
        return str((self.result.get("provenance") or {}).get("edited_hash") or self.folder)

    @property
    def unedited(self) -> bool:
        """Whether it is about a model as it was; without an original it is about an edited one, as what has a name and tells no edit."""
        plain = self.result.get("plain") or {}
        return not self.result.get("edit", self.name) and plain.get("original", {}) is not None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the attack's replicates."""
        return tuple((self.result.get("provenance") or {}).get("seeds") or ())


@dataclass(frozen=True)
class Gathered:
    """Audits, what was passed over and why, and the grids that they come from.

    Arguments:
        grids: A folder of a grid -> its grid.json.
    """

    audits: tuple[Audited, ...]
    remarks: tuple[str, ...]
    grids: Mapping[Path, Result]


def collected(places: Sequence[Path]) -> Gathered:
    """Every audit that folders hold, each once, in the order given.

    Arguments:
        places: Each the folder of a finished audit, of a grid, or one whose sub-folders hold finished audits.

    Raises:
        BadInput: A folder that holds none of these, or no audit at all.
    """
    audits, remarks, grids = dict[Path, Audited](), list[str](), dict[Path, Result]()
    for place in places:
        told = files.object_in(place / "grid.json")
        if told is not None or (place / "cells").is_dir():
            grids[place] = told or {}
            rows = _cells(told or {})
            remarks += [f"cell {name} failed: {row.get('why')}" for name, row in rows.items() if row.get("state") == "failed"]
        else:
            rows = {}
        folders = _folders(place, remarks)
        if rows and (beside := [folder.name for folder in folders if folder.name not in rows]):
            remarks.append(_beside(place / "grid.json", beside))
        for folder in folders:
            found = _read(folder, rows.get(folder.name) or {})
            if isinstance(found, str):
                remarks.append(found)
            else:
                audits.setdefault(folder.resolve(), found)
    if not audits:
        raise BadInput(f"{', '.join(map(str, places))}: no finished audit is there to compare; {'; '.join(remarks) or 'run some first'}")
    return Gathered(tuple(audits.values()), tuple(dict.fromkeys(remarks)), grids)


def _cells(grid: Result) -> dict[str, Result]:
    """What a grid says of its cells, by their names."""
    rows = grid.get("cells")
    return {str(row.get("cell")): row for row in rows if isinstance(row, Mapping)} if isinstance(rows, list) else {}


def _beside(told: Path, names: Sequence[str]) -> str:
    """That finished cells are not the grid's by its own account."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"compared all the same, though {told} does not name them, as of an earlier file or of one that still runs: {shown}"


def _folders(place: Path, remarks: Sequence[str]) -> list[Path]:
    """Folders that hold a result.

    Arguments:
        remarks: What is known so far, for whoever finds none.
    """
    if (place / "result.json").exists():
        return [place]
    grid = (place / "cells").is_dir()
    found = [path.parent for path in sorted((place / "cells" if grid else place).glob("*/result.json"))]
    if not found:
        what = "this grid has finished no cell yet" if grid else "give the folder of an audit or of a grid"
        known = "".join(f"; {remark}" for remark in remarks)
        raise BadInput(f"{place} holds no finished audit: no result.json, and none in its folders; {what}{known}")
    return found


def _read(folder: Path, row: Result) -> Audited | str:
    """An audit, or why it is passed over."""
    result = files.object_in(folder / "result.json")
    if result is None:
        return f"{folder / 'result.json'} cannot be read; delete it and run the audit again"
    schema = str(result.get("schema", "vestige-audit"))
    if not schema.startswith("vestige-audit"):
        return f"{folder} holds {schema}, not the result of an audit; sequences are not compared here"
    if not {"concept", "verdict", "attacks"} & result.keys():  # a run of its own that an audit rests on, or another program's
        return f"{folder} holds no result of an audit: its result.json names no concept, verdict or attack"
    if damaged := damage(result):
        return f"{folder / 'result.json'} is damaged: {damaged}; delete it and run the audit again"
    axes = {key: row[key] for key in ("model", "concept", "unlearner", "suite", "attacks", "swept", "seed") if key in row}
    return Audited(folder, result, files.object_in(folder / "spec.json") or {}, str(row.get("unlearner") or ""), axes)
