"""From files and options to the tasks of an ingest: a catalogue, or some hundred spectra, each."""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from omnisky.data.bricks import Bricks
from omnisky.data.sky import is_store
from omnisky.data.store import Source
from omnisky.modalities import SkyObjects
from omnisky.surveys.survey import Problems, Selection, in_batches

__all__ = [
    "PATTERNS",
    "Asked",
    "bricks_of",
    "files_of",
    "selection_of",
    "selections_of",
    "sources_of",
]

# What is taken from a folder; a file or pattern that is named is taken as it is.
PATTERNS = {
    "legacysurvey": ("tractor-*.fits*", "sweep-*.fits*"),
    "hsc": ("*.fits", "*.fits.gz"),
    "sdss": ("spec-*.fits*",),
    "desi": ("coadd-*.fits*",),
    "gaia": ("*.csv", "*.csv.gz", "*.ecsv", "*.ecsv.gz", "*.fits", "*.fits.gz"),
    "lamost": ("spec-*.fits*",),
    "table": ("*.parquet", "*.fits", "*.fits.gz", "*.vot", "*.xml", "*.ecsv", "*.csv"),
    "cutouts": ("*.fits", "*.fits.gz"),
}
# Readers of these surveys take a selection by default.
_DEFAULTS = {"gaia": "parallax_over_error_10", "desi": "targets"}
_IMAGED = ("legacysurvey", "hsc")
# Files of one object each that are one task.
_SPECTRA, _AT_ONCE = 500, 50
_SPECTRA_APART = ("sdss", "lamost")
_RANGE = re.compile(r"_(\d+-\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Hold what was asked of an ingest, beside the catalogue files.

    Parameters
    ----------
    survey : str
        Survey, ``"mmu"`` or ``"table"``.
    selection : str
        Name of the selection, ``"all"`` for none.
    images : Path, optional
        Folder of co-added images.
    stamps : mapping
        Options of `omnisky.data.cutout.read` and of `Bricks`: size, bands and so on.
    beside : mapping of str to sequence of Path
        Files that belong to the catalogue files: redshifts, coefficients or labels.
    options : mapping
        Other options of the survey's reader.
    cutouts : bool
        Whether the files are cut-outs, one object each.
    command : int
        Tells this command from others.
    """

    survey: str
    selection: str = "all"
    images: Path | None = None
    stamps: Mapping[str, Any]
    beside: Mapping[str, Sequence[Path]]
    options: Mapping[str, Any]
    cutouts: bool = False
    command: int = field(default_factory=time.time_ns)


def files_of(given: Sequence[Path], kind: str) -> list[Path]:
    """Return the files that were meant by files, folders and patterns.

    Parameters
    ----------
    given : sequence of Path
        What was asked for.
    kind : str
        Key of `PATTERNS`, or ``"mmu"``.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or a folder or pattern has none.
    """
    found: list[Path] = []
    for path in given:
        if kind == "mmu" and path.exists():
            from omnisky.surveys import mmu

            if is_store(path):
                raise ValueError(f"{path} is a sky store already; write it anew with omnisky pack")
            found += mmu.find(path)
        elif path.is_dir():
            some = {p for pattern in PATTERNS.get(kind, ()) for p in path.rglob(pattern)}
            if not some:
                raise FileNotFoundError(
                    f"{path} holds no {' or '.join(PATTERNS.get(kind, ()))}; give the files, a "
                    "folder of them, or a pattern in quotes"
                )
            found += sorted(some)
        elif path.is_file():
            found.append(path)
        elif glob.has_magic(str(path)):
            some = {Path(name) for name in glob.glob(str(path), recursive=True)}
            if not some:
                raise FileNotFoundError(f"no file matches {path}")
            found += sorted(some)
        else:
            raise FileNotFoundError(f"no file {path}")
    return list(dict.fromkeys(found))


def selections_of(survey: str) -> tuple[dict[str, Selection], str]:
    """Return the selections of a survey by name, and the name of its default."""
    if survey in ("mmu", "table"):
        return {}, "all"
    module = import_module(f"omnisky.surveys.{survey}")
    return getattr(module, "SELECTIONS", {}), _DEFAULTS.get(survey, "all")


def selection_of(survey: str, asked: str | None) -> Selection:
    """Return the selection of a name; none is everything, without one it is the default's.

    Raises
    ------
    ValueError
        If the survey has none of that name.
    """
    known, default = selections_of(survey)
    name = default if asked is None else "all" if asked == "none" else asked
    if name != "all" and name not in known:
        there = f"{', '.join(known)}, or none for everything" if known else "none"
        raise ValueError(f"--selection {name}: {survey} has {there}")
    return Selection.choose(name, known)


def sources_of(files: Sequence[Path], asked: Asked) -> list[Source]:
    """Return the tasks of an ingest.

    Raises
    ------
    ValueError
        If companion files do not fit the catalogue files.
    """
    one_each = asked.cutouts or asked.survey in _SPECTRA_APART
    pieces = list(in_batches(files, _SPECTRA if one_each else 1))
    sources = []
    for number, piece in enumerate(pieces):
        name = str(piece[0]) + (f" and {len(piece) - 1} more" if len(piece) > 1 else "")
        read, more = _reader(piece, number, len(pieces), asked)
        sources.append(Source(name=name, read=read, files=(*piece, *more)))
    return sources


def _reader(
    piece: list[Path], number: int, count: int, asked: Asked
) -> tuple[Callable[..., Iterator[SkyObjects]], list[Path]]:
    """Return the reader of some files, and which other files it reads."""
    survey, paths = asked.survey, [str(path) for path in piece]
    if survey == "table":
        from omnisky.data import positions

        return partial(positions.read, paths[0], identified=count > 1, **asked.options), []
    module = import_module(f"omnisky.surveys.{survey}")
    if asked.cutouts:
        return partial(_read_cutouts, paths, asked), []
    if survey in _IMAGED and asked.images is not None:
        read = partial(_read_with_images, paths, str(asked.images), asked)
        return read, []
    beside: dict[str, Any] = {}
    for name, others in asked.beside.items():
        # One table of labels serves all files, others come in pairs.
        beside[name] = str(others[0]) if name == "labels" else [str(others[number])]
    more = [
        Path(o) for value in beside.values() for o in ([value] if isinstance(value, str) else value)
    ]
    options = {"selection": asked.selection, **beside, **asked.options}
    if survey in _SPECTRA_APART:
        options["batch_size"] = _AT_ONCE
    return partial(module.read, paths, **options), more


def _read_with_images(
    paths: Sequence[str], folder: str, asked: Asked, *, problems: Problems
) -> Iterator[SkyObjects]:
    """Yield the objects of catalogues with their cut-outs; runs in any process."""
    from omnisky.data import cutout

    stamps = dict(asked.stamps)
    bricks = bricks_of(folder, asked.survey, stamps.pop("trusted", False), asked.command)
    yield from cutout.read(
        paths,
        images=bricks,
        selection=asked.selection,
        problems=problems,
        **stamps,
        **asked.options,
    )


def _read_cutouts(
    paths: Sequence[str], asked: Asked, *, problems: Problems
) -> Iterator[SkyObjects]:
    """Yield cut-outs that are of one size, bands and pixel scale; others are problems."""
    module = import_module(f"omnisky.surveys.{asked.survey}")
    files = {Path(path).name.partition(".")[0]: path for path in paths}
    first = None
    for objects in module.read_cutouts(paths, problems=problems, **asked.options):
        image = objects.observations[f"{asked.survey}_image"]
        _, _, rows, columns = image.flux.shape
        kind = (
            f"{rows} × {columns} pixels of {image.pixel_scale_arcsec:.4g} arcsec in "
            f"{', '.join(image.bands)}"
        )
        first = first or kind
        if kind == first:
            yield objects
            continue
        for who in objects.object_id.tolist():
            reason = f"it has {kind}; those before have {first}"
            problems.report(files[who], None, reason, "Write it into another store")


@lru_cache(maxsize=1)
def bricks_of(folder: str, survey: str, trusted: bool, command: int) -> Bricks:
    """Return the bricks of a folder, which each process searches once for a command.

    Parameters
    ----------
    folder : str
        The folder.
    survey : str
        Whose images they are.
    trusted : bool
        Whether images may be decoded in this process.
    command : int
        Any number that tells this command from others: workers of a cluster outlive them.
    """
    return Bricks(folder, survey=survey, trusted=trusted)


def paired(files: Sequence[Path], others: Sequence[Path], option: str) -> list[Path]:
    """Return the companion of each file: by the range in both names, else in the given order.

    Raises
    ------
    ValueError
        If their numbers differ, or a range is not there.
    """
    keys = [[_RANGE.search(p.name) for p in some] for some in (files, others)]
    if all(keys[0]) and all(keys[1]):
        by_key = {k[1]: other for k, other in zip(keys[1], others, strict=True) if k}
        absent = [f for f, k in zip(files, keys[0], strict=True) if k and k[1] not in by_key]
        if absent:
            raise ValueError(f"--{option}: none has the range of {absent[0]} in its name")
        return [by_key[k[1]] for k in keys[0] if k]
    if len(files) != len(others):
        raise ValueError(
            f"--{option} names {len(others)} files for {len(files)} of --catalog; give one each, "
            "in the same order"
        )
    return list(others)
