"""Report how well the native spectrum codec does on mock and on real spectra; write JSON, a figure.

    python perf/codecs_native.py --real ../shared/data --out perf/results/codecs_native.json \
        --figure docs/explanation/figures/spectra-native.png

The mock spectra are of a universe of its own (seed 777), whose noiseless light is known. No real
spectrum was trained on. Real ones are split by the SHA-256 of their identifier: the "seen" half was
looked at while the codec was built, the "held_out" half only for this report. LAMOST is a survey
that no codec was trained on, mock or real.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from omnisky.bench.cards import environment
from omnisky.codecs import Codec
from omnisky.codecs.spectrum.native import NativeSpectrumCodec
from omnisky.codecs.spectrum.native.quality import r_squared
from omnisky.mock import Universe
from omnisky.mock.population import draw_with_fluxes
from omnisky.mock.spectra import DesiModel, SdssModel
from omnisky.modalities import SkyObjects, Spectrum
from omnisky.surveys import desi, lamost, modality, sdss

SHIPPED = Path(__file__).parents[1] / "omnisky" / "pretrained" / "codecs" / "spectrum"
SURVEYS = {"sdss_spectrum": "SDSS and BOSS", "desi_spectrum": "DESI", "lamost_spectrum": "LAMOST"}
SEED, OBJECTS = 777, 2000
# Median S/N of a pixel that borders the groups of the report.
BORDERS = (-np.inf, 2, 5, 15, np.inf)


def mock(survey: str) -> tuple[Spectrum, np.ndarray]:
    """Return mock spectra of a survey, and the light without noise on the same pixels."""
    name = f"{survey}_spectrum"
    universe = Universe(SEED, OBJECTS)
    spectra = universe.observe(survey, modalities=[name]).observations[name]
    assert isinstance(spectra, Spectrum)
    truth, fluxes = draw_with_fluxes(universe.config, universe.numbers)
    here = np.flatnonzero(truth[f"in_{survey}"])
    model = {"desi": DesiModel, "sdss": SdssModel}[survey](universe.config)
    light = np.zeros_like(spectra.flux)
    for row, i in enumerate(here):
        result = model.observe(truth[i : i + 1], fluxes[i])
        first = 0
        if survey == "sdss":
            start, step, _ = modality(name).wavelength_nm or (0.0, 1.0, 0)
            first = round((result.loglam[0] - 1 - start) / step)
        light[row, first : first + len(result.noiseless)] = result.noiseless
    return spectra, light


def real(folder: Path) -> dict[str, tuple[Spectrum, np.ndarray]]:
    """Return real spectra of each survey, and which of them are held out."""
    native = folder / "native"
    found = {
        "sdss_spectrum": sdss.read(sorted((native / "sdss_spec").glob("*.fits"))),
        "desi_spectrum": desi.read(sorted((native / "desi_coadd").glob("coadd-*.fits"))),
        "lamost_spectrum": lamost.read(sorted((native / "lamost_spec").glob("spec-*.fits"))),
    }
    return {name: together(name, batches) for name, batches in found.items()}


def together(name: str, batches: Iterable[SkyObjects]) -> tuple[Spectrum, np.ndarray]:
    """Return the spectra of several batches as one, and which are held out."""
    spectra, held_out = [], []
    for batch in batches:
        spectra.append(batch.observations[name])
        digests = (hashlib.sha256(str(i).encode()).digest() for i in batch.object_id)
        held_out += [digest[-1] % 2 == 1 for digest in digests]
    flux, ivar, mask = (
        np.concatenate([getattr(s, part) for s in spectra]) for part in ("flux", "ivar", "mask")
    )
    return Spectrum(flux, ivar, mask, spectra[0].wavelength), np.array(held_out)


def by_noise(spectra: Spectrum, decoded: Spectrum, light: np.ndarray | None) -> list[dict]:
    """Return figures for groups of objects of like signal-to-noise."""
    good = spectra.mask & (spectra.ivar > 0) & decoded.mask
    flux = decoded.flux.astype(np.float64)
    deviation2 = np.where(good, (flux - spectra.flux) ** 2 * spectra.ivar, 0)
    chi2 = deviation2.sum(1) / good.sum(1).clip(1)
    ratio = np.ma.array(spectra.flux * np.sqrt(spectra.ivar), mask=~good)
    ratio = np.ma.median(ratio, axis=1).filled(-np.inf)
    rows = []
    for low, high in pairwise(BORDERS):
        some = (ratio > low) & (ratio <= high) & (good.sum(1) > 100)
        if not some.any():
            continue
        row = {"sn_from": low, "sn_to": high, "objects": int(some.sum())}
        row["chi2_per_pixel_median"] = float(np.median(chi2[some]))
        if light is not None:
            each = [r_squared(light[i], flux[i], good[i]) for i in np.flatnonzero(some)]
            row["r2_of_truth_median_object"] = float(np.median(each))
        rows.append({k: (str(v) if abs(v) == np.inf else v) for k, v in row.items()})
    return rows


def figures(
    codec: NativeSpectrumCodec, spectra: Spectrum, light: np.ndarray | None = None
) -> dict[str, Any]:
    """Return all figures of some spectra."""
    start = time.process_time()
    ids, mask = codec.encode_masked(spectra)
    seconds = time.process_time() - start
    decoded = codec.decode(ids, mask, wavelength=spectra.wavelength)
    found: dict[str, Any] = {**codec.report(spectra), "encoded_per_cpu_s": len(spectra) / seconds}
    if light is not None:
        good = spectra.mask & (spectra.ivar > 0) & decoded.mask
        found["r2_of_truth"] = r_squared(light, decoded.flux, good)
        found["r2_of_truth_by_the_measurement_itself"] = r_squared(light, spectra.flux, good)
    # NaN, where there is nothing to tell apart, is no JSON.
    found = {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in found.items()}
    return {**found, "by_signal_to_noise": by_noise(spectra, decoded, light)}


def draw(codec: NativeSpectrumCodec, spectra: dict[str, Spectrum], path: Path) -> None:
    """Draw one spectrum a survey: measured and decoded, and the residual over its error.

    Taken is the object whose median signal-to-noise is the third quartile of its survey's.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2 * len(spectra), 1, figsize=(9, 10), height_ratios=[3, 1] * len(spectra)
    )
    for (name, some), (top, bottom) in zip(spectra.items(), axes.reshape(-1, 2), strict=True):
        good = some.mask & (some.ivar > 0)
        ratio = np.ma.median(np.ma.array(some.flux * some.ivar**0.5, mask=~good), axis=1)
        row = int(np.argsort(ratio)[int(0.75 * (len(ratio) - 1))])
        view = codec.of(name)
        decoded = view.decode(*view.encode_masked(some[row]))
        use = good[row] & decoded.mask[0]
        flux = np.where(good[row], some.flux[row], np.nan)
        line = np.where(decoded.mask[0], decoded.flux[0], np.nan)
        residual = np.where(use, (some.flux[row] - decoded.flux[0]) * some.ivar[row] ** 0.5, np.nan)
        chi2 = np.nanmean(residual**2)
        top.plot(some.wavelength, flux, lw=0.4, color="0.6", label="measured")
        top.plot(some.wavelength, line, lw=0.7, color="C3", label="decoded")
        low, high = np.nanpercentile(flux, [0.2, 99.8])
        peak = max(high, float(np.nanmax(line)))
        top.set_ylim(low - 0.1 * (high - low), peak + 0.1 * (peak - low))
        top.set_title(
            f"{SURVEYS[name]}, real, held out: median S/N {ratio[row]:.0f}, χ²/pixel {chi2:.2f}",
            fontsize=9,
        )
        top.set_ylabel("flux")
        bottom.plot(some.wavelength, residual, lw=0.3, color="k")
        bottom.set_ylim(-6, 6)
        bottom.set_ylabel("residual / σ")
        for axis in (top, bottom):
            axis.set_xlim(350, 1050)
        top.tick_params(labelbottom=False)
    axes[0].legend(fontsize=8)
    axes[-1].set_xlabel("vacuum wavelength, nm")
    figure.tight_layout(h_pad=0.2)
    figure.savefig(path, dpi=90, metadata={"Title": "native spectrum codec on real spectra"})


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--codec", type=Path, default=SHIPPED)
    parser.add_argument("--real", type=Path, help="folder of the survey files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    codec = Codec.from_pretrained(asked.codec)
    assert isinstance(codec, NativeSpectrumCodec)
    result: dict[str, Any] = {
        "what": "native spectrum codec, reconstruction through token ids",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "mock": {
            survey: figures(codec.of(f"{survey}_spectrum"), *mock(survey))
            for survey in ("desi", "sdss")
        },
    }
    if asked.real is not None:
        found = real(asked.real)
        result["real"] = {
            name: {
                part: figures(codec.of(name), spectra[chosen])
                for part, chosen in (("held_out", held), ("seen", ~held))
            }
            for name, (spectra, held) in found.items()
        }
        if asked.figure is not None:
            draw(codec, {name: s[held] for name, (s, held) in found.items()}, asked.figure)
    asked.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
