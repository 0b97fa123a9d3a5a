"""Objects on the sky: who they are, where, when, and what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.modalities.measurements import Scalar
from omnisky.modalities.observations import Observations

__all__ = ["SkyObjects"]


@dataclass(frozen=True, kw_only=True)
class SkyObjects:
    """Hold identified, positioned objects of one survey with their typed observations.

    What every survey reader yields, a batch at a time, and what the sky store takes.

    Parameters
    ----------
    survey : str
        Name of the survey.
    object_id : array of int64 or str, shape (object,)
        The survey's identifier; never bytes.
    ra_deg, dec_deg : array, shape (object,)
        ICRS position at `epoch`, float64 degrees; right ascension in [0, 360).
    observations : Observations
        What was measured.
    epoch : Scalar, optional
        Julian year of the position; absent where the survey does not say.
    pm_ra, pm_dec : Scalar, optional
        Proper motion in mas / yr, that in right ascension including cos(dec).

    Raises
    ------
    ValueError
        If lengths disagree, an identifier is of another type, or a position is not finite or
        outside the sphere.
    """

    survey: str
    object_id: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    observations: Observations
    epoch: Scalar | None = None
    pm_ra: Scalar | None = None
    pm_dec: Scalar | None = None

    def __post_init__(self) -> None:
        ids = np.asarray(self.object_id)
        if ids.ndim != 1 or ids.dtype.kind not in "iuU":
            raise ValueError(
                f"object_id of {self.survey!r} must be integers or strings, one an object; found "
                f"shape {ids.shape} of {ids.dtype}. Decode bytes first"
            )
        if ids.dtype.kind == "u" and (ids > np.iinfo(np.int64).max).any():
            raise ValueError(
                f"object_id of {self.survey!r} must be below 2^63 or text; found {ids.max()}. "
                "Give the identifiers as text"
            )
        ids = ids.astype(np.int64) if ids.dtype.kind in "iu" else ids
        ra, dec = (np.asarray(a, dtype=np.float64) for a in (self.ra_deg, self.dec_deg))
        wrong = ~(np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90))
        wrong |= ~((ra >= 0) & (ra < 360))
        if ra.shape != ids.shape or dec.shape != ids.shape or wrong.any():
            where = f"; the first wrong one is {ids[wrong][0]!r}" if ra.shape == ids.shape else ""
            raise ValueError(
                f"positions of {self.survey!r} must be finite, one an object, with ra in [0, 360) "
                f"and dec in [-90, 90]; found shapes {ra.shape} and {dec.shape} for {ids.shape} "
                f"objects{where}"
            )
        lengths = {len(ids), len(self.observations)}
        lengths |= {len(s) for s in (self.epoch, self.pm_ra, self.pm_dec) if s is not None}
        if len(lengths) > 1 or (self.pm_ra is None) != (self.pm_dec is None):
            raise ValueError(
                f"objects of {self.survey!r} need one row each in all parts and both proper "
                f"motions or none; found lengths {sorted(lengths)}"
            )
        for name, value in (("object_id", ids), ("ra_deg", ra), ("dec_deg", dec)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.object_id)

    def __getitem__(self, index) -> SkyObjects:
        """Return some objects: by a slice, integers or a boolean array."""
        moving = {
            name: None if part is None else part[index]
            for name, part in (
                ("epoch", self.epoch),
                ("pm_ra", self.pm_ra),
                ("pm_dec", self.pm_dec),
            )
        }
        return SkyObjects(
            survey=self.survey,
            object_id=np.atleast_1d(self.object_id[index]),
            ra_deg=np.atleast_1d(self.ra_deg[index]),
            dec_deg=np.atleast_1d(self.dec_deg[index]),
            observations=self.observations[index],
            **moving,
        )
