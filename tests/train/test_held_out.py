"""Held-out objects are taken evenly, shared by processes, and nothing is made up of none."""

import numpy as np
import pytest
import torch

from omnisky.codecs import TokenGroup, Tokens
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.masking import MaskingConfig
from omnisky.model.transformer import Transformer
from omnisky.train.log import Averages
from omnisky.train.pretraining import PretrainingObjective, objective
from omnisky.train.pretraining.recipe import EvaluationRecipe

SIZES = {"a": 1, "b": 2, "c": 30}
MASKING = MaskingConfig(input_budget=8, output_budget=8)


def network_of(**sizes):
    torch.manual_seed(0)
    groups = [TokenGroup(kind="code", n_tokens=n, vocab_size=8) for n in sizes.values()]
    listed = [
        ModalityTokens(name=name, id=i, groups=(group,))
        for i, (name, group) in enumerate(zip(sizes, groups, strict=True))
    ]
    return Transformer(ModelConfig.preset("tiny", listed)).eval()


def drawn(count, names="abc"):
    """Return tokens; every third object lacks b."""
    generator = torch.Generator().manual_seed(count)
    ids = {n: torch.randint(8, (count, SIZES[n]), generator=generator) for n in names}
    mask = {name: torch.ones_like(t, dtype=torch.bool) for name, t in ids.items()}
    if "b" in mask:
        mask["b"][::3] = False
    return Tokens(ids, mask)


def objective_of(held_out, **evaluation):
    how = EvaluationRecipe(**evaluation)
    network = network_of(**SIZES)
    tables = [objective.TokenTable.from_tokens(tokens) for tokens in held_out]
    return PretrainingObjective(network, drawn(9), tables, MASKING, evaluation=how)


@pytest.mark.parametrize("world_size", [2, 21])
def test_shares_of_processes_are_the_whole(world_size, monkeypatch):
    monkeypatch.setattr(objective, "_TOKENS_AT_ONCE", 160)
    asked = objective_of([drawn(25), drawn(1), drawn(8, "ab")], objects=20, visible=8)
    asked_for, lengths = {}, []
    asked.module.register_forward_pre_hook(lambda module, given: lengths.append(len(given[0])))
    shares = []
    for rank in range(world_size):
        lengths.clear()
        shares.append(asked.evaluate_share(rank, world_size))
        asked_for[rank] = list(lengths)
    # Else processes that divide weights would wait for each other for ever.
    assert all(found == asked_for[0] for found in asked_for.values())
    assert 0 not in asked_for[0]
    whole = asked.evaluate_share(0, 1)
    for name, (_, count) in whole.items():
        assert sum(share[name][1] for share in shares if name in share) == count
    assert Averages.merge(shares) == pytest.approx(asked.evaluate(), rel=1e-5)
    assert set(whole) == {"entropy/a", "entropy/b", "entropy/c"}


def test_objects_are_taken_evenly():
    tokens = drawn(40)
    rows = torch.from_numpy(np.linspace(0, 39, 7).astype(int))
    found = objective_of([tokens], objects=7).evaluate()
    assert found == objective_of([tokens[rows]]).evaluate()
    assert found != objective_of([tokens[:7]]).evaluate()


def test_of_what_no_object_has_nothing_is_said():
    assert objective_of([drawn(1)]).evaluate().keys() == {"entropy/a", "entropy/c"}
    assert objective_of([drawn(5, "a")]).evaluate() == {}
    assert objective_of([drawn(0)]).evaluate() == {}
