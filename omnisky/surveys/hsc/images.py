"""Read co-added patches and cut-out cubes of HSC-SSP."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.modalities import SkyObjects
from omnisky.surveys.catalog import paths_of
from omnisky.surveys.coadds import (
    Brick,
    Coadd,
    Stamp,
    Wanted,
    objects_of,
    planes_of,
    scale_of,
    wcs_of,
)
from omnisky.surveys.fits import image_of, open_fits
from omnisky.surveys.hsc.declarations import PIXEL_SCALE_ARCSEC, ZERO_POINT
from omnisky.surveys.survey import Problems

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["BAD_PLANES", "find_patches", "nanomaggies_of", "read_cutouts"]

# Planes of the mask that make a pixel bad. DETECTED and the like only say that something is there.
BAD_PLANES = ("BAD", "SAT", "NO_DATA", "UNMASKEDNAN")
_PATCH = re.compile(r"calexp-HSC-([GRIZY])2?-(\d+-\d+,\d+)\.fits(\.fz|\.gz)?")
_CUTOUT = re.compile(r"(\d+)-cutout-HSC-([GRIZY])2?-([^.]+)\.fits(\.fz|\.gz)?")
_NANOMAGGY_JANSKY = 3.631e-6


def find_patches(
    folder: str | os.PathLike, *, bad_planes: Sequence[str] = BAD_PLANES
) -> dict[str, Brick]:
    """Return the patches of which a folder, or one below it, holds images.

    Parameters
    ----------
    folder : path
        Holds ``calexp-HSC-<band>-<tract>-<patch>.fits``, or the answers of the cut-out service,
        ``<number>-cutout-HSC-<band>-<...>.fits``, each with the HDUs image, mask and variance.
    bad_planes : sequence of str
        Planes of the mask, by their names in its header, that make a pixel bad.

    Returns
    -------
    dict of str to Brick
        By ``<tract>-<patch>``, or by number and rest of the name of a cut-out.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds no patch, or one band of a patch twice.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(Path(folder).rglob("*HSC-*.fits*")):
        if match := _PATCH.fullmatch(path.name):
            band, name = match[1].lower(), match[2]
        elif match := _CUTOUT.fullmatch(path.name):
            band, name = match[2].lower(), f"{match[1]}-{match[3]}"
        else:
            continue
        known = found.setdefault(name, {}).setdefault(band, path)
        if known != path:
            raise ValueError(
                f"patch {name} has band {band} twice, as {known} and {path}. Give one of their "
                "folders, or remove one"
            )
    if not found:
        raise ValueError(
            f"{folder} holds no patch; expected calexp-HSC-<band>-<tract>-<patch>.fits in it or "
            "below. Give the folder of the co-added images"
        )
    return {
        name: Brick(name=name, headers=files, open=partial(_open, files, tuple(bad_planes)))
        for name, files in found.items()
    }


def _open(
    files: Mapping[str, Path], bad_planes: Sequence[str], bands: Sequence[str], wanted: Wanted
) -> dict[str, Coadd]:
    """Open image, mask and variance of some bands."""
    headers: dict[str, tuple[Header, ...]] = {}
    jobs = []
    for band in bands:
        with open_fits(files[band], trusted=wanted.trusted) as hdus:
            numbers = _numbers(hdus, files[band])
            headers[band] = tuple(hdus[n].header.copy() for n in (0, *numbers[:2]))
        jobs.append((files[band], numbers if wanted.noise else numbers[:2]))
    opened: dict[str, Coadd] = {}
    for band, planes in zip(bands, planes_of(jobs, trusted=wanted.trusted), strict=True):
        primary, header, mask = headers[band]
        opened[band] = Coadd(
            where=str(files[band]),
            header=header,
            flux=planes[0],
            noise=planes[2] if wanted.noise else None,
            noise_is_variance=True,
            flags=planes[1],
            bad_bits=sum(1 << bit for bit in _bits(mask, bad_planes, files[band])),
            scale=nanomaggies_of(primary, header, files[band]),
        )
    return opened


def _numbers(hdus: Any, path: Path) -> list[int]:
    """Return the numbers of image, mask and variance."""
    wanted = ("IMAGE", "MASK", "VARIANCE")
    images = [n for n, hdu in enumerate(hdus) if hdu.is_image and hdu.header.get("NAXIS") == 2]
    named: dict[str, int] = {}
    for number in images:
        header = hdus[number].header
        name = str(header.get("EXTTYPE", header.get("EXTNAME", ""))).strip().upper()
        named.setdefault(name, number)
    if not set(wanted) <= set(named):
        raise ValueError(
            f"{path}: expected the images IMAGE, MASK and VARIANCE, named by EXTTYPE or EXTNAME; "
            f"found {', '.join(named) or 'none'}. It is no patch of HSC-SSP, or incomplete"
        )
    return [named[name] for name in wanted]


