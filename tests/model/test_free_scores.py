"""Ids may add numbers of their own to what they mean, so that digits of a code hang together."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from omnisky.codecs import TokenGroup
from omnisky.model import ModelConfig
from omnisky.model.compact import compact, restored
from omnisky.model.config import ModalityTokens
from omnisky.model.embeddings import TokenLogits
from omnisky.model.training import without_memory
from omnisky.model.transformer import Transformer

CODE = TokenGroup(kind="code", n_tokens=3, vocab_size=4, levels=(2, 2))
TABLE = TokenGroup(kind="code", n_tokens=1, vocab_size=4)
NUMBER = TokenGroup(kind="ordinal", n_tokens=2, vocab_size=8)
LIST = TokenGroup(kind="ordinal", n_tokens=5, vocab_size=8)


def modality(name: str, number: int, *groups: TokenGroup) -> ModalityTokens:
    return ModalityTokens(name=name, id=number, groups=groups)


def config(free_rank: int) -> ModelConfig:
    listed = [
        modality("code", 0, CODE),
        modality("table", 1, TABLE),
        modality("number", 2, NUMBER),
        modality("list", 3, LIST),
    ]
    return replace(ModelConfig.preset("tiny", listed), free_rank=free_rank)


def least_loss(free_rank: int) -> float:
    """Train scores alone: one context has equal digits, the other different ones, both evenly."""
    logits = TokenLogits([modality("code", 0, CODE)], dim=4, free_rank=free_rank)
    x = torch.tensor([[1.0, 0, 1, 0]] * 2 + [[0, 1.0, 0, 1]] * 2)
    ids = torch.tensor([0, 3, 1, 2])
    divided = logits.divided(torch.tensor([0, 1, 0, 1]))
    optimizer = torch.optim.Adam(logits.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        ((_, rows, scores),) = logits(x, divided)
        loss = F.cross_entropy(scores, ids[rows])
        loss.backward()
        optimizer.step()
    return loss.item()


def test_digits_hang_together_in_each_context():
    # Two of four ids are possible in each; digits that know nothing of each other leave all four.
    assert least_loss(free_rank=1) == pytest.approx(math.log(2), abs=0.02)
    assert least_loss(free_rank=0) == pytest.approx(math.log(4), abs=0.02)


def test_lists_may_have_full_bins():
    logits = TokenLogits([modality("list", 0, LIST)], dim=4, free_rank=1)
    divided = logits.divided(torch.tensor([1, 4, 1]))
    x = torch.randn(3, 4)
    ((_, rows, before),) = logits(x, divided)
    with torch.no_grad():
        logits["list"].groups[0].bias[1, 6] = 5.0
    ((_, _, after),) = logits(x, divided)
    changed = torch.zeros(3, 8)
    changed[:, 6] = torch.where(torch.tensor([1, 4, 1])[rows] == 1, 5.0, 0.0)
    torch.testing.assert_close(after - before, changed)


def test_what_is_free_begins_as_nothing():
    torch.manual_seed(0)
    network = Transformer(config(free_rank=2))
    plain = Transformer(config(free_rank=0))
    plain.load_state_dict(network.state_dict(), strict=False)
    empty = without_memory(config(free_rank=2))
    empty.materialise("cpu", 0)
    free = network.state_dict().keys() - plain.state_dict().keys()
    assert free == {
        "logits.code.groups.0.bias",
        "logits.code.groups.0.free",
        "logits.code.groups.0.to_free",
        "logits.list.groups.0.bias",
    }
    for made in (network, empty):
        state = made.state_dict()
        assert all((state[n] == 0).all() == (not n.endswith("to_free")) for n in free)
    scale = empty.logits["code"].groups[0].to_free.detach().std().item()
    assert scale == pytest.approx(network.config.dim**-0.5, rel=0.4)
    x, slots = torch.randn(11, network.config.dim), torch.arange(11)
    for (*_, one), (*_, two) in zip(
        network.logits(x, network.logits.divided(slots)),
        plain.logits(x, plain.logits.divided(slots)),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("stored", ["float32", "float16", "int8"])
def test_what_is_free_is_kept(stored):
    network = Transformer(config(free_rank=2))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("bias", ".free")):
                parameter.normal_()
    again = restored(
        ModelConfig.from_dict(network.config.to_dict()), compact(network, stored)
    ).state_dict()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(again[name], tensor, atol=0.02, rtol=0.01)


def test_configurations_without_it_are_read_as_before():
    told = config(free_rank=0).to_dict()
    del told["free_rank"]
    assert ModelConfig.from_dict(told).free_rank == 0
    with pytest.raises(ValueError, match=r"free_rank at least 0; found 4\.0 and -1"):
        config(free_rank=-1)
