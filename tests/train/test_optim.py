import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from toy_objective import config

from omnisky.train.optim import (
    MovingAverage,
    build_optimizer,
    build_schedule,
    learning_rate_factor,
    optimizer_tensors,
    orthogonalised,
    restore_optimizer,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.positions = nn.Parameter(torch.zeros(4, 3))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)

    def no_weight_decay(self):
        return {"positions"}

    def forward(self, x):
        return self.norm(self.linear(x)) + self.positions.sum(0)


def test_only_matrices_decay():
    decayed, kept = build_optimizer(Net(), config(weight_decay=0.1)).param_groups
    assert decayed["param_names"] == ["linear.weight"]
    assert decayed["weight_decay"] == 0.1
    assert set(kept["param_names"]) == {"linear.bias", "norm.weight", "norm.bias", "positions"}
    assert kept["weight_decay"] == 0.0


def test_same_steps_as_torch():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    settings = config(weight_decay=0.1)
    reference = torch.optim.AdamW(
        [
            {"params": [theirs.weight], "weight_decay": 0.1},
            {"params": [theirs.bias], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
    )
    optimizer = build_optimizer(ours, settings)
    x = torch.randn(5, 3)
    for _ in range(5):
        for module, moved in ((ours, optimizer), (theirs, reference)):
            moved.zero_grad()
            module(x).square().mean().backward()
            moved.step()
    # Ours goes over memory once, theirs parameter by parameter: only rounding may differ.
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-6, atol=1e-7)


def test_wrong_modules_are_told():
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        build_optimizer(nn.Identity(), config())
    net = Net()
    net.no_weight_decay = lambda: {"position"}
    with pytest.raises(ValueError, match="names position, which it does not have"):
        build_optimizer(net, config())


def test_schedule_rises_then_falls_to_the_fraction():
    settings = config(steps=100, warmup_steps=10, final_learning_rate_fraction=0.1)
    factors = [learning_rate_factor(step, settings) for step in range(101)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1.0
    assert all(a > b for a, b in pairwise(factors[10:100]))
    assert math.isclose(factors[99], 0.1)
    assert factors[100] == factors[99]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_runs_shorter_than_the_warm_up(steps):
    settings = config(steps=steps, warmup_steps=5)
    assert all(0 < learning_rate_factor(s, settings) <= 1 for s in range(steps + 1))


def test_schedule_at_a_step_equals_the_schedule_stepped_there():
    settings = config(steps=20, warmup_steps=3)
    rates = []
    for start in (0, 7):
        optimizer = build_optimizer(nn.Linear(2, 2), settings)
        schedule = build_schedule(optimizer, settings, start)
        for _ in range(12 - start):
            optimizer.step()
            schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]


def test_state_round_trip_and_foreign_state():
    net, again = Net(), Net()
    optimizer, other = build_optimizer(net, config()), build_optimizer(again, config())
    net(torch.randn(2, 3)).square().sum().backward()
    optimizer.step()
    stored = {k: v.clone() for k, v in optimizer_tensors(optimizer).items()}
    assert "exp_avg/linear.weight" in stored
    restore_optimizer(other, stored)
    for key, value in optimizer_tensors(other).items():
        assert torch.equal(value, stored[key])
    with pytest.raises(ValueError, match="'gone', which is no parameter"):
        restore_optimizer(other, {"exp_avg/gone": torch.zeros(1)})


class Hidden(Net):
    def hidden_matrices(self):
        return {"linear.weight"}


def steps(module, optimizer, count):
    for i in range(count):
        optimizer.zero_grad()
        module(torch.linspace(-1, 1 + i, 15).reshape(5, 3)).square().mean().backward()
        optimizer.step()


class Several(nn.Module):
    """Matrices of three shapes, two alike."""

    def __init__(self):
        super().__init__()
        shapes = {"wide": (6, 20), "also_wide": (6, 20), "high": (20, 6), "square": (8, 8)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))
        self.bias = nn.Parameter(torch.zeros(3))

    def hidden_matrices(self):
        return {"wide", "also_wide", "high", "square"}


