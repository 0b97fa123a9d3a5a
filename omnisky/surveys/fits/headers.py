"""Check the headers of a FITS file on its raw bytes: sizes, types, lies and bombs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import BinaryIO

__all__ = ["FitsLimits", "Hdu", "scan"]

_BLOCK, _CARD = 2880, 80
_BITPIX = (8, 16, 32, 64, -32, -64)
_MAX_AXES = 9
_CODECS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS")
# Bits of one element of a table column, by the letter of its format.
_BITS = dict(L=8, X=1, B=8, I=16, J=32, K=64, A=8, E=32, D=64, C=64, M=128, P=64, Q=128)
# The keywords on which the layout of the data depends. Twice with two values is a lie.
_STRUCTURE = re.compile(
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|TFIELDS|TFORM\d+|EXTNAME|EXTVER|THEAP"
    r"|TTYPE\d+|TUNIT\d+|TSCAL\d+|TZERO\d+|TNULL\d+|TDIM\d+|BSCALE|BZERO|BLANK"
    r"|ZIMAGE|ZCMPTYPE|ZBITPIX|ZNAXIS\d*|ZTILE\d+|ZSIMPLE|ZTENSION)"
)
_VALUE = re.compile(r"'((?:[^']|'')*)'|([^/]*)")


@dataclass(frozen=True, kw_only=True)
class FitsLimits:
    """State how much a file from outside may ask for.

    Parameters
    ----------
    max_hdus : int
        Header-data units in one file.
    max_header_bytes : int
        Bytes of one header.
    max_image_bytes : int
        Bytes of one image after decoding.
    max_inflated_bytes : int
        Bytes of a gzip-compressed file after inflation.
    max_memory_bytes : int
        Address space of the child process that decodes compressed images.
    max_seconds : int
        Processor time of that process, for one image.
    """

    max_hdus: int = 4096
    max_header_bytes: int = 8 * 2**20
    max_image_bytes: int = 2 * 2**30
    max_inflated_bytes: int = 4 * 2**30
    max_memory_bytes: int = 8 * 2**30
    max_seconds: int = 120


@dataclass(frozen=True)
class Hdu:
    """Describe one header-data unit, as its raw header states it.

    Parameters
    ----------
    index : int
        Number in the file, from 0.
    name : str
        ``EXTNAME``, upper case; may be empty.
    version : int
        ``EXTVER``.
    kind : {"image", "table", "compressed", "other"}
        What it holds.
    shape : tuple of int
        Shape of the (decoded) image in NumPy order; (rows,) of a table.
    image_bytes : int
        Bytes of the decoded image; 0 for tables.
    offset, nbytes : int
        Where its data start in the file, and how many bytes they are, without padding.
    cards : dict of str to str
        The keywords that say how the data lie there, as written.
    """

    index: int
    name: str
    version: int
    kind: str
    shape: tuple[int, ...]
    image_bytes: int
    offset: int
    nbytes: int
    cards: dict[str, str]

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"HDU {self.index}" + (f" ({self.name})" if self.name else "")


@dataclass
class _Header:
    """The structural keywords of one header, and how to complain about them."""

    path: str
    index: int
    values: dict[str, str] = field(default_factory=dict)

    def wrong(self, what: str, remedy: str = "") -> ValueError:
        name = self.values.get("EXTNAME", "")
        where = f"HDU {self.index}" + (f" ({name})" if name else "")
        remedy = remedy or "The file is damaged or not FITS; fetch it again"
        return ValueError(f"{self.path}, {where}: {what}. {remedy}")

    def integer(self, key: str, default: int | None = None) -> int:
        text = self.values.get(key)
        if text is None and default is not None:
            return default
        if text is None or not re.fullmatch(r"[+-]?\d{1,18}", text):
            raise self.wrong(f"{key} must be an integer; found {text!r}")
        return int(text)

    def axes(self, prefix: str, least: int) -> tuple[int, ...]:
        """Return the lengths of all axes in the order of the file."""
        count = self.integer(f"{prefix}")
        if not 0 <= count <= _MAX_AXES:
            raise self.wrong(f"{prefix} = {count}; allowed are 0 to {_MAX_AXES} axes")
        lengths = tuple(self.integer(f"{prefix}{i + 1}") for i in range(count))
        if any(n < least for n in lengths):
            raise self.wrong(f"an axis of {prefix} is shorter than {least}: {lengths}")
        return lengths

    def bitpix(self, key: str) -> int:
        value = self.integer(key)
        if value not in _BITPIX:
            raise self.wrong(f"{key} = {value}; allowed are {_BITPIX}")
        return value


def scan(file: BinaryIO, path: str, limits: FitsLimits | None) -> tuple[Hdu, ...]:
    """Walk through all headers of an open file and check each against the bytes that are there.

    Parameters
    ----------
    file : binary file
        At any position; it must allow seeking.
    path : str
        Its name, for messages.
    limits : FitsLimits or None
        What the file may ask for; None for a trusted file.

    Returns
    -------
    tuple of Hdu
        In the order of the file.

    Raises
    ------
    ValueError
        If it is no FITS file, truncated, contradicts itself or asks for more than allowed.
    """
    size = file.seek(0, 2)
    offset, found = 0, []
    while offset < size or not found:
        if found and _is_padding(file, offset, size):
            break
        header = _Header(path, len(found))
        if limits and len(found) >= limits.max_hdus:
            raise header.wrong(f"more than {limits.max_hdus} HDUs", "Raise FitsLimits.max_hdus")
        start = _read_header(file, offset, header, limits)
        hdu = _describe(header, start)
        end = start + -(-hdu.nbytes // _BLOCK) * _BLOCK
        if end > size:
            raise header.wrong(
                f"truncated: its header declares {hdu.nbytes} bytes of data, with padding up to "
                f"byte {end}, but the file ends at byte {size}"
            )
        if limits and hdu.kind == "compressed" and hdu.image_bytes > limits.max_image_bytes:
            raise header.wrong(
                f"decoded, the image would take {hdu.image_bytes} bytes; allowed are "
                f"{limits.max_image_bytes}",
                "Raise FitsLimits.max_image_bytes if you trust the file",
            )
        found.append(hdu)
        offset = end
    return tuple(found)


def _is_padding(file: BinaryIO, offset: int, size: int) -> bool:
    """Tell whether only zeros follow, as some tape writers leave them."""
    file.seek(offset)
    return size - offset <= 2**20 and not file.read(size - offset).strip(b"\0")


def _read_header(file: BinaryIO, offset: int, header: _Header, limits: FitsLimits | None) -> int:
    """Fill in the structural keywords of one header; return where its data start."""
    file.seek(offset)
    first = "SIMPLE" if header.index == 0 else "XTENSION"
    cards = 0
    while True:
        block = file.read(_BLOCK)
        if cards == 0 and not block.startswith(f"{first:8}=".encode()):
            raise header.wrong(
                f"byte {offset} should start a header with {first}; found {block[:16]!r}",
                "The file is no FITS file, or an earlier header states a wrong size",
            )
        if len(block) < _BLOCK:
            raise header.wrong("truncated: the file ends before the END of this header")
        for start in range(0, _BLOCK, _CARD):
            card = block[start : start + _CARD]
            if card.startswith(b"END") and not card[3:].strip():
                return file.tell()
            _take(card, header)
            cards += 1
        if limits and cards * _CARD > limits.max_header_bytes:
            raise header.wrong(
                f"the header has no END within {limits.max_header_bytes} bytes",
                "Raise FitsLimits.max_header_bytes if you trust the file",
            )


def _take(card: bytes, header: _Header) -> None:
    """Keep the value of a structural keyword."""
    try:
        text = card.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        raise header.wrong(f"a header card is not printable ASCII: {card[:24]!r}")
    key = text[:8].rstrip()
    if text[8:10] != "= " or not _STRUCTURE.fullmatch(key):
        return
    quoted, plain = _VALUE.match(text[10:].lstrip()).groups()  # pyright: ignore[reportOptionalMemberAccess]
    value = plain.strip() if quoted is None else quoted.replace("''", "'").strip()
    if header.values.setdefault(key, value) != value:
        raise header.wrong(f"{key} is given twice, as {header.values[key]!r} and {value!r}")


def _describe(header: _Header, offset: int) -> Hdu:
    """Return what a header declares, checked for sense."""
    values = header.values
    if header.index == 0 and values.get("SIMPLE") != "T":
        raise header.wrong(f"SIMPLE must be T; found {values.get('SIMPLE')!r}")
    bitpix, axes = header.bitpix("BITPIX"), header.axes("NAXIS", least=0)
    pcount, gcount = header.integer("PCOUNT", 0), header.integer("GCOUNT", 1)
    if values.get("GROUPS") == "T" or gcount != 1 or pcount < 0:
        raise header.wrong(
            f"PCOUNT = {pcount}, GCOUNT = {gcount}, GROUPS = {values.get('GROUPS', 'F')}; random "
            "groups and negative heaps are not read",
        )
    nbytes = (math.prod(axes) + pcount) * abs(bitpix) // 8 if axes else 0
    extension = values.get("XTENSION", "IMAGE").upper()
    shape, image_bytes, kind = axes[::-1], 0, "other"
    if extension == "IMAGE":
        kind, image_bytes = "image", math.prod(axes) * abs(bitpix) // 8 if axes else 0
    elif extension == "BINTABLE":
        _check_table(header, bitpix, axes)
        kind, shape = "table", axes[1:]
        if values.get("ZIMAGE") == "T":
            kind = "compressed"
            shape, image_bytes = _compressed(header, rows=axes[1])
    name, version = values.get("EXTNAME", "").upper(), header.integer("EXTVER", 1)
    return Hdu(header.index, name, version, kind, shape, image_bytes, offset, nbytes, values)


def _check_table(header: _Header, bitpix: int, axes: tuple[int, ...]) -> None:
    """Check that the columns of a binary table fill its rows."""
    if bitpix != 8 or len(axes) != 2:
        raise header.wrong(f"a table needs BITPIX 8 and 2 axes; found {bitpix} and {axes}")
    fields = header.integer("TFIELDS")
    if not 0 <= fields <= 999:
        raise header.wrong(f"TFIELDS = {fields}; allowed are 0 to 999")
    width = 0
    for i in range(1, fields + 1):
        text = header.values.get(f"TFORM{i}", "")
        form = re.match(r"(\d{0,12})([LXBIJKAEDCMPQ])", text)
        if form is None:
            raise header.wrong(f"TFORM{i} = {text!r} is no column format")
        width += -(-int(form[1] or 1) * _BITS[form[2]] // 8)
    if width != axes[0]:
        raise header.wrong(
            f"the columns take {width} bytes a row, but the header says NAXIS1 = {axes[0]}"
        )
    rows = axes[0] * axes[1]
    heap = header.integer("THEAP", rows)
    if not rows <= heap <= rows + header.integer("PCOUNT", 0):
        raise header.wrong(f"THEAP = {heap} is not between the rows and the end of the table")


def _compressed(header: _Header, rows: int) -> tuple[tuple[int, ...], int]:
    """Return shape and size of a tile-compressed image, after decoding."""
    codec = header.values.get("ZCMPTYPE", "")
    if codec not in _CODECS:
        raise header.wrong(f"ZCMPTYPE = {codec!r}; allowed are {', '.join(_CODECS)}")
    axes, bitpix = header.axes("ZNAXIS", least=1), header.bitpix("ZBITPIX")
    default = (axes[0], *([1] * (len(axes) - 1))) if axes else ()
    tile = tuple(header.integer(f"ZTILE{i + 1}", n) for i, n in enumerate(default))
    if not axes or any(n < 1 for n in tile):
        raise header.wrong(f"an image of shape {axes} in tiles of {tile} makes no sense")
    tiles = math.prod(-(-n // t) for n, t in zip(axes, tile, strict=True))
    if tiles != rows:
        raise header.wrong(
            f"an image of {axes} in tiles of {tile} has {tiles} tiles; the table has {rows} rows"
        )
    nbytes = math.prod(axes) * abs(bitpix) // 8
    # A tile may reach over the edge, but a decoder makes room for all of it.
    return axes[::-1], max(nbytes, math.prod(tile) * abs(bitpix) // 8)
