"""Own FSQ against an independent implementation, and its properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnisky.codecs import FSQ


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [7, 5, 5, 5, 5], [8, 8, 8, 6, 5], [4, 4]])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_codes_and_indices_equal_the_reference_library(levels):
    library = pytest.importorskip("vector_quantize_pytorch").FSQ(levels)
    z = 3 * torch.randn(500, len(levels), generator=torch.Generator().manual_seed(0))
    own = FSQ(levels)
    codes, indices = library(z[None])
    torch.testing.assert_close(own(z), codes[0])
    assert torch.equal(own.codes_to_indices(own(z)), indices[0].long())
    torch.testing.assert_close(own.indices_to_codes(indices[0].long()), codes[0])


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5))
def test_every_index_survives_the_round_trip(levels):
    fsq = FSQ(levels)
    indices = torch.arange(min(math.prod(levels), 4000))
    codes = fsq.indices_to_codes(indices)
    assert codes.abs().max() <= 1
    assert torch.equal(fsq.codes_to_indices(codes), indices)


def test_gradients_pass_straight_through():
    z = torch.zeros(3, 2, requires_grad=True)
    FSQ([5, 5])(z).sum().backward()
    assert z.grad is not None
    assert (z.grad > 0).all()


def test_half_precision_keeps_all_codes():
    fsq = FSQ([300])
    z = torch.linspace(-3, 3, 4000)[:, None]
    found = fsq.codes_to_indices(fsq(z.float()))
    assert len(found.unique()) > 250


@pytest.mark.parametrize("levels", [[], [1, 5], [2**16, 2**16]])
def test_impossible_levels_are_refused(levels):
    with pytest.raises(ValueError, match="at least 2"):
        FSQ(levels)