@pytest.mark.parametrize("together", [2**24, 130, 1])
def test_muon_moves_hidden_matrices_as_torch_does(together, monkeypatch):
    monkeypatch.setattr("omnisky.train.optim._TOGETHER", together)
    # torch looks for its step in bfloat16, whose products round otherwise on other machines.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours = Several()
    settings = config(optimizer="muon", weight_decay=0.1)
    optimizer = build_optimizer(ours, settings)
    names = [group["param_names"] for group in optimizer.param_groups]
    assert set(names[0]) == ours.hidden_matrices()
    assert names[1] == ["bias"]
    theirs = {n: nn.Parameter(getattr(ours, n).detach().clone()) for n in names[0]}
    reference = torch.optim.Muon(
        theirs.values(),
        lr=settings.learning_rate,
        weight_decay=0.1,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    before = {name: tensor.detach().clone() for name, tensor in theirs.items()}
    for step in range(4):
        for name, tensor in theirs.items():
            # One has no gradient in some step: it stays, without decay.
            gradient = torch.randn(tensor.shape) if (step, name) != (2, "high") else None
            getattr(ours, name).grad = gradient
            tensor.grad = None if gradient is None else gradient.clone()
        optimizer.step()
        reference.step()
    for name, tensor in theirs.items():
        moved = (tensor - before[name]).norm()
        assert (getattr(ours, name) - tensor).norm() < 1e-4 * moved


@pytest.mark.parametrize("shape", [(3, 5, 40), (2, 40, 5), (1, 30, 30)])
def test_steps_of_muon_are_nearly_orthogonal(shape):
    given = torch.randn(shape)
    left, sizes, right = torch.linalg.svd(given, full_matrices=False)
    found = orthogonalised(given)
    values = left.mT @ found @ right.mT
    apart = values - torch.diag_embed(values.diagonal(dim1=1, dim2=2))
    assert apart.abs().max() < 1e-3
    seen = values.diagonal(dim1=1, dim2=2)[sizes > 0.05 * sizes.amax()]
    assert ((0.65 < seen) & (seen < 1.25)).all()


def test_a_matrix_of_zeros_is_left_alone():
    assert (orthogonalised(torch.zeros(2, 3, 4)) == 0).all()


def test_muon_state_goes_on_exactly():
    settings = config(optimizer="muon")
    first, second = Hidden(), Hidden()
    optimizer = build_optimizer(first, settings)
    steps(first, optimizer, 3)
    second.load_state_dict(first.state_dict())
    restored = build_optimizer(second, settings)
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    assert {name.partition("/")[0] for name in kept} >= {"momentum_buffer", "exp_avg"}
    restore_optimizer(restored, kept)
    steps(first, optimizer, 3)
    steps(second, restored, 3)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_muon_needs_matrices():
    with pytest.raises(ValueError, match="hidden_matrices"):
        build_optimizer(Net(), config(optimizer="muon"))


def test_adam_has_its_decay_in_the_gradient():
    optimizer = build_optimizer(Net(), config(optimizer="adam", weight_decay=0.1))
    assert type(optimizer) is torch.optim.Adam
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_a_constant_schedule_stays_at_the_peak():
    constant = config(schedule="constant", warmup_steps=4, steps=20)
    assert [learning_rate_factor(s, constant) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate_factor(10**6, constant) == 1


def test_the_moving_average_is_that_of_the_weights():
    net = Net()
    average = MovingAverage(net, 0.5)
    wanted = net.linear.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            net.linear.weight.add_(torch.randn(3, 3, generator=torch.Generator().manual_seed(step)))
        average.update(step)
        keep = min(0.5, step / (step + 9))
        wanted = keep * wanted + (1 - keep) * net.linear.weight.detach()
    trained = net.linear.weight.detach().clone()
    with average.taken():
        torch.testing.assert_close(net.linear.weight.detach(), wanted)
    assert torch.equal(net.linear.weight, trained)
    again = MovingAverage(Net(), 0.5)
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.state_dict()["linear.weight"], average.state_dict()["linear.weight"])
    with pytest.raises(ValueError, match=r"of other weights.*weight"):
        MovingAverage(nn.Linear(2, 2), 0.5).load_state_dict(average.state_dict())
