"""Killed with SIGKILL and started again, a run ends with the bits of one that was not."""

import json
import signal
from pathlib import Path

import pytest
import torch
from toy_objective import Toy, config

from omnisky.train import train
from omnisky.train.checkpoint import latest
from tests.processes import Program

PROGRAM = Path(__file__).with_name("toy_objective.py")


def kill_while_training(out):
    return Program(PROGRAM, [out, "--sleep", 0.03]).kill_at(24, out / "log.jsonl", 60)


def kill_while_saving(out):
    return Program(PROGRAM, [out, "--die-in-save-of", 30]).wait(60)


def logged(out):
    kept = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for line in kept:
        del line["examples_per_second"]
    return kept


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out, toy = tmp_path_factory.mktemp("uninterrupted"), Toy()
    train(toy, config(), out, progress=False, device="cpu")
    return out, toy


@pytest.mark.parametrize(("kill", "step"), [(kill_while_training, 20), (kill_while_saving, 20)])
def test_bits_are_the_same_after_a_kill(tmp_path, uninterrupted, kill, step):
    assert kill(tmp_path) == -signal.SIGKILL
    found = latest(tmp_path)
    assert found is not None
    assert found.step == step
    toy = Toy()
    train(toy, config(), tmp_path, progress=False, device="cpu")
    out, whole = uninterrupted
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, toy.module.state_dict()[name]), name
    ends = latest(tmp_path), latest(out)
    assert ends[0] is not None
    assert ends[1] is not None
    for name, tensor in ends[1].optimizer.items():
        assert torch.equal(tensor, ends[0].optimizer[name]), name
    assert ends[0].state["sampler"] == ends[1].state["sampler"]
    assert logged(tmp_path) == logged(out)
    assert not list((tmp_path / "checkpoints").glob(".writing-*"))
