"""Scalar codecs of AION-1: the peer's tokens for every folder, and its defects by name."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from omnisky.codecs import Codec, load_codec
from omnisky.codecs.aion import COMPAT
from omnisky.modalities import Coefficients, Scalar
from omnisky.pretrained import NAMES
from omnisky.storage import CheckpointError
from tests.codecs.scalars import peer

# Values of these tests lie where they may; that the warning is given is tested in test_codec.py.
pytestmark = pytest.mark.filterwarnings("ignore:.*lie outside the range this codec")

FOLDERS = [n for n in NAMES if n not in ("image", "spectrum", "segmentation_map", "catalog")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return a function that gives the peer's codec of a folder and where it lies."""
    made = {}

    def get(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            codec = peer.build(name)
            made[name] = codec, peer.write(root, name, codec, old_names=name == "EBV")
        return made[name]

    return get


def typed(values):
    return Coefficients(values.numpy()) if values.ndim == 2 else Scalar(values.double().numpy())


def scalar(root, name, **how):
    return Codec.from_pretrained(root, modality=NAMES[name][0], **how)


@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_and_released_decoding_are_those_of_the_peer(name, pair):
    theirs, root = pair(name)
    values = peer.values_of(name, 500 if name in peer.XP else 4000, np.random.default_rng(5))
    if name not in peer.XP:
        quantiser = theirs.quantizer
        tops = quantiser.buckets if name == "Z" else quantiser._index_to_val
        tops = tops.exp() if name in peer.LOG else tops
        near = [torch.nextafter(tops, torch.tensor(end)) for end in (-1e30, 1e30)]
        odd = torch.tensor([-5.0, -0.0, 0.0, 1e-30, 0.0497, 0.0498, 1e9])
        values = torch.cat([values, tops, *near, odd])
    ours, same = scalar(root, name), scalar(root, name, compat=COMPAT)
    expected = theirs.quantizer.encode(values)
    ids = ours.encode(typed(values))
    # Not one differs, not even at the borders of bins.
    assert torch.equal(ids if values.ndim == 2 else ids[:, 0], expected)
    assert torch.equal(same.encode(typed(values)), ids)
    released = theirs.quantizer.decode(expected).numpy()
    np.testing.assert_allclose(same.decode(ids).value, released, rtol=5e-6)


def test_float64_input_is_rounded_as_the_peer_does(pair):
    theirs, root = pair("g_cmodel_mag")
    rng = np.random.default_rng(0)
    tops = theirs.quantizer._index_to_val.double().numpy()
    values = tops[rng.integers(0, 1024, 20_000)] * (1 + 1e-7 * rng.normal(size=20_000))
    expected = theirs.quantizer.encode(torch.from_numpy(values).float())
    assert torch.equal(scalar(root, "g_cmodel_mag").encode(Scalar(values))[:, 0], expected)


@pytest.mark.parametrize("name", ["g_cmodel_mag", "FLUX_R", "Z", "bp_coefficients"])
def test_aion_defect_half_bin_bias(name, pair):
    _, root = pair(name)
    values = peer.values_of(name, 2000 if name in peer.XP else 20_000, np.random.default_rng(6))
    if name == "Z":
        values = values[values < 0.999]
    ours, same = scalar(root, name), scalar(root, name, compat=COMPAT)
    ids = ours.encode(typed(values))
    flat = ids[:, 0]
    inner = (ids > 20) & (ids < 1000) if name in peer.XP else ((flat > 20) & (flat < 1000))
    released = torch.from_numpy(same.decode(ids).value)
    loss = torch.from_numpy(ours.decode(ids).value) - values
    assert (released - values)[inner].mean() > 3 * loss[inner].mean().abs()
    ours_rms, released_rms = loss[inner].pow(2).mean() ** 0.5, (released - values)[inner]
    assert ours_rms < 0.7 * released_rms.pow(2).mean() ** 0.5
    # The peer decodes to the top of the bin: nothing is above it.
    assert (released - values)[inner].min() > -1e-3 * released_rms.abs().max()


@pytest.mark.parametrize("name", ["r_cmodel_mag", "FLUX_G", "Z", "rp_coefficients"])
def test_aion_defect_nan_gets_the_last_token(name, pair):
    theirs, root = pair(name)
    values = peer.values_of(name, 3, np.random.default_rng(0))
    values[1] = float("nan")
    expected = theirs.quantizer.encode(values)
    assert (expected[1] == 1023).all()
    same, there = scalar(root, name, compat=COMPAT).encode_masked(typed(values))
    assert torch.equal(same.squeeze(1), expected.long())
    assert there.all()
    ids, there = scalar(root, name).encode_masked(typed(values))
    assert there.any(1).tolist() == [True, False, True]
    assert (ids[1] == 0).all()


def test_aion_defect_negative_fluxes_are_merged_with_zero(pair):
    theirs, root = pair("FLUX_W3")
    values = torch.tensor([-1e6, -3.0, 0.0, 0.04, 5.0])
    assert theirs.quantizer.encode(values)[:4].unique().numel() == 1
    # The table has one token for all of them, so it stays; but it is told.
    ours = scalar(root, "FLUX_W3")
    assert ours.encode(typed(values))[:4, 0].unique().tolist() == [0]
    assert ours.count_outside(typed(values)) == 4


def test_aion_defect_z_has_1025_ids_for_1024_codes(pair):
    theirs, root = pair("Z")
    with pytest.raises(IndexError):
        theirs.quantizer.decode(torch.tensor([1024]))
    for compat in (None, COMPAT):
        codec = Codec.from_pretrained(root, modality="sdss_z", compat=compat)
        assert codec.vocab_size == 1024
        with pytest.raises(ValueError, match="'sdss_z' lie in 0 … 1023; found 1024"):
            codec.decode(torch.tensor([[1024]]))
    assert codec.modalities == ("desi_z", "sdss_z")
    assert codec.of("desi_z").bins is codec.bins


def test_aion_defect_z_beyond_the_grid_is_not_told(pair):
    theirs, root = pair("Z")
    assert theirs.quantizer.encode(torch.tensor([2.3])).tolist() == [1023]
    ours = scalar(root, "Z")
    assert ours.encode(Scalar(np.array([2.3]))).tolist() == [[1023]]
    assert ours.count_outside(Scalar(np.array([0.5, 2.3]))) == 1


def test_aion_defect_reservoirs_are_shipped(pair, tmp_path):
    _, root = pair("bp_coefficients")
    released = (root / "codecs" / "bp_coefficients" / "model.safetensors").stat().st_size
    assert released > 55 * 4 * peer.RESERVOIR
    saved = scalar(root, "bp_coefficients").save(tmp_path / "gaia_xp_bp")
    # Edges and means of 1024 bins, whatever the sample that they were made of.
    assert (saved / "model.safetensors").stat().st_size < 55 * 2 * 1024 * 8 * 1.1
    again = load_codec(saved)
    values = typed(peer.values_of("bp_coefficients", 50, np.random.default_rng(1)))
    assert torch.equal(again.encode(values), scalar(root, "bp_coefficients").encode(values))


@pytest.mark.parametrize("least", [-1.0, None])
def test_aion_defect_min_log_value(least, pair, tmp_path):
    from aion.codecs.scalar import LogScalarCodec

    config = peer.config_of("FLUX_Z") | {"min_log_value": least}
    with pytest.raises((AssertionError, TypeError)):
        LogScalarCodec(**config)
    theirs, _ = pair("FLUX_Z")
    home = peer.write(tmp_path, "FLUX_Z", theirs) / "codecs" / "FLUX_Z"
    (home / "config.json").write_text(json.dumps(config))
    ours = scalar(tmp_path, "FLUX_Z")
    ids = ours.encode(Scalar(np.array([-1.0, 0.0, 0.2, 1.0, 50.0])))[:, 0]
    assert ids[0] == ids[1]
    assert (ids[2] == ids[1]) == (least == -1.0)
    assert ids[3] < ids[4]


def test_without_the_sample_bins_decode_to_their_middle(pair, tmp_path):
    theirs, _ = pair("i_cmodel_mag")
    home = peer.write(tmp_path, "i_cmodel_mag", theirs) / "codecs" / "i_cmodel_mag"
    tops = theirs.quantizer._index_to_val
    save_file({"_quantizer._index_to_val": tops}, home / "model.safetensors")
    means = scalar(tmp_path, "i_cmodel_mag").values()[0]
    np.testing.assert_allclose(means[1:], (tops[1:].double() + tops[:-1]) / 2)


def test_files_that_do_not_fit_are_refused(pair, tmp_path):
    theirs, _ = pair("EBV")
    home = peer.write(tmp_path, "EBV", theirs) / "codecs" / "EBV"
    whole = {k: v.clone() for k, v in theirs.state_dict().items()}
    table = "_quantizer._index_to_val"
    for state, message in (
        ({"_quantizer._reservoir": whole["_quantizer._reservoir"]}, "does not fit"),
        (whole | {"_quantizer.extra": torch.ones(2)}, "no such codec has: _quantizer.extra"),
        (whole | {table: whole[table][:100].clone()}, "1024 finite numbers"),
        (whole | {table: whole[table].flip(0).contiguous()}, "do not decrease"),
        (whole | {table: whole[table] * float("nan")}, "finite numbers"),
    ):
        save_file(state, home / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            scalar(tmp_path, "EBV")
    cut = (home / "model.safetensors").read_bytes()[:-100]
    (home / "model.safetensors").write_bytes(cut)
    with pytest.raises(CheckpointError, match="damaged"):
        scalar(tmp_path, "EBV")


def test_a_folder_in_the_place_of_another_is_refused(pair, tmp_path):
    theirs, _ = pair("FLUX_R")
    home = peer.write(tmp_path, "FLUX_R", theirs) / "codecs"
    (home / "FLUX_R").rename(home / "FLUX_G")
    with pytest.raises(CheckpointError, match="is of AION-1's codec 'FLUX_R'"):
        scalar(tmp_path, "FLUX_G")


def test_compat_knows_no_other_release(pair):
    with pytest.raises(ValueError, match="compat must be"):
        scalar(pair("EBV")[1], "EBV", compat="aion-1")
