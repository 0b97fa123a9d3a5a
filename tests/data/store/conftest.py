"""An invented survey with all kinds of measurements, small enough to write in a second."""

from importlib.util import find_spec

import numpy as np
import pytest

from omnisky.modalities import (
    Catalog,
    Coefficients,
    Image,
    Modality,
    Observations,
    Scalar,
    SegmentationMap,
    SkyObjects,
    Spectrum,
)

if find_spec("cdshealpix") is None or find_spec("numcodecs") is None:
    collect_ignore_glob = ["test_*.py"]  # they need omnisky[data]
WAVELENGTH = np.linspace(360.0, 982.4, 300)
BANDS = ("g", "r", "z")
SIZE = 12


def toy_sky(count: int, seed: int = 0, *, text: bool = False, cap_deg: float = 0.0) -> SkyObjects:
    """Make objects over the sky, or within a cap around (10, 20); ids differ from seed to seed."""
    rng = np.random.default_rng(seed)
    if cap_deg:
        ra, dec = 10 + rng.uniform(-1, 1, count) * cap_deg, 20 + rng.uniform(-1, 1, count) * cap_deg
    else:
        ra = rng.uniform(0, 360, count)
        dec = np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    ids = np.arange(count) + 100_000 * seed
    image = rng.normal(0, 1, (count, len(BANDS), SIZE, SIZE)).astype(np.float32)
    spectrum = rng.normal(0, 3, (count, len(WAVELENGTH))).astype(np.float32)
    seen = rng.random(spectrum.shape) > 0.05
    seen[: count // 5] = False  # objects without a spectrum
    value = rng.normal(size=(count, 10)).astype(np.float32)
    return SkyObjects(
        survey="toy",
        object_id=np.array([f"T{i}" for i in ids]) if text else ids,
        ra_deg=ra,
        dec_deg=dec,
        observations=Observations(
            {
                "toy_image": Image(
                    image,
                    rng.uniform(0.5, 2.0, image.shape).astype(np.float32),
                    rng.random(image.shape) > 0.05,
                    BANDS,
                    0.262,
                    rng.uniform(0.8, 1.2, (count, len(BANDS))).astype(np.float32),
                    rng.uniform(-0.5, 0.5, (count, 2)).astype(np.float32),
                ),
                "toy_spectrum": Spectrum(
                    spectrum,
                    rng.uniform(0.5, 2.0, spectrum.shape).astype(np.float32),
                    seen,
                    WAVELENGTH,
                    rng.uniform(0.1, 0.2, spectrum.shape).astype(np.float32),
                ),
                "toy_coefficients": Coefficients(
                    value, np.ones_like(value), np.ones(value.shape, bool)
                ),
                "toy_catalog": _catalog(rng, count),
                "toy_map": SegmentationMap(
                    rng.random((count, SIZE, SIZE)), rng.random((count, SIZE, SIZE)) > 0.1, 0.262
                ),
                "toy_z": Scalar(rng.uniform(0, 1, count), mask=rng.random(count) > 0.2),
                "toy_mag": Scalar(rng.uniform(15, 20, count), np.full(count, 25.0)),
            }
        ),
        epoch=Scalar(np.full(count, 2015.5)),
        pm_ra=Scalar(rng.normal(size=count), mask=rng.random(count) > 0.5),
        pm_dec=Scalar(rng.normal(size=count), mask=rng.random(count) > 0.5),
    )


def _catalog(rng: np.random.Generator, count: int) -> Catalog:
    """Return up to 5 sources an object."""
    e1, e2 = rng.uniform(-0.7, 0.7, (2, count, 5))
    x, y, r = rng.normal(0, 5, (3, count, 5))
    known = np.arange(5) < rng.integers(0, 6, count)[:, None]
    return Catalog(x, y, e1, e2, np.abs(r), known)


TOY_MAG = Modality(
    name="toy_mag",
    kind="scalar",
    survey="toy",
    unit="mag",
    ucd="phot.mag",
    column="mag",
    description="Invented magnitude",
    valid_range=(-np.inf, 40.0),
)

_PARTS = {
    Image: ("flux", "ivar", "mask", "psf_fwhm_arcsec", "offset_pixels"),
    Spectrum: ("flux", "ivar", "mask", "lsf_sigma"),
    Coefficients: ("value", "ivar", "mask"),
    Catalog: ("x", "y", "e1", "e2", "r", "mask"),
    SegmentationMap: ("field", "mask"),
    Scalar: ("value", "ivar", "mask"),
}


def assert_same(found: SkyObjects, given: SkyObjects) -> None:
    """Assert that two sets of objects are the same, whatever their order."""
    assert set(found.object_id.tolist()) == set(given.object_id.tolist())
    assert len(found) == len(given)
    place = {name: i for i, name in enumerate(given.object_id.tolist())}
    given = given[np.array([place[name] for name in found.object_id.tolist()])]
    assert (found.ra_deg == given.ra_deg).all()
    assert (found.dec_deg == given.dec_deg).all()
    pairs = [(found.observations[n], m) for n, m in given.observations.items()]
    pairs += [(getattr(found, n), getattr(given, n)) for n in ("epoch", "pm_ra", "pm_dec")]
    for mine, theirs in pairs:
        for part in _PARTS[type(theirs)]:
            np.testing.assert_array_equal(getattr(mine, part), getattr(theirs, part), part)


def together(batches) -> SkyObjects:
    """Return several batches as one."""
    batches = list(batches)

    def join(parts):
        first = parts[0]
        arrays = {p: np.concatenate([getattr(m, p) for m in parts]) for p in _PARTS[type(first)]}
        if isinstance(first, SegmentationMap):
            arrays["pixel_scale_arcsec"] = first.pixel_scale_arcsec
        if isinstance(first, Image):
            arrays |= {"bands": first.bands, "pixel_scale_arcsec": first.pixel_scale_arcsec}
        if isinstance(first, Spectrum):
            arrays["wavelength"] = first.wavelength
        return type(first)(**arrays)

    names = batches[0].observations
    return SkyObjects(
        survey=batches[0].survey,
        object_id=np.concatenate([b.object_id for b in batches]),
        ra_deg=np.concatenate([b.ra_deg for b in batches]),
        dec_deg=np.concatenate([b.dec_deg for b in batches]),
        observations=Observations({n: join([b.observations[n] for b in batches]) for n in names}),
        **{n: join([getattr(b, n) for b in batches]) for n in ("epoch", "pm_ra", "pm_dec")},
    )


@pytest.fixture(scope="session")
def sky():
    """Return the function that makes objects."""
    return toy_sky


@pytest.fixture(scope="session")
def toy_mag():
    """Return the declaration of the invented magnitude."""
    return TOY_MAG


@pytest.fixture(scope="session")
def same():
    """Return the function that compares objects with a list of batches."""
    return lambda found, batches: assert_same(found, together(batches))


@pytest.fixture(scope="session")
def batches():
    """Return three batches of objects over the whole sky, some hundred in all."""
    return [toy_sky(60, seed) for seed in range(3)]
