"""Fixtures that every room's tests may use."""

import os
import zlib
from pathlib import Path

# Two test processes on two cores: one thread each, set before numpy or torch are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from hypothesis import settings

# No deadlines: machines are busy. The same examples each time: a checkout that passed passes again.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """Let what a fixture of any scope draws not hang on what ran before it."""
    _seed(fixturedef.argname)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Let what a test draws not hang on what ran before it, its fixtures included."""
    _seed(item.nodeid)


def _seed(name: str) -> None:
    import torch

    torch.manual_seed(zlib.crc32(name.encode()))


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def mini():
    """Return the 399 real stars that ship with the package."""
    from omnisky.data import datasets

    return datasets.load("gaia-apogee-mini")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of survey files, or skip: they are no part of the repository."""
    folder = Path(os.environ.get("OMNISKY_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no survey files at {folder}; set OMNISKY_REAL_DATA to their folder")
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Return a function that puts a folder in the place of the hub and says what was asked."""
    from tests.pretrained.stand_in import Hub

    def connect(source: Path) -> Hub:
        found = Hub(source, tmp_path / "cache")
        monkeypatch.setattr("huggingface_hub.snapshot_download", found)
        return found

    return connect


@pytest.fixture(scope="session")
def star_tokenizer(mini):
    """Return small codecs of all 13 modalities, fitted to the mini stars, not trained."""
    import torch

    from omnisky.codecs import (
        SampledSpectrumCodec,
        SampledSpectrumCodecConfig,
        ScalarCodec,
        Tokenizer,
    )

    torch.manual_seed(0)
    measured = {**mini.observations, **mini.labels}
    xp = measured.pop("gaia_xp")
    spectrum = SampledSpectrumCodec(
        SampledSpectrumCodecConfig(
            modality="gaia_xp",
            n_pixels=len(xp.wavelength),
            n_amplitudes=8,
            bins=64,
            levels=(4, 4),
            patch=32,
            width=16,
            depth=1,
        )
    )
    spectrum.fit_basis(xp)
    scalars = {n: ScalarCodec.fit(m, modality=n, bins=32) for n, m in measured.items()}
    return Tokenizer({"gaia_xp": spectrum.eval(), **scalars})


@pytest.fixture(scope="session")
def star_model(star_tokenizer):
    """Return an untrained tiny model of all 13 modalities."""
    import torch

    from omnisky.model import Model

    torch.manual_seed(0)
    model = Model.from_preset("tiny", star_tokenizer)
    model.network.eval()
    return model


@pytest.fixture(scope="session")
def write_survey_files():
    """Return the function that writes a small sky as surveys deliver theirs."""
    return _write_survey_files


def _write_survey_files(folder: Path, count: int = 8) -> None:
    """Write a tractor table, its brick, an SDSS and a DESI coadd of the first objects of it.

    All but the last object of the table are galaxies; that one is a star. Spectra are 0.2 arcsec
    off, and the first six objects have them.
    """
    import numpy as np
    from astropy.io import fits
    from astropy.table import Table

    rng = np.random.default_rng(0)
    ra, dec = 10.0 + (np.arange(count) - count / 2) * 5 / 3600, np.full(count, 0.0005)
    bands = "griz"
    table = {
        "RELEASE": np.full(count, 10000, "i2"),
        "BRICKID": np.full(count, 330248, "i4"),
        "OBJID": np.arange(count, dtype="i4"),
        "TYPE": np.array(["EXP"] * (count - 1) + ["PSF"], "S4"),
        "RA": ra,
        "DEC": dec,
        "EBV": np.full(count, 0.05, "f4"),
        "MASKBITS": np.zeros(count, "i2"),
        "SHAPE_R": np.full(count, 1.5, "f4"),
        "BRICK_PRIMARY": np.ones(count, bool),
    }
    for band in bands.upper():
        table[f"FLUX_{band}"] = rng.uniform(5, 20, count).astype("f4")
        table[f"FLUX_IVAR_{band}"] = np.full(count, 4.0, "f4")
        table[f"MW_TRANSMISSION_{band}"] = np.full(count, 0.9, "f4")
        table[f"NOBS_{band}"] = np.full(count, 3, "i2")
        table[f"PSFSIZE_{band}"] = np.full(count, 1.2, "f4")
    Table(table).write(folder / "tractor-0100p000.fits")
    side, scale = 200, 0.262 / 3600
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0})
    header.update({"CRVAL2": 0.0, "CRPIX1": (side + 1) / 2, "CRPIX2": (side + 1) / 2})
    header.update({"CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale})
    (folder / "bricks").mkdir()
    for band in bands:
        for plane, low in (("image", -0.01), ("invvar", 2000.0)):
            pixels = rng.normal(low, 0.02, (side, side)).astype("f4")
            name = f"legacysurvey-0100p000-{plane}-{band}.fits"
            fits.PrimaryHDU(pixels, header).writeto(folder / "bricks" / name)
    _write_spectra(folder, ra[:6], dec[:6] + 0.2 / 3600, rng)


def _write_spectra(folder: Path, ra, dec, rng) -> None:
    import numpy as np
    from astropy.io import fits
    from astropy.table import Table

    count, pixels = len(ra), 80
    targets = {"TARGETID": 100 + np.arange(count), "TARGET_RA": ra, "TARGET_DEC": dec}
    fibermap = fits.BinTableHDU(Table(targets), name="FIBERMAP")
    arm = [
        fits.ImageHDU(3600 + 0.8 * np.arange(pixels), name="B_WAVELENGTH"),
        fits.ImageHDU(rng.normal(10, 1, (count, pixels)).astype("f4"), name="B_FLUX"),
        fits.ImageHDU(np.ones((count, pixels), "f4"), name="B_IVAR"),
        fits.ImageHDU(np.zeros((count, pixels), "i4"), name="B_MASK"),
    ]
    arm[1].header["BUNIT"] = "10**-17 erg/(s cm2 Angstrom)"
    fits.HDUList([fits.PrimaryHDU(), fibermap, *arm]).writeto(folder / "coadd-1-2-thru3.fits")
    redshifts = {
        "TARGETID": targets["TARGETID"],
        "Z": np.linspace(0.1, 0.6, count),
        "ZERR": np.full(count, 1e-4),
        "ZWARN": np.zeros(count, "i4"),
        "SPECTYPE": np.array(["GALAXY"] * count),
    }
    beside = fits.BinTableHDU(Table(redshifts), name="REDSHIFTS")
    fits.HDUList([fits.PrimaryHDU(), beside]).writeto(folder / "redrock-1-2-thru3.fits")
    (folder / "sdss").mkdir()
    primary = fits.PrimaryHDU()
    primary.header["BUNIT"] = "1E-17 erg/cm^2/s/Ang"
    for i in range(count):
        spectrum = {
            "FLUX": rng.normal(size=pixels).astype("f4"),
            "LOGLAM": (3.56 + 1e-4 * np.arange(pixels)).astype("f4"),
            "IVAR": np.ones(pixels, "f4"),
            "AND_MASK": np.zeros(pixels, "i4"),
        }
        about = {
            "SPECOBJID": np.array([str(1000 + i)]),
            "PLUG_RA": ra[i : i + 1],
            "PLUG_DEC": dec[i : i + 1],
            "Z": np.array([0.1], "f4"),
            "Z_ERR": np.array([0.01], "f4"),
            "ZWARNING": np.zeros(1, "i4"),
            "CLASS": np.array(["GALAXY"]),
        }
        tables = [fits.BinTableHDU(Table(part)) for part in (spectrum, about)]
        fits.HDUList([primary, *tables]).writeto(folder / "sdss" / f"spec-1-2-{i:04d}.fits")


@pytest.fixture
def change_source(tmp_path, monkeypatch):
    """Return a function that puts one text for another in the C file a module compiles."""
    originals = {}

    def change(module, right: str, wrong: str) -> None:
        original = originals.setdefault(module, module._SOURCE)
        source = original.read_text()
        assert right in source
        changed = tmp_path / original.name
        changed.write_text(source.replace(right, wrong))
        monkeypatch.setattr(module, "_SOURCE", changed)

    return change
