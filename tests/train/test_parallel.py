"""Two processes over gloo train as one does, and one goes on where two stopped."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy_objective import Toy, config

from omnisky.storage import CheckpointError
from omnisky.train import train
from omnisky.train.checkpoint import latest
from omnisky.train.parallel import Processes, join_processes, place, wrap
from tests.processes import torchrun

PROGRAM = Path(__file__).with_name("toy_objective.py")


def test_two_processes_equal_one(tmp_path):
    torchrun(PROGRAM, tmp_path / "two", "--exact", "--steps", 20, seconds=100)
    stopped = latest(tmp_path / "two")
    assert stopped is not None
    assert stopped.state["world_size"] == 2
    one = Toy(noise=False)
    train(one, config(steps=20), tmp_path / "one", progress=False, device="cpu")
    alone = latest(tmp_path / "one")
    assert alone is not None
    assert stopped.state["sampler"] == alone.state["sampler"]
    for name, tensor in alone.model.items():
        torch.testing.assert_close(stopped.model[name], tensor, rtol=1e-5, atol=1e-6)
    logs = [(tmp_path / n / "log.jsonl").read_text().splitlines() for n in ("one", "two")]
    for first, second in zip(*logs, strict=True):
        for name in ("step", "loss", "gradient_norm", "learning_rate"):
            assert json.loads(first)[name] == pytest.approx(json.loads(second)[name], rel=1e-5)

    # Saved by two, loaded by one: both go on alike.
    ends = []
    for out in ("one", "two"):
        toy = Toy(noise=False)
        train(toy, config(steps=40), tmp_path / out, progress=False, device="cpu")
        ends.append(toy.module.state_dict())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fixed", [True, False])
def test_buffers_are_told_unless_a_module_says_that_they_are_fixed(fixed, tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    if fixed:
        module.buffers_are_fixed = True
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/met", rank=0, world_size=1)
    try:
        wrapped = wrap(module, Processes(rank=0, world_size=2, device=torch.device("cpu")))
        assert wrapped.will_sync_module_buffers() is not fixed
        wrapped(torch.randn(4, 2)).sum().backward()
    finally:
        dist.destroy_process_group()
    assert module[0].weight.grad is not None


def test_one_process_needs_nothing():
    with join_processes("cpu") as processes:
        module = torch.nn.Linear(2, 2)
        assert processes.is_main
        assert wrap(module, processes) is module
        assert processes.gather(3) == [3]
        processes.wait()


def test_machines_that_do_not_share_a_folder_are_told(tmp_path, monkeypatch):
    toy = Toy()
    train(toy, config(), tmp_path, progress=False, device="cpu")
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value, None])
    with pytest.raises(CheckpointError, match=r"process 0 40, process 1 None\. All machines"):
        train(toy, config(), tmp_path, progress=False, device="cpu")


def test_a_device_that_is_not_there_is_told(monkeypatch):
    count = torch.cuda.device_count()
    with (
        pytest.raises(ValueError, match=f"has {count} CUDA devices"),
        join_processes(f"cuda:{count}"),
    ):
        pass


@pytest.mark.parametrize("device", ["tpu", "mps:7", "cuda:x", "CPU", "xpu"])
def test_a_device_that_torch_cannot_use_is_told(device):
    with (
        pytest.raises(ValueError, match=rf"on '{device}' \(.*this machine has cpu.* Choose one of"),
        join_processes(device),
    ):
        pass


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "cpu:0"])
def test_a_device_that_is_there_is_used(device):
    with join_processes(device) as processes:
        assert processes.device == torch.device(device)


def test_weights_without_memory_need_somebody_to_make_them():
    module = torch.nn.Linear(2, 2, device="meta")
    with (
        join_processes("cpu") as processes,
        pytest.raises(ValueError, match=r"Linear has weights on the meta device and no material"),
    ):
        place(module, processes, "none", 0)
