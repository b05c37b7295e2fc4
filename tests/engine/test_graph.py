"""What is done next, what waits, what fails along with what, and what a made-up clock says of it."""

from __future__ import annotations

import pytest

from vestige.engine import Graph, Task
from vestige.engine.graph import TRIES


def task(key: str, *needs: str, cost: float = 1.0, group: str = "") -> Task:
    return Task(key, f"the {key}", "nowhere:nothing", {}, needs=needs, cost=cost, group=group)


def order(graph: Graph, group: str = "") -> list[str]:
    """In which order one worker does everything."""
    found = []
    while (one := graph.take(group)) is not None:
        found.append(one.key)
        graph.finish(one.key, {})
    return found


def test_what_most_hangs_on_comes_first_and_nothing_before_its_needs() -> None:
    graph = Graph()
    graph.add([task("short"), task("long", cost=5), task("edit"), task("arm", "edit", cost=9), task("verdict", "arm", "short")])
    assert order(graph) == ["edit", "arm", "long", "short", "verdict"]
    assert graph.over and graph.left == 0


def test_a_key_is_done_once() -> None:
    graph = Graph()
    graph.add([task("shared"), task("a", "shared"), task("shared", cost=7), task("b", "shared")])
    assert sorted(order(graph)) == ["a", "b", "shared"]
    graph.add([task("shared")])
    assert graph.over


def test_a_failure_takes_along_what_needs_it_and_nothing_else() -> None:
    graph = Graph()
    graph.add([task("edit"), task("arm", "edit"), task("verdict", "arm"), task("other")])
    while (one := graph.take()) is not None:
        graph.fail("edit", "it diverged") if one.key == "edit" else graph.finish(one.key, {})
    assert graph.over and list(graph.done) == ["other"]
    assert graph.failed["verdict"] == "the edit: it diverged" and graph.causes["verdict"] == "edit"
    graph.add([task("late", "arm")])
    assert graph.causes["late"] == "edit" and graph.over


def test_a_lost_task_is_begun_again_but_not_for_ever() -> None:
    graph = Graph()
    graph.add([task("deadly")])
    for _ in range(TRIES):
        assert graph.take() is not None
        graph.lose("deadly", "its process ended")
    assert graph.take() is None and graph.failed == {"deadly": f"its process ended, {TRIES} times"}


def test_what_follows_from_a_result_is_added_later() -> None:
    graph = Graph()
    graph.add([task("first")])
    assert graph.take() is not None
    graph.finish("first", {})
    graph.add([task("more", "first"), task("verdict", "more")])
    assert order(graph) == ["more", "verdict"]
    with pytest.raises(ValueError, match="needs nobody"):
        graph.add([task("x", "nobody")])


def test_what_is_loaded_goes_first_among_equals_only() -> None:
    graph = Graph()
    graph.add([task("a", cost=10, group="x"), task("b", cost=9, group="y"), task("c", cost=1, group="y")])
    first = graph.take("y")
    assert first is not None and first.key == "b"
    second = graph.take("y")
    assert second is not None and second.key == "a"  # ten times as long as what is loaded


def test_everything_that_a_task_rests_on() -> None:
    graph = Graph()
    graph.add([task("edit"), task("arm", "edit"), task("other"), task("verdict", "arm", "edit")])
    assert set(graph.closure("verdict")) == {"edit", "arm"}
