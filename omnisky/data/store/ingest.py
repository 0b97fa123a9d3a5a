"""Write a sky store from readers: resumable, whole or not at all.

Sources are read into sorted runs, the runs are merged into partitions, and the finished tree is
renamed into place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial, reduce
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisky.data.store.checksums import MANIFEST
from omnisky.data.store.hats import (
    PARTITIONS,
    finish_tree,
    margin_partition,
)
from omnisky.data.store.healpix import margin_order, partitions_of
from omnisky.data.store.job import Job, Sharing, StoreSpec, write_json
from omnisky.data.store.merge import merge_partition
from omnisky.data.store.reader import FILES, open_store
from omnisky.data.store.runs import RUN_BYTES, Run, RunWriter, count_cells, find_problems
from omnisky.data.store.schema import Layout
from omnisky.modalities import SkyObjects
from omnisky.storage import sha256_of
from omnisky.surveys import mmu
from omnisky.surveys.survey import Problem, Problems

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["Source", "ingest", "pack", "write_store"]

PROBLEMS = "problems.jsonl"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Name something that yields objects: one task of an ingest.

    Parameters
    ----------
    name : str
        Its name in reports, for example that of the file.
    read : callable
        Called as ``read(problems=Problems(...))``; yields `SkyObjects`, the same at each call. A
        reader with its other arguments bound by `functools.partial`, so that it can be sent to
        another process.
    files : tuple of path
        Files it reads; their checksums are kept with the store.
    """

    name: str
    read: Callable[..., Iterable[SkyObjects]]
    files: tuple[str | os.PathLike, ...] = ()


def write_store(
    batches: Iterable[SkyObjects],
    path: str | os.PathLike,
    *,
    problems: Problems | None = None,
    provenance: Mapping[str, Any] | None = None,
    run_bytes: int = RUN_BYTES,
    **options: Any,
) -> Path:
    """Write objects as a sky store; after a failure nothing is left behind.

    Parameters
    ----------
    batches : iterable of SkyObjects
        Objects in any order, read once and never held together.
    path : path
        The store, a folder that is not there yet; its last part is the store's name.
    problems : Problems, optional
        What to do about duplicated identifiers and mixed epochs; raise without it.
    provenance : mapping, optional
        Where the objects come from, as plain values.
    run_bytes : int
        Bytes to hold in memory before they are sorted and put aside on the disk.
    **options
        See `StoreSpec`: profile, codec, margin_arcsec, max_rows and so on.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    FileExistsError
        If the path exists.
    ValueError
        If an option is not allowed, batches do not belong together, there are no objects, or on a
        problem.
    OSError
        If it cannot be written (disk full, no permission).
    """
    path = Path(path).absolute()
    problems = Problems() if problems is None else problems
    spec = StoreSpec(**options)
    source = Source(name="batches", read=lambda problems: batches)
    job = Job(path, {"what": "write_store"}, resumable=False)
    with job.opened():
        record = _read_source(job.runs, 0, source, spec, problems.on_error, run_bytes)
        _build(job, [source.name], [record], spec, problems, provenance or {})
        job.finish()
    return path


