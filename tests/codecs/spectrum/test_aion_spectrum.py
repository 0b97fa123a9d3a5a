"""Parity with AION-1's released spectrum codec, and its defects, each with a test of its name."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec, LatentSpectrumCodec
from omnisky.modalities import Spectrum, UnknownModalityError
from omnisky.storage import CheckpointError

# Values of these tests lie where they may; that the warning is given is tested in test_codec.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*lie outside the range this codec")

COMPAT = "aion-0.0.2"


@pytest.fixture(scope="module")
def ours(small_peer) -> LatentSpectrumCodec:
    return Codec.from_pretrained(small_peer.folder, modality="desi_spectrum")


@pytest.fixture(scope="module")
def compat(small_peer) -> LatentSpectrumCodec:
    return Codec.from_pretrained(small_peer.folder, modality="desi_spectrum", compat=COMPAT)


@torch.no_grad()
def peer_ids(peer, spectra) -> torch.Tensor:
    return peer.codec.encode(spectra).long()


def agree(peer, codec, spectra: Spectrum, tools, survey: str) -> None:
    """Compare tokens, and reconstructions on the latent grid and on the spectra's own pixels."""
    ids = codec.encode(spectra)
    theirs = peer_ids(peer, tools.as_peer(spectra, survey))
    assert (ids == theirs).float().mean() >= 0.9999
    # Random weights, but not blind to what they are given.
    assert (ids[0, 1:] != ids[-1, 1:]).float().mean() > 0.5 or len(ids) == 1
    assert len(ids[:, 1:].unique()) > 20
    for wavelength in (codec.grid.wavelength, spectra.wavelength):
        angstrom = torch.from_numpy(10 * wavelength).float().repeat(len(spectra), 1)
        with torch.no_grad():
            expected = peer.codec.decode(theirs, wavelength=angstrom)
        flux, bad = codec.reconstruct(theirs, wavelength)
        assert ((bad > 0.5) == expected.mask).float().mean() >= 0.9999
        error = (flux - expected.flux).abs() / expected.flux.abs().amax(1, keepdim=True)
        assert error.flatten().double().quantile(0.99) < 1e-4
        # Normalisation over the last stage's two channels is all but a sign, which carries rounding
        # to the output. test_reconstruction_is_nearer_to_double_precision compares with the truth.
        assert error.max() < 5e-3


@pytest.mark.parametrize("survey", ["desi", "sdss"])
@pytest.mark.parametrize("which", ["ours", "compat"])
def test_tokens_and_reconstructions_are_those_of_the_peer(
    survey, which, small_peer, tools, request
):
    codec = request.getfixturevalue(which).of(f"{survey}_spectrum")
    spectra = tools.make(getattr(tools, survey), 16, seed=1)
    agree(small_peer, codec, spectra, tools, survey)


@pytest.mark.slow
def test_tokens_and_reconstructions_are_those_of_the_peer_at_paper_size(paper_peer, tools):
    codec = Codec.from_pretrained(paper_peer.folder, modality="desi_spectrum")
    assert sum(p.numel() for p in codec.parameters()) == 24_751_734
    assert codec.n_tokens == 273
    agree(paper_peer, codec, tools.make(tools.desi, 1), tools, "desi")
    agree(paper_peer, codec.of("sdss_spectrum"), tools.make(tools.sdss, 1), tools, "sdss")


def test_reconstruction_is_nearer_to_double_precision(small_peer, ours, tools):
    ids = ours.encode(tools.make(tools.desi, 4))
    peer = copy.deepcopy(small_peer.codec)
    with torch.no_grad():
        codes = peer.quantizer.decode(ids[:, 1:])
        single = peer.decoder(peer.post_quant_conv(codes))
        exact = peer.double().decoder(peer.post_quant_conv(codes.double()))
        found = ours._output(ours.decoder, ours.quantiser.indices_to_codes(ids[:, 1:]))
    assert (found.transpose(1, 2) - exact).abs().mean() <= (single - exact).abs().mean()


def test_one_network_serves_both_surveys(ours):
    sdss = ours.of("sdss_spectrum")
    assert sdss.encoder is ours.encoder
    assert ours.modalities == ("desi_spectrum", "sdss_spectrum")
    with pytest.raises(UnknownModalityError, match="lamost_spectrum"):
        ours.of("lamost_spectrum")


