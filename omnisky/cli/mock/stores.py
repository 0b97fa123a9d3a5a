"""Write a mock universe straight into sky stores, one a survey."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.cli.mock.files import write_truth
from omnisky.cli.sky.progress import waiting
from omnisky.cli.sky.workers import Workers
from omnisky.cli.sky.writing import write

if TYPE_CHECKING:
    from omnisky.data.store import Source
    from omnisky.mock import Universe
    from omnisky.modalities import SkyObjects
    from omnisky.surveys.survey import Problems

__all__ = ["write_stores"]

# Objects of one task, and those made at a time.
_TASK, _BATCH = 1024, 128
_ABOUT = "mock.json"


def write_stores(
    universe: Universe,
    surveys: Sequence[str],
    out: Path,
    options: Mapping[str, Any],
    workers: Workers,
) -> None:
    """Write a store a survey, with the truth beside them.

    Parameters
    ----------
    universe : Universe
        What to write.
    surveys : sequence of str
        Which surveys.
    out : Path
        A folder that is not there yet; stores are folders in it, named as the surveys.
    options : mapping
        Options of the stores, see `omnisky.data.store.StoreSpec`.
    workers : Workers
        Where tasks run.
    """
    from omnisky.mock.native.writing import about

    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --store or remove it first")
    told = about(universe, surveys)
    work = out.absolute().with_name(f".{out.name}.unfinished")
    _begin(work, {**told, "options": dict(options)})
    try:
        with waiting("Drawing the population"):
            truth = universe.truth
        # All before the first store, for a survey may have none of the objects.
        sources = {
            survey: _sources(universe, survey, np.flatnonzero(truth[f"in_{survey}"]))
            for survey in surveys
        }
        for survey in surveys:
            if (work / survey).exists():
                continue  # done before the command was stopped
            write(
                sources[survey],
                work / survey,
                on_error="raise",
                told=told,
                options=options,
                workers=workers,
                expected=len(universe.owners(survey)[0]),
            )
        write_truth(universe, work)
        os.replace(work, out)
    except BaseException:
        if not any(path.is_dir() for path in work.iterdir()):
            shutil.rmtree(work, ignore_errors=True)  # nothing is done yet, so nothing is kept
        raise
    print(f"{out}: {len(surveys)} mock stores and their truth, {out / 'truth.parquet'}")


def _begin(work: Path, told: Mapping[str, Any]) -> None:
    """Make the folder of an unfinished universe, or take up one of the same universe.

    Raises
    ------
    ValueError
        If that which is there shows another universe.
    """
    wanted = json.loads(json.dumps(told))
    if work.exists():
        try:
            started = json.loads((work / _ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            started = {}
        if started != wanted:
            differ = [key for key in wanted if started.get(key) != wanted[key]]
            raise ValueError(
                f"{work} holds an unfinished universe that differs in {', '.join(differ)}; give "
                "the command as it was given first, or remove that folder to begin anew"
            )
        return
    work.mkdir(parents=True)
    (work / _ABOUT).write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def _sources(universe: Universe, survey: str, there: np.ndarray) -> list[Source]:
    """Return the tasks of a survey: some of the objects it has each, and the spurious rows.

    Raises
    ------
    ValueError
        If none of the objects is in the survey.
    """
    from omnisky.data.store import Source

    numbers = universe.numbers
    if not len(there):
        raise ValueError(
            f"none of the {len(universe)} objects is in {survey}; ask for more --objects, another "
            "--seed, or other --surveys"
        )
    sources = []
    for start in range(0, len(there), _TASK):
        rows = there[start : start + _TASK]
        name = f"mock {survey}, objects {numbers[rows[0]]} to {numbers[rows[-1]]}"
        sources.append(Source(name=name, read=partial(_read, universe[rows], survey)))
    if count := universe.n_spurious(survey):
        read = partial(_read_spurious, universe[there[:1]], survey, count)
        sources.append(Source(name=f"mock {survey}, spurious rows", read=read))
    return sources


def _read(universe: Universe, survey: str, *, problems: Problems) -> Iterator[SkyObjects]:
    """Yield what a survey has of objects and of their fragments; runs in any process."""
    for start in range(0, len(universe), _BATCH):
        part = slice(start, start + _BATCH)
        yield universe.observe(survey, part)
        fragments = universe.fragments(survey, part)
        if len(fragments):
            yield fragments.objects()


def _read_spurious(
    universe: Universe, survey: str, count: int, *, problems: Problems
) -> Iterator[SkyObjects]:
    """Yield rows that stand for nothing."""
    for start in range(0, count, _BATCH):
        numbers = np.arange(start, min(start + _BATCH, count))
        yield universe.spurious(survey, numbers).objects()
