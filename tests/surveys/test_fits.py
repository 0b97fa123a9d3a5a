"""The FITS door: what is sound comes in as it is, what is not is refused and takes nothing down."""

import contextlib
import gzip
import warnings

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisky.surveys.fits import (
    FitsLimits,
    checked,
    columns_of,
    header_of,
    image_of,
    images,
    images_of,
    open_fits,
    table_of,
    unit_is,
)


def card(text: str) -> bytes:
    return f"{text:80}".encode()


def header(*cards: str) -> bytes:
    fixed = [f"{c[:10]}{c[10:]:>20}" if c[8:10] == "= " and "'" not in c else c for c in cards]
    block = b"".join(card(c) for c in (*fixed, "END"))
    return block + b" " * (-len(block) % 2880)


def image_header(*cards: str, bitpix: int = -32, shape: tuple[int, ...] = (2, 3)) -> bytes:
    axes = [f"NAXIS{i + 1:<3}= {n:20}" for i, n in enumerate(reversed(shape))]
    size = f"BITPIX  = {bitpix:20}"
    return header("SIMPLE  = T", size, f"NAXIS   = {len(shape)}", *axes, *cards)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 2880)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Return a file with images of several types, a scaled one, a table and a compressed image."""
    rng = np.random.default_rng(1)
    table = [
        fits.Column("ID", "K", array=[5, 2**62, -1], null=-1),
        fits.Column("NAME", "8A", array=["a", " b ", ""]),
        fits.Column("FLUX", "2E", array=rng.normal(size=(3, 2))),
        fits.Column("RA", "D", array=[1.0, 2.0, 3.0], unit="deg"),
        fits.Column("BIG", "K", array=np.array([1, 2, 2**63 + 5], dtype="u8"), bzero=2**63),
        fits.Column("GOOD", "L", array=[True, False, True]),
        fits.Column("LIST", "PD()", array=np.array([[1.0], [], [2.0, 3.0]], dtype=object)),
    ]
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(rng.normal(size=(4, 5)).astype("f4")),
            fits.ImageHDU(np.arange(12, dtype="u4").reshape(3, 4), name="MASK"),
            fits.ImageHDU(np.arange(24, dtype="i2").reshape(2, 3, 4), name="CUBE"),
            fits.BinTableHDU.from_columns(table, name="ROWS"),
            fits.CompImageHDU(np.arange(600, dtype="i4").reshape(20, 30), name="PACKED"),
        ]
    )
    path = tmp_path_factory.mktemp("fits") / "sample.fits"
    hdus.writeto(path)
    return path


def test_images_come_in_unchanged_in_native_order(sample):
    with open_fits(sample) as opened:
        for index in (0, 1, 2, 4):
            found = image_of(opened, index)
            with fits.open(sample, memmap=False) as plain:
                np.testing.assert_array_equal(found, plain[index].data)
            assert found.dtype.isnative
        assert image_of(opened, "mask").dtype == np.uint32
        np.testing.assert_array_equal(
            image_of(opened, 1, rows=slice(1, 3)), [[4, 5, 6, 7], [8, 9, 10, 11]]
        )
        np.testing.assert_array_equal(
            image_of(opened, "PACKED", rows=slice(3, 4)),
            image_of(opened, "PACKED", trusted=True)[3:4],
        )
    assert image_of(sample, "CUBE").shape == (2, 3, 4)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("extra", [{}, {"BSCALE": 2.5, "BZERO": -7.0}, {"BLANK": 3}])
def test_stored_numbers_mean_what_astropy_says(tmp_path, dtype, extra):
    data = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "image.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data)]).writeto(path)
    if (extra and dtype in ("u2", "u4", "u8")) or ("BLANK" in extra and dtype in ("f4", "f8")):
        return  # these are stored with a BZERO of their own; floats have no BLANK
    with fits.open(path, mode="update", do_not_scale_image_data=True) as opened:
        opened[1].header.update(extra)
    with fits.open(path, memmap=False) as opened:
        direct = opened[1].data
    found = image_of(path, 1)
    assert found.dtype == direct.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, direct)
    np.testing.assert_array_equal(image_of(path, 1, rows=slice(1, None)), direct[1:])


@pytest.mark.parametrize(
    ("form", "extra"),
    [
        *((f"{n}{letter}", {}) for n in (1, 3) for letter in "LBIJKEDCM"),
        *((f"{letter}", {"TSCAL2": 0.5, "TZERO2": 3.0}) for letter in "BIJE"),
        *(
            (letter, {"TZERO2": zero})
            for letter, zero in (("I", 2**15), ("J", 2**31), ("K", 2**63))
        ),
        *((letter, {"TNULL2": 1}) for letter in "BIJK"),
        ("6E", {"TDIM2": "(3,2)"}),
        ("6A", {}),
        ("6A", {"TDIM2": "(3,2)"}),
        ("11X", {}),
    ],
)
def test_stored_columns_mean_what_astropy_says(tmp_path, form, extra):
    rng = np.random.default_rng(3)
    columns = [fits.Column("A", "1J"), fits.Column("V", form)]
    width = fits.BinTableHDU.from_columns(columns, nrows=2).header["NAXIS1"]
    stored = rng.integers(48, 91, (4, width), dtype="u1")
    stored[:, 4:] = np.where(
        rng.random((4, width - 4)) < 0.3, 1 if "A" not in form else 32, stored[:, 4:]
    )
    if form[-1] in "EDCM":
        stored[:, 4:] = np.arange(4 * (width - 4), dtype="u1").reshape(4, -1) % 60
    cards = ["TFIELDS = 2", "TTYPE1  = 'A'", "TFORM1  = '1J'", "TTYPE2  = 'V'"]
    cards += [f"TFORM2  = '{form}'"]
    cards += [f"{k:8}= {v!r}" for k, v in extra.items()]
    path = tmp_path / "table.fits"
    path.write_bytes(table_header(*cards, width=width, rows=4) + padded(stored.tobytes()))
    with fits.open(path, memmap=False) as opened:
        direct = np.asarray(opened[1].data["V"])
    with open_fits(path) as opened:
        found = table_of(opened, 1, ["V"])["V"]
        part = table_of(opened, 1, ["V"], rows=slice(1, 3))["V"]
    np.testing.assert_array_equal(np.ma.getdata(part), np.ma.getdata(found)[1:3])
    if found.dtype.kind == "U":
        np.testing.assert_array_equal(found, np.char.strip(direct.astype(str)))
    else:
        np.testing.assert_array_equal(np.ma.getdata(found), direct)
    if "TNULL2" in extra:
        np.testing.assert_array_equal(found.mask, direct == 1)


def test_table_comes_in_typed(sample):
    with open_fits(sample) as opened:
        assert columns_of(opened, "ROWS")["RA"] == "deg"
        rows = table_of(
            opened, "ROWS", ["id", "NAME", "flux", "BIG", "GOOD", "LIST"], optional=["RA", "DEC"]
        )
        assert list(rows) == ["id", "NAME", "flux", "BIG", "GOOD", "LIST", "RA"]
        some = table_of(opened, "ROWS", ["RA"], rows=slice(1, 2))
        assert header_of(opened, "ROWS")["EXTNAME"] == "ROWS"
    np.testing.assert_array_equal(rows["id"].mask, [False, False, True])
    assert rows["id"][1] == 2**62
    assert rows["NAME"].tolist() == ["a", "b", ""]
    assert rows["flux"].shape == (3, 2)
    assert rows["flux"].dtype == np.dtype("=f4")
    assert rows["BIG"].dtype == np.uint64
    assert rows["BIG"][2] == 2**63 + 5
    assert rows["GOOD"].tolist() == [True, False, True]
    assert [r.tolist() for r in rows["LIST"]] == [[1.0], [], [2.0, 3.0]]
    np.testing.assert_array_equal(some["RA"], [2.0])


def test_arrays_outlive_the_file(sample, tmp_path):
    copy = tmp_path / "copy.fits"
    copy.write_bytes(sample.read_bytes())
    with open_fits(copy) as opened:
        image, rows = image_of(opened, 0), table_of(opened, "ROWS", ["RA"])
    copy.unlink()
    image += 1
    assert rows["RA"].sum() == 6


def test_gzip_file(sample, tmp_path):
    path = tmp_path / "sample.fits.gz"
    path.write_bytes(gzip.compress(sample.read_bytes()))
    np.testing.assert_array_equal(image_of(path, "CUBE"), image_of(sample, "CUBE"))
    np.testing.assert_array_equal(image_of(path, "PACKED"), image_of(sample, "PACKED"))
    with pytest.raises(ValueError, match=r"sample\.fits\.gz inflates to more than 4000 bytes"):
        image_of(path, 0, limits=FitsLimits(max_inflated_bytes=4000))
    assert image_of(path, 0, limits=FitsLimits(max_inflated_bytes=4000), trusted=True).size == 20
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged gzip"):
        image_of(path, 0)


def test_what_is_not_there_is_named(sample, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"), open_fits(tmp_path / "none.fits"):
        pass
    with open_fits(sample) as opened:
        with pytest.raises(ValueError, match="no HDU 'IVAR'; found 0, MASK, CUBE, ROWS, PACKED"):
            image_of(opened, "IVAR")
        with pytest.raises(ValueError, match="no columns Z; found ID, NAME"):
            table_of(opened, "ROWS", ["Z"])
        with pytest.raises(ValueError, match="expected an image; found table"):
            image_of(opened, "ROWS")
        with pytest.raises(ValueError, match="expected a table; found image"):
            table_of(opened, "MASK", ["Z"])
    with fits.open(sample) as plain, pytest.raises(ValueError, match="open_fits"):
        image_of(plain, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "should start a header with SIMPLE"),
        (b"\x89PNG\r\n" + b"\0" * 3000, "no FITS file"),
        (image_header()[:1000], "truncated: the file ends before the END"),
        (image_header(), "truncated: its header declares 24 bytes"),
        (image_header() + b"\0" * 24, "with padding up to byte 5760"),
        (image_header(bitpix=12) + padded(b"\0" * 24), "BITPIX = 12; allowed are"),
        (image_header(shape=(2, -3)) + padded(b"\0" * 24), "an axis of NAXIS is shorter than 0"),
        (header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 99"), "NAXIS = 99; allowed are 0 to 9"),
        (header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2"), "NAXIS1 must be an integer; found N"),
        (header("SIMPLE  = T", "BITPIX  = x", "NAXIS   = 0"), "BITPIX must be an integer"),
        (header("SIMPLE  = F", "BITPIX  = 8", "NAXIS   = 0"), "SIMPLE must be T"),
        (header("SIMPLE  = T", "BITPIX  = 8", "BITPIX  = 16", "NAXIS   = 0"), "given twice"),
        (header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", "GROUPS  = T"), "random groups"),
        (header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", "PCOUNT  = -9"), "PCOUNT = -9"),
        (header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", "A\x01"), "not printable ASCII"),
        (
            image_header(shape=(1, 3)) + padded(b"\1" * 24) + b"\1" * 2880,
            "should start a header with XTENSION",
        ),
    ],
)
def test_header_lies_are_refused(tmp_path, content, message):
    path = tmp_path / "lie.fits"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message), open_fits(path):
        pass


def test_header_without_end_is_refused(tmp_path):
    path = tmp_path / "endless.fits"
    path.write_bytes(image_header()[:400] + card("COMMENT on and on") * 2000)
    with pytest.raises(ValueError, match="no END within 8000 bytes"):
        image_of(path, 0, limits=FitsLimits(max_header_bytes=8000))


def test_zeros_after_the_last_hdu_are_padding(tmp_path):
    path = tmp_path / "tape.fits"
    path.write_bytes(image_header() + padded(b"\0" * 24) + b"\0" * 5760)
    assert image_of(path, 0).shape == (2, 3)


def test_too_many_hdus_are_refused(sample):
    with pytest.raises(ValueError, match="more than 2 HDUs"):
        image_of(sample, 0, limits=FitsLimits(max_hdus=2))


def table_header(*cards: str, width: int = 8, rows: int = 2, pcount: int = 0) -> bytes:
    first = header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0")
    sizes = (f"NAXIS1  = {width}", f"NAXIS2  = {rows}", f"PCOUNT  = {pcount}", "GCOUNT  = 1")
    return first + header("XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", *sizes, *cards)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table_header("TFIELDS = 1", "TFORM1  = '2D'"), "columns take 16 bytes a row"),
        (table_header("TFIELDS = 1", "TFORM1  = 'huge'"), "TFORM1 = 'huge' is no column format"),
        (table_header("TFIELDS = 5000"), "TFIELDS = 5000; allowed are 0 to 999"),
        (table_header("TFIELDS = 1", "TFORM1  = '1D'", "THEAP   = -5"), "THEAP = -5 is not"),
    ],
)
def test_table_lies_are_refused(tmp_path, content, message):
    path = tmp_path / "table.fits"
    path.write_bytes(content + padded(b"\0" * 16))
    with pytest.raises(ValueError, match=message), open_fits(path):
        pass


@pytest.mark.parametrize(
    ("descriptor", "message"),
    [((2, 8), "row 1 points to 2"), ((-1, 0), "row 1 points to -1"), ((2**31 - 1, 0), "points to")],
)
def test_vectors_that_point_outside_the_heap_are_refused(tmp_path, descriptor, message):
    cards = ("TFIELDS = 1", "TTYPE1  = 'V'", "TFORM1  = '1PD(2)'")
    rows = np.array([[2, 0], descriptor], dtype=">i4").tobytes()
    path = tmp_path / "heap.fits"
    path.write_bytes(table_header(*cards, pcount=16) + padded(rows + b"\0" * 16))
    with open_fits(path) as opened, pytest.raises(ValueError, match=message):
        table_of(opened, 1, ["V"])


def bomb(**changes: int | str) -> bytes:
    cards = {"ZIMAGE": "T", "ZCMPTYPE": "'RICE_1'", "ZBITPIX": 32, "ZNAXIS": 2}
    cards |= {"ZNAXIS1": 10**6, "ZNAXIS2": 10**6, "ZTILE1": 10**6, "ZTILE2": 500_000} | changes
    texts = [f"{key:8}= {value}" for key, value in cards.items()]
    fields = ("TFIELDS = 1", "TTYPE1  = 'COMPRESSED_DATA'", "TFORM1  = '1PB(16)'")
    return table_header(*fields, *texts, pcount=16) + padded(b"\0" * 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(), "decoded, the image would take 4000000000000 bytes; allowed are 2147483648"),
        (bomb(ZNAXIS1=10, ZNAXIS2=2, ZTILE1=10**9, ZTILE2=1), "would take 4000000000 bytes"),
        (bomb(ZNAXIS1=10, ZNAXIS2=10, ZTILE1=5, ZTILE2=1), "20 tiles; the table has 2 rows"),
        (bomb(ZNAXIS1=-10), "an axis of ZNAXIS is shorter than 1"),
        (bomb(ZNAXIS1=10**19), "ZNAXIS1 must be an integer"),
        (bomb(ZTILE1=0), "makes no sense"),
        (bomb(ZBITPIX=7), "ZBITPIX = 7"),
        (bomb(ZCMPTYPE="'LZMA'"), "ZCMPTYPE = 'LZMA'; allowed are RICE_1"),
    ],
)
def test_bombs_are_refused_before_decoding(tmp_path, content, message):
    path = tmp_path / "bomb.fits"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message), open_fits(path):
        pass


def test_limit_of_decoded_bytes_and_trust(sample):
    limits = FitsLimits(max_image_bytes=100)
    with pytest.raises(ValueError, match=r"PACKED\): decoded, the image would take 2400 bytes"):
        image_of(sample, "PACKED", limits=limits)
    assert image_of(sample, "PACKED", limits=limits, trusted=True).shape == (20, 30)


def test_limit_of_plain_images(tmp_path):
    path = tmp_path / "plain.fits"
    path.write_bytes(image_header() + padded(b"\0" * 24))
    with pytest.raises(ValueError, match="the image takes 24 bytes; allowed are 20"):
        image_of(path, 0, limits=FitsLimits(max_image_bytes=20))


CRASHES = {
    "segfault": (
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "ended with status -11",
    ),
    "exit": ("import sys; sys.exit('no such codec')", "status 1: no such codec"),
    "garbage": ("print('hello')", "ended with status 0"),
    "memory": ('print(\'{"error": "MemoryError"}\')', "decoding failed: MemoryError"),
}


@pytest.mark.parametrize("how", CRASHES)
def test_a_decoder_that_crashes_takes_nothing_down(sample, tmp_path, monkeypatch, how):
    code, message = CRASHES[how]
    script = tmp_path / "decoder.py"
    script.write_text(code)
    monkeypatch.setattr(images, "_SCRIPT", str(script))
    with pytest.raises(ValueError, match=rf"sample\.fits, HDU 4 \(PACKED\).*{message}"):
        image_of(sample, "PACKED")
    assert image_of(sample, "CUBE").shape == (2, 3, 4)


def test_the_decoder_lives_within_limits_of_memory_and_time(sample, tmp_path, monkeypatch):
    original = images._SCRIPT
    script = tmp_path / "decoder.py"
    script.write_text(
        f"import runpy, sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        f"child = runpy.run_path({original!r})\n"
        "child['_limit'](512 * 2**20, 1)\n"
        'try:\n    bytearray(2**30)\nexcept MemoryError:\n    print(\'{"error": "bounded"}\')\n'
        "sys.stdout.flush()\nwhile True: pass\n"
    )
    monkeypatch.setattr(images, "_SCRIPT", str(script))
    # The first answer comes before the processor time is used up, the second never.
    with pytest.raises(ValueError, match="decoding failed: bounded"):
        image_of(sample, "PACKED")
    answers, ended = images._run_child({"images": []}, 60)
    assert answers == [{"error": "bounded"}]
    assert "status -" in ended


def test_several_images_share_one_child(sample, monkeypatch):
    calls = []
    run = images._run_child
    monkeypatch.setattr(images, "_run_child", lambda *a: calls.append(a) or run(*a))
    found = images_of(sample, ["PACKED", 0, 4])
    assert len(calls) == 1
    np.testing.assert_array_equal(found[0], np.arange(600).reshape(20, 30))
    np.testing.assert_array_equal(found[2], found[0])


def complaint(path) -> str | None:
    """Read all that is not compressed, as readers do; return what was wrong."""
    try:
        with open_fits(path) as opened:
            for hdu in checked(opened).hdus:
                header_of(opened, hdu.index)
                if hdu.kind == "table":
                    table_of(opened, hdu.index, list(columns_of(opened, hdu.index)))
                elif hdu.kind == "image" and hdu.shape:
                    image_of(opened, hdu.index)
    except ValueError as error:  # nothing else may come out of the door
        return str(error)
    return None


@pytest.fixture(scope="module")
def plain_bytes(sample):
    """Return the sample without its compressed image, which a child would decode."""
    with fits.open(sample) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened[:4].writeto(sample.with_name("plain.fits"))
    return sample.with_name("plain.fits").read_bytes()


@settings(max_examples=60)
@given(data=st.data())
def test_truncated_anywhere(plain_bytes, tmp_path_factory, data):
    length = data.draw(st.integers(0, len(plain_bytes) - 1))
    path = tmp_path_factory.mktemp("cut") / "cut.fits"
    path.write_bytes(plain_bytes[:length])
    found = complaint(path)
    # Cut between two HDUs nothing tells that there was more.
    assert length % 2880 == 0 if found is None else str(path) in found


@settings(max_examples=150)
@given(data=st.data())
def test_corrupted_anywhere(plain_bytes, tmp_path_factory, data):
    content = bytearray(plain_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("bits") / "bits.fits"
    path.write_bytes(content)
    found = complaint(path)
    assert found is None or str(path) in found


@settings(max_examples=100)
@given(
    key=st.sampled_from(
        "BITPIX NAXIS NAXIS1 NAXIS2 PCOUNT GCOUNT TFIELDS TFORM1 TFORM3 TFORM7 TNULL1 TZERO5 "
        "TDIM3 TTYPE2 THEAP EXTNAME BZERO BSCALE XTENSION".split()
    ),
    value=st.sampled_from(
        [
            "-1",
            "0",
            "1",
            "2",
            "7",
            "99999999",
            "T",
            "'1PJ(9)'",
            "'2A'",
            "'(5,5)'",
            "1e400",
            "''",
            "NaN",
        ]
    ),
    which=st.integers(0, 4),
)
def test_header_values_replaced(plain_bytes, tmp_path_factory, key, value, which):
    start = -1
    for _ in range(which + 1):
        start = plain_bytes.find(f"{key:8}=".encode(), start + 1)
        if start < 0:
            return
    content = plain_bytes[:start] + card(f"{key:8}= {value:>20}") + plain_bytes[start + 80 :]
    path = tmp_path_factory.mktemp("keys") / "keys.fits"
    path.write_bytes(content)
    found = complaint(path)
    assert found is None or str(path) in found


@settings(max_examples=60)
@given(content=st.binary(max_size=6000), start=st.sampled_from([b"", b"SIMPLE  =", b"\x1f\x8b"]))
def test_garbage_bytes(tmp_path_factory, content, start):
    path = tmp_path_factory.mktemp("noise") / "noise.fits"
    path.write_bytes(start + content)
    assert str(path) in (complaint(path) or "")


@settings(max_examples=6)
@given(data=st.data())
def test_corrupted_tiles_are_decoded_apart(sample, tmp_path_factory, data):
    content = bytearray(sample.read_bytes())
    with open_fits(sample) as opened:
        hdu = checked(opened).hdus[4]
    for _ in range(8):
        place = hdu.offset + data.draw(st.integers(0, hdu.nbytes - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("tiles") / "tiles.fits"
    path.write_bytes(content)
    with contextlib.suppress(ValueError):  # damage that the decoder noticed
        assert image_of(path, 4).shape == (20, 30)


@pytest.mark.parametrize(
    "unit",
    ["1E-17 erg/cm^2/s/Ang", "10**-17 erg/(s cm2 Angstrom)", "", None, "1e-17 erg s-1 cm-2 AA-1"],
)
def test_units_as_surveys_write_them(unit):
    unit_is(unit, "1e-17 erg s-1 cm-2 Angstrom-1", "flux")


@pytest.mark.parametrize("unit", ["1E-16 erg/cm^2/s/Ang", "counts", "erg/s/cm2/Hz", "gibberish"])
def test_another_unit_is_refused(unit):
    with pytest.raises(ValueError, match=r"flux is in .*; expected '1e-17 erg"):
        unit_is(unit, "1e-17 erg s-1 cm-2 Angstrom-1", "flux")


@pytest.mark.real_data
def test_every_real_fits_file_is_sound_or_refused(real_data):
    paths = sorted((real_data / "native").rglob("*"))
    paths = [path for path in paths if path.name.endswith((".fits", ".fits.gz", ".fits.fz"))]
    found = {path.name: complaint(path) for path in paths}
    refused = {name: message for name, message in found.items() if message}
    assert list(refused) == ["example_incomplete_backup.fits"]
    assert "truncated" in refused["example_incomplete_backup.fits"]
