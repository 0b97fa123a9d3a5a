"""The latent-grid codec on spectra of DESI, SDSS, BOSS and LAMOST as the surveys deliver them."""

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec
from omnisky.modalities import Spectrum
from omnisky.surveys import desi, lamost, sdss

pytestmark = pytest.mark.real_data
FILES = {
    "desi_spectrum": (desi, "desi_coadd", "coadd-*.fits"),
    "sdss_spectrum": (sdss, "sdss_spec", "spec-*.fits"),
    "lamost_spectrum": (lamost, "lamost_spec", "spec-*.fits"),
}


@pytest.fixture(scope="module", params=FILES)
def spectra(request, real_data) -> Spectrum:
    survey, folder, pattern = FILES[request.param]
    paths = sorted((real_data / "native" / folder).glob(pattern))[: 1 if survey is desi else 4]
    if not paths:
        pytest.skip(f"no files {folder}/{pattern} among the survey files")
    found = next(iter(survey.read(paths))).observations[request.param]
    return found[found.present][:4]


@pytest.fixture(scope="module")
def codec(small_peer):
    return Codec.from_pretrained(small_peer.folder, modality="desi_spectrum")


def test_what_reaches_the_network_is_finite_and_free_of_bad_pixels(codec, spectra):
    inputs, _ = codec._inputs(spectra)
    assert inputs.isfinite().all()
    bad = ~spectra.mask
    bad[:, 1000:1010] = True
    spectra = Spectrum(spectra.flux, spectra.ivar, ~bad, spectra.wavelength)
    wild = np.where(bad, 1e5, spectra.flux)
    given = Spectrum(wild, spectra.ivar, spectra.mask, spectra.wavelength)
    assert torch.equal(codec.encode(given), codec.encode(spectra))


def test_compat_gives_the_tokens_of_the_peer(small_peer, spectra, tools):
    compat = Codec.from_pretrained(small_peer.folder, modality="desi_spectrum", compat="aion-0.0.2")
    with torch.no_grad():
        theirs = small_peer.codec.encode(tools.as_peer(spectra))
    assert (compat.encode(spectra) == theirs).float().mean() >= 0.9999
