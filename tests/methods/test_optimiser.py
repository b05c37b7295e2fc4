"""What little memory and several processes change about a fit, and what they do not."""

from __future__ import annotations

import socket
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from command import ended, started
from oracles import tiny_model
from vestige import cli
from vestige.edits import Edit
from vestige.errors import BadSetting, Incompatible
from vestige.methods import Training, fit, optimiser
from vestige.methods.optimiser import FitOptions
from vestige.methods.training import Pull, Trace


def trained(training: Training, given: FitOptions, pulls: tuple[Pull, ...] = ()) -> tuple[Tensor, Trace]:
    leaves, trace = {"w": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)}, Trace()

    def loss(rng: Generator) -> Tensor:
        return (torch.randn(4, 3, generator=rng, dtype=torch.float64) @ leaves["w"]).square().mean()

    with optimiser.using(given):
        list(fit(leaves, loss, training, seed=0, trace=trace, pulls=pulls))
    return leaves["w"].detach(), trace


def test_large_weights_on_a_cpu_are_stepped_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at a time hold copies of all; what a step makes of them is the same."""
    start = [torch.linspace(-1, 1, 5, dtype=torch.float64) * k for k in range(1, 11)]
    stepped = []
    for most, several in ((50, True), (49, False)):
        monkeypatch.setattr(optimiser, "LARGE", most)
        params = [value.clone().requires_grad_() for value in start]
        adam = optimiser.adamw(params, lr=0.1, betas=(0.9, 0.999), weight_decay=0.01)
        assert adam.defaults["foreach"] is several
        for _ in range(3):
            torch.stack(params).sin().sum().backward()
            adam.step()
        stepped.append(torch.stack(params).detach())
    assert torch.allclose(*stepped, rtol=1e-12)


def test_more_accumulation_is_the_methods_own_times_it() -> None:
    pull = (Pull(0.5, {"w": torch.zeros(3, dtype=torch.float64)}),)
    own, one = trained(Training(steps=4, lr=0.1, accumulation=6), FitOptions(), pull)
    asked, other = trained(Training(steps=4, lr=0.1, accumulation=2), FitOptions(accumulation=3), pull)
    assert torch.equal(own, asked)
    assert one.losses == other.losses
    assert not torch.equal(own, trained(Training(steps=4, lr=0.1, accumulation=2), FitOptions(), pull)[0])


def test_what_changes_numbers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FitOptions().as_dict() == {}
    assert FitOptions(accumulation=2, eight_bit=True).as_dict() == {"accumulation": 2, "optimiser": "adamw8bit"}
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert FitOptions(accumulation=2).as_dict() == {"accumulation": 6}
    with pytest.raises(BadSetting, match="at least 1"):
        FitOptions(accumulation=0)


def test_it_holds_inside_alone() -> None:
    with optimiser.using(FitOptions(accumulation=5)):
        assert optimiser.current().accumulation == 5
    assert optimiser.current() == FitOptions()


def test_eight_bit_optimiser_is_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs a GPU; here, a stand-in of the library's shape takes the same arguments."""
    made: list[dict[str, object]] = []

    class AdamW8bit(torch.optim.AdamW):
        def __init__(self, params: object, **settings: object) -> None:
            made.append(settings)
            super().__init__(params, **settings)  # type: ignore[arg-type]

    library = types.ModuleType("bitsandbytes.optim")
    library.AdamW8bit = AdamW8bit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", library)
    training = Training(steps=2, lr=0.1, weight_decay=0.01, betas=(0.8, 0.9))
    found, _ = trained(training, FitOptions(eight_bit=True))
    assert made == [{"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.01}]
    torch.testing.assert_close(found, trained(training, FitOptions())[0])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(Incompatible, match="pip install bitsandbytes"):
        trained(Training(steps=1, lr=0.1), FitOptions(eight_bit=True))


def test_two_processes_equal_one_with_doubled_accumulation(tmp_path: Path) -> None:
    """Over gloo, told who they are as torchrun and, on GPUs, `accelerate launch` tell them; only the first one writes."""
    tiny_model().pipeline().save_pretrained(tmp_path / "model")
    own = ("steps=3", "rollouts=2", "rollout_steps=3", "batch=2", "lr=1e-2", "variant=x")
    command = ["unlearn", "--model", str(tmp_path / "model"), "--method", "esd", *(w for one in own for w in ("--set", f"esd.{one}"))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TMPDIR": str(tmp_path)}
    out = ("--out", str(tmp_path / "two" / "edit.safetensors"))
    with (tmp_path / "out.txt").open("w+") as told, (tmp_path / "err.txt").open("w+") as errors:
        both = [started((*command, *out), told, errors, **shared, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
        assert [ended(pid) for pid in both] == [0, 0], (tmp_path / "err.txt").read_text()[-2000:]
    assert (tmp_path / "out.txt").read_text().count("saved ") == 1
    for name, more in (("one", ["--accumulation", "2"]), ("plain", [])):
        cli.app([*command, "--out", str(tmp_path / name / "edit.safetensors"), *more], standalone_mode=False)
    two, one, plain = (Edit.load(tmp_path / name / "edit.safetensors") for name in ("two", "one", "plain"))
    assert two.touched == one.touched
    for name in one.touched:
        torch.testing.assert_close(two.tensors[name], one.tensors[name], atol=1e-5, rtol=0)
    assert any((one.tensors[n] - plain.tensors[n]).abs().max() > 1e-4 for n in one.touched)
    assert not list(tmp_path.glob("tmp*/out"))
