"""Whole stores and tables embedded on a CUDA device."""

import numpy as np
import pytest
import torch

from omnisky.codecs import ScalarCodec, Tokenizer
from omnisky.modalities import Observations, Scalar, SkyObjects
from omnisky.model import Model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    codecs = {name: ScalarCodec.grid(name, 8, 20, 64) for name in ("gaia_g", "gaia_bp", "gaia_rp")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = Model.from_preset("tiny", Tokenizer(codecs))
    return found.save_pretrained(tmp_path_factory.mktemp("model") / "tiny")


def vectors_of(store):
    from omnisky.data.store import open_store

    read = open_store(store).read()
    order = np.argsort(read.object_id)
    vectors = read.observations["embedding"][order]
    return vectors.value[vectors.present], vectors.present


@pytest.mark.parametrize(("precision", "off"), [("fp32", 2e-4), ("bf16", 0.1)])
def test_a_store(model, tmp_path, precision, off):
    pytest.importorskip("cdshealpix")
    from omnisky.catalog import embed_store
    from omnisky.data.store import write_store

    rng = np.random.default_rng(0)
    g, bp = rng.uniform(10, 18, (2, 200))
    bp[::7] = np.nan
    g[:3] = bp[:3] = np.nan  # nothing to embed
    objects = SkyObjects(
        survey="toy",
        object_id=np.arange(200),
        ra_deg=rng.uniform(0, 360, 200),
        dec_deg=rng.uniform(-60, 60, 200),
        observations=Observations({"gaia_g": Scalar(g), "gaia_bp": Scalar(bp)}),
    )
    store = write_store([objects], tmp_path / "toy", max_rows=60)
    plain = embed_store(store, tmp_path / "plain", model=model, device="cpu")
    found = embed_store(store, tmp_path / "found", model=model, device="cuda", precision=precision)
    (wanted, present), (vectors, there) = vectors_of(plain), vectors_of(found)
    np.testing.assert_array_equal(there, present)
    assert present.sum() == 197
    np.testing.assert_allclose(vectors, wanted, atol=off, rtol=0)


def test_a_table(mini, tmp_path):
    pytest.importorskip("cyclopts")
    from omnisky.cli import main
    from omnisky.data.tables import read_table, write_table
    from omnisky.data.usertable import table_from_observations

    stars = mini[:40]
    observed = table_from_observations(stars.observations, stars.object_id, id_name="source_id")
    table, found = write_table(observed, tmp_path / "stars.parquet"), {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.parquet"
        assert main(["embed", str(table), "--out", str(out), "--device", device]) == 0
        found[device] = np.asarray(read_table(out)["embedding"])
    # XP spectra become tokens in convolutions, which may round to TF32: few other ids.
    cosine = (found["cpu"] * found["cuda"]).sum(1)
    cosine /= np.linalg.norm(found["cpu"], axis=1) * np.linalg.norm(found["cuda"], axis=1)
    assert cosine.min() > 0.99, f"cosine from {cosine.min():.5f}, median {np.median(cosine):.6f}"
