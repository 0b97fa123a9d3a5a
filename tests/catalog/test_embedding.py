"""A whole store embedded equals its objects embedded, however often the run was killed."""

import numpy as np
import pytest

from omnisky.catalog import computing, embed_store, embedding
from omnisky.data.store import open_store, verify
from omnisky.model import Model
from tests.pretrained.stand_in import COMMIT

# The small survey has a parallax, which the small model does not read; see test_given.py.
pytestmark = pytest.mark.filterwarnings("ignore:the model .* does not read gaia_parallax of")
IMITATED = pytest.mark.filterwarnings("ignore:this processor has no bfloat16 arithmetic")


def _same(one, two):
    """Tell whether two stores hold the same, to the bit."""
    one, two = (open_store(path).read() for path in (one, two))
    pairs = [(s.object_id, s.observations["embedding"].value) for s in (one, two)]
    return all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True))


@pytest.fixture(scope="module")
def embedded(store, model, tmp_path_factory):
    return embed_store(store, tmp_path_factory.mktemp("out") / "toy-embeddings", model=model)


def test_vectors_are_those_of_the_model(embedded, model, objects):
    found = open_store(embedded)
    assert found.modalities == ("embedding",)
    assert len(found) == len(objects.object_id)
    read = found.read()
    order = np.argsort(read.object_id)
    used = objects.observations.select("gaia_g", "gaia_bp")
    wanted = Model.from_pretrained(model).embed(used)
    vectors = read.observations["embedding"][order]
    np.testing.assert_array_equal(vectors.present, wanted.valid)
    assert not wanted.valid[:3].any()
    good = wanted.valid
    np.testing.assert_allclose(vectors.value[good], wanted.vectors[good], atol=2e-5)
    np.testing.assert_array_equal(read.ra_deg[order], objects.ra_deg)
    assert read.epoch is not None
    assert (read.epoch.value == 2016).all()
    assert verify(embedded) == []


def test_the_store_says_what_it_is(embedded, store, model):
    found = open_store(embedded)
    assert found.provenance["fingerprint"] == open_store(store).fingerprint
    assert found.provenance["modalities"] == ["gaia_g", "gaia_bp"]
    assert len(found.provenance["model_sha256"]) == 64
    declared = found.declaration("embedding")
    assert declared is not None
    assert declared.size == Model.from_pretrained(model).config.dim
    assert "from gaia_g, gaia_bp" in declared.description


def test_other_programs_read_it_as_lists(embedded):
    import pyarrow.dataset as ds

    table = ds.dataset(embedded / "toy-embeddings" / "dataset", partitioning="hive").to_table()
    rows = table["embedding_value"].to_pylist()
    assert len(rows) == 300
    assert {len(row) for row in rows if row is not None} == {32}


def test_a_killed_run_goes_on(store, model, embedded, tmp_path, monkeypatch):
    calls = []
    whole = embedding._embedded

    def dies(objects, network):
        calls.append(len(objects.object_id))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(objects, network)

    monkeypatch.setattr(embedding, "_embedded", dies)
    with pytest.raises(KeyboardInterrupt):
        embed_store(store, tmp_path / "toy-embeddings", model=model)
    assert not (tmp_path / "toy-embeddings").exists()
    again = embed_store(store, tmp_path / "toy-embeddings", model=model)
    # What was done before was not done again.
    assert len(calls) == 1 + len(open_store(store).partitions)
    assert _same(again, embedded)


@IMITATED
@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"modalities": ["gaia_g"]}, "unfinished job that differs in"),
        ({"precision": "bf16"}, "unfinished job that differs in provenance"),
    ],
    ids=["measurements", "precision"],
)
def test_a_run_of_another_kind_is_not_gone_on_with(
    store, model, tmp_path, monkeypatch, other, differs
):
    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(embedding, "_embedded", dies)
        with pytest.raises(KeyboardInterrupt):
            embed_store(store, tmp_path / "out", model=model)
    with pytest.raises(ValueError, match=differs):
        embed_store(store, tmp_path / "out", model=model, **other)


