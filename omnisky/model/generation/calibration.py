"""Are generated posteriors of scalars calibrated? Measured on known objects, and mended by them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnisky.model.generation.results import ScalarPosterior

__all__ = ["ENOUGH", "Calibration", "calibration_of", "mean_crps", "share_interval"]

# Standard deviations of a two-sided 95 % interval.
_Z = 1.959964
_LEVELS = (0.5, 0.68, 0.9, 0.95)
_BINS = 10
# Fewer known objects than this say little of a distribution.
ENOUGH = 50
_EDGE = 1e-12


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
    values : array, shape (bin,)
        What the bins of the posteriors stand for.
    """

    pit: np.ndarray
    levels: tuple[float, ...]
    inside: np.ndarray
    values: np.ndarray

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

    def recalibrate(self, posterior: ScalarPosterior, *, seed: int = 0) -> ScalarPosterior:
        """Return posteriors with the errors mended that were found on the known objects.

        If a tenth of the truths lay below the posterior's 3 % quantile, that becomes the 10 %
        quantile, and so at every level: the cumulative distribution is mapped by that of the PIT
        (Bordoloi et al. 2010, arXiv:0910.5735; Kuleshov et al. 2018, arXiv:1807.00263). Intervals
        then hold the truth as often as they say, on average over objects like the known ones that
        were given the same modalities.

        Parameters
        ----------
        posterior : ScalarPosterior
            Of new objects, generated as those of the known ones were.
        seed : int
            Draws where in its bin a sample lies. But for that, samples keep their order, and so
            what several targets have to do with each other.

        Raises
        ------
        ValueError
            If there are fewer than 50 known objects, or the posterior has other bins.
        """
        if len(self.pit) < ENOUGH:
            raise ValueError(
                f"recalibration needs {ENOUGH} objects whose truth is known; found "
                f"{len(self.pit)}. Give calibration_of more of them"
            )
        if not np.array_equal(posterior.values, self.values):
            raise ValueError(
                f"this calibration is of bins from {self.values[0]:g} to {self.values[-1]:g}, "
                f"{len(self.values)} in all; the posterior has {len(posterior.values)} from "
                f"{posterior.values[0]:g} to {posterior.values[-1]:g}. Is it another modality's?"
            )
        before = _up_to_bin(posterior.probabilities)
        after = self._mapped(before)
        bins = np.searchsorted((self.values[1:] + self.values[:-1]) / 2, posterior.samples)
        # Other draws for other targets, which would else seem to go together.
        draws = np.random.default_rng([seed, zlib.crc32(self.values.tobytes())])
        within = draws.random(bins.shape)
        samples = np.empty(bins.shape)
        for i in range(len(before)):
            upper, lower = before[i, bins[:, i]], np.append(0, before[i])[bins[:, i]]
            rank = lower + within[:, i] * (upper - lower)
            samples[:, i] = self.values[np.searchsorted(after[i], rank)]
        return ScalarPosterior(self.values, np.diff(after, prepend=0, axis=1), samples)

    def _mapped(self, share: np.ndarray) -> np.ndarray:
        """Return how many of the truths lay below a share of their posteriors."""
        # Nothing lies below 0 or above 1: truths beyond all bins count just inside.
        pit, count = np.unique(self.pit.clip(_EDGE, 1 - _EDGE), return_counts=True)
        # Midway through those that are equal; n truths leave room for n + 1 gaps.
        below = (np.cumsum(count) - (count - 1) / 2) / (len(self.pit) + 1)
        return np.interp(share, np.concatenate([[0], pit, [1]]), np.concatenate([[0], below, [1]]))

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
    truth = _checked(posterior, truth)
    if strange := [level for level in levels if not 0 < level < 1]:
        raise ValueError(f"levels lie between 0 and 1; found {strange}")
    known = np.isfinite(truth)
    truth = truth[known]
    pit = np.array(
        [
            np.interp(value, posterior.values, below, left=0, right=1)
            for value, below in zip(truth, posterior.below[known], strict=True)
        ]
    )
    low, high = (
        posterior.quantile([0.5 + side * level / 2 for level in levels])[:, known]
        for side in (-1, 1)
    )
    inside = (low <= truth) & (truth <= high)
    return Calibration(pit, tuple(levels), inside, posterior.values)


def mean_crps(posterior: ScalarPosterior, truth: np.ndarray) -> float:
    """Return the mean continuous ranked probability score, in the modality's unit; less is better.

    The integral of the squared difference between the cumulative distribution and the step at the
    truth (Gneiting & Raftery 2007, eq. 20); for a single value it is the absolute error.

    Parameters
    ----------
    posterior, truth : like for `calibration_of`

    Raises
    ------
    ValueError
        If shapes disagree or no truth is finite.
    """
    truth = _checked(posterior, truth)
    known = np.isfinite(truth)
    cumulative, middle = _up_to_bin(posterior.probabilities[known])[:, :-1], posterior.values
    # Each bin is a point at its value: the distribution is a staircase, cut once more at the truth.
    left, right = middle[:-1], middle[1:]
    cut = truth[known, None].clip(left, right)
    inside = cumulative**2 * (cut - left) + (1 - cumulative) ** 2 * (right - cut)
    outside = np.abs(truth[known] - truth[known].clip(middle[0], middle[-1]))
    return float((inside.sum(1) + outside).mean())


def _checked(posterior: ScalarPosterior, truth: np.ndarray) -> np.ndarray:
    truth = np.asarray(truth, dtype=float)
    objects = len(posterior.probabilities)
    if truth.shape != (objects,) or not np.isfinite(truth).any():
        raise ValueError(
            f"the truth of {objects} objects must have shape ({objects},) and be finite for some; "
            f"found shape {truth.shape}, {int(np.isfinite(truth).sum())} finite"
        )
    return truth


def _up_to_bin(probabilities: np.ndarray) -> np.ndarray:
    """Return the probability up to the end of each bin; exactly 1 in the last."""
    cumulative = np.cumsum(probabilities, axis=1)
    return cumulative / cumulative[:, -1:]


def share_interval(hits: int, tries: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927): of hits among tries."""
    share, weight = hits / tries, _Z**2 / tries
    middle = (share + weight / 2) / (1 + weight)
    half = (weight * (share * (1 - share) + weight / 4)) ** 0.5 / (1 + weight)
    return middle - half, middle + half
