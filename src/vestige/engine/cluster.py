"""Tasks on a Ray cluster that exists already: the same graph, results carried back to the driver's folders.

A task is a Ray task. Where machines share no files, the runs that it rests on are sent along and those that it leaves come back with
its answer, so a node that dies takes only the tasks that it was at. Ray itself tries nothing again: the graph does, and counts.
Machines whose versions differ from the driver's are refused, before and at every task.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from vestige.engine import carrying, serving
from vestige.engine.graph import Graph, Task
from vestige.engine.local import ONE_THREAD
from vestige.engine.pool import Ended
from vestige.errors import BadSetting, Incompatible, MissingDependency

SHARED = "shared"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "ray")
ASKED_AGAIN = 5.0  # seconds between two counts of a cluster's places


@dataclass(frozen=True, kw_only=True)
class Takes:
    """What a task takes of a machine.

    Arguments:
        cpus: Cores; a task works in one thread.
        gpus: GPUs, or a share of one.
        memory: Gigabytes that must be free, as Ray counts them; 0: Ray is not told.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: float = 0.0

    @classmethod
    def read(cls, text: str) -> Takes:
        """From "cpus=1,gpus=0.5,memory=4"; what is left out is usual."""
        given: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, equals, value = part.partition("=")
            try:
                given[name] = float(value)
            except ValueError:
                equals = ""
            if not equals or name not in ("cpus", "gpus", "memory") or not 0 <= given[name] < float("inf"):
                raise BadSetting(f"a task takes cpus, gpus and memory, e.g. cpus=1,gpus=0.5,memory=4; given {part!r}")
        if given.get("cpus", 1.0) + given.get("gpus", 0.0) == 0:
            raise BadSetting("a task takes a part of a core or of a GPU at least")
        return cls(**given)

    def options(self) -> dict[str, Any]:
        """As Ray calls them."""
        memory = {"memory": int(self.memory * 1e9)} if self.memory else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **memory}


