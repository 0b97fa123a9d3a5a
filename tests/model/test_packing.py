"""One row for all objects gives what a padded table gives, forward and backward."""

from dataclasses import replace

import pytest
import torch

from omnisky.codecs.codec import TokenGroup
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.fast import packing
from omnisky.model.transformer import Selection, Transformer

SIZES = {"image": 9, "spectrum": 5, "redshift": 1}


@pytest.fixture
def network():
    torch.manual_seed(0)
    groups = {n: (TokenGroup(kind="code", n_tokens=k, vocab_size=20),) for n, k in SIZES.items()}
    modalities = tuple(ModalityTokens(name=n, id=i, groups=groups[n]) for i, n in enumerate(groups))
    sizes = {"dim": 64, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 2}
    network = Transformer(ModelConfig(**sizes, modalities=modalities))
    torch.nn.init.normal_(network.decoder_proj_context.bias)
    return network


def batch():
    """Return ids of seven objects, what is shown of them and asked for, as many as it happens."""
    ids = torch.randint(0, 20, (7, 15))
    slots = torch.stack([torch.randperm(15) for _ in ids])
    visible = Selection(slots[:, :9], torch.rand(7, 9) < 0.6)
    asked = Selection(slots[:, 9:], torch.rand(7, 6) < 0.6)
    visible.mask[0], asked.mask[1], asked.mask[2] = True, True, False
    visible.mask[3] = False
    # Of one alone nothing else is of its modality.
    asked.mask[4] = torch.arange(6) == 2
    return ids, visible, asked


def computed(network, given, dtype, monkeypatch=None):
    """Return logits by modality and rows, and all gradients; padded if there is a monkeypatch."""
    if monkeypatch is not None:
        monkeypatch.setattr("omnisky.model.transformer.packs", lambda _: False)
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = network(*given)
    torch.stack([scores.float().square().mean() for *_, scores in found]).sum().backward()
    return found, {name: p.grad for name, p in network.named_parameters()}


def relative(found, wanted):
    """Return the largest difference of gradients, by their size, of those that are not 0."""
    sizes = {n: float(g.norm()) for n, g in wanted.items() if g is not None}
    most = max(sizes.values())
    return max(
        float((found[n].double() - wanted[n].double()).norm()) / size
        for n, size in sizes.items()
        if size > 1e-6 * most
    )


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_scores_and_gradients_are_those_of_a_table(network, dtype, close, recompute, monkeypatch):
    given, network = batch(), network.to(dtype)
    network.set_recompute(recompute)
    row, of_row = computed(network, given, dtype)
    table, of_table = computed(network, given, dtype, monkeypatch)
    assert [name for name, *_ in row] == [name for name, *_ in table]
    for (_, rows, one), (_, others, two) in zip(row, table, strict=True):
        assert torch.equal(rows, others)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert [n for n, g in of_row.items() if g is None] == [
        n for n, g in of_table.items() if g is None
    ]
    assert relative(of_row, of_table) < close


def test_bfloat16_is_as_close_to_the_truth_as_a_table(network, monkeypatch):
    given = batch()
    _, of_row = computed(network, given, torch.bfloat16)
    with monkeypatch.context() as patched:
        _, of_table = computed(network, given, torch.bfloat16, patched)
    _, exact = computed(network.double(), given, torch.float64, monkeypatch)
    assert relative(of_row, exact) < max(0.05, 1.5 * relative(of_table, exact))


def test_without_norms_of_queries_and_keys(network, monkeypatch):
    plain = Transformer(replace(network.config, qk_norm=False))
    given = batch()
    row, of_row = computed(plain, given, torch.float32)
    table, of_table = computed(plain, given, torch.float32, monkeypatch)
    for (*_, one), (*_, two) in zip(row, table, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert relative(of_row, of_table) < 1e-3


def test_company_changes_nothing(network):
    ids, visible, asked = batch()
    whole = packing.decode_packed(network, ids, visible, asked)
    some = torch.tensor([1, 5])
    alone = packing.decode_packed(network, ids[some], visible[some], asked[some])
    owner = asked.mask.nonzero()[:, 0]
    torch.testing.assert_close(alone, whole[torch.isin(owner, some)], rtol=1e-4, atol=1e-5)


def test_tables_remain_where_nothing_is_trained_or_blocks_are_fused(network):
    assert packing.packs(network)
    with torch.no_grad():
        assert not packing.packs(network)
    network.encoder[0].compiled = True
    assert not packing.packs(network)
