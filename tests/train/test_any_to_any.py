"""The any-to-any matrix: its entries are what they say, and what is known shows."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from omnisky.codecs import TokenGroup, Tokens
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.masking import MaskingConfig
from omnisky.model.transformer import Selection, Transformer
from omnisky.train.pretraining import PretrainingObjective, TokenTable, any_to_any
from omnisky.train.pretraining.marginal import marginal_entropies
from omnisky.train.pretraining.matrix import ALL_OTHERS
from omnisky.train.pretraining.objective import Laid

NAMES = ("a", "b", "c", "d")
SIZES = (1, 1, 50, 2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    groups = [TokenGroup(kind="code", n_tokens=n, vocab_size=8) for n in SIZES]
    listed = [
        ModalityTokens(name=name, id=i, groups=(group,))
        for i, (name, group) in enumerate(zip(NAMES, groups, strict=True))
    ]
    return Transformer(ModelConfig.preset("tiny", listed))


def drawn(count, names, seed):
    """Return tokens of which b repeats a, and c and d are drawn; some objects lack d."""
    generator = torch.Generator().manual_seed(seed)
    ids = {
        name: torch.randint(8, (count, size), generator=generator)
        for name, size in zip(NAMES, SIZES, strict=True)
    }
    ids["b"] = ids["a"]
    mask = {name: torch.ones_like(t, dtype=torch.bool) for name, t in ids.items()}
    mask["d"][::3] = False
    return Tokens(ids, mask).select(*names)


@pytest.fixture(scope="module")
def tables():
    training = [TokenTable.from_tokens(drawn(400, n, i)) for i, n in enumerate(("abc", "ad"))]
    held_out = [TokenTable.from_tokens(drawn(90, "abcd", 9), "one", mock=True)]
    return training, held_out


@pytest.fixture(scope="module")
def trained(network, tables):
    training, held_out = tables
    masking = MaskingConfig(input_budget=8, output_budget=8, whole=1.0)
    weights = {"b": 5.0, "c": 0.05}
    objective = PretrainingObjective(network, training, held_out, masking, weights)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(50):
        indices = torch.arange(step * 32, step * 32 + 64) % objective.n_examples
        loss, _ = objective.loss(network, indices, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return any_to_any(network.eval(), training, held_out, objects=80, visible=8)


def test_what_is_known_shows(trained):
    known, unknown = trained.entry("a", "b"), trained.entry("c", "b")
    assert known.low > 0.1
    assert known.low > unknown.high
    assert known.low < known.gain < known.high
    assert abs(unknown.gain) < 0.3
    assert unknown.marginal == pytest.approx(np.log(8), abs=0.05)
    assert trained.entry(ALL_OTHERS, "b").seen_together
    assert trained.entry("a", "a") is None


def test_what_was_never_seen_together_is_said(trained):
    apart = {(e.given, e.target) for e in trained.entries if not e.seen_together}
    assert apart == {("b", "d"), ("d", "b"), ("c", "d"), ("d", "c")}
    assert {e.sources for e in trained.entries} == {(0,)}
    assert trained.entry("a", "b").objects == 80
    assert trained.entry("a", "d").objects < 60
    # Of many tokens some are asked for.
    assert trained.entry("a", "c").tokens == 48 * 80


def test_an_entry_is_the_entropy_of_the_network(trained, network, tables):
    ids, present = Laid(tables[1][0], network).take(np.linspace(0, 89, 80).astype(int))
    has = present[:, network.slots_of("d")].all(1)
    ids = ids[has]
    given, wanted = (network.slots_of(name).expand(len(ids), -1) for name in ("a", "d"))
    with torch.no_grad():
        found = network(
            ids,
            Selection(given, torch.ones_like(given).bool()),
            Selection(wanted, torch.ones_like(wanted).bool()),
        )
    targets = ids.gather(1, wanted).flatten()
    total = sum(F.cross_entropy(x, targets[rows], reduction="sum") for _, rows, x in found)
    assert trained.entry("a", "d").entropy == pytest.approx(float(total) / targets.numel(), 1e-5)


def test_long_modalities_are_thinned_and_short_ones_are_not(network, tables):
    source = Laid(tables[1][0], network)
    everything = torch.ones(len(source.slots), dtype=torch.bool)
    assert torch.equal(source.thinned(everything, 0), everything)
    assert torch.equal(source.thinned(everything, 54), everything)
    kept = source.thinned(everything, 14)
    assert torch.bincount(source.modality[kept]).tolist() == [1, 1, 10, 2]
    assert source.slots[kept & (source.modality == 2)].diff().max() <= 6


def test_frequencies_are_probabilities(network, tables):
    cost = marginal_entropies(network, [Laid(table, network) for table in tables[0]])
    assert torch.allclose(torch.exp(-cost).sum(1), torch.ones(len(cost), dtype=cost.dtype))
    seen = torch.cat([t.tokens()["a"] for t in tables[0]]).flatten().bincount(minlength=8)
    assert torch.allclose(torch.exp(-cost[0]), (seen / seen.sum()).double(), atol=0.01)


def test_it_is_written_and_drawn(trained, tmp_path):
    trained.save(tmp_path)
    told = json.loads((tmp_path / "any_to_any.json").read_text())
    assert len(told["entries"]) == len(trained.entries)
    assert told["seed"] == 0
    assert told["sources"] == [{"source": "one", "mock": True, "objects": 80}]
    assert trained.mock == "mock"
    assert trained.table().shape == (5, 4)
    assert (tmp_path / "any_to_any.png").stat().st_size > 10_000


def test_no_held_out_objects_are_refused(network, tables):
    with pytest.raises(ValueError, match="needs held-out objects; found 0"):
        any_to_any(network, tables[0], [])
