import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnisky.train.sampler import (
    EpochSampler,
    MixtureSampler,
    preserve_random_state,
    seed_all,
    step_generator,
)

sizes = st.integers(1, 40)


@given(n=sizes, batch=sizes, seed=st.integers(0, 5))
def test_every_object_once_an_epoch_and_none_lost(n, batch, seed):
    sampler = EpochSampler(n, batch, seed)
    stream = torch.cat([sampler.next_batch() for _ in range(3 * n)])
    for epoch in range(len(stream) // n):
        assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


@given(n=sizes, share=st.integers(1, 9), world=st.integers(1, 4))
def test_ranks_share_the_same_global_batch_equally(n, share, world):
    whole = EpochSampler(n, share * world, 0)
    parts = [EpochSampler(n, share * world, 0, rank=r, world_size=world) for r in range(world)]
    for _ in range(4):
        batches = [p.next_batch() for p in parts]
        assert [len(b) for b in batches] == [share] * world
        together = torch.stack(batches, dim=1).reshape(-1)
        assert torch.equal(together, whole.next_batch())


@given(n=sizes, batch=sizes, before=st.integers(0, 9))
def test_a_stored_position_goes_on_to_the_sample(n, batch, before):
    first = EpochSampler(n, batch, 3)
    for _ in range(before):
        first.next_batch()
    second = EpochSampler(n, batch, 3)
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        assert torch.equal(first.next_batch(), second.next_batch())


def test_epochs_and_seeds_have_other_orders():
    sampler = EpochSampler(50, 50, 0)
    first, second = sampler.next_batch(), sampler.next_batch()
    assert not torch.equal(first, second)
    assert not torch.equal(first, EpochSampler(50, 50, 1).next_batch())


counts = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@given(counts=counts, batch=sizes, seed=st.integers(0, 3))
def test_sources_keep_their_shares_and_each_object_comes_once_a_pass(counts, batch, seed):
    weights = [1.0 + i for i in range(len(counts))]
    sampler = MixtureSampler(counts, weights, batch, seed)
    stream = torch.cat([sampler.next_batch() for _ in range(20)])
    first = 0
    for count, weight in zip(counts, weights, strict=True):
        mine = stream[(stream >= first) & (stream < first + count)] - first
        assert abs(len(mine) - len(stream) * weight / sum(weights)) < len(counts)
        for start in range(0, len(mine) - count + 1, count):
            assert sorted(mine[start : start + count].tolist()) == list(range(count))
        first += count


@pytest.mark.parametrize("weights", [[8.0, 4.0, 2.0, 1.0, 1.0], [0.3, 1.7, 0.9], [2.0]])
def test_shares_of_sources_are_as_found_one_object_after_the_other(weights):
    sampler = MixtureSampler([7] * len(weights), weights, 173, 0)
    share, given = np.array(weights) / sum(weights), np.zeros(len(weights), dtype=int)
    for _ in range(5):
        due = np.zeros(len(given), dtype=int)
        for number in range(given.sum() + 1, given.sum() + 174):
            due[np.argmax(share * number - given - due)] += 1
        assert sampler._due() == due.tolist()
        sampler.next_batch()
        given += due


@given(counts=counts, share=st.integers(1, 9), before=st.integers(0, 9))
def test_a_mixture_is_shared_by_ranks_and_goes_on_to_the_sample(counts, share, before):
    weights = [1.0] * len(counts)
    whole = MixtureSampler(counts, weights, 2 * share, 0)
    parts = [MixtureSampler(counts, weights, 2 * share, 0, rank=r, world_size=2) for r in (0, 1)]
    for _ in range(before):
        whole.next_batch()
    for part in parts:
        part.load_state_dict(whole.state_dict())
    for _ in range(4):
        together = torch.stack([part.next_batch() for part in parts], dim=1).reshape(-1)
        assert torch.equal(together, whole.next_batch())


def test_wrong_mixtures_are_told():
    with pytest.raises(ValueError, match=r"positive weight; found \[1\.0, 0\.0\]"):
        MixtureSampler([3, 4], [1.0, 0.0], 4, 0)
    with pytest.raises(ValueError, match="multiple of the number of processes, 2; found 3"):
        MixtureSampler([3], [1.0], 3, 0, world_size=2)
    state = MixtureSampler([3], [1.0], 3, 0).state_dict()
    with pytest.raises(ValueError, match=r"counts \[3\]; found \[4\]"):
        MixtureSampler([4], [1.0], 3, 0).load_state_dict(state)


def test_wrong_use_is_told():
    with pytest.raises(ValueError, match="multiple of the number of processes, 2; found 3"):
        EpochSampler(10, 3, 0, world_size=2)
    with pytest.raises(ValueError, match="must be an object to train on; found 0"):
        EpochSampler(0, 3, 0)
    with pytest.raises(ValueError, match="n_examples 10; found 11"):
        EpochSampler(11, 3, 0).load_state_dict(EpochSampler(10, 3, 0).state_dict())


def test_step_generators_are_reproducible_and_differ():
    def draw(*numbers):
        return torch.rand(4, generator=step_generator(*numbers)).tolist()

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({tuple(draw(*n)) for n in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 1, 2)]}) == 4


def draw_all():
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.normal(),  # noqa: NPY002
        torch.randn(2).tolist(),
    )


def test_each_step_of_each_process_has_its_own_global_stream():
    drawn = []
    with preserve_random_state():
        for numbers in [(5, 0, 0), (5, 0, 0), (5, 1, 0), (5, 0, 1), (6, 0, 0)]:
            seed_all(*numbers)
            drawn.append(draw_all())
    assert drawn[0] == drawn[1]
    for one in range(4):
        assert len({str(stream[one]) for stream in drawn}) == 4


def test_the_callers_random_state_is_left_alone():
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    before = draw_all()
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
    with preserve_random_state():
        seed_all(9, 0)
        draw_all()
    assert draw_all() == before
