"""The split depends on the object's id and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisky.data.split import SPLITS, split_by_id

GOLDEN = [
    "calibration",
    "train",
    "train",
    "train",
    "train",
    "train",
    "calibration",
    "test",
    "train",
    "test",
    "train",
    "train",
]


def test_golden():
    """The same ids must fall on the same side for ever: shipped weights depend on it."""
    ids = np.arange(1, 13, dtype=np.int64) * 4295806720
    assert split_by_id(ids).tolist() == GOLDEN


def test_fractions():
    split = split_by_id(np.arange(20_000))
    share = {name: float((split == name).mean()) for name in SPLITS}
    assert share == pytest.approx({"train": 0.7, "calibration": 0.1, "test": 0.2}, abs=0.01)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30), st.randoms())
def test_order_and_company_do_not_matter(ids, random):
    alone = {i: str(split_by_id(np.array([i]))[0]) for i in ids}
    random.shuffle(ids)
    assert split_by_id(np.array(ids)).tolist() == [alone[i] for i in ids]


def test_numbers_and_their_text_agree():
    ids = np.arange(50) * 10**15
    assert (split_by_id(ids) == split_by_id(ids.astype(str))).all()


def test_growing_the_test_part_keeps_its_objects():
    ids = np.arange(1000)
    small, large = split_by_id(ids, test=0.1) == "test", split_by_id(ids, test=0.3) == "test"
    assert (large | ~small).all()


@pytest.mark.parametrize(
    "fractions", [{"test": -0.1}, {"test": 0.9, "calibration": 0.1}, {"test": float("nan")}]
)
def test_refuses_fractions(fractions):
    with pytest.raises(ValueError, match="leave a part to train on"):
        split_by_id(np.arange(3), **fractions)
