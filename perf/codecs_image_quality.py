"""Measure how well the image codec gives images back, mock and real; write JSON.

    python perf/codecs_image_quality.py omnisky/pretrained/codecs/image --out image_quality.json

Mock objects are of a universe of another seed than the training's: mock scores. No real image was
trained on; the real ones (OMNISKY_REAL_DATA, the folder with ``native/``; left out without it) were
chosen by name before anybody looked:

* Legacy Survey brick 0959p805, g band with its inverse variances: columns right of the middle of
  what was observed;
* viewer cut-outs ``example_b``, ``example_d``, ``example_e`` and ``test_image_grz_256``. The viewer
  interpolates to smaller pixels and gives no errors; they are estimated from the scatter of the
  sky, and are correlated, so that χ² is indicative only;
* both HSC scenes, with a masked border: they are smaller than 96 pixels. One has variances, the
  other gets the scatter of its sky.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from noise import sky_scatter

from omnisky.bench.cards import environment
from omnisky.codecs import ImageCodec
from omnisky.codecs.image import bands_of, padded
from omnisky.mock import Universe
from omnisky.modalities import Image
from omnisky.surveys import hsc, legacysurvey

LS, HSC = "legacysurvey_image", "hsc_image"
HELD_OUT_CUTOUTS = ("example_b", "example_d", "example_e", "test_image_grz_256")
_SIZE = 96


def brick_stamps(folder: Path) -> Image:
    """Return stamps of the right part of brick 0959p805, g."""
    from astropy.io import fits

    flux, ivar = (
        fits.getdata(folder / f"legacysurvey/legacysurvey-0959p805-{plane}-g.fits.fz")
        for plane in ("image", "invvar")
    )
    middle = int(np.median(np.nonzero(ivar > 0)[1]))
    corners = [
        (y, x)
        for y in range(0, flux.shape[0] - _SIZE + 1, _SIZE)
        for x in range(middle, flux.shape[1] - _SIZE + 1, _SIZE)
        if (ivar[y : y + _SIZE, x : x + _SIZE] > 0).mean() > 0.7
    ]
    cut = [np.stack([plane[y : y + _SIZE, x : x + _SIZE] for y, x in corners])[:, None]
           for plane in (flux, ivar)]  # fmt: skip
    return Image(*cut, mask=cut[1] > 0, bands=("g",), pixel_scale_arcsec=0.262)


def viewer_stamps(path: Path) -> Image:
    """Return the stamps that a viewer cut-out can be cut into, with the scatter of its sky."""
    (objects,) = legacysurvey.read_cutouts(path)
    images = objects.observations[LS]
    assert isinstance(images, Image)
    flux, mask = images.flux[0], images.mask[0]
    side = flux.shape[1] // _SIZE
    parts = [slice(i * _SIZE, (i + 1) * _SIZE) for i in range(side)]
    stamps, good = (
        np.stack([array[:, y, x] for y in parts for x in parts]) for array in (flux, mask)
    )
    noise = np.array([sky_scatter(f[m]) for f, m in zip(flux, mask, strict=True)])
    ivar = good / noise[:, None, None] ** 2
    return Image(stamps, ivar, good, images.bands, images.pixel_scale_arcsec)


def scene(path: Path) -> Image:
    """Return an HSC scene with a masked border; without errors, they are the scatter of its sky."""
    images = hsc.read_scene(path)
    if not images.ivar.any():
        noise = [sky_scatter(images.flux[0, band]) for band in range(len(images.bands))]
        ivar = np.broadcast_to(np.array(noise)[:, None, None] ** -2.0, images.flux.shape)
        images = replace(images, ivar=ivar)
    return padded(images, _SIZE)


def real_images(folder: Path) -> Iterator[tuple[str, str, Image]]:
    """Yield name, modality and images of what is held out."""
    yield "legacysurvey brick 0959p805 g", LS, brick_stamps(folder)
    for name in HELD_OUT_CUTOUTS:
        path = folder / f"legacysurvey_cutouts/{name}.fits"
        yield f"legacysurvey viewer {name}", LS, viewer_stamps(path)
    for name in ("hsc_cosmos", "hsc_cosmos_35"):
        yield f"hsc scene {name}", HSC, scene(folder / f"hsc/{name}.npz")


def view_for(codec: ImageCodec, modality: str, images: Image) -> ImageCodec:
    """Return the codec for these images, whose pixels may be of another size than the survey's."""
    scale = images.pixel_scale_arcsec
    bands = [b for b in bands_of(modality) if b.name in images.bands]
    if np.isclose(scale, bands[0].pixel_scale_arcsec, rtol=0.01):
        return codec.of(modality)
    return codec.with_bands([replace(band, pixel_scale_arcsec=scale) for band in bands])


def run(codec: ImageCodec, objects: int, seed: int, real: Path | None) -> dict[str, Any]:
    """Return figures by data set."""
    universe = Universe(seed, objects, size=_SIZE)
    found: dict[str, Any] = {"environment": environment(), "mock": {}, "real": {}}
    for name in codec.modalities:
        seen = universe.observe(name.removesuffix("_image"), modalities=[name])
        images = seen.observations[name]
        found["mock"][name] = codec.of(name).report(images)
    for name, modality, images in real_images(real) if real else ():
        found["real"][name] = {
            "bands": images.bands,
            "pixel_scale_arcsec": images.pixel_scale_arcsec,
            **view_for(codec, modality, images).report(images),
        }
    return found


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("codec", type=Path, help="folder of an image codec with stem 'metadata'")
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=77, help="of a universe not trained on")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = Path(os.environ.get("OMNISKY_REAL_DATA", "")) / "native"
    codec = ImageCodec.from_folder(args.codec)
    found = run(codec, args.objects, args.seed, folder if folder.is_dir() else None)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
