"""What all codecs share: views, checks of ids, and a word when units look wrong."""

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec, ScalarCodec, Tokenizer, Tokens
from omnisky.mock import Universe
from omnisky.modalities import Observations, Scalar


@pytest.fixture(scope="module")
def magnitudes():
    values = np.random.default_rng(0).normal(18, 2, 2000)
    return ScalarCodec.fit(Scalar(values), modality="gaia_g", bins=64)


def test_wrong_units_are_told_wherever_one_encodes(magnitudes):
    flux = Scalar(np.full(50, 1e5))
    for encode in (
        magnitudes.encode,
        lambda m: Tokenizer({"gaia_g": magnitudes}).encode(Observations({"gaia_g": m})),
    ):
        with pytest.warns(UserWarning, match="gaia_g: 50 of 50 .* are the units right"):
            encode(flux)


def test_absent_objects_have_no_ids_to_give(magnitudes):
    with pytest.raises(ValueError, match="1 of 3 objects have no gaia_g; the first is object 1"):
        magnitudes.encode(Scalar(np.array([18.0, np.nan, 19.0])))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1]], "found <class 'list'>"),
        (torch.ones(2, 1), "found torch.float32"),
        (torch.ones(2, 2).long(), r"shape \(object, 1\).*\(2, 2\)"),
        (torch.full((2, 1), 64), "lie in 0 … 63; found 64 … 64"),
    ],
)
def test_ids_are_checked_alike(magnitudes, ids, message):
    with pytest.raises(ValueError, match=message):
        magnitudes.decode(ids)


@pytest.mark.filterwarnings("ignore:.*lie outside the range this codec")
def test_ids_alone_decode_like_ids_with_their_mask():
    codec = Codec.from_pretrained("spectrum", "desi_spectrum")
    found = Universe(seed=3, n=60).observe("desi", modalities=["desi_spectrum"])
    spectra = found.observations["desi_spectrum"][:8]
    ids, mask = codec.encode_masked(spectra)
    alone, known = codec.decode(codec.encode(spectra)), codec.decode(ids, mask)
    assert not mask.all()
    np.testing.assert_array_equal(alone.flux, known.flux)
    np.testing.assert_array_equal(alone.mask, known.mask)


class Elsewhere(torch.Tensor):
    """A tensor that NumPy cannot read until it is on the CPU."""

    def numpy(self, **how):
        raise TypeError("can't convert it to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_tokens_on_another_device_are_decoded(star_tokenizer, mini):
    image = Codec.from_pretrained("image", "legacysurvey_image")
    tokenizer = Tokenizer({**star_tokenizer.codecs, image.modality: image})
    here = star_tokenizer.encode(mini.observations[:2])
    codes = torch.arange(2 * image.n_tokens).view(2, -1)
    ids = {**here, image.modality: codes}
    mask = {**here.mask, image.modality: codes > 0}
    far, seen = ({n: t.as_subclass(Elsewhere) for n, t in part.items()} for part in (ids, mask))
    whole, known = tokenizer.decode(Tokens(far, seen)), tokenizer.decode(Tokens(ids, mask))
    for name in ("gaia_g", "gaia_xp", image.modality):
        for field in ("mask", "value" if name == "gaia_g" else "flux"):
            found, wanted = (getattr(o[name], field) for o in (whole, known))
            np.testing.assert_array_equal(found, wanted)
    for name in ("gaia_xp", image.modality):
        alone = tokenizer.codecs[name].decode(far[name], seen[name])
        np.testing.assert_array_equal(alone.mask, known[name].mask)
