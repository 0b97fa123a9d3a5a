"""Catalogues and maps as inputs and as targets, from the mock sky to samples and back."""

import numpy as np
import pytest
import torch

from omnisky.codecs import ScalarCodec, Tokenizer
from omnisky.codecs.surroundings.catalog import CatalogCodec
from omnisky.codecs.surroundings.segmentation import SegmentationCodec, SegmentationCodecConfig
from omnisky.mock import Universe
from omnisky.modalities import Catalog, Observations, SegmentationMap
from omnisky.model import Model
from omnisky.model.masking import MaskingConfig, sample_masks
from omnisky.train.pretraining import PretrainingObjective

CATALOG, MAP, FLUX = "legacysurvey_catalog", "legacysurvey_segmentation", "legacysurvey_flux_r"


@pytest.fixture(scope="module")
def observations():
    """Return 80 mock objects; the first has no map, the second no catalogue."""
    found = Universe(seed=5, n=80).observations(modalities=[FLUX, CATALOG, MAP])
    gone = np.arange(80)
    field, catalog = found[MAP], found[CATALOG]
    columns = [getattr(catalog, name) for name in ("x", "y", "e1", "e2", "r")]
    return Observations(
        {
            FLUX: found[FLUX],
            CATALOG: Catalog(*columns, catalog.mask & (gone != 1)[:, None]),
            MAP: SegmentationMap(field.field, field.mask & (gone != 0)[:, None, None], 0.262),
        }
    )


@pytest.fixture(scope="module")
def model(observations):
    torch.manual_seed(0)
    catalog = CatalogCodec.fit(observations[CATALOG], modality=CATALOG, cells=24, bins=16)
    config = SegmentationCodecConfig(modality=MAP, width=8, hidden=4, levels=(4, 3))
    tokenizer = Tokenizer(
        {
            FLUX: ScalarCodec.fit(observations[FLUX], modality=FLUX, bins=16),
            CATALOG: catalog,
            MAP: SegmentationCodec(config).eval(),
        }
    )
    return Model.from_preset("tiny", tokenizer)


@pytest.fixture(scope="module")
def tokens(model, observations):
    return model.tokenize(observations)


def test_objects_have_different_numbers_of_tokens(model, tokens, observations):
    sources = torch.from_numpy(observations[CATALOG].mask.sum(1))
    expected = torch.where(sources > 0, 1 + 5 * sources, 0)
    assert (tokens.mask[CATALOG].sum(1) == expected).all()
    assert len(expected.unique()) > 3
    assert tokens.mask[MAP].sum(1).tolist() == [0, *[144] * 79]
    embedding = model.embed(tokens)
    assert embedding.vectors.shape == (80, 32)
    assert np.isfinite(embedding.vectors).all()


def test_absent_sources_do_not_reach_the_embedding(model, tokens):
    """What lies under the mask is never read."""
    table, mask = model.network.lay_out(tokens)
    other = torch.where(mask, table, 1)
    slots = torch.arange(table.shape[1]).expand(len(table), -1)
    from omnisky.model.transformer import Selection

    with torch.no_grad():
        first, second = (
            model.network.encode_slots(t, Selection(slots, mask)) for t in (table, other)
        )
    assert torch.equal(first.tokens[mask], second.tokens[mask])


def test_values_of_each_group_are_known_to_the_model(model):
    module = model.network.embeddings[CATALOG]
    values = model.tokenizer.codecs[CATALOG].values()
    first = 0
    for group in module.groups:
        size, ids = group.group.n_tokens, group.group.vocab_size
        assert torch.equal(group.values, values[first : first + size, :ids])
        first += size
    assert first == 101


def test_masks_never_name_a_source_that_is_not_there(model, tokens):
    _, present = model.network.lay_out(tokens)
    slots = model.network.slot_modality
    generator = torch.Generator().manual_seed(0)
    config = MaskingConfig(input_budget=64, output_budget=32)
    asked_of = torch.zeros(3, dtype=torch.bool)
    for _ in range(20):
        visible, asked = sample_masks(present, slots, config, generator)
        for chosen in (visible, asked):
            assert torch.gather(present, 1, chosen.slots)[chosen.mask].all()
        asked_of[slots[asked.slots][asked.mask].unique()] = True
        seen = torch.zeros_like(present).scatter_(1, visible.slots, visible.mask)
        wanted = torch.zeros_like(present).scatter_(1, asked.slots, asked.mask)
        assert not (seen & wanted).any()
    assert asked_of.all()


def test_both_are_learned_as_inputs_and_as_targets(model, tokens):
    import copy

    network = copy.deepcopy(model.network).train()
    masking = MaskingConfig(input_budget=128, output_budget=96)
    objective = PretrainingObjective(network, tokens[:64], tokens[64:], masking)
    before = objective.evaluate()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(12):
        loss, metrics = objective.loss(network, torch.arange(64), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert {f"entropy/{name}" for name in (CATALOG, MAP)} <= set(metrics)
    for name in (CATALOG, MAP):
        for part in (network.embeddings, network.logits):
            # Places that no object has a source for are never asked for.
            assert next(part[name].parameters()).grad.abs().sum() > 0
    after = objective.evaluate()
    assert after[f"entropy/{CATALOG}"] < before[f"entropy/{CATALOG}"]
    assert after[f"entropy/{MAP}"] < before[f"entropy/{MAP}"]


@pytest.mark.parametrize(
    "how",
    [
        {"steps": 1},
        {"steps": 6},
        {"steps": 6, "context": "append"},
        {"steps": 4, "method": "maskgit"},
        {"method": "autoregressive", "context": "append"},
    ],
    ids=str,
)
def test_a_catalogue_is_generated_with_its_number_of_sources(model, observations, how):
    given = observations.select(FLUX, MAP)[2:7]
    found = model.generate(given, CATALOG, n_samples=3, **how)
    samples = found[CATALOG]
    assert len(samples) == 3
    assert all(isinstance(s, Catalog) and len(s) == 5 for s in samples)
    count = found.tokens[CATALOG][:, 0] + 1
    assert torch.equal(found.tokens.mask[CATALOG].sum(1), 1 + 5 * count)
    assert np.concatenate([s.mask.sum(1) for s in samples]).tolist() == count.tolist()
    assert len(count.unique()) > 1
    with pytest.raises(IndexError, match="no sample 3"):
        samples[3]


def test_a_map_is_generated_from_a_catalogue_and_both_jointly(model, observations):
    found = model.generate(observations.select(CATALOG)[2:6], MAP, n_samples=2, steps=4)
    assert found[MAP][1].field.shape == (4, 96, 96)
    assert found[MAP][1].present.all()
    both = model.generate(observations.select(FLUX)[:4], [CATALOG, MAP], n_samples=2, steps=3)
    assert set(both) == {CATALOG, MAP}
    assert both[CATALOG][0].present.all()
    again = model.generate(observations.select(FLUX)[:4], [CATALOG, MAP], n_samples=2, steps=3)
    assert torch.equal(both.tokens[CATALOG], again.tokens[CATALOG])


def test_saved_and_loaded_it_generates_the_same(model, observations, tmp_path):
    model.network.eval()
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "m"))
    given = observations.select(FLUX)[:3]
    first, second = (m.generate(given, CATALOG, n_samples=1, steps=3) for m in (model, again))
    assert torch.equal(first.tokens[CATALOG], second.tokens[CATALOG])
