"""Encoding without padding gives what the padded table gives."""

import numpy as np
import pytest
import torch

from omnisky.codecs import Tokens
from omnisky.modalities import Observations
from omnisky.model import Model


@pytest.fixture(scope="module")
def mixed(star_tokenizer, mini):
    """Return tokens of objects that miss different modalities; one has none."""
    tokens = star_tokenizer.encode(Observations(dict(mini.observations))[:30])
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for name, mask in tokens.mask.items():
        kept = torch.rand(len(mask), 1, generator=generator) < 0.6
        kept[3] = False
        masks[name] = mask & kept
    return Tokens({name: tokens[name] for name in tokens}, masks)


def test_mean_of_packed_is_the_masked_mean_of_the_table(star_model, mixed):
    vectors, mask = star_model.network.encode(mixed)
    expected = vectors.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    found = star_model.embed(mixed)
    np.testing.assert_allclose(found.vectors, expected.detach().numpy(), atol=1e-5)
    assert found.valid.tolist() == [i != 3 for i in range(30)]
    assert not found.vectors[3].any()


def test_objects_without_any_token_have_no_vector(star_model, mixed):
    nothing = Tokens(dict(mixed), {name: mask & False for name, mask in mixed.mask.items()})
    for pooling in ("mean", "tokens"):
        found = star_model.embed(nothing, pooling=pooling)
        assert not found.valid.any()
        assert not found.vectors.any()


def test_an_objects_vector_does_not_depend_on_its_batch(star_model, mixed):
    whole = star_model.embed(mixed).vectors
    np.testing.assert_allclose(star_model.embed(mixed, batch_size=7).vectors, whole, atol=1e-5)
    np.testing.assert_allclose(star_model.embed(mixed[10:12]).vectors, whole[10:12], atol=1e-5)


# Of processors that have none, and about something else.
@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
def test_bfloat16_is_close(star_model, mixed, tmp_path):
    folder = star_model.save_pretrained(tmp_path / "m")
    half = Model.from_pretrained(folder).cast("bfloat16").embed(mixed).vectors
    there = [i for i in range(30) if i != 3]
    whole, half = star_model.embed(mixed).vectors[there], half[there]
    cosine = (whole * half).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.999
    with pytest.raises(ValueError, match="precision"):
        star_model.cast("float8")
