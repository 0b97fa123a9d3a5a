"""Fixtures that every room's tests may use."""

import os
from pathlib import Path

# Two test processes on two cores: one thread each, set before numpy or torch are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
