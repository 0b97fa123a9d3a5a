"""Two processes embed a store as one does, and go on where one of them was killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from omnisky.catalog import crew, embed_store
from omnisky.data.store import open_store, verify
from omnisky.train.parallel import Processes

HERE = Path(__file__).parent
PROGRAM = HERE / "embedding_program.py"
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(*command, processes=2):
    torchrun = _TORCHRUN if processes == 2 else []
    found = {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *torchrun, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | found,
    )


def tree(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def alone(store, model, tmp_path_factory):
    """Return the store written by one process."""
    out = tmp_path_factory.mktemp("alone") / "toy-embeddings"
    done = start(PROGRAM, store, out, model, "well", processes=1)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_two_processes_write_what_one_writes(store, model, alone, tmp_path):
    out = tmp_path / "toy-embeddings"
    done = start(PROGRAM, store, out, model, "well")
    assert done.returncode == 0, done.stderr
    assert tree(out) == tree(alone)
    assert verify(out) == []
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "fails"])
def test_a_process_that_ends_ends_all_and_the_rest_is_done_later(
    store, model, alone, tmp_path, how
):
    out = tmp_path / "toy-embeddings"
    done = start(PROGRAM, store, out, model, how)
    assert done.returncode != 0
    if how == "fails":
        assert "RuntimeError: the moon is in the way" in done.stderr
        told = "stopped, as process 1 failed: RuntimeError: the moon is in the way. What is done"
        assert told in done.stderr
    assert not out.exists()
    journal = tmp_path / ".toy-embeddings.unfinished" / "journal"
    before = {p.name: p.stat().st_mtime_ns for p in journal.glob("source-*.json")}
    # What process 1 did first was kept, or else the other did it all.
    assert 0 < len(before) < len(open_store(store).partitions)
    written = {name: json.loads((journal / name).read_text()) for name in before}
    assert all(record["rows"] for record in written.values())
    # Any number of processes goes on.
    done = start(PROGRAM, store, out, model, "well", processes=1 if how == "fails" else 2)
    assert done.returncode == 0, done.stderr
    assert tree(out) == tree(alone)


@pytest.mark.slow
def test_the_command(store, model, alone, tmp_path):
    out = tmp_path / "toy-embeddings"
    done = start("-m", "omnisky", "embed", store, "--out", out, "--base", model)
    assert done.returncode == 0, done.stderr
    said = f"{out}: embeddings of 300 objects in {len(open_store(store).partitions)} partitions"
    assert [line for line in done.stdout.splitlines() if "embeddings" in line] == [said]
    data = "toy-embeddings/dataset"
    assert tree(out / data).keys() == tree(alone / data).keys()
    again = start("-m", "omnisky", "embed", store, "--out", out, "--base", model)
    assert again.returncode != 0
    assert "exists" in again.stderr


def test_one_process_needs_no_others():
    with crew.joined() as found:
        assert found is None


def test_a_client_beside_torchrun_is_refused(store, model, tmp_path, monkeypatch):
    class Leader:
        leads = True

    @crew.contextmanager
    def joined():
        yield Leader()

    monkeypatch.setattr("omnisky.catalog.embedding.joined", joined)
    with pytest.raises(ValueError, match="torchrun or on a Dask client; found both"):
        embed_store(store, tmp_path / "out", model=model, client=object())


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
