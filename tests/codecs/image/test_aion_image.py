"""AION-1's image codec: the same tokens and images, and each of its defects mended."""

import json
import shutil

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec, ImageCodec, ImageCodecConfig
from omnisky.modalities import Image
from omnisky.storage import CheckpointError

COMPAT = "aion-0.0.2"
SURVEYS = ("legacysurvey_image", "hsc_image")
PEER_BANDS = {
    "legacysurvey_image": [f"DES-{b}" for b in "GRIZ"],
    "hsc_image": [f"HSC-{b}" for b in "GRIZY"],
}


def load(home, modality="legacysurvey_image", compat=None):
    return Codec.from_pretrained(home, modality, compat=compat)


def peer_decode(peer, ids, bands):
    """Return what the peer decodes, before the survey's zero point, which it cannot undo."""
    with torch.no_grad():
        peer.rescaler.backward = lambda flux, survey: flux
        try:
            return peer.decode(ids, bands=bands).flux.numpy()
        finally:
            del peer.rescaler.backward


def assert_same_tokens(codec, ours, theirs):
    """Allow one token of 10 000 at the border of two levels, and list those there are."""
    different = ours != theirs
    steps = (
        codec.quantiser.indices_to_codes(ours[different])
        - codec.quantiser.indices_to_codes(theirs[different])
    ) * torch.tensor([3, 2, 2, 2, 2])
    ties = [(*where, step) for where, step in zip(different.nonzero().tolist(), steps, strict=True)]
    print("ties (object, token), step in each digit:", ties)
    assert (steps.abs().sum(1).round() == 1).all(), ties
    assert different.double().mean() <= 1e-4, ties


def assert_parity(peer, home, encode, images):
    codec = load(home)
    for modality in SURVEYS:
        ours = codec.of(modality).encode(images[modality])
        theirs = encode(peer, modality, images[modality])
        assert theirs.unique().numel() > 300
        assert_same_tokens(codec, ours, theirs)
        decoded = codec.of(modality).decode(theirs)
        expected = peer_decode(peer, theirs, PEER_BANDS[modality])
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(decoded.flux, expected, rtol=2e-4, atol=1e-5)


def test_same_tokens_and_images_as_aion(peer_of_aion, peer_encode, make_images):
    images = {name: make_images(name, count=20) for name in SURVEYS}
    assert_parity(*peer_of_aion, peer_encode, images)


@pytest.mark.slow
def test_same_tokens_and_images_as_aion_at_paper_size(
    tmp_path, make_peer, peer_encode, make_images
):
    peer = make_peer(tmp_path / "codecs" / "image")
    images = {name: make_images(name, count=1, size=96) for name in SURVEYS}
    assert_parity(peer, tmp_path, peer_encode, images)


def test_paper_size_has_the_parameters_of_the_release():
    with torch.device("meta"):
        codec = ImageCodec(ImageCodecConfig.aion())
    assert sum(p.numel() for p in codec.parameters()) == 70_058_592
    assert codec.n_tokens == 576
    assert codec.n_codes == 4375


def test_one_network_in_memory_for_both_surveys(peer_of_aion):
    # The peer holds the same 280 MB once for each survey.
    legacysurvey = load(peer_of_aion[1])
    hsc = legacysurvey.of("hsc_image")
    assert hsc.modality == "hsc_image"
    pairs = zip(legacysurvey.parameters(), hsc.parameters(), strict=True)
    assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in pairs)


# Defects, by the name of what goes wrong in the release.


@pytest.mark.parametrize("compat", [None, COMPAT])
def test_aion_defect_hsc_decode(peer_of_aion, peer_encode, make_images, compat):
    peer, home = peer_of_aion
    images = make_images("hsc_image")
    ids = peer_encode(peer, "hsc_image", images)
    with pytest.raises(AttributeError, match="_reverse_zeropoint"):
        peer.decode(ids, bands=PEER_BANDS["hsc_image"])
    # A crash is nothing to reproduce: with `compat` too, ours are nanomaggies.
    decoded = load(home, "hsc_image", compat).decode(ids)
    np.testing.assert_allclose(
        decoded.flux, peer_decode(peer, ids, PEER_BANDS["hsc_image"]), rtol=2e-4, atol=1e-5
    )
    assert decoded.bands == tuple("grizy")
    assert decoded.pixel_scale_arcsec == 0.168


