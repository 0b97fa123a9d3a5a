"""From survey files to a sky store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from omnisky.cli.sky.progress import CountedReads, once_each, resumable, unfinished, watching
from omnisky.cli.sky.workers import Workers
from omnisky.cli.tables import Reading, names_in

__all__ = [
    "Files",
    "Layout",
    "OnError",
    "Stamps",
    "Table",
    "ingest",
    "refuse_existing",
    "report",
    "write",
]

Files = Annotated[tuple[Path, ...], Parameter(consume_multiple=True)]
OnError = Literal["raise", "quarantine"]
_Size = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=4096))]
_NotNegative = Annotated[float, Parameter(validator=validators.Number(gte=0))]


@Parameter(name="*", group="The store")
@dataclass(frozen=True, kw_only=True)
class Layout:
    """Say how a store is laid out.

    Parameters
    ----------
    profile : str
        packed is read row by row at the speed of the disk; interchange opens as lists in LSDB,
        datasets and pandas. Both are HATS.
    codec : str
        Of images and spectra in a packed store: as they are, compressed without loss, or as 16-bit
        steps with errors of at most a 32nd of sigma.
    margin_arcsec : float
        Width of the margin around partitions in which neighbours are listed, for LSDB.
    """

    profile: Literal["packed", "interchange"] = "packed"
    codec: Literal["raw", "lossless", "q16"] = "raw"
    margin_arcsec: _NotNegative = 10.0

    def options(self) -> dict[str, Any]:
        """Return them as `omnisky.data.store.StoreSpec` takes them."""
        if self.profile == "interchange" and self.codec != "raw":
            raise ValueError(
                f"--codec {self.codec} is for packed stores; leave it out, or --profile interchange"
            )
        return {field.name: getattr(self, field.name) for field in fields(self)}


@Parameter(name="*", group="Cut-outs (legacysurvey, hsc)")
@dataclass(frozen=True, kw_only=True)
class Stamps:
    """Say how objects are cut out of images.

    Parameters
    ----------
    images : Path, optional
        Folder of the co-added images, searched with those below it. Without it, only the values of
        the catalogue are stored.
    size : int, optional
        Side of a cut-out in pixels; 160 by default.
    bands : str, optional
        Bands, separated by commas; all of the survey by default.
    missing_bands : str, optional
        Whether a band that a brick lacks is an error (the default) or masked.
    without_image : str, optional
        Whether an object outside of all images is a problem (the default) or kept without one.
    trusted : bool
        Decode images in this process, which is faster, but lets a damaged file crash it.
    """

    images: Path | None = None
    size: _Size | None = None
    bands: str | None = None
    missing_bands: Literal["error", "mask"] | None = None
    without_image: Literal["problem", "keep"] | None = None
    trusted: bool = False

    def options(self) -> dict[str, Any]:
        """Return those that were given, but the folder, as readers take them."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "images"}
        given = {name: value for name, value in given.items() if value not in (None, False)}
        if self.bands is not None:
            given["bands"] = tuple(names_in(self.bands) or ())
        return given


@Parameter(name="*", group="Files beside the catalogue")
@dataclass(frozen=True, kw_only=True)
class Beside:
    """Name files that belong to those of the catalogue.

    Parameters
    ----------
    redshifts : tuple of Path
        desi: redrock or zbest file of each coadd; by default those beside the coadds.
    coefficients : tuple of Path
        gaia: table of XP coefficients of each source table.
    labels : Path, optional
        lamost: csv table of stellar parameters.
    """

    redshifts: Files = ()
    coefficients: Files = ()
    labels: Path | None = None


