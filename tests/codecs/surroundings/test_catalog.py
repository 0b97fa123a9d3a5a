"""The catalog codec: how many sources there are, then five tokens each."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec
from omnisky.codecs.surroundings.catalog import CatalogCodec
from omnisky.modalities import Catalog, Scalar
from omnisky.storage import CheckpointError

COLUMNS = ("x", "y", "e1", "e2", "r", "mask")


def changed(catalog, **columns):
    return Catalog(**{n: columns.get(n, getattr(catalog, n)) for n in COLUMNS})


def test_tokens_are_the_count_and_five_for_each_source(catalog_codec, catalog):
    ids, mask = catalog_codec.encode_masked(catalog)
    assert ids.shape == (400, 101)
    assert ids.dtype == torch.long
    sources = torch.from_numpy(catalog.mask.sum(1))
    assert (ids[:, 0] == sources - 1).all()
    assert (mask.sum(1) == 1 + 5 * sources).all()
    assert (mask[:, 1:6]).all()
    assert (ids[~mask] == 0).all()
    assert torch.equal(catalog_codec.existing(ids), mask)
    # x = 0 lies at the lower edge of the cell after the middle.
    assert (ids[:, 1] == 48).all()
    assert sum(g.n_tokens for g in catalog_codec.groups) == 101
    first = 0
    for group in catalog_codec.groups:
        part = ids[:, first : first + group.n_tokens]
        assert 0 <= int(part.min())
        assert int(part.max()) < group.vocab_size
        first += group.n_tokens


def test_decoding_is_within_a_cell_and_the_bins(catalog_codec, catalog):
    back = catalog_codec.decode(*catalog_codec.encode_masked(catalog))
    known = catalog.mask
    assert np.array_equal(back.mask, known)
    for name in ("x", "y"):
        error = np.abs(getattr(back, name) - getattr(catalog, name))[known]
        assert error.max() <= 0.262
        assert np.sqrt((error**2).mean()) < 0.262 / np.sqrt(12)
        # The object itself, the mean of the middle cell but for some neighbours.
        assert np.abs(getattr(back, name)[:, 0]).max() < 0.02
    point = known & (catalog.r == 0)
    for name in ("e1", "e2", "r"):
        given, found = getattr(catalog, name), getattr(back, name)
        assert (found[point] == 0).all()
        assert np.corrcoef(given[known], found[known])[0, 1] > 0.98
        # Conditional means: no bias.
        assert found[known].mean() == pytest.approx(
            given[known].mean(), abs=2e-3 + 0.02 * (name == "r")
        )


def test_ids_mean_their_values(catalog_codec, catalog):
    values = catalog_codec.values()
    assert values.shape == (101, 96)
    ids, mask = catalog_codec.encode_masked(catalog)
    back = catalog_codec.decode(ids, mask)
    meant = values[torch.arange(101), ids]
    np.testing.assert_allclose(meant[:, 0], catalog.mask.sum(1))
    for i, name in enumerate(COLUMNS[:5]):
        np.testing.assert_allclose(
            meant[:, 1 + i :: 5][torch.from_numpy(catalog.mask)],
            getattr(back, name)[catalog.mask],
            rtol=1e-5,
            atol=1e-6,
        )


def test_an_object_without_sources_has_no_tokens(catalog_codec, catalog):
    empty = changed(catalog, mask=np.zeros_like(catalog.mask))[:3]
    ids, mask = catalog_codec.encode_masked(empty)
    assert not mask.any()
    assert not catalog_codec.decode(ids, mask).present.any()
    with pytest.raises(ValueError, match="3 of 3 objects have no legacysurvey_catalog"):
        catalog_codec.encode(empty)


def test_a_source_that_lost_a_token_is_absent(catalog_codec, catalog):
    ids, mask = catalog_codec.encode_masked(catalog[:4])
    mask[0, 3] = False
    back = catalog_codec.decode(ids, mask)
    assert not back.mask[0, 0]
    assert back.mask[1, 0]


def test_catalogs_of_fewer_places_fit_and_of_more_sources_do_not(catalog_codec, catalog):
    few = Catalog(*(getattr(catalog[:8], n)[:, :3] for n in COLUMNS))
    ids, mask = catalog_codec.encode_masked(few)
    assert ids.shape == (8, 101)
    assert int(mask.sum(1).max()) == 16
    wide = Catalog(
        *(np.tile(getattr(catalog, n), 2) for n in COLUMNS[:5]), np.ones((400, 40), bool)
    )
    with pytest.raises(ValueError, match=r"tokens for 20 sources; object 0 has 40"):
        catalog_codec.encode_masked(wide)


def test_bad_input_gets_one_clear_error(catalog_codec, catalog):
    with pytest.raises(TypeError, match="is a catalog; found a Scalar"):
        catalog_codec.encode_masked(Scalar(np.zeros(3)))
    mask = catalog.mask.copy()
    mask[:, 0] = False
    with pytest.raises(ValueError, match="has a gap"):
        catalog_codec.encode_masked(changed(catalog, mask=mask))
    ids, mask = catalog_codec.encode_masked(catalog[:2])
    ids[1, 1] = 96
    with pytest.raises(ValueError, match=r"tokens 1 … 2, lie in 0 … 95; found \d+ … 96"):
        catalog_codec.decode(ids, mask)
    for wrong in ({"e1": np.full((1, 2), 1.5)}, {"r": np.full((1, 2), -1.0)}):
        columns = {**dict.fromkeys(COLUMNS[:5], np.zeros((1, 2))), **wrong}
        with pytest.raises(ValueError, match="sources must be"):
            Catalog(**columns)
    with pytest.raises(ValueError, match="other than 0; found"):
        CatalogCodec.fit(catalog[:5], modality="a")


def test_what_lies_outside_is_counted_and_gets_the_outermost_token(catalog_codec, catalog):
    assert catalog_codec.count_outside(catalog) == 0
    x, r = catalog.x.copy(), catalog.r.copy()
    x[0, 0], r[1, 0] = 40.0, 500.0
    far = changed(catalog, x=x, r=r)
    assert catalog_codec.count_outside(far) == 2
    ids, _ = catalog_codec.encode_masked(far)
    assert ids[0, 1] == 95
    assert ids[1, 5] == 63


def test_input_is_never_changed(catalog_codec, catalog):
    before = {n: getattr(catalog, n).copy() for n in COLUMNS}
    catalog_codec.encode_masked(catalog)
    catalog_codec.count_outside(catalog)
    for name, values in before.items():
        assert np.array_equal(getattr(catalog, name), values)


def test_saved_and_loaded_it_is_the_same(catalog_codec, catalog, tmp_path):
    catalog_codec.save(tmp_path / "c")
    again = Codec.from_pretrained(tmp_path / "c", modality="legacysurvey_catalog")
    for mine, theirs in zip(
        again.encode_masked(catalog), catalog_codec.encode_masked(catalog), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert again.config == catalog_codec.config
    (tmp_path / "c" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged or pickled"):
        Codec.from_pretrained(tmp_path / "c")


def test_one_vocabulary_makes_one_group(catalog):
    codec = CatalogCodec.fit(catalog, modality="a", bins=96)
    assert [(g.n_tokens, g.vocab_size) for g in codec.groups] == [(1, 20), (100, 96)]
    with pytest.raises(ValueError, match="needs at least 2 sources"):
        replace(codec.config, sources=1)
