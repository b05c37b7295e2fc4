"""What every test runs under: no network, and as many threads as the environment asks for, one unless it does."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several small networks are slower, not faster, on more


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test that asks for a fixture nobody gives, also one that this run leaves out: a slow test is broken long before it runs."""
    for item in items:
        given = getattr(item, "_fixtureinfo", None)
        if given is None:
            continue
        direct = {*getattr(getattr(item, "callspec", None), "params", ()), "request"}
        if missing := [name for name in given.names_closure if name not in given.name2fixturedefs and name not in direct]:
            raise pytest.UsageError(f"{item.nodeid} asks for {', '.join(missing)}, and nothing of that name is a fixture here")
