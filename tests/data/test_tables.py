"""Tables survive every format, and what a format cannot hold is refused, never bent."""

import errno
import os
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnisky.data import tables
from omnisky.data.tables import FORMATS, read_table, unread_columns, write_table
from omnisky.data.usertable import observations_from_table, targets_from_table

WITH_UNITS = [s for s in FORMATS if s != ".csv"]
SOURCE_IDS = np.array([4295806720, 2**62 + 1, -1], dtype=np.int64)


@pytest.fixture
def stars() -> Table:
    table = Table({"source_id": SOURCE_IDS})
    table["name"] = ["2M00", "HD 1", "a longer name"]
    table["flux"] = np.arange(12, dtype=np.float32).reshape(3, 4)
    table["flux"].unit = "W m-2 nm-1"
    table["flux"].description = "XP flux"
    table["flux"].meta["ucd"] = "phot.flux.density;em.wl"
    table["g"] = MaskedColumn([12.5, 0.0, 13.25], mask=[False, True, False], unit="mag")
    table["visits"] = MaskedColumn(np.array([1, 2, 3]), mask=[False, False, True])
    table["fe_h"] = np.array([-0.5, 0.1, 0.0])
    table["fe_h"].unit = u.dex
    table["variable"] = [True, False, True]
    return table


@pytest.mark.parametrize("suffix", WITH_UNITS)
def test_round_trip(stars, tmp_path, suffix):
    back = read_table(write_table(stars, tmp_path / f"stars{suffix}"))
    assert back.colnames == stars.colnames
    for name in stars.colnames:
        given, found = np.ma.asarray(stars[name]), np.ma.asarray(back[name])
        assert found.dtype == given.dtype, name
        np.testing.assert_array_equal(np.ma.getmaskarray(found), np.ma.getmaskarray(given))
        np.testing.assert_array_equal(found.compressed(), given.compressed())
        assert back[name].unit == stars[name].unit
    assert back["flux"].description == "XP flux"
    assert back["flux"].meta["ucd"] == "phot.flux.density;em.wl"


def test_csv_keeps_values_but_no_units(stars, tmp_path):
    stars.remove_columns(["flux", "variable"])
    back = read_table(write_table(stars, tmp_path / "stars.csv"))
    assert back["source_id"].dtype == np.int64
    np.testing.assert_array_equal(back["source_id"], SOURCE_IDS)
    assert back["g"].mask.tolist() == [False, True, False]
    assert back["g"].unit is None
    assert back["name"].tolist() == stars["name"].tolist()


@pytest.mark.parametrize("suffix", WITH_UNITS)
def test_masked_elements_of_a_vector_stay_masked(tmp_path, suffix):
    mask = [[False, True], [False, False], [True, True]]
    table = Table({"x": MaskedColumn(np.arange(6.0).reshape(3, 2), mask=mask, unit="mas")})
    back = read_table(write_table(table, tmp_path / f"x{suffix}"))
    assert back["x"].mask.tolist() == mask
    assert back["x"].unit == u.mas


@pytest.mark.parametrize("suffix", [".parquet", ".ecsv", ".fits"])
def test_missing_strings_stay_missing(tmp_path, suffix):
    table = Table({"name": MaskedColumn(["a", "b", "c"], mask=[False, True, False])})
    back = read_table(write_table(table, tmp_path / f"x{suffix}"))
    assert back["name"].mask.tolist() == [False, True, False]


@pytest.mark.parametrize("suffix", [".parquet", ".fits", ".ecsv"])
def test_images_in_cells_keep_their_shape(tmp_path, suffix):
    cube = np.arange(24.0).reshape(2, 3, 4)
    back = read_table(write_table(Table({"image": cube}), tmp_path / f"x{suffix}"))
    np.testing.assert_array_equal(back["image"], cube)


def test_parquet_keeps_provenance(stars, tmp_path):
    stars.meta["MODEL"] = "nano"
    back = read_table(write_table(stars, tmp_path / "stars.parquet"))
    assert back.meta == {"MODEL": "nano"}


def test_quantities_keep_their_unit(tmp_path):
    table = QTable({"parallax": [1.0, 2.0] * u.mas})
    assert read_table(write_table(table, tmp_path / "x.parquet"))["parallax"].unit == u.mas


