"""What a galaxy looks like, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.mock.truth import Truth

__all__ = ["DISK", "ELLIPTICAL", "IRREGULAR", "MERGER", "Shape"]

ELLIPTICAL, DISK, IRREGULAR, MERGER = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Hold what the light of a galaxy is distributed by; the fields are columns of the truth table.

    Angles are in degrees and lengths in arcsec, as `omnisky.mock.truth.COLUMNS` declares them;
    what does not apply is zero. `detail` are numbers, uniform in (0, 1), that the small structure
    is drawn from.
    """

    detail: np.ndarray
    morphology: int = DISK
    pa: float = 0.0
    re_bulge: float = 0.5
    n_bulge: float = 4.0
    q_bulge: float = 0.9
    re_disk: float = 1.0
    q_disk: float = 0.7
    inclination: float = 45.0
    n_arms: float = 0
    arm_pitch: float = 20.0
    arm_contrast: float = 0.0
    arm_phase: float = 0.0
    winding: float = 1
    flocculence: float = 0.3
    bar_length: float = 0.0
    bar_strength: float = 0.0
    bar_angle: float = 0.0
    ring_radius: float = 0.0
    ring_strength: float = 0.0
    dust_lane: float = 0.0
    a_v: float = 0.3
    clumpiness: float = 0.0
    merger_angle: float = 0.0
    tail_strength: float = 0.0

    @classmethod
    def of(cls, truth: Truth, detail: np.ndarray) -> Shape:
        """Read the shape of one galaxy from a truth table of length 1."""
        values: dict[str, float] = {}
        for name in _NAMES:
            value = float(truth[name][0])
            values[name] = 0.0 if value != value else value
        values["winding"] = values["winding"] or 1.0
        values["arm_pitch"] = values["arm_pitch"] or 20.0
        for name in ("n_arms", "flocculence", "tail_strength"):
            values[name] = max(values[name], 0.0)
        # A galaxy without a bulge or a disk may leave these out; the other component stands in.
        radius = max(values["re_disk"], values["re_bulge"], 0.05)
        for part in ("disk", "bulge"):
            values[f"re_{part}"] = max(values[f"re_{part}"] or radius, 0.02)
        axis_ratio = values["q_disk"] or values["q_bulge"] or 0.8
        for part in ("disk", "bulge"):
            values[f"q_{part}"] = min(max(values[f"q_{part}"] or axis_ratio, 0.05), 1.0)
        values["n_bulge"] = min(max(values["n_bulge"] or 4.0, 0.5), 6.0)
        return cls(detail=detail, **values)  # pyright: ignore[reportArgumentType]


_NAMES = tuple(name for name in Shape.__dataclass_fields__ if name != "detail")
