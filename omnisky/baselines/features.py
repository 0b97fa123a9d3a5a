"""Observations to a feature matrix: compressed spectra, magnitudes, colours, what is missing."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from omnisky.adapt.measured import MeasuredColumns
from omnisky.modalities import Observations

__all__ = ["PHOTOMETRY", "XP", "ObservationFeatures"]

PHOTOMETRY = ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k")
XP = ("gaia_xp",)


class ObservationFeatures(TransformerMixin, BaseEstimator):
    """Turn observations into standardised numbers for regressors that know no astronomy.

    The columns are those of `omnisky.adapt.measured.MeasuredColumns`, standardised with the
    training objects and clipped. Missing values become the training median, and a column that had
    any gets an indicator column.

    Parameters
    ----------
    floor : float
        Smallest flux, in units of the spectrum's median; also tames negative pixels.
    clip : float
        Largest distance from the mean, in standard deviations.

    Attributes
    ----------
    modalities_ : tuple of str
        Modalities seen at fit.
    n_pixels_ : int
        The first columns are the pixels of all spectra.
    """

    def __init__(self, floor: float = 0.02, clip: float = 6.0) -> None:
        self.floor = floor
        self.clip = clip

    def fit(self, observations: Observations, y=None) -> ObservationFeatures:
        """Learn medians, means and scales; `y` is ignored.

        Raises
        ------
        TypeError
            If these are not `Observations`.
        """
        if not isinstance(observations, Observations):
            raise TypeError(
                "a baseline takes omnisky.modalities.Observations (they know which number is a "
                f"magnitude and which a spectrum); found {type(observations).__name__}"
            )
        self.modalities_ = tuple(observations)
        self._columns = MeasuredColumns.of(observations, self.floor)
        self.n_pixels_ = self._columns.n_pixels
        raw = self._columns.table(observations)
        known = np.isfinite(raw)
        self.median_ = np.array(
            [np.median(c[k]) if k.any() else 0.0 for c, k in zip(raw.T, known.T, strict=True)]
        )
        filled = np.where(known, raw, self.median_)
        scale = filled.std(axis=0)
        self.mean_ = filled.mean(axis=0)
        self.scale_ = np.where(scale > 1e-6, scale, 1.0)
        # One indicator for columns that are missing together, as the pixels of an absent spectrum.
        gaps = ~known[:, ~known.all(axis=0)]
        self._gap_columns = np.flatnonzero(~known.all(axis=0))
        if gaps.size:
            _, first = np.unique(gaps, axis=1, return_index=True)
            self._gap_columns = self._gap_columns[np.sort(first)]
        return self

    def transform(self, observations: Observations) -> np.ndarray:
        """Return the features, float32, shape (object, feature), without NaN.

        Raises
        ------
        ValueError
            If there is a modality that was not seen at fit. Absent ones are imputed.
        """
        check_is_fitted(self, "median_")
        unseen = [name for name in observations if name not in self.modalities_]
        if unseen:
            raise ValueError(
                f"fitted on {', '.join(self.modalities_)}, but these objects also have "
                f"{', '.join(unseen)}; leave them out with observations.drop(...) or fit again"
            )
        raw = self._columns.table(observations)
        known = np.isfinite(raw)
        scaled = (np.where(known, raw, self.median_) - self.mean_) / self.scale_
        scaled = scaled.clip(-self.clip, self.clip)
        return np.hstack([scaled, ~known[:, self._gap_columns]]).astype(np.float32)
