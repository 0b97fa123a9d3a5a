"""Intervals with guaranteed coverage, and a fair blend, from objects not trained on.

Conformal prediction with normalised scores (Lei et al. 2018, JASA 113, 1094): the score of an
object is its absolute error in units of the scale the model predicted for it. The interval of a
new object is its prediction ± quantile × scale. If the calibration objects are exchangeable with
the new ones, it covers the truth with at least the probability asked for, whatever the model is
worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from omnisky.adapt.fitting import student_loss
from omnisky.adapt.heads import ENOUGH, Unit, blends_of
from omnisky.adapt.inputs import View, richest
from omnisky.adapt.labels import Labels, TargetScale

__all__ = ["ConformalScores", "choose_blend", "held_scores", "labels_to_blend"]

# (n + 1) × 0.7 must not become 7.000000000000001 and cost one rank.
_ROUNDING = 1e-9
# More objects than these say little more about a blend.
_PLENTY = 500
# Median size of an error of a normal distribution, in sigma; errors are no smaller than rounding.
_NORMAL_QUARTILE, _NARROWEST = 0.6745, 1e-6


@dataclass(frozen=True, kw_only=True)
class ConformalScores:
    """Hold the scores of calibration objects for each pattern of inputs.

    Parameters
    ----------
    scores : dict of str to array, shape (object, target)
        Absolute error over predicted scale, by name of the input pattern; NaN where the label is
        unknown.
    method : {"cross-fitted", "split"}
        Where they come from: objects left out of parts of the fit (coverage is approximate, on the
        safe side for ensembles), or held-out objects given to ``calibrate`` (exact).
    """

    scores: dict[str, np.ndarray]
    method: str

    @classmethod
    def collect(
        cls, parts: list[dict[int, np.ndarray]], patterns: list[str], targets: int, method: str
    ) -> ConformalScores:
        """Join scores by number of the pattern; a pattern without any gets an empty array."""
        none = np.empty((0, targets))
        joined = {
            name: np.concatenate([none, *(part[i] for part in parts if i in part)])
            for i, name in enumerate(patterns)
        }
        return cls(scores=joined, method=method)

    def quantile(self, pattern: str, coverage: float) -> np.ndarray:
        r"""Return the score that covers, one a target, shape (target,).

        The :math:`\lceil (n + 1) \, c \rceil`-th smallest of the n known scores.

        Raises
        ------
        ValueError
            If the coverage is outside (0, 1), or there are too few scores for it.
        """
        if not (isinstance(coverage, Real) and 0 < coverage < 1):
            raise ValueError(
                f"coverage must be one number between 0 and 1 (exclusive); found {coverage!r}. "
                "0.9 asks for intervals that hold the truth for 9 objects in 10"
            )
        scores = self.scores[pattern]
        return np.array([self._of_target(column, pattern, coverage) for column in scores.T])

    def quantiles(self, patterns: list[str], shown: np.ndarray, coverage: float) -> np.ndarray:
        """Return `quantile` of the pattern that each object shows, shape (object, target)."""
        there, which = np.unique(shown, return_inverse=True)
        return np.stack([self.quantile(patterns[i], coverage) for i in there])[which]

    @staticmethod
    def _of_target(column: np.ndarray, pattern: str, coverage: float) -> float:
        known = np.sort(column[~np.isnan(column)])
        rank = ceil((len(known) + 1) * coverage - _ROUNDING)
        if rank > len(known):
            least = ceil(coverage / (1 - coverage) - _ROUNDING)
            most = floor(1000 * len(known) / (len(known) + 1)) / 1000
            raise ValueError(
                f"coverage={coverage:g} needs at least {least} calibration objects with a known "
                f"label for inputs {pattern!r}; found {len(known)}. Ask for at most {most:g}, fit "
                "on more objects, or give held-out ones to calibrate(X, y)"
            )
        return float(known[rank - 1])


def held_scores(
    unit: Unit,
    views: list[View],
    labels: Labels,
    scale: TargetScale,
    residuals: dict[int, np.ndarray],
) -> dict[int, np.ndarray]:
    """Return the scores of the objects that members were fitted without, by view.

    A linear probe was fitted with all; its leave-one-out residuals are given.
    """
    scores = {}
    for view in views:
        if not unit.head.shape.attentive:
            width = unit.head.log_scale[0, view.index].exp().cpu().numpy()
            scores[view.index] = np.abs(residuals[view.index][view.rows]) / width
            continue
        location, log_scale = unit.run(view)
        target = labels.target[view.rows].numpy()
        error = np.abs(target - scale.clip(location)) / np.exp(log_scale)
        scores[view.index] = error[labels.held[:, view.rows].numpy()]
    return scores


def labels_to_blend(labels: int, held: int) -> int:
    """Return how many of some labels should choose the blend, all of them of held objects.

    A fifth, at most a quarter of the objects held and 500; none if they are too few to choose.
    """
    wanted = min(labels // 5, held // 4, _PLENTY)
    return wanted if wanted >= ENOUGH else 0


def choose_blend(
    units: Sequence[Unit],
    views: list[View],
    target: np.ndarray,
    chosen: np.ndarray,
    scale: TargetScale,
) -> None:
    """Blend the parts of all units anew, as objects like it best that nobody was fitted on.

    In each pattern that they can show, a target keeps its blend unless another is better by more
    than a standard error, over at least 100 objects; a stricter rule loses more than it saves
    (dev/LOG.md). A pattern that fewer show goes by all objects, each in its fullest view. Errors
    are judged by a Student-t likelihood as wide as those of the blend with the smallest median: a
    mean of their sizes would be ruled by the few objects that every blend gets wrong.

    Parameters
    ----------
    units : sequence of Unit
        Changed in place.
    views : list of View
        Objects under each pattern; an object may be in several.
    target : array, shape (object, target)
        Scaled targets, NaN where unknown.
    chosen : array of bool, shape (object,)
        Which objects are asked.
    scale : TargetScale
        Predictions outside its range are cut.
    """
    fullest = richest(views, len(target))
    views = [view[chosen[view.rows]] for view in views]
    own = {v.index: _better_blend(units, [v], target, scale) for v in views if len(v.rows)}
    alone = [view[fullest[view.rows] == i] for i, view in enumerate(views)]
    alone = [view for view in alone if len(view.rows)]
    # What is shown in one view alone need not be asked twice.
    whole = own[alone[0].index] if len(own) == 1 else None
    of_all = whole or _better_blend(units, alone, target, scale)
    for pattern in range(units[0].head.shares.shape[1]):
        best, clear, count = own.get(pattern, of_all)
        few = count < ENOUGH
        best, clear = torch.where(few, of_all[0], best), torch.where(few, of_all[1], clear)
        for unit in units:
            shares = unit.head.shares[:, pattern]
            shares.copy_(torch.where(clear, best, shares.cpu().double()))


def _better_blend(
    units: Sequence[Unit], views: list[View], target: np.ndarray, scale: TargetScale
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best blend, shape (part, target), if it is clearly better, and of how many."""
    blends = blends_of(len(units[0].head.shares)).double()
    errors = []
    for view in views:
        said = [torch.as_tensor(unit.parts(view)) for unit in units]
        owns = [unit.head.shares[:, view.index].cpu().double() for unit in units]
        pairs = zip(said, owns, strict=True)
        now = torch.stack([torch.einsum("prt,pt->rt", s, own) for s, own in pairs]).mean(0)
        others = torch.einsum("prt,np->nrt", torch.stack(said).mean(0), blends)
        located = scale.clip(torch.cat([now[None], others]).numpy())
        errors.append(torch.as_tensor(located - target[view.rows]))
    error = torch.cat(errors, 1)
    count = (~error[0].isnan()).sum(0)
    width = error.abs().nanmedian(1).values.min(0).values / _NORMAL_QUARTILE
    loss = student_loss(error / width.clamp(min=_NARROWEST))
    gain = loss[:1] - loss[1:]
    mean = gain.nansum(1) / count.clamp(min=1)
    spread = ((gain - mean[:, None]) ** 2).nansum(1).sqrt() / count.clamp(min=1)
    best = mean.argmax(0)
    clear = (mean > spread).gather(0, best[None])[0] & (count >= ENOUGH)
    return blends[best].T, clear, count
