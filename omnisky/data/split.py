"""Fixed splits by a hash of the object's id or of its cell on the sky, the same for ever."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["GUARD", "SPLITS", "split_by_cell", "split_by_id"]

SPLITS = ("train", "calibration", "test")
GUARD = "guard"
_OBJECTS_AT_ONCE = 500_000


def split_by_id(
    object_id: np.ndarray, *, test: float = 0.2, calibration: float = 0.1
) -> np.ndarray:
    """Assign each object to train, calibration or test by the SHA-256 of its id.

    Row order, other rows and the machine do not matter, and two rows of one object always fall on
    the same side.

    Parameters
    ----------
    object_id : array of int or str, shape (object,)
        Survey identifiers, for example Gaia ``source_id``.
    test, calibration : float
        Fractions of the two held-out parts.

    Returns
    -------
    array of str, shape (object,)
        ``"train"``, ``"calibration"`` or ``"test"``.

    Raises
    ------
    ValueError
        If the fractions are negative or leave nothing to train on.
    """
    if not (test >= 0 and calibration >= 0 and test + calibration < 1):
        raise ValueError(
            f"test={test} and calibration={calibration} must be fractions that leave a part to "
            "train on (sum < 1)"
        )
    digests = (hashlib.sha256(str(i).encode()).digest()[:8] for i in np.asarray(object_id).tolist())
    uniform = np.array([int.from_bytes(d, "big") / 2.0**64 for d in digests])
    return np.select(
        [uniform < test, uniform < test + calibration], ["test", "calibration"], "train"
    )


def split_by_cell(
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    order: int = 5,
    guard_arcsec: float = 30.0,
    *,
    test: float = 0.2,
    calibration: float = 0.1,
) -> np.ndarray:
    """Assign objects to train, calibration or test by the HEALPix cell that they are in.

    Whole cells go to one part, by the SHA-256 of order and cell, so that neither clustering nor
    overlapping cut-outs carry the test sky into training. Objects within the guard ring, that is
    near a cell of another part, are in none: two objects closer together than `guard_arcsec` are
    never in two different parts, whichever surveys they come from. A guard wider than the match
    radius therefore keeps every detection of one object on one side; one wider than a cut-out keeps
    pixels from being seen twice.

    Parameters
    ----------
    ra_deg, dec_deg : array, shape (object,)
        ICRS positions in degrees.
    order : int
        HEALPix order of the cells: 5 has cells of 1.8 degrees, each order halves them.
    guard_arcsec : float
        Least width of the guard ring, 0 for none. The ring follows smaller HEALPix cells and is up
        to about four times as wide in places.
    test, calibration : float
        Fractions of the sky of the two held-out parts.

    Returns
    -------
    array of str, shape (object,)
        ``"train"``, ``"calibration"``, ``"test"`` or ``"guard"``.

    Raises
    ------
    ValueError
        If a position is not on the sphere, the ring is wider than a cell, or the fractions leave
        nothing to train on.
    ImportError
        If cdshealpix is not installed.
    """
    from omnisky.data.store.healpix import MAX_ORDER, healpix29, margin_order

    ra, dec = (np.asarray(a, dtype=np.float64) for a in (ra_deg, dec_deg))
    if ra.ndim != 1 or ra.shape != dec.shape or not (np.isfinite(ra) & (np.abs(dec) <= 90)).all():
        raise ValueError(
            "positions to split must be finite, one ra and dec an object, dec in [-90, 90]; found "
            f"shapes {ra.shape} and {dec.shape}"
        )
    if not (0 <= order <= MAX_ORDER and guard_arcsec >= 0):
        raise ValueError(
            f"order must be in [0, {MAX_ORDER}] and guard_arcsec not negative; found {order} and "
            f"{guard_arcsec}"
        )
    fine = margin_order(guard_arcsec, []) if guard_arcsec else order
    if fine < order:
        raise ValueError(
            f"a guard ring of {guard_arcsec:g} arcsec is wider than cells of order {order}; use "
            f"order {fine} at most or a thinner ring"
        )
    cell = healpix29(ra, dec) >> 2 * (MAX_ORDER - fine)
    part = _part_of_cells(cell >> 2 * (fine - order), order, test, calibration)
    if guard_arcsec:
        for start in range(0, len(cell), _OBJECTS_AT_ONCE):
            some = slice(start, start + _OBJECTS_AT_ONCE)
            around = _with_neighbours(cell[some], fine) >> 2 * (fine - order)
            other = _part_of_cells(around, order, test, calibration) != part[some, None]
            part[some][other.any(axis=1)] = GUARD
    return part


def _part_of_cells(cell: np.ndarray, order: int, test: float, calibration: float) -> np.ndarray:
    unique, inverse = np.unique(cell, return_inverse=True)
    names = np.array([f"healpix {order}/{c}" for c in unique.tolist()], dtype=str)
    return split_by_id(names, test=test, calibration=calibration)[inverse.reshape(cell.shape)]


def _with_neighbours(cell: np.ndarray, order: int) -> np.ndarray:
    """Return the cells of an order and those that touch them, shape (object, 9)."""
    from cdshealpix import nested

    around = nested.neighbours(cell.astype(np.uint64), order, num_threads=1)
    # Where three cells meet there is one neighbour less, given as -1.
    return np.where(around < 0, cell[:, None], around)
