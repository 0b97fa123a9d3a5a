"""AION-1's codecs of catalogues and maps: the same tokens, and each defect by its name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec
from omnisky.codecs.aion.surroundings import AionCatalogCodec, aion_ids, from_aion_ids
from omnisky.codecs.loading import load_codec
from omnisky.modalities import SegmentationMap
from omnisky.storage import CheckpointError

COMPAT = "aion-0.0.2"
SCALE = 0.262
# Where the ids of x, y, e1, e2 and r begin in the released codec.
OFFSETS = (0, 96, 192, 1216, 2240)
_KEYS = ("SHAPE_E1", "SHAPE_E2", "SHAPE_R")


def save(folder, config, tensors):
    import json

    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def peer_catalog(catalog):
    """Return AION-1's catalog codec, its reservoirs filled with invented sources."""
    from aion.codecs import CatalogCodec

    peer = CatalogCodec()
    for key, name in zip(_KEYS, ("e1", "e2", "r"), strict=True):
        values = torch.from_numpy(getattr(catalog, name)[catalog.mask])
        quantizer = peer.quantizer.quantizers[key]
        quantizer._reservoir[:] = values[torch.arange(100_000) % len(values)]
        quantizer._generate_index_to_val()
    return peer


@pytest.fixture(scope="module")
def catalog_folder(peer_catalog, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aion") / "codecs" / "catalog"
    return save(folder, {"mask_value": 9999}, peer_catalog.state_dict())


def peer_input(catalog):
    """Return a catalogue as AION-1 takes it: pixels, and 9999 in empty places."""
    from aion.modalities import LegacySurveyCatalog

    def column(values):
        return torch.where(torch.from_numpy(catalog.mask), torch.from_numpy(values), 9999)

    pixels = [np.floor(v / SCALE + 48).astype(np.int64) for v in (catalog.x, catalog.y)]
    shapes = [getattr(catalog, name) for name in ("e1", "e2", "r")]
    return LegacySurveyCatalog(*map(column, pixels), *map(column, shapes))


@pytest.fixture(scope="module")
def inside(catalog):
    """Return the invented catalogues; all of their sources lie in the 96 pixels."""
    assert np.abs(catalog.x).max() < 48 * SCALE
    return catalog


def test_catalog_tokens_and_reconstructions_are_the_peers(peer_catalog, catalog_folder, inside):
    codec = Codec.from_pretrained(catalog_folder, "legacysurvey_catalog", compat=COMPAT)
    theirs = peer_catalog.encode(peer_input(inside))
    ids, mask = codec.encode_masked(inside)
    assert ids.shape == (400, 100)
    own, known = from_aion_ids(ids)
    assert torch.equal(aion_ids(own, mask, compat=COMPAT), theirs)
    assert torch.equal(from_aion_ids(theirs, compat=COMPAT)[0], own)
    assert torch.equal(known, mask)
    back, peers = codec.decode(ids, mask), peer_catalog.decode(theirs)
    for name, key in zip(("e1", "e2", "r"), _KEYS, strict=True):
        expected = getattr(peers, key)[torch.from_numpy(inside.mask)].numpy()
        np.testing.assert_array_equal(getattr(back, name)[inside.mask], expected)
    for name, key in (("x", "X"), ("y", "Y")):
        cells = np.floor(getattr(back, name) / SCALE + 48)[inside.mask]
        np.testing.assert_array_equal(cells, getattr(peers, key)[torch.from_numpy(inside.mask)])


def test_aion_defect_catalog_ids_do_not_fit_the_transformer(peer_catalog, catalog_folder, inside):
    """The codec's ids lack the offset of 204 and 9999 is beyond the vocabulary of 3468."""
    codec = Codec.from_pretrained(catalog_folder, "legacysurvey_catalog")
    theirs = peer_catalog.encode(peer_input(inside))
    embedding = torch.nn.Embedding(3468, 2, padding_idx=0)
    with pytest.raises(IndexError):
        embedding(theirs)
    right, mask = codec.encode_masked(inside)
    assert (theirs[~mask] == 9999).all()
    assert codec.groups[0].vocab_size == 3468
    assert embedding(right).shape == (400, 100, 2)
    assert (right[mask] == theirs[mask] + 204).all()
    assert (right[~mask] == 0).all()
    assert int(right[mask].min()) >= 204
    own, known = from_aion_ids(right)
    assert torch.equal(own[mask] + torch.tensor(OFFSETS).repeat(400, 20)[mask], theirs[mask])
    assert torch.equal(known, mask)
    # An id of another column is no source.
    wrong = right.clone()
    wrong[:, 0] = right[:, 1]
    assert not codec.decode(wrong, mask).mask[:, 0].any()


def test_aion_catalogs_survive_saving(catalog_folder, inside, tmp_path):
    codec = Codec.from_pretrained(catalog_folder, "legacysurvey_catalog")
    codec.save(tmp_path / "ours")
    again = load_codec(tmp_path / "ours")
    assert type(again) is AionCatalogCodec
    for one, other in zip(again.encode_masked(inside), codec.encode_masked(inside), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="found \\(20, 96, 512, False\\)"):
        AionCatalogCodec(replace(codec.config, bins=512))


def test_aion_defect_empty_places_decode_to_minus_one(peer_catalog, catalog_folder, inside):
    theirs = peer_catalog.encode(peer_input(inside))
    decoded = peer_catalog.decode(theirs)
    empty = torch.from_numpy(~inside.mask)
    assert (decoded.SHAPE_R[empty] == -1).all()
    for compat in (COMPAT, None):
        codec = Codec.from_pretrained(catalog_folder, "legacysurvey_catalog", compat=compat)
        # A radius of -1 is no value: with compat, too, the sources are absent.
        own, known = from_aion_ids(theirs, compat=COMPAT)
        back = codec.decode(aion_ids(own, known), known)
        assert np.array_equal(back.mask, inside.mask)


def test_aion_defect_half_bin_bias_of_shapes(peer_catalog, catalog_folder, inside):
    """Every value decodes to the upper edge of its bin."""
    known = inside.mask & (inside.r > 0)
    bias = {}
    for compat in (COMPAT, None):
        codec = Codec.from_pretrained(catalog_folder, "legacysurvey_catalog", compat=compat)
        back = codec.decode(*codec.encode_masked(inside))
        bias[compat] = float((back.e1 - inside.e1)[known].mean())
        if compat:
            expected = peer_catalog.decode(peer_catalog.encode(peer_input(inside)))
            found = expected.SHAPE_E1[torch.from_numpy(known)].numpy()
            np.testing.assert_array_equal(back.e1[known], found)
    assert bias[COMPAT] > 1e-4
    assert abs(bias[None]) < bias[COMPAT] / 2


def test_ids_out_of_range_are_refused_not_shifted():
    ids = torch.zeros(1, 100, dtype=torch.long)
    ids[0, 0] = 96
    with pytest.raises(ValueError, match="count from 0 to below"):
        aion_ids(ids, torch.ones_like(ids, dtype=torch.bool))
    with pytest.raises(ValueError, match="5 ids a source"):
        from_aion_ids(ids[:, 1:])


# --- Segmentation maps


def peer_map_codec(maps, **settings):
    """Return AION-1's codec of maps, all weights at work and codes all over the vocabulary."""
    from aion.codecs import ScalarFieldCodec

    torch.manual_seed(0)
    peer = ScalarFieldCodec(embedding_dim=4, **settings)
    for module in peer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.3, 2)
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    peer.eval()
    with torch.no_grad():
        found = peer.encode_proj(peer.encoder(torch.from_numpy(maps.field[:8, None])))
        peer.encode_proj.weight /= found.std((0, 2, 3))[:, None, None, None]
        peer.encode_proj.bias.copy_(
            (peer.encode_proj.bias - found.mean((0, 2, 3))) / found.std((0, 2, 3))
        )
    return peer


