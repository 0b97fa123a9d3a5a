"""DESI-like coadds with their redshift files: what is in them, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omnisky.mock.native.files import image, primary, put, table
from omnisky.mock.native.legacysurvey import identify
from omnisky.mock.native.rows import Instruments, Rows

if TYPE_CHECKING:
    from omnisky.mock.truth import Truth
    from omnisky.modalities import SkyObjects, Spectrum

__all__ = ["CAMERAS", "Spectra", "objects", "place", "rows", "write"]

# First pixel of each arm on DESI's grid of 0.8 Angstrom from 3600, and how many there are: the
# wavelengths of the data releases (Guy et al. 2023, section 4).
CAMERAS = {"B": (0, 2751), "R": (2700, 2326), "Z": (4900, 2881)}
_PARTS = {"FLUX": "10**-17 erg/(s cm2 Angstrom)", "IVAR": "10**+34 (s2 cm4 Angstrom2) / erg2"}
_PARTS |= {"MASK": "", "RESOLUTION": ""}
_NIGHT = 20210615
_DIAGONALS = 11
# Targets come from data release 9 of the Legacy Surveys; their identifiers say so.
_TARGET_RELEASE = 9010
# Degrees along a side of the cells in which tiles are counted; a tile is 3.2 degrees across.
_CELL_DEG = 2.8
_REDSHIFTS = ("Z", "ZERR", "ZWARN", "SPECTYPE", "SUBTYPE", "DELTACHI2", "CHI2")
_UNITS = {"TARGET_RA": "deg", "TARGET_DEC": "deg", "PMRA": "mas yr^-1", "PMDEC": "mas yr^-1"}
_UNITS |= {"REF_EPOCH": "yr", "EBV": "mag"}
_UNITS |= {f"FLUX_{band}": "nanomaggy" for band in ("G", "R", "Z", "W1", "W2")}


@dataclass(frozen=True, kw_only=True)
class Spectra:
    """Hold the spectra of some objects arm by arm, as a coadd stores them.

    Parameters
    ----------
    arms : mapping of str to mapping of str to array
        By camera: ``flux`` and ``ivar`` (object, pixel) float32, ``mask`` (object, pixel) uint32
        in which a set bit is a fault, and ``resolution`` (object, diagonal, pixel) float32.
    """

    arms: Mapping[str, Mapping[str, np.ndarray]]

    @classmethod
    def blank(cls, count: int) -> Spectra:
        """Return spectra of which no pixel is good."""
        shapes = {"flux": "f4", "ivar": "f4", "mask": "u4"}
        arms = {}
        for camera, (_, pixels) in CAMERAS.items():
            arms[camera] = {k: np.zeros((count, pixels), dtype=t) for k, t in shapes.items()}
            arms[camera]["resolution"] = np.zeros((count, _DIAGONALS, pixels), dtype="f4")
        return cls(arms=arms)

    def __getitem__(self, index) -> Spectra:
        return Spectra(
            arms={c: {k: v[index] for k, v in arm.items()} for c, arm in self.arms.items()}
        )

    def merged(self) -> Spectrum:
        """Return the arms merged, as the reader merges them."""
        from omnisky.surveys.desi.arms import Arm, merged

        return merged(
            Arm(slice(first, first + count), **self.arms[camera])
            for camera, (first, count) in CAMERAS.items()
        )


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

    table = catalog(instruments.config, truth, "desi", fluxes)
    where = table["TARGET_RA"], table["TARGET_DEC"]
    named = identify(truth["object_id"], *where)
    target = np.int64(_TARGET_RELEASE) << 42 | named["BRICKID"].astype(np.int64) << 22
    spectra = None
    if heavy:
        spectra = Spectra.blank(len(truth))
        for i in range(len(truth)):
            found = instruments.desi.observe(truth[i : i + 1], fluxes[i]).arms
            for camera, arm in spectra.arms.items():
                for part, values in arm.items():
                    values[i] = getattr(found[camera.lower()], part)
    return Rows(
        survey="desi",
        number=truth["object_id"],
        columns={"TARGETID": target | named["OBJID"], **table},
        piece=place(*where),
        heavy=spectra,
        make=objects,
        blank=Spectra.blank,
    )


def objects(columns: Mapping[str, np.ndarray], spectra: Spectra) -> SkyObjects:
    """Return typed objects, as `omnisky.surveys.desi.read` gives them.

    Parameters
    ----------
    columns : mapping of str to array, shape (object,)
        Fibre map and redshifts, in upper case.
    spectra : Spectra
        Their spectra.
    """
    from omnisky.surveys.desi.reading import objects_of

    return objects_of(columns, spectra.merged())


def place(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Return tile and petal of each position as one number, ``10 * tile + petal``.

    Tiles stand on a grid; the ten petals are sectors around the middle of the tile, as on the focal
    plane.
    """
    row = np.floor((np.asarray(dec_deg) + 90) / _CELL_DEG).astype(np.int64)
    middle = (row + 0.5) * _CELL_DEG - 90
    width = _CELL_DEG / np.cos(np.radians(np.minimum(np.abs(middle), 88.0)))
    column = np.floor(np.asarray(ra_deg) / width).astype(np.int64)
    east = (ra_deg - (column + 0.5) * width) / width
    angle = np.arctan2(east * _CELL_DEG, np.asarray(dec_deg) - middle) / (2 * np.pi)
    petal = np.floor((angle % 1.0) * 10).astype(np.int64) % 10
    return 10 * (1000 + row * 130 + column) + petal


def write(
    folder: Path, place: int, columns: Mapping[str, np.ndarray], spectra: Spectra, seed: int
) -> list[Path]:
    """Write ``coadd-PETAL-TILE-thruNIGHT.fits`` and the redrock file beside it.

    Parameters
    ----------
    folder : Path
        Where to.
    place : int
        Tile and petal, see `place`.
    columns, spectra
        As for `objects`; all of one petal.
    seed : int
        Seed of the universe.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    tile, petal = divmod(int(place), 10)
    head = primary(seed, SPGRP="cumulative", SPGRPVAL=_NIGHT, TILEID=tile, PETAL=petal)
    name = f"{petal}-{tile}-thru{_NIGHT}.fits"
    known = [key for key in _REDSHIFTS if key in columns]
    count = len(columns["TARGETID"])
    fibermap = {key: values for key, values in columns.items() if key not in known}
    fibermap["FIBER"] = (500 * petal + np.arange(count) % 500).astype("i4")
    redshifts = {"TARGETID": columns["TARGETID"], **{key: columns[key] for key in known}}
    fibers = table(fibermap, seed, name="FIBERMAP", units=_UNITS)
    parts = [head, fibers]
    for camera, (first, pixels) in CAMERAS.items():
        wave = np.round(3600 + 0.8 * (first + np.arange(pixels, dtype=np.float64)), 1)
        parts.append(image(wave, f"{camera}_WAVELENGTH", "Angstrom"))
        for part, unit in _PARTS.items():
            parts.append(image(spectra.arms[camera][part.lower()], f"{camera}_{part}", unit))
    return [
        put(folder / f"redrock-{name}", head, table(redshifts, seed, name="REDSHIFTS"), fibers),
        put(folder / f"coadd-{name}", *parts),
    ]
