"""LAMOST: low-resolution optical spectra of stars, with stellar labels.

Wavelengths are in vacuum and heliocentric. Fluxes are calibrated relatively: their scale means
nothing. Spectra lie on log10 wavelengths in steps of 1e-4 and are placed on the grid exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.modalities import Modality, Observations, Scalar, SkyObjects, Spectrum
from omnisky.surveys.fits import checked, header_of, image_of, open_fits
from omnisky.surveys.survey import (
    Problems,
    Selection,
    Survey,
    in_batches,
    log_pixels,
    scalar_of,
)
from omnisky.surveys.text import text_batches

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["LAMOST", "SELECTIONS", "read"]

_CUI = "2012RAA....12.1197C"
_ZHAO = "2012RAA....12..723Z"
_DR1 = "2015RAA....15.1095L"
_LASP = "2011RAA....11..924W"
# How LAMOST writes that there is no value.
_MISSING = -9999.0


def _label(
    name: str, column: str, unit: str, ucd: str, description: str, valid_range: tuple[float, float]
) -> Modality:
    return Modality(
        name=f"lamost_{name}",
        kind="scalar",
        survey="lamost",
        unit=unit,
        ucd=ucd,
        column=column,
        error_column=f"{column}_err",
        description=description,
        valid_range=valid_range,
        role="label",
        bibcodes=(_CUI, _DR1, _LASP),
    )


_SPECTRUM = Modality(
    name="lamost_spectrum",
    kind="spectrum",
    survey="lamost",
    unit="",
    ucd="phot.flux.density;em.wl",
    column="PRIMARY.Flux",
    description="LAMOST low-resolution spectrum, relative flux, vacuum, heliocentric",
    # 3673 to 9226 Angstrom.
    wavelength_nm=(2.565, 1e-4, 4001),
    spacing="log10",
    bibcodes=(_CUI, _ZHAO, _DR1),
)
_Z = Modality(
    name="lamost_z",
    kind="scalar",
    survey="lamost",
    unit="",
    ucd="src.redshift",
    column="PRIMARY.Z",
    description="LAMOST redshift by the 1D pipeline",
    valid_range=(-0.02, 10.0),
    role="label",
    bibcodes=(_CUI, _DR1),
)
_LABELS = (
    _label(
        "teff", "teff", "K", "phys.temperature.effective", "Effective temperature", (2500, 50000)
    ),
    _label("logg", "logg", "dex", "phys.gravity", "Surface gravity, log10 of cm s-2", (-1.5, 7.0)),
    _label("fe_h", "feh", "dex", "phys.abund.Fe", "Iron abundance [Fe/H]", (-5.0, 1.5)),
    _label("rv", "rv", "km s-1", "spect.dopplerVeloc.opt", "Radial velocity", (-1500, 1500)),
)

LAMOST = Survey(
    name="lamost",
    title="LAMOST Data Release 1, low-resolution spectra",
    modalities=(_SPECTRUM, _Z, *_LABELS),
    licence="LAMOST data policy, free to use with the acknowledgement",
    acknowledgement=(
        "Guoshoujing Telescope (the Large Sky Area Multi-Object Fiber Spectroscopic Telescope "
        "LAMOST) is a National Major Scientific Project built by the Chinese Academy of Sciences. "
        "Funding for the project has been provided by the National Development and Reform "
        "Commission. LAMOST is operated and managed by the National Astronomical Observatories, "
        "Chinese Academy of Sciences."
    ),
    bibtex={
        _CUI: """@article{cui2012, author={Cui, X.-Q. and others},
  title={The Large Sky Area Multi-Object Fiber Spectroscopic Telescope (LAMOST)},
  journal={RAA}, year={2012}, volume={12}, pages={1197}, doi={10.1088/1674-4527/12/9/003}}""",
        _ZHAO: """@article{zhao2012, author={Zhao, G. and others},
  title={LAMOST spectral survey: An overview},
  journal={RAA}, year={2012}, volume={12}, pages={723}, doi={10.1088/1674-4527/12/7/002}}""",
        _DR1: """@article{luo2015, author={Luo, A.-L. and others},
  title={The first data release (DR1) of the LAMOST regular survey},
  journal={RAA}, year={2015}, volume={15}, pages={1095}, doi={10.1088/1674-4527/15/8/002}}""",
        _LASP: """@article{wu2011, author={Wu, Y. and others},
  title={Automatic determination of stellar atmospheric parameters and construction of stellar
  spectral templates of the Guoshoujing Telescope (LAMOST)},
  journal={RAA}, year={2011}, volume={11}, pages={924}, doi={10.1088/1674-4527/11/8/006}}""",
    },
)


def _labelled(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.isfinite(columns["teff"])


SELECTIONS = {
    "labelled": Selection("labelled", "Stars with an effective temperature", _labelled),
}

_LABEL_COLUMNS = {c: "float" for m in _LABELS for c in (m.column, m.error_column or "")}
# The order that the documentation of the releases gives.
_ROWS = ("Flux", "Inverse", "Wavelength", "Andmask", "Ormask")


@dataclass
class _Spec:
    """One object of one file, on the common grid."""

    object_id: str
    light: dict[str, float]
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray


def read(
    paths: Iterable[str | os.PathLike],
    *,
    labels: str | os.PathLike | None = None,
    selection: str | Selection | Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None,
    problems: Problems | None = None,
    batch_size: int = 256,
) -> Iterator[SkyObjects]:
    """Read ``spec-*.fits`` files of LAMOST DR1, one star a file.

    Parameters
    ----------
    paths : iterable of path
        The files.
    labels : path, optional
        A csv table with the columns filename, teff, logg, feh, rv and their errors (``_err``);
        -9999 is missing. It is joined by file name; where it has ra and dec they must agree. Files
        that it does not name have no labels, rows of files that are not read are not objects.
    selection : str, Selection or callable, optional
        Which objects to keep: one of `SELECTIONS`, ``"all"`` (the default), or a function of the
        columns z, z_err, sn_u, sn_g, sn_r, sn_i, sn_z, teff, logg, feh, rv and their errors.
    problems : Problems, optional
        Takes what is wrong; without it the first problem is raised.
    batch_size : int
        Objects to hold and yield at a time.

    Yields
    ------
    SkyObjects
        With spectrum, redshift and labels. The identifier is the file's name without ``spec-`` and
        ending, day-plan_spectrograph-fibre, since DR1 spectra carry no number.

    Raises
    ------
    ValueError
        If a file is damaged, of another kind, in air wavelengths, or off the grid.

    Notes
    -----
    The third row of the image is not always the wavelength: DR1 files delivered with ``EXTEN0 =
    'Flux Inverse Subcontinuum Andmask Ormask'`` hold the normalised flux there. The rows are
    therefore taken as the header names them, and the wavelength from COEFF0 and COEFF1. Only
    the and-mask marks pixels bad, as for SDSS.
    """
    problems = problems or Problems()
    chosen = Selection.choose(selection, SELECTIONS)
    table = {} if labels is None else _read_labels(labels, problems)
    for batch in in_batches(_specs(paths, table, problems), batch_size):
        columns = {key: np.array([spec.light[key] for spec in batch]) for key in batch[0].light}
        kept = chosen(columns, len(batch))
        if kept.any():
            yield _sky_objects([spec for spec, keep in zip(batch, kept, strict=True) if keep])


def _read_labels(path: str | os.PathLike, problems: Problems) -> dict[str, dict[str, float]]:
    """Return the labels by file name, NaN where missing."""
    table: dict[str, dict[str, float]] = {}
    columns: Any = {"filename": "text"} | {c: "float" for c in _LABEL_COLUMNS}
    batches = text_batches(
        path, columns, optional={"ra": "float", "dec": "float"}, problems=problems
    )
    for rows, values in batches:
        for i, row in enumerate(rows):
            name = str(values["filename"][i])
            if name in table:
                problems.report(path, int(row), f"{name} was there before", "Keep one of them")
                continue
            cells = {key: float(values[key][i]) for key in values if key != "filename"}
            table[name] = {k: np.nan if v == _MISSING else v for k, v in cells.items()}
    return table


def _specs(
    paths: Iterable[str | os.PathLike], table: Mapping[str, dict[str, float]], problems: Problems
) -> Iterator[_Spec]:
    for path in paths:
        spec = None
        with problems.whole_file(path), open_fits(path, lazy=True) as opened:
            spec = _read_one(opened, table)
        if spec is not None:
            yield spec


def _read_one(opened: HDUList, table: Mapping[str, dict[str, float]]) -> _Spec:
    path, cards = checked(opened).path, header_of(opened, 0)
    if cards.get("VACUUM", True) is not True:
        raise ValueError(
            f"{path}: VACUUM = {cards['VACUUM']!r}; expected vacuum wavelengths, as LAMOST "
            "delivers. Fetch the file of the survey"
        )
    numbers = {key: _number(cards, key, path) for key in ("RA", "DEC", "COEFF0", "COEFF1")}
    ra, dec = numbers["RA"], numbers["DEC"]
    if not (0 <= ra < 360 and abs(dec) <= 90):
        raise ValueError(
            f"{path}: position ({ra}, {dec}) is not on the sphere, with RA in [0, 360). Correct it"
        )
    data = image_of(opened, 0)
    loglam = numbers["COEFF0"] + numbers["COEFF1"] * np.arange(data.shape[-1])
    rows = _rows(data, cards, loglam, path)
    part = log_pixels(_SPECTRUM, loglam, path)
    flux, ivar, mask = (np.zeros(len(_SPECTRUM.wavelength), dtype=t) for t in "ff?")
    good = np.isfinite(rows["Flux"]) & np.isfinite(rows["Inverse"]) & (rows["Inverse"] > 0)
    flux[part], ivar[part] = rows["Flux"], rows["Inverse"]
    mask[part] = good & (rows["Andmask"] == 0)
    name = str(cards.get("FILENAME") or Path(path).name.removesuffix(".gz")).strip()
    light = {key.lower(): _number(cards, key, path, default=np.nan) for key in _LIGHT}
    light |= {"ra": ra, "dec": dec} | _labels_of(name, table, ra, dec, path)
    return _Spec(name.removeprefix("spec-").removesuffix(".fits"), light, flux, ivar, mask)


_LIGHT = ("Z", "Z_ERR", "SN_U", "SN_G", "SN_R", "SN_I", "SN_Z")


def _number(cards: Mapping[str, Any], key: str, path: str, default: float | None = None) -> float:
    value = cards.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"{path}: {key} must be a number; found {value!r}. It is another kind of file, or "
            "damaged"
        )
    return np.nan if value == _MISSING else float(value)


def _rows(
    data: np.ndarray, cards: Mapping[str, Any], loglam: np.ndarray, path: str
) -> dict[str, np.ndarray]:
    """Return the rows of the image by what they hold."""
    names = tuple(str(cards.get("EXTEN0", " ".join(_ROWS))).split())
    needed = {"Flux", "Inverse", "Andmask"}
    if data.ndim != 2 or len(data) != len(names) or not needed <= set(names):
        raise ValueError(
            f"{path}: expected an image of the rows {', '.join(_ROWS)}; found shape {data.shape} "
            f"and rows {', '.join(names)}. It is another kind of file"
        )
    rows = dict(zip(names, data, strict=True))
    if "Wavelength" in rows:
        with np.errstate(all="ignore"):
            off = np.log10(rows["Wavelength"].astype(np.float64)) - loglam
        if not np.all(np.abs(off) < 1e-6):
            raise ValueError(
                f"{path}: the row Wavelength disagrees with COEFF0 and COEFF1. Nothing says which "
                "is right; fetch the file again"
            )
    return rows


def _labels_of(
    name: str, table: Mapping[str, dict[str, float]], ra: float, dec: float, path: str
) -> dict[str, float]:
    found = table.get(name, {})
    if {"ra", "dec"} <= set(found):
        away = np.hypot((found["ra"] - ra) * np.cos(np.radians(dec)), found["dec"] - dec) * 3600
        if away > 5:
            raise ValueError(
                f"{path}: the labels of {name} are of a star {away:.0f} arcsec away. They belong "
                "to another file; correct the table"
            )
    return {key: found.get(key, np.nan) for key in _LABEL_COLUMNS}


def _sky_objects(specs: list[_Spec]) -> SkyObjects:
    def column(key: str) -> np.ndarray:
        return np.array([spec.light[key] for spec in specs])

    measured: dict[str, Scalar | Spectrum] = {
        _SPECTRUM.name: Spectrum(
            np.stack([spec.flux for spec in specs]),
            np.stack([spec.ivar for spec in specs]),
            np.stack([spec.mask for spec in specs]),
            _SPECTRUM.wavelength,
        ),
        _Z.name: scalar_of(_Z, column("z"), error=column("z_err")),
    }
    for declared in _LABELS:
        error = column(declared.error_column or "")
        measured[declared.name] = scalar_of(declared, column(declared.column), error=error)
    return SkyObjects(
        survey="lamost",
        object_id=np.array([spec.object_id for spec in specs]),
        ra_deg=column("ra"),
        dec_deg=column("dec"),
        observations=Observations(measured),
    )
