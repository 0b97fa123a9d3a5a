"""Spectra summed on the knots of a partition, each pixel by its inverse variance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.codecs.spectrum.native.partition import Pixels
from omnisky.modalities import Spectrum

__all__ = ["OnKnots", "on_knots"]

# A median below this share of the noise is noise: the scale of the spectrum is then the noise.
_FAINT = 0.3
# Where no error is known at all: not below this share of the median.
_LEAST_ERROR = 1e-3


@dataclass(frozen=True, kw_only=True)
class OnKnots:
    """Hold spectra on their own pixels and on knots, all float64 in the unit of the flux.

    Parameters
    ----------
    good : array of bool, shape (object, pixel)
        Pixels that are used: good, with a known error, inside the partition.
    flux, ivar : array, shape (object, pixel)
        Flux and inverse variance; zero where not used.
    value, weight : array, shape (object, knot)
        Mean flux and its inverse variance; zero where no pixel is.
    there : array of bool, shape (object, bin)
        Bins with at least one good pixel.
    scale, noise : array, shape (object,)
        Positive scale of the flux, and median error; 1 without a good pixel.
    """

    good: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    there: np.ndarray
    scale: np.ndarray
    noise: np.ndarray


def on_knots(spectra: Spectrum, pixels: Pixels) -> OnKnots:
    """Sum spectra on knots.

    Pixels without a known error are not used. Of a spectrum without any known error the error is
    taken from the scatter of neighbouring pixels, the same for all.

    Parameters
    ----------
    spectra : Spectrum
        The spectra.
    pixels : Pixels
        How their pixels lie in a partition.
    """
    usable = spectra.mask & pixels.inside
    ivar = np.where(usable, spectra.ivar, 0.0)
    unknown = usable.any(1) & ~(ivar > 0).any(1)
    if unknown.any():
        ivar[unknown] = _guessed(spectra.flux[unknown].astype(np.float64), usable[unknown])
    good = usable & (ivar > 0)
    flux = np.where(good, spectra.flux, 0.0).astype(np.float64)
    weight = pixels.on_knots(ivar)
    total = pixels.on_knots(flux * ivar)
    value = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    noise = _median(np.divide(1, ivar, out=np.zeros_like(ivar), where=good), good) ** 0.5
    return OnKnots(
        good=good,
        flux=flux,
        ivar=ivar,
        value=value,
        weight=weight,
        there=pixels.bins_with(good),
        scale=np.maximum(_median(flux, good), _FAINT * noise),
        noise=noise,
    )


def _median(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the median of the good values of each row, 1 where there are none."""
    # Row by row: a masked median of an array is many times slower.
    return np.array(
        [np.median(row[use]) if use.any() else 1.0 for row, use in zip(values, good, strict=True)]
    )


def _guessed(flux: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return inverse variances from differences of neighbours, 0 where not good."""
    both = good[:, 1:] & good[:, :-1]
    scatter = 1.4826 * _median(np.abs(np.diff(flux)), both) / np.sqrt(2)
    # A spectrum of one or two pixels, or without noise, has no scatter.
    scatter = np.where(both.any(1), scatter, 0.0)
    level = np.abs(_median(flux, good))
    error = np.maximum(scatter, np.where(level > 0, _LEAST_ERROR * level, 1.0))
    return np.where(good, 1 / error[:, None] ** 2, 0.0)
