"""Coefficients: relative to the first one, absent ones, arms, bad input."""

import numpy as np
import pytest
import torch

from omnisky.codecs import ScalarCodec, Tokenizer, load_codec
from omnisky.codecs.scalars.coefficients import CoefficientsCodec, CoefficientsCodecConfig
from omnisky.modalities import Coefficients, Observations, Scalar
from omnisky.surveys import modality
from omnisky.surveys.gaia import arms

# Values of these tests lie where they may; that the warning is given is tested in test_codec.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*lie outside the range this codec")


def stars(count, seed=0):
    """Return coefficients of stars that differ in colour and, much more, in brightness."""
    rng = np.random.default_rng(seed)
    colour, flux = rng.uniform(-1, 1, (count, 1)), 10 ** rng.uniform(1, 4, (count, 1))
    order = np.arange(55)
    shape = np.exp(-order / 6) * np.cos(order * (0.3 + 0.1 * colour))
    true = np.concatenate([flux * shape, flux * (1 + 0.3 * colour) * shape], axis=1)
    error = np.broadcast_to(0.01 * flux**0.5 + 0.01, true.shape)
    return Coefficients(true + error * rng.normal(size=true.shape), 1 / error**2)


@pytest.fixture(scope="module")
def codec():
    return CoefficientsCodec.fit(stars(4000), modality="gaia_xp_coefficients", bins=512)


def rms(codec, test):
    decoded = codec.decode(*codec.encode_masked(test))
    good = decoded.mask
    return np.sqrt(np.mean(((decoded.value - test.value) ** 2 * test.ivar)[good]))


def test_round_trip_is_below_the_errors_and_better_than_bins_of_the_raw_numbers(codec):
    test = stars(1000, seed=1)
    raw = CoefficientsCodec.fit(
        stars(4000), modality="gaia_xp_coefficients", bins=512, parts=0, scale="quantile"
    )
    assert rms(codec, test) < 1.0
    assert rms(codec, test) < 0.3 * rms(raw, test)


def test_a_norm_and_its_coefficients_stand_together(codec):
    ids = codec.encode(stars(5))
    assert codec.config.parts == 2
    assert ids.shape == (5, 112) == (5, codec.n_tokens)
    assert codec.values().shape == (112, 512)
    assert torch.equal(codec.values()[[0, 56]], codec.norms.means)


def test_faint_and_bright_stars_of_one_kind_share_codes(codec):
    star = stars(1, seed=3)
    bright = Coefficients(star.value * 8, star.ivar / 64)
    ids = torch.cat([codec.encode(star), codec.encode(bright)])
    assert ids[1, 0] > ids[0, 0] + 100
    others = ids[:, [i for i in range(112) if i not in (0, 1, 56, 57)]]
    # Within the width of a bin of the norm.
    assert (others.diff(dim=0).abs() <= 12).float().mean() > 0.9


def test_absent_coefficients_have_no_token(codec):
    given = stars(3)
    mask = given.mask.copy()
    mask[0, :55] = False  # no BP
    mask[1, 7] = False
    mask[2, 55] = False  # the first of RP: nothing to divide by
    given = Coefficients(given.value, given.ivar, mask)
    ids, there = codec.encode_masked(given)
    assert there.sum(1).tolist() == [56, 111, 56]
    assert (ids[~there] == 0).all()
    decoded = codec.decode(ids, there)
    assert decoded.mask[0].sum() == 55
    assert not decoded.mask[1, 7]
    assert not decoded.mask[2, 55:].any()


def test_a_first_coefficient_that_is_not_positive_counts_as_the_smallest(codec):
    value = stars(1).value.copy()
    value[0, 0] = -5.0
    ids = codec.encode(Coefficients(value))
    assert ids[0, 0] == 0
    assert codec.count_outside(Coefficients(value)) == 1
    assert np.isfinite(codec.decode(ids).value).all()


def test_only_objects_that_are_really_beyond_are_counted(codec):
    given = stars(500, seed=8)
    assert codec.count_outside(given) <= 5
    value = given.value.copy()
    value[:3, 20] *= 1e3  # one coefficient
    assert codec.count_outside(Coefficients(value)) <= 5
    value[:40, 10:20] = 1e9
    assert 40 <= codec.count_outside(Coefficients(value)) <= 45


def test_input_is_not_changed_and_a_saved_codec_is_the_same(codec, tmp_path):
    given = stars(20)
    before = given.value.copy()
    again = load_codec(codec.save(tmp_path / "codec"))
    assert torch.equal(again.encode(given), codec.encode(given))
    np.testing.assert_array_equal(given.value, before)


def test_it_serves_in_a_tokenizer_beside_scalars(codec):
    given = stars(50)
    g = ScalarCodec.grid("gaia_g", 5.0, 21.0)
    tokenizer = Tokenizer({"gaia_xp_coefficients": codec, "gaia_g": g})
    observed = Observations({"gaia_xp_coefficients": given, "gaia_g": Scalar(np.full(50, 15.0))})
    tokens = tokenizer.encode(observed)
    assert list(tokens) == ["gaia_xp_coefficients", "gaia_g"]
    assert list(tokenizer.decode(tokens)) == list(tokens)


def test_arms_are_modalities_of_their_own():
    given = stars(2000)
    bp, rp = arms(given)
    np.testing.assert_array_equal(np.concatenate([bp.value, rp.value], axis=1), given.value)
    for name, arm in (("gaia_xp_bp", bp), ("gaia_xp_rp", rp)):
        assert modality(name).size == arm.value.shape[1] == 55
        codec = CoefficientsCodec.fit(arm, modality=name, bins=64)
        assert codec.config.parts == 1
        assert codec.n_tokens == 56
    with pytest.raises(ValueError, match="55 of BP and then as many of RP; found 55"):
        arms(bp)


def test_what_does_not_fit_is_refused(codec):
    with pytest.raises(TypeError, match="is coefficients; found a Scalar"):
        codec.encode_masked(Scalar(np.ones(3)))
    with pytest.raises(ValueError, match="has 110 coefficients; found 55"):
        codec.encode_masked(arms(stars(3))[0])
    with pytest.raises(ValueError, match=r"shape \(object, 112\)"):
        codec.decode(torch.zeros(2, 110, dtype=torch.long))
    with pytest.raises(ValueError, match="lie in 0 … 511"):
        codec.decode(torch.full((2, 112), 512))
    with pytest.raises(ValueError, match="at least as many finite values"):
        CoefficientsCodec.fit(stars(10), modality="gaia_xp_coefficients", bins=64)
    with pytest.raises(ValueError, match="no 4 parts of equal length"):
        CoefficientsCodecConfig(modality="gaia_xp_bp", n_coefficients=55, parts=4)
    with pytest.raises(ValueError, match="'error' or 'quantile'"):
        CoefficientsCodecConfig(modality="gaia_xp_bp", scale="log")


@pytest.mark.real_data
def test_real_stars_come_back_to_a_thousandth(real_data):
    import pyarrow.parquet as pq

    table = pq.read_table(real_data / "gaia_xp_coefficients.parquet")
    both = [np.array(table[f"{arm}_coefficients"].to_pylist()) for arm in ("bp", "rp")]
    given = Coefficients(np.concatenate(both, axis=1))
    test = np.arange(len(given)) % 5 == 0
    codec = CoefficientsCodec.fit(given[~test], modality="gaia_xp_coefficients")
    found = codec.decode(*codec.encode_masked(given[test])).value
    apart = np.linalg.norm(found - given.value[test], axis=1)
    assert np.median(apart / np.linalg.norm(given.value[test], axis=1)) < 1e-3
