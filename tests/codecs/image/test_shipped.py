"""The image codec that ships: what its card says holds. Mock scores, and some of real images."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from omnisky.codecs import Codec
from omnisky.codecs.image import bands_of, padded
from omnisky.mock import Universe
from omnisky.modalities import Image
from omnisky.surveys import hsc

FOLDER = Path(str(files("omnisky"))) / "pretrained/codecs/image"


@pytest.fixture(scope="module")
def codec():
    return Codec.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def report():
    return json.loads((FOLDER / "report.json").read_text())


@pytest.mark.parametrize("modality", ["legacysurvey_image", "hsc_image"])
def test_mock_galaxies_come_back(codec, report, modality):
    # Of a universe that nothing was trained on.
    universe = Universe(seed=4321, n=60, size=96)
    survey = modality.removesuffix("_image")
    images = universe.observe(survey, modalities=[modality]).observations[modality]
    found, stated = codec.of(modality).report(images), report["mock"][modality]
    chi2 = "chi2_per_pixel_floored_median"
    # The median of few objects scatters.
    assert found[chi2] < 1.3 * stated[chi2]
    error = "flux_error_snr_100_inf"
    assert found[error] < 1.5 * stated[error]


def test_it_fits_the_package(codec):
    assert (FOLDER / "model.safetensors").stat().st_size < 2.5e6
    assert codec.n_tokens == 144
    assert "mock" in (FOLDER / "README.md").read_text()


def test_bands_it_never_saw_go_in_and_out(codec):
    rng = np.random.default_rng(0)
    bands = bands_of("euclid_image")
    y, x = np.mgrid[:96, :96] - 47.5
    units = np.array([band.noise / band.nanomaggies for band in bands])[:, None, None]
    flux = units * (rng.normal(size=(1, 4, 96, 96)) + 60 * np.exp(-np.hypot(x, 2 * y) / 6))
    images = Image(
        flux,
        np.broadcast_to(units**-2.0, flux.shape),
        bands=tuple(band.name for band in bands),
        pixel_scale_arcsec=0.1,
    )
    view = codec.with_bands(bands)
    decoded = view.decode(view.encode(images)).flux
    agreement = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(flux[0], decoded[0], strict=True)
    ]
    assert min(agreement) > 0.7


@pytest.mark.real_data
def test_a_real_scene_comes_back(codec, real_data):
    path = real_data / "native/hsc/hsc_cosmos_35.npz"
    images = padded(hsc.read_scene(path), 96)
    view = codec.of("hsc_image")
    decoded = view.decode(view.encode(images)).flux
    good = images.mask[0]
    for number in range(len(images.bands)):
        measured, found = (a[0, number][good[number]] for a in (images.flux, decoded))
        assert np.corrcoef(measured, found)[0, 1] > 0.8
