"""Encode and decode bands that an image codec has never seen; write JSON and a figure.

    omnisky train-codec recipes/codecs/image.toml --out runs/seen
    omnisky train-codec recipes/codecs/image.toml --out runs/held-out \
        --set 'codec.config.bands=["legacysurvey_image/g", ...]'      # all but those held out
    python perf/codecs_held_out_bands.py runs/seen/... runs/held-out/... --out held_out_bands.json

Two codecs of the same recipe: one has seen all bands, the other all but one of each survey. Both
reconstruct that band of mock objects that neither was trained on (mock scores):

* ``seen``: the codec that was trained with it;
* ``held_out``: the other, with the band among the images it encodes;
* ``held_out_hidden``: the other, which encodes the remaining bands only and makes up the band;
* ``interpolated``: the other, which decodes the two neighbours that it knows; the band is their
  mean, linear in wavelength;
* ``neighbours``: the same mean of the measured neighbours, noise and all, without any codec.

Then NIRCam cut-outs (OMNISKY_REAL_DATA, folder with ceers_nircam_cutouts.parquet; left out without
it): seven bands at up to 4.5 times the longest wavelength of training, in pixels a sixth as large.
They have no errors; noise is estimated from the scatter of the sky.
"""

from __future__ import annotations

import argparse
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from noise import sky_scatter

from omnisky.bench.cards import environment
from omnisky.codecs import ImageCodec
from omnisky.codecs.image import Band, bands_of
from omnisky.codecs.image.report import APERTURE_ARCSEC, aperture_fluxes
from omnisky.mock import Universe
from omnisky.modalities import Image

_SNR = (3.0, 10.0, 30.0, 100.0, np.inf)
_FLOOR = 0.03
_NIRCAM = "jwst_nircam_image"


def some_bands(images: Image, bands: tuple[str, ...]) -> Image:
    """Return images of some of their bands."""
    columns = [images.bands.index(band) for band in bands]
    flux, ivar, mask, psf = (
        array[:, columns]
        for array in (images.flux, images.ivar, images.mask, images.psf_fwhm_arcsec)
    )
    about = (bands, images.pixel_scale_arcsec, psf, images.offset_pixels)
    return Image(flux, ivar, mask, *about)


def mean_of_neighbours(images: Image, band: Band) -> tuple[np.ndarray, tuple[str, str]]:
    """Return the mean of the two nearest bands on both sides, linear in wavelength, and which."""
    known = [b for b in bands_of(band.modality) if b.name in images.bands and b.name != band.name]
    left = max((b for b in known if b.wavelength_nm < band.wavelength_nm), key=_wavelength)
    right = min((b for b in known if b.wavelength_nm > band.wavelength_nm), key=_wavelength)
    weight = (band.wavelength_nm - left.wavelength_nm) / (right.wavelength_nm - left.wavelength_nm)
    a, b = (images.flux[:, images.bands.index(side.name)] for side in (left, right))
    return (1 - weight) * a + weight * b, (left.name, right.name)


def _wavelength(band: Band) -> float:
    return band.wavelength_nm


def reconstructions(
    seen: ImageCodec, held_out: ImageCodec, images: Image, band: Band
) -> dict[str, np.ndarray]:
    """Return a band as each way of reconstructing it gives it, shape (object, y, x)."""
    others = tuple(name for name in images.bands if name != band.name)
    known = some_bands(images, others)
    blind = held_out.of(band.modality)
    with_it = blind.encode(images)
    without = blind.encode(known)
    return {
        "seen": seen.decode(seen.encode(images), bands=[band.name]).flux[:, 0],
        "held_out": blind.decode(with_it, bands=[band]).flux[:, 0],
        "held_out_hidden": blind.decode(without, bands=[band]).flux[:, 0],
        "interpolated": mean_of_neighbours(blind.decode(without, bands=others), band)[0],
        "neighbours": mean_of_neighbours(known, band)[0],
    }


