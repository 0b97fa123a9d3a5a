"""Read scenes of HSC images that were saved as NumPy archives, without positions on the sky."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from omnisky.modalities import Image
from omnisky.surveys.coadds import Coadd, windows
from omnisky.surveys.hsc.declarations import PIXEL_SCALE_ARCSEC, ZERO_POINT

__all__ = ["psf_fwhm_arcsec", "read_scene"]

# The archives do not name the planes of their masks. These three have the same numbers in every
# release of the pipeline; from bit 9 on they differ.
_BAD_BITS = 1 << 0 | 1 << 1 | 1 << 8  # BAD, SAT, NO_DATA
_LIMIT_BYTES = 2 * 2**30
_FINE = 8


def read_scene(
    path: str | os.PathLike, *, size: int | None = None, zero_point: float = ZERO_POINT
) -> Image:
    """Read a scene: images in some bands, with the PSF and, where there are, variance and mask.

    Parameters
    ----------
    path : path
        An ``.npz`` archive of ``images`` (band, y, x) and ``filters``, with ``psfs``, ``variance``,
        ``mask`` and ``catalog`` (columns x and y, pixels from 0) where there are.
    size : int, optional
        Side of a cut-out around each source of the catalogue. Without it, the whole scene is the
        only object.
    zero_point : float
        AB magnitude of one count.

    Returns
    -------
    Image
        In nanomaggies a pixel. Archives have no world coordinates, so these are no `SkyObjects`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the archive is damaged, holds Python objects, or arrays that do not fit together.
    """
    arrays = _arrays(path)
    images, bands = arrays["images"], tuple(str(name) for name in arrays["filters"])
    if images.ndim != 3 or len(images) != len(bands):
        raise ValueError(
            f"{path}: expected images of shape (band, y, x) for the {len(bands)} filters "
            f"{', '.join(bands)}; found {images.shape}. It is another kind of archive"
        )
    corners, offsets = np.zeros((1, 2), dtype=np.int64), np.zeros((1, 2), dtype=np.float32)
    shape: tuple[int, ...] = images.shape[1:]
    if size is not None:
        x, y = _positions(arrays, path)
        corners, offsets = windows(x, y, size)
        shape = (size, size)
    flux = np.empty((len(corners), len(bands), *shape), dtype=np.float32)
    ivar, mask = np.empty_like(flux), np.empty(flux.shape, dtype=bool)
    for number in range(len(bands)):
        planes = {
            name: arrays[given][number]
            for name, given in (("noise", "variance"), ("flags", "mask"))
            if given in arrays
        }
        coadd = Coadd(
            where=f"{path}, band {bands[number]}",
            header=None,
            flux=images[number],
            noise_is_variance=True,
            bad_bits=_BAD_BITS,
            scale=float(10 ** (0.4 * (22.5 - zero_point))),
            **planes,
        )
        coadd.cut(corners, flux[:, number], ivar[:, number], mask[:, number])
    widths = np.zeros(len(bands))
    if "psfs" in arrays:
        widths = np.array([psf_fwhm_arcsec(psf) for psf in arrays["psfs"]])
    psf = np.broadcast_to(widths, flux.shape[:2])
    return Image(flux, ivar, mask, bands, PIXEL_SCALE_ARCSEC, psf, offsets)


def _positions(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> list[np.ndarray]:
    catalog = arrays.get("catalog")
    if catalog is None or not {"x", "y"} <= set(catalog.dtype.names or ()):
        raise ValueError(
            f"{path} has no catalog with the columns x and y, so there is nothing to cut out; read "
            "the whole scene, without a size"
        )
    return [np.asarray(catalog[axis], dtype=np.float64) for axis in "xy"]


def _arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the arrays of an archive, none of which needs Python objects."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    remedy = "Save plain numbers and text, without dtype=object"
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    dtype, nbytes = _declared(file)
                if dtype.hasobject:
                    raise ValueError(
                        f"{member.filename} holds Python objects, which are never loaded: they "
                        f"could run any program. {remedy}"
                    )
                if nbytes > min(member.file_size, _LIMIT_BYTES):
                    raise ValueError(
                        f"{member.filename} declares {nbytes} bytes; the archive has "
                        f"{member.file_size}, allowed are {_LIMIT_BYTES}"
                    )
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as an archive of arrays: {error}") from error
    if not {"images", "filters"} <= set(arrays):
        raise ValueError(
            f"{path}: expected the arrays images and filters; found {', '.join(arrays)}. It is "
            "another kind of archive"
        )
    return arrays


def _declared(file) -> tuple[np.dtype, int]:
    """Return type and size of an array, as its header declares them."""
    version = np.lib.format.read_magic(file)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise ValueError(f"an array of format {version}; known are {', '.join(map(str, headers))}")
    shape, _, dtype = headers[version](file)
    count = 1
    for length in shape:
        count *= int(length)
    return dtype, count * dtype.itemsize


def psf_fwhm_arcsec(psf: np.ndarray, pixel_scale_arcsec: float = PIXEL_SCALE_ARCSEC) -> float:
    """Return the full width at half maximum of a point-spread function.

    Parameters
    ----------
    psf : array, shape (y, x)
        Its image, in any unit.
    pixel_scale_arcsec : float
        Side of a pixel.

    Returns
    -------
    float
        Diameter of the circle that has the area above half of the maximum, on pixels eight times
        finer (cubic splines); 0 if the image is not positive anywhere.
    """
    from scipy.ndimage import zoom

    pixels = np.asarray(psf, dtype=np.float64)
    if pixels.ndim != 2 or not np.isfinite(pixels).all():
        raise ValueError(
            f"a point-spread function must be a finite image, shape (y, x); found shape "
            f"{pixels.shape}"
        )
    fine = zoom(pixels, _FINE, order=3, grid_mode=True, mode="grid-constant")
    if fine.max() <= 0:
        return 0.0
    area = np.count_nonzero(fine > fine.max() / 2) / _FINE**2
    return float(2.0 * np.sqrt(area / np.pi) * pixel_scale_arcsec)
