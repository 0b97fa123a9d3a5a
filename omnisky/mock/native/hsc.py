"""HSC-like tables and patches: what is in them, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.mock.native.files import cards_of, marks, primary, put, table
from omnisky.mock.native.grid import PATCHES
from omnisky.mock.native.mosaic import Canvas, compressed
from omnisky.mock.native.rows import Instruments, Rows, local_number, no_images
from omnisky.mock.native.stamps import Stamps, draw, sky_level, taken, with_images

if TYPE_CHECKING:
    from omnisky.mock.truth import Truth
    from omnisky.modalities import SkyObjects

__all__ = ["identify", "objects", "rows", "write"]

_ZERO_POINT = 27.0
# Counts of zero point 27 in a nanomaggy.
_COUNTS = 10 ** (0.4 * (_ZERO_POINT - 22.5))
# Planes of the mask and their bits, as the pipeline numbers them (Bosch et al. 2018).
_PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "NO_DATA": 8}
# Parts of a standard deviation of the sky to which counts are rounded, and of the sky's variance to
# which variances are.
_FLUX_STEP, _VARIANCE_STEP = 1 / 16, 1e-3
_UNITS = {"ra": "deg", "dec": "deg"}
_OBJECT_BITS = 36


def identify(
    object_id: np.ndarray, ra_deg: np.ndarray, dec_deg: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the identifier of each object: its patch, then its number.

    Parameters
    ----------
    object_id : array of int, shape (object,)
        Numbers of the objects.
    ra_deg, dec_deg : array, shape (object,)
        Their catalogued positions.
    """
    patch = PATCHES.locate(ra_deg, dec_deg)
    number = local_number(object_id, _OBJECT_BITS)
    return {"object_id": patch.astype(np.int64) << _OBJECT_BITS | number}


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
    from omnisky.mock.population.catalogs.hsc import EPOCH

    table = catalog(instruments.config, truth, "hsc", fluxes)
    catalogued = table["ra"], table["dec"]
    stamps = None
    if heavy:
        stamps = taken(instruments, "hsc", catalogued, EPOCH, scene or (truth, fluxes))
    return Rows(
        survey="hsc",
        number=truth["object_id"],
        columns=identify(truth["object_id"], *catalogued) | table,
        piece=PATCHES.locate(*catalogued),
        heavy=stamps,
        make=objects,
        blank=no_images,
    )


def objects(columns: Mapping[str, np.ndarray], stamps: Stamps | None) -> SkyObjects:
    """Return typed objects, as `omnisky.data.cutout.read` gives them.

    Parameters
    ----------
    columns : mapping of str to array, shape (object,)
        Rows of the table of forced measurements, in lower case.
    stamps : Stamps, optional
        Their images.
    """
    from omnisky.surveys.hsc.catalog import FORMAT

    return with_images(FORMAT.objects(columns, FORMAT.identify(columns)), stamps)


def write(
    folder: Path, patch: int, columns: Mapping[str, np.ndarray], stamps: Stamps | None, seed: int
) -> list[Path]:
    """Write the table of a patch and its images, one file a band.

    Parameters
    ----------
    folder : Path
        Where to: ``forced/`` and ``calexp/`` below it.
    patch : int
        Number of the patch.
    columns, stamps
        As for `objects`; all of this patch.
    seed : int
        Seed of the universe.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    name = PATCHES.piece(patch).name
    tract, _, place = name.partition("-")
    written: list[Path] = []
    if stamps is not None:
        for band, data in _planes(patch, stamps, seed):
            path = folder / "calexp" / tract / place / f"calexp-HSC-{band.upper()}-{name}.fits.fz"
            head = primary(seed, FLUXMAG0=10 ** (0.4 * _ZERO_POINT), FILTER=f"HSC-{band.upper()}")
            written.append(put(path, head, *data))
    facts = cards_of({"TRACT": int(tract), "PATCH": place})
    rows = table(columns, seed, units=_UNITS, cards=facts)
    path = folder / "forced" / f"forced-{name.replace(',', '_')}.fits"
    return [*written, put(path, primary(seed), rows)]


def _planes(patch: int, stamps: Stamps, seed: int):
    """Yield the three images of each band of a patch."""
    kinds = ("IMAGE", "MASK", "VARIANCE")
    blank = {"IMAGE": 0.0, "MASK": 1 << _PLANES["NO_DATA"], "VARIANCE": 0.0}
    world = cards_of({**PATCHES.piece(patch).header(), **marks(seed)})
    for number, band in enumerate(stamps.bands):
        canvas = Canvas(PATCHES.side, blank, {"IMAGE": "f4", "MASK": "i4", "VARIANCE": "f4"})

        def planes(i: int, number: int = number) -> dict[str, np.ndarray]:
            good, ivar = stamps.mask[i, number], stamps.ivar[i, number]
            variance = np.divide(_COUNTS**2, ivar, out=np.zeros_like(ivar), where=ivar > 0)
            return {
                "IMAGE": stamps.measured(i)[number] * np.float32(_COUNTS),
                "MASK": np.where(good, 0, 1 << _PLANES["BAD"]).astype(np.int32),
                "VARIANCE": variance,
            }

        draw(stamps, canvas, planes)
        variance = _COUNTS**2 / sky_level(stamps, number)
        steps = {"IMAGE": _FLUX_STEP * variance**0.5, "VARIANCE": _VARIANCE_STEP * variance}
        parts = []
        for kind in kinds:
            cards: dict[str, Any] = {"EXTNAME": kind, "EXTTYPE": kind}
            if kind == "MASK":
                long = {key: "HIERARCH " if len(key) > 5 else "" for key in _PLANES}
                cards |= {f"{long[key]}MP_{key}": bit for key, bit in _PLANES.items()}
            parts.append(compressed(canvas, kind, world + cards_of(cards), steps.get(kind)))
        yield band, parts