@IMITATED
def test_the_transformer_computes_in_the_precision_asked_for(
    store, model, embedded, objects, tmp_path
):
    found = open_store(embed_store(store, tmp_path / "out", model=model, precision="bf16"))
    assert found.provenance["precision"] == "bf16"
    assert open_store(embedded).provenance["precision"] == "fp32"
    read = found.read()
    order = np.argsort(read.object_id)
    vectors = read.observations["embedding"].value[order]
    exact = open_store(embedded).read().observations["embedding"].value[order]
    used = objects.observations.select("gaia_g", "gaia_bp")
    wanted = Model.from_pretrained(model).cast("bfloat16").embed(used)
    # Batches of other sizes round elsewhere, by a unit of bfloat16 at most here and there.
    np.testing.assert_allclose(vectors[wanted.valid], wanted.vectors[wanted.valid], atol=0.02)
    off = np.abs(vectors - exact).max()
    assert 1e-4 < off < 0.1
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16; found 'fp16'"):
        embed_store(store, tmp_path / "other", model=model, precision="fp16")  # pyright: ignore


def test_it_computes_where_it_is_told(store, model, tmp_path, monkeypatch):
    import torch

    went, to = [], Model.to
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Model, "to", lambda m, device: went.append(device) or to(m, "cpu"))
    for number, device in enumerate((None, "cpu", "cuda:1")):
        computing.model_at.cache_clear()
        embed_store(store, tmp_path / str(number), model=model, device=device)
    assert went == ["cuda", "cpu", "cuda:1"]
    computing.model_at.cache_clear()


def test_a_device_that_is_not_there_is_told(store, model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"cannot compute on 'cuda:77' .* this machine has cpu"):
        embed_store(store, tmp_path / "out", model=model, device="cuda:77")
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = "device='cuda:1' is one device, and torchrun started 2 processes; give 'cuda'"
    with pytest.raises(ValueError, match=told):
        embed_store(store, tmp_path / "out", model=model, device="cuda:1")
    assert not list(tmp_path.iterdir())


def test_a_model_that_changed_is_read_anew(store, model, embedded, tmp_path):
    import shutil

    import torch

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    first = embed_store(store, tmp_path / "first", model=folder)
    assert _same(first, embedded)
    changed = Model.from_pretrained(folder)
    with torch.no_grad():
        changed.network.encoder[0].mlp.fc1.weight.mul_(2)
    shutil.rmtree(folder)
    changed.save_pretrained(folder)
    second = embed_store(store, tmp_path / "second", model=folder)
    assert not _same(second, first)
    told = [open_store(path).provenance for path in (first, second)]
    assert told[0]["model_sha256"] != told[1]["model_sha256"]


@pytest.mark.parametrize("asked", [["gaia_parallax"], ["desi_z"], []])
def test_what_the_model_does_not_read_is_told(store, model, tmp_path, asked):
    with pytest.raises(
        ValueError, match=r"cannot embed .* it has gaia_g.* the model reads gaia_bp"
    ):
        embed_store(store, tmp_path / "out", model=model, modalities=asked)
    assert not list(tmp_path.iterdir())


def test_an_existing_store_is_not_replaced(store, model, embedded):
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        embed_store(store, embedded, model=model)


@pytest.mark.parametrize("asked", [("someone/tiny@v1", None), ("someone/tiny", "v1")])
def test_a_model_of_the_hub_is_kept_with_its_commit(store, model, embedded, hub, tmp_path, asked):
    found = hub(model)
    out = embed_store(store, tmp_path / "out", model=asked[0], revision=asked[1])
    assert _same(out, embedded)
    assert found.revisions[0] == "v1"
    assert set(found.revisions[1:]) == {COMMIT}
    told = open_store(out)
    assert told.provenance["model"] == f"someone/tiny@{COMMIT}"
    declared = told.declaration("embedding")
    assert declared is not None
    assert f"by someone/tiny@{COMMIT} from" in declared.description


def test_a_revision_is_for_the_hub(store, model, tmp_path):
    with pytest.raises(ValueError, match="revision='v1' is for hub ids"):
        embed_store(store, tmp_path / "out", model=model, revision="v1")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_on_dask_it_is_the_same(store, model, embedded, tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
    )
    with cluster, distributed.Client(cluster) as client:
        found = embed_store(store, tmp_path / "toy-embeddings", model=model, client=client)
    assert _same(found, embedded)
