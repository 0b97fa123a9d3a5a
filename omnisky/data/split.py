"""Fixed splits by a hash of the object id: the same object falls on the same side for ever."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["SPLITS", "split_by_id"]

SPLITS = ("train", "calibration", "test")


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
