"""Small image codecs and images, ours and AION-1's."""

import json

import numpy as np
import pytest
import torch

from omnisky.codecs import ImageCodec, ImageCodecConfig
from omnisky.modalities import Image

SCALES = {"legacysurvey_image": 0.262, "hsc_image": 0.168}
BANDS = {"legacysurvey_image": tuple("griz"), "hsc_image": tuple("grizy")}
# One nanomaggy in the unit of AION-1's images: zero point 22.5 and 27.
UNITS = {"legacysurvey_image": 1.0, "hsc_image": 10**1.8}


def _images(modality, count=3, size=104, seed=0, bands=None):
    """Return galaxy-like images with noise of 0.02 nmgy a pixel."""
    bands = BANDS[modality] if bands is None else bands
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    flux = np.empty((count, len(bands), size, size))
    for image in flux:
        # Faint ones, and one beyond the limits.
        peak, width = 10 ** rng.uniform(-1, 0.7), rng.uniform(2, 8)
        shape = np.exp(-np.hypot(x, y * rng.uniform(1, 2)) / width)
        image[:] = peak * shape * rng.uniform(0.5, 1.5, (len(bands), 1, 1))
    flux += 0.02 * rng.normal(size=flux.shape)
    return Image(
        flux,
        ivar=np.full(flux.shape, 2500.0),
        bands=bands,
        pixel_scale_arcsec=SCALES[modality],
        psf_fwhm_arcsec=np.full(flux.shape[:2], 1.2),
    )


def open_gates(network):
    """Open what starts closed, so that every branch counts."""
    for name, parameter in network.named_parameters():
        if name.endswith(("gate.excite.weight", "net.4.net.2.weight")):
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        if name.endswith(("gate.excite.bias", "net.4.net.2.bias")):
            torch.nn.init.zeros_(parameter)


@pytest.fixture
def nano():
    """Return an untrained native codec of 144 tokens."""
    torch.manual_seed(0)
    codec = ImageCodec(
        ImageCodecConfig(
            modalities=("legacysurvey_image", "hsc_image"),
            levels=(5, 5, 5),
            compressions=3,
            width=8,
            hidden=32,
            units=1,
            kernel=3,
            projection=8,
        )
    )
    open_gates(codec)
    batch = codec.prepare(_images("legacysurvey_image", count=2, seed=9))
    keys = [("legacysurvey_image", band) for band in "griz"]
    with torch.no_grad():
        latent = codec._encode_latent(codec._compress(batch["flux"], keys), batch["mask"], keys)
        std, mean = torch.std_mean(latent, (0, 1, 2))
        codec.to_latent.weight /= std[:, None, None, None]
        codec.to_latent.bias.sub_(mean).div_(std)
    return codec.eval()


def _use_all_codes(peer):
    """Scale what a random network says as training would: latents to 0 ± 1, fluxes to some nmgy."""
    from aion.modalities import LegacySurveyImage

    bands = ["DES-G", "DES-R", "DES-I", "DES-Z"]
    flux = torch.from_numpy(_images("legacysurvey_image", count=2, size=96, seed=9).flux)
    with torch.no_grad():
        latent = peer._encode(LegacySurveyImage(flux=flux, bands=bands))
        std, mean = torch.std_mean(latent, (0, 2))
        peer.pre_quant_proj.weight /= std[:, None, None, None]
        peer.pre_quant_proj.bias.sub_(mean).div_(std)
        faint = peer.decode(torch.randint(4375, (1, 576)), bands=bands).flux
        gain = 0.7 / (0.1 * torch.asinh(100 * faint)).abs().max()
        peer.subsample_out.weight *= gain
        peer.subsample_out.bias *= gain


def _peer(folder, **changes):
    """Write a random codec of AION-1 as the hub has it; return the peer's own."""
    from aion.codecs.image import ImageCodec as PeerCodec
    from safetensors.torch import save_file

    torch.manual_seed(1)
    config = {
        "quantizer_levels": [7, 5, 5, 5, 5],
        "hidden_dims": 512,
        "multisurvey_projection_dims": 54,
        "n_compressions": 2,
        "num_consecutive": 4,
        "embedding_dim": 5,
        "range_compression_factor": 0.01,
        "mult_factor": 10.0,
        **changes,
    }
    peer = PeerCodec(**config).eval()
    open_gates(peer)
    _use_all_codes(peer)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous().clone() for name, tensor in peer.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return peer


@pytest.fixture(scope="session")
def peer_of_aion(tmp_path_factory):
    """Return a small codec of AION-1 and the folder `from_pretrained` takes."""
    home = tmp_path_factory.mktemp("aion-base")
    small = {"hidden_dims": 32, "multisurvey_projection_dims": 8, "num_consecutive": 1}
    return _peer(home / "codecs" / "image", **small), home


def _peer_encode(peer, modality, images):
    """Return the tokens the peer gives images of ours, in its own unit and band names."""
    import aion.modalities

    name = {"legacysurvey_image": "LegacySurveyImage", "hsc_image": "HSCImage"}[modality]
    prefix = {"legacysurvey_image": "DES", "hsc_image": "HSC"}[modality]
    flux = torch.from_numpy(images.flux * np.float32(UNITS[modality]))
    given = getattr(aion.modalities, name)(
        flux=flux, bands=[f"{prefix}-{band.upper()}" for band in images.bands]
    )
    with torch.no_grad():
        return peer.encode(given).long()


@pytest.fixture(scope="session")
def make_images():
    return _images


@pytest.fixture(scope="session")
def make_peer():
    return _peer


@pytest.fixture(scope="session")
def peer_encode():
    return _peer_encode
