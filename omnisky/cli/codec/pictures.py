"""A page of pictures: what was measured, what was decoded, and what is left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from omnisky.cli.codec.measures import alike, middle
from omnisky.modalities import Measurement

__all__ = ["draw"]

# Colour-blind safe (Okabe & Ito 2008).
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_OBJECTS, _BANDS = 4, 4


def draw(path: Path, title: str, measurement: Measurement, decoded: Measurement) -> None:
    """Draw a page of a few objects, evenly spaced among those given.

    Parameters
    ----------
    path : Path
        A PNG file.
    title : str
        What is shown; it says so if that is mock.
    measurement, decoded : Measurement
        What was measured, and what its tokens stand for.
    """
    page = Figure(figsize=(12, 8), layout="constrained")
    page.suptitle(title)
    _PAGES[type(measurement).__name__](page, measurement, decoded)
    page.savefig(path, dpi=110)


def _some(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _OBJECTS)).astype(int))


def _images(page: Figure, measurement: Any, decoded: Any) -> None:
    """Draw a row an object; a band has the image, what is decoded and the residual over sigma."""
    flux, model = alike(measurement, decoded)
    bands = [b for b in measurement.bands if b in decoded.bands][:_BANDS]
    chosen = _some(len(flux))
    axes = page.subplots(len(chosen), 3 * len(bands), squeeze=False)
    page.set_size_inches(1.3 * 3 * len(bands) + 0.6, 1.4 * len(chosen) + 0.8)
    for place, i in enumerate(chosen):
        for number, band in enumerate(bands):
            own = measurement.bands.index(band)
            ivar, mask = (
                middle(a[i, own], flux.shape[2:]) for a in (measurement.ivar, measurement.mask)
            )
            known = ivar[mask & (ivar > 0)]
            sigma = 1 / np.sqrt(np.median(known)) if len(known) else np.std(flux[i, number])
            stretched = [np.arcsinh(a[i, number] / (3 * sigma)) for a in (flux, model)]
            top = max(float(np.nanquantile(stretched[0], 0.995)), 0.5)
            residual = np.where(mask, (flux - model)[i, number] * np.sqrt(ivar), np.nan)
            panels = axes[place, 3 * number : 3 * number + 3]
            for panel, image in zip(panels[:2], stretched, strict=True):
                panel.imshow(image, origin="lower", cmap="gray", vmin=-0.5, vmax=top)
            panels[2].imshow(residual, origin="lower", cmap="RdBu_r", vmin=-5, vmax=5)
            for panel, name in zip(panels, (band, "decoded", "residual / σ"), strict=True):
                panel.set(xticks=[], yticks=[])
                if place == 0:
                    panel.set_title(name, fontsize=8)
    page.supxlabel("asinh stretch; residuals from −5 to 5 σ; masked pixels are white", fontsize=8)


def _rows(page: Figure, measurement: Any, decoded: Any) -> None:
    """Draw two panels an object: flux and model, and the residual over sigma."""
    flux, model = alike(measurement, decoded)
    grid = getattr(measurement, "wavelength", np.arange(flux.shape[1]))
    chosen = _some(len(flux))
    axes = page.subplots(
        2 * len(chosen), 1, squeeze=False, sharex=True, height_ratios=[3, 1] * len(chosen)
    )[:, 0]
    page.set_size_inches(11, 2.6 * len(chosen) + 0.8)
    for top, bottom, i in zip(axes[::2], axes[1::2], chosen, strict=True):
        good = measurement.mask[i]
        measured = np.where(good, flux[i], np.nan)
        top.plot(grid, measured, color=_BLUE, lw=2.5, alpha=0.5, label="measured")
        top.plot(grid, model[i], color=_ORANGE, lw=0.8, label="decoded")
        if good.any():
            low, high = np.quantile(flux[i][good], [0.005, 0.995])
            room = 0.2 * (high - low) or 1.0
            top.set_ylim(low - room, high + room)
        residual = (flux[i] - model[i]) * np.sqrt(measurement.ivar[i])
        bottom.plot(grid, np.where(good, residual, np.nan), color=_GREY, lw=0.4)
        bottom.axhline(0, color="black", lw=0.5)
        bottom.set(ylim=(-5, 5), ylabel="res. / σ")
    axes[0].legend(frameon=False, loc="upper right")
    is_spectrum = hasattr(measurement, "wavelength")
    axes[-1].set_xlabel("wavelength / nm" if is_spectrum else "coefficient")


def _scalars(page: Figure, measurement: Any, decoded: Any) -> None:
    """Draw errors of the round trip beside the measured ones, and their histogram."""
    good = measurement.mask & decoded.mask
    value = measurement.value[good]
    error = decoded.value[good] - value
    left, right = page.subplots(1, 2)
    page.set_size_inches(11, 4.2)
    left.semilogy(value, np.maximum(np.abs(error), 1e-300), ".", ms=3, color=_BLUE, label="decoded")
    ivar = measurement.ivar[good]
    if (known := ivar > 0).any():
        sigma = 1 / np.sqrt(ivar[known])
        left.semilogy(value[known], sigma, ".", ms=3, color=_ORANGE, label="measured error σ")
    limit = 1.2 * np.quantile(np.abs(error), 0.99) or 1.0
    lowest = max(np.quantile(np.abs(error), 0.02), 1e-6 * limit)
    left.set(xlabel="value", ylabel="|decoded − measured|")
    left.set_ylim(bottom=lowest / 2)
    left.legend(frameon=False)
    right.hist(np.clip(error, -limit, limit), 60, color=_BLUE)
    right.set(xlabel="decoded − measured", ylabel="objects")


def _catalogs(page: Figure, measurement: Any, decoded: Any) -> None:
    """Draw the sources about the object: circles as measured, crosses as decoded."""
    chosen = _some(len(measurement))
    page.set_size_inches(3.4 * len(chosen), 3.9)
    for axes, i in zip(page.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
        for found, marker, colour, label in (
            (measurement, "o", _BLUE, "measured"),
            (decoded, "x", _ORANGE, "decoded"),
        ):
            there = found.mask[i]
            axes.plot(
                found.x[i][there],
                found.y[i][there],
                marker,
                color=colour,
                fillstyle="none",
                label=label,
            )
        axes.set(xlabel="x / arcsec", aspect="equal")
    page.axes[0].set_ylabel("y / arcsec")
    page.axes[0].legend(frameon=False)


def _maps(page: Figure, measurement: Any, decoded: Any) -> None:
    """Draw the map, what is decoded, and the difference."""
    field, model = alike(measurement, decoded)
    chosen = _some(len(field))
    axes = page.subplots(len(chosen), 3, squeeze=False)
    page.set_size_inches(7, 2.2 * len(chosen) + 0.8)
    for row, i in zip(axes, chosen, strict=True):
        for panel, image in zip(row, (field[i], model[i], field[i] - model[i]), strict=True):
            low = -1 if panel is row[2] else 0
            colours = "RdBu_r" if panel is row[2] else "gray"
            panel.imshow(image, origin="lower", cmap=colours, vmin=low, vmax=1)
            panel.set(xticks=[], yticks=[])
    for panel, name in zip(axes[0], ("measured", "decoded", "difference"), strict=True):
        panel.set_title(name, fontsize=9)


_PAGES = {
    "Scalar": _scalars,
    "Spectrum": _rows,
    "Coefficients": _rows,
    "Image": _images,
    "Catalog": _catalogs,
    "SegmentationMap": _maps,
}
