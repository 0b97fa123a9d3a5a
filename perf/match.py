"""Measure how fast two lists of positions are matched one-to-one; write JSON.

    python perf/match.py --objects 500000 --repeats 5 --out match.json

`omnisky.data.match.match_coordinates`, one-to-one included, against astropy's
`match_to_catalog_sky`, which finds the nearest right object of each left one and leaves the rest
(radius, both ways) to the caller. Both start from right ascension and declination in degrees. They
take turns in one run and the median counts; the pairs that both find are compared. Skies: objects
in random order over the whole sky, along the HEALPix index as in a sky store, and in random order
on a patch of one per cent of the sky.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from turns import in_turns

from omnisky.bench.cards import environment
from omnisky.data.match import Pairs, match_coordinates
from omnisky.data.store.healpix import healpix29

RADIUS_ARCSEC = 1.0
Sky = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def sky(objects: int, fraction: float) -> Sky:
    """Return positions over a fraction of the sky and, reordered, the same with errors of 0.2"."""
    rng = np.random.default_rng(0)
    side = np.sqrt(fraction)
    ra = rng.uniform(0, 360 * side, objects)
    dec = np.degrees(np.arcsin(rng.uniform(-side, side, objects)))
    order = rng.permutation(objects)
    error = rng.normal(0, 0.2 / 3600, (2, objects))
    moved_ra = (ra + error[0] / np.cos(np.radians(dec)))[order] % 360
    return ra, dec, moved_ra, np.clip(dec + error[1], -90, 90)[order]


def along_index(positions: Sky) -> Sky:
    """Return the same positions in the order of a sky store."""
    ra1, dec1, ra2, dec2 = positions
    one, two = np.argsort(healpix29(ra1, dec1)), np.argsort(healpix29(ra2, dec2))
    return ra1[one], dec1[one], ra2[two], dec2[two]


def with_astropy(positions: Sky) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest right object of each left one and their separation in arcsec."""
    ra1, dec1, ra2, dec2 = positions
    left, right = SkyCoord(ra1, dec1, unit="deg"), SkyCoord(ra2, dec2, unit="deg")
    index, angle, _ = left.match_to_catalog_sky(right)
    return index, angle.arcsec


def with_omnisky(positions: Sky, threads: int) -> Pairs:
    """Return the one-to-one pairs."""
    return match_coordinates(*positions, RADIUS_ARCSEC, threads=threads)


def agree(positions: Sky, threads: int) -> bool:
    """Tell whether our pairs are those that astropy finds in both directions."""
    ra1, dec1, ra2, dec2 = positions
    index, angle = with_astropy(positions)
    back, _ = with_astropy((ra2, dec2, ra1, dec1))
    rows = np.arange(len(ra1))
    mutual = (angle <= RADIUS_ARCSEC) & (back[index] == rows)
    found = with_omnisky(positions, threads)
    return bool(
        np.array_equal(found.left, rows[mutual]) and np.array_equal(found.right, index[mutual])
    )


def measure(positions: Sky, threads: int, repeats: int) -> dict[str, Any]:
    """Return median seconds of all contenders, which take turns."""
    turns: dict[str, Callable[[], Any]] = {
        "astropy": lambda: with_astropy(positions),
        "omnisky": lambda: with_omnisky(positions, threads),
        "omnisky_one_thread": lambda: with_omnisky(positions, 1),
    }
    seconds = in_turns(turns, repeats)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "seconds": median,
        "all_seconds": seconds,
        "times_astropy": median["astropy"] / median["omnisky"],
        "times_astropy_one_thread": median["astropy"] / median["omnisky_one_thread"],
        "million_rows_per_second": len(positions[0]) / 1e6 / median["omnisky"],
        "same_pairs_as_astropy_both_ways": agree(positions, threads),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--objects", type=int, default=500_000, help="on each side (500000)")
    parser.add_argument("--repeats", type=int, default=5, help="measured turns (5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of ours (all cores)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--least", type=float, default=0.0, help="fail below this many times astropy's speed"
    )
    return parser


def main() -> int:
    """Measure, print, write; return 1 if a threshold is missed."""
    asked = _parser().parse_args()
    whole = sky(asked.objects, 1.0)
    skies = {
        "whole sky, random order": whole,
        "whole sky, along HEALPix": along_index(whole),
        "patch, random order": sky(asked.objects, 0.01),
    }
    found: dict[str, Any] = {"objects": asked.objects, "radius_arcsec": RADIUS_ARCSEC}
    found["threads"] = asked.threads
    found["skies"] = {
        name: measure(positions, asked.threads, asked.repeats) for name, positions in skies.items()
    }
    found |= {**environment(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    print(f"{'':26s} {'astropy s':>10s} {'omnisky s':>10s} {'times':>6s} {'1 thread':>9s}  same")
    for name, one in found["skies"].items():
        print(
            f"{name:26s} {one['seconds']['astropy']:10.3f} {one['seconds']['omnisky']:10.3f} "
            f"{one['times_astropy']:6.2f} {one['times_astropy_one_thread']:9.2f}  "
            f"{one['same_pairs_as_astropy_both_ways']}"
        )
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    slowest = min(one["times_astropy"] for one in found["skies"].values())
    if slowest < asked.least:
        print(f"{slowest:.2f} times astropy, below {asked.least:.2f}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
