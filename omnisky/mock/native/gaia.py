"""Gaia-like tables of sources and of XP coefficients: what is in them, how they are written."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omnisky.mock.native.files import marks, put
from omnisky.mock.native.rows import Instruments, Rows

if TYPE_CHECKING:
    from omnisky.mock.spectra import XpResult
    from omnisky.mock.truth import Truth
    from omnisky.modalities import Coefficients, SkyObjects

__all__ = ["XpRows", "objects", "rows", "write"]

_ARMS = ("bp", "rp")
_BASES = {"bp": 56, "rp": 57}
_SIZE = 55
# Red objects that Gaia sees in RP alone have no flux in BP that means anything.
_FAINTEST = 22.9
# Objects of the universe that share a pair of files.
_PART = 4096
_SOLUTION = 1636148068921376768
_UNITS = {"ra": "deg", "dec": "deg", "parallax": "mas", "parallax_error": "mas"}
_UNITS |= {"ra_error": "mas", "dec_error": "mas", "ref_epoch": "yr", "ebv": "mag"}
_UNITS |= {f"pm{axis}{end}": "mas.yr**-1" for axis in ("ra", "dec") for end in ("", "_error")}
_UNITS |= {f"phot_{band}_mean_mag": "mag" for band in ("g", "bp", "rp")}
_UNITS |= {"radial_velocity": "km.s**-1", "radial_velocity_error": "km.s**-1"}


@dataclass(frozen=True, kw_only=True)
class XpRows:
    """Hold XP coefficients of some sources, as the archive delivers them.

    Parameters
    ----------
    present : array of bool, shape (object,)
        Which of the sources have coefficients.
    values, errors : array, shape (present, 2, 55)
        Coefficients of BP and RP and their errors, of those that have them.
    results : tuple of XpResult, optional
        What else the archive says of them.
    """

    present: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    results: tuple[XpResult, ...] | None = None

    @classmethod
    def blank(cls, count: int) -> XpRows:
        """Return those of sources without coefficients."""
        nothing = np.zeros((0, 2, _SIZE))
        return cls(present=np.zeros(count, dtype=bool), values=nothing, errors=nothing)

    def __getitem__(self, index) -> XpRows:
        position = np.full(len(self.present), -1)
        position[self.present] = np.arange(len(self.values))
        rows = position[index]
        kept = rows[rows >= 0]
        return XpRows(
            present=rows >= 0,
            values=self.values[kept],
            errors=self.errors[kept],
            results=None if self.results is None else tuple(self.results[i] for i in kept),
        )

    def plus(self, other: XpRows) -> XpRows:
        """Return those of these sources and of others after them."""
        results = None
        if self.results is not None and other.results is not None:
            results = self.results + other.results
        return XpRows(
            present=np.concatenate([self.present, other.present]),
            values=np.concatenate([self.values, other.values]),
            errors=np.concatenate([self.errors, other.errors]),
            results=results,
        )

    def coefficients(self) -> Coefficients:
        """Return them as the reader does: 55 of BP, then 55 of RP, masked where there are none."""
        from omnisky.modalities import Coefficients

        value, ivar = np.zeros((2, len(self.present), 2 * _SIZE))
        value[self.present] = self.values.reshape(-1, 2 * _SIZE)
        ivar[self.present] = 1.0 / self.errors.reshape(-1, 2 * _SIZE).astype(np.float64) ** 2
        return Coefficients(value, ivar, np.repeat(self.present[:, None], 2 * _SIZE, axis=1))


def rows(instruments: Instruments, truth: Truth, fluxes: np.ndarray, *, heavy: bool = True) -> Rows:
    """Observe objects that the survey has.

    Parameters
    ----------
    instruments : Instruments
        The models of the universe.
    truth : Truth
        The objects.
    fluxes : array, shape (object, component, band)
        Their fluxes, nanomaggies.
    heavy : bool
        Whether to take their XP coefficients too.
    """
    from omnisky.mock.population.catalogs import catalog

    columns = catalog(instruments.config, truth, "gaia", fluxes)
    for band in ("g", "bp", "rp"):
        unseen = columns[f"phot_{band}_mean_mag"] > _FAINTEST
        for what in ("mag", "flux", "flux_error"):
            columns[f"phot_{band}_mean_{what}"][unseen] = np.nan
    spectra = None
    if heavy:
        there = np.flatnonzero(truth["has_xp"])
        results = tuple(instruments.xp.observe(truth[i : i + 1]) for i in there)
        values, errors = (
            np.array([[getattr(a, part) for a in (r.bp, r.rp)] for r in results])
            for part in ("value", "error")
        )
        spectra = XpRows(
            present=truth["has_xp"],
            values=values.reshape(-1, 2, _SIZE),
            errors=errors.reshape(-1, 2, _SIZE),
            results=results,
        )
    return Rows(
        survey="gaia",
        number=truth["object_id"],
        columns=columns,
        piece=truth["object_id"] // _PART,
        heavy=spectra,
        make=objects,
        blank=XpRows.blank,
    )


def objects(columns: Mapping[str, np.ndarray], spectra: XpRows) -> SkyObjects:
    """Return typed objects, as `omnisky.surveys.gaia.read` gives them.

    Parameters
    ----------
    columns : mapping of str to array, shape (object,)
        Columns of the source table, in lower case; NaN where there is no value.
    spectra : XpRows
        Their XP coefficients.
    """
    from omnisky.surveys.gaia.reading import objects_of

    return objects_of(columns, spectra.coefficients())


def write(
    folder: Path, number: int, columns: Mapping[str, np.ndarray], spectra: XpRows, seed: int
) -> list[Path]:
    """Write a table of sources and the table of their XP coefficients, gzip-compressed CSV.

    Parameters
    ----------
    folder : Path
        Where to: ``gaia_source`` and ``xp_continuous_mean_spectrum`` below it.
    number : int
        Number of the pair of files; both names have it.
    columns, spectra
        As for `objects`.
    seed : int
        Seed of the universe.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    part = f"{number:06d}-{number:06d}"
    present = np.flatnonzero(spectra.present)
    continuous: dict[str, list[str]] = {"source_id": _cells(columns["source_id"][present])}
    continuous["solution_id"] = [str(_SOLUTION)] * len(present)
    for i, arm in enumerate(_ARMS):
        continuous |= _arm(arm, i, spectra)
    sources = {name: _cells(values) for name, values in columns.items()}
    written = []
    for kind, stem, table in (
        ("xp_continuous_mean_spectrum", "XpContinuousMeanSpectrum", continuous),
        ("gaia_source", "GaiaSource", sources),
    ):
        if table["source_id"]:
            path = folder / kind / f"{stem}_{part}.csv.gz"
            text = _csv(table, seed).encode("ascii")
            written.append(put(path, gzip.compress(text, 1, mtime=0)))
    return written


