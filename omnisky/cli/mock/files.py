"""Write a mock universe as native files: resumable, whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisky.cli.sky.progress import CountedReads, resumable, waiting, watching
from omnisky.cli.sky.workers import Workers
from omnisky.cli.sky.writing import refuse_existing

if TYPE_CHECKING:
    from omnisky.mock import Universe

__all__ = ["write_files", "write_truth"]

_TRUTH = "truth.parquet"


def write_files(universe: Universe, surveys: Sequence[str], out: Path, workers: Workers) -> None:
    """Write files in the surveys' own formats, with the truth beside them.

    Parameters
    ----------
    universe : Universe
        What to write.
    surveys : sequence of str
        Which surveys.
    out : Path
        A folder that is not there yet.
    workers : Workers
        Where tasks run.
    """
    from omnisky.data.store.job import Job
    from omnisky.mock.native.writing import about, pieces_of, task_of, write_piece

    refuse_existing(out)
    with waiting("Drawing the population"):
        pieces = pieces_of(universe, surveys)
    told = {"what": "mock", **about(universe, surveys), "sources": [p.name for p in pieces]}
    counted = CountedReads(sum(len(p) for p in pieces))
    with resumable(out), workers.client() as client:
        job = Job(out.absolute(), told, client=client)
        if job.finished:
            return

        def write_here(*arguments: Any) -> dict[str, Any]:
            record = write_piece(*arguments)
            counted.objects += record["rows"]
            return record

        with job.opened(), watching(out, counted if client is None else None):
            tasks = [(p.name, task_of(universe, p, job.tree)) for p in pieces]
            function = write_here if client is None else write_piece
            records = list(job.map("source", function, tasks))
            write_truth(universe, job.tree)
            text = json.dumps(about(universe, surveys), indent=1)
            (job.tree / "mock.json").write_text(text + "\n", encoding="utf-8")
            job.finish()
    _report(out, universe, records)


def write_truth(universe: Universe, folder: Path) -> None:
    """Write the truth table into a folder, in place of one that is there."""
    from omnisky.data.tables import write_table

    write_table(universe.truth, folder / _TRUTH, overwrite=True)


def _report(out: Path, universe: Universe, records: Sequence[dict[str, Any]]) -> None:
    from omnisky.cli.sky.describe import size_of

    rows, files = Counter(), Counter()
    for record in records:
        rows[record["survey"]] += record["rows"]
        files[record["survey"]] += len(record["files"])
    print(f"{out}: mock sky of {len(universe)} objects, {size_of(out)}; truth in {out / _TRUTH}")
    for survey, count in rows.items():
        print(f"{out / survey}: {count} rows in {files[survey]} files")