@pytest.mark.parametrize("compat", [None, COMPAT])
def test_aion_defect_decode_without_bands(peer_of_aion, compat):
    peer, home = peer_of_aion
    ids = torch.zeros((1, 576), dtype=torch.long)
    with pytest.raises(AttributeError, match="_reverse_zeropoint"):
        peer.decode(ids)
    assert load(home, compat=compat).decode(ids).bands == tuple("griz")


@pytest.mark.parametrize("compat", [None, COMPAT])
def test_aion_defect_in_place_changes(peer_of_aion, make_images, compat):
    from aion.modalities import HSCImage

    peer, home = peer_of_aion
    images = make_images("hsc_image")
    counts = torch.from_numpy(images.flux * np.float32(10**1.8))
    with torch.no_grad():
        first, second = (
            peer.encode(HSCImage(flux=counts, bands=PEER_BANDS["hsc_image"])) for _ in range(2)
        )
    assert (first != second).double().mean() > 0.1
    # What it means to say is the first; ours says so every time, with `compat` too.
    codec, before = load(home, "hsc_image", compat), images.flux.copy()
    for _ in range(2):
        assert torch.equal(codec.encode(images), first.long())
    np.testing.assert_array_equal(images.flux, before)


@pytest.mark.parametrize(("size", "n_tokens"), [(64, 16), (92, 1)])
def test_aion_defect_small_images(peer_of_aion, peer_encode, make_images, size, n_tokens):
    peer, home = peer_of_aion
    images = make_images("legacysurvey_image", size=size)
    wrong = peer_encode(peer, "legacysurvey_image", images)
    assert wrong.shape == (3, n_tokens)
    compat = load(home, compat=COMPAT)
    ids, mask = compat.encode_masked(images)
    assert torch.equal(ids, wrong)
    assert mask.shape == wrong.shape
    # Its decoder takes them back, as an image of another size.
    assert compat.decode(ids).flux.shape[2:] == (4 * n_tokens**0.5,) * 2
    with pytest.raises(ValueError, match=f"at least 96 x 96 pixels; found {size} x {size}"):
        load(home).encode(images)


@pytest.mark.parametrize("compat", [None, COMPAT])
def test_aion_defect_nan_pixel(peer_of_aion, peer_encode, make_images, compat):
    from aion.modalities import LegacySurveyImage

    peer, home = peer_of_aion
    images = make_images("legacysurvey_image", count=1)
    flux = images.flux.copy()
    flux[0, 1, 50, 50] = np.nan
    given = LegacySurveyImage(flux=torch.from_numpy(flux.copy()), bands=PEER_BANDS[SURVEYS[0]])
    with torch.no_grad():
        assert (peer.encode(given) == torch.iinfo(torch.int32).min).all()
    # Such ids are in no vocabulary and no image of ours holds a NaN: the pixel is masked, and its
    # zero is what both get.
    ours = Image(flux, bands=images.bands, pixel_scale_arcsec=0.262)
    expected = peer_encode(peer, "legacysurvey_image", ours)
    assert torch.equal(load(home, compat=compat).encode(ours), expected)


def test_aion_defect_masked_band_counts_as_there(peer_of_aion, peer_encode, make_images):
    peer, home = peer_of_aion
    images = make_images("legacysurvey_image")
    mask = np.ones(images.flux.shape, dtype=bool)
    mask[:, 2] = False
    about = {"bands": images.bands, "pixel_scale_arcsec": 0.262}
    masked = Image(images.flux, mask=mask, **about)
    wrong = peer_encode(peer, "legacysurvey_image", masked)
    assert torch.equal(load(home, compat=COMPAT).encode(masked), wrong)
    without = Image(images.flux[:, [0, 1, 3]], bands=("g", "r", "z"), pixel_scale_arcsec=0.262)
    right = load(home).encode(without)
    assert not torch.equal(right, wrong)
    assert torch.equal(load(home).encode(masked), right)
    assert torch.equal(peer_encode(peer, "legacysurvey_image", without), right)