@Parameter(name="*", group="Columns of a table")
@dataclass(frozen=True, kw_only=True)
class Table:
    """Say which columns of a table of one's own hold what.

    Parameters
    ----------
    ra : str, optional
        Column of the right ascension; found by itself if it is called ra or the like.
    dec : str, optional
        Column of the declination.
    keep : str, optional
        Columns of numbers to keep under their own names, separated by commas.
    """

    ra: str | None = None
    dec: str | None = None
    keep: str | None = None

    def columns(self, reading: Reading) -> Any:
        """Return them together with how to read the table."""
        from omnisky.data.positions import TableColumns

        return TableColumns(
            ra=self.ra,
            dec=self.dec,
            identifier=reading.id,
            measured=reading.mapping(),
            keep=tuple(names_in(self.keep) or ()),
            resample=reading.resample,
        )


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
    _refuse_others(survey, _given(dataset, stamps, beside, table, reading), bool(cutouts))
    if bool(catalog) == bool(cutouts):
        raise ValueError("give files: either --catalog or --cutouts")
    options = layout.options()
    refuse_existing(out)
    from omnisky.cli.sky.sources import Asked, bricks_of, files_of, selection_of, sources_of

    chosen = selection_of(survey, selection)
    given = [workers.seen(path) for path in catalog or cutouts]
    files = files_of(given, "cutouts" if cutouts else survey)
    own: dict[str, Any] = {} if dataset is None else {"dataset": dataset}
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
    told: dict[str, Any] = {"survey": survey, "selection": chosen.name}
    if images is not None:
        bricks_of(str(images), survey, stamps.trusted)  # a look before the long part
        told |= {"images": str(images), "cut-outs": stamps.options()}
    sources = sources_of(files, asked)
    write(sources, out, on_error=on_error, told=told, options=options, workers=workers)


def _given(dataset: str | None, *parts: Any) -> list[str]:
    """Return the names of the options that were given."""
    given = [
        field.name
        for part in parts
        for field in fields(part)
        if getattr(part, field.name) != field.default
    ]
    return given + ([] if dataset is None else ["dataset"])


_WITH_IMAGES = ("size", "missing_bands", "without_image", "bands", "trusted")
_ONLY_FOR = {
    **dict.fromkeys(("images", *_WITH_IMAGES), ("legacysurvey", "hsc")),
    "redshifts": ("desi",),
    "coefficients": ("gaia",),
    "labels": ("lamost",),
    "dataset": ("mmu",),
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


def refuse_existing(out: Path) -> None:
    """Refuse a store that is there already, before the work."""
    # Killed at the very end, it goes on like any other.
    if out.exists() and not unfinished(out).exists():
        raise FileExistsError(f"{out} exists; choose another --out or remove it first")


def write(
    sources: Sequence[Any],
    out: Path,
    *,
    on_error: OnError,
    told: Mapping[str, Any],
    options: Mapping[str, Any],
    workers: Workers,
) -> None:
    """Write a store from sources, with progress, and say what came of it.

    Parameters
    ----------
    sources : sequence of omnisky.data.store.Source
        What to read.
    out : Path
        The store.
    on_error : str
        What to do about problems.
    told : mapping
        What the store shall know of where it comes from.
    options : mapping
        Options of the store.
    workers : Workers
        Where tasks run.
    """
    from omnisky.data import store
    from omnisky.surveys.survey import Problems

    problems = Problems(on_error)
    counted = CountedReads()
    with resumable(out), workers.client() as client, once_each():
        if client is None:
            sources = [replace(s, read=counted.count(s.read)) for s in sources]
        with watching(out, counted if client is None else None), _with_problems(problems):
            store.ingest(sources, out, problems=problems, provenance=told, client=client, **options)
    report(out, problems)


@contextmanager
def _with_problems(problems: Any) -> Iterator[None]:
    """Add what was left out to an error: the report of it is in a store that does not come."""
    try:
        yield
    except ValueError as error:
        if not problems.found:
            raise
        raise ValueError(f"{error}; left out: {problems.summary()}") from error


def report(out: Path, problems: Any) -> None:
    """Say what a new store holds, and what was left out.

    Parameters
    ----------
    out : Path
        The store.
    problems : omnisky.surveys.survey.Problems
        Those on record.
    """
    from omnisky.cli.sky.describe import size_of
    from omnisky.data.store import open_store

    made = open_store(out)
    kinds = Counter(m.kind for m in made.layout.modalities)
    says = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    print(
        f"{out}: {len(made)} objects of {made.survey}, {len(made.partitions)} partition(s), "
        f"{size_of(out)}, {made.profile}; modalities: {says}"
    )
    if problems.found:
        print(f"left out: {problems.summary()}; all are in {out / 'problems.jsonl'}")
