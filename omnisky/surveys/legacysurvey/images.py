"""Read bricks and viewer cut-outs of the Legacy Surveys."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omnisky.modalities import SkyObjects
from omnisky.surveys.catalog import paths_of
from omnisky.surveys.coadds import (
    Brick,
    Coadd,
    Stamp,
    Wanted,
    first_image,
    objects_of,
    planes_of,
    scale_of,
    wcs_of,
)
from omnisky.surveys.fits import images_of, open_fits
from omnisky.surveys.legacysurvey.declarations import PIXEL_SCALE_ARCSEC
from omnisky.surveys.survey import Problems

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["BAD_BITS", "find_bricks", "read_cutouts"]

_FILE = re.compile(
    r"legacysurvey-(?P<brick>[^-]+)-(?P<plane>image|invvar|psfsize|maskbits)(-(?P<band>[a-zA-Z]))?"
    r"\.fits(?P<packed>\.fz|\.gz)?"
)
_BRICK_NAME = re.compile(r"(\d{4})([pm])(\d{3})")
# Half the diagonal of 3600 pixels, and what names leave out: tenths of a degree, cut off.
_NAME_ERROR_DEG = 0.1853 + 0.15
# Bits of the maskbits plane that make a pixel bad, by band: saturated, or masked in all exposures.
# Not NPRIMARY: beyond the primary area of a brick its pixels are as good as its neighbour's.
BAD_BITS = {"g": (2, 5), "r": (3, 6), "z": (4, 7), "i": (14, 15)}
_Files = Mapping[tuple[str, str], Path]
_Bits = Mapping[str, Sequence[int]]


def find_bricks(
    folder: str | os.PathLike, *, bad_bits: Mapping[str, Sequence[int]] = BAD_BITS
) -> dict[str, Brick]:
    """Return the bricks of which a folder, or one below it, holds images.

    Parameters
    ----------
    folder : path
        Holds ``legacysurvey-<brick>-image-<band>.fits[.fz|.gz]``, ``...-invvar-...`` and, where
        there are any, ``...-maskbits...`` and ``...-psfsize-...``. Where a plane is there plain and
        compressed, the plain file is taken.
    bad_bits : mapping of str to sequence of int
        By band, bits of the maskbits plane that make a pixel bad.

    Returns
    -------
    dict of str to Brick
        By the name of the brick.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds no image, or a plane of one brick twice.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    found: dict[str, dict[tuple[str, str], Path]] = {}
    for path in sorted(Path(folder).rglob("legacysurvey-*.fits*")):
        if match := _FILE.fullmatch(path.name):
            files = found.setdefault(match["brick"], {})
            key = match["plane"], match["band"] or ""
            known = files.get(key)
            if known is not None and known.parent != path.parent:
                raise ValueError(
                    f"brick {match['brick']} has its {match['plane']} twice, as {known} and "
                    f"{path}. North and south overlap: give one of these folders"
                )
            if known is None or not match["packed"]:
                files[key] = path
    bricks = {name: _brick(name, files, bad_bits) for name, files in found.items()}
    bricks = {name: brick for name, brick in bricks.items() if brick.headers}
    if not bricks:
        raise ValueError(
            f"{folder} holds no brick; expected legacysurvey-<brick>-image-<band>.fits.fz in it or "
            "below. Give the folder of the co-added images"
        )
    return bricks


def _brick(name: str, files: _Files, bad_bits: _Bits) -> Brick:
    images = {band: path for (plane, band), path in files.items() if plane == "image"}
    centre = None
    if match := _BRICK_NAME.fullmatch(name):
        sign = -1.0 if match[2] == "m" else 1.0
        centre = int(match[1]) / 10, sign * int(match[3]) / 10
    return Brick(
        name=name,
        headers=images,
        open=partial(_open, name, files, bad_bits),
        centre_deg=centre,
        centre_error_deg=_NAME_ERROR_DEG,
    )


def _open(
    name: str, files: _Files, bad_bits: _Bits, bands: Sequence[str], wanted: Wanted
) -> dict[str, Coadd]:
    """Open the planes of some bands."""
    keys = [("image", band) for band in bands]
    keys += [("invvar", band) for band in bands if wanted.noise]
    keys += [("psfsize", band) for band in bands if wanted.psf and ("psfsize", band) in files]
    keys += [("maskbits", "")] if ("maskbits", "") in files else []
    for plane, band in keys:
        if (plane, band) not in files:
            raise ValueError(
                f"{files['image', band]} has no legacysurvey-{name}-{plane}-{band} beside it; "
                "inverse variances tell good pixels from bad ones. Fetch that file as well, or "
                "read without noise"
            )
    headers = {key: first_image(files[key], trusted=wanted.trusted) for key in keys}
    read = planes_of([(files[k], [headers[k][1]]) for k in keys], trusted=wanted.trusted)
    planes = {key: plane for key, (plane,) in zip(keys, read, strict=True)}
    opened: dict[str, Coadd] = {}
    for band in bands:
        header, path = headers["image", band][0], files["image", band]
        _check_unit(header, path)
        opened[band] = Coadd(
            where=str(path),
            header=header,
            flux=planes["image", band],
            noise=planes.get(("invvar", band)),
            flags=planes.get(("maskbits", "")),
            bad_bits=sum(1 << bit for bit in bad_bits.get(band, ())),
            psf_fwhm_arcsec=planes.get(("psfsize", band)),
        )
    return opened


