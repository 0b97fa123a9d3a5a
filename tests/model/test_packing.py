"""One row for all objects gives what a padded table gives, forward and backward."""

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
    return Transformer(ModelConfig(**sizes, modalities=modalities))


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


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_scores_and_gradients_are_those_of_a_table(network, dtype, close, recompute, monkeypatch):
    given = batch()
    network.set_recompute(recompute)
    row, of_row = computed(network, given, dtype)
    table, of_table = computed(network, given, dtype, monkeypatch)
    assert [name for name, *_ in row] == [name for name, *_ in table]
    # What is shown nothing hears everything that is padding in a table, and nothing in a row.
    blind = torch.arange(7).repeat_interleave(6) == 3
    for (_, rows, one), (_, others, two) in zip(row, table, strict=True):
        assert torch.equal(rows, others)
        seen = ~blind[rows]
        assert (one - two)[seen].float().norm() < close * two[seen].float().norm()
        assert torch.isfinite(one).all()
    assert of_row.keys() == of_table.keys()
    assert all((g is None) == (of_table[n] is None) for n, g in of_row.items())


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_gradients_are_equal_where_every_object_shows_something(network, dtype, close, monkeypatch):
    ids, visible, asked = batch()
    visible.mask[3, 4] = True
    network = network.to(dtype)
    _, of_row = computed(network, (ids, visible, asked), dtype)
    _, of_table = computed(network, (ids, visible, asked), dtype, monkeypatch)
    for name, wanted in of_table.items():
        if wanted is not None:
            assert (of_row[name] - wanted).norm() <= close * wanted.norm(), name


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
