"""Read images of FITS files as plain arrays, compressed ones in a process of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.surveys.fits import child
from omnisky.surveys.fits.headers import FitsLimits, Hdu
from omnisky.surveys.fits.opening import DAMAGED, CheckedFile, checked, open_fits, quiet
from omnisky.surveys.fits.values import in_units, whole_number

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["image_of", "images_of"]

_SCRIPT = child.__file__
_DTYPES = ("uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64")


def image_of(
    source: str | os.PathLike | HDUList,
    extension: int | str,
    *,
    limits: FitsLimits | None = None,
    trusted: bool = False,
    rows: slice = slice(None),
) -> np.ndarray:
    """Return the pixels of one image HDU; see `images_of`."""
    return images_of(source, [extension], limits=limits, trusted=trusted, rows=rows)[0]


def images_of(
    source: str | os.PathLike | HDUList,
    extensions: Sequence[int | str],
    *,
    limits: FitsLimits | None = None,
    trusted: bool = False,
    rows: slice = slice(None),
) -> list[np.ndarray]:
    """Return the pixels of several image HDUs of one file.

    Parameters
    ----------
    source : path or HDUList
        A file, or what `open_fits` gave.
    extensions : sequence of int or str
        Numbers or names of HDUs.
    limits : FitsLimits, optional
        What the file may ask for, and what the decoder may use.
    trusted : bool
        Whether tile-compressed images are decoded in this process, which a bug in a decoder can
        take down, and without limits. Otherwise one child process decodes all that are asked for.
    rows : slice
        Part of the first axis to return. Of images that are not compressed only this is read.

    Returns
    -------
    list of array
        In native byte order, scaled as the header says; copies, valid when the file is closed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If an HDU is not there, is no image, is damaged, or its decoding failed.
    """
    if isinstance(source, (str, os.PathLike)):
        with open_fits(source, limits=limits, trusted=trusted) as opened:
            return images_of(opened, extensions, limits=limits, trusted=trusted, rows=rows)
    known = checked(source)
    limits = limits or known.limits
    hdus = [known.find(extension) for extension in extensions]
    for hdu in hdus:
        if hdu.kind not in ("image", "compressed") or not hdu.shape:
            raise ValueError(
                f"{known.path}, {hdu.title}: expected an image; found {hdu.kind} of shape "
                f"{hdu.shape}. It is another kind of file, or incomplete"
            )
        if not trusted and hdu.image_bytes > limits.max_image_bytes:
            raise ValueError(
                f"{known.path}, {hdu.title}: the image takes {hdu.image_bytes} bytes; allowed "
                f"are {limits.max_image_bytes}. Raise FitsLimits.max_image_bytes"
            )
    packed = [hdu for hdu in hdus if hdu.kind == "compressed"]
    if trusted:
        decoded = {hdu.index: _decode_here(hdu, known) for hdu in packed}
    else:
        decoded = _decode_apart(known, packed, limits) if packed else {}
    return [
        decoded[hdu.index][rows] if hdu.index in decoded else _read(hdu, known, rows)
        for hdu in hdus
    ]


def _read(hdu: Hdu, known: CheckedFile, rows: slice) -> np.ndarray:
    """Read a plain image straight from the bytes of the file, and no more than these rows."""
    bits = int(hdu.cards["BITPIX"])
    dtype = np.dtype("u1" if bits == 8 else f">{'f' if bits < 0 else 'i'}{abs(bits) // 8}")
    try:
        if hdu.image_bytes:
            stored = np.memmap(known.plain, dtype, mode="r", offset=hdu.offset, shape=hdu.shape)
        else:
            stored = np.empty(hdu.shape, dtype)
        stored = np.array(stored[rows])
        values = in_units(stored, hdu.cards.get("BSCALE", ""), hdu.cards.get("BZERO", ""))
        if "BLANK" in hdu.cards and bits > 0:
            blank = stored == whole_number(hdu.cards["BLANK"])
            values = values.astype(np.float32 if bits < 32 else np.float64)
            values[blank] = np.nan
    except (ValueError, OSError) as error:
        raise ValueError(f"{known.path}, {hdu.title}: {error}. {DAMAGED}") from error
    return values


def _decode_here(hdu: Hdu, known: CheckedFile) -> np.ndarray:
    """Decode a compressed image of a trusted file in this process."""
    from astropy.io import fits

    try:
        with quiet(), fits.open(known.plain, memmap=False) as opened:
            data = np.asarray(opened[hdu.index].data)
            data = np.array(data, dtype=data.dtype.newbyteorder("="))
    except Exception as error:  # astropy raises many kinds
        raise ValueError(f"{known.path}, {hdu.title}: {error}. {DAMAGED}") from error
    return _as_declared(data, hdu, known)


def _as_declared(data: np.ndarray, hdu: Hdu, known: CheckedFile) -> np.ndarray:
    if data.shape != hdu.shape or data.dtype.name not in _DTYPES:
        raise ValueError(
            f"{known.path}, {hdu.title}: the header declares shape {hdu.shape}; found "
            f"{data.shape} of {data.dtype}. {DAMAGED}"
        )
    return data


def _decode_apart(
    known: CheckedFile, hdus: Sequence[Hdu], limits: FitsLimits
) -> dict[int, np.ndarray]:
    """Decode compressed images in a child process, by number of HDU."""
    with tempfile.TemporaryDirectory(prefix="omnisky-") as folder:
        targets = {hdu.index: os.path.join(folder, f"{hdu.index}.raw") for hdu in hdus}
        seconds = limits.max_seconds * len(targets)
        job = {
            "memory_bytes": limits.max_memory_bytes,
            "seconds": seconds,
            "images": [(known.plain, index, target) for index, target in targets.items()],
        }
        answers, ended = _run_child(job, seconds)
        found = {}
        for position, hdu in enumerate({hdu.index: hdu for hdu in hdus}.values()):
            answer = answers[position] if position < len(answers) else {"error": ended}
            if "error" in answer:
                raise ValueError(
                    f"{known.path}, {hdu.title}: decoding failed: {answer['error']}. {DAMAGED}"
                )
            shape: Any = answer["shape"]
            data = np.fromfile(targets[hdu.index], dtype=np.dtype(answer["dtype"]))
            if data.size == math.prod(shape):
                data = data.reshape(shape)
            found[hdu.index] = _as_declared(data, hdu, known)
        return found


def _run_child(job: dict[str, Any], seconds: int) -> tuple[list[dict[str, Any]], str]:
    """Run the decoder; return its answers and how it ended."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    # -P: the folder of the script is not searched for modules; it has a fits of its own.
    command = [sys.executable, "-P", _SCRIPT]
    try:
        # Much more than the processor time it may use, for a busy machine.
        done = subprocess.run(
            command,
            input=json.dumps(job).encode(),
            capture_output=True,
            timeout=30 + 4 * seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [], "the decoder did not end in time"
    lines = [line for line in done.stdout.splitlines() if line.endswith(b"}")]
    reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    ended = (
        f"the decoder ended with status {done.returncode}{': ' if reason else ''}{''.join(reason)}"
    )
    return [json.loads(line) for line in lines], ended