def ingest(
    sources: Sequence[Source],
    path: str | os.PathLike,
    *,
    problems: Problems | None = None,
    provenance: Mapping[str, Any] | None = None,
    client: Client | Sharing | None = None,
    run_bytes: int = RUN_BYTES,
    **options: Any,
) -> Path:
    """Write a sky store from many sources; killed at any moment, it goes on when called again.

    Parameters
    ----------
    sources : sequence of Source
        What to read; each is one task, so a source should take minutes, not days.
    path : path
        The store, a folder that is not there yet; its last part is the store's name. An unfinished
        ingest is kept beside it.
    problems : Problems, optional
        What to do about bad rows, in the readers and here; raise without it. Those on record are
        also written into the store.
    provenance : mapping, optional
        More about where the objects come from, as plain values (selection, options).
    client : dask.distributed.Client or Sharing, optional
        Where tasks run: sources and partitions, on workers that see the same disk.
    run_bytes : int
        Bytes a task holds in memory before they are sorted and put aside on the disk.
    **options
        See `StoreSpec`: profile, codec, margin_arcsec, max_rows and so on.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    FileExistsError
        If the store is there already, or another process is writing it.
    ValueError
        If an option is not allowed, an unfinished ingest of other sources is there, sources do not
        belong together or give no objects, or on a problem.
    OSError
        If it cannot be written; what is done is kept.
    """
    path = Path(path).absolute()
    problems = Problems() if problems is None else problems
    spec = StoreSpec(**options)
    names = [source.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"sources need names of their own, at least one; found {names[:10]}")
    told = [
        {"name": s.name, "files": [[str(f), Path(f).stat().st_size] for f in s.files]}
        for s in sources
    ]
    description = {"sources": told, "options": spec.as_dict(), "provenance": provenance or {}}
    job = Job(path, description, client=client)
    if job.finished:
        return path
    with job.opened():
        tasks = [
            (f"{i:06d}", (job.runs, i, source, spec, problems.on_error, run_bytes))
            for i, source in enumerate(sources)
        ]
        records = list(job.map("source", _read_source, tasks))
        _build(job, names, records, spec, problems, provenance or {})
        job.finish()
    return path


def pack(
    store: str | os.PathLike,
    path: str | os.PathLike,
    *,
    problems: Problems | None = None,
    client: Client | None = None,
    run_bytes: int = RUN_BYTES,
    **options: Any,
) -> Path:
    """Write a store again, packed unless `profile` says otherwise; resumable as `ingest` is.

    Parameters
    ----------
    store : path
        A sky store of any profile, or Multimodal Universe data that `omnisky.surveys.mmu` reads.
    path : path
        The new store, a folder that is not there yet.
    problems, client, run_bytes
        As for `ingest`.
    **options
        See `StoreSpec`.

    Returns
    -------
    Path
        The new store.

    Raises
    ------
    FileNotFoundError
        If `store` is neither.
    ValueError
        If it is coded with loss and so would be again, and for what `ingest` refuses.
    """
    provenance: dict[str, Any] = {"packed_from": str(store)}
    if (Path(store) / MANIFEST).is_file():
        old = open_store(store)
        lossy = {"q16", "log16"}
        asked = StoreSpec(**options).codec
        asked = {asked} if isinstance(asked, str) else set(asked.values())
        if asked & lossy and any(c.codec in lossy for c in old.columns.values()):
            raise ValueError(
                f"{store} is coded as q16 already, and errors add up; pack the store it was made "
                "of, or choose raw or lossless"
            )
        declared = {n: old.declaration(n) for n in old.modalities}
        known = {n: d for n, d in declared.items() if d is not None}
        options["declarations"] = {**known, **options.get("declarations", {})}
        provenance |= {"fingerprint": old.fingerprint, "source": old.provenance}
        sources = [
            Source(name=str(p.path), read=partial(_read_partition, Path(store), number))
            for number, p in enumerate(old.partitions)
        ]
    else:
        sources = [
            Source(name=str(file), read=partial(mmu.read, file), files=(file,))
            for file in mmu.find(store)
        ]
    return ingest(
        sources,
        path,
        problems=problems,
        provenance=provenance,
        client=client,
        run_bytes=run_bytes,
        **options,
    )


def _read_partition(store: Path, number: int, *, problems: Problems) -> Iterator[SkyObjects]:
    """Yield the objects of a partition; a damaged one is a problem of the whole file."""
    opened = open_store(store)
    with problems.whole_file(opened.partitions[number].path):
        yield from opened.batches(number)


def _read_source(
    runs: Path, number: int, source: Source, spec: StoreSpec, on_error: Any, run_bytes: int
) -> dict[str, Any]:
    """Read one source into runs; what an interrupted attempt left is replaced."""
    for pattern in (f"{number:06d}-*.parquet", f".writing-*-{number:06d}-*.parquet"):
        for left in runs.glob(pattern):
            left.unlink(missing_ok=True)
    problems = Problems(on_error)
    writer = RunWriter(runs, number, spec, run_bytes)
    for objects in source.read(problems=problems):
        writer.add(objects)
    writer.flush()
    return {
        "rows": writer.rows,
        "runs": [asdict(run) for run in writer.runs],
        "layout": None if writer.layout is None else writer.layout.as_dict(),
        "problems": [asdict(problem) for problem in problems.found],
        "files": [
            {"path": str(f), "bytes": Path(f).stat().st_size, "sha256": sha256_of(f)}
            for f in source.files
        ],
    }


