"""The package as a whole: it imports, its public names exist, and its data ship."""

import importlib
import pkgutil
from pathlib import Path

import pytest

import vestige

ROOT = Path(vestige.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "vestige."))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports(name):
    importlib.import_module(name)


def test_public_names_exist():
    assert set(vestige.__all__) == set(vestige._PUBLIC) <= set(dir(vestige))
    assert all(callable(getattr(vestige, name)) for name in vestige.__all__)
    with pytest.raises(AttributeError, match="no attribute 'forget'"):
        vestige.forget  # noqa: B018


def test_no_public_name_is_a_module():
    assert not {f"vestige.{name}" for name in vestige.__all__} & set(MODULES)


def test_every_data_file_ships():
    settings = Path(__file__).parent.parent / "pyproject.toml"
    shipped = settings.read_text("utf-8").split('"vestige.data" = [')[1].split("]")[0]
    files = [p for p in (ROOT / "data").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    left = [str(p.relative_to(ROOT)) for p in files if f'"**/*{p.suffix}"' not in shipped]
    assert files and not left, f"add their ending to package-data in pyproject.toml: {left}"
