"""Stem and head that are generated from what is known of a band, and a codec that has them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from omnisky.codecs import ImageCodec, ImageCodecConfig, load_codec
from omnisky.codecs.image import BANDS, Band, bands_of
from omnisky.codecs.image.metadata import MetadataHead, MetadataStem
from omnisky.codecs.image.training import augmented
from omnisky.modalities import Image

LS, HSC = "legacysurvey_image", "hsc_image"
GRIZ = tuple(key for key in BANDS if key[0] == LS)


def config(**changes) -> ImageCodecConfig:
    tiny = dict(
        modalities=(LS, HSC),
        levels=(5, 5, 5),
        compressions=1,
        width=16,
        hidden=16,
        units=1,
        kernel=3,
        projection=16,
        stem="metadata",
        patch=4,
        mask_channel=True,
        range_compression=3.0,
        multiplier=1 / 3,
    )
    return ImageCodecConfig(**{**tiny, **changes})


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    torch.manual_seed(1)
    codec = ImageCodec(config())
    with torch.no_grad():  # so that tokens differ
        codec.to_latent.weight *= 4
    return codec.eval()


@pytest.fixture
def stem() -> MetadataStem:
    torch.manual_seed(2)
    return MetadataStem(GRIZ, 8, with_mask=True).eval()


def sky(bands: tuple[Band, ...], count: int = 3, size: int = 96, seed: int = 4) -> Image:
    """Return noise and a blob, in the unit of the bands."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    unit = np.array([band.nanomaggies for band in bands])[:, None, None]
    noise = np.array([band.noise for band in bands])[:, None, None] / unit
    flux = noise * rng.normal(size=(count, len(bands), size, size))
    height = 100 * rng.uniform(0.1, 1, (count, 1, 1, 1))
    flux += height * noise * np.exp(-(x**2 + y**2) / 50)
    ivar = np.broadcast_to(noise**-2.0, flux.shape)
    names = tuple(band.name for band in bands)
    return Image(flux, ivar, bands=names, pixel_scale_arcsec=bands[0].pixel_scale_arcsec)


def test_shapes(stem):
    flux = torch.randn(2, 4, 96, 96)
    mask = torch.ones_like(flux, dtype=torch.bool)
    hidden = stem(flux, mask, GRIZ)
    assert hidden.shape == (2, 8, 24, 24)
    head = MetadataHead(GRIZ, 8)
    assert head(hidden, bands_of(HSC)).shape == (2, 5, 96, 96)
    torch.testing.assert_close(stem.units(GRIZ), torch.tensor([BANDS[k].noise for k in GRIZ]))


def test_order_of_bands_does_not_matter_and_missing_ones_do_not_count(stem):
    flux = torch.randn(2, 4, 32, 32)
    mask = torch.ones_like(flux, dtype=torch.bool)
    out = stem(flux, mask, GRIZ)
    order = [2, 0, 3, 1]
    other = stem(flux[:, order], mask[:, order], [GRIZ[i] for i in order])
    torch.testing.assert_close(out, other, atol=1e-5, rtol=1e-5)
    mask[:, 2:] = False
    hidden = stem(flux * mask, mask, GRIZ)
    torch.testing.assert_close(hidden, stem(flux[:, :2], mask[:, :2], GRIZ[:2]))


def test_masked_pixels_are_told(stem):
    flux = torch.zeros(1, 4, 32, 32)
    mask = torch.ones_like(flux, dtype=torch.bool)
    clean = stem(flux, mask, GRIZ)
    mask[:, 0, 4:8, 8:12] = False
    changed = (stem(flux, mask, GRIZ) - clean).abs().sum(1)[0]
    assert changed[1, 2] > 0
    changed[1, 2] = 0
    assert not changed.any()


def test_psf_and_noise_of_an_object_where_they_are_known(stem):
    flux = torch.randn(2, 4, 32, 32)
    mask = torch.ones_like(flux, dtype=torch.bool)
    nothing = {
        "psf_fwhm_arcsec": torch.zeros(2, 4),
        "noise": torch.zeros(2, 4),
        "pixel_scale_arcsec": torch.full((2,), 0.262),
    }
    typical = stem(flux, mask, GRIZ)
    torch.testing.assert_close(stem(flux, mask, GRIZ, nothing), typical)
    for name, value in (("psf_fwhm_arcsec", 2.0), ("noise", 0.1), ("pixel_scale_arcsec", 0.1)):
        known = {**nothing, name: nothing[name].clone()}
        known[name][1] = value
        out = stem(flux, mask, GRIZ, known)
        torch.testing.assert_close(out[0], typical[0])
        assert not torch.allclose(out[1], typical[1])


