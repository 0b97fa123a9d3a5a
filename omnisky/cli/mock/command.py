"""The command that makes a mock universe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from omnisky.cli.sky.options import Layout
from omnisky.cli.sky.workers import Workers
from omnisky.cli.tables import names_in

if TYPE_CHECKING:
    from omnisky.mock import Universe

__all__ = ["mock"]

_LAYOUT, _WORKERS = Layout(), Workers()
_AtLeastOne = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=10**9))]
_Seed = Annotated[int, Parameter(validator=validators.Number(gte=0))]
_Positive = Annotated[float, Parameter(validator=validators.Number(gt=0))]


def mock(
    what: Literal["sky", "gallery"] = "sky",
    /,
    *,
    objects: _AtLeastOne = 1000,
    seed: _Seed = 0,
    area_deg2: _Positive = 20.0,
    out: Path | None = None,
    store: Path | None = None,
    surveys: str | None = None,
    layout: Layout = _LAYOUT,
    workers: Workers = _WORKERS,
) -> None:
    """Make an invented sky: survey files, sky stores or a gallery.

    Physically consistent galaxies, stars and quasars with known truth, as five surveys would see
    them. Everything that is written says that it is mock. A command that was stopped goes on where
    it was when it is given again.

    Parameters
    ----------
    what : str
        sky writes the sky; gallery draws contact sheets of images, spectra and masks to look at.
    objects : int
        Number of objects.
    seed : int
        Seed of the universe. Object 7 of a seed is the same whatever the number of objects.
    area_deg2 : float
        Area of the patch of sky in square degrees.
    out : Path, optional
        Folder for files in the surveys' own formats, or for the contact sheets.
    store : Path, optional
        Folder for sky stores, one a survey, to be matched and streamed.
    surveys : str, optional
        Which surveys, separated by commas: legacysurvey, hsc, desi, sdss, gaia; all by default.
    layout : Layout
        How stores are laid out.
    workers : Workers
        Where tasks run.
    """
    if (out is None) == (store is None):
        raise ValueError(
            "say where to: --out for files in the surveys' formats, or --store for sky stores"
        )
    if what == "gallery" and (store is not None or surveys is not None):
        raise ValueError("a gallery takes --out alone: it shows all surveys and is no store")
    if store is None and layout != _LAYOUT:
        raise ValueError("--profile, --codec and --margin-arcsec are for --store")
    universe = _universe(objects, seed, area_deg2)
    chosen = _chosen(surveys)
    if what == "gallery":
        from omnisky.cli.mock.gallery import draw

        draw(universe, _given(out))
    elif store is not None:
        from omnisky.cli.mock.stores import write_stores

        write_stores(universe, chosen, store, layout.options(), workers)
    else:
        from omnisky.cli.mock.files import write_files

        write_files(universe, chosen, _given(out), workers)


def _given(out: Path | None) -> Path:
    assert out is not None, "checked before"
    return out


def _universe(objects: int, seed: int, area_deg2: float) -> Universe:
    from omnisky.mock import Universe, UniverseConfig

    return Universe(n=objects, config=UniverseConfig(seed=seed, area_deg2=area_deg2))


def _chosen(surveys: str | None) -> list[str]:
    """Return the surveys that were asked for, in order, each once."""
    from omnisky.mock import SURVEYS

    asked = names_in(surveys) or list(SURVEYS)
    unknown = [name for name in asked if name not in SURVEYS]
    if unknown or len(set(asked)) < len(asked):
        raise ValueError(
            f"--surveys {surveys}: expected names from {', '.join(SURVEYS)}, each once; found "
            f"{', '.join(unknown) or 'one twice'}"
        )
    return [name for name in SURVEYS if name in asked]
