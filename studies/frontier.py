"""The frontier of forgetting: how far each method's worst attack comes, against what the edit took from the rest.

Drawn of the numbers on a committed page.

    python studies/frontier.py --pages docs/results/methods/eight.md docs/results/methods/five.md --out docs/results/frontier.svg

A method that stands on several pages is drawn of the last.

Across: accuracy that the edit left, the worse of neighbours and unrelated words, in points off the original's. Up: the largest point
estimate of reach under any attack, turned round. Of the methods that enter the comparison (decision 0007), those are on the frontier
that no other beats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

import grid
import tables
from vestige.report.board_plots import overlap

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800, 484, 64, 756, 24, 404
WORST, REACHES, LOSSES = 60.0, (0.0, 0.25, 0.5, 0.75, 1.0), (50, 40, 30, 20, 10, 0)
LETTER, LINE = 7.4, 13.0  # of a name in bold, in pixels
ACROSS = "accuracy kept, in points off the original (worse of neighbours and unrelated words)"
UP = "reach under the worst attack (0: as a model that never knew)"
INSIDE, OUTSIDE = "enters the comparison", "shows it when plainly asked, or lost more than 10 points of the neighbours"
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1d2733 } .name { paint-order: stroke; stroke: #fff; stroke-width: 4 }
  .grid { stroke: #d5dbe1 } .stairs { fill: none; stroke: #2563b0; stroke-dasharray: 5 4 }
  .in { fill: #2563b0 } .out { fill: none; stroke: #8a94a0; stroke-width: 1.5 } .pale { fill: #66707c } .best { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6eaef } .grid { stroke: #3a434e } .stairs { stroke: #7fb2f0 } .in { fill: #7fb2f0 } .pale { fill: #a3adb8 }
    .name { stroke: #0d1117 } }
"""


@dataclass(frozen=True)
class Point:
    """A method: points of accuracy that it cost, at least 0; how far its worst attack came, and which; whether it enters the comparison."""

    method: str
    lost: float
    reach: float
    attack: str
    compared: bool

    @property
    def place(self) -> tuple[float, float]:
        """Pixels."""
        across = RIGHT - (RIGHT - LEFT) * min(self.lost, WORST) / WORST
        return round(across, 1), _height(self.reach)

    @property
    def name(self) -> str:
        """The method, and the first of the settings by which it differs from its namesake."""
        return ", ".join(self.method.split(",")[:2])

    def beats(self, other: Point) -> bool:
        mine, theirs = (self.lost, self.reach), (other.lost, other.reach)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _height(reach: float) -> float:
    """Reach 0, and less, at the top."""
    return round(TOP + (BOTTOM - TOP) * min(max(reach, 0.0), 1.0), 1)


def points(page: str) -> list[Point]:
    """Of a pooled comparison, as `vestige compare --pool` prints it, of one concept."""
    reached = {row["method"]: row for row in sheet(page, "Reach under each attack")}
    made = []
    for row in sheet(page, "Methods"):
        found = {name: number for name, cell in reached[row["method"]].items() if (number := _number(cell)) is not None}
        attack = max(found, key=lambda name: found[name])
        lost = max(0.0, *(-(_number(row[group]) or 0.0) for group in ("neighbours", "unrelated")))
        made.append(Point(row["method"], lost, found[attack], attack, row["compared"] == "yes"))
    return made


def newest(pages: Iterable[str]) -> list[Point]:
    """Of several pages, a method once: as the last one says."""
    return list({point.method: point for page in pages for point in points(page)}.values())


def sheet(page: str, title: str) -> Iterator[dict[str, str]]:
    """The rows of the first table under a title, by its head."""
    lines = page.split(f"### {title}\n", 1)[1].strip().split("\n")
    cells = [[cell.strip().replace("\\", "") for cell in line.strip("|").split("|")] for line in lines[: _length(lines)]]
    for row in cells[2:]:
        yield dict(zip(cells[0], row, strict=True))


def _length(lines: Sequence[str]) -> int:
    return next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))


def _number(cell: str) -> float | None:
    """A number, with or without a star; None where there is none."""
    found = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)\*?", cell)
    return float(found[1]) if found else None


