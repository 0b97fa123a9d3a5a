"""Measure how fast a mock universe is made, end to end and part by part; write JSON.

    python perf/mock.py --objects 10000 --processes 2 --out mock.json

Each object is drawn, its light computed, and everything that five surveys have of it made: images
of 160 pixels, spectra, coefficients and catalogue rows, as typed objects in memory. Parts are timed
in one process, by the clock and by the processor time it used, which says what a free core would
do; the whole then runs on several processes. `--files` also writes native files and `--store` sky
stores, into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from omnisky.bench.cards import environment
from omnisky.cli import main as command
from omnisky.mock import SURVEYS, Universe, UniverseConfig

BATCH = 64


def universe_of(asked: argparse.Namespace, objects: int) -> Universe:
    """Return the universe that is measured."""
    config = UniverseConfig(seed=asked.seed, area_deg2=asked.area_deg2)
    return Universe(n=objects, config=config)


def make(universe: Universe, start: int, seconds: dict[str, list[float]] | None = None) -> int:
    """Make everything of a batch of objects; returns how many rows the surveys have of it."""
    spent = {} if seconds is None else seconds
    part = universe[start : start + BATCH]
    rows = 0
    with timed(spent, "population and light"):
        part.hold()
    for survey in SURVEYS:
        with timed(spent, survey):
            native = part.native(survey)
            rows += len(native)
            if len(native):
                native.objects()
    return rows


class timed:
    """Add clock and processor seconds of a block to a table."""

    def __init__(self, seconds: dict[str, list[float]], name: str) -> None:
        self.total = seconds.setdefault(name, [0.0, 0.0])

    def __enter__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def __exit__(self, *error: object) -> None:
        for i, now in enumerate((time.perf_counter(), time.process_time())):
            self.total[i] += now - self.start[i]


def parts(asked: argparse.Namespace) -> dict[str, Any]:
    """Return milliseconds an object of each part, in this process."""
    universe = universe_of(asked, asked.parts + BATCH)
    make(universe, 0)  # loads tables and plans transforms
    seconds: dict[str, list[float]] = {}
    start = time.perf_counter(), time.process_time()
    for batch in range(BATCH, len(universe), BATCH):
        make(universe, batch, seconds)
    done = asked.parts
    clock, cpu = (
        now - then
        for now, then in zip((time.perf_counter(), time.process_time()), start, strict=True)
    )
    return {
        "objects": done,
        "ms_an_object": {
            k: {"clock": 1e3 * a / done, "cpu": 1e3 * b / done} for k, (a, b) in seconds.items()
        },
        "objects_per_second": {"clock": done / clock, "cpu": done / cpu},
    }


def whole(asked: argparse.Namespace) -> dict[str, Any]:
    """Return how long all objects take on several processes, start of these included."""
    universe = universe_of(asked, asked.objects)
    begun = time.perf_counter()
    with ProcessPoolExecutor(asked.processes) as pool:
        starts = range(0, asked.objects, BATCH)
        rows = sum(pool.map(partial(make, universe), starts, chunksize=4))
    seconds = time.perf_counter() - begun
    return {
        "objects": asked.objects,
        "rows": rows,
        "processes": asked.processes,
        "seconds": seconds,
        "objects_per_second": asked.objects / seconds,
    }


def written(asked: argparse.Namespace, option: str) -> dict[str, Any]:
    """Return how long the command takes to write files or stores, and how much it writes."""
    folder = Path(tempfile.mkdtemp(prefix="omnisky-perf-"))
    try:
        line = ["mock", "--objects", str(asked.written), "--seed", str(asked.seed)]
        line += ["--area-deg2", str(asked.area_deg2), option, str(folder / "sky")]
        if asked.processes > 1:
            line += ["--workers", str(asked.processes)]
        start = time.perf_counter()
        if command(line):
            raise SystemExit(f"omnisky {' '.join(line)} failed")
        seconds = time.perf_counter() - start
        files = [p for p in (folder / "sky").rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "objects": asked.written,
        "seconds": seconds,
        "objects_per_second": asked.written / seconds,
        "files": len(files),
        "megabytes": size / 1e6,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--objects", type=int, default=10_000, help="of the whole (10000)")
    parser.add_argument("--parts", type=int, default=1024, help="objects timed part by part (1024)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="of the parts; the median counts (3)"
    )
    parser.add_argument("--written", type=int, default=2000, help="objects that are written (2000)")
    parser.add_argument("--processes", type=int, default=2, help="of the whole (2)")
    parser.add_argument("--seed", type=int, default=1, help="of the universe (1)")
    parser.add_argument("--area-deg2", type=float, default=20.0, help="of the sky (20)")
    parser.add_argument("--files", action="store_true", help="write native files too")
    parser.add_argument("--store", action="store_true", help="write sky stores too")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def main() -> None:
    """Measure, print, write."""
    asked = _parser().parse_args()
    turns = [parts(asked) for _ in range(asked.repeats)]
    middle = statistics.median_low([t["objects_per_second"]["cpu"] for t in turns])
    found: dict[str, Any] = {
        "parts": next(t for t in turns if t["objects_per_second"]["cpu"] == middle),
        "objects_per_second_of_each_turn": [t["objects_per_second"] for t in turns],
    }
    jobs: dict[str, Callable[[], dict[str, Any]]] = {"whole": lambda: whole(asked)}
    if asked.files:
        jobs["files"] = lambda: written(asked, "--out")
    if asked.store:
        jobs["store"] = lambda: written(asked, "--store")
    for name, job in jobs.items():
        found[name] = job()
    found["options"] = {k: v for k, v in vars(asked).items() if k != "out"}
    found |= {**environment(), "load": os.getloadavg()}
    found["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    for name, one in found["parts"]["ms_an_object"].items():
        print(f"{name:22s} {one['clock']:7.3f} ms clock {one['cpu']:7.3f} ms cpu an object")
    print("one process:", found["parts"]["objects_per_second"])
    for name in jobs:
        print(f"{name}:", found[name])
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
