"""The figures of the quickstart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from omnisky.adapt.metrics import robust_scatter

if TYPE_CHECKING:
    from omnisky.data.datasets import Dataset
    from omnisky.model.generation import ScalarPosterior, SpectrumSamples

__all__ = ["generated_spectra", "photometry", "posteriors", "predictions"]

# Colour-blind safe (Okabe & Ito 2008).
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
_NAMES = {"apogee_teff": "$T_\\mathrm{eff}$", "apogee_logg": "$\\log g$", "apogee_fe_h": "[Fe/H]"}
_LABELS = {"gaia_g": "G", "twomass_j": "J", "twomass_k": "K"}


def predictions(
    path: Path,
    truth: np.ndarray,
    predicted: np.ndarray,
    targets: Sequence[str],
    units: Sequence[str],
) -> None:
    """Draw predicted against true labels of the test stars, one panel a target."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, len(targets))):
        known = np.isfinite(truth[:, i])
        true, found = truth[known, i], predicted[known, i]
        low, high = np.quantile(true, [0.002, 0.98])
        axes.plot([low, high], [low, high], color=_GREY, lw=0.8)
        axes.plot(true, found, ".", ms=2, alpha=0.25, color=_BLUE, rasterized=True)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set_title(
            f"{_NAMES[targets[i]]}: scatter {robust_scatter(found - true):.3g} {units[i]}"
        )
        axes.set_xlabel(f"APOGEE / {units[i]}")
        axes.locator_params(nbins=5)
    figure.axes[0].set_ylabel("predicted from XP + photometry")
    figure.savefig(path, dpi=160)


def generated_spectra(path: Path, stars: Dataset, samples: SpectrumSamples) -> None:
    """Draw measured spectra over the spread of those sampled from photometry."""
    measured = stars.observations["gaia_xp"]
    teff = stars.targets("apogee_teff")[:, 0]
    figure = Figure(figsize=(11, 6), layout="constrained")
    for i, axes in enumerate(figure.subplots(2, 2, sharex=True).flat):
        scale = np.median(measured.flux[i])
        low, middle, high = np.quantile(samples.samples[:, i] / scale, [0.05, 0.5, 0.95], axis=0)
        axes.fill_between(
            samples.wavelength, low, high, color=_ORANGE, alpha=0.35, lw=0, label="sampled, 90 %"
        )
        axes.plot(samples.wavelength, middle, color=_ORANGE, lw=1, label="sampled, median")
        axes.plot(samples.wavelength, measured.flux[i] / scale, color=_BLUE, lw=1, label="measured")
        axes.set_title(f"test star, APOGEE $T_\\mathrm{{eff}}$ = {teff[i]:.0f} K")
        axes.set_ylim(0, 1.25 * np.quantile(measured.flux[i] / scale, 0.995))
    figure.axes[0].legend(frameon=False)
    figure.supxlabel("wavelength / nm")
    figure.supylabel("flux / median")
    figure.suptitle("Gaia XP spectra sampled from six magnitudes alone")
    figure.savefig(path, dpi=160)


def posteriors(
    path: Path, stars: Dataset, found: Mapping[str, ScalarPosterior], calibrated_by: int
) -> None:
    """Draw the posterior of [Fe/H] from each set of inputs, and say by how many it is calibrated.

    Parameters
    ----------
    path : Path
        Where to draw.
    stars : Dataset
        Four stars with known [Fe/H].
    found : mapping of str to ScalarPosterior
        Of these stars, by what was given.
    calibrated_by : int
        Known stars that recalibrated them; 0 if they are as the model gives them.
    """
    truth = stars.labels["apogee_fe_h"].value
    edges = np.linspace(-2.5, 0.7, 65)
    colours = dict(zip(found, (_BLUE, _GREEN, _ORANGE), strict=False))
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    for i, axes in enumerate(figure.subplots(2, 2, sharex=True).flat):
        for name, posterior in found.items():
            density, _ = np.histogram(
                posterior.values, edges, weights=posterior.probabilities[i], density=True
            )
            axes.stairs(density, edges, color=colours[name], lw=1.5, label=name)
        axes.axvline(truth[i], color=_GREY, lw=1, ls="--", label="APOGEE")
        axes.set_yticks([])
        axes.set_title(f"test star, APOGEE [Fe/H] = {truth[i]:.2f}")
    figure.axes[0].legend(frameon=False, loc="upper left")
    figure.supxlabel("[Fe/H] / dex")
    figure.supylabel("posterior density")
    figure.suptitle(
        f"Posteriors recalibrated by {calibrated_by} calibration stars"
        if calibrated_by
        else "Posteriors as the model gives them, not calibrated: they may be too narrow"
    )
    figure.savefig(path, dpi=160)


def photometry(path: Path, stars: Dataset, found: Mapping[str, ScalarPosterior]) -> None:
    """Draw magnitudes generated from the spectrum against those measured."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    for axes, (name, posterior) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        measured = stars.observations[name]
        true, mean = measured.value[measured.mask], posterior.mean[measured.mask]
        axes.errorbar(
            true,
            mean - true,
            posterior.std[measured.mask],
            fmt=".",
            ms=3,
            lw=0.4,
            color=_BLUE,
            alpha=0.5,
        )
        axes.axhline(0, color=_GREY, lw=0.8)
        limit = 6 * robust_scatter(mean - true)
        axes.set_ylim(-limit, limit)
        axes.set_title(f"{_LABELS[name]}: scatter {robust_scatter(mean - true):.3f} mag")
        axes.set_xlabel(f"measured {_LABELS[name]} / mag")
    figure.axes[0].set_ylabel("generated from XP − measured / mag")
    figure.savefig(path, dpi=160)
