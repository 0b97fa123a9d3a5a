"""The image codec of our own: tokens, masks, loss, report, saving and bad input."""

import json

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec, ImageCodec, ImageCodecConfig, Tokenizer, load_codec
from omnisky.codecs.image import padded
from omnisky.codecs.image.report import aperture_fluxes
from omnisky.modalities import Image, Observations, Scalar, UnknownModalityError
from omnisky.storage import CheckpointError

LS, HSC = "legacysurvey_image", "hsc_image"


def changed(images, **parts):
    """Return the images with some arrays replaced."""
    names = ("flux", "ivar", "mask", "bands", "pixel_scale_arcsec", "psf_fwhm_arcsec")
    return Image(**{name: parts.get(name, getattr(images, name)) for name in names})


@pytest.mark.parametrize("modality", [LS, HSC])
def test_tokens_and_back(nano, make_images, modality):
    codec, images = nano.of(modality), make_images(modality, count=5)
    before = images.flux.copy()
    ids = codec.encode(images)
    np.testing.assert_array_equal(images.flux, before)
    assert ids.dtype == torch.long
    assert ids.shape == (5, 144)
    assert 0 <= ids.min() < ids.max() < codec.n_codes == 125
    decoded = codec.decode(ids)
    assert decoded.flux.shape == (5, len(images.bands), 96, 96)
    assert decoded.bands == images.bands
    assert decoded.pixel_scale_arcsec == images.pixel_scale_arcsec
    assert not decoded.ivar.any()  # unknown, never made up
    one = codec.decode(ids, bands=["r"]).flux[:, 0]
    np.testing.assert_allclose(one, decoded.flux[:, 1], rtol=1e-4, atol=1e-6)
    (group,) = codec.groups
    assert (group.kind, group.n_tokens, group.levels) == ("code", 144, (5, 5, 5))
    assert codec.values() is None


def test_objects_do_not_know_of_each_other(nano, make_images):
    images = make_images(LS, count=5)
    together, _ = nano.encode_masked(images)
    alone, _ = nano.encode_masked(images, batch_size=1)
    assert (together == alone).double().mean() > 0.999


def test_the_centre_is_what_counts(nano, make_images):
    images = make_images(LS, size=101)
    centre = changed(
        images, **{k: getattr(images, k)[..., 2:98, 2:98] for k in ("flux", "ivar", "mask")}
    )
    assert torch.equal(nano.encode(images), nano.encode(centre))


def test_small_images_need_an_explicit_border(nano, make_images):
    small = make_images(LS, size=75)
    with pytest.raises(ValueError, match=r"found 75 x 75.*padded\(images, 96\)"):
        nano.encode(small)
    large = padded(small, 96)
    assert large.flux.shape == (3, 4, 96, 96)
    assert large.mask.sum() == small.mask.sum()
    inner = slice(11, 86)
    np.testing.assert_array_equal(large.flux[..., inner, inner], small.flux)
    assert nano.encode(large).shape == (3, 144)
    assert padded(large, 96).flux.shape == large.flux.shape
    # Padding and cropping are each other's inverse, uneven borders too.
    again = padded(small, 120)
    ids = nano.encode(again)
    assert torch.equal(ids, nano.encode(large))


def test_offset_and_psf_survive_the_border(make_images):
    images = make_images(LS, size=75)
    large = padded(images, 96)
    np.testing.assert_array_equal(large.psf_fwhm_arcsec, images.psf_fwhm_arcsec)
    y, x = np.unravel_index(large.flux[0, 0].argmax(), (96, 96))
    # A border that is uneven moves the centre by half a pixel.
    expected = np.array([(x, y)]) - 47.5
    small_y, small_x = np.unravel_index(images.flux[0, 0].argmax(), (75, 75))
    moved = expected - (np.array([(small_x, small_y)]) - 37)
    np.testing.assert_allclose(large.offset_pixels[0] - images.offset_pixels[0], moved[0])


def test_masked_pixels_never_reach_the_tokens(nano, make_images):
    images = make_images(LS)
    mask = np.ones(images.flux.shape, dtype=bool)
    mask[:, 1, 40:60, 40:60] = False
    wild, nan = images.flux.copy(), images.flux.copy()
    wild[~mask], nan[~mask] = 1e6, np.nan
    expected = nano.encode(changed(images, mask=mask))
    assert torch.equal(nano.encode(changed(images, flux=wild, mask=mask)), expected)
    assert torch.equal(nano.encode(changed(images, flux=nan, mask=mask)), expected)
    assert not torch.equal(nano.encode(images), expected)


