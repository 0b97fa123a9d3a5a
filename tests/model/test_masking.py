"""Masking: budgets, disjointness, and what is drawn how often."""

import dataclasses
import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnisky.model.masking import MaskingConfig, sample_masks

# Three scalars and one modality of twelve tokens.
SLOTS = torch.tensor([0, 1, 2, *[3] * 12])


def draw(present, config, seed=0, hidden=(), favoured=()):
    generator = torch.Generator().manual_seed(seed)
    return sample_masks(present, SLOTS, config, generator, hidden, favoured)


def as_table(selection, n_slots=15):
    table = torch.zeros(len(selection.slots), n_slots, dtype=torch.bool)
    rows, columns = selection.mask.nonzero().T
    table[rows, selection.slots[rows, columns]] = True
    return table


@given(
    st.integers(0, 2**31),
    st.integers(1, 15),
    st.integers(1, 15),
    st.floats(0, 1),
    st.floats(0.2, 1),
)
def test_budgets_presence_and_disjointness(seed, inputs, outputs, whole, density):
    config = MaskingConfig(input_budget=inputs, output_budget=outputs, whole=whole)
    present = torch.rand(32, 15, generator=torch.Generator().manual_seed(seed)) < density
    present |= torch.arange(15) < 2  # at least two tokens
    visible, asked = (as_table(s) for s in draw(present, config, seed))
    assert visible.sum(1).max() <= inputs
    assert asked.sum(1).max() <= outputs
    assert not (visible & asked).any()
    assert not ((visible | asked) & ~present).any()
    assert (visible.sum(1) >= 1).all()
    assert (asked.sum(1) >= 1).all()


def test_the_same_seed_gives_the_same_masks():
    config = MaskingConfig(input_budget=8, output_budget=4)
    present = torch.ones(16, 15, dtype=torch.bool)
    (a, b), (c, d) = draw(present, config, 5), draw(present, config, 5)
    assert torch.equal(a.slots, c.slots)
    assert torch.equal(b.slots, d.slots)
    assert not torch.equal(as_table(a), as_table(draw(present, config, 6)[0]))


def test_hidden_modalities_are_only_ever_targets():
    config = MaskingConfig(input_budget=15, output_budget=15)
    present = torch.ones(200, 15, dtype=torch.bool)
    visible, asked = (as_table(s) for s in draw(present, config, hidden=(1,)))
    assert not visible[:, 1].any()
    assert asked[:, 1].all()


def hidden_modalities(visible, present):
    """Return how many modalities of each object are not shown whole."""
    hidden = present & ~visible
    return torch.stack([hidden[:, SLOTS == n].any(1) for n in range(4)]).sum(0)


@pytest.mark.parametrize("budget", [3, 8])
def test_a_filled_budget_is_full_as_far_as_tokens_go(budget):
    full = MaskingConfig(input_budget=budget, output_budget=4, whole=0.0, fill=True)
    present = torch.ones(2000, 15, dtype=torch.bool)
    present[1000:, 6:] = False
    visible, asked = (as_table(s) for s in draw(present, full))
    shown = visible.sum(1)
    assert shown.max() == budget
    # Only tokens of the modality that was picked first are held back.
    assert ((shown == budget) | (hidden_modalities(visible, present) == 1)).all()
    assert 0.3 < (shown == budget).float().mean()
    assert (asked.sum(1) >= 1).all()
    assert not (visible & asked).any()
    drawn = as_table(draw(present, dataclasses.replace(full, fill=False))[0])
    less = (drawn.sum(1) < budget) & (hidden_modalities(drawn, present) > 1)
    assert less.float().mean() > 0.4


def test_filling_changes_nothing_where_modalities_are_shown_whole():
    config = MaskingConfig(input_budget=8, output_budget=4, whole=1.0)
    present = torch.ones(200, 15, dtype=torch.bool)
    for one, other in zip(
        draw(present, config), draw(present, dataclasses.replace(config, fill=True)), strict=True
    ):
        assert torch.equal(as_table(one), as_table(other))


@pytest.mark.parametrize(
    ("settings", "golden"),
    [
        ({"whole": 0.0}, "30d46fbfd463bbc1"),
        ({}, "8ff8e5c49deddc96"),
        (
            {"input_budget": 12, "output_budget": 6, "favoured": ("a",), "favour": 0.4},
            "b6feb11696ce47fe",
        ),
    ],
)
def test_without_filling_draws_are_those_of_before_it(settings, golden):
    config = MaskingConfig(**{"input_budget": 8, "output_budget": 4, **settings})
    generator = torch.Generator().manual_seed(7)
    present = torch.rand(64, 15, generator=generator) < 0.8
    present |= torch.arange(15) < 2
    drawn = sample_masks(present, SLOTS, config, generator, (1,), (0,))
    tensors = [t for selection in drawn for t in (selection.slots, selection.mask)]
    digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors))
    assert digest.hexdigest()[:16] == golden


def test_whole_mode_shows_modalities_whole():
    config = MaskingConfig(input_budget=15, output_budget=15, whole=1.0)
    visible = as_table(draw(torch.ones(300, 15, dtype=torch.bool), config)[0])[:, 3:]
    shown = visible.sum(1)
    # Objects that would show everything give one token back.
    assert ((shown == 0) | (shown >= 11)).all()
    assert (shown == 0).any()
    assert (shown == 12).any()


def test_favoured_modalities_are_hidden_and_asked_for():
    config = MaskingConfig(input_budget=15, output_budget=4, favoured=("a", "b"), favour=0.7)
    present = torch.ones(4000, 15, dtype=torch.bool)
    present[::10, 1] = False
    visible, asked = (as_table(s) for s in draw(present, config, favoured=(0, 1)))
    both = (asked[:, :2] == present[:, :2]).all(1) & ~visible[:, :2].any(1)
    assert 0.7 < both.float().mean() < 0.8  # some are asked for both by chance
    everything = both & visible[:, 2:].all(1)
    # Half of them by rule, some of the others by chance.
    assert 0.35 < everything.float().mean() < 0.55
    assert not (visible & asked).any()
    assert asked.sum(1).max() <= 4


def test_who_has_only_favoured_modalities_still_shows_one():
    config = MaskingConfig(input_budget=15, output_budget=4, favoured=("a", "b"), favour=1.0)
    present = (torch.arange(15) < 2).expand(100, -1)
    visible, asked = (as_table(s) for s in draw(present, config, favoured=(0, 1)))
    assert (visible.sum(1) == 1).all()
    assert (asked.sum(1) == 1).all()


def test_long_modalities_do_not_crowd_out_scalars():
    config = MaskingConfig(input_budget=6, output_budget=4, whole=0.0)
    _, asked = draw(torch.ones(3000, 15, dtype=torch.bool), config)
    share = as_table(asked)[:, 0].float().mean()
    assert share > 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_budget": 0},
        {"whole": 1.5},
        {"alpha": 0.0},
        {"output_budget": -1},
        {"favour": 0.5},
        {"favour": -0.1, "favoured": ("a",)},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(
        ValueError, match=r"masking needs|must be positive|must lie between|needs modalities"
    ):
        dataclasses.replace(MaskingConfig(input_budget=2, output_budget=2), **wrong)
