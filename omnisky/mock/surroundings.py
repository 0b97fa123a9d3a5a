"""What the mock Legacy Survey lists about its objects, and what its readers make of that.

Its images show neighbours that are drawn by the counts of the sky; here they are measured as the
objects are, at the depth and seeing of the object's own row. Tables and files of the mock have no
rows for them, so this is made on request, of the same neighbours that the images show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.mock import seeds

if TYPE_CHECKING:
    from omnisky.mock.native.rows import Rows
    from omnisky.modalities import Catalog, SegmentationMap, SkyObjects

__all__ = ["ON_REQUEST", "measured"]

ON_REQUEST = ("legacysurvey_catalog", "legacysurvey_segmentation")
# Signal over noise from which the survey lists a source.
_LISTED = 6.0
# Most neighbours of an object that have random numbers of their own.
_MOST = 4096


def measured(rows: Rows, wanted: Sequence[str], seed: int) -> SkyObjects:
    """Return typed objects with some of their modalities, those on request included.

    Parameters
    ----------
    rows : Rows
        Rows of one survey.
    wanted : sequence of str
        Which of its modalities.
    seed : int
        Seed of the universe.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    from omnisky.modalities import Observations

    if not len(rows):
        raise ValueError(
            f"none of these objects is in {rows.survey}; see the column in_{rows.survey} of the "
            "truth, and ask for more objects"
        )
    objects = rows.objects()
    about = _surroundings(rows, seed) if set(wanted) & set(ON_REQUEST) else {}
    chosen = Observations({**objects.observations, **about}).select(*wanted)
    return replace(objects, observations=chosen)


def _surroundings(rows: Rows, seed: int) -> dict[str, Catalog | SegmentationMap]:
    from omnisky.surveys.legacysurvey import TYPES
    from omnisky.surveys.legacysurvey.neighbours import Placed, surroundings_of

    count, columns = len(rows), rows.columns
    nothing = np.zeros(count)
    own = {
        "x": nothing,
        "y": nothing,
        "kind": columns["TYPE"],
        **{part: columns[f"SHAPE_{part.upper()}"] for part in ("r", "e1", "e2")},
    }
    owners, found = [np.arange(count)], [own]
    for i in range(count):
        sigma = float(columns["PSFDEPTH_R"][i]) ** -0.5
        near = _neighbours(seed, int(rows.number[i]), sigma, float(columns["PSFSIZE_R"][i]))
        owners.append(np.full(len(near["x"]), i))
        found.append(near)
    joined = {name: np.concatenate([f[name] for f in found]) for name in own}
    owner = np.concatenate(owners)
    joined["kind"] = np.array([TYPES[kind] for kind in joined["kind"].tolist()])
    seeing = np.asarray(columns["PSFSIZE_R"], dtype=np.float64)[owner] / 2
    return surroundings_of(owner, Placed(**joined, psf_radius=seeing), count)


def _neighbours(seed: int, number: int, sigma: float, fwhm: float) -> dict[str, Any]:
    """Measure the neighbours of an object in a band r of this noise and seeing."""
    from omnisky.mock.images.neighbours import COLOUR_BANDS, around
    from omnisky.mock.population.catalogs.measure import spread
    from omnisky.surveys.legacysurvey.declarations import MAP_PIXELS, PIXEL_SCALE_ARCSEC

    half = MAP_PIXELS * PIXEL_SCALE_ARCSEC / 2
    known = around(seed, number, half)
    radius = np.where(known.star, 0.0, known.re)
    signal = known.flux[:, COLOUR_BANDS.index("r")] / (
        sigma * spread(radius, np.full(len(radius), fwhm))
    )
    within = np.maximum(np.abs(known.east), np.abs(known.north)) < half + radius
    kept = np.flatnonzero((signal > _LISTED) & within & (np.arange(len(known)) < _MOST))
    one = np.array([number])
    n_r, n_1, n_2 = seeds.normals(seed, one, "surroundings/shape", 3 * _MOST)[0].reshape(3, _MOST)
    u = seeds.uniforms(seed, one, "surroundings/type", _MOST)[0][kept]
    sources, radius, signal = known.only(kept), radius[kept], signal[kept]
    # Types and errors as of the objects themselves, see population.catalogs.legacysurvey.
    significance = signal * radius**2 / (radius**2 + fwhm**2)
    disky = sources.kind > 0.35
    kind = np.select(
        [(significance < 1.5) | (radius < 0.05), significance < 6, significance < 30, u < 0.25],
        ["PSF", "REX", "EXP", np.where(disky, "EXP", "DEV")],
        "SER",
    )
    blur = 1 + (0.4 * fwhm / np.maximum(radius, 0.01)) ** 2
    error = np.minimum(np.hypot(0.02, 1.2 * blur / signal), 0.6)
    flat = (kind != "PSF") & (kind != "REX")
    length, twice = (1 - sources.q) / (1 + sources.q), 2 * np.radians(sources.pa)
    shape = {
        name: np.where(flat, np.clip(length * wave + 0.7 * error * noise[kept], -0.97, 0.97), 0.0)
        for name, wave, noise in (("e1", np.cos(twice), n_1), ("e2", np.sin(twice), n_2))
    }
    size = np.where(kind == "PSF", 0.0, radius * np.exp(error * n_r[kept]))
    return {"x": -sources.east, "y": sources.north, "kind": kind, "r": size, **shape}
