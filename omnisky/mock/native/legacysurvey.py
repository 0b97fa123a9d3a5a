"""Legacy-Survey-like tractor tables and bricks: what is in them, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.mock.native.files import cards_of, marks, primary, put, table
from omnisky.mock.native.grid import BRICKS
from omnisky.mock.native.mosaic import Canvas, compressed
from omnisky.mock.native.rows import Instruments, Rows, local_number, no_images
from omnisky.mock.native.stamps import Stamps, draw, sky_level, taken, with_images

if TYPE_CHECKING:
    from omnisky.mock.truth import Truth
    from omnisky.modalities import SkyObjects

__all__ = ["RELEASE", "identify", "objects", "rows", "write"]

RELEASE = 10000
_OBJECT_BITS = 22
# Bits of maskbits for "masked in all exposures" (DR10).
_ALLMASK = {"g": 5, "r": 6, "i": 15, "z": 7}
# Parts of a standard deviation of the sky to which fluxes are rounded, and of the sky's inverse
# variance to which inverse variances are.
_FLUX_STEP, _IVAR_STEP = 1 / 16, 2e-5
_UNITS = {"RA": "deg", "DEC": "deg", "EBV": "mag", "SHAPE_R": "arcsec", "SHAPE_R_IVAR": "arcsec^-2"}
_UNITS |= {"PMRA": "mas/yr", "PMDEC": "mas/yr", "PARALLAX": "mas", "REF_EPOCH": "yr"}
_UNITS |= {f"FLUX_{b}": "nanomaggy" for b in ("G", "R", "I", "Z", "W1", "W2", "W3", "W4")}
_UNITS |= {f"FLUX_IVAR_{b}": "1/nanomaggy^2" for b in ("G", "R", "I", "Z", "W1", "W2", "W3", "W4")}
_UNITS |= {f"PSFSIZE_{b}": "arcsec" for b in ("G", "R", "I", "Z")}


def identify(
    object_id: np.ndarray, ra_deg: np.ndarray, dec_deg: np.ndarray
) -> dict[str, np.ndarray]:
    """Return release, brick and number in the brick of each object.

    Parameters
    ----------
    object_id : array of int, shape (object,)
        Numbers of the objects.
    ra_deg, dec_deg : array, shape (object,)
        Their catalogued positions.
    """
    return {
        "RELEASE": np.full(len(object_id), RELEASE, dtype="i2"),
        "BRICKID": BRICKS.locate(ra_deg, dec_deg).astype("i4"),
        "OBJID": local_number(object_id, _OBJECT_BITS).astype("i4"),
    }


def rows(
    instruments: Instruments,
    truth: Truth,
    fluxes: np.ndarray,
    *,
    heavy: bool = True,
    scene: tuple[Truth, np.ndarray] | None = None,
) -> Rows:
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
        Whether to take their images too.
    scene : (Truth, array), optional
        What images show in place of the objects, and its fluxes.
    """
    from omnisky.mock.population.catalogs import catalog

    table = catalog(instruments.config, truth, "legacysurvey", fluxes)
    columns = identify(truth["object_id"], table["RA"], table["DEC"]) | table
    stamps = None
    if heavy:
        year = 2000.0 + (0.5 * (table["MJD_MIN"] + table["MJD_MAX"]) - 51544.5) / 365.25
        catalogued = table["RA"], table["DEC"]
        stamps = taken(instruments, "legacysurvey", catalogued, year, scene or (truth, fluxes))
    return Rows(
        survey="legacysurvey",
        number=truth["object_id"],
        columns=columns,
        piece=columns["BRICKID"].astype(np.int64),
        heavy=stamps,
        make=objects,
        blank=no_images,
    )


def objects(columns: Mapping[str, np.ndarray], stamps: Stamps | None) -> SkyObjects:
    """Return typed objects, as `omnisky.data.cutout.read` gives them.

    Parameters
    ----------
    columns : mapping of str to array, shape (object,)
        Rows of a tractor table, in upper case.
    stamps : Stamps, optional
        Their images.
    """
    from omnisky.surveys.legacysurvey.catalog import FORMAT

    return with_images(FORMAT.objects(columns, FORMAT.identify(columns)), stamps)


def write(
    folder: Path, brick: int, columns: Mapping[str, np.ndarray], stamps: Stamps | None, seed: int
) -> list[Path]:
    """Write the tractor table of a brick and its images.

    Parameters
    ----------
    folder : Path
        Where to: ``tractor/AAA/tractor-BRICK.fits`` and ``coadd/AAA/BRICK/`` below it, as the
        surveys lay out theirs.
    brick : int
        BRICKID.
    columns, stamps
        As for `objects`; all of this brick.
    seed : int
        Seed of the universe.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    piece = BRICKS.piece(brick)
    name = piece.name
    facts = {"BRICKNAM": name, "BRICKID": brick, "DRVERSIO": RELEASE, "SURVEY": "DECaLS"}
    written: list[Path] = []
    if stamps is not None:
        for plane, data in _planes(brick, stamps, facts, seed):
            path = folder / "coadd" / name[:3] / name / f"legacysurvey-{name}-{plane}.fits.fz"
            written.append(put(path, primary(seed), data))
    count = len(columns["OBJID"])
    known = {**columns, "BRICKNAME": np.full(count, name)}
    known["BRICK_PRIMARY"] = np.ones(count, dtype=bool)
    rows = table(known, seed, units=_UNITS, cards=cards_of(facts))
    path = folder / "tractor" / name[:3] / f"tractor-{name}.fits"
    return [*written, put(path, primary(seed, **facts), rows)]


def _planes(brick: int, stamps: Stamps, facts: Mapping[str, object], seed: int):
    """Yield the images of a brick by the name of their plane."""
    bands = stamps.bands
    unseen = sum(1 << _ALLMASK[band] for band in bands)
    blank: dict[str, float] = {"maskbits": unseen}
    blank |= {f"{plane}-{band}": 0.0 for plane in ("image", "invvar") for band in bands}
    canvas = Canvas(BRICKS.side, blank, {k: "i4" if k == "maskbits" else "f4" for k in blank})

    def planes(i: int) -> dict[str, np.ndarray]:
        bits = np.zeros(stamps.mask.shape[-2:], dtype=np.int32)
        for number, band in enumerate(bands):
            bits |= (~stamps.mask[i, number]).astype(np.int32) << _ALLMASK[band]
        found, flux = {"maskbits": bits}, stamps.measured(i)
        for number, band in enumerate(bands):
            found |= {
                f"image-{band}": flux[number],
                f"invvar-{band}": stamps.ivar[i, number],
            }
        return found

    draw(stamps, canvas, planes)
    world = cards_of({**BRICKS.piece(brick).header(), **marks(seed), **facts})
    for number, band in enumerate(bands):
        level = sky_level(stamps, number)
        for plane, unit, step in (
            ("image", "nanomaggy", _FLUX_STEP / np.sqrt(level)),
            ("invvar", "1/nanomaggy^2", _IVAR_STEP * level),
        ):
            cards: dict[str, Any] = {"FILTER": band, "IMTYPE": plane, "BUNIT": unit}
            if plane == "image":
                cards["MAGZERO"] = 22.5
            name = f"{plane}-{band}"
            yield name, compressed(canvas, name, world + cards_of(cards), float(step))
    yield "maskbits", compressed(canvas, "maskbits", world + cards_of({"IMTYPE": "maskbits"}))
