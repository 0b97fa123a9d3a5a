"""The codecs that ship with the package do what their cards say, on objects never trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

import omnisky
from omnisky.codecs import Codec
from omnisky.mock import Universe
from omnisky.surveys import legacysurvey

FOLDER = Path(omnisky.__file__).parent / "pretrained" / "codecs"
CATALOG, MAP = "legacysurvey_catalog", "legacysurvey_segmentation"


@pytest.fixture(scope="module")
def observations():
    return Universe(seed=77, n=80).observe("legacysurvey", modalities=[CATALOG, MAP]).observations


@pytest.fixture(scope="module")
def codecs():
    return {
        CATALOG: Codec.from_pretrained(FOLDER / "catalog", CATALOG),
        MAP: Codec.from_pretrained(FOLDER / "segmentation", MAP),
    }


def test_they_are_small_and_have_a_card_and_a_report():
    for name, most in (("catalog", 100_000), ("segmentation", 600_000)):
        files = {path.name: path.stat().st_size for path in (FOLDER / name).iterdir()}
        assert set(files) == {"README.md", "config.json", "model.safetensors", "report.json"}
        assert files["model.safetensors"] < most
        assert "mock" in (FOLDER / name / "README.md").read_text()


def test_maps_come_back_as_well_as_the_papers(codecs, observations):
    report = codecs[MAP].report(observations[MAP])
    # The paper's codec: 0.0017 (on its own five kinds of fields).
    assert report["mse"] < 0.0025
    assert report["pixels_right"] > 0.98
    assert report["covered_iou"] > 0.8


def test_catalogs_come_back_within_a_third_of_a_pixel(codecs, observations):
    given = observations[CATALOG]
    found = codecs[CATALOG].decode(*codecs[CATALOG].encode_masked(given))
    assert np.array_equal(found.mask, given.mask)
    known = given.mask
    assert np.sqrt(np.mean((found.x - given.x)[known] ** 2)) < 0.09
    assert np.abs(found.x[:, 0]).max() < 0.01
    assert np.abs(found.e1 - given.e1)[known].mean() < 0.002
    extended = known & (given.r > 0)
    assert np.median(np.abs(found.r / np.where(extended, given.r, 1) - 1)[extended]) < 0.005
    assert (found.r[known & ~extended] == 0).all()


@pytest.mark.real_data
def test_real_maps_of_dr8(real_data, codecs):
    for path in sorted((real_data / "native" / "legacysurvey").glob("tractor-*.fits")):
        (objects,) = legacysurvey.read(path, surroundings=True)
        report = codecs[MAP].report(objects.observations[MAP])
        assert report["mse"] < 0.005
        ids, mask = codecs[CATALOG].encode_masked(objects.observations[CATALOG])
        assert torch.equal(codecs[CATALOG].existing(ids), mask)
