"""A released-layout folder of the peer's spectrum codec with random weights, and spectra for it."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from omnisky.modalities import Spectrum

SMALL = {
    "encoder_depths": [1, 1, 2, 1],
    "encoder_dims": [8, 16, 24, 32],
    "decoder_depths": [1, 2, 1, 1],
    "decoder_dims": [24, 16, 8, 2],
    "lambda_min": 3500.0,
    "resolution": 0.8,
    "num_pixels": 8704,
    "latent_channels": 32,
    "embedding_dim": 10,
    "clip_ivar": 100.0,
    "clip_flux": None,
    "input_scaling": 0.2,
    "normalization_range": [-1, 5],
    "codebook_size": 1024,
    "dim": 10,
}
PAPER = {
    **SMALL,
    "encoder_depths": [3, 3, 27, 3],
    "encoder_dims": [64, 128, 256, 512],
    "decoder_depths": [3, 9, 3, 3],
    "decoder_dims": [256, 128, 64, 2],
    "latent_channels": 512,
}


def _peer_folder(folder: Path, config: dict) -> SimpleNamespace:
    from aion.codecs.spectrum import SpectrumCodec
    from safetensors.torch import save_file

    torch.manual_seed(0)
    peer = SpectrumCodec(**config).eval()
    for name, parameter in peer.named_parameters():
        # Response normalisation starts closed and weights start small; open both so that all
        # branches and all codes count.
        if parameter.ndim > 1 and "grn" not in name:
            torch.nn.init.normal_(parameter, 0.0, 1.5 * parameter[0].numel() ** -0.5)
        elif "grn" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    with torch.no_grad():
        # Balance the bits.
        latent, _ = peer._encode(as_peer(make_spectra(DESI, 4)))
        peer.quant_conv.bias -= latent.movedim(1, 0).flatten(1).median(1).values
    path = folder / "codecs" / "spectrum"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(
        {k: v.contiguous().clone() for k, v in peer.state_dict().items()},
        path / "model.safetensors",
    )
    return SimpleNamespace(codec=peer, folder=folder, config=config)


@pytest.fixture(scope="session")
def small_peer(tmp_path_factory) -> SimpleNamespace:
    return _peer_folder(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="session")
def paper_peer(tmp_path_factory) -> SimpleNamespace:
    return _peer_folder(tmp_path_factory.mktemp("paper"), PAPER)


def make_spectra(wavelength: np.ndarray, count: int, seed: int = 0) -> Spectrum:
    """Return galaxy-like spectra with lines, noise, and levels over four decades."""
    rng = np.random.default_rng(seed)
    level = 10 ** rng.uniform(-1.3, 2.5, (count, 1))
    slope = rng.normal(0, 1, (count, 1)) * (wavelength / 600 - 1)
    flux = np.exp(slope) * (1 + 0.1 * np.sin(wavelength / rng.uniform(5, 50, (count, 1))))
    for _ in range(5):
        centre = rng.uniform(wavelength[0], wavelength[-1], (count, 1))
        flux += rng.uniform(-0.5, 5, (count, 1)) * np.exp(-0.5 * ((wavelength - centre) / 0.4) ** 2)
    error = 10 ** rng.uniform(-1.5, 0.5, (count, 1)) * np.ones_like(flux)
    flux = level * flux + rng.normal(0, 1, flux.shape) * error
    return Spectrum(flux, 1 / error**2, np.ones(flux.shape, bool), wavelength)


DESI = 360.0 + 0.08 * np.arange(7781)
SDSS = 10 ** (2.5563 + 1e-4 * np.arange(4600))


def as_peer(spectra: Spectrum, modality: str = "desi"):
    """Return spectra as the peer takes them: Ångström, float32, mask True = bad."""
    from aion.modalities import DESISpectrum, SDSSSpectrum

    wavelength = torch.from_numpy(10 * spectra.wavelength).float().expand(len(spectra), -1)
    return {"desi": DESISpectrum, "sdss": SDSSSpectrum}[modality](
        flux=torch.from_numpy(spectra.flux).clone(),
        ivar=torch.from_numpy(spectra.ivar).float(),
        mask=torch.from_numpy(~spectra.mask),
        wavelength=wavelength.contiguous(),
    )


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """Return what makes spectra and brings them into the peer's form, and two surveys' pixels."""
    return SimpleNamespace(make=make_spectra, as_peer=as_peer, desi=DESI, sdss=SDSS)
