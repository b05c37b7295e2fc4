"""Measure the shipped world: quality table, confusion matrices, curves and sample sheets under docs/results/wardrobe/.

python tools/wardrobe/measure.py            everything that is packed
python tools/wardrobe/measure.py classes    the class-conditional models only, into classes.md
python tools/wardrobe/measure.py flow       the rectified-flow model only, into flow.md
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from loop import BUILD
from pack import rendered, round_trip, split
from PIL import Image
from world import ALL_STYLES, CLASS_MODELS, DENOISERS, FLOW_MODELS, GARMENTS, HELD_BOTH, OBJECTS, SPLITS, STYLES

from vestige import data, models
from vestige.concepts import images
from vestige.diffusion.sampling import Drawing, pictures
from vestige.metrics import classifier, fidelity
from vestige.models.modular import Modular
from vestige.seeds import derive

OUT = Path(__file__).resolve().parents[2] / "docs/results/wardrobe"
PROTOCOL = Drawing(steps=20, guidance=3.0, batch=160)
EACH = 20  # pictures of every garment in every style
TOLD = 40  # pictures of every garment by a model that is told no style


def judge(name: str) -> classifier.Classifier:
    return classifier.load(data.folder() / "wardrobe" / f"judge-{name}")


def drawn(model: str, seed: int = 7) -> tuple[torch.Tensor, list[dict[str, str]]]:
    """EACH pictures of every garment in every style from held-out templates in turn, TOLD of every class; cached in the build folder."""
    if model in CLASS_MODELS:
        labels = [{"object": g} for g in GARMENTS for _ in range(TOLD)]
        texts = [w["object"] for w in labels]
    else:
        labels = [{"object": g, "style": s} for g in GARMENTS for s in STYLES for _ in range(EACH)]
        texts = [HELD_BOTH[i % len(HELD_BOTH)].format(garment=w["object"], style=w["style"]) for i, w in enumerate(labels)]
    loaded = models.load(model)
    stored = BUILD / f"drawn-{model}-{loaded.fingerprint[:12]}.pt"
    if not stored.exists():
        torch.save(pictures(loaded, texts, [derive(seed, "quality", i) for i in range(len(texts))], PROTOCOL), stored)
    return torch.load(stored, weights_only=True), labels


def accuracies(who: classifier.Classifier, x: torch.Tensor, labels: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    seen = who.labelled(x)
    made: dict[str, dict[str, float]] = {}
    for group in labels[0]:
        words = dict.fromkeys(w[group] for w in labels)
        hits = {word: [s[group] == word for s, w in zip(seen, labels, strict=True) if w[group] == word] for word in words}
        made[group] = {word: sum(h) / len(h) for word, h in hits.items()}
    return made


def real(part: str) -> tuple[torch.Tensor, list[dict[str, str]]]:
    """Test pictures of a split, each in one style, those of `wardrobe` only."""
    grey, label, rows = split(part)
    keep = label < len(GARMENTS)
    grey, label, rows = grey[keep], label[keep], rows[keep]
    style = (rows // len(SPLITS)) % len(STYLES)
    return rendered(grey, style), [{"object": OBJECTS[o], "style": ALL_STYLES[s]} for o, s in zip(label, style, strict=True)]


def confusion(who: classifier.Classifier, x: torch.Tensor, labels: list[dict[str, str]], path: Path) -> None:
    seen = who.labelled(x)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ judged", *OBJECTS])
        for word in GARMENTS:
            mine = [s["object"] for s, w in zip(seen, labels, strict=True) if w["object"] == word]
            writer.writerow([word, *(mine.count(o) for o in OBJECTS)])


def distances(made: torch.Tensor) -> list[str]:
    """FID and KID of generated pictures, of the VAE round trip, and between two halves of real pictures, at equal sizes."""
    who, vae = judge("verify"), models.load("wardrobe")
    sheet = images.shipped(data.folder() / "wardrobe/pictures/fidelity").images
    test, _ = real("judge-test")
    rng = torch.Generator().manual_seed(0)
    other = test[torch.randperm(len(test), generator=rng)[: len(sheet)]]
    tripped = torch.cat([vae.decode(vae.encode(p)) for p in sheet.split(200)])
    rows = [("generated", made), ("VAE round trip of the same pictures", tripped), ("other real test pictures", other)]
    lines = []
    for name, x in rows:
        f, k = fidelity.fid(who, sheet, x), fidelity.kid(who, sheet, x)
        lines.append(f"| {name} | {f.value:.3f} | {k.value:.5f} ± {k.spread:.5f} | {len(x)} |")
    return [f"| against {len(sheet)} real test pictures | {f.name} | {k.name} | pictures |", "|---|---|---|---|", *lines]


def quality(model: str) -> list[str]:
    """One row a garment: drawn against the judge's own accuracy on real pictures and on round trips."""
    who, select = judge("verify"), judge("select")
    x, labels = real("judge-test")
    own, own_select = accuracies(who, x, labels), accuracies(select, x, labels)
    loaded = models.load(model)
    assert isinstance(loaded, Modular)  # noqa: S101
    tripped = accuracies(who, round_trip(loaded.parts["vae"], x), labels)
    made, wanted = drawn(model)
    got, got_select = accuracies(who, made, wanted), accuracies(select, made, wanted)
    lines = [
        "| class | generated | real test pictures | difference | VAE round trip | generated, other judge |",
        "|---|---|---|---|---|---|",
    ]
    for group, words in (("object", GARMENTS), ("style", STYLES)):
        for w in words:
            a, b = got[group][w], own[group][w]
            lines.append(f"| {w} | {a:.1%} | {b:.1%} | {100 * (a - b):+.1f} | {tripped[group][w]:.1%} | {got_select[group][w]:.1%} |")
        mean = [float(np.mean([t[group][w] for w in words])) for t in (got, own, tripped, got_select)]
        cells = f"{mean[0]:.1%} | {mean[1]:.1%} | {100 * (mean[0] - mean[1]):+.1f} | {mean[2]:.1%} | {mean[3]:.1%}"
        lines.append(f"| **mean of {group}s** | {cells} |")
    lines.append("")
    lines.append(f"The other judge's own accuracy on real pictures: {np.mean(list(own_select['object'].values())):.1%} of garments.")
    return lines


