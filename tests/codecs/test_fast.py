"""Fast convolutions and the fast image network against the direct ones."""

import pytest
import torch
from torch.nn import functional as F

from omnisky.codecs import ImageCodec, ImageCodecConfig
from omnisky.codecs.fast import (
    Workspace,
    conv3x3,
    conv3x3_tiles,
    conv_fourier,
    fourier,
    native_kernels,
    tile_view,
    winograd,
)
from omnisky.codecs.image import codec as image_codec
from omnisky.codecs.image import fast as image_fast
from omnisky.codecs.image.fast import is_fast
from omnisky.codecs.image.magvit import GlobalContext

KEYS = tuple(("legacysurvey_image", band) for band in "griz")
TOL = {"rtol": 0.0, "atol": 2e-5}
SHAPES = [
    (1, 8, 8, 3, 5),
    (2, 9, 13, 7, 4),
    (3, 5, 1, 70, 150),
    (1, 3, 2, 1, 1),
    (1, 24, 24, 64, 64),
]


def _layer(n, height, width, n_in, n_out, side):
    generator = torch.Generator().manual_seed(n * height * width + side)
    shape = (n_out, n_in, side, side)
    weight = torch.randn(shape, generator=generator) / (n_in * side**2) ** 0.5
    bias = torch.randn(n_out, generator=generator)
    return torch.randn((n, height, width, n_in), generator=generator), weight, bias


def _direct(x, weight, bias):
    """Return what float64 says."""
    padding = weight.shape[-1] // 2
    inputs = (x.double().permute(0, 3, 1, 2), weight.double(), bias.double())
    return F.conv2d(*inputs, padding=padding).permute(0, 2, 3, 1)


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """Compute with and without the compiled kernels."""
    if request.param == "torch":
        for module in (winograd, fourier, image_fast):
            monkeypatch.setattr(module, "native_kernels", lambda: None)
    elif native_kernels() is None:
        pytest.skip("no C compiler whose kernels give what torch gives")
    return request.param


@pytest.mark.parametrize("shape", [*SHAPES, (2, 12, 20, 64, 96)])
def test_winograd_equals_the_direct_convolution(shape, way):
    x, weight, bias = _layer(*shape, 3)
    before = x.clone()
    torch.testing.assert_close(conv3x3(x, weight, bias).double(), _direct(x, weight, bias), **TOL)
    assert torch.equal(x, before)


@pytest.mark.parametrize("side", [5, 7, 9])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 11, 20, 7, 96)])
def test_fourier_equals_the_direct_convolution(shape, side, way):
    x, weight, bias = _layer(*shape, side)
    before = x.clone()
    got = conv_fourier(x, weight, bias)
    torch.testing.assert_close(got.double(), _direct(x, weight, bias), **TOL)
    assert torch.equal(x, before)


def test_tiles_lie_as_the_view_of_an_image_says():
    x, weight, bias = _layer(2, 8, 12, 3, 6, 3)
    tiles = conv3x3_tiles(x, weight, bias)
    image = torch.empty(2, 8, 12, 6)
    view = tile_view(image)
    view.copy_(tiles.view(view.shape))
    torch.testing.assert_close(image.double(), _direct(x, weight, bias), **TOL)


def test_layers_share_one_workspace():
    work = Workspace()
    layers = [_layer(2, 16, 8, 6, 9, 3), _layer(1, 20, 4, 12, 140, 3)]
    fresh = [conv3x3(*layer) for layer in layers]
    for layer, want in [*zip(layers, fresh, strict=True), *zip(layers, fresh, strict=True)]:
        assert torch.equal(conv3x3(*layer, work), want)
    x, weight, bias = _layer(1, 10, 10, 6, 70, 7)
    assert torch.equal(conv_fourier(x, weight, bias, work), conv_fourier(x, weight, bias))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 4, 4, 32, 32), (3, 12, 20, 64, 96), (2, 24, 8, 96, 64)])
@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_unit_equals_torch(shape, threads, monkeypatch):
    kernels = native_kernels()
    if kernels is None:
        pytest.skip("no C compiler whose kernels give what torch gives")
    x, weight, bias = _layer(*shape, 3)
    mix, mix_bias = _layer(1, 1, 1, shape[-1], 32, 1)[1:]
    # Both branches of the ELU, far from zero and near.
    weight, mix = 20 * weight, mix.flatten(1)
    assert kernels.fits(x, shape[-1])
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    out = torch.empty(*x.shape[:3], 32)
    view = tile_view(out)
    found = kernels.unit(x, (weight, bias), (mix, mix_bias), Workspace())
    view.copy_(found.view(view.shape))
    want = F.elu(F.linear(F.elu(_direct(x, weight, bias)), mix.double(), mix_bias.double()))
    torch.testing.assert_close(out.double(), want, rtol=0, atol=2e-5 * float(want.std()))


