"""Write a store again in another layout, and look for damage."""

from __future__ import annotations

from pathlib import Path

from omnisky.cli.sky.options import Layout, OnError
from omnisky.cli.sky.progress import Counted, once_each, resumable, watching
from omnisky.cli.sky.workers import Workers
from omnisky.cli.sky.writing import refuse_existing, report

__all__ = ["pack", "verify"]

_LAYOUT, _WORKERS = Layout(), Workers()
_SHOWN = 20


def pack(
    store: Path,
    /,
    *,
    out: Path,
    on_error: OnError = "raise",
    layout: Layout = _LAYOUT,
    workers: Workers = _WORKERS,
) -> None:
    """Write a sky store again, packed or coded in another way.

    Takes HATS collections of the Multimodal Universe as well. One that was stopped goes on where
    it was when the same command is given again.

    Parameters
    ----------
    store : Path
        The store.
    out : Path
        The new store, a folder that is not there yet.
    on_error : str
        What to do about a damaged partition or a bad row: stop, or leave it out and report it.
    layout : Layout
        How the new store is laid out.
    workers : Workers
        Where tasks run.
    """
    from omnisky.data import store as stores
    from omnisky.surveys.survey import Problems

    options = layout.options()
    refuse_existing(out)
    if not store.exists():
        raise FileNotFoundError(f"no store {store}")
    problems = Problems(on_error)
    with resumable(out), workers.client() as client, once_each(), watching(out):
        stores.pack(workers.seen(store), out, problems=problems, client=client, **options)
    report(out, problems)


def verify(store: Path, /, *, workers: Workers = _WORKERS) -> None:
    """Check every byte of a sky store against its checksums.

    Parameters
    ----------
    store : Path
        The store.
    workers : Workers
        Where files are read.
    """
    from typing import Any, cast

    from omnisky.cli.sky.describe import size_of
    from omnisky.data import store as stores

    if not store.is_dir():
        raise FileNotFoundError(f"no folder {store}; expected a sky store")
    with workers.client() as client, Counted("Checking files", client) as counted:
        damages = stores.verify(workers.seen(store), client=cast(Any, counted))
    for damage in damages[:_SHOWN]:
        print(damage)
    if damages:
        more = f" (the first {_SHOWN} are listed)" if len(damages) > _SHOWN else ""
        raise ValueError(
            f"{store} is damaged in {len(damages)} places{more}; bring these files back from "
            "another copy, or write the store again"
        )
    print(f"{store}: {size_of(store)} are as they were written")
