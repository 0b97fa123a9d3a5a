"""Compiled blocks give what plain ones give, and are compiled once for all blocks and shapes."""

import copy
import functools

import jaxtyping
import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from omnisky.codecs import Tokens
from omnisky.model import Model
from omnisky.model.config import ModelConfig
from omnisky.model.transformer import Selection, Transformer

# What torch's own compiler uses warns.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]


@pytest.fixture
def graphs(monkeypatch):
    """Return the function that counts the graphs compiled since it was last called."""
    # torch cannot see through what checks shapes in tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()
    counters.clear()

    def count() -> int:
        found = counters["stats"]["unique_graphs"]
        counters.clear()
        return found

    return count


def some_of(star_tokenizer, mini, n, seed):
    """Return tokens of objects that miss different modalities."""
    tokens = star_tokenizer.encode(mini.observations[slice(0, n)])
    generator = torch.Generator().manual_seed(seed)
    kept = {k: torch.rand(n, 1, generator=generator) < 0.6 for k in tokens}
    return Tokens({k: tokens[k] for k in tokens}, {k: tokens.mask[k] & kept[k] for k in tokens})


def test_embedding(star_model, star_tokenizer, mini, graphs):
    compiled = Model(copy.deepcopy(star_model.network), star_tokenizer).compile()
    assert compiled.network.state_dict().keys() == star_model.network.state_dict().keys()
    graphs()
    for n in (30, 7, 41):
        tokens = some_of(star_tokenizer, mini, n, n)
        wanted, found = (m.embed(tokens) for m in (star_model, compiled))
        np.testing.assert_allclose(found.vectors, wanted.vectors, atol=1e-5)
        np.testing.assert_array_equal(found.valid, wanted.valid)
    # What comes before attention and what comes after, for however many blocks and tokens.
    assert graphs() == 2


def batch_of(network, n):
    generator = torch.Generator().manual_seed(n)
    slots = len(network.slot_modality)
    ids = torch.randint(0, 8, (n, slots), generator=generator)
    order = torch.rand(n, slots, generator=generator).argsort(1)
    half = slots // 2
    seen = torch.arange(half) < torch.randint(2, half + 1, (n, 1), generator=generator)
    seen[-1] = True
    return (
        ids,
        Selection(order[:, :half], seen),
        Selection(order[:, half:], torch.ones(n, slots - half).bool()),
    )


def loss_of(network, batch):
    return torch.stack([logits.square().mean() for _, _, logits in network(*batch)]).sum()


def same_gradients(plain, compiled, n):
    batch = batch_of(plain, n)
    losses = [loss_of(network, batch) for network in (plain, compiled)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    for network, loss in zip((plain, compiled), losses, strict=True):
        network.zero_grad()
        loss.backward()
    for (name, one), two in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture
def pair(star_tokenizer):
    torch.manual_seed(0)
    plain = Transformer(ModelConfig.preset("tiny").with_codecs(star_tokenizer.codecs))
    return plain, copy.deepcopy(plain)


def test_gradients_through_a_compiled_block(pair, graphs):
    # One of the encoder alone: the C++ compiler takes seconds for each of a graph's loops.
    pair[1].encoder[0].compiled = True
    same_gradients(*pair, 12)
    assert graphs() > 0


def test_all_blocks_share_graphs_for_all_sizes(pair, graphs, monkeypatch):
    # The tracer decides what is compiled; its compilers are not needed for that.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    pair[1].set_compiled(True)
    graphs()
    counts = []
    for n, recompute in ((12, False), (16, False), (21, False), (12, True), (30, True)):
        pair[1].set_recompute(recompute)
        same_gradients(*pair, n)
        counts.append(graphs())
    # With a mask and without, then computed again: other sizes are not compiled for.
    assert counts[0] > 0
    assert counts[2] == counts[4] == 0


def test_a_machine_without_a_compiler_is_told(star_model, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    model = Model(copy.deepcopy(star_model.network), None)
    with pytest.raises(
        OSError, match=r"does not work here \(No working C\+\+ .* on cpu it needs a"
    ):
        model.compile()
    assert not model.network.encoder[0].compiled
