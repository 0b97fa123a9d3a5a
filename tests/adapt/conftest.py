"""A tiny untrained model of the real kind, and real stars with labels."""

import pytest
import torch

PHOTOMETRY = ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k")
INPUTS = ("gaia_xp", *PHOTOMETRY)


@pytest.fixture(scope="session")
def tiny(mini):
    from omnisky.codecs.scalars.scalar import ScalarCodec
    from omnisky.codecs.spectrum.sampled import SampledSpectrumCodec, SampledSpectrumCodecConfig
    from omnisky.codecs.tokenizer import Tokenizer
    from omnisky.model import Model

    torch.manual_seed(0)
    xp = mini.observations["gaia_xp"]
    config = SampledSpectrumCodecConfig(
        modality="gaia_xp", n_pixels=len(xp.wavelength), n_amplitudes=8, bins=64, width=16, depth=1
    )
    spectrum = SampledSpectrumCodec(config).eval()
    spectrum.fit_basis(xp)
    scalars = {
        name: ScalarCodec.fit(mini.observations[name], modality=name, bins=64)
        for name in PHOTOMETRY
    }
    return Model.from_preset("tiny", Tokenizer({"gaia_xp": spectrum, **scalars}))


@pytest.fixture(scope="session")
def stars(mini):
    """Return 150 stars: observations, and two labels of which some are unknown."""
    index = slice(0, 150)
    labels = mini.targets("apogee_teff", "apogee_fe_h")[index]
    labels[::7, 1] = float("nan")
    return mini.observations.select(*INPUTS)[index], labels