def test_columns_change_smoothly_with_the_band(stem):
    flux = torch.randn(1, 1, 32, 32)
    mask = torch.ones_like(flux, dtype=torch.bool)
    g = BANDS[LS, "g"]
    out = [
        stem(flux, mask, [replace(g, wavelength_nm=g.wavelength_nm + step)]).detach()
        for step in (0.0, 1.0, 100.0)
    ]
    near, far = (float((other - out[0]).norm()) for other in out[1:])
    assert 0 < near < far / 10


def test_numbers_beyond_those_of_training_count_as_the_nearest(stem):
    flux = torch.randn(1, 1, 32, 32)
    mask = torch.ones_like(flux, dtype=torch.bool)
    far, farther, near = (
        stem(flux, mask, [replace(BANDS[LS, "z"], wavelength_nm=nm)]) for nm in (1100, 5000, 1000)
    )
    torch.testing.assert_close(far, farther)
    assert not torch.allclose(far, near)


def test_a_band_nobody_described_is_refused():
    with pytest.raises(ValueError, match=r"nothing is known of the bands.*with_bands"):
        MetadataStem([("nobody_image", "g")], 8)
    with pytest.raises(ValueError, match="nothing is known of the bands"):
        MetadataHead([("nobody_image", "g")], 8)


def test_bands_never_configured_go_in_and_out(codec):
    bands = bands_of("jwst_nircam_image")
    view, images = codec.with_bands(bands), sky(bands)
    ids = view.encode(images)
    assert ids.shape == (3, 144)
    assert len(ids.unique()) > 10
    decoded = view.decode(ids)
    assert decoded.bands == images.bands
    assert decoded.pixel_scale_arcsec == 0.03
    some = view.decode(ids, bands=["f444w"])
    np.testing.assert_allclose(some.flux[:, 0], decoded.flux[:, -1], rtol=1e-4, atol=1e-5)
    # The codec itself is as before, and the view leads back to it.
    assert codec.modality == LS
    assert codec.bands == ("g", "r", "i", "z")
    assert view.of(HSC).bands == ("g", "r", "i", "z", "y")
    assert view.report(images)["objects"] == 3


def test_zero_points_are_exact(codec):
    mine = tuple(replace(band, modality="my_image") for band in bands_of(LS))
    factor = 10 ** (0.4 * (31.4 - 22.5))
    in_njy = tuple(replace(band, zero_point=31.4, limit=band.limit * factor) for band in mine)
    images = sky(mine)
    other = Image(
        images.flux * factor,
        images.ivar / factor**2,
        bands=images.bands,
        pixel_scale_arcsec=images.pixel_scale_arcsec,
    )
    plain, scaled = codec.with_bands(mine), codec.with_bands(in_njy)
    ids = plain.encode(images)
    assert (ids == scaled.encode(other)).double().mean() > 0.99
    np.testing.assert_allclose(
        scaled.decode(ids).flux, plain.decode(ids).flux * factor, rtol=1e-4, atol=1e-3
    )
    # Bands of one's own that say the same as the codec's are the codec's.
    assert torch.equal(ids, codec.encode(images))


def test_decoding_to_a_band_by_its_description(codec):
    ids = codec.encode(sky(bands_of(LS)))
    half = Band(
        modality="my_image",
        name="ri",
        wavelength_nm=710,
        width_nm=200,
        pixel_scale_arcsec=0.262,
        psf_fwhm_arcsec=1.2,
        depth_mag=24,
    )
    decoded = codec.decode(ids, bands=["r", half])
    assert decoded.bands == ("r", "ri")
    with pytest.raises(ValueError, match=r"found scales of \[0.168, 0.262\]"):
        codec.decode(ids, bands=["r", BANDS[HSC, "r"]])