def scores(found: np.ndarray, images: Image, band: str) -> dict[str, Any]:
    """Return χ² per pixel of a reconstruction and its flux errors by signal to noise."""
    number = images.bands.index(band)
    flux, ivar, mask = (a[:, number] for a in (images.flux, images.ivar, images.mask))
    off2 = (found - flux) ** 2 * ivar
    count = mask.sum((1, 2)).clip(1)
    chi2 = np.where(mask, off2, 0).sum((1, 2)) / count
    floored = np.where(mask, off2 / (1 + ivar * (_FLOOR * flux) ** 2), 0).sum((1, 2)) / count
    result: dict[str, Any] = {
        "chi2_per_pixel_median": float(np.median(chi2)),
        "chi2_per_pixel_90": float(np.quantile(chi2, 0.9)),
        "chi2_per_pixel_floored_median": float(np.median(floored)),
        "chi2_per_pixel_floored_90": float(np.quantile(floored, 0.9)),
    }
    radius = APERTURE_ARCSEC / images.pixel_scale_arcsec
    variance = np.where(mask & (ivar > 0), 1 / np.where(ivar > 0, ivar, 1), 0)
    bad, measured, error2, decoded = (
        aperture_fluxes(pixels[:, None], images.offset_pixels, radius)[:, 0]
        for pixels in (~mask, flux, variance, found)
    )
    snr = np.where((bad == 0) & (error2 > 0), measured / np.sqrt(error2.clip(1e-30)), 0)
    for low, high in pairwise(_SNR):
        inside = (snr >= low) & (snr < high)
        if inside.sum() >= 5:
            ratio = decoded[inside] / measured[inside]
            result[f"snr_{low:g}_{high:g}"] = {
                "objects": int(inside.sum()),
                "flux_error_median": float(np.median(np.abs(ratio - 1))),
                "flux_ratio_median": float(np.median(ratio)),
            }
    return result


def on_mock(
    seen: ImageCodec, held_out: ImageCodec, objects: int, seed: int
) -> tuple[dict[str, Any], dict[str, tuple[Image, str, dict[str, np.ndarray]]]]:
    """Return scores by survey, and the images they are of."""
    universe, result, images_of = Universe(seed, objects, size=96), {}, {}
    for name in seen.modalities:
        images = universe.observe(name.removesuffix("_image"), modalities=[name]).observations[name]
        assert isinstance(images, Image)
        full = seen.of(name)
        (hidden,) = set(full.bands) - set(held_out.of(name).bands)
        (band,) = (b for b in bands_of(name) if b.name == hidden)
        found = reconstructions(full, held_out, images, band)
        result[name] = {
            "objects": len(images),
            "held_out": hidden,
            **{way: scores(pixels, images, hidden) for way, pixels in found.items()},
        }
        images_of[name] = (images, hidden, found)
    return result, images_of


def nircam_images(path: Path) -> Image:
    """Read cut-outs in MJy/sr; noise of each band is the scatter of the sky of that object."""
    import pyarrow.parquet as pq

    table = pq.read_table(path).to_pydict()
    flux = np.stack(
        [np.reshape(f, shape) for f, shape in zip(table["flux"], table["shape"], strict=True)]
    ).astype(np.float32)
    # Blank parts of the mosaics are exactly zero.
    mask = np.isfinite(flux) & (flux != 0)
    noise = np.array([[sky_scatter(band[m]) for band, m in zip(*o, strict=True)]
                      for o in zip(flux, mask, strict=True)])  # fmt: skip
    mask &= (noise > 0)[..., None, None]
    ivar = np.where(mask, np.where(noise > 0, noise, 1)[..., None, None] ** -2.0, 0)
    bands = tuple(name.lower() for name in table["bands"][0])
    return Image(flux, ivar, mask, bands=bands, pixel_scale_arcsec=0.03)


def on_nircam(codec: ImageCodec, images: Image) -> tuple[dict[str, Any], np.ndarray]:
    """Return how much of cut-outs in seven bands never seen comes back, and what does."""
    bands = bands_of(_NIRCAM)
    view = codec.with_bands(bands)
    ids = view.encode(images)
    decoded = view.decode(ids, bands=images.bands).flux
    centre = slice(2, 98)
    flux, ivar, mask = (a[..., centre, centre] for a in (images.flux, images.ivar, images.mask))
    result: dict[str, Any] = {
        "objects": len(images),
        "codes_used": len(ids.unique()),
        "bands": {},
    }
    for number, name in enumerate(images.bands):
        rows = mask[:, number].mean((1, 2)) > 0.9
        parts = [(flux[i, number][m], decoded[i, number][m], ivar[i, number][m])
                 for i in np.flatnonzero(rows) for m in [mask[i, number]]]  # fmt: skip
        result["bands"][name] = {
            "objects": int(rows.sum()),
            **{f"{key}_median": float(np.median([of(*part) for part in parts]))
               for key, of in _AGREEMENT.items()},
        }  # fmt: skip
    return result, decoded


