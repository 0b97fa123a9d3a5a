"""Read images of FITS files as plain arrays, compressed ones in a process of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.surveys.fits import child
from omnisky.surveys.fits.headers import FitsLimits, Hdu
from omnisky.surveys.fits.opening import DAMAGED, CheckedFile, checked, open_fits, quiet
from omnisky.surveys.fits.values import in_units, whole_number

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["image_of", "images_of", "images_of_files"]

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
    asked = [(known, hdu) for hdu in _images(known, extensions, limits, trusted)]
    return _decoded(asked, limits, trusted, rows)


def images_of_files(
    wanted: Sequence[tuple[str | os.PathLike, Sequence[int | str]]],
    *,
    limits: FitsLimits | None = None,
    trusted: bool = False,
) -> list[list[np.ndarray]]:
    """Return the pixels of image HDUs of several files, decoded by one child process for all.

    Parameters
    ----------
    wanted : sequence of (path, sequence of int or str)
        Files, and numbers or names of HDUs in each.
    limits, trusted
        As in `images_of`.

    Returns
    -------
    list of list of array
        Images of each file.

    Raises
    ------
    FileNotFoundError, ValueError
        As `images_of` does.
    """
    limits = limits or FitsLimits()
    with ExitStack() as stack:
        asked: list[tuple[CheckedFile, Hdu]] = []
        for path, extensions in wanted:
            opened = stack.enter_context(open_fits(path, limits=limits, trusted=trusted))
            known = checked(opened)
            asked += [(known, hdu) for hdu in _images(known, extensions, limits, trusted)]
        images = iter(_decoded(asked, limits, trusted, slice(None)))
        return [[next(images) for _ in extensions] for _, extensions in wanted]


def _images(
    known: CheckedFile, extensions: Sequence[int | str], limits: FitsLimits, trusted: bool
) -> list[Hdu]:
    """Return HDUs, each an image within the limits."""
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
    return hdus


def _decoded(
    asked: Sequence[tuple[CheckedFile, Hdu]], limits: FitsLimits, trusted: bool, rows: slice
) -> list[np.ndarray]:
    """Read or decode images, of one file or several."""
    packed = [(known, hdu) for known, hdu in asked if hdu.kind == "compressed"]
    if trusted:
        found = {(known.plain, hdu.index): _decode_here(hdu, known) for known, hdu in packed}
    else:
        found = _decode_apart(packed, limits) if packed else {}
    return [
        found[known.plain, hdu.index][rows]
        if (known.plain, hdu.index) in found
        else _read(hdu, known, rows)
        for known, hdu in asked
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
            # It is not mapped: a copy is needed for another byte order alone.
            data = np.asarray(data, dtype=data.dtype.newbyteorder("="))
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
    images: Sequence[tuple[CheckedFile, Hdu]], limits: FitsLimits
) -> dict[tuple[str, int], np.ndarray]:
    """Decode compressed images in a child process, by file and number of HDU."""
    once = {(known.plain, hdu.index): (known, hdu) for known, hdu in images}
    with tempfile.TemporaryDirectory(prefix="omnisky-") as folder:
        targets = {key: os.path.join(folder, f"{i}.raw") for i, key in enumerate(once)}
        seconds = limits.max_seconds * len(targets)
        job = {
            "memory_bytes": limits.max_memory_bytes,
            "seconds": seconds,
            "images": [(*key, target) for key, target in targets.items()],
        }
        answers, ended = _run_child(job, seconds)
        found = {}
        for position, (key, (known, hdu)) in enumerate(once.items()):
            answer = answers[position] if position < len(answers) else {"error": ended}
            if "error" in answer:
                raise ValueError(
                    f"{known.path}, {hdu.title}: decoding failed: {answer['error']}. {DAMAGED}"
                )
            shape: Any = answer["shape"]
            data = np.fromfile(targets[key], dtype=np.dtype(answer["dtype"]))
            os.unlink(targets[key])  # so that file and array do not take space together for long
            if data.size == math.prod(shape):
                data = data.reshape(shape)
            found[key] = _as_declared(data, hdu, known)
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
