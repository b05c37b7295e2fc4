"""The page of `studies/sequences.py`: what a record keeps of a finished sequence, and the tables that records make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from records import at
from tables import NOTHING, number, table

COLUMNS = {
    "unlearned": ("unlearning_accuracy",),
    "reversal, net": ("reversal", "net"),
    "unasked": ("leakage", "rate"),
    "ripple": ("ripple", "drop"),
    "erosion": ("erosion", "drop"),
    "KID": ("erosion", "kid"),
}
ENDS = ("value", "low", "high")
EXPLAINED = """
Per cent after the last request, with 95 % intervals over pictures of one run. *unlearned*: pictures that name a request and do not show
it, all requests pooled. *reversal, net*: how much more often earlier requests are shown than right after their own step. *unasked*:
pictures that show a request though their prompts name no garment (for a style: no style); {original} of the original's. *ripple* and
*erosion*: accuracy lost on words near a request, and on words near none. *KID*: of the latter's pictures to the original's own. *drift*:
relative distance of the touched weights. Prompts that name a request count for no word that must stay. *seconds to unlearn*: of steps
that were not there before the cell's last start, training alone."""
READ_BACK = """
Of rows marked *, the record was read back from an earlier page and holds whole per cents; their means may be off by one."""


def record(key: str, row: str, order: int, seed: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a finished cell: the last state's quantities, or of separate models the means of theirs."""
    apart = result["mode"] == "independent"
    last = result["steps"][1:] if apart else result["steps"][-1:]
    columns = {name: _mean([at(step, *place) for step in last]) if apart else _kept(at(last[0], *place)) for name, place in COLUMNS.items()}
    unasked = [at(rate, "value") for rate in result["steps"][0]["leakage"]["rates"].values()]
    return {
        "key": key,
        "row": row,
        "order": order,
        "seed": seed,
        "mode": result["mode"],
        "suite": result["suite"],
        "model_hash": result["provenance"]["model_hash"],
        "judge": result["detector"]["verification"]["version"],
        "vestige": result["provenance"]["vestige"],
        "columns": columns,
        "original": mean(unasked),
        "drift": mean(at(step, "drift", "original") for step in last),
        "seconds": result["cost"]["stages"]["unlearn"],
    }


def mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _kept(quantity: Any) -> dict[str, float | None] | None:
    """A quantity's estimate and ends; None where it has no estimate."""
    found = {name: at(quantity, name) for name in ENDS}
    return None if found["value"] is None else found


def _mean(quantities: Sequence[Any]) -> dict[str, float | None] | None:
    """Of several models; a mean has no interval of its own."""
    value = mean(at(one, "value") for one in quantities)
    return None if value is None else {"value": value, "low": None, "high": None}


def shown(kept: Mapping[str, Any]) -> list[str]:
    """A record's numbers as the table says them."""
    cells = [_number(name, kept["columns"][name]) for name in COLUMNS]
    return [*cells, number(kept["drift"]), number(kept["seconds"], 0)]


def _number(column: str, quantity: Mapping[str, float | None] | None) -> str:
    if quantity is None or quantity["value"] is None:
        return NOTHING
    if column == "KID":
        return f"{quantity['value']:.3g}"
    value, low, high = (None if quantity[end] is None else f"{round(100 * (quantity[end] or 0))}" for end in ENDS)
    return f"{value}" if None in (low, high) else f"{value} [{low}, {high}]"


def across(kept: Sequence[Mapping[str, Any]]) -> str:
    """Rows with several runs, by order and seed: the mean, the lowest and the highest."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for one in kept:
        rows.setdefault(one["row"], []).append(one)
    rows = {name: several for name, several in rows.items() if len(several) > 1 and several[0]["mode"] != "independent"}
    if not rows:
        return ""
    made = [
        [
            name + (" *" if any(one.get("read_back") for one in several) else ""),
            str(len(several)),
            *(spread([at(one, "columns", of, "value") for one in several], of) for of in COLUMNS),
        ]
        for name, several in rows.items()
    ]
    return f"\n## Over orders\n\nMean over runs, lowest to highest.\n\n{table(['row', 'runs', *COLUMNS], made)}\n"


def spread(values: Sequence[float | None], column: str) -> str:
    known = [v if column == "KID" else 100 * v for v in values if v is not None]
    if not known:
        return NOTHING
    mean_, low, high = (f"{v:.3g}" if column == "KID" else f"{round(v)}" for v in (sum(known) / len(known), min(known), max(known)))
    return f"{mean_} ({low} to {high})"


def missing(lacking: Iterable[tuple[str, int, int]]) -> str:
    """What is not there, (row, order, seed) each, by order and seed."""
    by: dict[tuple[int, int], list[str]] = {}
    for name, order, seed in lacking:
        by.setdefault((order, seed), []).append(name)
    if not by:
        return "\nAll cells are there.\n"
    told = (f"under order {order}, seed {seed}: {'; '.join(names)}" for (order, seed), names in by.items())
    return "\nMissing " + ".\nMissing ".join(told) + ".\n"


def page(
    kept: Sequence[Mapping[str, Any]], lacking: Iterable[tuple[str, int, int]], *, title: str, command: str, orders: str, rows: str
) -> str:
    """The whole page, made of records alone.

    Arguments:
        kept: Records in the order of the table.
        lacking: What is not finished.
        orders: What the orders are.
        rows: What the rows are.
    """
    first = kept[0]
    told = EXPLAINED.format(original=NOTHING if first["original"] is None else f"{100 * first['original']:.0f}")
    versions = ", ".join(sorted({one["vestige"] for one in kept}))
    about = f"`{command}`;\nsuite {first['suite']}, model {first['model_hash']}, verification judge {first['judge']}, vestige {versions}."
    about += f"\nOrders: {orders}."
    back = READ_BACK if any(one.get("read_back") for one in kept) else ""
    head = ["row", "order", "seed", *COLUMNS, "drift", "seconds to unlearn"]
    lines = [[one["row"] + (" *" if one.get("read_back") else ""), str(one["order"]), str(one["seed"]), *shown(one)] for one in kept]
    return f"# {title}\n\n{about}\n{told}\n{rows}\n{back}\n\n{table(head, lines)}\n{missing(lacking)}{across(kept)}"
