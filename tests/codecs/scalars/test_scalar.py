"""Scalar codec: conditional means, absence, range."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnisky.codecs import ScalarCodec, load_codec
from omnisky.codecs.quantisers.quantile import quantile_table
from omnisky.modalities import Scalar


@pytest.fixture(scope="module")
def codec():
    values = np.random.default_rng(0).lognormal(size=5000)
    return ScalarCodec.fit(Scalar(values), modality="gaia_g", bins=128)


def test_decoding_has_no_half_bin_bias():
    rng = np.random.default_rng(1)
    codec = ScalarCodec.fit(Scalar(rng.normal(size=50000)), modality="gaia_g", bins=128)
    values = rng.normal(size=50000)
    ids, _ = codec.encode_masked(Scalar(values))
    inner = (ids[:, 0] >= 13) & (ids[:, 0] < 115)
    width = np.diff(codec.bins.edges[0].numpy())[ids[inner, 0].numpy() - 1]
    error = (codec.decode(ids).value - values)[inner.numpy()] / width
    # A quantiser that decodes to an edge is off by half a bin.
    assert abs(error.mean()) < 0.02


def test_means_are_the_conditional_means():
    values = np.random.default_rng(0).normal(size=1000)
    edges, means = quantile_table(values, 10)
    index = np.searchsorted(edges, values, side="right")
    np.testing.assert_allclose(means, [values[index == i].mean() for i in range(10)])


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=60), st.floats(-1e7, 1e7))
def test_any_number_gets_a_token_in_order(training, x):
    codec = ScalarCodec.fit(Scalar(np.array(training)), modality="gaia_g", bins=8)
    ids, _ = codec.encode_masked(Scalar(np.array([x, x + 1.0])))
    assert 0 <= ids[0, 0] <= ids[1, 0] <= 7


def test_absent_values_have_no_token(codec):
    ids, mask = codec.encode_masked(Scalar(np.array([1.0, np.nan, 2.0])))
    assert mask[:, 0].tolist() == [True, False, True]
    decoded = codec.decode(ids, mask)
    assert decoded.mask.tolist() == [True, False, True]


def test_values_outside_the_training_range_are_counted(codec):
    values = np.array([-5.0, 1.0, 1e9, np.nan])
    assert codec.count_outside(Scalar(values)) == 2
    assert codec.encode_masked(Scalar(values))[0][[0, 2], 0].tolist() == [0, 127]


def test_encoding_leaves_its_input_alone(codec):
    scalar = Scalar(np.array([1.0, 2.0]))
    before = scalar.value.copy()
    codec.encode(scalar)
    np.testing.assert_array_equal(scalar.value, before)


def test_a_saved_codec_gives_the_same_tokens(codec, tmp_path):
    values = Scalar(np.random.default_rng(2).lognormal(size=100))
    again = load_codec(codec.save(tmp_path / "codec"))
    assert torch.equal(again.encode_masked(values)[0], codec.encode_masked(values)[0])


def test_too_few_values_to_fit_are_refused():
    with pytest.raises(ValueError, match="at least as many finite values"):
        ScalarCodec.fit(Scalar(np.arange(5.0)), modality="gaia_g", bins=8)


def test_ids_beyond_the_vocabulary_are_refused(codec):
    with pytest.raises(ValueError, match="0 … 127"):
        codec.decode(torch.tensor([[128]]))