def _arm(arm: str, i: int, spectra: XpRows) -> dict[str, list[str]]:
    """Return the columns of one arm as text."""
    found = {f"{arm}_basis_function_id": [str(_BASES[arm])] * len(spectra.values)}
    found[f"{arm}_coefficients"] = _vectors(spectra.values[:, i])
    found[f"{arm}_coefficient_errors"] = _vectors(spectra.errors[:, i])
    if spectra.results:
        arms = [getattr(result, arm) for result in spectra.results]
        for name in arms[0].facts:
            found[f"{arm}_{name}"] = [str(a.facts[name]) for a in arms]
        pairs = np.array([a.correlations for a in arms])
        found[f"{arm}_coefficient_correlations"] = _vectors(pairs, "%.6g")
    return found


def _cells(values: np.ndarray) -> list[str]:
    """Return a column as text that reads back to the same numbers; empty where there is none."""
    if values.dtype.kind == "f":
        return ["" if x != x else repr(x) for x in values.astype(np.float64).tolist()]
    return [str(x) for x in values.tolist()]


def _vectors(values: np.ndarray, form: str = "") -> list[str]:
    if form:
        return ['"(' + ", ".join([form % x for x in row]) + ')"' for row in values.tolist()]
    rows = values.astype(np.float64).tolist()
    return ['"(' + ", ".join([repr(x) for x in row]) + ')"' for row in rows]


def _csv(table: Mapping[str, Sequence[str]], seed: int) -> str:
    """Return a table as ECSV text: CSV under comments with units, and with what says it is mock."""
    says = ", ".join(f"{key}: {_yaml(value)}" for key, value in marks(seed).items())
    lines = ["# %ECSV 1.0", "# ---", "# delimiter: ','", "# datatype:"]
    for name, cells in table.items():
        unit = f", unit: {_UNITS[name]}" if name in _UNITS else ""
        lines.append(f"# - {{name: {name}{unit}, datatype: {_type(cells)}}}")
    lines += [f"# meta: {{{says}}}", "# schema: astropy-2.0", ",".join(table)]
    lines += [",".join(row) for row in zip(*table.values(), strict=True)]
    return "\n".join(lines) + "\n"


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type(cells: Sequence[str]) -> str:
    """Return the ECSV type of a column, told from its cells."""
    if any(cell.startswith('"') for cell in cells):
        return "string"
    whole = all(cell.lstrip("-").isdigit() for cell in cells)
    return "int64" if whole else "float64"