def _check_unit(header: Header, path: str | os.PathLike) -> None:
    unit, zero = header.get("BUNIT", "nanomaggy"), header.get("MAGZERO", 22.5)
    if str(unit).strip().lower() not in ("nanomaggy", "nanomaggies", "nmgy") or zero != 22.5:
        raise ValueError(
            f"{path}: BUNIT = {unit!r}, MAGZERO = {zero!r}; expected nanomaggies, zero point 22.5. "
            "The file is no co-added image of the Legacy Surveys, or was changed"
        )


def read_cutouts(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    problems: Problems | None = None,
    batch_size: int = 64,
    trusted: bool = False,
) -> Iterator[SkyObjects]:
    """Read FITS cut-outs as the Legacy Survey viewer delivers them, one object a file.

    Parameters
    ----------
    paths : path or sequence of paths
        FITS cubes of shape (band, y, x) with ``BANDS``.
    problems : Problems, optional
        Takes files that cannot be read; without it the first one is raised.
    batch_size : int
        Files a batch, at most.
    trusted : bool
        Whether the limits for files from outside do not apply.

    Yields
    ------
    SkyObjects
        One batch for each run of files of the same size, bands and pixel scale. The object is the
        centre of the cut-out, its identifier the name of the file. The viewer gives no errors
        unless asked (a second image with ``IMAGETYP`` INVVAR); pixels of exactly zero hold no data.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is damaged, incomplete or no such cut-out.

    Notes
    -----
    The viewer interpolates to the pixel scale it is asked for and leaves the values as they are,
    nanomaggies in a native pixel of 0.262 arcsec: the noise does not change with the scale. Here
    they are converted to nanomaggies a pixel of the file.
    """
    problems = problems if problems is not None else Problems()
    return objects_of(_stamps(paths_of(paths), problems, trusted), "legacysurvey", batch_size)


def _stamps(
    paths: Sequence[str | os.PathLike], problems: Problems, trusted: bool
) -> Iterator[Stamp]:
    for path in paths:
        with problems.whole_file(path):
            yield _stamp(path, trusted)


def _stamp(path: str | os.PathLike, trusted: bool) -> Stamp:
    """Read one cut-out of the viewer."""
    with open_fits(path, trusted=trusted) as opened:
        header = opened[0].header.copy()
        kinds = [str(hdu.header.get("IMAGETYP", "image")).strip().lower() for hdu in opened]
        bands = tuple(str(header.get("BANDS", "")).strip())
        shape = header.get("NAXIS", 0), header.get("NAXIS3", 1)
        if not bands or shape not in ((3, len(bands)), (2, len(bands))):
            raise ValueError(
                f"{path}: expected a cube of one image a band, with the bands in BANDS; found "
                f"BANDS = {header.get('BANDS')!r} and {shape[0]} axes, {shape[1]} images. It is no "
                "cut-out of the Legacy Survey viewer"
            )
        wanted = [0, *(number for number, kind in enumerate(kinds) if kind == "invvar")][:2]
        planes = images_of(opened, wanted, trusted=trusted)
    planes = [plane.reshape(len(bands), *plane.shape[-2:]) for plane in planes]
    wcs = wcs_of(header, path)
    # The values belong to native pixels, whatever the size of these (see read_cutouts).
    scale = (scale_of(wcs) / PIXEL_SCALE_ARCSEC) ** 2
    shape = planes[0].shape
    flux, ivar = (np.empty(shape, dtype=np.float32) for _ in range(2))
    mask = np.empty(shape, dtype=bool)
    for band, pixels in enumerate(planes[0]):
        noise = planes[1][band] if len(planes) > 1 else None
        coadd = Coadd(where=str(path), header=header, flux=pixels, noise=noise, scale=scale)
        coadd.cut_all(flux[band], ivar[band], mask[band])
    middle = [(side - 1) / 2 for side in (shape[2], shape[1])]
    ra, dec = (float(value) for value in wcs.all_pix2world(*middle, 0))
    return Stamp(
        name=Path(path).name.partition(".")[0],
        ra_deg=ra % 360.0,
        dec_deg=dec,
        flux=flux,
        ivar=ivar,
        mask=mask,
        bands=bands,
        pixel_scale_arcsec=scale_of(wcs),
        psf_fwhm_arcsec=np.zeros(len(bands)),
    )
