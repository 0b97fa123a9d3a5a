"""SDSS-like spec files, one object each: what is in them, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.mock.native.files import primary, put, table
from omnisky.mock.native.rows import Instruments, Rows

if TYPE_CHECKING:
    from omnisky.mock.truth import Truth
    from omnisky.modalities import SkyObjects

__all__ = ["FIBERS", "Spectra", "fibers", "file_name", "objects", "rows", "specobjid", "write"]

# Fibres of a plate of the first spectrographs (York et al. 2000).
FIBERS = 640
_FIRST_PLATE, _FIRST_MJD, _RUN2D = 266, 51602, 26
_FLUX_UNIT = "1E-17 erg/cm^2/s/Ang"
# By this specutils knows a spec file.
_TELESCOPE = {"TELESCOP": "SDSS 2.5-M"}

_PIXELS = {"flux": "f4", "loglam": "f4", "ivar": "f4", "and_mask": "i4", "or_mask": "i4"}
_PIXELS |= {"wdisp": "f4", "sky": "f4"}


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """Hold the spectra of some objects, as spec files store them.

    Parameters
    ----------
    tables : tuple of mapping of str to array, shape (pixel,)
        Of each object the columns flux, loglam, ivar, and_mask, or_mask, wdisp and sky, of native
        types. Spectra need not be of one length.
    """

    tables: tuple[Mapping[str, np.ndarray], ...]

    @classmethod
    def of(cls, results: Iterable[Any]) -> Spectra:
        """Return what the instrument measured of some objects, in native types."""
        return cls(
            tables=tuple(
                {name: np.asarray(getattr(result, name), dtype=t) for name, t in _PIXELS.items()}
                for result in results
            )
        )

    @classmethod
    def blank(cls, count: int) -> Spectra:
        """Return spectra of one pixel, which is not good."""
        pixel = {name: np.zeros(1, dtype=t) for name, t in _PIXELS.items()}
        pixel["loglam"] = np.full(1, 3.6, dtype="f4")
        return cls(tables=(pixel,) * count)

    def __getitem__(self, index) -> Spectra:
        rows = np.arange(len(self.tables))[index]
        return Spectra(tables=tuple(self.tables[i] for i in rows.tolist()))


def fibers(object_id: np.ndarray) -> dict[str, np.ndarray]:
    """Return plate, MJD and fibre of each object: functions of its number alone.

    A plate takes 640 objects in the order of their numbers. Real plates are three degrees across;
    these are as large as the patch of sky.
    """
    number = np.asarray(object_id)
    plate = _FIRST_PLATE + number // FIBERS
    return {
        "PLATE": plate.astype("i4"),
        "MJD": (_FIRST_MJD + 3 * (number // FIBERS) % 3000).astype("i4"),
        "FIBERID": (number % FIBERS + 1).astype("i4"),
    }


def specobjid(plate: np.ndarray, mjd: np.ndarray, fiber: np.ndarray) -> np.ndarray:
    """Return SPECOBJID as text: plate, fibre, MJD and run of the pipeline in 64 bits.

    The layout of SDSS data release 8 and later: 14 bits of plate, 12 of fibre, 14 of MJD - 50000
    and 14 of run2d above 10 bits of line or index, which are zero.
    """
    ids = []
    for p, m, f in zip(plate.tolist(), mjd.tolist(), fiber.tolist(), strict=True):
        ids.append(str(p << 50 | f << 38 | (m - 50000) << 24 | _RUN2D << 10))
    return np.array(ids, dtype="U22")


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
        Whether to take their spectra too.
    """
    from omnisky.mock.population.catalogs import catalog

    columns = fibers(truth["object_id"])
    columns["SPECOBJID"] = specobjid(*columns.values())
    columns |= catalog(instruments.config, truth, "sdss", fluxes)
    spectra = None
    if heavy:
        model, count = instruments.sdss, range(len(truth))
        spectra = Spectra.of(model.observe(truth[i : i + 1], fluxes[i]) for i in count)
    return Rows(
        survey="sdss",
        number=truth["object_id"],
        columns=columns,
        piece=columns["PLATE"].astype(np.int64),
        heavy=spectra,
        make=objects,
        blank=Spectra.blank,
    )


def file_name(columns: Mapping[str, np.ndarray], i: int) -> str:
    """Return ``spec-PLATE-MJD-FIBER.fits`` of one row."""
    plate, mjd, fiber = (int(columns[key][i]) for key in ("PLATE", "MJD", "FIBERID"))
    return f"spec-{plate:04d}-{mjd:05d}-{fiber:04d}.fits"


def objects(columns: Mapping[str, np.ndarray], spectra: Spectra) -> SkyObjects:
    """Return typed objects, as `omnisky.surveys.sdss.read` gives them.

    Parameters
    ----------
    columns : mapping of str to array, shape (object,) or (object, 5)
        Rows of the table of spectra, in upper case.
    spectra : Spectra
        Their spectra.
    """
    from omnisky.surveys.sdss import objects_of, spec_of

    return objects_of(
        [
            spec_of(
                spectra.tables[i],
                {key: values[i : i + 1] for key, values in columns.items()},
                file_name(columns, i),
            )
            for i in range(len(columns["PLATE"]))
        ]
    )


def write(
    folder: Path, columns: Mapping[str, np.ndarray], spectra: Spectra, seed: int
) -> list[Path]:
    """Write the spec file of each object into a folder a plate.

    Parameters
    ----------
    folder : Path
        Where to.
    columns, spectra
        As for `objects`.
    seed : int
        Seed of the universe.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    written = []
    for i in range(len(columns["PLATE"])):
        row = {key: values[i : i + 1] for key, values in columns.items()}
        place = {key: int(row[key][0]) for key in ("PLATE", "MJD", "FIBERID")}
        head = primary(seed, **_TELESCOPE, **place, BUNIT=_FLUX_UNIT, VACUUM=True)
        pixels = table(spectra.tables[i], seed, name="COADD")
        about = table(row, seed, name="SPECOBJ")
        path = folder / f"{place['PLATE']:04d}" / file_name(columns, i)
        written.append(put(path, head, pixels, about))
    return written
