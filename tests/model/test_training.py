"""Networks without memory get the values of new ones; blocks computed again change nothing."""

import copy
from dataclasses import replace

import pytest
import torch

from omnisky.model import Model
from omnisky.model.config import ModelConfig
from omnisky.model.embeddings import TokenGroupWeights
from omnisky.model.training import without_memory
from omnisky.model.transformer import Selection, Transformer


def config_of(star_tokenizer, **changes) -> ModelConfig:
    config = ModelConfig.preset("tiny").with_codecs(star_tokenizer.codecs)
    return replace(config, dim=64, num_heads=2, **changes)


def batch_of(network, n=6):
    generator = torch.Generator().manual_seed(0)
    slots = len(network.slot_modality)
    ids = torch.randint(0, 8, (n, slots), generator=generator)
    order = torch.rand(n, slots, generator=generator).argsort(1)
    some = torch.rand(n, slots, generator=generator) < 0.9
    half = slots // 2
    return (
        ids,
        Selection(order[:, :half], some[:, :half]),
        Selection(order[:, half:], some[:, half:]),
    )


def loss_of(network, batch):
    return torch.stack([logits.square().mean() for _, _, logits in network(*batch)]).sum()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_blocks_computed_again_give_the_same_gradients(star_tokenizer, dropout, monkeypatch):
    torch.manual_seed(0)
    kept = Transformer(config_of(star_tokenizer))
    again = copy.deepcopy(kept)
    again.set_recompute(True)
    calls = []
    compute = type(again.encoder[0])._compute
    monkeypatch.setattr(
        type(again.encoder[0]),
        "_compute",
        lambda *a: calls.append(torch.is_grad_enabled()) or compute(*a),
    )
    batch = batch_of(kept)
    counts = []
    for network in (kept, again):
        network.set_dropout(dropout)
        torch.manual_seed(1)
        loss_of(network, batch).backward()
        counts.append(len(calls))
    assert counts[1] == 3 * counts[0]
    for (name, one), two in zip(kept.named_parameters(), again.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        assert one.grad is None or torch.equal(one.grad, two.grad), name
    again.eval()
    calls.clear()
    loss_of(again, batch).backward()
    assert len(calls) == counts[0]


def test_a_network_without_memory_is_like_a_new_one(star_tokenizer):
    torch.manual_seed(0)
    config = config_of(star_tokenizer)
    usual, empty = Transformer(config), without_memory(config)
    assert all(p.is_meta for p in empty.parameters())
    assert {b.device.type for b in empty.buffers()} == {"cpu"}
    empty.materialise("cpu", 3)
    for (name, one), two in zip(usual.named_parameters(), empty.parameters(), strict=True):
        assert one.shape == two.shape
        assert two.requires_grad
        one, two = one.detach(), two.detach()
        if one.std() == 0 or one.numel() == 1:
            assert torch.equal(one, two), name
        else:
            wide = 5 * one.std() / one.numel() ** 0.5
            assert float(one.std()) == pytest.approx(
                float(two.std()), rel=6 / one.numel() ** 0.5
            ), name
            assert abs(float(one.mean() - two.mean())) < wide, name
        if name.endswith(("qkv.weight", "kv.weight", "fc1.weight")):
            assert float(one.abs().max()) == pytest.approx(float(two.abs().max()), rel=0.01), name
    for (name, one), two in zip(usual.named_buffers(), empty.buffers(), strict=True):
        assert torch.equal(one, two), name
    other = without_memory(config)
    other.materialise("cpu", 3)
    assert all(map(torch.equal, empty.parameters(), other.parameters()))


def test_meanings_of_ids_are_told_before_there_is_memory(star_tokenizer):
    with torch.device("meta"):
        model = Model.from_preset("tiny", star_tokenizer)
    usual = Model.from_preset("tiny", star_tokenizer)
    model.network.materialise("cpu", 0)
    groups = [m for m in usual.network.modules() if isinstance(m, TokenGroupWeights)]
    others = [m for m in model.network.modules() if isinstance(m, TokenGroupWeights)]
    assert any(group.group.kind == "ordinal" for group in groups)
    for one, two in zip(groups, others, strict=True):
        if one.group.kind == "ordinal":
            assert torch.equal(one.values, two.values)
            assert torch.equal(one.features, two.features)


@pytest.mark.parametrize(
    ("preset", "released"),
    [("aion-base", 314_255_616), ("aion-large", 859_650_048), ("aion-xlarge", 3_130_772_480)],
)
def test_published_sizes_take_no_memory(preset, released):
    with torch.device("meta"):
        network = Model.from_preset(preset).network
    assert all(p.is_meta for p in network.parameters())
    # The release also holds the decoder's token vectors, which no prediction uses.
    vocabularies = sum(g.vocab_size for m in network.config.modalities for g in m.groups)
    unused = vocabularies * network.config.dim
    assert sum(p.numel() for p in network.parameters()) + unused == released
