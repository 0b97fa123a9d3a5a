"""The figures of the quickstart's galaxies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from omnisky.mock.gallery import rgb
from omnisky.modalities import Image
from omnisky.model.generation import ScalarPosterior

if TYPE_CHECKING:
    from omnisky.cli.quickstart.galaxies import Seen

__all__ = ["draws", "images_from_spectra", "spectra_from_images"]

# Colour-blind safe (Okabe & Ito 2008).
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_NAMES = {"legacysurvey_image": "Legacy Survey image", "hsc_image": "HSC image"}
# Pixels of a DESI spectrum in a point of the figure.
_BIN = 16


def draws(result: Any) -> np.ndarray:
    """Return samples of a scalar, shape (sample, object)."""
    if isinstance(result, ScalarPosterior):
        return result.samples
    return np.stack([result[s].value for s in range(len(result))])


def spectra_from_images(
    path: Path, seen: Seen, made: Any, image: str = "legacysurvey_image"
) -> None:
    """Draw images, redshifts sampled given them, and spectra sampled given both."""
    count = len(seen.redshift)
    figure = Figure(figsize=(12, 2.7 * count), layout="constrained")
    grid = figure.subplots(count, 3, width_ratios=(1, 1.5, 3.5), squeeze=False)
    sampled, redshift = made["desi_spectrum"], draws(made["desi_z"])
    edges = np.linspace(0, max(0.6, 1.2 * seen.redshift.max()), 31)
    for i, (picture, chance, spectrum) in enumerate(grid):
        picture.imshow(_picture(seen.observations[image], i))
        picture.set_axis_off()
        chance.hist(redshift[:, i], edges, color=_ORANGE, alpha=0.5, density=True, label="sampled")
        chance.axvline(seen.redshift[i], color=_BLUE, lw=1.5, label="true")
        chance.set_yticks([])
        measured = seen.observations["desi_spectrum"]
        flux = np.where(measured.mask[i], measured.flux[i], np.nan)
        wave, own = _binned(measured.wavelength), _binned(flux)
        low, middle, high = np.nanquantile(
            _binned(sampled.samples[:, i]), [0.05, 0.5, 0.95], axis=0
        )
        at = _binned(sampled.wavelength)
        spectrum.fill_between(at, low, high, color=_ORANGE, alpha=0.35, lw=0, label="sampled, 90 %")
        spectrum.plot(at, middle, color=_ORANGE, lw=1, label="sampled, median")
        spectrum.plot(wave, own, color=_BLUE, lw=0.8, label="observed")
        top = np.nanquantile(own, 0.995)
        spectrum.set_ylim(-0.15 * top, 1.6 * top)
    grid[0, 0].set_title(f"given:\n{_NAMES[image]}", fontsize="medium")
    grid[0, 1].legend(frameon=False, fontsize="small")
    grid[0, 2].legend(frameon=False, fontsize="small", ncols=3, loc="upper left")
    grid[-1, 1].set_xlabel("redshift")
    grid[-1, 2].set_xlabel("wavelength / nm")
    grid[count // 2, 2].set_ylabel("DESI flux")
    seldom = ", never seen together in training" if image == "hsc_image" else ""
    figure.suptitle(f"MOCK galaxies: {_NAMES[image]} → redshift, DESI spectrum{seldom}")
    figure.savefig(path, dpi=150)


def images_from_spectra(path: Path, seen: Seen, samples: Any) -> None:
    """Draw observed images beside the mean of the samples and three of them."""
    count = len(seen.redshift)
    titles = ("observed", "mean of samples", "sample", "sample", "sample")
    figure = Figure(figsize=(2.4 * len(titles), 2.5 * count), layout="constrained")
    grid = figure.subplots(count, len(titles), squeeze=False)
    observed = seen.observations["legacysurvey_image"]
    mean = np.mean([samples[s].flux for s in range(len(samples))], axis=0)
    for i, row in enumerate(grid):
        average = replace(samples[0], flux=mean)
        shown = [
            _picture(images, i) for images in (observed, average, *(samples[s] for s in range(3)))
        ]
        for axes, picture, title in zip(row, shown, titles, strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
            if i == 0:
                axes.set_title(title, fontsize="medium")
    figure.suptitle("MOCK galaxies: DESI spectrum → Legacy Survey image")
    figure.savefig(path, dpi=150)


def _picture(images: Image, i: int) -> np.ndarray:
    flux = np.where(images.mask[i], images.flux[i], 0)
    return rgb(flux, images.bands, images.pixel_scale_arcsec)


def _binned(values: np.ndarray) -> np.ndarray:
    """Return means of neighbouring pixels along the last axis, without those that are missing."""
    whole = values.shape[-1] // _BIN * _BIN
    parts = values[..., :whole].reshape(*values.shape[:-1], -1, _BIN)
    there = np.isfinite(parts)
    total = np.where(there, parts, 0).sum(-1)
    return np.where(there.any(-1), total / np.maximum(there.sum(-1), 1), np.nan)
