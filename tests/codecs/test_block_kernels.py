"""Compiled ConvNeXt blocks against the same blocks in torch."""

import numpy as np
import pytest
import torch

from omnisky.codecs import LatentSpectrumCodec, LatentSpectrumCodecConfig
from omnisky.codecs.fast import block_kernels, convnext, native_kernels
from omnisky.codecs.spectrum import convnext as networks
from omnisky.codecs.spectrum.convnext import ConvNextDecoder, ConvNextEncoder, in_precision
from omnisky.modalities import Spectrum

needs_kernels = pytest.mark.skipif(
    block_kernels() is None, reason="no C compiler whose kernels give what torch gives"
)


def _network(kind, dims):
    torch.manual_seed(0)
    depths = (2,) * len(dims)
    inputs = 2 if kind is ConvNextEncoder else 16
    network = kind(inputs, depths, dims).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # Response normalisation starts closed.
            parameter.normal_(0, 0.3) if "grn" in name else parameter.mul_(3)
    return network, torch.randn(3, 80, inputs)


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("kind", "dims"),
    # The last stages of the decoder have too few channels for the kernels.
    [(ConvNextEncoder, (32, 64, 128)), (ConvNextDecoder, (64, 32, 2)), (ConvNextEncoder, (48, 10))],
)
def test_compiled_network_equals_torch(kind, dims, threads, monkeypatch):
    network, x = _network(kind, dims)
    given = x.clone()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = in_precision(network, "float32")(x)
    want = network.double()(x.double())
    assert torch.equal(x, given)
    torch.testing.assert_close(found.double(), want, rtol=0, atol=5e-6 * float(want.abs().max()))


@needs_kernels
@torch.no_grad()
def test_an_object_does_not_depend_on_its_company_nor_on_threads(monkeypatch):
    network, x = _network(ConvNextEncoder, (32, 64))
    run = in_precision(network, "float32")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one = run(x)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(run(x), one)
    torch.testing.assert_close(run(x[1:2]), one[1:2], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("way", ["compiled", "torch"])
def test_bf16_is_near_float32(way, monkeypatch):
    if way == "torch":
        monkeypatch.setattr(networks, "block_kernels", lambda: None)
    elif block_kernels() is None:
        pytest.skip("no C compiler whose kernels give what torch gives")
    network, x = _network(ConvNextDecoder, (64, 32, 2))
    want, found = network(x), in_precision(network, "bf16")(x)
    assert 0 < float((found - want).std() / want.std()) < 0.02
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_weights_may_change_between_calls():
    network, x = _network(ConvNextEncoder, (32, 64))
    with torch.no_grad():
        in_precision(network, "float32")(x)
        network.stages[0][0].pwconv1.weight.data.mul_(2)
        found = in_precision(network, "float32")(x)
        torch.testing.assert_close(found, network(x), rtol=0, atol=1e-5 * float(found.abs().max()))


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match=r"'float32' or 'bf16'; found 'fp8'"):
        in_precision(_network(ConvNextEncoder, (32, 64))[0], "fp8")


@needs_kernels
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("0.797884447f", "0.81f"),
        ("+ LOAD(shift + c), short_)", ", short_)"),
        ("load(h, i * channels + c, 1) * factor", "load(h, i * channels + c, 1)"),
    ],
)
def test_kernels_that_differ_are_not_used(right, wrong, change_source):
    change_source(convnext, right, wrong)
    assert block_kernels.__wrapped__() is None


@pytest.mark.parametrize(("name", "value"), [("OMNISKY_NATIVE", "0"), ("CC", "no-such-compiler")])
def test_without_a_compiler_torch_does_the_work(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert block_kernels.__wrapped__() is None


def test_codec_gives_the_same_tokens_with_and_without_kernels(monkeypatch):
    config = LatentSpectrumCodecConfig(
        modalities=("desi_spectrum",),
        encoder_depths=(1, 1),
        encoder_dims=(32, 64),
        decoder_depths=(1, 1),
        decoder_dims=(32, 2),
        wavelength_nm=(350.0, 0.5, 1280),
    )
    torch.manual_seed(0)
    codec = LatentSpectrumCodec(config).eval()
    rng = np.random.default_rng(0)
    wavelength = np.linspace(360, 980, 1000)
    spectra = Spectrum(rng.normal(10, 1, (5, 1000)), np.ones((5, 1000)), None, wavelength)
    found = codec.encode(spectra)
    flux = codec.decode(found, wavelength=wavelength).flux
    monkeypatch.setattr(networks, "block_kernels", lambda: None)
    assert (codec.encode(spectra) == found).float().mean() > 0.999
    np.testing.assert_allclose(codec.decode(found, wavelength=wavelength).flux, flux, rtol=1e-4)


@needs_kernels
@torch.no_grad()
def test_autocast_and_default_types_around_change_nothing(monkeypatch):
    network, x = _network(ConvNextEncoder, (32, 64))
    want = in_precision(network, "float32")(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(in_precision(network, "float32")(x), want)
        assert block_kernels.__wrapped__() is not None
        assert native_kernels.__wrapped__() is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(in_precision(network, "float32")(x), want)
        assert block_kernels.__wrapped__() is not None
    finally:
        torch.set_default_dtype(torch.float32)


@needs_kernels
@torch.no_grad()
def test_nan_is_not_hidden():
    network, x = _network(ConvNextEncoder, (32, 64))
    network.stages[0][0].pwconv1.weight[0, 0] = torch.nan
    assert not in_precision(network, "float32")(x).isfinite().any()


@needs_kernels
def test_what_the_kernels_cannot_read_is_refused():
    network = _network(ConvNextEncoder, (32, 64))[0]
    weights = [network.stages[0][0].weights(torch.float32)]
    for wrong in (torch.zeros(2, 8, 32).bfloat16(), torch.zeros(2, 32, 8).mT):
        with pytest.raises(TypeError, match="x must be contiguous float32 on the CPU; found"):
            block_kernels().add(wrong, weights)
