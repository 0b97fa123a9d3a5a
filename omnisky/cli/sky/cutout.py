"""Cut-outs at a list of positions: from a folder of co-added images, or from a sky store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators

from omnisky.cli.sky.options import Layout, OnError
from omnisky.cli.sky.progress import advancing, once_each
from omnisky.cli.sky.workers import Workers
from omnisky.cli.sky.writing import refuse_existing, write
from omnisky.cli.tables import names_in

if TYPE_CHECKING:
    from omnisky.cli.sky.stamps import Cutter
    from omnisky.data.positions import Places

__all__ = ["cutout"]

_LAYOUT, _WORKERS = Layout(), Workers()
_Size = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=4096))]
_Positive = Annotated[float, Parameter(validator=validators.Number(gt=0))]
_MOST_BYTES = 4 * 10**9


def cutout(
    where: Path,
    /,
    *,
    positions: Path,
    out: Path,
    size: _Size = 160,
    survey: Literal["legacysurvey", "hsc"] | None = None,
    bands: str | None = None,
    missing_bands: Literal["error", "mask"] = "error",
    radius_arcsec: _Positive = 1.0,
    trusted: bool = False,
    ra: str | None = None,
    dec: str | None = None,
    id: str | None = None,
    on_error: OnError = "raise",
    overwrite: bool = False,
    layout: Layout = _LAYOUT,
    workers: Workers = _WORKERS,
) -> None:
    """Cut out images at the positions of a table.

    From a folder of co-added images, each position gives one cut-out; what lies outside of an
    image is masked. From a sky store, each position takes the image of the nearest object.

    Parameters
    ----------
    where : Path
        Folder of co-added images, or sky store with images.
    positions : Path
        Table with right ascension and declination in degrees.
    out : Path
        A sky store, which can be matched and streamed, or a single FITS file if it ends in .fits.
    size : int
        Side of a cut-out in pixels.
    survey : str, optional
        Whose images they are, where their names do not tell.
    bands : str, optional
        Bands, separated by commas; all by default.
    missing_bands : str
        Whether a band that a brick lacks is an error or masked.
    radius_arcsec : float
        From a store: largest distance of the object from the position.
    trusted : bool
        Decode images in this process, which is faster, but lets a damaged file crash it.
    ra : str, optional
        Column of the right ascension; found by itself if it is called ra or the like.
    dec : str, optional
        Column of the declination.
    id : str, optional
        Column that identifies the objects; found by itself if it is called object_id or the like.
    on_error : str
        What to do about a position without an image: stop, or leave it out and report it.
    overwrite : bool
        Replace an existing FITS file.
    layout : Layout
        How a store is laid out.
    workers : Workers
        Where tasks run, for a store.
    """
    from omnisky.cli.sky.stamps import cutter_of
    from omnisky.data.positions import TableColumns, places_of
    from omnisky.data.tables import read_table
    from omnisky.surveys.survey import Problems

    to_file = out.name.lower().endswith((".fits", ".fits.gz"))
    options = layout.options()
    if not (to_file and overwrite):
        refuse_existing(out)
    table = read_table(positions)
    places = places_of(table, TableColumns(ra=ra, dec=dec, identifier=id), positions)
    problems = Problems(on_error)
    placed = problems.placed(positions, places.object_id, places.ra_deg, places.dec_deg)
    cutter = cutter_of(
        workers.seen(where),
        survey=survey,
        size=size,
        bands=None if bands is None else tuple(names_in(bands) or ()),
        missing_bands=missing_bands,
        radius_arcsec=radius_arcsec,
        trusted=trusted,
    )
    if to_file:
        _to_file(cutter, places[placed], out, problems)
        return
    told: dict[str, Any] = {
        "survey": cutter.survey,
        "images": str(where),
        "cut-outs": {"size": size, "bands": cutter.bands},
    }
    sources = cutter.sources(places[placed], workers.seen(positions))
    write(
        sources,
        out,
        on_error=on_error,
        told=told,
        options=options,
        workers=workers,
        expected=int(placed.sum()),
    )


def _to_file(cutter: Cutter, places: Places, out: Path, problems: Any) -> None:
    """Cut out all positions and write them as one FITS file."""
    from omnisky.cli.sky.fitsfile import write_fits

    needed = len(places) * cutter.row_bytes
    if needed > _MOST_BYTES:
        raise ValueError(
            f"--out {out}: {len(places)} cut-outs take {needed / 1e9:.1f} GB, and a FITS file is "
            f"made in memory, up to {_MOST_BYTES / 1e9:g} GB; give a folder, which becomes a sky "
            "store"
        )
    parts = []
    with once_each(), advancing("Cutting out", len(places)) as advance:
        for some in cutter.pieces(places):
            done = list(cutter.cut(some, problems=problems))
            parts += done
            advance(len(some))
    if not parts:
        raise ValueError(f"no position has an image; {problems.summary()}")
    count = write_fits(parts, places, out)
    print(f"{out}: {count} cut-outs in {', '.join(cutter.bands)}")
    if problems.found:
        print(f"left out: {problems.summary()}")
