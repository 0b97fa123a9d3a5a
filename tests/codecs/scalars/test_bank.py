"""Many scalars at once: the results of their own codecs, to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnisky.codecs import ScalarCodec, Tokenizer, Tokens
from omnisky.codecs.quantisers.quantile import find_bins, padded
from omnisky.modalities import Observations, Scalar, Spectrum

NAMES = ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j")


def observations(count, seed=0, absent=0.2):
    rng = np.random.default_rng(seed)
    return Observations(
        {
            name: Scalar(rng.normal(10 + i, 1, count), mask=rng.random(count) > absent)
            for i, name in enumerate(NAMES)
        }
    )


@pytest.fixture(scope="module")
def tokenizer():
    train = observations(3000, seed=9)
    bins = dict(zip(NAMES, (64, 100, 1024, 64), strict=True))
    codecs = {n: ScalarCodec.fit(train[n], modality=n, bins=bins[n]) for n in NAMES}
    circle = Scalar(np.random.default_rng(0).uniform(0, 360, 3000))
    codecs["gaia_ra"] = ScalarCodec.fit(circle, modality="gaia_ra", scale="circular", bins=64)
    codecs["gaia_dec"] = ScalarCodec.fit(train["gaia_g"], modality="gaia_dec", bins=64, tokens=2)
    return Tokenizer(codecs)


@pytest.mark.filterwarnings("ignore:gaia")
@pytest.mark.parametrize("count", [1, 7, 64, 5000])
def test_tokens_are_those_of_each_codec(tokenizer, count):
    given_ = dict(observations(count, seed=count))
    given_["gaia_ra"] = Scalar(np.linspace(-10, 370, count))
    given_["gaia_dec"] = given_["gaia_g"]
    given_ = Observations(given_)
    tokens = tokenizer.encode(given_)
    assert list(tokens) == list(given_)
    decoded = tokenizer.decode(tokens)
    for name, codec in tokenizer.codecs.items():
        ids, mask = codec.encode_masked(given_[name])
        assert torch.equal(tokens[name], ids)
        assert torch.equal(tokens.mask[name], mask)
        alone = codec.decode(ids, mask)
        np.testing.assert_array_equal(decoded[name].value, alone.value)
        np.testing.assert_array_equal(decoded[name].mask, alone.mask)
        np.testing.assert_array_equal(decoded[name].ivar, alone.ivar)


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=40),
    st.lists(st.floats(-6, 6), min_size=1, max_size=8),
)
def test_both_searches_find_the_same_bins(edges, values):
    edges = np.sort(np.array([edges, edges]), axis=1)
    values = np.array(values + edges[0].tolist())
    few = find_bins(padded(edges), np.stack([values, -values]))
    times = 600 // len(values) + 1
    many = find_bins(padded(edges), np.tile(np.stack([values, -values]), times))
    np.testing.assert_array_equal(many, np.tile(few, times))
    expected = [np.searchsorted(edges[0], v, side="right") for v in (values, -values)]
    np.testing.assert_array_equal(few, expected)


def test_more_values_than_a_block():
    edges = np.sort(np.random.default_rng(0).normal(size=(3, 63)), axis=1)
    values = np.random.default_rng(1).normal(size=(3, 40_000))
    found = find_bins(padded(edges), values)
    expected = [np.searchsorted(e, v, side="right") for e, v in zip(edges, values, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_a_codec_that_is_changed_changes_the_tokens(tokenizer):
    train = observations(3000, seed=9, absent=0.0)
    mine = Tokenizer({n: ScalarCodec.fit(train[n], modality=n, bins=64) for n in NAMES})
    before = mine.encode(train)["gaia_g"]
    other = ScalarCodec.fit(train["gaia_bp"], modality="gaia_g", bins=64)
    mine.codecs["gaia_g"].load_state_dict(other.state_dict())
    after = mine.encode(train)["gaia_g"]
    assert torch.equal(after, other.encode(train["gaia_g"]))
    assert not torch.equal(before, after)


def test_tokens_made_together_are_tokens_like_others(tokenizer):
    tokens = tokenizer.encode(observations(10))
    assert tokens[np.arange(4)]["gaia_g"].shape == (4, 1)
    assert "gaia_g" in tokens
    assert "gaia_x" not in tokens
    assert "gaia_g 1×" in repr(tokens)
    assert tokens.shape == (10, 4)
    same = Tokens(dict(tokens), dict(tokens.mask))
    assert all(torch.equal(same[n], tokens[n]) for n in NAMES)


def test_bad_input_is_refused_as_by_each_codec(tokenizer):
    spectrum = Spectrum(np.ones((2, 3)), wavelength=np.arange(3.0))
    with pytest.raises(TypeError, match="'gaia_g' is a scalar; found a Spectrum"):
        tokenizer.encode(Observations({"gaia_g": spectrum}))
    wrong = Tokens({"gaia_g": torch.tensor([[64]]), "gaia_bp": torch.tensor([[64]])})
    with pytest.raises(ValueError, match="'gaia_g' lie in 0 … 63; found 64"):
        tokenizer.decode(wrong)
    hidden = Tokens({"gaia_g": torch.tensor([[64]])}, {"gaia_g": torch.tensor([[False]])})
    assert not tokenizer.decode(hidden)["gaia_g"].mask.any()
