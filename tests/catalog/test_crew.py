"""Two processes embed a store as one does, and go on where one of them was killed."""

import signal
import sys
from pathlib import Path

import pytest
from embedding_program import Noon

from omnisky.catalog import crew, embed_store, embedding
from omnisky.data.match import match
from omnisky.data.store import ingest, open_store, verify, write_store
from omnisky.modalities import Observations, SkyObjects
from omnisky.train.parallel import Processes
from tests.processes import run_pair, run_well, torchrun

# The small survey has a parallax, which the small model does not read; see test_given.py.
pytestmark = pytest.mark.filterwarnings("ignore:the model .* does not read gaia_parallax of")
PROGRAM = Path(__file__).with_name("embedding_program.py")


def tree(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def alone(store, model, tmp_path_factory):
    """Return the store written by one process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys.modules[ingest.__module__], "datetime", Noon)
        return embed_store(store, tmp_path_factory.mktemp("alone") / "toy-embeddings", model=model)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(store, model, alone, tmp_path):
    out = tmp_path / "toy-embeddings"
    run_well(PROGRAM, store, out, model, "well")
    assert tree(out) == tree(alone)
    assert verify(out) == []
    assert not list(tmp_path.glob(".*"))


def done_before(tmp_path):
    journal = tmp_path / ".toy-embeddings.unfinished" / "journal"
    return {path.name: path.read_bytes() for path in journal.glob("source-*.json")}


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all_and_the_rest_is_done_later(
    store, model, alone, tmp_path
):
    out = tmp_path / "toy-embeddings"
    pair = run_pair(PROGRAM, store, out, model, "killed")
    assert pair[0].poll() != 0
    assert pair[1].poll() == -signal.SIGKILL
    assert not out.exists()
    assert 0 < len(done_before(tmp_path)) < len(open_store(store).partitions)
    run_well(PROGRAM, store, out, model, "well")
    assert tree(out) == tree(alone)


@pytest.mark.slow
def test_a_process_that_fails_tells_all_and_one_goes_on(store, model, alone, tmp_path, monkeypatch):
    out = tmp_path / "toy-embeddings"
    pair = run_pair(PROGRAM, store, out, model, "fails")
    assert [program.poll() for program in pair] == [1, 1]
    assert "RuntimeError: the moon is in the way" in pair[1].said()
    told = "stopped, as process 1 failed: RuntimeError: the moon is in the way. What is done"
    assert told in pair[0].said()
    assert not out.exists()
    assert len(done_before(tmp_path)) >= 2
    batches, whole = [], embedding._embedded
    monkeypatch.setattr(embedding, "_embedded", lambda *given: batches.append(1) or whole(*given))
    monkeypatch.setattr(sys.modules[ingest.__module__], "datetime", Noon)
    left = len(open_store(store).partitions) - len(done_before(tmp_path))
    embed_store(store, out, model=model)
    assert len(batches) == left
    assert tree(out) == tree(alone)


@pytest.mark.slow
def test_the_command(store, model, alone, tmp_path):
    out = tmp_path / "toy-embeddings"
    command = ["-m", "omnisky", "embed", store, "--out", out, "--base", model]
    printed = torchrun(*command, seconds=280)
    said = f"{out}: embeddings of 300 objects in {len(open_store(store).partitions)} partitions"
    assert [line for line in printed.splitlines() if "embeddings" in line] == [said]
    data = "toy-embeddings/dataset"
    assert tree(out / data).keys() == tree(alone / data).keys()


@pytest.mark.slow
def test_two_processes_embed_a_match_as_one_does(objects, store, model, tmp_path, monkeypatch):
    seen = SkyObjects(
        survey="other",
        object_id=objects.object_id[90:],
        ra_deg=objects.ra_deg[90:],
        dec_deg=objects.dec_deg[90:],
        observations=Observations({"gaia_rp": objects.observations["gaia_g"][90:]}),
    )
    other = write_store([seen], tmp_path / "other")
    both = match(store, other, radius_arcsec=1, how="left").save(tmp_path / "both")
    run_well(PROGRAM, both, tmp_path / "pair" / "out", model, "well")
    monkeypatch.setattr(sys.modules[ingest.__module__], "datetime", Noon)
    alone = embed_store(both, tmp_path / "alone" / "out", model=model)
    assert tree(tmp_path / "pair" / "out") == tree(alone)
    assert open_store(alone).provenance["modalities"] == ["gaia_g", "gaia_bp", "gaia_rp"]


def test_one_process_needs_no_others():
    with crew.joined() as found:
        assert found is None


def test_a_client_beside_torchrun_is_refused(store, model, tmp_path, monkeypatch):
    class Leader:
        leads = True

    @crew.contextmanager
    def joined(device):
        yield Leader()

    monkeypatch.setattr("omnisky.catalog.embedding.joined", joined)
    with pytest.raises(ValueError, match="torchrun or on a Dask client; found both"):
        embed_store(store, tmp_path / "out", model=model, client=object())  # pyright: ignore


def test_a_process_that_is_gone_is_told(monkeypatch):
    def closed(*_, **__):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1")

    import torch
    import torch.distributed as dist

    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    monkeypatch.setattr(dist, "all_gather_object", closed)
    found = crew.Crew(Processes(rank=1, world_size=2, device=torch.device("cpu")))
    with pytest.raises(OSError, match=r"ended without a word .* start the same again"):
        found.serve()