def drawing(found: Sequence[Point]) -> str:
    """The picture, as SVG."""
    inside = [p for p in found if p.compared]
    best = sorted((p for p in inside if not any(o.beats(p) for o in inside)), key=lambda p: p.lost)
    about = f"{len(found)} methods; on the frontier: {', '.join(p.method for p in best)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(about)}">',
        f"<title>{escape(about)}</title><style>{STYLE}</style>",
        *(f'<path class="grid" d="M{LEFT},{_height(r)}H{RIGHT}"/>' for r in REACHES),
        *(f'<text x="{LEFT - 8}" y="{_height(r) + 4}" text-anchor="end">{r:g}</text>' for r in REACHES),
        *(f'<text x="{Point("", lost, 0, "", True).place[0]}" y="{BOTTOM + 20}" text-anchor="middle">{-lost}</text>' for lost in LOSSES),
        f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 42}" text-anchor="middle">{ACROSS}</text>',
        f'<text transform="translate(16 {(TOP + BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{UP}</text>',
        f'<circle class="in" cx="{LEFT + 6}" cy="{HEIGHT - 14}" r="5"/><text x="{LEFT + 18}" y="{HEIGHT - 10}">{INSIDE}</text>',
        f'<circle class="out" cx="{LEFT + 186}" cy="{HEIGHT - 14}" r="5"/>',
        f'<text x="{LEFT + 198}" y="{HEIGHT - 10}">{OUTSIDE}</text>',
        f'<path class="stairs" d="{_stairs(best)}"/>',
    ]
    names = _names(found)
    for p in found:
        (x, y), kind = p.place, "in" if p.compared else "out"
        told = f"{p.method}: {p.lost:.1f} points, reach {p.reach:.2f} ({p.attack})"
        parts.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="5"><title>{escape(told)}</title></circle>')
        if p.method in names:
            at, high, anchor = names[p.method]
            style = " ".join(["name"] + ["best"] * (p in best) + ["pale"] * (not p.compared))
            parts.append(f'<text class="{style}" x="{at:.1f}" y="{high:.1f}" text-anchor="{anchor}">{escape(p.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _stairs(best: Sequence[Point]) -> str:
    """From the bottom, below the point that keeps most, to the left edge, beside the one that forgets most; empty without points."""
    if not best:
        return ""
    first = best[0].place
    steps = "".join(f"V{b.place[1]}" if a.place[0] == b.place[0] else f"H{b.place[0]}V{b.place[1]}" for a, b in pairwise(best))
    return f"M{first[0]},{BOTTOM}V{first[1]}{steps}H{LEFT}"


def _names(found: Sequence[Point]) -> Mapping[str, tuple[float, float, str]]:
    """Where names stand: beside their points, on a side where no other name or point is; a name without room is left to the tooltip."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in (p.place for p in found)]
    made: dict[str, tuple[float, float, str]] = {}
    for i, p in enumerate(found):
        (x, y), wide = p.place, LETTER * len(p.name)
        sides = [("end", -10.0, 4.0), ("start", 10.0, 4.0)]
        sides += [(anchor, dx, dy) for dy in (16.0, -9.0, -22.0, -35.0) for anchor, dx in (("middle", 0.0), ("end", -4.0), ("start", 4.0))]
        for anchor, dx, dy in sides:
            left = x + dx - {"end": wide, "start": 0.0, "middle": wide / 2}[anchor]
            room = (left, y + dy - LINE + 3, left + wide, y + dy + 3)
            inside = room[0] >= LEFT and room[2] <= WIDTH and room[1] >= 0 and room[3] <= BOTTOM + 2
            if inside and not any(overlap(room, other) for j, other in enumerate(taken) if j != i):
                taken.append(room)
                made[p.method] = (x + dx, y + dy, anchor)
                break
    return made


def main() -> None:
    parser = grid.parser(__doc__)
    parser.add_argument("--pages", type=Path, nargs="+", default=[Path(f"docs/results/methods/{name}.md") for name in ("eight", "five")])
    parser.add_argument("--out", type=Path, default=Path("docs/results/frontier.svg"))
    asked = parser.parse_args()
    tables.write(asked.out, drawing(newest(page.read_text("utf-8") for page in asked.pages)))


if __name__ == "__main__":
    main()