def twins(known: Mapping[str, tuple[tuple[str, ...], float]]) -> list[str]:
    """One row a twin.

    Arguments:
        known: Name -> concepts absent from training, share of training during which they are absent.
    """
    who = judge("verify")
    lines = ["| model | absent from training | rate of those pictures that show it | accuracy on the other garments |", "|---|---|---|---|"]
    for name, (absent, share) in known.items():
        if not absent or name not in models.cards():
            continue
        made, wanted = drawn(name)
        seen = who.labelled(made)
        cells = []
        for word in absent:
            group = "object" if word in OBJECTS else "style"
            mine = [s[group] == word for s, w in zip(seen, wanted, strict=True) if w[group] == word]
            cells.append(f"{word} {sum(mine) / len(mine):.1%}")
        rest = [s["object"] == w["object"] for s, w in zip(seen, wanted, strict=True) if not {*w.values()} & {*absent}]
        when = "" if share == 1 else f" ({share:.0%} of its steps, the last)"
        lines.append(f"| {name} | {', '.join(absent)}{when} | {', '.join(cells)} | {sum(rest) / len(rest):.1%} |")
    return lines


def classes(model: str = "wardrobe-classes") -> list[str]:
    """One row a garment: the class-conditional model against the text-conditional one, and how often it draws each style, unasked."""
    who, select = judge("verify"), judge("select")
    made, wanted = drawn(model)
    got, got_select, other = accuracies(who, made, wanted), accuracies(select, made, wanted), accuracies(who, *drawn("wardrobe"))
    lines = ["| class | generated | generated, other judge | generated by wardrobe |", "|---|---|---|---|"]
    lines += [f"| {w} | {got['object'][w]:.1%} | {got_select['object'][w]:.1%} | {other['object'][w]:.1%} |" for w in GARMENTS]
    mean = [float(np.mean(list(t["object"].values()))) for t in (got, got_select, other)]
    lines += ["| **mean** | " + " | ".join(f"{v:.1%}" for v in mean) + " |", ""]
    seen = [s["style"] for s in who.labelled(made)]
    return [*lines, "Styles drawn: " + ", ".join(f"{w} {seen.count(w) / len(seen):.1%}" for w in STYLES) + "."]


