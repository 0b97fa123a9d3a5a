"""Rows of heavy columns as bytes, and back.

============  ==========================================================  =====================
codec         bytes of a row                                              error
============  ==========================================================  =====================
``raw``       the values, little-endian                                   none
``lossless``  bitshuffled, LZ4                                            none
``q16``       int16 steps of sigma / 16, bitshuffled, LZ4 (for a flux)    at most sigma / 32
``log16``     int16 steps of 1/256 octave, LZ4 (for ivar and lsf)         at most 0.14 %
``bits``      packed bits, LZ4 (for masks)                                none
============  ==========================================================  =====================

Sigma is that of the same pixel, from the inverse variances as given. A step serves a block of 128
values; it follows the smallest sigma in it. Pixels without inverse variance follow those that have
one. A row that a codec cannot hold within its error (NaN, a range beyond int16, no inverse variance
at all) is stored lossless: the first byte of each coded row says how it is coded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import TypeAlias

import numpy as np

__all__ = ["CODECS", "decode_rows", "default_codec", "encode_rows"]

CODECS = ("raw", "lossless", "q16", "log16", "bits")
_LOSSLESS, _Q16, _LOG16, _BITS = range(4)
_BLOCK = 128
# A step is a little smaller than sigma / 16, so that float32 rounding stays within sigma / 32.
_STEP = (1 - 2.0**-9) / 16
_LEVELS = 256  # steps of log16 an octave
_ZERO = -32768  # log16: no inverse variance
_TINY = float(np.finfo(np.float32).tiny)

Buffer: TypeAlias = "bytes | memoryview | np.ndarray"

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("the sky store is little-endian and was not made for this machine")


@cache
def _blosc():
    try:
        from numcodecs import blosc
    except ImportError as error:
        raise ImportError(
            "coded columns of a sky store need numcodecs: pip install 'omnisky[data]'"
        ) from error
    return blosc


def default_codec(codec: str, part: str, has_ivar: bool) -> str:
    """Return what a codec asked for a modality means for one of its columns.

    Parameters
    ----------
    codec : str
        Codec of the modality: raw, lossless or q16.
    part : str
        Part of the modality that the column holds.
    has_ivar : bool
        Whether the modality has inverse variances.
    """
    if codec == "raw" or part in ("psf_fwhm", "offset"):
        return "raw"
    if part == "mask":
        return "bits"
    if codec == "q16" and part in ("flux", "value"):
        return "q16" if has_ivar else "lossless"
    return "log16" if codec == "q16" and part in ("ivar", "lsf") else "lossless"


def encode_rows(codec: str, rows: np.ndarray, ivar: np.ndarray | None = None) -> list[bytes]:
    """Code rows, each on its own.

    Parameters
    ----------
    codec : str
        One of `CODECS`, but not raw.
    rows : array, shape (row, ...)
        Values.
    ivar : array, shape (row, ...), optional
        Inverse variances, for q16.

    Returns
    -------
    list of bytes
        One item a row.
    """
    rows = rows.reshape(len(rows), -1)
    if codec == "q16":
        if ivar is None:
            raise ValueError("codec q16 needs inverse variances; use lossless without them")
        return [_encode_q16(r, i) for r, i in zip(rows, ivar.reshape(rows.shape), strict=True)]
    encode: dict[str, Callable[[np.ndarray], bytes]] = {
        "lossless": _encode_lossless,
        "log16": _encode_log16,
        "bits": _encode_bits,
    }
    if codec not in encode:
        raise ValueError(f"no codec {codec!r} to code with; allowed are {', '.join(CODECS[1:])}")
    return [encode[codec](row) for row in rows]


def decode_rows(codec: str, buffers: Sequence[Buffer], out: np.ndarray) -> None:
    """Decode rows into an array.

    Parameters
    ----------
    codec : str
        How they were coded.
    buffers : sequence of bytes-like
        One item a row.
    out : array, shape (row, ...)
        Where to; C-contiguous rows of the column's type.

    Raises
    ------
    ValueError
        If a row is damaged or does not fit the column; it says which.
    """
    if len(buffers) != len(out):
        raise ValueError(f"{len(buffers)} coded rows for {len(out)} rows of output")
    width = prod(out.shape[1:])
    for number, buffer in enumerate(buffers):
        target = out[number].reshape(width)
        try:
            if codec == "raw":
                target.view(np.uint8)[:] = np.frombuffer(buffer, np.uint8)
            else:
                # What a damaged row decodes to need not fit.
                with np.errstate(all="ignore"):
                    _decode(memoryview(buffer), target)  # pyright: ignore[reportArgumentType]
        except (ValueError, RuntimeError, IndexError) as error:
            raise ValueError(
                f"coded row {number} of {len(out)} is damaged or of another shape than "
                f"{out.shape[1:]}: {error}. Run verify on the store"
            ) from error


def _compress(array: np.ndarray) -> bytes:
    blosc = _blosc()
    return blosc.compress(np.ascontiguousarray(array), b"lz4", 5, blosc.BITSHUFFLE)


def _encode_lossless(row: np.ndarray) -> bytes:
    return bytes([_LOSSLESS]) + _compress(row)


def _encode_bits(row: np.ndarray) -> bytes:
    return bytes([_BITS]) + _compress(np.packbits(row, bitorder="little"))


def _blocks(row: np.ndarray, fill: float) -> np.ndarray:
    """Return a row as float64 blocks, the last one filled up."""
    padded = np.full(-(-row.size // _BLOCK) * _BLOCK, fill)
    padded[: row.size] = row
    return padded.reshape(-1, _BLOCK)


def _encode_q16(row: np.ndarray, ivar: np.ndarray) -> bytes:
    usable = np.isfinite(row).all() and np.isfinite(ivar).all() and (ivar > 0).any()
    if row.dtype != np.float32 or not usable:
        return _encode_lossless(row)
    values, weights = _blocks(row, 0.0), _blocks(ivar, 0.0)
    best = weights.max(axis=1, keepdims=True)
    # A block without any inverse variance is stored as finely as the finest one.
    best[best <= 0] = best.max()
    step = (_STEP / np.sqrt(best)).astype(np.float32)
    if step.min() < _TINY or not np.isfinite(step).all():
        return _encode_lossless(row)
    codes = np.rint(values / step)
    if np.abs(codes).max() > 32767:
        return _encode_lossless(row)
    codes = codes.astype(np.int16)
    # Not trusted but tried: float32 has a word in it as well.
    error = np.abs((codes * step).astype(np.float64) - values)
    if (error * np.sqrt(weights) > 1 / 32).any():
        return _encode_lossless(row)
    steps = _compress(step)
    head = bytes([_Q16]) + len(steps).to_bytes(4, "little")
    return head + steps + _compress(codes.reshape(-1)[: row.size])


def _encode_log16(row: np.ndarray) -> bytes:
    known = row > 0
    if not np.isfinite(row).all() or (row < 0).any() or not known.any():
        return _encode_lossless(row)
    octave = np.log2(np.where(known, row, 1).astype(np.float64))
    low, high = octave[known].min(), octave[known].max()
    # Of float32 values only those near its ends need a bias: bias 0 decodes by table alone.
    bias = 0 if max(-low, high) < 126 else round((low + high) / 2)
    if high - low >= 252:
        return _encode_lossless(row)
    codes = np.where(known, np.rint((octave - bias) * _LEVELS), _ZERO).astype(np.int16)
    return bytes([_LOG16]) + bias.to_bytes(4, "little", signed=True) + _compress(codes)


@cache
def _powers(dtype: str) -> np.ndarray:
    """Return the value of each log16 code, by its bits as uint16."""
    codes = np.arange(65536, dtype=np.uint16).view(np.int16)
    values = np.exp2(codes / _LEVELS)
    values[codes == _ZERO] = 0
    return values.astype(dtype)


def _expand(frame: memoryview, dtype: str, size: int) -> np.ndarray:
    """Decompress so many values; a frame of any other size is refused before it is opened."""
    held, length = (int.from_bytes(frame[at : at + 4], "little") for at in (4, 12))
    wanted = size * np.dtype(dtype).itemsize
    if held != wanted or length != len(frame):
        raise ValueError(
            f"it holds {held} bytes in {len(frame)} of {length}; expected {wanted} bytes"
        )
    out = np.empty(size, dtype)
    _blosc().decompress(frame, out)
    return out


def _decode(buffer: memoryview, target: np.ndarray) -> None:
    tag, body = buffer[0], buffer[1:]
    if tag == _LOSSLESS:
        target[:] = _expand(body, target.dtype.str, target.size)
    elif tag == _BITS:
        packed = _expand(body, "|u1", -(-target.size // 8))
        bits = np.unpackbits(packed, count=target.size, bitorder="little")
        target[:] = bits.view(bool)
    elif tag == _Q16:
        length = int.from_bytes(body[:4], "little")
        steps = _expand(body[4 : 4 + length], "<f4", -(-target.size // _BLOCK))
        codes = _expand(body[4 + length :], "<i2", target.size)
        whole = target.size // _BLOCK * _BLOCK
        np.multiply(
            codes[:whole].reshape(-1, _BLOCK),
            steps[: whole // _BLOCK, None],
            out=target[:whole].reshape(-1, _BLOCK),
        )
        if whole < target.size:
            np.multiply(codes[whole:], steps[-1], out=target[whole:])
    elif tag == _LOG16:
        codes = _expand(body[4:], "<i2", target.size)
        np.take(_powers(target.dtype.str), codes.view(np.uint16), out=target, mode="wrap")
        bias = int.from_bytes(body[:4], "little", signed=True)
        if bias:
            np.ldexp(target, bias, out=target)
    else:
        raise ValueError(f"it starts with {tag}, which is no codec")
