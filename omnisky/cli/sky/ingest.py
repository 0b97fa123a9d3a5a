"""From survey files to a sky store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from omnisky.cli.sky.options import Beside, Files, Layout, OnError, Stamps, Table
from omnisky.cli.sky.workers import Workers
from omnisky.cli.sky.writing import refuse_existing, write
from omnisky.cli.tables import Reading

__all__ = ["ingest"]

_LAYOUT, _STAMPS, _BESIDE, _TABLE = Layout(), Stamps(), Beside(), Table()
_READ, _WORKERS = Reading(), Workers()
_Survey = Literal["legacysurvey", "hsc", "sdss", "desi", "gaia", "lamost", "mmu", "table"]
_Dataset = Literal["legacysurvey", "hsc", "sdss", "desi", "gaia"]


def ingest(
    survey: _Survey,
    /,
    *,
    out: Path,
    catalog: Files = (),
    cutouts: Files = (),
    selection: str | None = None,
    on_error: OnError = "raise",
    dataset: _Dataset | None = None,
    surroundings: bool = False,
    stamps: Stamps = _STAMPS,
    beside: Beside = _BESIDE,
    table: Table = _TABLE,
    reading: Reading = _READ,
    layout: Layout = _LAYOUT,
    workers: Workers = _WORKERS,
) -> None:
    """Read survey files into a sky store.

    A store is a HATS collection of typed observations, to be matched and streamed. An ingest that
    was stopped goes on where it was when the same command is given again.

    Parameters
    ----------
    survey : str
        Whose files they are; mmu stands for Multimodal Universe data, table for tables of your own.
    out : Path
        The store, a folder that is not there yet.
    catalog : tuple of Path
        Catalogues, or spectra of surveys that give a file a spectrum: files, folders, or patterns
        in quotes.
    cutouts : tuple of Path
        In place of the catalogue: FITS cut-outs of one object each (legacysurvey, hsc).
    selection : str, optional
        Which objects to take: a name that omnisky info SURVEY lists, or none for all of them.
    on_error : str
        What to do about a bad row or file: stop, or leave it out and report it in the store
        (problems.jsonl).
    dataset : str, optional
        mmu: which data set it is, where its columns do not tell.
    surroundings : bool
        legacysurvey: also store the catalogue of neighbours and the segmentation map of each
        object, from all sources in its file.
    stamps : Stamps
        How objects are cut out of images.
    beside : Beside
        Files that belong to those of the catalogue.
    table : Table
        Columns of a table.
    reading : Reading
        How to read a table.
    layout : Layout
        How the store is laid out.
    workers : Workers
        Where tasks run.
    """
    named = _given(dataset, surroundings, stamps, beside, table, reading)
    _refuse_others(survey, named, bool(cutouts))
    if bool(catalog) == bool(cutouts):
        raise ValueError("give files: either --catalog or --cutouts")
    options = layout.options()
    refuse_existing(out)
    from omnisky.cli.sky.sources import Asked, bricks_of, files_of, selection_of, sources_of

    chosen = selection_of(survey, selection)
    given = [workers.seen(path) for path in catalog or cutouts]
    files = files_of(given, "cutouts" if cutouts else survey)
    around = {"surroundings": True} if surroundings else {}
    own: dict[str, Any] = dict(around) if dataset is None else {"dataset": dataset}
    if survey == "table":
        own["columns"] = table.columns(reading)
        options["declarations"] = _declarations(files[0], own["columns"].keep)
    images = None if stamps.images is None else workers.seen(stamps.images)
    asked = Asked(
        survey=survey,
        selection=chosen.name,
        images=images,
        stamps=stamps.options(),
        beside=_beside(beside, files, survey, workers),
        options=stamps.options() if cutouts else own,
        cutouts=bool(cutouts),
    )
    told: dict[str, Any] = {"survey": survey, "selection": chosen.name, **around}
    if images is not None:
        # A look before the long part.
        bricks_of(str(images), survey, stamps.trusted, asked.command)
        told |= {"images": str(images), "cut-outs": stamps.options()}
    write(
        sources_of(files, asked),
        out,
        on_error=on_error,
        told=told,
        options=options,
        workers=workers,
        expected=len(files) if cutouts or survey in ("sdss", "lamost") else None,
    )


def _given(dataset: str | None, surroundings: bool, *parts: Any) -> list[str]:
    """Return the names of the options that were given."""
    given = [
        field.name
        for part in parts
        for field in fields(part)
        if getattr(part, field.name) != field.default
    ]
    given += [] if dataset is None else ["dataset"]
    return given + (["surroundings"] if surroundings else [])


_WITH_IMAGES = ("size", "missing_bands", "without_image", "bands", "trusted")
_ONLY_FOR = {
    **dict.fromkeys(("images", *_WITH_IMAGES), ("legacysurvey", "hsc")),
    "redshifts": ("desi",),
    "coefficients": ("gaia",),
    "labels": ("lamost",),
    "dataset": ("mmu",),
    "surroundings": ("legacysurvey",),
    **dict.fromkeys(("ra", "dec", "keep", "column", "id", "resample"), ("table",)),
}


def _refuse_others(survey: str, given: Sequence[str], cutouts: bool) -> None:
    """Refuse options that would have no effect."""
    for name in given:
        option = f"--{name.replace('_', '-')}"
        if survey not in _ONLY_FOR[name]:
            raise ValueError(f"{option} is for {' and '.join(_ONLY_FOR[name])}, not for {survey}")
        if name in _WITH_IMAGES and "images" not in given and not cutouts:
            raise ValueError(f"{option} is for cut-outs; name their --images as well")
        if cutouts and name not in ("bands", "trusted"):
            raise ValueError(f"{option} is not for --cutouts, which are taken as they are")
    if cutouts and survey not in ("legacysurvey", "hsc"):
        raise ValueError(f"--cutouts is for legacysurvey and hsc, not for {survey}")
    if cutouts and ("bands" in given) != (survey == "hsc"):
        raise ValueError(
            "--cutouts of hsc need --bands, such as g,r,i,z,y: the files do not say"
            if survey == "hsc"
            else "--bands is not for --cutouts of legacysurvey, which name their bands"
        )


def _declarations(file: Path, keep: tuple[str, ...]) -> Mapping[str, Any]:
    if not keep:
        return {}
    from omnisky.data.positions import declarations_of
    from omnisky.data.tables import read_table

    return declarations_of(read_table(file), keep, str(file))


def _beside(
    beside: Beside, files: Sequence[Path], survey: str, workers: Workers
) -> dict[str, Sequence[Path]]:
    """Return the files that belong to those of the catalogue."""
    from omnisky.cli.sky.sources import files_of, paired

    found: dict[str, Sequence[Path]] = {}
    for name in ("redshifts", "coefficients"):
        if others := getattr(beside, name):
            others = [workers.seen(path) for path in others]
            found[name] = paired(files, files_of(others, survey), name)
    if beside.labels is not None:
        found["labels"] = files_of([workers.seen(beside.labels)], "table")
    return found
