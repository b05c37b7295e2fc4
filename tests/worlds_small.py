"""A folder with all that an audit reads, as small as it can be: what a worker process finds there too."""

from __future__ import annotations

from pathlib import Path

import torch

from onlookers import told
from oracles import save_pair
from vestige.concepts import images
from vestige.engine import HerePool
from vestige.engine.serving import called
from vestige.seeds import generator

SUITE = """
version = "tiny-1"
about = "Hardly anything."
pictures = 2
select_pictures = 1
utility_pictures = 1
replicates = 3
strip = 1
plasticity = false
protocol = { steps = 2, guidance = 1.0, batch = 4 }

[attacks.memora]
budget = [0, 1]
references = 2
settings = { sampling_steps = 2, start = 1, points = 1, batch = 1, rank = 1 }

[attacks.direct]
budget = [0, 1]
"""


def furnish(root: Path) -> Path:
    """A tiny model, a twin of it, a concept with its detector and pictures, and a suite."""
    save_pair(root)
    (root / "looks.py").write_text("def bright(images):\n    return images.mean((1, 2, 3))\n")
    images.save(torch.rand(8, 3, 32, 32, generator=generator(0, "references")), root / "references")
    (root / "suite.toml").write_text(SUITE)
    made = Path(told(root, detector="looks.py:bright", threshold=0.45, pictures="references"))
    if made != root / "bag.toml":
        (root / "bag.toml").write_text(made.read_text())
    return root


def in_place() -> HerePool:
    """What a worker would do, without the seconds that a process takes to begin."""
    return HerePool(lambda task: called(task.entry, task.data, task.root, task.out))
