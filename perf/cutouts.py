"""Measure how fast objects are cut out of bricks, against what people do today; write JSON.

    python perf/cutouts.py --side 3600 --objects 500 --repeats 5 --out cutouts.json

Bricks are made up in the layout of the Legacy Surveys: one file a plane, plain and tile-compressed
(RICE with dither, 100 x 100), with patches of pixels without weight. All contenders work on the
same files and positions, in random order, in one process and one run, one after the other in each
repeat; speeds are medians over repeats, after one run that is not measured. Before that their
results are compared, pixel by pixel.

"Cutout2D" is the recipe of the Multimodal Universe: pixel position of each object through the world
coordinates, one `Cutout2D` with `wcs` for each plane, stacked as float32; the world coordinates are
made once (the original makes them for each object). "Opening" opens each compressed file for each
object and reads the section, as cut-out scripts do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

from omnisky.bench.cards import environment
from omnisky.data.bricks import Bricks
from omnisky.data.cutout import cut_into, cut_out

_NAME = "0001p000"
_BANDS = "griz"
_SCALE = 0.262 / 3600
_BATCH = 64
_BAD_BITS = 0b11111100  # SATUR and ALLMASK of g, r and z; the made-up bricks flag nothing else


def make_bricks(folder: Path, side: int, seed: int) -> None:
    """Write one brick twice, plainly and compressed."""
    rng = np.random.default_rng(seed)
    header = fits.Header()
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 0.1, "CRVAL2": 0.0})
    header.update({"CRPIX1": (side + 1) / 2, "CRPIX2": (side + 1) / 2, "RADESYS": "ICRS"})
    header.update({"CD1_1": -_SCALE, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": _SCALE})
    holes = [(slice(y, y + 40), slice(x, x + 40)) for y, x in rng.integers(0, side - 40, (30, 2))]
    flags = np.zeros((side, side), dtype=np.int16)
    flags[holes[0]] = 1 << 2
    for band in _BANDS:
        flux = rng.normal(0.0, 0.02, (side, side)).astype(np.float32)
        ivar = rng.uniform(2000, 3000, (side, side)).astype(np.float32)
        for hole in holes:
            flux[hole], ivar[hole] = 0.0, 0.0
        _write(folder, f"image-{band}", flux, header, quantize_method=2, quantize_level=-1e-3)
        _write(folder, f"invvar-{band}", ivar, header, quantize_method=-1, quantize_level=-1.0)
    _write(folder, "maskbits", flags, header, compression_type="HCOMPRESS_1")


def _write(folder: Path, plane: str, pixels: np.ndarray, header: fits.Header, **options) -> None:
    packed = fits.CompImageHDU(
        pixels, header, **{"compression_type": "RICE_1", "tile_shape": (100, 100), **options}
    )
    packed_path, plain_path = (
        folder / kind / f"legacysurvey-{_NAME}-{plane}.fits{ending}"
        for kind, ending in (("packed", ".fz"), ("plain", ""))
    )
    for path in (packed_path, plain_path):
        path.parent.mkdir(exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(packed_path)
    # The same values, so that all contenders can be compared.
    fits.PrimaryHDU(fits.getdata(packed_path, 1), header).writeto(plain_path)


class Contenders:
    """Hold files and positions, and cut them out in different ways."""

    def __init__(self, folder: Path, side: int, objects: int, size: int, few: int) -> None:
        self.folder, self.size = folder, size
        rng = np.random.default_rng(1)
        # Inside, since Cutout2D would trim at the edges.
        x, y = rng.uniform(size, side - size, (2, objects))
        self.planes = {p.name: fits.open(p) for p in (folder / "plain").iterdir()}
        self.wcs = WCS(self._plane("image-g").header)
        self.positions = np.stack(self.wcs.all_pix2world(x, y, 0), axis=1)
        self.sky = SkyCoord(self.positions, unit="deg")
        self.few = min(few, objects)
        shape = (objects, len(_BANDS), size, size)
        self.flux, self.ivar = (np.empty(shape, dtype=np.float32) for _ in range(2))
        self.mask = np.empty(shape, dtype=bool)
        self.plain = {noise: Bricks(folder / "plain", ivar=noise) for noise in (False, True)}

    def _plane(self, name: str) -> Any:
        return self.planes[f"legacysurvey-{_NAME}-{name}.fits"][0]

    def _stack(self, kind: str, place: Any) -> np.ndarray:
        cut = [
            Cutout2D(self._plane(f"{kind}-{b}").data, place, self.size, wcs=self.wcs).data
            for b in _BANDS
        ]
        return np.stack(cut).astype(np.float32)

    def cutout2d_pixels(self) -> list[np.ndarray]:
        """Cut out flux, as the recipe does."""
        places = (self.wcs.all_world2pix(*p, 0) for p in self.positions[: self.few])
        return [self._stack("image", place) for place in places]

    def cutout2d_skycoord(self) -> list[np.ndarray]:
        """Cut out flux, with sky coordinates."""
        return [self._stack("image", place) for place in self.sky[: self.few]]

    def cutout2d(self) -> list[tuple[np.ndarray, ...]]:
        """Cut out flux, inverse variance and mask, as the recipe does."""
        found = []
        for position in self.positions[: self.few]:
            place = self.wcs.all_world2pix(*position, 0)
            flags = Cutout2D(self._plane("maskbits").data, place, self.size, wcs=self.wcs).data
            parts = self._stack("image", place), self._stack("invvar", place)
            found.append((*parts, (flags & _BAD_BITS) == 0))
        return found

    def omnisky_pixels(self) -> np.ndarray:
        """Cut flux and mask into buffers."""
        return self._into(self.plain[False])

    def omnisky(self) -> np.ndarray:
        """Cut flux, inverse variance and mask into buffers."""
        return self._into(self.plain[True])

    def omnisky_images(self) -> list[np.ndarray]:
        """Cut out an `Image` with memory of its own for each batch, as the reader does."""
        found = []
        for start in range(0, len(self.positions), _BATCH):
            some = self.positions[start : start + _BATCH]
            image = cut_out(self.plain[True], some, self.size, _BANDS)
            found = [*found, *image.flux][: self.few]
        return found

    def opening(self) -> list[np.ndarray]:
        """Open each compressed file for each object, for flux alone."""
        found = []
        for position in self.positions[: self.few]:
            x, y = self.wcs.all_world2pix(*position, 0)
            left, low = (int(np.ceil(v - self.size / 2)) for v in (x, y))
            bands = []
            for band in _BANDS:
                path = self.folder / "packed" / f"legacysurvey-{_NAME}-image-{band}.fits.fz"
                with fits.open(path) as opened:
                    section: Any = opened[1].section  # pyright: ignore
                    bands.append(section[low : low + self.size, left : left + self.size])
            found.append(np.stack(bands).astype(np.float32))
        return found

    def packed(self, noise: bool, trusted: bool) -> np.ndarray:
        """Decode the brick and cut into buffers; nothing is in memory before."""
        return self._into(Bricks(self.folder / "packed", ivar=noise, trusted=trusted))

    def _into(self, bricks: Bricks) -> np.ndarray:
        numbers = bricks.locate(*self.positions.T)
        assert not numbers.any(), "all in the one brick"
        pixels = bricks.pixels_of(0, *self.positions.T)
        out = self.flux, self.ivar if bricks.ivar else None, self.mask
        cut_into(bricks, 0, pixels, out, _BANDS)
        return self.flux

    def check(self) -> None:
        """Compare the results of all contenders."""
        full = self.cutout2d()
        expected = np.stack([flux for flux, _, _ in full])
        good = np.stack([ivar > 0 for _, ivar, _ in full])
        good &= np.stack([mask for _, _, mask in full])[:, None]
        for task in self.tasks().values():
            found = np.stack(task()[: self.few]) if task != self.cutout2d else expected
            same = np.where(good, found, 0) == np.where(good, expected, 0)
            assert same.all(), f"{task} cuts other pixels"
        self.omnisky()
        # g and r are flagged by the same bit in the recipe, each by its own bits here.
        assert (self.mask[: self.few, 2] >= good[:, 2]).all(), "masks differ"

    def tasks(self) -> dict[str, Callable[[], Any]]:
        """Return all contenders by name."""
        return {
            "plain_cutout2d_pixels": self.cutout2d_pixels,
            "plain_cutout2d_skycoord_pixels": self.cutout2d_skycoord,
            "plain_omnisky_pixels": self.omnisky_pixels,
            "plain_cutout2d": self.cutout2d,
            "plain_omnisky": self.omnisky,
            "plain_omnisky_images": self.omnisky_images,
            "packed_opening_pixels": self.opening,
            "packed_omnisky_pixels": lambda: self.packed(noise=False, trusted=True),
            "packed_omnisky": lambda: self.packed(noise=True, trusted=True),
            "packed_omnisky_child_pixels": lambda: self.packed(noise=False, trusted=False),
            "packed_omnisky_child": lambda: self.packed(noise=True, trusted=False),
        }

    def count(self, name: str) -> int:
        """Return how many objects a contender cuts out."""
        return len(self.positions) if "omnisky" in name else self.few


def copied_bytes_per_second(repeats: int) -> float:
    """Return the speed at which memory is copied, far beyond the caches."""
    source, target = (np.zeros(2**27, dtype=np.uint8) for _ in range(2))
    source[:] = 1
    measured = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        np.copyto(target, source)
        measured.append(time.perf_counter() - start)
    return source.nbytes / statistics.median(measured[1:])


def processor_seconds() -> float:
    """Return what this process and its children have used, whatever else the machine does."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def measure(contenders: Contenders, repeats: int) -> dict[str, Any]:
    """Return stamps a second of each contender, ratios, and the fraction of the memory's speed."""
    tasks = contenders.tasks()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    processor: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start, used = time.perf_counter(), processor_seconds()
            task()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(processor_seconds() - used)
    speed, busy = (
        {n: contenders.count(n) / statistics.median(s) for n, s in measured.items()}
        for measured in (seconds, processor)
    )
    copied = copied_bytes_per_second(max(5, repeats))
    pixels = len(_BANDS) * contenders.size**2
    rate = {
        "plain_omnisky_pixels": speed["plain_omnisky_pixels"] * pixels * 5,
        "plain_omnisky": speed["plain_omnisky"] * pixels * 9,
    }
    return {
        "stamps_per_second": speed,
        "stamps_per_processor_second": busy,
        "seconds": seconds,
        "ratios": {
            "plain": speed["plain_omnisky"] / speed["plain_cutout2d"],
            "plain_images": speed["plain_omnisky_images"] / speed["plain_cutout2d"],
            "plain_pixels": speed["plain_omnisky_pixels"] / speed["plain_cutout2d_pixels"],
            "plain_pixels_skycoord": (
                speed["plain_omnisky_pixels"] / speed["plain_cutout2d_skycoord_pixels"]
            ),
            "packed_pixels": speed["packed_omnisky_pixels"] / speed["packed_opening_pixels"],
            "packed_with_noise": speed["packed_omnisky"] / speed["packed_opening_pixels"],
        },
        "memcpy_gbyte_per_second": copied / 1e9,
        "fraction_of_memcpy": {name: value / copied for name, value in rate.items()},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--side", type=int, default=1800, help="pixels a side of a brick (1800)")
    parser.add_argument("--objects", type=int, default=500, help="objects in the brick (500)")
    parser.add_argument("--size", type=int, default=160, help="pixels a side of a cut-out (160)")
    parser.add_argument("--few", type=int, default=100, help="objects for slow contenders (100)")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs (5)")
    parser.add_argument("--folder", type=Path, help="where to write the bricks (temporary)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--least-plain", type=float, default=0.0, help="fail below this ratio")
    parser.add_argument("--least-packed", type=float, default=0.0, help="fail below this ratio")
    parser.add_argument(
        "--least-packed-speed", type=float, default=0.0, help="fail below so many stamps a second"
    )
    return parser


def main() -> int:
    """Measure, print, write; return 1 if a threshold is missed."""
    asked = _parser().parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        make_bricks(Path(folder), asked.side, seed=0)
        contenders = Contenders(Path(folder), asked.side, asked.objects, asked.size, asked.few)
        contenders.check()
        measured = measure(contenders, asked.repeats)
    found = {
        **{key: getattr(asked, key) for key in ("side", "objects", "size", "few", "repeats")},
        **measured,
        **environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    missed = [
        f"{name} is {value:.3g}, below the threshold of {least:g}"
        for name, value, least in (
            ("plain", measured["ratios"]["plain"], asked.least_plain),
            ("packed", measured["ratios"]["packed_pixels"], asked.least_packed),
            (
                "packed speed",
                measured["stamps_per_second"]["packed_omnisky_pixels"],
                asked.least_packed_speed,
            ),
        )
        if value < least
    ]
    print("\n".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
