"""Make typed objects of the data sets of the Multimodal Universe.

What its data sets do differently, and what is made of it:

* masks: True is good for images, bad for spectra, where padding is bad too;
* identifiers: text around which ``b'...'`` and blanks may stand;
* wavelengths: Angstrom for each spectrum, -1 in padding, brought to the survey's grid, on which
  the pixels already lie; widths of the line-spread function in pixels;
* HSC images: counts with zero point 27, and a largest float where the variance is zero;
* images were cut one pixel off: the object lies between pixels 78 and 79 of 160, one pixel left of
  and below the centre, to within half a pixel;
* DESI's ZWARN is a bool in version 1.5, True where there is no warning: others are then unknown;
* Gaia positions may have the precision of float32, up to 0.06 arcsec off: a warning says so.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from omnisky.modalities import SkyObjects
from omnisky.surveys.mmu.files import batches, names_of, text
from omnisky.surveys.mmu.typed import COEFFICIENTS, light_columns, objects_of
from omnisky.surveys.survey import Problems, Selection

__all__ = ["SELECTIONS", "read"]

SELECTIONS: dict[str, Selection] = {}

_IMAGE = tuple(f"image.{part}" for part in ("flux", "ivar", "mask", "band", "psf_fwhm", "scale"))
_SPECTRUM = tuple(f"spectrum.{p}" for p in ("flux", "ivar", "mask", "lambda", "lsf_sigma"))
# What stands where one spectrum is shorter than others of its file.
_PADDING = {"spectrum.lambda": -1.0, "spectrum.mask": 1.0}
_HEAVY = {
    "legacysurvey": _IMAGE,
    "hsc": _IMAGE,
    "sdss": _SPECTRUM,
    "desi": _SPECTRUM,
    "gaia": COEFFICIENTS,
}
# A column that only this data set has beside its pixels.
_SIGNS = {
    "legacysurvey": ("FLUX_G", "image.flux"),
    "hsc": ("g_cmodel_mag", "image.flux"),
    "sdss": ("ZWARNING", "spectrum.flux"),
    "desi": ("ZWARN", "spectrum.flux"),
    "gaia": ("spectral_coefficients.coeff",),
}


def read(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    dataset: str | None = None,
    selection: str | Selection | Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None,
    problems: Problems | None = None,
    batch_size: int = 256,
) -> Iterator[SkyObjects]:
    """Read files of the Multimodal Universe, version 1 (HDF5) or 1.5 (Parquet of HATS).

    Parameters
    ----------
    paths : path or iterable of path
        Files of one data set; `find` lists those of a folder.
    dataset : str, optional
        Data set: legacysurvey, hsc, sdss, desi or gaia; told from the columns without it.
    selection : str, Selection or callable, optional
        Which objects to keep, from the columns that are not pixels; all without it.
    problems : Problems, optional
        Takes what is wrong; without it the first problem is raised.
    batch_size : int
        Most objects to hold and yield at a time.

    Yields
    ------
    SkyObjects
        Objects of the survey.

    Raises
    ------
    ValueError
        If a file is damaged, of a data set that is not known, or not as this data set is.
    """
    problems = Problems() if problems is None else problems
    chosen = Selection.choose(selection, SELECTIONS)
    single = isinstance(paths, str | os.PathLike)
    for path in [paths] if single else list(paths):  # pyright: ignore[reportArgumentType]
        with problems.whole_file(path):
            yield from _read_one(path, dataset, chosen, problems, batch_size)


def _read_one(
    path: str | os.PathLike,
    dataset: str | None,
    chosen: Selection,
    problems: Problems,
    batch_size: int,
) -> Iterator[SkyObjects]:
    there = names_of(path)
    dataset = _dataset(path, there) if dataset is None else dataset
    if dataset not in _HEAVY:
        raise ValueError(f"no data set {dataset!r}; known are {', '.join(_HEAVY)}")
    heavy = _HEAVY[dataset]
    identity = "object_id" if "object_id" in there else "source_id"
    needed = {identity, "ra", "dec", *heavy}
    if not needed <= there:
        raise ValueError(
            f"{path} lacks {', '.join(sorted(needed - there))} of data set {dataset}; it has "
            f"{', '.join(sorted(there)[:20])}. Fetch the file again, or name another data set"
        )
    wanted = dict.fromkeys(needed | (set(light_columns(dataset)) & there), 0.0) | {
        name: fill for name, fill in _PADDING.items() if name in needed
    }
    seen: list[np.ndarray] = []
    for start, rows in batches(path, wanted, batch_size):
        ids = _identifiers(dataset, rows[identity], path)
        kept = chosen({n: v for n, v in rows.items() if n not in heavy}, len(ids))
        ra, dec = (rows[name].astype(np.float64) for name in ("ra", "dec"))
        _warn_of_float32(path, rows["ra"], ra, start)
        number = start + np.arange(len(ids))
        again = np.isin(ids, np.concatenate([*seen, ids[:0]]))
        for row in np.flatnonzero(again & kept):
            reason = "its identifier was there before in this file"
            problems.report(path, number[row], reason, "Keep one of them", object_id=ids[row])
        kept &= ~again
        kept[kept] = problems.placed(path, ids[kept], ra[kept], dec[kept], rows=number[kept])
        seen.append(ids[kept])
        if kept.any():
            rows = {name: values[kept] for name, values in rows.items()}
            yield objects_of(path, dataset, ids[kept], rows)


def _dataset(path: str | os.PathLike, there: set[str]) -> str:
    for dataset, signs in _SIGNS.items():
        if set(signs) <= there:
            return dataset
    raise ValueError(
        f"{path} is of no data set that omnisky reads; known are {', '.join(_HEAVY)}. It has the "
        f"columns {', '.join(sorted(there)[:20])}"
    )


def _identifiers(dataset: str, values: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    """Return identifiers as the survey's own reader has them: text of SDSS, else numbers."""
    if dataset in ("sdss", "legacysurvey"):
        return text(values)
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    names = text(values)
    try:
        return names.astype(np.int64)
    except ValueError as error:
        raise ValueError(
            f"{path}: identifiers of {dataset} are whole numbers; found {names[:3].tolist()}. The "
            "file is of another data set; name it"
        ) from error


def _warn_of_float32(
    path: str | os.PathLike, given: np.ndarray, ra: np.ndarray, start: int
) -> None:
    """Say so if positions have the precision of float32, be it written as float64."""
    if start or not len(ra):
        return
    if given.dtype == np.float32 or (len(ra) > 8 and (ra == ra.astype(np.float32)).all()):
        off = np.spacing(np.float32(ra.max())) / 2 * 3600
        warnings.warn(
            f"{path}: positions have the precision of float32 and are up to {off:.2f} arcsec off; "
            "match with a radius that allows for it",
            stacklevel=2,
        )
