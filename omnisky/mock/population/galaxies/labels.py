"""Galaxy10 classes: what a galaxy is, and what a Legacy-Survey-like image can show of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from omnisky.mock.population.galaxies.morphology import (
    DISK,
    EDGE_ON_Q,
    IRREGULAR,
    MERGER,
    SCALE_LENGTHS,
)

__all__ = ["GALAXY10", "apparent_axis_ratio", "morph_true", "morph_visible"]

# Classes of Galaxy10 DECaLS, in its order (Leung & Bovy 2019; Walmsley et al. 2022 votes).
GALAXY10 = (
    "disturbed",
    "merging",
    "round smooth",
    "in-between round smooth",
    "cigar-shaped smooth",
    "barred spiral",
    "unbarred tight spiral",
    "unbarred loose spiral",
    "edge-on without bulge",
    "edge-on with bulge",
)
_DISTURBED, _MERGING, _ROUND, _BETWEEN, _CIGAR = 0, 1, 2, 3, 4
_BARRED, _TIGHT, _LOOSE, _EDGE_ON, _EDGE_ON_BULGE = 5, 6, 7, 8, 9

_TIGHT_PITCH_DEG = 20.0
_BULGE_SHARE = 0.15


def _smooth(q: np.ndarray) -> np.ndarray:
    """Return the smooth class of each axis ratio."""
    return np.select([q > 0.78, q > 0.40], [_ROUND, _BETWEEN], _CIGAR)


def _mean_axis_ratio(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    share = columns["bulge_fraction"]
    return share * columns["q_bulge"] + (1 - share) * columns["q_disk"]


def apparent_axis_ratio(columns: Mapping[str, np.ndarray], fwhm: np.ndarray | float) -> np.ndarray:
    """Return axis ratios after a round Gaussian of given width in arcsec has blurred them."""
    share = columns["bulge_fraction"]
    size = (1 - share) * columns["re_disk"] + share * columns["re_bulge"]
    return _blurred(_mean_axis_ratio(columns), size, fwhm)


def _blurred(q: np.ndarray, size: np.ndarray, fwhm: np.ndarray | float) -> np.ndarray:
    """Return axis ratios of blurred Gaussians: squares of sizes add."""
    sigma2 = (np.asarray(fwhm) / 2.355) ** 2
    return np.sqrt(((q * size) ** 2 + sigma2) / (size**2 + sigma2))


def morph_true(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the Galaxy10 class that the parameters say, however small or faint the galaxy.

    Parameters
    ----------
    columns : mapping of str to array, shape (object,)
        Shapes, as `omnisky.mock.population.galaxies.morphology.shapes` draws them.

    Returns
    -------
    array of int, shape (object,)
        Number in `GALAXY10`.
    """
    kind = columns["morphology"]
    return np.select(
        [
            (kind == MERGER) & (columns["merger_ratio"] > 0),
            (kind == MERGER) | (kind == IRREGULAR),
            (kind == DISK) & (columns["q_disk"] < EDGE_ON_Q),
            (kind == DISK) & (columns["n_arms"] > 0),
        ],
        [_MERGING, _DISTURBED, _edge_on(columns), _spiral(columns, columns["bar_length"] > 0)],
        _smooth(_mean_axis_ratio(columns)),
    )


def _edge_on(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.where(columns["bulge_fraction"] < _BULGE_SHARE, _EDGE_ON, _EDGE_ON_BULGE)


def _spiral(columns: Mapping[str, np.ndarray], barred: np.ndarray) -> np.ndarray:
    tight = columns["arm_pitch"] < _TIGHT_PITCH_DEG
    return np.where(barred, _BARRED, np.where(tight, _TIGHT, _LOOSE))


def morph_visible(
    columns: Mapping[str, np.ndarray],
    flux_r: np.ndarray,
    fwhm: np.ndarray,
    depth: np.ndarray,
) -> np.ndarray:
    """Return the Galaxy10 class that a Legacy-Survey-like r image can show.

    Arms need a scale length above 1.3 FWHM, an axis ratio above 0.35 and a contrast at a
    signal-to-noise ratio above 5; a bar a half-length above 1.5 FWHM and an axis ratio above 0.4;
    a companion a separation above 1 FWHM and a mass ratio above 1:6. What shows nothing of it is
    smooth, with the axis ratio that seeing leaves.

    Parameters
    ----------
    columns : mapping of str to array, shape (object,)
        Shapes.
    flux_r : array, shape (object,)
        Flux in r, nanomaggies.
    fwhm : array, shape (object,)
        Seeing in r, arcsec.
    depth : array, shape (object,)
        AB magnitude of a point source at 5 sigma in r.

    Returns
    -------
    array of int, shape (object,)
        Number in `GALAXY10`.
    """
    kind, size, q = columns["morphology"], columns["re_disk"], columns["q_disk"]
    scale = size / SCALE_LENGTHS
    # Light of the disk over the noise in the ellipse of two half-light radii.
    sigma = 10.0 ** (0.4 * (22.5 - depth)) / 5  # of a point source, over 4 pi (FWHM / 2.355)^2
    beams = np.maximum(4 * q * size**2 / (4 * (fwhm / 2.355) ** 2), 1.0)
    signal = flux_r * (1 - columns["bulge_fraction"]) / (sigma * np.sqrt(beams))
    arms = (columns["n_arms"] > 0) & (scale > 1.3 * fwhm) & (q > 0.35)
    arms &= columns["arm_contrast"] * signal > 5
    bar = (columns["bar_length"] > 1.5 * fwhm) & (q > 0.4)
    bar &= columns["bar_strength"] * signal > 5
    apparent = apparent_axis_ratio(columns, fwhm)
    edge_on = (kind == DISK) & (q < EDGE_ON_Q) & (scale > 1.3 * fwhm) & (signal > 10)
    edge_on &= _blurred(q, size, fwhm) < 0.4
    whole = flux_r / (sigma * np.sqrt(beams))
    pair = (columns["merger_ratio"] > 1 / 6) & (columns["merger_separation"] > fwhm)
    pair &= columns["merger_ratio"] / (1 + columns["merger_ratio"]) * whole > 5
    torn = (kind == MERGER) & (columns["tail_strength"] * whole > 5 * np.sqrt(3))
    torn |= (kind == IRREGULAR) & (scale > 1.3 * fwhm) & (columns["clumpiness"] * whole > 5)
    torn &= size > 1.3 * fwhm
    return np.select(
        [pair, torn, edge_on, (kind == DISK) & arms],
        [_MERGING, _DISTURBED, _edge_on(columns), _spiral(columns, bar)],
        _smooth(apparent),
    )
