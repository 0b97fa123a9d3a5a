"""Tokenizer and Tokens: subsets, absence, bad input."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from astropy.table import Table

from omnisky.codecs import Tokenizer, Tokens
from omnisky.modalities import Observations, Scalar, UnknownModalityError


def test_any_subset_is_encoded_and_decoded(star_tokenizer, mini):
    given = mini.observations.select("gaia_g", "twomass_j")
    tokens = star_tokenizer.encode(given)
    assert list(tokens) == ["gaia_g", "twomass_j"]
    decoded = star_tokenizer.decode(tokens)
    np.testing.assert_array_equal(decoded["twomass_j"].mask, given["twomass_j"].mask)
    error = decoded["gaia_g"].value - given["gaia_g"].value
    assert np.median(np.abs(error)) < 0.1


def test_tokens_index_like_an_array(star_tokenizer, mini):
    tokens = star_tokenizer.encode(mini.observations)
    chosen = np.array([5, 3])
    assert torch.equal(tokens[chosen]["gaia_xp"], tokens["gaia_xp"][[5, 3]])
    assert len(tokens[np.arange(len(mini)) < 10]) == 10
    assert tokens.shape[0] == len(mini)
    assert "gaia_g" not in tokens.drop("gaia_g")


def test_a_modality_without_codec_is_named(star_tokenizer, mini):
    strange = Observations({"desi_flux": Scalar(np.ones(2))})
    with pytest.raises(UnknownModalityError, match="no codec for desi_flux"):
        star_tokenizer.encode(strange)
    with pytest.raises(UnknownModalityError, match="these objects have"):
        star_tokenizer.encode(mini.observations)["nothing"]


def test_no_objects_are_refused(star_tokenizer, mini):
    with pytest.raises(ValueError, match="no objects"):
        star_tokenizer.encode(mini.observations[:0])


def test_values_far_outside_are_told(star_tokenizer, mini):
    value = mini.observations["gaia_g"].value + 30
    with pytest.warns(UserWarning, match="gaia_g: 399 of 399 values lie outside"):
        star_tokenizer.encode(Observations({"gaia_g": Scalar(value)}))


def test_save_and_load(star_tokenizer, mini, tmp_path):
    star_tokenizer.save_pretrained(tmp_path / "codecs")
    again = Tokenizer.from_pretrained(tmp_path / "codecs")
    a, b = star_tokenizer.encode(mini.observations), again.encode(mini.observations)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_tokens_check_their_arrays():
    ids = torch.zeros(3, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="LongTensor of shape"):
        Tokens({"a": ids.float()})
    with pytest.raises(ValueError, match="negative ids"):
        Tokens({"a": ids - 1})
    with pytest.raises(ValueError, match="one row an object"):
        Tokens({"a": ids, "b": ids[:2]})
    with pytest.raises(ValueError, match="at least one modality"):
        Tokens({})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gaia_g": Scalar(np.ones(3))}, r"found dict: Observations\(mapping\)"),
        (Scalar(np.ones(3)), r"found Scalar: .* Observations\({'gaia_g': scalar}\)"),
        (Table({"gaia_g": [12.0]}), r"found Table: omnisky\.observations_from_table\(table\)"),
        (SimpleNamespace(columns=[]), r"Table\.from_pandas\(frame\)"),
        ("stars.fits", r"takes Observations; found str: .*omnisky\.read_table"),
    ],
    ids=["mapping", "scalar", "table", "frame", "path"],
)
def test_what_is_no_observations_is_refused(star_tokenizer, given, message):
    with pytest.raises(TypeError, match=message):
        star_tokenizer.encode(given)


def test_a_data_set_is_refused_and_its_observations_named(star_tokenizer, mini):
    with pytest.raises(TypeError, match=r"found Dataset: a Dataset has \.observations"):
        star_tokenizer.encode(mini)