@pytest.mark.parametrize(("name", "value"), [("OMNISKY_NATIVE", "0"), ("CC", "no-such-compiler")])
def test_without_a_compiler_torch_does_the_work(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert native_kernels.__wrapped__() is None


def test_kernels_that_differ_are_not_used(change_source):
    from omnisky.codecs.fast import native

    if native_kernels() is None:
        pytest.skip("no C compiler whose kernels give what torch gives")
    change_source(native, "#define Q 1.5f", "#define Q 1.25f")
    assert native_kernels.__wrapped__() is not None  # any distinct points are right
    change_source(native, "value = elu(y[p] + b)", "value = y[p] + b")
    assert native_kernels.__wrapped__() is None


def test_fourier_kernels_that_differ_are_not_used(monkeypatch):
    kernels = native_kernels()
    if kernels is None:
        pytest.skip("no C compiler whose kernels give what torch gives")
    assert fourier._agree.__wrapped__(kernels)
    right = type(kernels).fourier
    monkeypatch.setattr(type(kernels), "fourier", lambda *given: right(*given) + 1e-3)
    assert not fourier._agree.__wrapped__(kernels)


def test_even_kernels_are_refused():
    x, weight, bias = _layer(1, 8, 8, 2, 2, 4)
    with pytest.raises(ValueError, match="square of odd side; found 4 x 4"):
        conv_fourier(x, weight, bias)


def _codec(**changes):
    """Return an untrained codec with the layers of the paper's, smaller, gates open."""
    torch.manual_seed(1)
    usual = {"size": 32, "compressions": 1, "hidden": 128, "units": 1, "projection": 20}
    codec = ImageCodec(ImageCodecConfig.aion(**(usual | changes)))
    for module in codec.modules():
        if isinstance(module, GlobalContext):
            torch.nn.init.normal_(module.excite.weight, std=0.2)
            torch.nn.init.zeros_(module.excite.bias)
    return codec.eval()


@pytest.fixture
def codec():
    return _codec()


def _inputs(count=5):
    flux = torch.randn((count, 4, 32, 32), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(flux, dtype=torch.bool)
    # One object lacks a band, another some pixels.
    mask[1, 2] = False
    mask[2, :, :9, 4] = False
    return torch.where(mask, flux, 0), mask


def _slowly(monkeypatch, work):
    with monkeypatch.context() as patch:
        patch.setattr(image_codec, "is_fast", lambda *_: False)
        return work()


def _both(codec, monkeypatch):
    """Return latents and decoded fluxes, fast and directly."""
    flux, mask = _inputs()
    found = []
    for way in (lambda work: work(), lambda work: _slowly(monkeypatch, work)):
        latent = way(lambda: codec._encode_latent(flux, mask, KEYS))
        codes = codec.quantiser(latent) if not found else found[0][1]
        decoded = way(lambda codes=codes: codec._decode_latent(codes, KEYS[::-2]))
        found.append((latent, codes, decoded))
    return found


@torch.no_grad()
def test_the_fast_network_gives_the_same_tokens_and_images(codec, monkeypatch, way):
    assert is_fast(codec, torch.zeros(1))
    (latent, codes, decoded), (want, _, image) = _both(codec, monkeypatch)
    torch.testing.assert_close(latent, want, rtol=0, atol=1e-5 * float(want.std()))
    ids = codec.quantiser.codes_to_indices(codes)
    equal = ids == codec.quantiser.codes_to_indices(codec.quantiser(want))
    assert equal.double().mean() >= 0.999
    assert len(ids.unique()) > 20
    assert (decoded - image).norm() / image.norm() < 1e-5
    assert decoded.shape == (5, 2, 32, 32)


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"mask_channel": True, "projection": 64, "kernel": 5},
        {"compressions": 0, "hidden": 64, "kernel": 1},
        {"compressions": 2, "hidden": 256, "kernel": 3},
    ],
    ids=["stem by itself", "one resolution", "three"],
)
def test_other_shapes_of_network(changes, monkeypatch):
    codec = _codec(**changes)
    assert is_fast(codec, torch.zeros(1))
    (latent, _, decoded), (want, _, image) = _both(codec, monkeypatch)
    torch.testing.assert_close(latent, want, rtol=0, atol=1e-5 * float(want.std()))
    assert (decoded - image).norm() / image.norm() < 1e-5


@torch.no_grad()
def test_changed_weights_count_at_once(codec, monkeypatch):
    first = _both(codec, monkeypatch)[0][0]
    codec.load_state_dict({k: 1.1 * v for k, v in codec.state_dict().items()})
    (latent, _, decoded), (want, _, image) = _both(codec, monkeypatch)
    assert not torch.allclose(latent, first)
    torch.testing.assert_close(latent, want, rtol=0, atol=1e-5 * float(want.std()))
    assert (decoded - image).norm() / image.norm() < 1e-5


@torch.no_grad()
def test_half_precision_is_near(codec, monkeypatch, way):
    codec.precision = "bf16"
    (latent, _, decoded), (want, _, image) = _both(codec, monkeypatch)
    assert 1e-5 < (latent - want).norm() / want.norm() < 0.02
    assert 1e-5 < (decoded - image).norm() / image.norm() < 0.02
    codec.precision = "fp8"
    with pytest.raises(ValueError, match="precision must be 'float32' or 'bf16'; found 'fp8'"):
        codec._encode_latent(*_inputs(), KEYS)


@torch.no_grad()
def test_half_precision_without_the_fast_network(codec, monkeypatch):
    monkeypatch.setattr(image_codec, "is_fast", lambda *_: False)
    flux, mask = _inputs()
    want = codec._encode_latent(flux, mask, KEYS)
    image = codec._decode_latent(want, KEYS)
    codec.precision = "bf16"
    latent = codec._encode_latent(flux, mask, KEYS)
    assert latent.dtype == torch.float32
    assert 1e-5 < (latent - want).norm() / want.norm() < 0.02
    assert 1e-5 < (codec._decode_latent(want, KEYS) - image).norm() / image.norm() < 0.02
    codec.precision = "fp8"
    with pytest.raises(ValueError, match="precision must be 'float32' or 'bf16'; found 'fp8'"):
        codec._decode_latent(want, KEYS)


def test_training_goes_through_the_modules(codec):
    flux, mask = _inputs()
    assert not is_fast(codec, flux)  # gradients are wanted
    codec._decode_latent(codec._encode_latent(flux, mask, KEYS), KEYS).sum().backward()
    assert codec.encoder.conv_in.weight.grad is not None
    with torch.no_grad():
        assert is_fast(codec, flux)
        assert not is_fast(codec.train(), flux)
        assert not is_fast(codec.eval().double(), flux.double())
