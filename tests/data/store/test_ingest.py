"""An ingest that is killed, fails or meets bad rows loses nothing and doubles nothing."""

import json
import resource
import runpy
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from omnisky.data.store import Source, StoreSpec, ingest, open_store, verify, write_store
from omnisky.data.store.ingest import _read_source
from omnisky.data.store.job import Job
from omnisky.modalities import Observations, Scalar, SkyObjects
from omnisky.surveys import Problems

SCRIPT = Path(__file__).with_name("killed_ingest.py")
toy = runpy.run_path(str(SCRIPT), run_name="killed_ingest")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a store that was written without a kill."""
    return ingest(toy["sources"](), tmp_path_factory.mktemp("whole") / "toy", **toy["OPTIONS"])


def assert_same_files(path: Path, whole: Path) -> None:
    """Assert that two stores are the same, but for the time of writing."""
    names = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file()) == names
    parquet = [n for n in names if n.name.startswith(("Npix=", "_", "partition_info", "skymap"))]
    assert len(parquet) > 10
    for name in parquet:
        assert (path / name).read_bytes() == (whole / name).read_bytes(), name
    assert verify(path) == []


@pytest.mark.parametrize(
    ("what", "when", "at"),
    [
        ("source", "before", 1),  # in the middle of the second source
        ("record", "before", 2),  # a source is read, but has no record
        ("record", "after", 3),  # all sources are read
        ("record", "before", 5),  # the sources are planned
        ("place", "before", 30),  # files are written, but not in their place
        ("record", "after", 12),  # some partitions are written
        ("finish", "before", 1),  # all but the metadata
        ("end", "before", 1),  # all, but not in its place
        ("remove", "before", 1),  # in its place, but not cleaned up
    ],
)
def test_a_killed_ingest_goes_on(tmp_path, whole, what, when, at):
    path = tmp_path / "toy"
    command = [sys.executable, str(SCRIPT), str(path), what, when, str(at)]
    killed = subprocess.run(command, capture_output=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert path.exists() == (what == "remove")
    assert (tmp_path / ".toy.unfinished").exists()
    ingest(toy["sources"](), path, **toy["OPTIONS"])
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]
    assert_same_files(path, whole)
    assert sorted(open_store(path).coordinates()["object_id"]) == sorted(
        1000 * n + 100 * b + i for n in range(3) for b in range(3) for i in range(toy["COUNT"])
    )


def test_sources_that_are_done_are_not_read_again(tmp_path):
    read: list[int] = []

    def source(number, *, problems):
        read.append(number)
        if number == 1 and read.count(1) == 1:
            raise ValueError("this file is damaged")
        yield from toy["read"](number, problems=problems)

    sources = [Source(name=f"s{n}", read=partial(source, n)) for n in range(3)]
    with pytest.raises(ValueError, match="this file is damaged"):
        ingest(sources, tmp_path / "toy")
    ingest(sources, tmp_path / "toy")
    assert read == [0, 1, 1, 2]


def test_a_full_disk_is_said_and_the_ingest_goes_on(tmp_path, whole):
    path = tmp_path / "toy"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        with pytest.raises(OSError, match="it goes on where it was") as error:
            ingest(toy["sources"](), path, **toy["OPTIONS"])
        with pytest.raises(OSError, match="Nothing was kept"):
            write_store(toy["read"](0, problems=None), tmp_path / "other")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(error.value)
    assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == [".toy.unfinished"]
    ingest(toy["sources"](), path, **toy["OPTIONS"])
    assert_same_files(path, whole)


def test_a_file_that_cannot_be_read_is_no_full_disk(tmp_path):
    def read(problems):
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match=r"Input/output error.* mend this and start") as error:
        ingest([Source(name="a", read=read)], tmp_path / "toy")
    assert "space" not in str(error.value)


def test_runs_of_other_sources_are_left_alone(tmp_path):
    kept = [tmp_path / "1000001-000000.parquet", tmp_path / "000002-000001.parquet"]
    gone = [tmp_path / "000001-000000.parquet", tmp_path / ".writing-ab12-000001-000003.parquet"]
    for path in kept + gone:
        path.touch()
    source = Source(name="a", read=lambda problems: [])
    _read_source(tmp_path, 1, source, StoreSpec(), "raise", 1)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_only_the_same_ingest_goes_on(tmp_path):
    path = tmp_path / "toy"
    broken = [Source(name="s0", read=lambda problems: iter([None]))]
    with pytest.raises(TypeError):
        ingest(broken, path)
    with pytest.raises(ValueError, match="differs in options"):
        ingest(broken, path, codec="q16")
    with pytest.raises(ValueError, match="differs in sources"):
        ingest(toy["sources"](), path)
    with pytest.raises(ValueError, match="names of their own"):
        ingest(toy["sources"]()[:1] * 2, tmp_path / "other")


def test_one_process_at_a_time(tmp_path):
    with (
        Job(tmp_path / "toy", {}).opened(),
        pytest.raises(FileExistsError, match="another process is writing"),
        Job(tmp_path / "toy", {}).opened(),
    ):
        pass


def test_files_are_kept_with_their_checksums(tmp_path):
    file = tmp_path / "native.fits"
    file.write_bytes(b"abc")
    source = Source(name="native.fits", read=partial(toy["read"], 0), files=(file,))
    store = open_store(ingest([source], tmp_path / "toy"))
    (kept,) = store.files()
    assert store.provenance["files"] == 1
    assert kept["path"] == str(file)
    assert kept["bytes"] == 3
    assert kept["sha256"].startswith("ba7816bf")


def plain(ids, epochs=None) -> SkyObjects:
    count = len(ids)
    rng = np.random.default_rng(0)
    return SkyObjects(
        survey="toy",
        object_id=np.array(ids),
        ra_deg=rng.uniform(0, 360, count),
        dec_deg=rng.uniform(-90, 90, count),
        observations=Observations({"toy_z": Scalar(np.arange(float(count)))}),
        epoch=None if epochs is None else Scalar(np.array(epochs)),
    )


def given(*batches) -> list[Source]:
    return [
        Source(name=f"file{n}", read=partial(lambda batch, problems: [batch], batch))
        for n, batch in enumerate(batches)
    ]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("at_once", [20_000_000, 2])
def test_identifiers_that_are_there_twice(tmp_path, monkeypatch, text, at_once):
    monkeypatch.setattr("omnisky.data.store.runs._IDS_AT_ONCE", at_once)
    ids = [[1, 2, 3, 2], [3, 4, 1, 5]]
    if text:
        ids = [[f"object {i}" for i in part] for part in ids]
    sources = given(*(plain(part) for part in ids))
    with pytest.raises(ValueError, match=r"file0, row 3 .*2\): its identifier was there"):
        ingest(sources[:1], tmp_path / "raised")
    problems = Problems("quarantine")
    store = open_store(ingest(sources, tmp_path / "toy", problems=problems))
    assert sorted(store.coordinates()["object_id"].tolist()) == sorted(set(ids[0] + ids[1]))
    assert sorted((p.file, p.row) for p in problems.found) == [
        ("file0", 3),
        ("file1", 0),
        ("file1", 2),
    ]
    assert {p.reason for p in problems.found} == {
        f"its identifier was there before, in file0, row {row}" for row in (0, 1, 2)
    }
    # The first of each is kept, and the report is kept with the store.
    first = store.read().observations["toy_z"].value
    assert sorted(first) == [0, 1, 1, 2, 3]
    lines = (store.path / "problems.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert {json.loads(line)["file"] for line in lines} == {"file0", "file1"}
    assert store.provenance["problems"] == 3


def test_epochs_are_kept_or_must_be_one(tmp_path):
    sources = given(plain([1, 2], [2016.0, 2016.0]), plain([3, 4], [2015.5, 2016.0]), plain([5]))
    found = open_store(ingest(sources, tmp_path / "any")).coordinates()
    epochs = dict(zip(found["object_id"].tolist(), found["epoch"].tolist(), strict=True))
    assert epochs[3] == 2015.5
    assert np.isnan(epochs[5])
    with pytest.raises(ValueError, match=r"file1, row 0 .* is of epoch 2015.5, but that of"):
        ingest(sources, tmp_path / "one", epochs="one")
    problems = Problems("quarantine")
    store = open_store(ingest(sources, tmp_path / "rest", epochs="one", problems=problems))
    assert sorted(store.coordinates()["object_id"].tolist()) == [1, 2, 4]
    assert sorted((p.file, p.row) for p in problems.found) == [("file1", 0), ("file2", 0)]


def test_what_readers_report_is_kept(tmp_path):
    def source(*, problems):
        problems.report("a.fits", 7, "a position is NaN", "Correct it", object_id=9)
        yield plain([1, 2])

    problems = Problems("quarantine")
    sources = [Source(name="a.fits", read=source)]
    ingest(sources, tmp_path / "toy", problems=problems)
    assert [(p.row, p.object_id) for p in problems.found] == [(7, "9")]
    with pytest.raises(ValueError, match=r"a\.fits, row 7 \(object 9\): a position is NaN"):
        ingest(sources, tmp_path / "other")


def test_tasks_run_on_dask(tmp_path, whole):
    distributed = pytest.importorskip("dask.distributed", reason="needs omnisky[data]")
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None
    ) as client:
        path = ingest(toy["sources"](), tmp_path / "toy", client=client, **toy["OPTIONS"])
        assert verify(path, client=client) == []
    assert_same_files(path, whole)