def _bits(header: Header, planes: Sequence[str], path: Path) -> list[int]:
    """Return the bits of mask planes: their numbers differ between releases, their names do not."""
    named = {key[3:]: header[key] for key in header if key.startswith("MP_")}
    wrong = [n for n, bit in named.items() if not (isinstance(bit, int) and 0 <= bit < 64)]
    if not named or wrong:
        raise ValueError(
            f"{path}: the header of the mask must name its planes, MP_<name> = <bit>; found "
            f"{', '.join(f'{n} = {named[n]!r}' for n in wrong) or 'none'}. Fetch the original file"
        )
    return [named[plane] for plane in planes if plane in named]


def nanomaggies_of(primary: Header, image: Header, path: str | os.PathLike) -> float:
    """Return how many nanomaggies one unit of an image is.

    Parameters
    ----------
    primary, image : Header
        Headers of the file and of the image; ``FLUXMAG0`` (counts of magnitude 0) in either, or
        ``BUNIT`` nJy.
    path : path
        The file, for messages.

    Raises
    ------
    ValueError
        If ``FLUXMAG0`` is no positive number. Without either keyword the zero point is 27.
    """
    if str(image.get("BUNIT", "")).strip().lower() == "njy":
        return 1e-9 / _NANOMAGGY_JANSKY
    counts = primary.get("FLUXMAG0", image.get("FLUXMAG0", 10 ** (0.4 * ZERO_POINT)))
    if not (isinstance(counts, (int, float)) and 0 < counts < np.inf):
        raise ValueError(
            f"{path}: FLUXMAG0 = {counts!r}; expected the counts of magnitude 0, about 6.3e10. The "
            "header is damaged: fetch the file again"
        )
    return 1e9 / counts


def read_cutouts(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    bands: Sequence[str],
    zero_point: float = ZERO_POINT,
    problems: Problems | None = None,
    batch_size: int = 64,
    trusted: bool = False,
) -> Iterator[SkyObjects]:
    """Read cut-outs that somebody stacked into one FITS cube an object.

    Parameters
    ----------
    paths : path or sequence of paths
        FITS cubes of shape (band, y, x) with world coordinates, without errors and masks.
    bands : sequence of str
        Bands of the cube, in order: the files do not say.
    zero_point : float
        AB magnitude of one count; the files do not say.
    problems : Problems, optional
        Takes files that cannot be read; without it the first one is raised.
    batch_size : int
        Files a batch, at most.
    trusted : bool
        Whether the limits for files from outside do not apply.

    Yields
    ------
    SkyObjects
        One batch for each run of files of the same size. The object is the centre of the cut-out,
        its identifier the name of the file. Pixels of exactly zero hold no data.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is damaged, or no such cube of HSC pixels.
    """
    problems = problems if problems is not None else Problems()
    factor = float(10 ** (0.4 * (22.5 - zero_point)))
    stamps = _stamps(paths_of(paths), tuple(bands), factor, problems, trusted)
    return objects_of(stamps, "hsc", batch_size)


def _stamps(
    paths: Sequence[str | os.PathLike],
    bands: tuple[str, ...],
    factor: float,
    problems: Problems,
    trusted: bool,
) -> Iterator[Stamp]:
    for path in paths:
        with problems.whole_file(path):
            yield _stamp(path, bands, factor, trusted)


def _stamp(path: str | os.PathLike, bands: tuple[str, ...], factor: float, trusted: bool) -> Stamp:
    with open_fits(path, trusted=trusted) as opened:
        header = opened[0].header.copy()
        wcs, shape = wcs_of(header, path), (header.get("NAXIS"), header.get("NAXIS3"))
        if abs(scale_of(wcs) / PIXEL_SCALE_ARCSEC - 1) > 0.01:
            raise ValueError(
                f"{path}: pixels of {scale_of(wcs):.4g} arcsec; those of HSC have "
                f"{PIXEL_SCALE_ARCSEC}. The file is of another telescope"
            )
        if shape != (3, len(bands)):
            raise ValueError(
                f"{path}: expected a cube of {len(bands)} images, for {', '.join(bands)}; found "
                f"{shape[0]} axes, {shape[1]} images. Say which bands it holds: bands=(...)"
            )
        cube = image_of(opened, 0, trusted=trusted)
    sums = cube.sum(axis=(1, 2), dtype=np.float64)
    if len(bands) > 1 and np.ptp(sums) <= 1e-5 * np.abs(sums).max():
        raise ValueError(
            f"{path}: the images of all bands have the same sum, {sums[0]:.6g}: they were "
            "normalised, so what a count is in nanomaggies is lost. Cut the object out of the "
            "original patches"
        )
    flux, ivar = (np.empty(cube.shape, dtype=np.float32) for _ in range(2))
    mask = np.empty(cube.shape, dtype=bool)
    for number, pixels in enumerate(cube):
        coadd = Coadd(where=str(path), header=header, flux=pixels, scale=factor)
        coadd.cut_all(flux[number], ivar[number], mask[number])
    ra, dec = wcs.all_pix2world((cube.shape[2] - 1) / 2, (cube.shape[1] - 1) / 2, 0)
    return Stamp(
        name=Path(path).name.partition(".")[0],
        ra_deg=float(ra) % 360.0,
        dec_deg=float(dec),
        flux=flux,
        ivar=ivar,
        mask=mask,
        bands=bands,
        pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
        psf_fwhm_arcsec=np.zeros(len(bands)),
    )