def test_fits_reads_in_the_byte_order_of_this_machine(stars, tmp_path):
    back = read_table(write_table(stars, tmp_path / "stars.fits"))
    assert all(back[name].dtype.isnative for name in back.colnames)


def test_fits_of_others_shows_the_unit(stars, tmp_path):
    path = write_table(stars, tmp_path / "stars.fits")
    assert "dex" in fits.getheader(path, 1)["TUNIT*"].values()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
    texts=st.data(),
)
def test_any_integers_and_strings_survive_parquet(tmp_path, values, texts):
    letters = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    names = texts.draw(st.lists(letters, min_size=len(values), max_size=len(values)))
    mask = [v is None for v in values]
    ids = MaskedColumn(np.array([v or 0 for v in values], dtype=np.int64), mask=mask)
    path = tmp_path / "x.parquet"
    back = read_table(write_table(Table({"id": ids, "name": names}), path, overwrite=True))
    assert np.ma.getmaskarray(np.ma.asarray(back["id"])).tolist() == mask
    assert np.ma.asarray(back["id"]).tolist() == values
    assert back["name"].tolist() == names


def test_parquet_of_others(tmp_path):
    """Read dictionary strings, nulls, lists and chunks as pandas and polars write them."""
    path = tmp_path / "x.parquet"
    other = pa.table(
        {
            "band": pa.array(["g", None, "g"]).dictionary_encode(),
            "vector": pa.array([[1, 2], [3, None], [5, 6]]),
            "nothing": pa.nulls(3),
            "text": pa.array(["a", "b", None], pa.large_string()),
        }
    )
    pq.write_table(other, path, row_group_size=2)
    back = read_table(path)
    assert back["band"].tolist() == ["g", None, "g"]
    assert back["vector"].mask.tolist() == [[False, False], [False, True], [False, False]]
    assert back["nothing"].mask.all()
    assert back["text"].mask.tolist() == [False, False, True]


@pytest.mark.parametrize("fixed", [True, False])
def test_parquet_rows_without_a_vector_are_masked(tmp_path, fixed):
    """Also with nulls within others, in the first row, and across chunks."""
    rows = [None, [1.0, None], [3.0, 4.0], None, [5.0, 6.0]]
    kind = pa.list_(pa.float32(), 2) if fixed else pa.list_(pa.float32())
    texts = pa.array([["a", "bc"], None, None, ["d", "e"], None])
    boxes = pa.array([[[1, 2], [3, 4]], None, *[[[0, 0], [0, 0]]] * 3])
    table = pa.table({"flux": pa.array(rows, kind), "texts": texts, "boxes": boxes})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    back = read_table(tmp_path / "x.parquet")
    expected = [[None, None], [1.0, None], [3.0, 4.0], [None, None], [5.0, 6.0]]
    assert back["flux"].tolist() == expected
    assert back["flux"].dtype == np.float32
    assert back["texts"].tolist()[:2] == [["a", "bc"], [None, None]]
    assert back["boxes"].tolist() == [[1, 2, 3, 4], [None] * 4, *[[0, 0, 0, 0]] * 3]
    pq.write_table(pa.table({"no": pa.nulls(2, kind)}), tmp_path / "none.parquet")
    assert read_table(tmp_path / "none.parquet")["no"].mask.all()


ODD = {
    "ragged": (pa.array([[1.0], [1.0, 2.0]]), "lists of 1 to 2 elements"),
    "struct": (pa.array([{"a": 1}, {"a": 2}]), "values of type struct"),
    "binary": (pa.array([b"a", None]), "values of type binary"),
    "structs": (pa.array([[{"a": 1}], [{"a": 2}]]), "values of type struct"),
}


