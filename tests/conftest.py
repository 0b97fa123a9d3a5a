"""Fixtures that every room's tests may use."""

import os
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


@pytest.fixture(scope="session")
def star_tokenizer(mini):
    """Return small codecs of all 13 modalities, fitted to the mini stars, not trained."""
    import torch

    from omnisky.codecs import ScalarCodec, SpectrumCodec, SpectrumCodecConfig, Tokenizer

    torch.manual_seed(0)
    measured = {**mini.observations, **mini.labels}
    xp = measured.pop("gaia_xp")
    spectrum = SpectrumCodec(
        SpectrumCodecConfig(
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
