"""A flipped bit anywhere is found and named."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from omnisky.data.store import open_store, verify, write_store


@pytest.fixture
def store(tmp_path, batches):
    """Return a store of several partitions with margins."""
    return open_store(write_store(batches, tmp_path / "toy", codec="q16", max_rows=50))


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_bit_flipped_in_any_file_is_found(store):
    files = sorted(p for p in store.path.rglob("*") if p.is_file())
    assert len(files) > 20
    rng = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        for at in (0, len(whole) - 1, *rng.integers(0, len(whole), 3)):
            flip(file, at)
            found = verify(store.path)
            assert [d.file for d in found] == [file.relative_to(store.path).as_posix()], (file, at)
            file.write_bytes(whole)
    assert verify(store.path) == []


def test_the_column_and_row_group_are_named(store):
    partition = store.partitions[0]
    heavy = store.heavy("toy_image_flux")
    path, offsets, _ = heavy.locate(partition, np.array([3]))
    flip(path, offsets[0] + 40)
    (damage,) = verify(store.path)
    assert (damage.column, damage.row_group) == ("toy_image_flux", 0)
    assert "column toy_image_flux, row group 0" in str(damage)
    # Reading through pyarrow says so too, without verify.
    with pytest.raises(ValueError, match=r"Npix=.* cannot be read .* damaged"):
        store.read(slice(0, 1))


def test_missing_and_cut_off_files_are_named(store):
    first, second = store.partitions[0].path, store.partitions[1].path
    first.unlink()
    second.write_bytes(second.read_bytes()[:-10])
    root = store.path
    found = [(d.file, d.reason) for d in verify(root)]
    assert (first.relative_to(root).as_posix(), "the file is missing") in found
    size = second.stat().st_size
    reason = f"it has {size} bytes instead of {size + 10}"
    assert (second.relative_to(root).as_posix(), reason) in found
    with pytest.raises(FileNotFoundError, match="not complete"):
        store.read(slice(0, 1))
    again = open_store(root)
    with pytest.raises(ValueError, match=r"damaged or missing|cannot be read"):
        again.read(slice(store.partitions[0].rows, store.partitions[0].rows + 1))


def test_every_byte_of_a_parquet_file_is_covered_once(store):
    table = pq.read_table(store.path / "checksums.parquet").to_pandas()
    for name, parts in table.groupby("file", observed=True):
        parts = parts.sort_values("offset")
        ends = (parts["offset"] + parts["length"]).to_numpy()
        assert parts["offset"].iloc[0] == 0
        assert (parts["offset"].to_numpy()[1:] == ends[:-1]).all()
        assert ends[-1] == (store.path / str(name)).stat().st_size


def test_a_damaged_manifest_is_said(store):
    path = store.path / "omnisky.json"
    path.write_text(path.read_text().replace('"rows": 180', '"rows": 181'))
    with pytest.raises(ValueError, match="not as it was written"):
        open_store(store.path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        open_store(store.path)
    assert [d.file for d in verify(store.path)] == ["omnisky.json"]


def test_fingerprints_differ_with_the_bytes(tmp_path, sky):
    one, two = (open_store(write_store([sky(9, s)], tmp_path / str(s))) for s in (0, 1))
    assert one.fingerprint != two.fingerprint


def test_other_folders_have_no_checksums(tmp_path):
    with pytest.raises(FileNotFoundError, match="pack them first"):
        verify(tmp_path)
