"""Invented neighbours and maps, and codecs of them."""

import numpy as np
import pytest

from omnisky.modalities import Catalog, SegmentationMap


@pytest.fixture(scope="session")
def catalog():
    """Return catalogues of 400 objects with 1 to 20 sources, four of ten of them points."""
    rng = np.random.default_rng(0)
    shape = 400, 20
    known = np.arange(20) < rng.integers(1, 21, 400)[:, None]
    x, y = rng.uniform(-12.5, 12.5, (2, *shape))
    x[:, 0] = y[:, 0] = 0
    extended = rng.random(shape) > 0.4
    e1, e2 = rng.normal(0, 0.2, (2, *shape)).clip(-0.9, 0.9) * extended
    r = rng.lognormal(0, 0.6, shape) * extended
    return Catalog(x, y, e1, e2, r, known)


@pytest.fixture(scope="session")
def maps(catalog):
    """Return maps with an ellipse a source."""
    rng = np.random.default_rng(1)
    y, x = (np.mgrid[:96, :96] - 47.5) * 0.262
    field = np.zeros((24, 96, 96))
    for i, k in zip(*np.nonzero(catalog.mask[:24]), strict=True):
        away = np.hypot(x - catalog.x[i, k], y - catalog.y[i, k])
        field[i][away < max(catalog.r[i, k], 0.4)] = rng.integers(1, 6) / 5
    return SegmentationMap(field, pixel_scale_arcsec=0.262)


@pytest.fixture(scope="session")
def catalog_codec(catalog):
    """Return a catalog codec with 64 bins, fitted."""
    from omnisky.codecs.surroundings.catalog import CatalogCodec

    return CatalogCodec.fit(catalog, modality="legacysurvey_catalog", bins=64)


@pytest.fixture(scope="session")
def map_codec():
    """Return a small codec of maps with random weights."""
    import torch

    from omnisky.codecs.surroundings.segmentation import (
        SegmentationCodec,
        SegmentationCodecConfig,
    )

    torch.manual_seed(0)
    config = SegmentationCodecConfig(
        modality="legacysurvey_segmentation", width=16, hidden=4, levels=(8, 5, 5, 5)
    )
    return SegmentationCodec(config).eval()