def test_aion_defect_mixed_surveys(peer_of_aion, make_images):
    from aion.modalities import Image as PeerImage

    peer, home = peer_of_aion
    flux = torch.from_numpy(make_images("legacysurvey_image").flux[:, :2])
    with torch.no_grad():
        one = peer.encode(PeerImage(flux=flux.clone(), bands=["HSC-G", "DES-R"]))
        two = peer.encode(PeerImage(flux=flux.flip(1), bands=["DES-R", "HSC-G"]))
    # The same pixels, but the first band's zero point is used for all.
    assert (one != two).double().mean() > 0.1
    # Here an Image is of one modality and in nanomaggies: there is no such mixture to get wrong.
    mixed = Image(flux.numpy(), bands=("y", "r"), pixel_scale_arcsec=0.262)
    with pytest.raises(ValueError, match="has no band 'y' in this codec; it knows g, r, i, z"):
        load(home).encode(mixed)


@pytest.mark.parametrize("compat", [None, COMPAT])
def test_aion_defect_band_order(peer_of_aion, make_images, compat):
    # Of one survey the order never mattered; see mixed surveys for where it did.
    images, order = make_images("hsc_image"), [3, 0, 4, 2, 1]
    turned = Image(
        images.flux[:, order],
        bands=tuple(images.bands[i] for i in order),
        pixel_scale_arcsec=0.168,
    )
    codec = load(peer_of_aion[1], "hsc_image", compat)
    ids = codec.encode(images)
    assert torch.equal(codec.encode(turned), ids)
    decoded = codec.decode(ids)
    turned = codec.decode(ids, bands=turned.bands)
    assert turned.bands == ("z", "g", "y", "i", "r")
    np.testing.assert_allclose(turned.flux, decoded.flux[:, order], rtol=1e-5, atol=1e-6)


def test_aion_defect_extra_channels(peer_of_aion, make_images):
    from aion.modalities import LegacySurveyImage

    peer, _ = peer_of_aion
    images = make_images("legacysurvey_image")
    bands = PEER_BANDS["legacysurvey_image"]
    five = np.concatenate([images.flux, 100 * images.flux[:, :1]], axis=1)
    with torch.no_grad():
        ids = peer.encode(LegacySurveyImage(flux=torch.from_numpy(images.flux.copy()), bands=bands))
        same = peer.encode(LegacySurveyImage(flux=torch.from_numpy(five.copy()), bands=bands))
    assert torch.equal(ids, same)
    with pytest.raises(ValueError, match="flux has 5 bands but bands names"):
        Image(five, bands=images.bands, pixel_scale_arcsec=0.262)


@pytest.mark.parametrize("compat", [None, COMPAT])
def test_aion_defect_float64(peer_of_aion, peer_encode, make_images, compat):
    from aion.modalities import LegacySurveyImage

    peer, home = peer_of_aion
    images = make_images("legacysurvey_image")
    flux = images.flux.astype(np.float64)
    given = LegacySurveyImage(
        flux=torch.from_numpy(flux.copy()), bands=PEER_BANDS["legacysurvey_image"]
    )
    with pytest.raises(RuntimeError, match="dtype"):
        peer.encode(given)
    double = Image(flux, bands=images.bands, pixel_scale_arcsec=0.262)
    expected = peer_encode(peer, "legacysurvey_image", images)
    assert torch.equal(load(home, compat=compat).encode(double), expected)


def test_aion_defect_impossible_codes(peer_of_aion):
    peer, home = peer_of_aion
    ids = torch.full((1, 576), 999_999)
    wrong = peer_decode(peer, ids, PEER_BANDS["legacysurvey_image"])
    assert np.isfinite(wrong).all()
    compat = load(home, compat=COMPAT).decode(ids)
    np.testing.assert_allclose(compat.flux, wrong, rtol=2e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"lie in 0 … 4374; found 999999"):
        load(home).decode(ids)


def test_aion_defect_sinh_overflow(peer_of_aion, tmp_path):
    peer, home = peer_of_aion
    shutil.copytree(home, tmp_path / "bright")
    bias = peer.subsample_out.bias.clone()
    try:
        with torch.no_grad():
            peer.subsample_out.bias[5:] = torch.tensor([9.6, 9.6, 2.0, 0.0])
        from safetensors.torch import save_file

        tensors = {name: t.contiguous().clone() for name, t in peer.state_dict().items()}
        save_file(tensors, tmp_path / "bright" / "codecs" / "image" / "model.safetensors")
        ids = torch.zeros((1, 576), dtype=torch.long)
        wrong = peer_decode(peer, ids, PEER_BANDS["legacysurvey_image"])
    finally:
        peer.subsample_out.bias.data.copy_(bias)
    assert np.isinf(wrong[:, :2]).any()
    # No good pixel of an Image is infinite: with `compat` such pixels come back masked.
    compat = load(tmp_path / "bright", compat=COMPAT).decode(ids)
    np.testing.assert_array_equal(compat.mask, np.isfinite(wrong))
    np.testing.assert_allclose(compat.flux[:, 2], wrong[:, 2], rtol=2e-4)
    # By default the inverse is a straight line beyond 10^4 nmgy, which no pixel of a survey has.
    right = load(tmp_path / "bright").decode(ids)
    assert right.mask.all()
    assert np.isfinite(right.flux).all()
    assert right.flux[:, :2].min() > 1e4
    np.testing.assert_allclose(right.flux[:, 3], wrong[:, 3], rtol=2e-4, atol=1e-5)


