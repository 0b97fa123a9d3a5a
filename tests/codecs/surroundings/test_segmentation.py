"""The codec of segmentation maps: one FSQ code a patch."""

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec
from omnisky.codecs.surroundings.segmentation import SegmentationCodec, SegmentationCodecConfig
from omnisky.modalities import Scalar, SegmentationMap


def test_tokens_are_12_by_12_codes(map_codec, maps):
    ids = map_codec.encode(maps)
    assert ids.shape == (24, 144)
    assert 0 <= int(ids.min())
    assert int(ids.max()) < 1000
    (group,) = map_codec.groups
    assert (group.kind, group.n_tokens, group.vocab_size) == ("code", 144, 1000)
    assert map_codec.values() is None
    back = map_codec.decode(ids)
    assert back.field.shape == (24, 96, 96)
    assert back.pixel_scale_arcsec == 0.262


def test_a_token_depends_on_its_patch_first(map_codec, maps):
    """Row-major: what changes at the lower left (y = 0) changes early tokens only."""
    field = maps.field[:1].copy()
    field[0, :8, :8] = 1 - field[0, :8, :8]
    changed = map_codec.encode(SegmentationMap(field, pixel_scale_arcsec=0.262))
    where = (changed != map_codec.encode(maps[:1])).reshape(12, 12).nonzero()
    assert len(where)
    assert int(where.max()) <= 6


def test_training_mode_makes_no_difference_to_tokens(map_codec, maps):
    ids = map_codec.encode(maps)
    state = {name: t.clone() for name, t in map_codec.state_dict().items()}
    map_codec.train()
    try:
        assert torch.equal(map_codec.encode(maps[:5]), ids[:5])
        first = map_codec.decode(ids[:2]).field
    finally:
        map_codec.eval()
    np.testing.assert_array_equal(first, map_codec.decode(ids[:2]).field)
    assert all(torch.equal(state[name], t) for name, t in map_codec.state_dict().items())


def test_loss_falls_and_masked_pixels_do_not_count(maps):
    torch.manual_seed(0)
    codec = SegmentationCodec(
        SegmentationCodecConfig(modality="a", width=16, hidden=8, levels=(8, 5))
    )
    batch = codec.prepare(maps[:8])
    optimizer = torch.optim.Adam(codec.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        loss, metrics = codec.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert metrics["codes"].shape == (8, 12, 12)
    codec.eval()
    mask = batch["mask"].clone()
    mask[:, :, :48] = False
    # The same input with other masks: the mean of the two halves is that of the whole.
    parts = [codec.loss({**batch, "mask": m})[0].detach() for m in (mask, ~mask, mask | True)]
    assert float(sum(parts[:2]) / 2) == pytest.approx(float(parts[2]), rel=1e-5)
    report = codec.report(maps[:8])
    assert set(report) >= {"mse", "pixels_right", "covered_iou", "code_usage", "objects"}


def test_larger_maps_are_cropped_about_the_middle(map_codec, maps):
    wide = SegmentationMap(np.pad(maps.field, ((0, 0), (32, 32), (32, 32))), None, 0.262)
    assert torch.equal(map_codec.encode(wide), map_codec.encode(maps))


def test_absent_maps_have_no_tokens(map_codec, maps):
    mask = np.ones_like(maps.mask)
    mask[1] = False
    ids, known = map_codec.encode_masked(SegmentationMap(maps.field, mask, 0.262))
    assert known.all(1).tolist() == [i != 1 for i in range(24)]
    back = map_codec.decode(ids, known)
    assert back.present.tolist() == known.all(1).tolist()


def test_bad_input_gets_one_clear_error(map_codec, maps):
    with pytest.raises(TypeError, match="is a map; found a Scalar"):
        map_codec.encode(Scalar(np.zeros(2)))
    small = SegmentationMap(maps.field[:, :64, :64], None, 0.262)
    with pytest.raises(ValueError, match=r"has 96 × 96 pixels; found 64 × 64\. Pad"):
        map_codec.encode(small)
    with pytest.raises(ValueError, match=r"pixels of 0\.262 arcsec; found 0\.168"):
        map_codec.encode(SegmentationMap(maps.field, None, 0.168))
    with pytest.raises(ValueError, match="must lie from 0 to 1"):
        SegmentationMap(maps.field * 2, None, 0.262)
    ids = map_codec.encode(maps[:2])
    with pytest.raises(ValueError, match=r"lie in 0 … 999; found 0 … 1000"):
        map_codec.decode(torch.where(ids == ids[0, 0], 1000, 0))
    with pytest.raises(ValueError, match=r"shape \(object, 144\).*143"):
        map_codec.decode(ids[:, 1:])
    with pytest.raises(ValueError, match="multiple of"):
        SegmentationCodecConfig(modality="a", size=90)


def test_doubles_are_accepted_and_input_is_never_changed(map_codec, maps):
    field = maps.field.astype(np.float64)
    given = SegmentationMap(field, None, 0.262)
    before = given.field.copy()
    assert torch.equal(map_codec.encode(given), map_codec.encode(maps))
    assert np.array_equal(given.field, before)


def test_saved_and_loaded_it_is_the_same(map_codec, maps, tmp_path):
    map_codec.save(tmp_path / "s")
    again = Codec.from_pretrained(tmp_path / "s", modality="legacysurvey_segmentation")
    assert torch.equal(again.encode(maps), map_codec.encode(maps))


def test_training_maps_are_turned_and_mirrored(map_codec, maps):
    before = maps.field.copy()
    turned = map_codec.augment(maps, torch.Generator().manual_seed(0))
    assert np.array_equal(maps.field, before)
    kinds = set()
    for given, found in zip(maps.field, turned.field, strict=True):
        ways = [np.rot90(m, k) for m in (given, given[:, ::-1]) for k in range(4)]
        same = [i for i, way in enumerate(ways) if np.array_equal(way, found)]
        assert same
        kinds |= set(same)
    assert len(kinds) > 5
