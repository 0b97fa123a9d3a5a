"""What is known of bands."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from omnisky.codecs.image import BANDS, bands_of
from omnisky.codecs.image.bands import described, nanomaggies, pixel_scale
from omnisky.codecs.image.training import mixed_band
from omnisky.mock.images.instruments import INSTRUMENTS
from omnisky.surveys import modality

G = BANDS["legacysurvey_image", "g"]


@pytest.mark.parametrize("name", ["legacysurvey_image", "hsc_image"])
def test_surveys_of_omnisky_are_described_as_they_are_declared(name):
    declared, bands = modality(name), bands_of(name)
    assert tuple(band.name for band in bands) == declared.bands
    assert {band.pixel_scale_arcsec for band in bands} == {declared.pixel_scale_arcsec}
    assert {band.zero_point for band in bands} == {declared.zero_point}


@pytest.mark.parametrize("survey", ["legacysurvey", "hsc"])
def test_depth_and_seeing_are_about_those_of_the_mock_instruments(survey):
    instrument, bands = INSTRUMENTS[survey], bands_of(f"{survey}_image")
    for number, band in enumerate(bands):
        assert band.psf_fwhm_arcsec == instrument.fwhm_arcsec[number]
        shallow, deep = (depths[number] for depths in instrument.depths)
        assert shallow - 0.1 <= band.depth_mag <= deep + 0.1


def test_wavelengths_are_those_of_the_filter_curves(filter_curves):
    for (name, band), curve in filter_curves.items():
        wavelength, response = curve
        pivot = np.sqrt(
            np.trapezoid(response * wavelength, wavelength)
            / np.trapezoid(response / wavelength, wavelength)
        )
        assert BANDS[name, band].wavelength_nm == pytest.approx(pivot, abs=0.1)
        above = wavelength[response >= 0.5 * response.max()]
        assert BANDS[name, band].width_nm == pytest.approx(np.ptp(above), abs=1.0)


@pytest.fixture
def filter_curves():
    from importlib.resources import files

    with np.load(str(files("omnisky.mock.tables") / "filters.npz")) as table:
        curves = {}
        for survey, name in (("decam", "legacysurvey"), ("hsc", "hsc"), ("sdss", "sdss")):
            for band in bands_of(f"{name}_image"):
                nm, response = (
                    table[f"{survey}_{band.name}_{what}"].astype(float)
                    for what in ("wavelength", "response")
                )
                fine = np.arange(nm[0] / 10, nm[-1] / 10, 0.05)
                curves[band.key] = fine, np.interp(fine, nm / 10, response)
        return curves


def test_every_survey_is_there_in_order_of_wavelength():
    names = {name for name, _ in BANDS}
    assert {"sdss_image", "jwst_nircam_image", "euclid_image", "rubin_image"} < names
    for name in names:
        waves = [band.wavelength_nm for band in bands_of(name)]
        assert waves == sorted(waves)
    assert bands_of("nobody_image") == ()


def test_noise_is_that_of_the_depth():
    # A source of 5 sigma at the depth, measured with the PSF as weight.
    fwhm_pixels = G.psf_fwhm_arcsec / G.pixel_scale_arcsec
    y, x = np.mgrid[-30:31, -30:31]
    psf = np.exp(-4 * np.log(2) * (x**2 + y**2) / fwhm_pixels**2)
    psf /= psf.sum()
    error = G.noise / np.sqrt((psf**2).sum())
    assert 22.5 - 2.5 * np.log10(5 * error) == pytest.approx(G.depth_mag, abs=0.01)


def test_zero_points_make_nanomaggies():
    assert G.nanomaggies == 1
    assert BANDS["rubin_image", "r"].nanomaggies == pytest.approx(1 / 3631, rel=1e-3)  # from nJy
    assert BANDS["euclid_image", "y"].nanomaggies == pytest.approx(1 / 3.631, rel=1e-3)
    # 1 MJy/sr in a pixel of 0.03 arcsec is 21.2 nJy.
    assert BANDS["jwst_nircam_image", "f200w"].nanomaggies == pytest.approx(21.15 / 3631, rel=1e-3)
    factors = nanomaggies([G, BANDS["rubin_image", "r"], ("legacysurvey_image", "z")])
    assert factors.shape == (3, 1, 1)
    assert factors[2] == 1


def test_bands_are_frozen_and_their_key_is_in_the_table():
    with pytest.raises(FrozenInstanceError):
        G.width_nm = 1.0
    assert all(described(key) is band and band.key == key for key, band in BANDS.items())
    assert described(("nobody_image", "g")) is None
    mine = replace(G, modality="my_image")
    assert described(mine) is mine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wavelength_nm": 0.0}, "wavelength_nm must be a positive finite number; found 0.0"),
        ({"width_nm": -1.0}, "width_nm must be a positive"),
        ({"psf_fwhm_arcsec": float("nan")}, "psf_fwhm_arcsec must be a positive"),
        ({"depth_mag": float("inf")}, "depth_mag must be a finite number; found inf"),
        ({"zero_point": float("nan")}, "zero_point must be a finite"),
        ({"limit": 0.0}, "limit must be positive; found 0.0. Leave it out"),
    ],
)
def test_numbers_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(G, **change)


def test_pixels_of_one_scale():
    assert pixel_scale([G, ("legacysurvey_image", "r")]) == 0.262
    with pytest.raises(ValueError, match=r"found scales of \[0.168, 0.262\]"):
        pixel_scale([G, ("hsc_image", "r")])


def test_a_mean_of_two_bands_lies_between_them():
    r = BANDS["legacysurvey_image", "r"]
    same = mixed_band(G, r, 0.0)
    for fact in ("wavelength_nm", "width_nm", "psf_fwhm_arcsec", "noise"):
        assert getattr(same, fact) == pytest.approx(getattr(G, fact))
    half = mixed_band(G, r, 0.5)
    assert half.wavelength_nm == pytest.approx((G.wavelength_nm + r.wavelength_nm) / 2)
    assert half.width_nm > max(G.width_nm, r.width_nm)
    assert half.noise == pytest.approx(np.hypot(G.noise, r.noise) / 2)