def versions() -> dict[str, str]:
    """What numbers depend on, but for the processor: versions, and a digest of this package's own text."""
    found = {"python": platform.python_version(), "vestige": _own_text()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def _own_text() -> str:
    """Digest of this package as this process has loaded it."""
    text = hashlib.sha256()
    for file in sorted(Path(__file__).parent.parent.rglob("*.py")):
        text.update(file.read_bytes())
    return text.hexdigest()[:12]


def check_versions(there: Mapping[str, str], here: Mapping[str, str], where: str) -> None:
    """Refuse a machine on which numbers could be others."""
    other = [f"{name} {there.get(name)} there and {here.get(name)} here" for name in here if there.get(name) != here[name]]
    if other:
        raise Incompatible(f"{where} has {', '.join(other)}; install the same everywhere, so that numbers are not mixed")


class RayPool:
    """Places on a cluster; leaving the context leaves the cluster as it was.

    Arguments:
        address: Of the cluster's head; "auto" for the one that this machine belongs to, "local" starts one here that ends with the command.
        store: "" carries runs by Ray; "shared" where every node sees the driver's folders; else an fsspec address that holds them.
        most: Tasks at a time; 0: as many as the cluster has room for.
    Errors:
        MissingDependency without ray; Incompatible for nodes of other versions; BadSetting where there is no cluster.
    """

    def __init__(self, address: str = "auto", *, store: str = "", takes: Takes | None = None, most: int = 0) -> None:
        try:
            import ray
        except ImportError:
            raise MissingDependency("the engine ray", "ray", "ray") from None
        self.ray, self.store, self.takes, self.most = ray, store, takes or Takes(), most
        self.session, self.here, self._counted, self._size = secrets.token_hex(6), versions(), float("-inf"), 0
        self._running: dict[Any, Task] = {}
        self._sent: dict[str, Any] = {}
        variables = {**ONE_THREAD, **{name: os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_HOME") if name in os.environ}}
        self._own = not ray.is_initialized()
        if self._own:
            try:
                ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": variables}, logging_level="ERROR")
            except ConnectionError as error:
                raise BadSetting(f"no Ray cluster at {address}: {' '.join(str(error).split())}; see docs/grids.md") from error
        self._check_nodes()
        self._work = ray.remote(max_retries=0, **self.takes.options())(work_there)

    def _check_nodes(self) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = self.ray.remote(num_cpus=0, max_retries=0)(versions)
        for node in self.ray.nodes():
            if node["Alive"]:
                there = asked.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
                try:
                    found = self.ray.get(there.remote(), timeout=300)
                except self.ray.exceptions.RayTaskError as error:
                    line = " ".join(str(error).split())[-300:]
                    raise Incompatible(f"the node {node['NodeManagerAddress']} cannot tell its versions: {line}") from error
                except self.ray.exceptions.RayError:  # it has died, and Ray does not know yet; every task asks again
                    continue
                check_versions(found, self.here, f"the node {node['NodeManagerAddress']}")

    @property
    def size(self) -> int:
        """Tasks that the cluster has room for now; machines come and go."""
        if time.monotonic() - self._counted > ASKED_AGAIN:
            there, takes = self.ray.cluster_resources(), self.takes
            wanted = {"CPU": takes.cpus, "GPU": takes.gpus, "memory": takes.memory * 1e9}
            room = min(int(there.get(name, 0) / each) for name, each in wanted.items() if each)
            self._size, self._counted = min(room, self.most or room), time.monotonic()
        return self._size

    def vacant(self) -> str | None:
        if not self.size and not self._running:
            self._counted = float("-inf")
            time.sleep(1.0)  # a cluster that lost its machines may get others
            return ""
        return "" if len(self._running) < self.size else None

    def start(self, task: Task, graph: Graph) -> None:
        names = [] if self.store == SHARED else _rests_on(task, graph)
        refs = {name: self._reference(Path(task.root), name) for name in names} if not self.store else dict.fromkeys(names)
        own = Path(task.out) if task.out and self.store != SHARED and Path(task.out).exists() else None
        told = {"key": task.key, "entry": task.entry, "data": dict(task.data), "root": task.root, "out": task.out}
        held = None if own is None else carrying.archived(own)
        self._running[self._work.remote(told, refs, held, self.session, self.here, self.store)] = task

    def _reference(self, root: Path, name: str) -> Any:
        if name not in self._sent:
            self._sent[name] = self.ray.put(carrying.archived(root / name))
        return self._sent[name]

    def wait(self, seconds: float) -> list[Ended]:
        ready, _ = self.ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._ended(ref) for ref in ready]

    def _ended(self, ref: Any) -> Ended:
        task = self._running.pop(ref)
        try:
            reply = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.as_instanceof_cause()
            if isinstance(cause, Incompatible):
                raise Incompatible(str(cause).splitlines()[-1]) from error
            return Ended(task.key, "failed", why=" ".join(str(cause).split())[-300:])
        except self.ray.exceptions.RayError as error:
            return Ended(task.key, "lost", why=f"its worker or node died ({type(error).__name__})")
        if "why" not in reply:
            self._take(task, reply)
        return Ended.told(task.key, reply)

    def _take(self, task: Task, reply: Mapping[str, Any]) -> None:
        """Lay down what came back: runs first, a cell's folder last."""
        for name, data in reply.get("runs", {}).items():
            carrying.extracted(data if data is not None else _fetched(self.store, name), Path(task.root) / name)
        if (own := reply.get("own")) is not None:
            there = {reply["places"][1]: task.out, reply["places"][0]: task.root}
            carrying.extracted(own, Path(task.out), replace=True, places=there)

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        """Take back what still runs, and leave the cluster."""
        for ref in self._running:
            self.ray.cancel(ref, force=True)
        self._running.clear()
        if self._own:
            self.ray.shutdown()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _rests_on(task: Task, graph: Graph) -> list[str]:
    """The runs that a task finds done, near or far."""
    return list(dict.fromkeys(name for key in graph.closure(task.key) for name in graph.done.get(key, {}).get("runs", ())))


# On a node


def work_there(
    task: Mapping[str, Any], refs: Mapping[str, Any], own: bytes | None, session: str, here: Mapping[str, str], store: str
) -> dict[str, Any]:
    """Do a task in folders of the node's own, or in the driver's where they are shared, and answer with what it left."""
    check_versions(versions(), here, f"the node {platform.node()}")
    if store == SHARED:
        return serving.answered_by(task["entry"], task["data"], task["root"], task["out"])
    import ray

    home = Path(tempfile.gettempdir()) / f"vestige-{session}-{ray.get_runtime_context().get_node_id()[:12]}"
    root, out = home / "runs", home / secrets.token_hex(6) / Path(task["out"] or "none").name
    root.mkdir(parents=True, exist_ok=True)
    missing = [name for name in refs if not (root / name / "result.json").exists()]
    found = [_fetched(store, name) for name in missing] if store else ray.get([refs[name] for name in missing])
    for name, data in zip(missing, found, strict=True):
        carrying.extracted(data, root / name)
    out.parent.mkdir()
    if own is not None:
        carrying.extracted(own, out, places={task["out"]: str(out), task["root"]: str(root)})
    try:
        reply = serving.answered_by(task["entry"], task["data"], str(root), str(out))
        if "why" in reply:
            return reply
        left: dict[str, bytes | None] = {name: carrying.archived(root / name) for name in reply["value"]["runs"] if name not in refs}
        for name, data in left.items() if store else ():
            _given(store, name, data or b"")
            left[name] = None
        own = carrying.archived(out) if reply["value"].get("wrote") else None  # else another task's newer files would be laid over
        return {**reply, "runs": left, "own": own, "places": [str(root), str(out)]}
    finally:
        shutil.rmtree(out.parent, ignore_errors=True)


def _fetched(store: str, name: str) -> bytes:
    import fsspec

    with fsspec.open(f"{store.rstrip('/')}/{name}.zip", "rb") as file:
        return bytes(file.read())


def _given(store: str, name: str, data: bytes) -> None:
    import fsspec

    with fsspec.open(f"{store.rstrip('/')}/{name}.zip", "wb", auto_mkdir=True) as file:
        file.write(data)