def test_bands_missing_masked_or_in_another_order(nano, make_images):
    images = make_images(LS)
    mask = np.ones(images.flux.shape, dtype=bool)
    mask[:, 1] = False
    order = [3, 0, 2]
    some = Image(images.flux[:, order], bands=("z", "g", "i"), pixel_scale_arcsec=0.262)
    assert torch.equal(nano.encode(some), nano.encode(changed(images, mask=mask)))


def test_mask_is_told_only_to_a_network_configured_for_it(make_images):
    torch.manual_seed(0)
    config = {"modalities": (LS,), "compressions": 3, "width": 8, "hidden": 32, "projection": 8}
    codec = ImageCodec(ImageCodecConfig(**config, units=1, kernel=3, mask_channel=True)).eval()
    images = make_images(LS)
    flux = images.flux.copy()
    flux[:, :, 40:60, 40:60] = 0
    mask = np.ones(flux.shape, dtype=bool)
    mask[:, :, 40:60, 40:60] = False
    dark, unknown = changed(images, flux=flux), changed(images, flux=flux, mask=mask)
    assert torch.equal(codec.encode(dark), codec.encode(unknown))  # starts at zero
    torch.nn.init.normal_(codec.stem.mask_weight)
    assert not torch.equal(codec.encode(dark), codec.encode(unknown))


def test_absent_objects(nano, make_images):
    images = make_images(LS)
    mask = np.ones(images.flux.shape, dtype=bool)
    mask[1] = False
    images = changed(images, mask=mask)
    ids, there = nano.encode_masked(images)
    assert there.all(1).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="1 of 3 objects have no legacysurvey_image"):
        nano.encode(images)
    ids[1] = 999  # no such id; the object is absent
    decoded = nano.decode(ids, there)
    assert decoded.present.tolist() == [True, False, True]
    nothing, none = nano.encode_masked(images[:0])
    assert nothing.shape == none.shape == (0, 144)


def test_survey_to_survey(nano, make_images):
    ids = nano.of(LS).encode(make_images(LS))
    decoded = nano.of(HSC).decode(ids)
    assert decoded.bands == tuple("grizy")
    assert decoded.pixel_scale_arcsec == 0.168


# Loss.


def loss_by_hand(codec, images):
    """Return ½ of the mean χ² from what `decode` gives."""
    decoded = codec.decode(codec.encode(images)).flux.astype(np.float64)
    flux, ivar, mask = (
        a[..., 4:100, 4:100].astype(np.float64) for a in (images.flux, images.ivar, images.mask)
    )
    limit = np.array(codec.config.limits[:4])[:, None, None]
    flux = flux.clip(-limit, limit)
    good = (mask > 0) & (ivar > 0)
    chi2 = (decoded - flux)[good] ** 2 / (
        1 / ivar[good] + (codec.config.error_floor * flux[good]) ** 2
    )
    return 0.5 * chi2.mean()


def test_loss_is_the_gaussian_likelihood_of_good_pixels(nano, make_images):
    images = make_images(LS)
    mask, ivar = np.ones(images.flux.shape, dtype=bool), images.ivar.copy()
    mask[0, 1], mask[1, :, :50] = False, False
    ivar[2, :, 60:], ivar[:, 3] = 0, ivar[:, 3] / 4
    images = changed(images, mask=mask, ivar=ivar)
    loss, metrics = nano.loss(nano.prepare(images))
    assert float(loss.detach()) == pytest.approx(loss_by_hand(nano, images), rel=1e-4)
    assert torch.equal(metrics["codes"].flatten(1), nano.encode(images))
    assert metrics["chi2_per_pixel"].ndim == 0


def test_loss_without_any_known_error_is_zero(nano, make_images):
    images = make_images(LS)
    loss, _ = nano.loss(nano.prepare(changed(images, ivar=np.zeros(images.flux.shape))))
    assert float(loss.detach()) == 0


