"""Stores open unchanged in pyarrow, hats, LSDB and datasets, and have a Croissant description."""

import json
import warnings
from contextlib import contextmanager

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from omnisky.data.store import open_store, write_store

COORDINATES = ["object_id", "ra", "dec"]


@contextmanager
def their_warnings():
    """Leave the warnings of other libraries to them: deprecations among themselves, no margin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module", params=["interchange", "packed"])
def store(request, tmp_path_factory, sky):
    """Return a store of each profile, with objects all over the sky and a dense patch."""
    path = tmp_path_factory.mktemp(request.param) / "toy"
    given = [sky(60, 1), sky(60, 2), sky(200, 3, cap_deg=0.05)]
    return open_store(write_store(given, path, profile=request.param, max_rows=50))


def test_pyarrow(store):
    files = sorted(store.path.glob("toy/dataset/Norder=*/Dir=*/Npix=*.parquet"))
    assert len(files) == len(store.partitions)
    folder = pyarrow.dataset.dataset(store.path / "toy" / "dataset", format="parquet")
    assert folder.count_rows() == len(store)
    table = folder.to_table(columns=["object_id", "toy_image_flux"])
    place = {name: i for i, name in enumerate(store.coordinates()["object_id"])}
    flux = store.read(columns=["toy_image"]).observations["toy_image"].flux
    for name, row in zip(*(c.to_pylist() for c in table.columns), strict=True):
        values = np.frombuffer(row, np.float32) if isinstance(row, bytes) else np.array(row)
        assert (values.reshape(flux.shape[1:]) == flux[place[name]]).all()
    if store.profile == "packed":
        footers = pq.read_metadata(store.path / "toy" / "dataset" / "_metadata")
        assert footers.num_rows == len(store)


def test_absent_objects_are_null_lists(store):
    if store.profile == "packed":
        pytest.skip("packed columns have no nulls")
    present = store.read(columns=["toy_spectrum"]).observations["toy_spectrum"].present
    nulls = [
        store.table(p, ["toy_spectrum_flux"])["toy_spectrum_flux"].is_null().to_numpy()
        for p in store.partitions
    ]
    assert not present.all()
    assert (np.concatenate(nulls) == ~present).all()


def test_hats(store):
    hats = pytest.importorskip("hats", reason="needs omnisky[data]")
    from hats.io.skymap import read_skymap
    from hats.io.validation import is_valid_collection

    with their_warnings():
        assert is_valid_collection(store.path, strict=True)
        collection = hats.read_hats(store.path)
        catalogue = collection.main_catalog
        assert catalogue.catalog_info.total_rows == len(store)
        pixels = [(p.order, p.pixel) for p in catalogue.get_healpix_pixels()]
        assert sorted(pixels) == sorted((p.order, p.pixel) for p in store.partitions)
        counts = read_skymap(catalogue, None)
    cells = store.coordinates()["healpix29"] >> 2 * (29 - 8)
    assert counts.sum() == len(store)
    assert (counts[cells] > 0).all()
    assert collection.all_margins == ["toy_10arcs"]


@pytest.mark.slow
def test_lsdb(store, tmp_path, sky):
    lsdb = pytest.importorskip("lsdb", reason="needs omnisky[data]")
    others = [sky(60, 1), sky(200, 3, cap_deg=0.05)]
    path = write_store(others, tmp_path / "other", profile=store.profile, max_rows=30)
    with their_warnings():
        whole = lsdb.open_catalog(store.path, columns="all")
        assert len(whole) == len(store)
        frame = whole.compute()
        assert set(frame.columns) >= {*COORDINATES, "toy_image_flux", "toy_z", "toy_mag_ivar"}
        wide = whole.crossmatch(
            lsdb.open_catalog(path, columns="all"), radius_arcsec=1, suffixes=("_a", "_b")
        ).compute()
        narrow = lsdb.open_catalog(
            store.path, columns=COORDINATES, margin_cache="toy_10arcs"
        ).crossmatch(
            lsdb.open_catalog(path, columns=COORDINATES, margin_cache="other_10arcs"),
            radius_arcsec=1,
            suffixes=("_a", "_b"),
        )
        pairs = narrow.compute()
    assert sorted(frame["object_id"]) == sorted(store.coordinates()["object_id"])
    for found in (wide, pairs):
        assert len(found) == 260
        assert (found["object_id_a"] == found["object_id_b"]).all()
    flux = store.read(columns=["toy_image"]).observations["toy_image"].flux
    place = {name: i for i, name in enumerate(store.coordinates()["object_id"])}
    row = wide.iloc[7]
    held = row["toy_image_flux_a"]
    held = np.frombuffer(held, np.float32) if isinstance(held, bytes) else np.asarray(held)
    assert (held.reshape(flux.shape[1:]) == flux[place[row["object_id_a"]]]).all()


def test_datasets(store, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs omnisky[data]")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    folder = store.path / "toy" / "dataset"
    # The folder as such for lists; packed folders also hold _metadata, which datasets would read.
    what = {"data_files": str(folder / "**" / "Npix=*.parquet")}
    if store.profile == "interchange":
        what = {"data_dir": str(folder)}
    with their_warnings():
        found = datasets.load_dataset("parquet", split="train", cache_dir=tmp_path, **what)
        row = found.with_format("numpy")[0] if store.profile == "interchange" else found[0]
    assert len(found) == len(store)
    place = store.coordinates()["object_id"].tolist().index(row["object_id"])
    flux = store.read(place, columns=["toy_image"]).observations["toy_image"].flux[0]
    held = row["toy_image_flux"]
    held = np.frombuffer(held, np.float32) if isinstance(held, bytes) else held
    assert (held.reshape(flux.shape) == flux).all()


def test_croissant(store):
    about = json.loads((store.path / "croissant.json").read_text())
    assert about["@type"] == "sc:Dataset"
    assert about["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    (files,) = about["distribution"]
    assert len(list(store.path.glob(files["includes"]))) == len(store.partitions)
    (records,) = about["recordSet"]
    fields = {field["name"]: field for field in records["field"]}
    assert set(fields) == set(pq.read_schema(store.partitions[0].path).names)
    assert fields["ra"]["unitText"] == "deg"
    assert "band 3 × y 12 × x 12" in fields["toy_image_flux"]["description"]
    if store.profile == "interchange":
        assert fields["toy_image_flux"]["arrayShape"] == "432"
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    with their_warnings():
        opened = mlcroissant.Dataset(jsonld=store.path / "croissant.json")
        record = next(iter(opened.records("objects")))
    assert record["objects/object_id"] in store.coordinates()["object_id"]
