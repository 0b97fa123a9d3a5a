"""Text tables come in typed, a batch at a time, and a bad row is reported with its number."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisky.surveys import Problems
from omnisky.surveys.text import text_batches, text_header

ECSV = """# %ECSV 1.0
# ---
# delimiter: ','
# datatype:
# -
#   name: source_id
#   datatype: int64
#   description: An identifier, name: of no column
# -
#   name: Parallax
#   unit: mas
#   datatype: float64
source_id,Parallax
5853498713190525697,1.5
,nan
"""


def read(path, columns, **options):
    """Return all rows at once."""
    batches = list(text_batches(path, columns, **options))
    rows = np.concatenate([rows for rows, _ in batches])
    return rows, {n: np.ma.concatenate([v[n] for _, v in batches]) for n in batches[0][1]}


def written(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_ecsv_with_units_and_integers_of_63_bits(tmp_path):
    path = written(tmp_path, ECSV)
    header = text_header(path)
    assert header.names == ("source_id", "Parallax")
    assert header.units == {"Parallax": "mas"}
    rows, values = read(path, {"SOURCE_ID": "int", "parallax": "float"})
    assert rows.tolist() == [0, 1]
    assert values["SOURCE_ID"][0] == 5853498713190525697  # a double would make it ...696
    assert values["SOURCE_ID"].mask.tolist() == [False, True]
    np.testing.assert_array_equal(np.ma.getdata(values["parallax"]), [1.5, np.nan])


def test_ecsv_of_astropy(tmp_path):
    from astropy import units as u
    from astropy.table import Table

    table = Table({"id": [1, 2], "ra": [1.0, 2.0] * u.deg, "name": ["a b", 'c"d']})
    table.write(tmp_path / "t.ecsv")
    assert text_header(tmp_path / "t.ecsv").units == {"ra": "deg"}
    _, values = read(tmp_path / "t.ecsv", {"id": "int", "ra": "float", "name": "text"})
    assert values["name"].tolist() == ["a b", 'c"d']
    assert values["ra"].tolist() == [1.0, 2.0]


def test_bytes_as_python_prints_them_are_unwrapped(tmp_path):
    path = written(tmp_path, "id,name\nb'   17',b'spec.fits'\n18,plain\n")
    _, values = read(path, {"id": "int", "name": "text"})
    assert values["id"].tolist() == [17, 18]
    assert values["name"].tolist() == ["spec.fits", "plain"]


def test_gzip_and_byte_order_mark(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress("\ufeffid,x\n1,2.5\n".encode()))
    assert read(path, {"id": "int"})[1]["id"].tolist() == [1]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match=r"t\.csv\.gz cannot be read as a text table"):
        read(path, {"id": "int"})


BAD = "# comment\nid,x\n1,1.0\n2\n3,3.0\n4,four\n5,5.0,6.0\n6,6.0\n"


def test_bad_rows_are_reported_with_their_numbers(tmp_path):
    path = written(tmp_path, BAD)
    for columns in ({"id": "int", "x": "float"}, {"x": "float"}):
        problems = Problems("quarantine")
        rows, values = read(path, columns, problems=problems, batch_rows=2)
        assert rows.tolist() == [0, 2, 5]
        assert values["x"].tolist() == [1.0, 3.0, 6.0]
        assert sorted(p.row or 0 for p in problems.found) == [1, 3, 4]
        assert {p.reason for p in problems.found} == {
            "it has 1 columns, expected 2",
            "it has 3 columns, expected 2",
            "column x holds 'four', expected float",
        }
    with pytest.raises(ValueError, match=r"table\.csv, row \d: "):
        read(path, {"x": "float"})


def test_row_numbers_over_many_blocks(tmp_path, monkeypatch):
    from omnisky.surveys.text import reading

    monkeypatch.setattr(reading, "_BLOCK_BYTES", 1000)
    lines = [f"{i},{i / 7}" if i % 10 else f"{i}" for i in range(1000)]
    path = written(tmp_path, "id,x\n" + "\n".join(lines) + "\n")
    problems = Problems("quarantine")
    rows, values = read(path, {"id": "int"}, problems=problems)
    np.testing.assert_array_equal(rows, values["id"])
    assert [p.row for p in problems.found] == list(range(0, 1000, 10))
    assert len(rows) == 900


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one line of different column names"),
        ("a,A\n1,2\n", "a column is there twice"),
        ("x\n1\n", "has no columns id; found x"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path, text), {"id": "int"})
    with pytest.raises(FileNotFoundError):
        text_header(tmp_path / "none.csv")


def test_binary_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    for content in (b"\xff\xfe\x00id", b"id\n\xff\n", b"\x1f\x8bnot gzip at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"t\.csv cannot be read as a text table"):
            read(path, {"id": "text"})


@given(content=st.binary(max_size=300))
def test_garbage_never_gets_past_the_door(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("text") / "t.csv"
    path.write_bytes(b"id,x\n" + content)
    try:
        list(text_batches(path, {"id": "int", "x": "float"}))
        message = str(path)
    except ValueError as error:
        message = str(error)
    assert str(path) in message