def test_it_saves_as_a_codec_of_our_own_and_loads_again(compat, tools, tmp_path):
    spectra = tools.make(tools.desi, 2)
    compat.save(tmp_path / "codec")
    again = Codec.from_pretrained(tmp_path / "codec", modality="desi_spectrum")
    assert again.config == compat.config
    assert torch.equal(again.encode(spectra), compat.encode(spectra))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing tensor", "encoder.norm.weight"),
        ("unknown tensor", "more"),
        ("shape", "quant_conv.bias"),
        ("constant", "latent_grid.lambda_min"),
        ("truncated", "damaged or pickled"),
        ("missing field", "clip_ivar"),
        ("unknown field", "surprise"),
        ("dim", "codebook_size"),
    ],
)
def test_a_damaged_folder_is_refused(damage, message, small_peer, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "spectrum"
    shutil.copytree(small_peer.folder / "codecs" / "spectrum", folder)
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    tensors = load_file(weights)
    if damage == "missing tensor":
        tensors.pop("encoder.norm.weight")
    elif damage == "unknown tensor":
        tensors["more"] = torch.zeros(1)
    elif damage == "shape":
        tensors["quant_conv.bias"] = torch.zeros(3)
    elif damage == "constant":
        tensors["latent_grid.lambda_min"] += 1
    elif damage == "missing field":
        config.pop("clip_ivar")
    elif damage == "unknown field":
        config["surprise"] = 1
    elif damage == "dim":
        config["dim"] = 9
    save_file(tensors, weights)
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        Codec.from_pretrained(folder, modality="desi_spectrum")


# -- Defects of the release: what the peer does, the same under compat where it is a value, and
# -- right by default.


def with_hole(spectra: Spectrum, first: int, last: int, inside: float = 0.0) -> Spectrum:
    """Return spectra with pixels first … last - 1 masked, of this flux under the mask."""
    mask, flux = spectra.mask.copy(), spectra.flux.copy()
    mask[:, first:last] = False
    flux[:, first:last] = inside
    return Spectrum(flux, spectra.ivar, mask, spectra.wavelength)


def test_aion_defect_masked_pixels_leak(small_peer, ours, compat, tools):
    spectra = tools.make(tools.desi, 4)
    holed = with_hole(spectra, 2000, 2020)
    wild = tools.as_peer(holed)
    wild.flux[:, 2000:2020] = 1e4
    assert not torch.equal(peer_ids(small_peer, wild), peer_ids(small_peer, tools.as_peer(holed)))
    # Flux under the mask is zero in a Spectrum, so compat passes on these zeros and no more.
    assert torch.equal(compat.encode(holed), peer_ids(small_peer, tools.as_peer(holed)))
    assert torch.equal(ours.encode(with_hole(spectra, 2000, 2020, inside=1e4)), ours.encode(holed))
    # Zeros are no better than other numbers: the default sees a straight line without weight.
    x, _ = ours._inputs(holed)
    z, _ = compat._inputs(holed)
    hole = slice(125 + 2001, 125 + 2019)
    assert (x[:, hole, 1] == 0).all()
    assert torch.allclose(z[:, hole, 0], torch.asinh(torch.tensor(-0.2)))
    line = torch.sinh(x[:, hole, 0]).diff(n=2, dim=1)
    assert line.abs().max() < 1e-3


def test_aion_defect_padded_wavelengths(small_peer, ours, compat, tools):
    spectra = tools.make(tools.desi, 2)
    plain = tools.as_peer(spectra)
    padded = copy.deepcopy(plain)
    for name, value in (("flux", 0.0), ("ivar", 0.0), ("mask", True), ("wavelength", -1.0)):
        tensor = getattr(padded, name)
        end = torch.full((2, 200), value, dtype=tensor.dtype)
        setattr(padded, name, torch.cat([tensor, end], 1))
    assert (peer_ids(small_peer, padded) == peer_ids(small_peer, plain)).float().mean() < 0.9
    # A Spectrum cannot hold padding, so compat has nothing to reproduce.
    flux, wavelength = np.pad(spectra.flux, ((0, 0), (0, 200))), np.pad(tools.desi, (0, 200))
    wavelength[-200:] = -0.1
    with pytest.raises(ValueError, match="increase strictly"):
        Spectrum(flux, wavelength=wavelength)
    for codec in (ours, compat):
        assert torch.equal(codec.encode(spectra), peer_ids(small_peer, plain))


def test_aion_defect_decode_outside_the_grid(small_peer, ours, compat, tools):
    ids = ours.encode(tools.make(tools.desi, 2))
    wavelength = np.linspace(300.0, 1100.0, 500)
    outside = ~ours.grid.overlaps(wavelength)
    angstrom = torch.from_numpy(10 * wavelength).float().repeat(2, 1)
    with torch.no_grad():
        theirs = small_peer.codec.decode(ids, wavelength=angstrom)
    level = ours._unit(ids[:, 0])
    assert not theirs.mask[:, outside].any()
    assert torch.allclose(theirs.flux[:, outside], level.expand(-1, int(outside.sum())))
    same = compat.decode(ids, wavelength=wavelength)
    assert same.mask[:, outside].all()
    np.testing.assert_allclose(same.flux[:, outside], theirs.flux[:, outside], rtol=1e-6)
    assert not ours.decode(ids, wavelength=wavelength).mask[:, outside].any()
    assert ours.decode(ids, wavelength=wavelength, threshold=1).mask[:, ~outside].all()


def test_aion_defect_mask_polarity(small_peer, ours, compat, tools):
    # Its guide builds masks as True = good, its code reads True = bad.
    spectra = tools.make(tools.desi, 2)
    inverted = tools.as_peer(spectra)
    inverted.mask = ~inverted.mask
    ids = peer_ids(small_peer, inverted)
    assert (ids[:, 0] == ids[0, 0]).all()  # the mean of no pixel
    for codec in (ours, compat):
        decoded = codec.decode(codec.encode(spectra), wavelength=tools.desi)
        _, bad = codec.reconstruct(codec.encode(spectra), tools.desi)
        assert np.array_equal(decoded.mask, (bad <= 0.5).numpy())


def test_aion_defect_defaults_fail_own_assert():
    from aion.codecs.spectrum import SpectrumCodec

    from omnisky.codecs import LatentSpectrumCodecConfig

    with pytest.raises(AssertionError):
        SpectrumCodec()
    assert LatentSpectrumCodecConfig(modalities=("desi_spectrum",)).patch == 32


def test_aion_defect_float64_crash(small_peer, ours, compat, tools):
    spectra = tools.make(tools.desi, 2)
    double = tools.as_peer(spectra)
    double.flux, double.ivar = double.flux.double(), double.ivar.double()
    with pytest.raises(RuntimeError):
        peer_ids(small_peer, double)
    for codec in (ours, compat):
        given = Spectrum(
            spectra.flux.astype(np.float64), spectra.ivar, spectra.mask, spectra.wavelength
        )
        assert torch.equal(codec.encode(given), codec.encode(spectra))


def test_aion_defect_unsorted_wavelengths(small_peer, tools):
    spectra = tools.make(tools.desi, 2)
    shuffled = tools.as_peer(spectra)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(tools.desi)))
    for name in ("flux", "ivar", "mask", "wavelength"):
        setattr(shuffled, name, getattr(shuffled, name)[:, order])
    same = peer_ids(small_peer, shuffled) == peer_ids(small_peer, tools.as_peer(spectra))
    assert same[:, 1:].float().mean() < 0.9  # accepted, and other tokens for the same spectrum
    with pytest.raises(ValueError, match="Sort wavelength and flux together"):
        Spectrum(spectra.flux, wavelength=tools.desi[order.numpy()])


