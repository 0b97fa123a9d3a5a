"""The published recipe of the latent-grid codec says what the paper says, and its kind trains."""

import pytest
import torch

from omnisky.codecs import LatentSpectrumCodec
from omnisky.train.codec.recipe import CodecRecipe
from omnisky.train.recipe import read_recipe


@pytest.fixture(scope="module")
def recipe(root) -> CodecRecipe:
    return read_recipe(root / "recipes" / "codecs" / "spectrum-aion.toml", CodecRecipe)


def test_the_recipe_has_the_settings_of_the_paper(recipe):
    train = recipe.train
    assert (train.steps, train.batch_size, train.learning_rate) == (215_000, 128, 1e-4)
    assert (train.optimizer, train.schedule, train.weight_decay) == ("adamw", "constant", 0.1)
    with torch.device("meta"):
        codec = LatentSpectrumCodec(recipe.learned.config)
    assert sum(p.numel() for p in codec.parameters()) == 24_751_734
    assert codec.n_tokens == 273
    assert codec.n_codes == 1024