@pytest.mark.parametrize("kind", ODD)
def test_parquet_column_that_no_table_can_hold(tmp_path, kind):
    column, holds = ODD[kind]
    pq.write_table(pa.table({"odd": column}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=f"no table column can hold any .*'odd' holds {holds}"):
        read_table(tmp_path / "x.parquet")


def test_parquet_columns_that_no_table_can_hold_are_left_out_and_named(tmp_path):
    columns = {name: column for name, (column, _) in ODD.items()}
    pq.write_table(pa.table({"j": [9.0, 9.5], **columns}), tmp_path / "x.parquet")
    with pytest.warns(UserWarning, match="'ragged' holds .*; 'struct' holds .*; 'binary'") as told:
        back = read_table(tmp_path / "x.parquet")
    assert len(told) == 1
    assert back.colnames == ["j"]
    assert list(observations_from_table(back)) == ["twomass_j"]
    with pytest.raises(ValueError, match="gaia_g: column 'binary' of the file holds values of typ"):
        observations_from_table(back, {"gaia_g": "binary"})
    with pytest.raises(ValueError, match=r"among j \(left out, .*: ragged, struct, binary, st"):
        observations_from_table(back, names=["gaia_g"])
    with pytest.raises(ValueError, match="target 'ragged': column 'ragged' of the file holds"):
        targets_from_table(back, ["ragged"])
    # What was left out of one file is no property of another.
    assert not unread_columns(read_table(write_table(back, tmp_path / "y.parquet")))
    assert list(unread_columns(back)) == list(ODD)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\x00\xff\x10garbage\n" * 20], ids=["empty", "garbage"])
def test_damaged_file(tmp_path, suffix, content):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.*(cannot be read as|has no rows)"):
        read_table(path)


@pytest.mark.parametrize("suffix", WITH_UNITS)
def test_file_cut_in_the_middle(stars, tmp_path, suffix):
    path = write_table(stars, tmp_path / f"cut{suffix}")
    content = path.read_bytes()
    # FITS pads its last block, so cut well inside the data.
    path.write_bytes(content[: int(len(content) * 0.6)])
    with pytest.raises(ValueError, match="cannot be read as"):
        read_table(path)


def test_wrong_ending(stars, tmp_path):
    with pytest.raises(ValueError, match=r"known endings are \.parquet, \.fits"):
        write_table(stars, tmp_path / "stars.pkl")
    (tmp_path / "stars.txt").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="known endings"):
        read_table(tmp_path / "stars.txt")


def test_content_that_is_not_what_the_ending_says(stars, tmp_path):
    path = write_table(stars, tmp_path / "stars.parquet").rename(tmp_path / "stars.fits")
    with pytest.raises(ValueError, match="cannot be read as fits"):
        read_table(path)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothere\.fits"):
        read_table(tmp_path / "nothere.fits")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_table_without_rows_is_neither_written_nor_read(tmp_path, suffix):
    with pytest.raises(ValueError, match="no rows"):
        write_table(Table({"a": np.empty(0)}), tmp_path / f"x{suffix}")
    assert not list(tmp_path.iterdir())


def test_empty_file_of_another_program(tmp_path):
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="has no rows"):
        read_table(tmp_path / "x.parquet")


def test_what_a_format_cannot_hold_is_refused(stars, tmp_path):
    with pytest.raises(ValueError, match="CSV cannot hold the vector columns flux"):
        write_table(stars, tmp_path / "stars.csv")
    deep = Table({"samples": np.zeros((3, 2, 5))})
    with pytest.raises(ValueError, match=r"VOTables swap the axes .* found samples"):
        write_table(deep, tmp_path / "deep.vot")
    stars["name"] = ["α Cen", "b", "c"]
    with pytest.raises(ValueError, match="FITS holds ASCII only, but the columns name"):
        write_table(stars, tmp_path / "stars.fits")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".parquet", ".fits", ".ecsv"])
def test_an_existing_file_is_kept(stars, tmp_path, suffix):
    path = tmp_path / f"stars{suffix}"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists"):
        write_table(stars, path)
    assert path.read_text() == "precious"
    write_table(stars, path, overwrite=True)
    assert len(read_table(path)) == 3


@pytest.mark.parametrize("suffix", WITH_UNITS)
def test_disk_full_leaves_the_old_file_and_nothing_else(stars, tmp_path, suffix, monkeypatch):
    path = write_table(stars[:1], tmp_path / f"stars{suffix}")
    before = path.read_bytes()

    def full(table, temporary, *_):
        with open(temporary, "wb") as file:
            file.write(b"half a table")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tables, "_write_parquet", full)
    monkeypatch.setattr(tables, "_write_astropy", full)
    with pytest.raises(OSError, match=r"could not write .*No space left.*Nothing was changed"):
        write_table(stars, path, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_new_files_have_ordinary_permissions(stars, tmp_path):
    path = write_table(stars, tmp_path / "new" / "folder" / "stars.parquet")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
