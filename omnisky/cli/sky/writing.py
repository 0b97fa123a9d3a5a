"""Write a store and say what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnisky.cli.sky.options import OnError
from omnisky.cli.sky.progress import CountedReads, once_each, resumable, unfinished, watching
from omnisky.cli.sky.workers import Workers

__all__ = ["refuse_existing", "report", "write"]


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
    expected: int | None = None,
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
    expected : int, optional
        How many objects there will be at most, where that is known.
    """
    from omnisky.data import store
    from omnisky.surveys.survey import Problems

    problems = Problems(on_error)
    counted = CountedReads(expected)
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
