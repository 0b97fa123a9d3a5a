"""Are generated posteriors of scalars calibrated? Measured on objects whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnisky.model.generation.results import ScalarPosterior

__all__ = ["Calibration", "calibration_of", "share_interval"]

# Standard deviations of a two-sided 95 % interval.
_Z = 1.959964
_LEVELS = (0.5, 0.68, 0.9, 0.95)
_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Hold how posteriors and truth agree.

    Parameters
    ----------
    pit : array, shape (object,)
        Probability integral transform: the share of the posterior below the truth, uniform between
        0 and 1 if posteriors are calibrated.
    levels : tuple of float
        Probabilities of central intervals.
    inside : array of bool, shape (level, object)
        Whether the interval holds the truth.
    """

    pit: np.ndarray
    levels: tuple[float, ...]
    inside: np.ndarray

    @property
    def coverage(self) -> dict[float, tuple[float, float, float]]:
        """By level: the share of intervals that hold the truth, and its 95 % interval."""
        return {
            level: (float(row.mean()), *share_interval(int(row.sum()), len(row)))
            for level, row in zip(self.levels, self.inside, strict=True)
        }

    @property
    def distance(self) -> float:
        """Largest distance between the distribution of the PIT and the uniform one."""
        ordered, n = np.sort(self.pit), len(self.pit)
        steps = np.arange(n + 1) / n
        return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))

    def to_dict(self) -> dict[str, Any]:
        """Return numbers to write as JSON.

        ``distance_expected_below``: calibrated posteriors stay under it in 95 %
        of samples of this size (Kolmogorov).
        """
        share = np.histogram(self.pit, _BINS, (0, 1))[0] / len(self.pit)
        return {
            "objects": len(self.pit),
            "coverage": [
                {"level": level, "found": found, "low": low, "high": high}
                for level, (found, low, high) in self.coverage.items()
            ],
            "pit_histogram": share.tolist(),
            "pit_mean": float(self.pit.mean()),
            "pit_std": float(self.pit.std()),
            "pit_std_if_uniform": 12**-0.5,
            "distance": self.distance,
            "distance_expected_below": 1.358 / len(self.pit) ** 0.5,
        }


def calibration_of(
    posterior: ScalarPosterior, truth: np.ndarray, levels: Sequence[float] = _LEVELS
) -> Calibration:
    """Compare posteriors with the truth.

    Parameters
    ----------
    posterior : ScalarPosterior
        As generated.
    truth : array, shape (object,)
        In the modality's unit; objects where it is not finite are left out.
    levels : sequence of float
        Probabilities of the central intervals to look at.

    Raises
    ------
    ValueError
        If shapes disagree, no truth is finite, or a level is not between 0 and 1.
    """
    truth = np.asarray(truth, dtype=float)
    if truth.shape != posterior.mean.shape or not np.isfinite(truth).any():
        raise ValueError(
            f"the truth of {len(posterior.mean)} objects must have shape ({len(posterior.mean)},) "
            f"and be finite for some; found shape {truth.shape}, {int(np.isfinite(truth).sum())} "
            "finite"
        )
    if strange := [level for level in levels if not 0 < level < 1]:
        raise ValueError(f"levels lie between 0 and 1; found {strange}")
    known = np.isfinite(truth)
    truth = truth[known]
    pit = np.array(
        [
            np.interp(value, posterior.values, below)
            for value, below in zip(truth, posterior.below[known], strict=True)
        ]
    )
    inside = []
    for level in levels:
        low, high = (posterior.quantile(0.5 + side * level / 2)[known] for side in (-1, 1))
        inside.append((low <= truth) & (truth <= high))
    return Calibration(pit, tuple(levels), np.array(inside))


def share_interval(hits: int, tries: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927): of hits among tries."""
    share, weight = hits / tries, _Z**2 / tries
    middle = (share + weight / 2) / (1 + weight)
    half = (weight * (share * (1 - share) + weight / 4)) ** 0.5 / (1 + weight)
    return middle - half, middle + half
