"""The any-to-any matrix as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from omnisky.train.pretraining.matrix import AnyToAny

__all__ = ["draw_matrix"]

# Colour-blind safe (Okabe & Ito 2008).
_ORANGE, _GREY = "#D55E00", "#dddddd"
_INCHES_A_MODALITY, _INCHES_AROUND = 0.22, 3.0
# Above so many modalities numbers in the cells cannot be read.
_MOST_NUMBERED = 20


def draw_matrix(matrix: AnyToAny, path: Path) -> None:
    """Draw the gains: given in rows, targets in columns.

    Pairs that no held-out object has are grey; those never seen together in training are framed.

    Parameters
    ----------
    matrix : AnyToAny
        The matrix.
    path : Path
        File to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from omnisky.train.pretraining.matrix import ALL_OTHERS

    gains, given = matrix.table(), (*matrix.modalities, ALL_OTHERS)
    side = _INCHES_AROUND + _INCHES_A_MODALITY * len(given)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(_GREY)
    known = gains[np.isfinite(gains)]
    highest = max(float(np.quantile(known, 0.99)), 0.1) if known.size else 1.0
    # Zero in the middle: what is worse than nothing shall be seen.
    drawn = axes.imshow(gains, cmap="PuOr_r", vmin=-highest, vmax=highest)
    if len(given) <= _MOST_NUMBERED:
        for (row, column), gain in np.ndenumerate(gains):
            if np.isfinite(gain):
                axes.text(column, row, f"{gain:.1f}", ha="center", va="center", size=6)
    for entry in matrix.entries:
        if not entry.seen_together:
            corner = (
                matrix.modalities.index(entry.target) - 0.5,
                given.index(entry.given) - 0.5,
            )
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_ORANGE, lw=1.0))
    axes.set_xticks(range(len(matrix.modalities)), matrix.modalities, rotation=90, size=7)
    axes.set_yticks(range(len(given)), given, size=7)
    axes.set(xlabel="target", ylabel="given")
    never = any(not entry.seen_together for entry in matrix.entries)
    axes.set_title(
        f"{matrix.mock} objects, held out; grey: no object has both"
        + ("; framed: never seen together in training" if never else ""),
        size=9,
    )
    figure.colorbar(drawn, ax=axes, shrink=0.6, label=f"gain over frequencies / {matrix.unit}")
    figure.savefig(path, dpi=160)