def map_folder(peer, folder, **settings):
    config = {"embedding_dim": 4, "levels": [8, 5, 5, 5], **settings}
    return save(folder / "codecs" / "segmentation_map", config, peer.state_dict())


def agree(peer, codec, maps):
    from aion.modalities import LegacySurveySegmentationMap

    given = LegacySurveySegmentationMap(field=torch.from_numpy(maps.field.copy()))
    with torch.no_grad():
        theirs = peer.encode(given)
        decoded = peer.decode(theirs).field.numpy()
    ids = codec.encode(maps)
    assert len(ids.unique()) > 20
    same = ids == theirs
    # Ties at a border of two codes may round either way.
    assert same.float().mean() >= 0.9999
    np.testing.assert_allclose(codec.decode(theirs.long()).field, decoded, atol=2e-6)


def test_map_tokens_and_reconstructions_are_the_peers(maps, tmp_path):
    settings = {"encoder_output_dim": 32, "res_hidden_dims": 8, "output_activation_extension": 0.1}
    peer = peer_map_codec(maps, **settings)
    folder = map_folder(peer, tmp_path, **settings, lr=1e-4)
    codec = Codec.from_pretrained(folder, "legacysurvey_segmentation", compat=COMPAT)
    assert codec.config.compat == COMPAT
    agree(peer, codec, maps)
    # 160 pixels are cropped to 96, as there.
    wide = SegmentationMap(np.pad(maps.field, ((0, 0), (32, 33), (33, 32))), None, SCALE)
    agree(peer, codec, wide[:4])