def class_models() -> None:
    """classes.md: what the class-conditional models draw."""
    told = {name: (absent, 1.0) for name, (absent, _) in CLASS_MODELS.items()}
    head = (
        "# The class-conditional models of `wardrobe`\n\n"
        f"`WARDROBE_BUILD=DIR python tools/wardrobe/measure.py classes`: {TOLD} pictures of every class, {PROTOCOL.steps} steps,\n"
        f"guidance {PROTOCOL.guidance:g}, seeds derived from 7. A rate is the share that the verification judge calls what was told.\n"
        f"Of {TOLD} pictures, 95 % has a 95 % interval of 83 to 99 %. `wardrobe`, for comparison: {EACH} pictures of every garment in\n"
        "every style. A twin's untrained class still draws something; how often that is its garment is the floor of an audit.\n"
    )
    sections = {"Does it draw what it is told?": classes(), "Twins": twins(told)}
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    (OUT / "classes.md").write_text(f"{head}\n{body}\n")
    sys.stdout.write(body + "\n")


def flow_model() -> None:
    """flow.md: what the rectified-flow models draw."""
    told = {name: (absent, 1.0) for name, (absent, _) in FLOW_MODELS.items()}
    head = (
        "# The rectified-flow models of `wardrobe`\n\n"
        "A transformer of FLUX.1's shape (2.3 M weights) and a T5 encoder of its own (88 k), trained together on the same pictures and\n"
        "captions for 8,000 steps of rectified flow; autoencoder and pooled CLIP text are `wardrobe`'s. Its twin shares all but the\n"
        "transformer.\n\n"
        f"`WARDROBE_BUILD=DIR python tools/wardrobe/measure.py flow`: {EACH} pictures of every garment in every style from held-out\n"
        f"templates, {PROTOCOL.steps} steps, guidance {PROTOCOL.guidance:g}, seeds derived from 7; by the verification judge.\n"
    )
    body = "\n".join([*quality("wardrobe-flow"), "", "## Twin", "", *twins(told)])
    (OUT / "flow.md").write_text(f"{head}\n{body}\n")
    sys.stdout.write(body + "\n")


def sheets() -> None:
    """One picture of every garment in every style, for every model."""
    for name in models.cards():
        made, _ = drawn(name)
        first = made[:: TOLD // len(STYLES) if name in CLASS_MODELS else EACH]  # garment-major
        grid = first.reshape(len(GARMENTS), len(STYLES), 3, 32, 32).permute(1, 3, 0, 4, 2).reshape(len(STYLES) * 32, len(GARMENTS) * 32, 3)
        picture = Image.fromarray((grid * 255).round().byte().numpy())
        picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(OUT / f"{name}.png", optimize=True)


def curves() -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "vestige"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    shipped = [path for path in sorted(BUILD.glob("*.csv")) if path.stem in models.cards() or not path.stem.startswith("wardrobe")]
    for path in shipped:
        rows = list(csv.DictReader(path.open()))
        axis = axes[int(path.stem.startswith("wardrobe"))]
        axis.plot([int(r["step"]) for r in rows], [float(r["loss"]) for r in rows], label=path.stem)
        (OUT / "curves").mkdir(exist_ok=True)
        (OUT / "curves" / path.name).write_text(path.read_text())
    for axis, title in zip(axes, ("other networks", "denoisers"), strict=True):
        axis.set(title=title, xlabel="step", ylabel="training loss", yscale="log")
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(OUT / "curves.svg", metadata={"Date": None})


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    x, labels = real("judge-test")
    vae = models.load("wardrobe")
    for name in ("verify", "select"):
        confusion(judge(name), x, labels, OUT / f"confusion-{name}-real.csv")
        confusion(judge(name), vae.decode(vae.encode(x)), labels, OUT / f"confusion-{name}-round-trip.csv")
    made, _ = drawn("wardrobe")
    sheets()
    curves()
    rates = json.loads((data.folder() / "wardrobe/judge-verify/judge.json").read_text())["rates"]
    table = ["| label | threshold | sensitivity | specificity |", "|---|---|---|---|"]
    table += [f"| {w} | {r['threshold']:.2f} | {r['sensitivity']:.1%} | {r['specificity']:.1%} |" for w, r in rates.items()]
    sections = {
        "Does it draw what it is asked?": quality("wardrobe"),
        "Distances": distances(made),
        "Twins": twins({name: (absent, share) for name, (absent, _, share) in DENOISERS.items()}),
        "The verification judge's thresholds": table,
    }
    head = (OUT / "head.md").read_text() if (OUT / "head.md").exists() else ""
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    (OUT / "README.md").write_text(f"{head}\n{body}\n")
    sys.stdout.write(body + "\n")
    class_models()
    flow_model()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    parts = {"": main, "classes": class_models, "flow": flow_model}
    if (asked := " ".join(sys.argv[1:])) not in parts:
        sys.exit(__doc__)
    parts[asked]()
