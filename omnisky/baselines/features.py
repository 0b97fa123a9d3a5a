"""Observations to a feature matrix: compressed spectra, magnitudes, colours, what is missing."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from omnisky.modalities import Observations, Spectrum
from omnisky.surveys import modalities

__all__ = ["PHOTOMETRY", "XP", "ObservationFeatures"]

PHOTOMETRY = ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k")
XP = ("gaia_xp",)


def _is_magnitude(name: str) -> bool:
    declared = modalities().get(name)
    return declared is not None and declared.ucd.startswith("phot.mag")


class ObservationFeatures(TransformerMixin, BaseEstimator):
    """Turn observations into standardised numbers for regressors that know no astronomy.

    A spectrum becomes log(max(flux / median flux, floor)) a pixel and the magnitude of its median;
    magnitudes, that one included, become themselves and all their colours; other scalars pass as
    they are. Columns are standardised with the training objects and clipped. Missing values become
    the training median, and a column that had any gets an indicator column.

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
        self.n_pixels_ = sum(
            m.flux.shape[1] for m in observations.values() if isinstance(m, Spectrum)
        )
        self._pixels = {
            name: m.flux.shape[1] for name, m in observations.items() if isinstance(m, Spectrum)
        }
        raw = self._raw(observations)
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
        raw = self._raw(observations)
        known = np.isfinite(raw)
        scaled = (np.where(known, raw, self.median_) - self.mean_) / self.scale_
        scaled = scaled.clip(-self.clip, self.clip)
        return np.hstack([scaled, ~known[:, self._gap_columns]]).astype(np.float32)

    def _raw(self, observations: Observations) -> np.ndarray:
        """Return unscaled columns, NaN where missing, in an order fixed at fit."""
        pixels, magnitudes, others = [], [], []
        for name in self.modalities_:
            if name in self._pixels:
                shape, brightness = self._spectrum(observations, name)
                pixels.append(shape)
                magnitudes.append(brightness)
            else:
                value = _scalar(observations, name)
                (magnitudes if _is_magnitude(name) else others).append(value)
        colours = [blue - red for blue, red in combinations(magnitudes, 2)]
        columns = [c[:, None] for c in (*magnitudes, *colours, *others)]
        return np.hstack([*pixels, *columns])

    def _spectrum(self, observations: Observations, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return log of flux over median, shape (object, pixel), and the median's magnitude."""
        n_pixels = self._pixels[name]
        if name not in observations:
            length = len(observations)
            return np.full((length, n_pixels), np.nan), np.full(length, np.nan)
        spectrum = observations[name]
        found = spectrum.flux.shape[1] if isinstance(spectrum, Spectrum) else 0
        if found != n_pixels:
            raise ValueError(
                f"{name!r} was a spectrum of {n_pixels} pixels at fit; found a "
                f"{type(spectrum).__name__} with {found or 'no'} pixels"
            )
        flux = np.where(spectrum.mask, spectrum.flux.astype(np.float64), np.nan)
        median = np.full(len(flux), np.nan)
        seen = spectrum.present
        median[seen] = np.nanmedian(flux[seen], axis=1)
        median = np.where(median > 0, median, np.nan)
        return np.log(np.maximum(flux / median[:, None], self.floor)), -2.5 * np.log10(median)


def _scalar(observations: Observations, name: str) -> np.ndarray:
    if name not in observations:
        return np.full(len(observations), np.nan)
    scalar = observations[name]
    if isinstance(scalar, Spectrum):
        raise ValueError(f"{name!r} was a scalar at fit and is a spectrum now")
    return np.where(scalar.mask, scalar.value, np.nan)
