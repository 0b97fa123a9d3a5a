"""Measure how well matching by position finds the objects of a mock universe; print a table.

    python dev/mock_matching.py --objects 10000

Of two surveys' rows, spurious rows and fragments included: pairs that are the same object (purity),
and objects of both surveys that were paired (completeness), one-to-one and with every row's nearest
partner.
"""

from __future__ import annotations

import argparse

import numpy as np

from omnisky.data.match import match_coordinates
from omnisky.mock import SURVEYS, Universe, UniverseConfig

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def rows_of(universe: Universe, survey: str) -> Rows:
    """Return positions of all rows of a survey, and the object that each is, -1 for none."""
    parts = [
        universe.native(survey, heavy=False),
        universe.fragments(survey, heavy=False),
        universe.spurious(survey, np.arange(universe.n_spurious(survey)), heavy=False),
    ]
    made = [part.objects() for part in parts if len(part)]
    _, numbers = universe.owners(survey)
    ra, dec = (np.concatenate([getattr(m, name) for m in made]) for name in ("ra_deg", "dec_deg"))
    return ra, dec, numbers


def judged(left: Rows, right: Rows, radius_arcsec: float, one_to_one: bool) -> tuple[int, int, int]:
    """Return numbers of pairs, of right pairs, and of objects that both surveys have."""
    pairs = match_coordinates(
        left[0], left[1], right[0], right[1], radius_arcsec, one_to_one=one_to_one
    )
    a, b = left[2][pairs.left], right[2][pairs.right]
    shared = np.intersect1d(left[2][left[2] >= 0], right[2][right[2] >= 0])
    return len(a), int(((a == b) & (a >= 0)).sum()), len(shared)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--area-deg2", type=float, default=20.0)
    asked = parser.parse_args()
    config = UniverseConfig(seed=asked.seed, area_deg2=asked.area_deg2)
    universe = Universe(n=asked.objects, config=config).hold()
    rows = {survey: rows_of(universe, survey) for survey in SURVEYS}
    print(
        "| pair | radius | | pairs | false | purity | completeness |\n|---|---|---|---|---|---|---|"
    )
    for other in SURVEYS[1:]:
        for radius in (1.0, 5.0):
            for one_to_one in (True, False):
                count, right, shared = judged(rows["legacysurvey"], rows[other], radius, one_to_one)
                how = "one-to-one" if one_to_one else "nearest"
                print(
                    f"| legacysurvey × {other} | {radius:g}″ | {how} | {count} | {count - right} | "
                    f"{right / max(count, 1):.4f} | {right / max(shared, 1):.4f} |"
                )


if __name__ == "__main__":
    main()
