"""Compiled blocks on a CUDA device; it takes a minute or so: leave it out with -k "not compile"."""

import copy

import jaxtyping
import pytest
import torch

from tests.train.random_objective import RandomObjective

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # torch's own compiler warns of many things.
    pytest.mark.filterwarnings("ignore"),
]


def test_compiled_blocks_give_the_loss_of_plain_ones(monkeypatch):
    # torch cannot see through what checks shapes in tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()
    objective = RandomObjective(dropout=0.0)
    plain = objective.module.cuda().train()
    fused = copy.deepcopy(plain)
    fused.set_compiled(True, "cuda")
    batch = objective.draw(torch.arange(32), torch.Generator().manual_seed(0))
    told = []
    for network in (plain, fused):
        loss, _ = objective.loss_of(network, batch)
        loss.backward()
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in network.parameters() if p.grad is not None]
        )
        told.append((float(loss.detach()), float(norm)))
    assert told[1][0] == pytest.approx(told[0][0], rel=1e-3)
    assert told[1][1] == pytest.approx(told[0][1], rel=1e-2)
