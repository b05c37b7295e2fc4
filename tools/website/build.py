"""Stages the pages that exist beside those that are made, and has Sphinx build them; a warning fails.

    python tools/website            # or: make docs

The staged tree is laid out as the repository is, so a relative link means the same on the site and in a checkout. What is no page
(a picture, records) is copied where a page names it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from website import methods, reference
from website.measured import page_title

ROOT = Path(__file__).parents[2]
STAGED, SITE = ROOT / "build/site", ROOT / "site"
WORLDS = ("README", "letters", "charms")  # of tools/worlds
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"tools/worlds/{name}.md" for name in WORLDS))  # pages that do not lie in docs
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")

GUIDES = (
    *("choosing", "own_world", "models", "published_checkpoints", "flux", "metrics", "verdict", "grids", "board", "sequences", "cost"),
    *("recipes/cifar10", "negative"),
)
# Results in the order in which one would ask; what is not named follows.
RESULTS = (
    "claims",
    "truth_panel",
    "table",
    "attacks",
    "returns",
    "continual",
    "continual_closed",
    "continual_duge",
    "memora",
    "diagnoses",
    "controls",
    "unshown",
    "flow",
)
ADRIFT = ("studies", "recoveries", "automemora", "multimemora", "wardrobe", "worlds")  # folders of results without a page above them


def main(out: Path = SITE, staged: Path = STAGED) -> int:
    """Build the site into `out`; Sphinx's answer, 0 where nothing was amiss."""
    from sphinx.cmd.build import build_main

    stage(staged)
    conf = Path(__file__).parent
    return int(
        build_main(
            [
                "-b",
                "html",
                "-c",
                str(conf),
                "-d",
                str(staged.with_name(f"{staged.name}-read")),
                "-W",
                "--keep-going",
                "-q",
                "-E",
                str(staged),
                str(out),
            ]
        )
    )


def stage(to: Path, root: Path = ROOT) -> None:
    """Write every source of the site under `to`, an empty folder from then on its own."""
    shutil.rmtree(to, ignore_errors=True)
    made = {**existing(root), **generated(root)}
    made["index.md"] += navigation(root)
    for name, text in made.items():
        file = to / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        for target, _ in LINK.findall(text):
            named = file.parent / target
            origin = root / named.resolve().relative_to(to.resolve())
            if origin.is_file() and origin.suffix != ".md":
                named.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(origin, named)


def existing(root: Path) -> dict[str, str]:
    """The pages of the repository, by their place on the site; a folder's link leads to its list, README is the start."""
    files = [*(root / name for name in BESIDE), *sorted((root / "docs").rglob("*.md"))]
    made = {}
    for file in files:
        where = file.relative_to(root)
        name = "index.md" if where.name == "README.md" and where.parent == Path() else where.as_posix()
        text = re.sub(r"\A# .*", lambda _, at=where: f"# {page_title(root, at.as_posix())}", file.read_text("utf-8"))
        made[name] = LINK.sub(lambda m, at=file: _moved(root, at, m), text) + below(root, where)
    return made


def _moved(root: Path, file: Path, link: re.Match[str]) -> str:
    target, anchor = link[1], link[2] or ""
    there = (file.parent / target).resolve()
    if there == root / "README.md":
        target = target.removesuffix("README.md") + "index.md"
    elif there.is_dir():
        target = f"{target.rstrip('/')}/index.md"
    return target + anchor


def below(root: Path, page: Path) -> str:
    """What hangs below a page in the site's tree: the pages of the folder that has its name, and the worlds below how they are made."""
    if page == Path("tools/worlds/README.md"):
        return toctree("", [name for name in WORLDS if name != "README"])
    pages = sorted((root / page.with_suffix("")).glob("*.md")) if page.parent == Path("docs/results") else []
    return toctree("", [f"{p.stem} <{page.stem}/{p.stem}>" for p in pages]) if pages else ""


def generated(root: Path) -> dict[str, str]:
    """The pages that are made, by their place on the site."""
    made = {f"{kind}/{name}.md": methods.page(root, kind, name) for kind in methods.KINDS for name in methods.own_names(kind)}
    made |= {f"{kind}/index.md": methods.index(kind) for kind in methods.KINDS}
    made |= {f"api/{room}.md": reference.page(room) for room in reference.ROOMS}
    made |= {"api/index.md": reference.index(), "api/commands.md": reference.commands()}
    return made | {"docs/results/index.md": results(root), "docs/decisions/index.md": decisions(root)}


def results(root: Path) -> str:
    """The list of results."""
    home = root / "docs/results"
    first = [*RESULTS, *sorted(p.stem for p in home.glob("*.md") if p.stem not in RESULTS)]
    below = [p.relative_to(home).with_suffix("").as_posix() for folder in ADRIFT for p in sorted((home / folder).glob("*.md"))]
    rows = [f"- [{page_title(root, f'docs/results/{name}.md')}]({name}.md)" for name in first]
    more = [f"- [{page_title(root, f'docs/results/{name}.md')}]({name}.md)" for name in below]
    said = "Tables are made by a study or a tool, and their page says the command. What did not work: [negative](../negative.md)."
    studied = "\n".join(more)
    return f"# Results\n\n{said}\n\n" + "\n".join(rows) + f"\n\n## Single studies and worlds\n\n{studied}\n" + toctree("", [*first, *below])


def decisions(root: Path) -> str:
    """The list of decisions, the newest first."""
    files = sorted((root / "docs/decisions").glob("[0-9]*.md"), reverse=True)
    rows = [f"- {p.stem[:4]} [{page_title(root, p.relative_to(root).as_posix())}]({p.name})" for p in files]
    said = "Why things are as they are. A number that is missing was never used."
    return f"# Decisions\n\n{said}\n\n" + "\n".join(rows) + "\n" + toctree("", [p.stem for p in files])


def navigation(root: Path) -> str:
    """The site's tree, in the order in which one would read."""
    guides = [f"docs/{name}" for name in GUIDES]
    guides.insert(guides.index("docs/own_world") + 1, "tools/worlds/README")
    return (
        toctree("Guides", guides)
        + toctree("Methods", ["unlearners/index", "attacks/index"])
        + toctree("What was found", ["docs/results/index", "docs/decisions/index"])
        + toctree("Reference", ["api/commands", "api/index"])
        + toctree("Project", ["CONTRIBUTING", "CHANGELOG"])
    )


def toctree(caption: str, pages: list[str]) -> str:
    """A hidden branch of the site's tree."""
    head = f":caption: {caption}\n" if caption else ""
    return f"\n```{{toctree}}\n:hidden:\n{head}\n" + "\n".join(pages) + "\n```\n"
