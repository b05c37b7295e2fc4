"""What a detector of the user's own is made of: file, local modules, declared files; and what is said of the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oracles import tiny_model
from vestige import concepts
from vestige.audit.flags import _uncovered
from vestige.errors import BadInput
from vestige.files import digest
from vestige.harness import suites, utility
from vestige.harness.bench import Bench
from vestige.metrics import detectors, loading

LOOKS = "import sys\nsys.path.insert(0, {here!r})\nfrom {helper} import by\n\ndef bright(pictures):\n    return by(pictures)\n"
HELPER = "def by(pictures):\n    return pictures.mean((1, 2, 3))\n"


def hashes(file: Path, name: str = "bright") -> tuple[str, str]:
    """What the arms and the audit's spec say of it."""
    return detectors.users_function(f"{file}:{name}").weights_hash, loading._content(f"{file}:{name}")


def test_a_file_that_stands_alone_is_known_by_its_own_hash(tmp_path: Path) -> None:
    file = tmp_path / "judge.py"
    file.write_text("import torch\n\ndef bright(pictures):\n    return pictures.mean((1, 2, 3))\n")
    assert hashes(file) == (digest(file), f"bright {digest(file)}")
    assert detectors.users_function(f"{file}:bright").unseen == ""


@pytest.mark.parametrize("package", [False, True])
def test_a_local_module_that_it_imports_is_part_of_it(tmp_path: Path, package: bool) -> None:
    """Also one that only a module of a package beside it imports."""
    helper = "helpers_packed" if package else "helpers_plain"
    file, inner = tmp_path / "looks.py", tmp_path / f"{helper}.py"
    if package:
        inner = tmp_path / helper / "inner.py"
        inner.parent.mkdir()
        (inner.parent / "__init__.py").write_text("from .inner import by\n")
    inner.write_text(HELPER)
    file.write_text(LOOKS.format(here=str(tmp_path), helper=helper))
    before = hashes(file)
    inner.write_text(HELPER.replace("mean", "amax"))
    after = hashes(file)
    assert before[0] != after[0] and before[1] != after[1]


def test_declared_files_are_part_of_it(tmp_path: Path) -> None:
    file, weights = tmp_path / "looks.py", tmp_path / "judge/w.pt"
    weights.parent.mkdir()
    torch.save({"w": torch.zeros(1)}, weights)
    file.write_text("import torch\n\ndef bright(pictures):\n    return torch.load('w')\n\nbright.files = ['judge']\n")
    before = hashes(file)
    assert detectors.users_function(f"{file}:bright").unseen == ""
    torch.save({"w": torch.ones(1)}, weights)
    after = hashes(file)
    assert before[0] != after[0] and before[1] != after[1]
    weights.unlink()
    for look in (detectors.users_function, loading._content):
        with pytest.raises(BadInput, match=r"declares the file judge, which is not at"):
            look(f"{file}:bright")


def test_what_it_reads_and_does_not_declare_is_said(tmp_path: Path) -> None:
    file = tmp_path / "looks.py"
    file.write_text("import torch\n\ndef bright(pictures):\n    return torch.load('w.pt')(pictures)\n")
    found = detectors.users_function(f"{file}:bright")
    assert found.unseen == "looks.py calls load in line 4"
    flag = _uncovered(found.name, found.unseen)
    assert flag.kind == "capping" and "bright.files = [...]" in flag.text
    file.write_text(file.read_text() + "\nbright.files = []\n")  # said to be nothing
    assert detectors.users_function(f"{file}:bright").unseen == ""


def test_a_hash_that_it_carries_does_not_hide_its_code(tmp_path: Path) -> None:
    file = tmp_path / "looks.py"
    text = "def bright(pictures):\n    return pictures.mean((1, 2, 3))\n\nbright.weights_hash = 'abc'\n"
    file.write_text(text)
    before = hashes(file)
    file.write_text(text.replace("mean", "amax"))
    after = hashes(file)
    assert before[0] != after[0] and before[1] != after[1] and after[0].startswith("abc ")
    file.write_text(text.replace("abc", "abd"))
    assert hashes(file)[1] != before[1]


def test_two_functions_of_one_file_have_utilities_of_their_own(tmp_path: Path) -> None:
    """One gives a score and tells nothing else; the other tells which of two things a picture shows."""
    file = tmp_path / "looks.py"
    file.write_text(
        "import torch\n\ndef one(pictures):\n    return pictures.mean((1, 2, 3))\n\n"
        "def several(pictures):\n    return torch.tensor([[0.9, 0.1]] * len(pictures))\n\nseveral.labels = ['bag', 'sneaker']\n"
    )
    model, suite = tiny_model(), replace(suites.load("smoke", "wardrobe"), utility_pictures=2, strip=1)
    concept = replace(concepts.load("sneaker"), unrelated=("bag",), context_group="")

    def right(name: str) -> list[Any]:
        judged = replace(concept, detector=f"{file}:{name}")
        verify, select = loading.pair(judged, "wardrobe")
        return list(utility.kept(Bench(tmp_path / "runs", suite, verify, select), model, judged, "unrelated")["right"])

    assert right("one") == []
    assert right("several") == [True, True]


def test_a_worlds_judge_keeps_its_key_of_utility(tmp_path: Path) -> None:
    model, suite = tiny_model(), replace(suites.load("smoke", "wardrobe"), utility_pictures=2, strip=1)
    concept = concepts.load("sneaker")
    verify, select = loading.pair(concept, "wardrobe")
    run = utility.kept(Bench(tmp_path / "runs", suite, verify, select), model, concept, "unrelated")
    assert json.loads((Path(run["folder"]) / "spec.json").read_text())["judge"] == verify.weights_hash
