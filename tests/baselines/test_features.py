"""Features and target scaling of the baselines."""

import numpy as np
import pytest

from omnisky.baselines.estimator import TargetScaler
from omnisky.baselines.features import PHOTOMETRY, XP, ObservationFeatures
from omnisky.data import datasets
from omnisky.modalities import Observations, Scalar, Spectrum


@pytest.fixture(scope="module")
def observations():
    return datasets.load("gaia-apogee-mini").observations


def test_standardised_and_finite(observations):
    features = ObservationFeatures().fit(observations.select(*XP, *PHOTOMETRY))
    x = features.transform(observations.select(*XP, *PHOTOMETRY))
    # 343 pixels, 7 magnitudes with that of the spectrum, their 21 colours, indicators of J and K
    assert features.n_pixels_ == 343
    assert x.shape[1] >= 343 + 7 + 21
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= 6
    assert np.abs(x[:, : 343 + 28].mean(axis=0)).max() < 0.2


def test_colours_do_not_change_with_distance(observations):
    near = observations.select("gaia_bp", "gaia_rp")
    far = Observations({k: Scalar(m.value + 1, m.ivar, m.mask) for k, m in near.items()})
    features = ObservationFeatures(clip=1e9).fit(near)
    difference = features.transform(far) - features.transform(near)
    np.testing.assert_allclose(difference[:, 2], 0, atol=1e-4)
    assert (difference[:, :2] > 0).all()


def test_shape_of_a_spectrum_does_not_change_with_brightness(observations):
    faint = observations.select(*XP)
    m = faint["gaia_xp"]
    bright = Observations({"gaia_xp": Spectrum(m.flux * 4, m.ivar / 16, m.mask, m.wavelength)})
    features = ObservationFeatures(clip=1e9).fit(faint)
    difference = features.transform(bright) - features.transform(faint)
    np.testing.assert_allclose(difference[:, :343], 0, atol=1e-4)
    assert (difference[:, 343] < 0).all(), "brighter is a smaller magnitude"


def test_absent_spectrum_is_the_median_with_one_indicator(observations):
    xp = observations["gaia_xp"]
    keep = np.arange(len(xp)) >= 3
    some = Spectrum(xp.flux, xp.ivar, xp.mask & keep[:, None], xp.wavelength)
    x = ObservationFeatures().fit_transform(Observations({"gaia_xp": some}))
    assert x.shape[1] == 343 + 1 + 1
    np.testing.assert_array_equal(x[:, -1], ~keep)
    np.testing.assert_array_equal(x[0], x[1])


def test_another_grid_is_refused(observations):
    features = ObservationFeatures().fit(observations.select(*XP))
    short = Spectrum(np.ones((2, 10)), wavelength=np.arange(10.0))
    with pytest.raises(ValueError, match="343 pixels at fit"):
        features.transform(Observations({"gaia_xp": short}))


def test_targets_round_trip_and_choose_their_logarithm():
    rng = np.random.default_rng(0)
    y = np.stack([10 ** rng.normal(3.7, 0.1, 500), rng.normal(0, 1, 500)], axis=1)
    y[::7, 1] = np.nan
    scaler = TargetScaler(y)
    assert scaler.log.tolist() == [True, False]
    z = scaler.transform(y)
    np.testing.assert_allclose(np.nanstd(z, axis=0), 1)
    np.testing.assert_allclose(scaler.inverse(z), y, rtol=1e-10)
    assert np.isfinite(scaler.inverse(np.full((1, 2), 1e6))).all()
    with pytest.raises(ValueError, match="positive"):
        TargetScaler(y, log_targets=(1,))
