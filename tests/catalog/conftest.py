"""A small survey and an untrained model that reads part of it."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from omnisky.codecs.scalars.scalar import ScalarCodec
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.modalities import Observations, Scalar, SkyObjects
from omnisky.model import Model

# The program that subprocesses run is imported here too.
sys.path.insert(0, str(Path(__file__).parent))

if find_spec("cdshealpix") is None:
    collect_ignore_glob = ["test_*.py"]  # they need omnisky[data]


@pytest.fixture(scope="package")
def objects():
    rng = np.random.default_rng(0)
    count = 300
    g, bp = rng.uniform(10, 18, (2, count))
    bp[::7] = np.nan
    g[:3] = bp[:3] = np.nan  # nothing to embed
    scalars = {"gaia_g": g, "gaia_bp": bp, "gaia_parallax": rng.uniform(0, 5, count)}
    return SkyObjects(
        survey="toy",
        object_id=np.arange(count),
        ra_deg=rng.uniform(0, 360, count),
        dec_deg=np.degrees(np.arcsin(rng.uniform(-1, 1, count))),
        observations=Observations({name: Scalar(value) for name, value in scalars.items()}),
        epoch=Scalar(np.full(count, 2016.0)),
    )


@pytest.fixture(scope="package")
def store(objects, tmp_path_factory):
    from omnisky.data.store import write_store

    path = tmp_path_factory.mktemp("sky") / "toy"
    return write_store([objects], path, max_rows=60)


@pytest.fixture(scope="package")
def model(tmp_path_factory):
    codecs = {name: ScalarCodec.grid(name, 8, 20, 64) for name in ("gaia_g", "gaia_bp", "gaia_rp")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Model.from_preset("tiny", Tokenizer(codecs))
    found.network.eval()
    return found.save_pretrained(tmp_path_factory.mktemp("model") / "tiny", card="# Tiny\n")
