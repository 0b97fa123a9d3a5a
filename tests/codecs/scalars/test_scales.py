"""Scales: order, sign, circle, grid, errors; two tokens; what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnisky.codecs import ScalarCodec, ScalarCodecConfig, load_codec
from omnisky.modalities import Scalar

# Values of these tests lie where they may; that the warning is given is tested in test_codec.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*lie outside the range this codec")


def faint_fluxes(count=20_000, seed=0):
    """Return fluxes with noise of one, some bright."""
    rng = np.random.default_rng(seed)
    true = rng.lognormal(0.5, 2.0, count)
    error = np.hypot(1.0, 0.01 * true)
    return Scalar(true + error * rng.normal(size=count), 1 / error**2)


def tokens(codec, values):
    return codec.encode(Scalar(np.asarray(values, dtype=float)))[:, 0]


@pytest.mark.parametrize("scale", ["quantile", "log", "error"])
def test_signs_and_order_are_kept(scale):
    codec = ScalarCodec.fit(faint_fluxes(), modality="desi_flux_g", scale=scale)
    ids = tokens(codec, [-2.0, -1.0, -0.1, 0.0, 0.1, 1.0, 2.0, 1000.0])
    assert (ids.diff() > 0).all()
    means = codec.values()[0]
    assert (means.diff() >= 0).all()
    assert means[ids[0]] < 0 < means[ids[-1]]


def test_a_log_scale_takes_its_softening_from_the_noise():
    codec = ScalarCodec.fit(faint_fluxes(), modality="desi_flux_g", scale="log")
    assert 0.9 < codec.config.softening < 1.2
    width = np.diff(codec.bins.edges[0].numpy())
    middle = codec.bins.edges[0].numpy()[1:]
    # Equal steps of the flux below the noise, of its logarithm above.
    small, large = np.abs(middle) < 0.2, middle > 50
    np.testing.assert_allclose(width[small], width[small][0], rtol=0.03)
    np.testing.assert_allclose((width / middle)[large], (width / middle)[large][0], rtol=0.02)


def test_a_log_scale_without_errors_needs_positive_values():
    positive = Scalar(np.random.default_rng(0).lognormal(size=2000))
    codec = ScalarCodec.fit(positive, modality="gaia_flux_g", scale="log", bins=64)
    steps = np.diff(np.log(codec.bins.edges[0].numpy()))
    np.testing.assert_allclose(steps, steps[0])
    signed = Scalar(np.random.default_rng(0).normal(size=2000))
    with pytest.raises(ValueError, match="needs to know where noise begins"):
        ScalarCodec.fit(signed, modality="gaia_flux_g", scale="log", bins=64)
    ScalarCodec.fit(signed, modality="gaia_flux_g", scale="log", bins=64, softening=0.1)


def test_bins_by_error_lose_least_in_units_of_the_error():
    train, test = faint_fluxes(seed=0), faint_fluxes(seed=1)

    def loss(scale):
        codec = ScalarCodec.fit(train, modality="desi_flux_g", scale=scale, bins=256)
        decoded = codec.decode(*codec.encode_masked(test)).value
        return np.mean((decoded - test.value) ** 2 * test.ivar)

    assert loss("error") < 0.5 * min(loss("quantile"), loss("log"))


def test_a_grid_needs_no_data_and_takes_the_nearest_code():
    codec = ScalarCodec.grid("desi_z", 0.0, 6.0, bins=601)
    values = np.random.default_rng(0).uniform(0, 6, 1000)
    decoded = codec.decode(codec.encode(Scalar(values))).value
    np.testing.assert_allclose(decoded, np.round(values, 2), atol=1e-9)
    assert codec.count_outside(Scalar(np.array([-0.1, 3.0, 6.5]))) == 2
    assert tokens(codec, [-1.0, 7.0]).tolist() == [0, 600]


def test_a_grid_fitted_to_data_decodes_to_their_means():
    z = np.random.default_rng(0).gamma(2, 0.3, 50_000)
    codec = ScalarCodec.fit(
        Scalar(z), modality="desi_z", scale="linear", low=0.0, high=6.0, bins=64
    )
    decoded = codec.decode(codec.encode(Scalar(z))).value
    assert abs((decoded - z).mean()) < 1e-12


@given(st.floats(-1e4, 1e4))
def test_a_circle_has_no_ends(x):
    rng = np.random.default_rng(0)
    ra = rng.uniform(0, 360, 5000)
    codec = ScalarCodec.fit(Scalar(ra), modality="gaia_ra", scale="circular", bins=72)
    here, turned = tokens(codec, [x, x + 360.0])
    apart = abs(int(here - turned))
    assert min(apart, 72 - apart) <= 1  # adding 360 rounds
    decoded = codec.decode(torch.tensor([[int(here)]])).value[0]
    assert 0 <= decoded < 360
    distance = abs((decoded - x + 180) % 360 - 180)
    assert distance < 8
    assert codec.count_outside(Scalar(np.array([x]))) == 0


def test_zero_and_360_share_a_token_whose_mean_is_circular():
    ra = np.random.default_rng(0).uniform(0, 360, 20_000)
    codec = ScalarCodec.fit(Scalar(ra), modality="gaia_ra", scale="circular", bins=100)
    ids = tokens(codec, [0.0, 360.0, 359.999, 0.001])
    assert ids.tolist() == [0, 0, 0, 0]
    mean = codec.values()[0, 0]
    assert min(mean, 360 - mean) < 0.3, "an arithmetic mean would be near 180"
    counts = torch.bincount(codec.encode(Scalar(ra))[:, 0], minlength=100)
    assert counts.min() > 190
    assert counts.max() < 210


@pytest.mark.parametrize("scale", ["quantile", "log", "error", "linear", "circular"])
def test_two_tokens_say_more(scale):
    rng = np.random.default_rng(0)
    mags = Scalar(rng.uniform(8, 17, 5000), np.full(5000, 1e6))
    ends = {"low": 8.0, "high": 17.0} if scale == "linear" else {}
    codec = ScalarCodec.fit(mags, modality="gaia_g", scale=scale, bins=128, tokens=2, **ends)
    ids, mask = codec.encode_masked(mags)
    assert codec.n_tokens == ids.shape[1] == 2
    assert codec.values().shape == (2, 128)
    error = np.abs(codec.decode(ids, mask).value - mags.value)
    assert np.quantile(error, 0.99) < 1e-3
    mask[:, 1] = False
    coarse = codec.decode(ids, mask)
    assert coarse.mask.all()
    assert np.median(np.abs(coarse.value - mags.value)) > 1e-3


@pytest.mark.parametrize("scale", ["log", "error", "linear", "circular"])
def test_a_saved_scale_gives_the_same_tokens(scale, tmp_path):
    flux = faint_fluxes(3000)
    ends = {"low": -3.0, "high": 30.0} if scale == "linear" else {}
    codec = ScalarCodec.fit(flux, modality="desi_flux_g", scale=scale, bins=64, **ends)
    again = load_codec(codec.save(tmp_path / "codec"))
    assert again.config == codec.config
    assert torch.equal(again.encode(flux), codec.encode(flux))


def test_scales_that_make_no_sense_are_refused():
    for settings, message in (
        ({"scale": "cubic"}, "scale must be one of"),
        ({"scale": "linear"}, "low < high"),
        ({"softening": -1.0}, "softening must not be negative"),
        ({"bins": 1}, "at least two bins"),
        ({"tokens": 3}, "one token or two"),
        ({"modalities": ("sdss_z",)}, "must begin with 'desi_z'"),
    ):
        with pytest.raises(ValueError, match=message):
            ScalarCodecConfig(modality="desi_z", **settings)


def test_wrong_shapes_of_ids_are_refused():
    codec = ScalarCodec.grid("desi_z", 0.0, 1.0)
    with pytest.raises(ValueError, match=r"shape \(object, 1\)"):
        codec.decode(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"found torch\.float32"):
        codec.decode(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="which mean nothing"):
        codec.decode(torch.tensor([[-1]]))