@pytest.mark.slow
def test_map_tokens_and_reconstructions_at_paper_size(maps, tmp_path):
    peer = peer_map_codec(maps, encoder_output_dim=512)
    folder = map_folder(peer, tmp_path, encoder_output_dim=512)
    agree(peer, Codec.from_pretrained(folder, "legacysurvey_segmentation"), maps[:4])


def test_moving_averages_in_the_file_are_ignored(maps, tmp_path):
    peer = peer_map_codec(maps, encoder_output_dim=16, ema_model_weights=True)
    names = [n for n in peer.state_dict() if n.startswith("ema.")]
    assert names
    folder = map_folder(peer, tmp_path, encoder_output_dim=16, ema_model_weights=True)
    agree(peer, Codec.from_pretrained(folder, "legacysurvey_segmentation"), maps[:4])


def test_aion_defect_training_mode_changes_tokens(maps, tmp_path):
    """A codec built rather than loaded is in training mode: tokens depend on the other objects.

    A mode is no value to reproduce: ours is right with compat as well.
    """
    from aion.modalities import LegacySurveySegmentationMap

    peer = peer_map_codec(maps, encoder_output_dim=16)
    codec = Codec.from_pretrained(
        map_folder(peer, tmp_path, encoder_output_dim=16),
        "legacysurvey_segmentation",
        compat=COMPAT,
    )
    given = LegacySurveySegmentationMap(field=torch.from_numpy(maps.field.copy()))
    with torch.no_grad():
        right = peer.encode(given)
        assert not torch.equal(peer.train().encode(given), right)
    codec.train()
    assert (codec.encode(maps) == right).float().mean() >= 0.9999
    assert torch.equal(codec.encode(maps[:3]), codec.encode(maps)[:3])


def test_aion_defect_no_number_of_tokens_for_targets(map_codec, catalog_codec):
    """Its classes of these two lack num_tokens, so its transformer refuses them as targets."""
    from aion.modalities import LegacySurveyCatalog, LegacySurveySegmentationMap

    for theirs in (LegacySurveyCatalog, LegacySurveySegmentationMap):
        assert not hasattr(theirs, "num_tokens")
    assert map_codec.n_tokens == 144
    assert catalog_codec.n_tokens == 101


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, t: t.pop("decoder.net.7.bias"), "decoder.net.7.bias"),
        (lambda c, t: t.update(more=torch.zeros(1)), "more"),
        (lambda c, t: c.update(levels=[5, 5, 5, 8]), "levels are"),
        (lambda c, t: c.update(variational=True), "variational"),
        (lambda c, t: c.update(colour=1), "colour"),
        (lambda c, t: c.pop("encoder_output_dim"), "encoder_output_dim"),
    ],
)
def test_what_does_not_fit_is_refused(maps, tmp_path, change, message):
    peer = peer_map_codec(maps, encoder_output_dim=16)
    config = {"encoder_output_dim": 16, "embedding_dim": 4, "levels": [8, 5, 5, 5]}
    tensors = dict(peer.state_dict())
    change(config, tensors)
    folder = save(tmp_path / "segmentation_map", config, tensors)
    with pytest.raises(CheckpointError, match=message):
        Codec.from_pretrained(folder, "legacysurvey_segmentation")


def test_a_catalog_without_its_tables_is_refused(peer_catalog, tmp_path):
    tensors = dict(peer_catalog.state_dict())
    del tensors["_quantizer.quantizers.SHAPE_R._index_to_val"]
    folder = save(tmp_path / "catalog", {"mask_value": 9999}, tensors)
    with pytest.raises(CheckpointError, match=r"SHAPE_R\._index_to_val.*found nothing"):
        Codec.from_pretrained(folder, "legacysurvey_catalog")
