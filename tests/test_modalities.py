"""Measurements are checked at the door and behave like arrays of objects."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Column, MaskedColumn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import KFold, cross_val_predict, train_test_split

from omnisky.modalities import (
    Image,
    Modality,
    Observations,
    Scalar,
    SegmentationMap,
    SkyObjects,
    Spectrum,
    UnknownModalityError,
)

GRID = np.array([400.0, 402.0, 404.0])
SPEC = {
    "name": "survey_x",
    "survey": "survey",
    "unit": "mag",
    "ucd": "phot.mag",
    "column": "x",
    "description": "a magnitude",
}


def make(n=4):
    return Observations(
        {
            "g": Scalar(np.arange(n, dtype=float), mask=np.arange(n) != 1),
            "xp": Spectrum(np.ones((n, 3)), np.full((n, 3), 4.0), None, GRID),
        }
    )


# --- Scalar


def test_scalar_masks_what_is_not_finite():
    scalar = Scalar(np.array([1.0, np.nan, np.inf]))
    assert scalar.present.tolist() == [True, False, False]
    assert scalar.value.tolist() == [1.0, 0.0, 0.0]
    assert scalar.ivar.tolist() == [0.0, 0.0, 0.0]


def test_scalar_honours_the_mask_of_a_masked_array():
    scalar = Scalar(np.ma.MaskedArray([10, 20], mask=[True, False]))
    assert scalar.mask.tolist() == [False, True]
    assert scalar.value.tolist() == [0.0, 20.0]


@given(
    hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(allow_nan=True, width=64)),
    st.data(),
)
def test_scalar_never_shows_a_bad_value(value, data):
    mask = data.draw(hnp.arrays(bool, value.shape)) & np.isfinite(value)
    scalar = Scalar(value, mask=mask)
    assert np.isfinite(scalar.value).all()
    assert (scalar.value[mask] == value[mask]).all()
    assert (scalar.value[~mask] == 0).all()
    assert (scalar[::-1].present == mask[::-1]).all()


@pytest.mark.parametrize(
    ("value", "ivar", "mask", "message"),
    [
        (np.zeros((2, 2)), None, None, r"1-d array .* found shape \(2, 2\)"),
        (np.array(["a"]), None, None, "array of numbers"),
        (np.array([1 + 1j]), None, None, "array of numbers"),
        (np.zeros(2), np.zeros(3), None, r"ivar has shape \(3,\) but value has shape \(2,\)"),
        (np.zeros(2), None, np.ones(3, bool), "mask has shape"),
        (np.zeros(2), None, np.ones(2), r"mask must be bool \(True = good\); found float64"),
        (np.array([1.0, np.nan]), None, np.ones(2, bool), "1 values of value are marked good"),
        (np.zeros(2), np.array([1.0, np.inf]), None, "1 values of ivar are marked good"),
        (np.zeros(2), np.array([1.0, -2.0]), None, "ivar must not be negative; found -2"),
    ],
)
def test_scalar_refuses(value, ivar, mask, message):
    with pytest.raises(ValueError, match=message):
        Scalar(value, ivar, mask)


def test_scalar_does_not_touch_what_it_was_given():
    value, mask = np.array([1.0, 2.0]), np.array([True, False])
    Scalar(value, mask=mask)
    assert value.tolist() == [1.0, 2.0]


# --- Spectrum


def test_spectrum_from_errors():
    flux = np.array([[1e-16, np.nan, 3e-16]])
    spectrum = Spectrum.from_error(flux, np.full((1, 3), 1e-18), GRID)
    assert spectrum.mask.tolist() == [[True, False, True]]
    np.testing.assert_allclose(spectrum.ivar, [[1e36, 0, 1e36]])
    assert spectrum.flux.dtype == np.float32


def test_inverse_variances_of_real_fluxes_do_not_overflow(mini):
    xp = mini.observations["gaia_xp"]
    assert np.isfinite(xp.ivar).all()
    faint = Spectrum.from_error(np.ones((1, 3)), np.full((1, 3), 1e-21), GRID)
    assert faint.ivar.max() > np.finfo(np.float32).max


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_spectrum_refuses_errors_that_are_none(bad):
    error = np.ones((2, 3))
    error[1, 2] = bad
    with pytest.raises(ValueError, match="object 1, pixel 2"):
        Spectrum.from_error(np.ones((2, 3)), error, GRID)
    good = np.ones((2, 3), bool)
    good[1, 2] = False
    assert Spectrum.from_error(np.ones((2, 3)), error, GRID, good).mask.sum() == 5


@pytest.mark.parametrize(
    ("wavelength", "message"),
    [
        (GRID[:2], "3 flux pixels but wavelength has shape"),
        (GRID[::-1], "must increase strictly"),
        (np.array([400.0, 400.0, 402.0]), "must increase strictly"),
        (np.array([400.0, np.nan, 402.0]), "must increase strictly"),
        (np.empty(0), "one wavelength a pixel, in nm"),
    ],
)
def test_spectrum_refuses_wavelengths(wavelength, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(np.ones((2, 3)), wavelength=wavelength)


def test_masked_arrays_keep_their_mask():
    mask = [[False, True, False]]
    flux, error = np.ones((1, 3)), np.ma.MaskedArray(np.ones((1, 3)), mask=[[True, False, False]])
    spectrum = Spectrum.from_error(np.ma.MaskedArray(flux, mask=mask), error, GRID)
    assert spectrum.mask.tolist() == [[False, False, True]]
    scalar = Scalar(np.ones(2), ivar=np.ma.MaskedArray([4.0, 5.0], mask=[False, True]))
    assert scalar.ivar.tolist() == [4.0, 0.0]


def test_quantities_are_refused_since_the_unit_would_be_lost():
    with pytest.raises(ValueError, match=r"give plain numbers in the modality's unit"):
        Scalar([1.0, 2.0] * u.mmag)
    with pytest.raises(ValueError, match="is a Quantity"):
        Spectrum(np.ones((2, 3)) * u.mag, wavelength=GRID)
    message = r"wavelength is a Quantity in 'Angstrom'.*\(wavelengths in nm\).*quantity.to_value"
    with pytest.raises(ValueError, match=message):
        Spectrum(np.ones((2, 3)), wavelength=10 * GRID * u.AA)
    for name in ("ivar", "lsf_sigma"):
        with pytest.raises(ValueError, match=f"Spectrum: {name} is a Quantity in 'nm'"):
            Spectrum(np.ones((2, 3)), wavelength=GRID, **{name: np.ones((2, 3)) * u.nm})
    for flux, error in ((1 * u.Jy, 1), (1, 1 * u.Jy)):
        with pytest.raises(ValueError, match="is a Quantity in 'Jy'"):
            Spectrum.from_error(np.ones((2, 3)) * flux, np.ones((2, 3)) * error, GRID)
    band = {"bands": ("g",), "pixel_scale_arcsec": 0.2}
    with pytest.raises(ValueError, match="Image: offset_pixels is a Quantity in 'pix'"):
        Image(np.ones((1, 1, 2, 2)), **band, offset_pixels=np.zeros((1, 2)) * u.pix)
    with pytest.raises(ValueError, match="Image: psf_fwhm_arcsec is a Quantity in 'deg'"):
        Image(np.ones((1, 1, 2, 2)), **band, psf_fwhm_arcsec=np.zeros((1, 1)) * u.deg)


@pytest.mark.parametrize("column", [Column, MaskedColumn])
def test_columns_with_a_unit_are_refused_too(column):
    message = r"value is a (Masked)?Column in 'mmag'.*column\.quantity.*observations_from_table"
    with pytest.raises(ValueError, match=message):
        Scalar(column([1.0, 2.0], unit="mmag"))
    with pytest.raises(ValueError, match=r"field is a .*Column in 'mag'"):
        SegmentationMap(column(np.ones((1, 2, 2)), unit="mag"), pixel_scale_arcsec=0.2)
    for unit in (None, u.dimensionless_unscaled):
        assert Scalar(column([1.0, 2.0], unit=unit)).value.tolist() == [1.0, 2.0]


def test_spectrum_refuses_shapes():
    with pytest.raises(ValueError, match="2-d array"):
        Spectrum(np.ones(3), wavelength=GRID)
    with pytest.raises(ValueError, match=r"flux has shape \(2, 3\) but error \(2, 2\)"):
        Spectrum.from_error(np.ones((2, 3)), np.ones((2, 2)), GRID)


def test_spectrum_is_present_with_one_good_pixel():
    mask = np.array([[False, False, True], [False, False, False]])
    assert Spectrum(np.ones((2, 3)), None, mask, GRID).present.tolist() == [True, False]


# --- Observations


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (2, [2]),
        (-1, [3]),
        (np.int64(2), [2]),
        (slice(1, 3), [1, 2]),
        ([3, 0], [3, 0]),
        (np.array([3, 0]), [3, 0]),
        (np.array([True, False, True, False]), [0, 2]),
        (np.array([], dtype=int), []),
    ],
)
def test_observations_index_by_objects(index, expected):
    taken = make()[index]
    assert len(taken) == len(expected) == taken.shape[0]
    kept = [0 if i == 1 else i for i in expected]  # object 1 is masked
    assert taken["g"].value.tolist() == kept
    assert taken["xp"].flux.shape == (len(expected), 3)


def test_observations_index_by_name():
    observations = make()
    assert list(observations) == ["g", "xp"]
    assert "g" in observations
    assert "nothing" not in observations
    assert list(observations.select("xp")) == list(observations.drop("g")) == ["xp"]
    assert "4 objects; present: g 3, xp 4" in repr(observations)


def test_observations_refuse():
    observations = make()
    with pytest.raises(
        UnknownModalityError, match="no modality 'h' here; these objects have g, xp"
    ):
        observations["h"]
    with pytest.raises(UnknownModalityError):
        observations.drop("h")
    with pytest.raises(IndexError):
        observations[99]
    with pytest.raises(TypeError, match="one axis"):
        observations[0, 1]
    with pytest.raises(ValueError, match="at least one modality"):
        Observations({})
    with pytest.raises(ValueError, match="at least one modality"):
        observations.select()
    with pytest.raises(ValueError, match="found lengths"):
        Observations({"g": Scalar(np.zeros(2)), "h": Scalar(np.zeros(3))})
    with pytest.raises(TypeError, match=r"expected one of Scalar, .* found ndarray"):
        Observations({"g": np.zeros(2)})


class FirstPixel(RegressorMixin, BaseEstimator):
    """Predict the flux of the first pixel; learn nothing."""

    def fit(self, X, y):
        self.n_objects_ = len(X)
        return self

    def predict(self, X):
        return X["xp"].flux[:, 0]


def test_observations_work_with_scikit_learn():
    observations = make(6)
    parts = [len(observations[test]) for _, test in KFold(3).split(observations)]
    assert parts == [2, 2, 2]
    predicted = cross_val_predict(FirstPixel(), observations, np.zeros(6), cv=3)
    assert predicted.tolist() == [1.0] * 6
    train, test = train_test_split(observations, random_state=0)
    assert len(train) + len(test) == 6


# --- Modality


def test_modality_grid():
    xp = Modality(**SPEC, kind="spectrum", wavelength_nm=(336.0, 2.0, 343))
    assert xp.wavelength[[0, -1]].tolist() == [336.0, 1020.0]
    with pytest.raises(ValueError, match="it has no wavelength grid"):
        _ = Modality(**SPEC, kind="scalar").wavelength


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "spectrum"},
        {"kind": "scalar", "wavelength_nm": (1.0, 1.0, 2)},
        {"kind": "scalar", "valid_range": (2.0, 1.0)},
        {"kind": "scalar", "valid_range": (np.nan, 1.0)},
    ],
)
def test_modality_refuses(wrong):
    with pytest.raises(ValueError, match="modality 'survey_x'"):
        Modality(**SPEC, **wrong)


def test_identifiers_do_not_wrap_around():
    ids = np.array([2**63 + 5, 7], dtype=np.uint64)
    with pytest.raises(ValueError, match="as text"):
        SkyObjects(
            survey="x",
            object_id=ids,
            ra_deg=np.zeros(2),
            dec_deg=np.zeros(2),
            observations=Observations({"g": Scalar(np.zeros(2))}),
        )
