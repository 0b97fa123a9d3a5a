"""Task: effective temperature, surface gravity and metallicity of stars from Gaia XP and 2MASS."""

from __future__ import annotations

from omnisky.baselines.features import PHOTOMETRY, XP
from omnisky.bench.task import Task

__all__ = ["STARS"]

STARS = Task(
    name="stars/gaia-apogee",
    version=1,
    dataset="gaia-apogee",
    inputs={"photometry": PHOTOMETRY, "xp": XP, "xp+photometry": (*XP, *PHOTOMETRY)},
    targets=("apogee_teff", "apogee_logg", "apogee_fe_h"),
    units=("K", "dex", "dex"),
    label_counts=(100, 300, 1000, 5000, 20000),
    goals={5000: (85.0, 0.18, 0.105)},
    caveat=(
        "At every label count, intervals are calibrated on about 3 990 further stars with known "
        "labels, which took no part in the fit; some of them choose the blend of attentive and "
        "full, and count as labels. "
        "nano was pretrained with the labels of all train stars, so that with few labels a model "
        "on it knows more than the baselines were given. The recipe nano-unlabelled makes one that "
        "has seen none."
    ),
)