def test_bands_that_do_not_go_together_are_refused(codec):
    g, r = bands_of(LS)[:2]
    for bands in ((), (g, g), (g, BANDS[HSC, "r"]), (g, replace(r, pixel_scale_arcsec=0.1))):
        with pytest.raises(ValueError, match="of one modality and one pixel scale, none twice"):
            codec.with_bands(bands)
    table = ImageCodec(config(stem="table", patch=1, compressions=3, width=2))
    with pytest.raises(ValueError, match="can take no others; use one with stem = 'metadata'"):
        table.with_bands([g])
    with pytest.raises(ValueError, match=r"must be among g, r, i, z of .*found .ri."):
        table.decode(torch.zeros(1, 144, dtype=torch.long), bands=[replace(r, name="ri")])
    coarse = replace(sky((g,)), pixel_scale_arcsec=0.5)
    with pytest.raises(ValueError, match=r"found 0.5. Resample them, or describe them"):
        codec.encode(coarse)
    with pytest.raises(ValueError, match="has no band 'u'"):
        codec.encode(replace(sky((g,)), bands=("u",)))


def test_saved_and_loaded(codec, tmp_path):
    images = sky(bands_of("euclid_image"), count=2)
    again = load_codec(codec.save(tmp_path / "image"))
    bands = bands_of("euclid_image")
    assert torch.equal(
        again.with_bands(bands).encode(images), codec.with_bands(bands).encode(images)
    )


@pytest.mark.parametrize("size", [96, 100])
def test_loss_and_gradients(size):
    torch.manual_seed(3)
    codec = ImageCodec(config(band_dropout=0.3, band_mixing=0.9, turn=True, balance=0.05, crop=64))
    for name in codec.modalities:
        view = codec.of(name)
        loss, metrics = view.loss(view.prepare(sky(bands_of(name), size=size)))
        assert torch.isfinite(loss)
        assert metrics["codes"].shape in ((3, 12, 12), (3, 8, 8))
        loss.backward()
    idle = [name for name, p in codec.named_parameters() if p.grad is None]
    assert not idle


def test_augmentation_keeps_every_object_and_its_noise(codec):
    images = sky(bands_of(LS), count=6)
    mask = images.mask.copy()
    mask[0, 1:] = False  # one band only
    batch = codec.prepare(replace(images, mask=mask))
    before = {name: tensor.clone() for name, tensor in batch.items()}
    settings = config(band_dropout=0.9, band_mixing=0.9, turn=True, crop=64)
    torch.manual_seed(0)
    hidden, mixed, squares = 0, 0, []
    for _ in range(20):
        changed, seen, keys = augmented(batch, codec._keys(codec.bands), settings)
        there = changed["mask"].flatten(2).any(2)
        assert (seen.flatten(2).any(2).sum(1) > 0).equal(there.any(1))
        assert not (seen & ~changed["mask"]).any()
        hidden += int((there & ~seen.flatten(2).any(2)).sum())
        corner = (slice(1, None), slice(None), slice(8), slice(8))
        blank = (changed["flux"] ** 2 * changed["ivar"])[corner][changed["mask"][corner]]
        squares.append(blank)
        mixed += any(isinstance(key, Band) for key in keys)
    assert float(torch.cat(squares).mean()) == pytest.approx(1, abs=0.1)
    assert hidden > 100
    assert mixed > 10
    for name, tensor in before.items():
        assert torch.equal(batch[name], tensor)


def test_balance_weighs_faint_objects_up(codec):
    images = sky(bands_of(LS), count=2)
    flux = images.flux.copy()
    flux[1] *= 30
    batch = codec.prepare(replace(images, flux=flux))
    plain, _ = codec.loss(batch)
    balanced = ImageCodec(config(balance=1.0)).eval()
    balanced.load_state_dict(codec.state_dict())
    loss, _ = balanced.loss(batch)
    # Each object counts c / (1 + c - 1) = 1 at most.
    assert loss.item() <= 0.5 + 1e-5 < plain.item()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 3}, "metadata at an even number"),
        ({"stem": "table"}, "a table looks at single pixels"),
        ({"size": 100}, r"multiple of patch \* 2\^compressions"),
        ({"band_dropout": 1.0}, "band_dropout and band_mixing must lie in"),
        ({"stem": "table", "patch": 1, "band_mixing": 0.1}, "band_mixing needs stem"),
    ],
)
def test_configurations_that_fit_nothing_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)