def _signal(flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    return flux * np.sqrt(ivar) > 3


_AGREEMENT = {
    "correlation": lambda x, y, ivar: np.corrcoef(x, y)[0, 1],
    "variance_explained": lambda x, y, ivar: 1 - ((x - y) ** 2).sum() / ((x - x.mean()) ** 2).sum(),
    "variance_that_is_noise": lambda x, y, ivar: (1 / ivar[0]) / x.var(),
    "chi2_per_pixel": lambda x, y, ivar: ((x - y) ** 2 * ivar).mean(),
    "flux_ratio_above_3_sigma": lambda x, y, ivar: (
        y[_signal(x, ivar)].sum() / max(x[_signal(x, ivar)].sum(), 1e-9)
    ),
}


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seen", type=Path, help="folder of the codec that saw all bands")
    parser.add_argument("held_out", type=Path, help="folder of the one that did not")
    parser.add_argument("--objects", type=int, default=600)
    parser.add_argument("--seed", type=int, default=77, help="of a universe not trained on")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    seen, held_out = (ImageCodec.from_folder(path) for path in (args.seen, args.held_out))
    found, shown = on_mock(seen, held_out, args.objects, args.seed)
    result: dict[str, Any] = {"environment": environment(), "data": "mock", "mock": found}
    nircam = Path(os.environ.get("OMNISKY_REAL_DATA", "")) / "ceers_nircam_cutouts.parquet"
    real = None
    if nircam.is_file():
        images = nircam_images(nircam)
        result["nircam"], decoded = on_nircam(seen, images)
        real = images, decoded
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    if args.figure:
        draw(shown, real, args.figure)


def draw(
    mock: dict[str, tuple[Image, str, dict[str, np.ndarray]]],
    real: tuple[Image, np.ndarray] | None,
    path: Path,
) -> None:
    """Draw what was measured of some objects beside its reconstructions."""
    from matplotlib.figure import Figure

    rows = []
    for name, (images, band, found) in mock.items():
        number = images.bands.index(band)
        light = aperture_fluxes(images.flux[:, [number]], images.offset_pixels, 8)[:, 0]
        order = np.argsort(light)
        for place in np.linspace(0.5, 0.85, 2):
            i = order[int(place * (len(order) - 1))]
            noise = float(np.median(images.ivar[i, number])) ** -0.5
            pictures = {"measured": images.flux[i, number]}
            pictures |= {way: found[way][i] for way in list(found)[:4]}
            rows.append((f"{name.removesuffix('_image')} {band}\n(mock)", pictures, noise))
    rows += _nircam_rows(*real) if real else []
    figure = Figure(figsize=(8, 1.55 * len(rows)), layout="constrained")
    axes = np.array(figure.subplots(len(rows), 5, squeeze=False))
    for line, (label, pictures, noise) in zip(axes, rows, strict=True):
        line[0].set_ylabel(label, fontsize=8)
        for axis, (title, pixels) in zip(line, pictures.items(), strict=True):
            axis.imshow(np.arcsinh(pixels / (2 * noise)), vmin=-1, vmax=4.5, cmap="gray")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(title, fontsize=7)
    figure.savefig(path, dpi=80)


def _nircam_rows(images: Image, decoded: np.ndarray) -> list[tuple[str, dict, float]]:
    """Return pictures of a middling and a bright object: two bands measured and decoded."""
    light = images.flux[:, 3].sum((1, 2))
    order, centre = np.argsort(light), slice(2, 98)
    rows = []
    for place in (0.5, 0.9):
        i = order[int(place * (len(order) - 1))]
        ivar = images.ivar[i]
        noise = float(np.median(ivar[3][ivar[3] > 0])) ** -0.5
        pictures = {}
        for number in (0, 3):
            pictures[f"{images.bands[number]} measured"] = images.flux[i, number][centre, centre]
            pictures[f"{images.bands[number]} decoded"] = decoded[i, number]
        last = images.bands[-1]
        pictures[f"{last} decoded"] = decoded[i, -1]
        rows.append(("NIRCam\n(real)", pictures, noise))
    return rows


if __name__ == "__main__":
    main()