def test_aion_defect_codecs_only_from_the_hub(peer_of_aion):
    from aion.codecs.image import ImageCodec as PeerCodec
    from aion.modalities import LegacySurveyImage

    _, home = peer_of_aion
    with pytest.raises(TypeError, match="quantizer_levels"):
        PeerCodec.from_pretrained(str(home), modality=LegacySurveyImage)
    assert load(home).n_codes == 4375
    assert load(home / "codecs").n_codes == 4375
    assert load(home / "codecs" / "image").n_codes == 4375


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("model.conv_in.conv.weight", None),
        ("pre_quant_proj.bias", torch.zeros(4)),
        ("ema.conv_in.conv.weight", torch.zeros(1)),
        ("_quantizer.levels", torch.tensor([5, 5, 5, 5, 5], dtype=torch.int32)),
    ],
    ids=["missing", "shape", "unknown", "levels"],
)
def test_aion_defect_weights_that_do_not_fit_are_ignored(peer_of_aion, tmp_path, name, changed):
    # The release loads what fits and leaves the rest random.
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "image"
    shutil.copytree(peer_of_aion[1] / "codecs" / "image", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name, None)
    if changed is not None:
        tensors[name] = changed
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder.conv_in|to_latent.bias|ema|levels"):
        load(folder)


def test_damaged_folders_are_refused(peer_of_aion, tmp_path):
    whole = peer_of_aion[1] / "codecs" / "image"
    shutil.copytree(whole, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load(tmp_path / "cut")
    shutil.copytree(whole, tmp_path / "other")
    config = json.loads((whole / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "depth": 3}))
    with pytest.raises(CheckpointError, match="quantizer_levels"):
        load(tmp_path / "other")


@pytest.mark.real_data
def test_same_tokens_as_aion_on_real_images(real_data, peer_of_aion, peer_encode):
    from omnisky.codecs.image import padded
    from omnisky.surveys import legacysurvey
    from omnisky.surveys.coadds import Wanted
    from omnisky.surveys.hsc import read_scene

    peer, home = peer_of_aion
    native = real_data / "native"
    path = native / "legacysurvey_cutouts" / "test_image_grz_256.fits"
    (objects,) = legacysurvey.read_cutouts([path])
    coadd = legacysurvey.find_bricks(native / "legacysurvey")["0959p805"].open(["g"], Wanted())["g"]
    flux, ivar = (np.empty((3600, 3600), np.float32) for _ in range(2))
    mask = np.empty((3600, 3600), bool)
    coadd.cut_all(flux, ivar, mask)
    # What there is of the brick lies in one corner; some windows have bad pixels.
    corners = [(y, x) for y in range(0, 1500, 300) for x in range(0, 800, 200)]
    tiles = [
        np.stack([a[y : y + 96, x : x + 96] for y, x in corners])[:, None]
        for a in (flux, ivar, mask)
    ]
    brick = Image(*tiles, bands=("g",), pixel_scale_arcsec=0.262)
    scenes = [
        read_scene(native / "hsc" / f"{name}.npz") for name in ("hsc_cosmos", "hsc_cosmos_35")
    ]
    cases = [
        ("legacysurvey_image", objects.observations["legacysurvey_image"]),
        ("legacysurvey_image", brick[brick.present]),
        *(("hsc_image", padded(scene, 96)) for scene in scenes),
    ]
    assert not cases[1][1].mask.all()
    ours = torch.cat([load(home, name).encode(images) for name, images in cases])
    theirs = torch.cat([peer_encode(peer, name, images) for name, images in cases])
    assert len(ours) > 20
    assert_same_tokens(load(home), ours, theirs)