def test_loss_of_a_network_gone_wild_is_finite(nano, make_images):
    with torch.no_grad():
        nano.head.bias += 50  # sinh(500)
    loss, _ = nano.loss(nano.prepare(make_images(LS)))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in nano.parameters())


@pytest.mark.parametrize("modality", [LS, HSC])
def test_gradients_reach_everything(nano, make_images, modality):
    codec = nano.of(modality)
    loss, _ = codec.loss(codec.prepare(make_images(modality)))
    loss.backward()
    silent = [name for name, p in nano.named_parameters() if not p.grad.abs().sum() > 0]
    # A constant before a softmax does nothing.
    assert all(name.endswith("gate.attention.bias") for name in silent)


def test_half_precision_keeps_the_loss(nano, make_images):
    batch = nano.prepare(make_images(LS))
    exact, _ = nano.loss(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = nano.loss(batch)
    assert rough.dtype == torch.float32
    assert float(rough.detach()) == pytest.approx(float(exact.detach()), rel=0.2)


@pytest.mark.slow
def test_training_improves_reconstruction(make_images):
    torch.manual_seed(0)
    config = {"modalities": (LS,), "compressions": 3, "width": 8, "hidden": 32, "projection": 8}
    codec = ImageCodec(ImageCodecConfig(**config, size=48, levels=(5, 5, 5), units=1, kernel=3))
    batch = codec.prepare(make_images(LS, count=2, size=48))
    optimiser = torch.optim.Adam(codec.parameters(), 3e-3)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss, _ = codec.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


# Report.


def test_report_by_hand(nano, make_images):
    images = make_images(LS, count=6)
    figures = nano.report(images)
    decoded = nano.decode(nano.encode(images)).flux
    chi2 = ((decoded - images.flux[..., 4:100, 4:100]) ** 2 * 2500).mean((1, 2, 3))
    assert figures["chi2_per_pixel_median"] == pytest.approx(np.median(chi2), rel=1e-5)
    assert figures["chi2_per_pixel_floored_median"] <= figures["chi2_per_pixel_median"]
    assert figures["objects"] == 6
    assert 0 < figures["codes_used_fraction"] <= 1
    assert 0 <= figures["code_entropy_bits"] <= np.log2(125)
    # 3 to 300 nmgy in the aperture, its error 0.02 · √183 pixels = 0.27.
    names = [name for name in figures if name.startswith("flux_error")]
    assert "flux_error_snr_100_inf" in names
    assert all(figures[name.replace("error", "pull")] >= 3 * figures[name] for name in names)


def test_report_of_a_codec_that_forgets_nothing(nano, make_images, monkeypatch):
    images = make_images(HSC, size=96)
    codec = nano.of(HSC)
    monkeypatch.setattr(ImageCodec, "decode", lambda *_, **__: images)
    figures = codec.report(images)
    assert figures["chi2_per_pixel_median"] == 0
    assert all(value == 0 for name, value in figures.items() if name.startswith("flux_"))


def test_report_needs_an_object(nano, make_images):
    images = make_images(LS)
    with pytest.raises(ValueError, match="none of 3 objects has a good pixel"):
        nano.report(changed(images, mask=np.zeros(images.flux.shape, dtype=bool)))


def test_aperture_follows_the_object():
    pixels = np.zeros((2, 1, 20, 20))
    pixels[:, 0, 12, 15] = 3.0  # y, x
    offset = np.array([[5.5, 2.5], [0.0, 0.0]])
    np.testing.assert_array_equal(aperture_fluxes(pixels, offset, 2.0), [[3.0], [0.0]])
    area = aperture_fluxes(np.ones((1, 1, 41, 41)), np.zeros((1, 2)), 10.0)
    assert area[0, 0] == pytest.approx(np.pi * 100, rel=0.02)


# Saving and sharing.


def test_saved_and_loaded(nano, make_images, tmp_path):
    images = make_images(HSC)
    folder = nano.save(tmp_path / "image")
    ids = nano.of(HSC).encode(images)
    for codec in (Codec.from_pretrained(folder, HSC), load_codec(folder).of(HSC)):
        assert codec.config == nano.config
        assert torch.equal(codec.encode(images), ids)
    assert json.loads((folder / "config.json").read_text())["bands"][-1] == "hsc_image/y"


def test_views_share_their_weights(nano, make_images, tmp_path):
    legacysurvey = Codec.from_pretrained(nano.save(tmp_path / "image"), LS)
    hsc = legacysurvey.of(HSC)
    assert hsc.encoder is legacysurvey.encoder
    with torch.no_grad():
        legacysurvey.head.bias += 1
    assert torch.equal(hsc.head.bias, legacysurvey.head.bias)


def test_in_a_tokenizer(nano, make_images, tmp_path):
    tokenizer = Tokenizer({LS: nano, HSC: nano})
    observations = Observations({LS: make_images(LS), HSC: make_images(HSC)})
    tokens = tokenizer.encode(observations)
    assert tokens[LS].shape == tokens[HSC].shape == (3, 144)
    tokenizer.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["image-codec"]
    again = Tokenizer.from_pretrained(tmp_path).encode(observations)
    assert torch.equal(again[HSC], tokens[HSC])
    assert tokenizer.decode(tokens)[HSC].bands == tuple("grizy")


def test_wrong_units_are_told(nano, make_images):
    images = make_images(HSC)
    assert nano.of(HSC).count_outside(images) == 0
    counts = changed(images, flux=images.flux * 10**3)
    with pytest.warns(UserWarning, match="are the units right"):
        Tokenizer({HSC: nano}).encode(Observations({HSC: counts}))


# Bad input.


def test_what_does_not_fit_is_refused(nano, make_images):
    images = make_images(LS)
    with pytest.raises(TypeError, match="is an image; found Scalar"):
        nano.encode(Scalar(np.ones(3)))
    with pytest.raises(ValueError, match="has no band 'u' in this codec; it knows g, r, i, z"):
        nano.encode(changed(images, bands=("u", "g", "r", "i")))
    with pytest.raises(ValueError, match=r"pixels of 0.262 arcsec.*found 0.168"):
        nano.encode(changed(images, pixel_scale_arcsec=0.168))
    with pytest.raises(ValueError, match=r"at least 96 x 96 pixels; found 104 x 90"):
        nano.encode(
            changed(images, **{k: getattr(images, k)[..., :90] for k in ("flux", "ivar", "mask")})
        )
    with pytest.raises(ValueError, match="ivar must not be negative"):
        changed(images, ivar=-images.ivar)
    with pytest.raises(UnknownModalityError, match="encodes legacysurvey_image, hsc_image"):
        nano.of("jwst_image")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.full((1, 144), 125), r"lie in 0 … 124; found 125 … 125"),
        (torch.full((1, 144), -1), r"lie in 0 … 124; found -1 … -1"),
        (torch.zeros((1, 143), dtype=torch.long), r"shape \(object, 144\).*\(1, 143\)"),
        (torch.zeros((1, 144)), r"must be integers.*float32"),
        (torch.zeros(144, dtype=torch.long), r"found torch.int64 \(144,\)"),
    ],
)
def test_ids_that_are_none_are_refused(nano, ids, message):
    with pytest.raises(ValueError, match=message):
        nano.decode(ids)