def test_aion_defect_fabricated_ivar(small_peer, ours, compat, tools):
    ids = ours.encode(tools.make(tools.desi, 2))
    with torch.no_grad():
        assert (small_peer.codec.decode(ids).ivar == 1).all()
    assert (ours.decode(ids).ivar == 0).all()
    same = compat.decode(ids)
    assert (same.ivar[same.mask] == 1).all()


def test_aion_defect_mean_over_one_pixel_too_many(small_peer, ours, compat, tools):
    spectra = tools.make(tools.desi, 3)
    few = with_hole(with_hole(spectra, 0, 4000), 4003, 7781)
    peer = peer_ids(small_peer, tools.as_peer(few))
    # Loaded weights keep the convention they were trained with: decoding multiplies by the level
    # that the token says, whatever it is the mean of.
    assert torch.equal(compat.encode(few)[:, 0], peer[:, 0])
    assert torch.equal(ours.encode(few)[:, 0], peer[:, 0])
    mean = few.flux.sum(1) / 4
    found = ours._unit(peer[:, :1].flatten()).numpy()[:, 0]
    np.testing.assert_allclose(found, np.maximum(mean, 0.1), rtol=0.02, atol=0.02)
    # A codec of our own takes the median of the good pixels and the nearest bin.
    from omnisky.codecs import LatentSpectrumCodecConfig

    tiny = {"encoder_depths": (1,), "encoder_dims": (8,), "decoder_depths": (1,)}
    native = LatentSpectrumCodec(
        LatentSpectrumCodecConfig(modalities=("desi_spectrum",), decoder_dims=(2,), **tiny)
    )
    native_level = native._unit(native.encode(few)[:, 0]).detach().numpy()[:, 0]
    median = np.median(few.flux[:, 4000:4003], axis=1)
    np.testing.assert_allclose(native_level, np.maximum(median, 0.1), rtol=0.009)
