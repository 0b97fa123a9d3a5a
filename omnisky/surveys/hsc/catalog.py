"""Read catalogues of HSC-SSP, as its database delivers them in FITS."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from omnisky.modalities import Observations, Scalar, SkyObjects
from omnisky.surveys.catalog import CatalogFormat, Columns, stream
from omnisky.surveys.hsc.declarations import BANDS, HSC
from omnisky.surveys.survey import Problems, Selection, scalar_of

__all__ = ["FORMAT", "SELECTIONS", "extended", "read"]

_FWHM_OF_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_MOMENTS = ("11", "22", "12")
# Some tables say 99 for no magnitude.
_FAINTEST = 40.0
_DECLARED = {declared.name: declared for declared in HSC.modalities}


def extended(
    bands: Sequence[str] = BANDS, z_limit: float | None = None, *, dereddened: bool = True
) -> Callable[[Columns], np.ndarray]:
    """Make a selection of extended sources that are measured in all bands.

    Parameters
    ----------
    bands : sequence of str
        Bands that must have a CModel magnitude.
    z_limit : float, optional
        AB magnitude in z that an object must be brighter than.
    dereddened : bool
        Whether that magnitude is corrected for Galactic extinction with ``a_z``.

    Returns
    -------
    callable
        For `Selection` or `read`. Extended is ``i_extendedness_value > 0.5``; where the table has
        ``isprimary``, only primary objects are kept.
    """

    def keep(columns: Columns) -> np.ndarray:
        kept = _known(columns, "i_extendedness_value") > 0.5
        for band in bands:
            kept &= _known(columns, f"{band}_cmodel_mag") < _FAINTEST
        if z_limit is not None:
            z = _known(columns, "z_cmodel_mag")
            kept &= (z - _known(columns, "a_z") if dereddened else z) < z_limit
        if "isprimary" in columns:
            kept &= columns["isprimary"].astype(bool)
        return kept

    return keep


SELECTIONS: dict[str, Selection] = {
    selection.name: selection
    for selection in (
        Selection(
            "extended_grizy",
            "Primary extended sources (i band) with CModel magnitudes in g, r, i, z and y",
            extended(),
        ),
        Selection(
            "extended_grizy_z21",
            "As extended_grizy, with de-reddened z < 21",
            extended(z_limit=21.0),
        ),
        Selection(
            "extended_grizy_z21_observed",
            "As extended_grizy, with z < 21 as observed",
            extended(z_limit=21.0, dereddened=False),
        ),
    )
}


def read(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    selection: str | Selection | Callable[[Columns], np.ndarray] | None = None,
    problems: Problems | None = None,
    batch_size: int = 256,
    group_by: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    trusted: bool = False,
) -> Iterator[SkyObjects]:
    """Read tables that the HSC-SSP database delivered.

    Parameters
    ----------
    paths : path or sequence of paths
        FITS tables with ``object_id``, ``ra``, ``dec`` and what else there is of the columns of
        `forced`: magnitudes, extinctions, extendedness, moments of the PSF and, in i, of the light.
    selection : str, Selection or callable, optional
        One of `SELECTIONS`, or a function of the columns. Without it every row is read.
    problems, batch_size, group_by, trusted
        As in `omnisky.surveys.catalog.stream`.

    Yields
    ------
    SkyObjects
        With the same modalities for every table; what a table lacks is absent. Magnitudes are as
        observed. Positions have no epoch.

    Raises
    ------
    ValueError
        If a file is damaged or not such a table, or a row has a problem and `problems` raises.
    """
    return stream(
        FORMAT,
        paths,
        selection=Selection.choose(selection, SELECTIONS),
        problems=problems,
        batch_size=batch_size,
        group_by=group_by,
        trusted=trusted,
    )


def _known(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return a column as float64, NaN where the database says that there is no value."""
    values = np.ma.filled(np.ma.asarray(columns[name], dtype=np.float64), np.nan)
    null = columns.get(f"{name}_isnull")
    return values if null is None else np.where(null.astype(bool), np.nan, values)


def _objects(columns: Columns, identifiers: np.ndarray) -> SkyObjects:
    nothing = np.full(len(identifiers), np.nan)

    def of(name: str) -> np.ndarray:
        return _known(columns, name) if name in columns else nothing

    measured: dict[str, Scalar] = {}
    for band in BANDS:
        magnitude, error = of(f"{band}_cmodel_mag"), of(f"{band}_cmodel_magerr")
        there = (magnitude > 0) & (magnitude < _FAINTEST)
        measured[f"{band}_cmodel_mag"] = scalar_of(
            _DECLARED[f"hsc_{band}_cmodel_mag"], magnitude, error=error, known=there
        )
        for name, given in (
            (f"a_{band}", f"a_{band}"),
            (f"{band}_extendedness", f"{band}_extendedness_value"),
        ):
            measured[name] = scalar_of(_DECLARED[f"hsc_{name}"], of(given))
        xx, yy, xy = (of(f"{band}_sdssshape_psf_shape{m}") for m in _MOMENTS)
        area = xx * yy - xy**2  # of arcsec^4, so that its fourth root is a width
        width = _FWHM_OF_SIGMA * np.where(area > 0, area, np.nan) ** 0.25
        measured[f"psfsize_{band}"] = scalar_of(_DECLARED[f"hsc_psfsize_{band}"], width)
    for m in _MOMENTS:
        measured[f"shape{m}"] = scalar_of(_DECLARED[f"hsc_shape{m}"], of(f"i_sdssshape_shape{m}"))
    return SkyObjects(
        survey="hsc",
        object_id=identifiers,
        ra_deg=columns["ra"],
        dec_deg=columns["dec"],
        observations=Observations({f"hsc_{name}": m for name, m in measured.items()}),
    )


_VALUES = tuple(f"i_sdssshape_shape{m}" for m in _MOMENTS) + tuple(
    name
    for b in BANDS
    for name in (
        f"{b}_cmodel_mag",
        f"{b}_cmodel_magerr",
        f"a_{b}",
        f"{b}_extendedness_value",
        *(f"{b}_sdssshape_psf_shape{m}" for m in _MOMENTS),
    )
)
FORMAT = CatalogFormat(
    required=("object_id", "ra", "dec"),
    optional=(*_VALUES, *(f"{name}_isnull" for name in _VALUES), "isprimary"),
    ra="ra",
    dec="dec",
    identify=lambda columns: np.asarray(columns["object_id"], dtype=np.int64),
    objects=_objects,
    aliases={f"{band}_cmodel_magsigma": f"{band}_cmodel_magerr" for band in BANDS},
    units={"ra": "deg", "dec": "deg"},
)
