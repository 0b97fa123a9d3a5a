"""Measure how fast mock images are drawn, against GalSim drawing the same nine bands; write JSON.

    python perf/mock_images.py --objects 200 --galsim-objects 20 --out mock_images.json

Ours: Legacy-Survey-like griz of all objects and HSC-like grizy of those in its footprint, 160
pixels, with neighbours, noise and artefacts, of the usual mixture of galaxies, stars and quasars.
GalSim: bulge and disk (a point for stars and quasars) through the same Moffat functions in the same
nine bands, with Poisson and sky noise, without neighbours, arms or anything else, so that it does
less. Both in one process and one thread, alternating; times are those of the processor, the fastest
of some repeats. All of ours are drawn once before, so that tables and transforms are made;
neighbours are drawn anew each time. `--no-galsim` leaves GalSim out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from omnisky.bench.cards import environment
from omnisky.mock.images import ImageModel, neighbours
from omnisky.mock.images.instruments import conditions_at
from omnisky.mock.population import UniverseConfig, draw_with_fluxes
from omnisky.mock.sed import BANDS
from omnisky.mock.truth import GALAXY, QUASAR, STAR, Truth

_NAMES = ("legacysurvey", "hsc")
_SIZE = 160


def measure(work: Callable[[], Any]) -> float:
    """Return milliseconds of processor time that work takes."""
    neighbours._around.cache_clear()
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def with_galsim(galsim: ModuleType, truth: Truth, fluxes: np.ndarray, model: ImageModel) -> None:
    """Draw one object in the bands of one instrument with GalSim."""
    instrument = model.instrument
    ra, dec = float(truth["ra"][0]), float(truth["dec"][0])
    seen = conditions_at(model.seed, instrument, ra, dec)
    params = galsim.GSParams(maximum_fft_size=16384)
    random = galsim.BaseDeviate(int(truth["object_id"][0]) + 1)
    for band, psf, sigma, sky in zip(
        instrument.sed_bands, seen.psfs, seen.sigma, seen.sky, strict=True
    ):
        light = fluxes[:, BANDS.index(band)]
        source = _galsim_source(galsim, truth, light)
        blurred = galsim.Convolve(
            source, galsim.Moffat(beta=psf.beta, fwhm=psf.fwhm_arcsec), gsparams=params
        )
        scale = instrument.pixel_scale_arcsec
        image = blurred.drawImage(nx=_SIZE, ny=_SIZE, scale=scale, dtype=np.float32)
        variance = sigma**2 * (1 + np.maximum(image.array, 0) / sky)
        noise = galsim.VariableGaussianNoise(random, galsim.Image(variance))
        image.addNoise(noise)


def _galsim_source(galsim: ModuleType, truth: Truth, light: np.ndarray) -> Any:
    total = max(float(light.sum()), 1e-9)
    if truth["kind"][0] != GALAXY:
        return galsim.DeltaFunction(flux=total)
    parts = []
    for part, n, flux in (
        ("bulge", min(max(float(truth["n_bulge"][0]), 0.5), 6.0), float(light[0])),
        ("disk", 1.0, float(light[1] + light[2])),
    ):
        q = min(max(float(truth[f"q_{part}"][0]), 0.1), 1.0)
        radius = max(float(truth[f"re_{part}"][0]), 0.05)
        if flux > 0:
            profile = galsim.Sersic(n=n, half_light_radius=radius * q**0.5, flux=flux)
            angle = (90 + float(truth["pa"][0])) * galsim.degrees
            parts.append(profile.shear(q=q, beta=angle))
    return galsim.Add(parts)


def summary(times: list[float]) -> dict[str, float]:
    """Return mean and median of times in ms."""
    return {"mean_ms": statistics.fmean(times), "median_ms": statistics.median(times)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return what was found."""
    config = UniverseConfig(seed=args.seed)
    truth, fluxes = draw_with_fluxes(config, np.arange(args.objects))
    models = {name: ImageModel(config, name) for name in _NAMES}
    galsim = None
    if not args.no_galsim:
        import galsim  # pyright: ignore[reportMissingImports]
    ours: dict[str, dict[int, float]] = {name: {} for name in _NAMES}
    theirs: dict[str, dict[int, float]] = {name: {} for name in _NAMES}
    for i in range(args.objects):  # tables and transforms of PSFs are made once
        for model in models.values():
            model.render(truth[i : i + 1], fluxes[i], maps=False)
    for i in range(args.objects):
        row = truth[i : i + 1]
        for name, model in models.items():
            if args.maps:
                work = lambda m=model: m.render(row, fluxes[i])  # noqa: B023, E731
            else:
                work = lambda m=model: m.render(row, fluxes[i], maps=False)  # noqa: B023, E731
            ours[name][i] = min(measure(work) for _ in range(args.repeats))
            if galsim is not None and i < args.galsim_objects:
                work = lambda m=model: with_galsim(galsim, row, fluxes[i], m)  # noqa: B023, E731
                theirs[name][i] = min(measure(work) for _ in range(args.repeats))
    return _report(args, truth, ours, theirs)


def _report(
    args: argparse.Namespace,
    truth: Truth,
    ours: dict[str, dict[int, float]],
    theirs: dict[str, dict[int, float]],
) -> dict[str, Any]:
    """Return speeds by kind, by instrument and together."""
    kinds = {"galaxies": GALAXY, "stars": STAR, "quasars": QUASAR}
    found: dict[str, Any] = {
        "environment": environment(),
        "options": {k: str(v) for k, v in vars(args).items()},
    }
    for name, times in ours.items():
        found[name] = summary(list(times.values())) | {
            kind: summary([t for i, t in times.items() if truth["kind"][i] == number])
            for kind, number in kinds.items()
            if (truth["kind"] == number).any()
        }
    share = float(truth["in_hsc"].mean())
    per_object = found["legacysurvey"]["mean_ms"] + share * found["hsc"]["mean_ms"]
    found |= {"hsc_share": share, "images_ms_per_object": per_object}
    found["objects_per_second"] = 1e3 / per_object
    if theirs["hsc"]:
        both = [theirs["legacysurvey"][i] + theirs["hsc"][i] for i in theirs["hsc"]]
        same = [ours["legacysurvey"][i] + ours["hsc"][i] for i in theirs["hsc"]]
        found["nine_bands_same_objects"] = {
            "galsim": summary(both),
            "ours": summary(same),
            "ratio_of_means": statistics.fmean(both) / statistics.fmean(same),
            "ratio_of_medians": statistics.median(both) / statistics.median(same),
        }
    return found


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--galsim-objects", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--maps", action="store_true", help="make segmentation and masks as well")
    parser.add_argument("--no-galsim", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = run(args)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
