"""Measure how ingest, packing and cutting out grow with workers; write JSON.

    python perf/workers.py --sources 8 --objects 60 --out workers.json

Invented sources of stamps (4 x 160 x 160 float32 with inverse variances and masks) are ingested
into a packed store and packed as q16, by one and by two Dask workers of one thread each, in turns;
medians count. Starting the cluster is not measured, everything else is: the journal, sorting into
partitions, checksums.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from dask.distributed import Client, LocalCluster

from omnisky.bench.cards import environment
from omnisky.data.store import Source, ingest, pack
from omnisky.modalities import Image, Observations, SkyObjects

BANDS = ("g", "r", "i", "z")
SIDE = 160
_BYTES = 9 * len(BANDS) * SIDE**2  # of one object


def stamps(number: int, objects: int, *, problems: Any = None) -> Iterator[SkyObjects]:
    """Yield the objects of one source: a strip of the sky of its own."""
    rng = np.random.default_rng(number)
    shape = (objects, len(BANDS), SIDE, SIDE)
    flux = rng.standard_normal(shape, dtype=np.float32)
    ivar = rng.uniform(0.5, 2.0, shape).astype(np.float32)
    image = Image(flux, ivar, np.ones(shape, bool), BANDS, 0.262)
    yield SkyObjects(
        survey="perf",
        object_id=np.arange(objects) + objects * number,
        ra_deg=rng.uniform(0, 360, objects),
        dec_deg=rng.uniform(-10, 10, objects),
        observations=Observations({"perf_image": image}),
    )


def seconds(task: Callable[[Path], Any], folder: Path) -> float:
    """Return the wall seconds of a task that writes a folder, which is removed again."""
    out = folder / "out"
    start = time.perf_counter()
    task(out)
    taken = time.perf_counter() - start
    shutil.rmtree(out)
    return taken


def turn(workers: int, sources: list[Source], store: Path, folder: Path) -> dict[str, float]:
    """Return the seconds of each task with so many workers."""
    options: dict[str, Any] = {"max_bytes": 64 * 2**20, "threads": 1}
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        # So that all workers are there and have imported what they need.
        few = [Source(name=f"warm {n}", read=partial(stamps, n, 2)) for n in range(4 * workers)]
        seconds(lambda out: ingest(few, out, client=client, **options), folder)
        tasks = {
            "ingest": lambda out: ingest(sources, out, client=client, **options),
            "pack q16": lambda out: pack(store, out, client=client, codec="q16", **options),
        }
        return {name: seconds(task, folder) for name, task in tasks.items()}


def main() -> int:
    """Measure, print, write; return 1 if a threshold is missed."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sources", type=int, default=8, help="tasks (8)")
    parser.add_argument("--objects", type=int, default=60, help="objects of each, 0.9 MB (60)")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns (3)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--least", type=float, default=0.0, help="fail below this gain of ingest")
    asked = parser.parse_args()
    sources = [
        Source(name=f"source {n}", read=partial(stamps, n, asked.objects))
        for n in range(asked.sources)
    ]
    taken: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = ingest(sources, folder / "store", max_bytes=64 * 2**20)
        for _ in range(asked.repeats):
            for workers in (1, 2):
                for task, value in turn(workers, sources, store, folder).items():
                    taken.setdefault(task, {}).setdefault(str(workers), []).append(value)
    medians = {t: {w: statistics.median(v) for w, v in by.items()} for t, by in taken.items()}
    megabytes = asked.sources * asked.objects * _BYTES / 1e6
    found = {
        "megabytes": megabytes,
        "seconds": taken,
        "megabytes_per_second": {w: megabytes / s for w, s in medians["ingest"].items()},
        "ratio": medians["ingest"]["1"] / medians["ingest"]["2"],
        "ratios": {task: by["1"] / by["2"] for task, by in medians.items()},
        "options": {k: v for k, v in vars(asked).items() if k != "out"},
        **environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    return int(found["ratio"] < asked.least)


if __name__ == "__main__":
    raise SystemExit(main())
