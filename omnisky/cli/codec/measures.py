"""How far is what a codec decodes from what was measured?"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import torch

from omnisky.codecs import Codec, LearnedCodec
from omnisky.modalities import Measurement
from omnisky.train.log import usage_figures

__all__ = ["alike", "measure"]

# Objects that are encoded before the clock starts.
_WARM_UP = 2


@torch.no_grad()
def measure(codec: Codec, measurement: Measurement) -> tuple[dict[str, Any], Measurement]:
    """Encode and decode objects; return figures, and what was decoded.

    Parameters
    ----------
    codec : Codec
        The codec, for the modality of the measurement.
    measurement : Measurement
        Objects that all have it.

    Returns
    -------
    figures : dict
        ``objects``, ``tokens``, ``bits``, ``outside`` (objects beyond the range of training),
        ``reconstruction`` (see `_FIGURES`), ``codec_report`` of learned codecs, ``vocabulary`` a
        token group, ``objects_per_second``.
    decoded : Measurement
        On the grid of the measurement, as far as that goes.
    """
    codec.decode(*codec.encode_masked(measurement[:_WARM_UP]))
    began = time.perf_counter()
    ids, mask = codec.encode_masked(measurement)
    encoded = time.perf_counter()
    decoded = codec.decode(ids, mask)
    ended = time.perf_counter()
    own = codec.report(measurement) if isinstance(codec, LearnedCodec) else {}
    bits = sum(g.n_tokens * np.log2(g.vocab_size) for g in codec.groups)
    period = getattr(codec.config, "period", 0.0)
    circle = period if getattr(codec.config, "scale", "") == "circular" else np.inf
    return {
        "objects": len(measurement),
        "tokens": codec.n_tokens,
        "bits": float(bits),
        "outside": codec.count_outside(measurement),
        "reconstruction": _reconstruction(measurement, decoded, circle),
        "codec_report": own,
        "vocabulary": _vocabulary(codec, ids, mask),
        "objects_per_second": {
            "encode": len(measurement) / (encoded - began),
            "decode": len(measurement) / (ended - encoded),
            "threads": torch.get_num_threads(),
        },
    }, decoded


def _vocabulary(codec: Codec, ids: torch.Tensor, mask: torch.Tensor) -> list[dict[str, Any]]:
    """Return the use of the ids of each kind of token; groups alike are counted together."""
    counts: dict[tuple[str, int], torch.Tensor] = {}
    tokens: Counter[tuple[str, int]] = Counter()
    first = 0
    for group in codec.groups:
        part = slice(first, first + group.n_tokens)
        first += group.n_tokens
        alike = group.kind, group.vocab_size
        seen = torch.bincount(ids[:, part][mask[:, part]], minlength=group.vocab_size)
        counts[alike] = counts.get(alike, 0) + seen
        tokens[alike] += group.n_tokens
    found = []
    for (kind, size), seen in counts.items():
        told = {"kind": kind, "tokens": tokens[kind, size], "ids": size, "seen": int(seen.sum())}
        found.append({**told, **usage_figures(seen)})
    return found


def alike(measurement: Any, decoded: Any) -> tuple[Any, Any]:
    """Return the main arrays of a measurement and of what was decoded, of one shape.

    Spectra are interpolated to the measured wavelengths; images are cut to the middle both have,
    in the bands both have.
    """
    kind = type(measurement).__name__
    if kind == "Spectrum" and len(measurement.wavelength) != len(decoded.wavelength):
        grid, wave = measurement.wavelength, decoded.wavelength
        return measurement.flux, np.stack(
            [np.interp(grid, wave, f, np.nan, np.nan) for f in decoded.flux]
        )
    if kind == "Image":
        bands = [b for b in measurement.bands if b in decoded.bands]
        one, two = (m.flux[:, [m.bands.index(b) for b in bands]] for m in (measurement, decoded))
        side = tuple(min(a, b) for a, b in zip(one.shape[2:], two.shape[2:], strict=True))
        return middle(one, side), middle(two, side)
    if kind == "SegmentationMap":
        side = tuple(
            min(a, b)
            for a, b in zip(measurement.field.shape[1:], decoded.field.shape[1:], strict=True)
        )
        return middle(measurement.field, side), middle(decoded.field, side)
    name = "flux" if kind == "Spectrum" else "value"
    return getattr(measurement, name), getattr(decoded, name)


def middle(array: np.ndarray, side: tuple[int, ...]) -> np.ndarray:
    """Return the middle of the last two axes."""
    y, x = ((n - s) // 2 for n, s in zip(array.shape[-2:], side, strict=True))
    return array[..., y : y + side[0], x : x + side[1]]


def _reconstruction(measurement: Any, decoded: Any, circle: float) -> dict[str, float]:
    kind = type(measurement).__name__
    return {key: float(value) for key, value in _FIGURES[kind](measurement, decoded, circle)}


def _of_scalars(measurement: Any, decoded: Any, circle: float):
    """Errors of the round trip, in the unit and in units of the measured errors."""
    good = measurement.mask & decoded.mask
    error = np.abs(decoded.value - measurement.value)[good]
    error = np.minimum(error, np.abs(circle - error))
    yield "error_median", np.median(error)
    yield "error_99", np.quantile(error, 0.99)
    ivar = measurement.ivar[good]
    if (ivar > 0).any():
        sigmas = (error * np.sqrt(ivar))[ivar > 0]
        yield "error_over_sigma_median", np.median(sigmas)
        yield "below_one_sigma", (sigmas < 1).mean()


def _of_rows(measurement: Any, decoded: Any, circle: float):
    """χ² a pixel of each object, 0 for a copy with its noise, 1 for a perfect model; and R²."""
    flux, model = alike(measurement, decoded)
    measured = measurement.mask & np.isfinite(model)
    good = measured
    if decoded.mask.shape == measured.shape:
        # What is decoded as bad has no value to compare; how much that is must be known.
        good = measured & decoded.mask
        yield "pixels_not_compared", 1 - good.sum() / max(measured.sum(), 1)
    rows = good.any(1)
    measurement, flux, model, good = measurement[rows], flux[rows], model[rows], good[rows]
    if not rows.any():
        return
    count = good.sum(1)
    difference = np.where(good, model - flux, 0).astype(np.float64)
    known = good & (measurement.ivar > 0)
    if known.any():
        chi2 = np.where(known, difference**2 * measurement.ivar, 0).sum(1)
        chi2 = (chi2 / np.maximum(known.sum(1), 1))[known.any(1)]
        yield "chi2_per_pixel_median", np.median(chi2)
        yield "chi2_per_pixel_90", np.quantile(chi2, 0.9)
    mean = np.where(good, flux, 0).sum(1, dtype=np.float64) / count
    spread = np.where(good, (flux - mean[:, None]) ** 2, 0).sum(1, dtype=np.float64)
    of_each = 1 - (difference**2).sum(1) / np.maximum(spread, 1e-300)
    yield "r2_of_single_objects_median", np.median(of_each)


def _of_images(measurement: Any, decoded: Any, circle: float):
    """χ² a pixel of each object in each band, and the error of the flux of the whole cut-out."""
    flux, model = alike(measurement, decoded)
    for number, band in enumerate(b for b in measurement.bands if b in decoded.bands):
        own = measurement.bands.index(band)
        side = flux.shape[2:]
        mask, ivar = (middle(a[:, own], side) for a in (measurement.mask, measurement.ivar))
        good = (mask & (ivar > 0)).reshape(len(flux), -1)
        error = (model[:, number] - flux[:, number]).astype(np.float64)
        chi2 = np.where(good, (error**2 * ivar).reshape(good.shape), 0).sum(1)
        there = good.any(1)
        if there.any():
            chi2 = chi2[there] / good[there].sum(1)
            yield f"{band}_chi2_per_pixel_median", np.median(chi2)
            yield f"{band}_chi2_per_pixel_90", np.quantile(chi2, 0.9)
        both = [np.where(mask, a[:, number], 0).sum((1, 2)) for a in (flux, model)]
        there = both[0] > 0
        if there.any():
            yield f"{band}_flux_error_median", np.median(np.abs(both[1] / both[0] - 1)[there])


def _of_catalogs(measurement: Any, decoded: Any, circle: float):
    """Errors of the numbers of each source, and how often a source is there in both."""
    width = min(measurement.mask.shape[1], decoded.mask.shape[1])
    one, two = measurement.mask[:, :width], decoded.mask[:, :width]
    yield "sources_alike", (one == two).mean()
    for name in ("x", "y", "e1", "e2", "r"):
        error = np.abs(getattr(measurement, name)[:, :width] - getattr(decoded, name)[:, :width])
        yield f"{name}_error_median", np.median(error[one & two])


def _of_maps(measurement: Any, decoded: Any, circle: float):
    """Mean error of the field, and the overlap of what is above one half."""
    field, model = alike(measurement, decoded)
    good = middle(measurement.mask, field.shape[1:])
    yield "error_mean", np.abs(model - field)[good].mean()
    one, two = ((a > 0.5) & good for a in (field, model))
    yield "overlap", (one & two).sum() / max((one | two).sum(), 1)


_FIGURES = {
    "Scalar": _of_scalars,
    "Spectrum": _of_rows,
    "Coefficients": _of_rows,
    "Image": _of_images,
    "Catalog": _of_catalogs,
    "SegmentationMap": _of_maps,
}
