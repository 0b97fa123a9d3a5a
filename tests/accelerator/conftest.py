"""Mock galaxies that several of these tests look at."""

import os

# What makes products repeatable in deterministic mode; read when CUDA is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest

IMAGES_AND_SPECTRA = ("legacysurvey_image", "hsc_image", "desi_spectrum", "sdss_spectrum")
OTHERS = ("desi_z", "sdss_z", "legacysurvey_catalog", "legacysurvey_segmentation")
FLUXES = tuple(f"legacysurvey_flux_{band}" for band in ("g", "r", "i", "z", "w1", "w2"))


@pytest.fixture(scope="session")
def galaxies():
    """Return 24 objects of a mock universe, most of them galaxies."""
    from omnisky.mock import Universe

    names = (*IMAGES_AND_SPECTRA, *OTHERS, *FLUXES)
    return Universe(seed=4321, n=24, size=96).observations(modalities=names)