@pytest.mark.parametrize("bands", [["y"], [], ["g", "g"]])
def test_bands_that_are_none_are_refused(nano, bands):
    with pytest.raises(ValueError, match=r"bands"):
        nano.decode(torch.zeros((1, 144), dtype=torch.long), bands=bands)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ()}, "modalities must not be empty"),
        ({"bands": ("desi_image/g",)}, "bands must be named modality/band"),
        ({"limits": (1.0,)}, "limits must be positive, one a band"),
        ({"size": 90}, "size must be a multiple"),
        ({"width": 3}, "width must reach hidden"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"compat": "aion"}, "compat must be '' or 'aion-0.0.2'"),
    ],
)
def test_configurations_that_fit_nothing_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ImageCodecConfig(**{"modalities": (LS,), "compressions": 2, **change})


def test_unknown_stem_is_refused():
    with pytest.raises(ValueError, match=r"stem must be one of table.*found 'magic'"):
        ImageCodec(ImageCodecConfig(modalities=(LS,), stem="magic"))


def test_damaged_folders_are_refused(nano, tmp_path):
    folder = nano.save(tmp_path / "image")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden": 64, "width": 16}))
    with pytest.raises(CheckpointError, match="does not fit a image-codec"):
        load_codec(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged or"):
        load_codec(folder)