def _build(
    job: Job,
    names: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    spec: StoreSpec,
    problems: Problems,
    provenance: Mapping[str, Any],
) -> None:
    """Merge the runs into partitions and write everything around them."""
    name = job.path.name
    problems.found += [Problem(**p) for record in records for p in record["problems"]]
    plan = job.once("plan", _plan, job.runs, names, records, spec, problems.on_error)
    problems.found += [Problem(**p) for p in plan["problems"]]
    partitions = [tuple(p) for p in plan["partitions"]]
    tasks = [
        (f"{order}-{cell}", (job.folder, name, order, cell, spec)) for order, cell in partitions
    ]
    done = [_slim(r) for r in job.map("partition", merge_partition, tasks) if r["rows"]]
    there = [(r["order"], r["cell"]) for r in done]
    write_json(job.folder / PARTITIONS, {"partitions": there})
    near = [
        (f"{order}-{cell}", (job.folder, name, i, spec.margin_arcsec))
        for i, (order, cell) in enumerate(there)
        if spec.margin_arcsec
    ]
    margins = [_slim(r) for r in job.map("margin", margin_partition, near)]
    if problems.found:
        problems.write(job.tree / PROBLEMS)
    records_again = chain(
        job.map("partition", merge_partition, tasks), job.map("margin", margin_partition, near)
    )
    finish_tree(
        job.tree,
        name,
        layout=Layout.from_dict(plan["layout"]),
        spec=spec,
        records=done,
        margins=margins,
        sums=((r["file"], r["sums"]) for r in records_again if r["rows"]),
        provenance={
            "created": plan["created"],
            "omnisky": _version(),
            "files": _list_files(job.tree, records),
            "problems": len(problems.found),
            **provenance,
        },
    )


def _list_files(tree: Path, records: Sequence[Mapping[str, Any]]) -> int:
    """Write which files were read, one a line, and return how many."""
    files = [json.dumps(file) + "\n" for record in records for file in record["files"]]
    if files:
        (tree / FILES).write_text("".join(files), encoding="utf-8")
    return len(files)


def _version() -> str:
    try:
        return version("omnisky")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def _slim(record: Mapping[str, Any]) -> dict[str, Any]:
    """Leave the checksums of a record on the disk: there may be millions."""
    return {key: value for key, value in record.items() if key != "sums"}


def _plan(
    runs_folder: Path,
    names: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    spec: StoreSpec,
    on_error: Any,
) -> dict[str, Any]:
    """Decide on layout and partitions, and which rows are left out."""
    layouts = [Layout.from_dict(r["layout"]) for r in records if r["layout"] is not None]
    if not layouts:
        raise ValueError(
            f"no objects came from {', '.join(names[:5])}; check the files, the selection and the "
            "problems reported"
        )
    layout = reduce(Layout.merge, layouts)
    spec.columns(layout)  # an option that does not fit is found before the long part
    runs = [Run(**run) for record in records for run in record["runs"]]
    rows = sum(run.rows for run in runs)
    problems = Problems(on_error)
    excluded = find_problems(runs_folder, runs, names, problems, one_epoch=spec.epochs == "one")
    nbytes = sum((runs_folder / run.path).stat().st_size for run in runs)
    most = max(1, min(spec.max_rows, spec.max_bytes * rows // max(nbytes, 1)))
    cells, counts = count_cells(runs_folder, runs, spec.max_order)
    partitions = partitions_of(cells, counts, spec.max_order, most=most, lowest=spec.lowest_order)
    if spec.margin_arcsec:
        margin_order(spec.margin_arcsec, [order for order, _ in partitions])
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "layout": layout.as_dict(),
        "runs": [asdict(run) for run in runs],
        "partitions": partitions,
        "excluded": {str(source): sorted(rows) for source, rows in excluded.items()},
        "problems": [asdict(problem) for problem in problems.found],
    }
