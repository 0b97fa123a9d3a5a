"""Measure how many matched pairs a second come out of sky stores as torch tensors; write JSON.

    python perf/stream.py --pairs 2000 --repeats 5 --out stream.json

A pair is a stamp of 5 x 160 x 160 float32 and a spectrum of 7781 pixels with inverse variances. The
stores are generated once, from the same objects: packed raw, packed q16, and lists for LSDB. All
contenders take turns in one run, in random order, from the page cache (``--cold``: from the disk),
in one process, and the median counts:

* stream: `Match.stream`, batches of torch tensors;
* everything: the same with all masks, inverse variances and PSF widths as well;
* read limit: as many threads that do nothing but `preadv` of the same rows into such buffers;
* decode limit: as many threads that do nothing but decode the same rows, already in memory;
* memcpy limit: as many threads that do nothing but copy as many bytes in memory;
* LSDB: crossmatch of the stores, then `lsdb.streams.CatalogStream` over the partitions in random
  order, with rows shuffled within partitions, stacked into torch tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisky.bench.cards import environment
from omnisky.data.match import Match, match
from omnisky.data.store import Store, open_store, write_store
from omnisky.modalities import Image, Observations, SkyObjects, Spectrum

BANDS = ("g", "r", "i", "z", "y")
SIDE, PIXELS = 160, 7781
COLUMNS = ["image.perf_image.flux", "spectrum.perf_spectrum.flux", "spectrum.perf_spectrum.ivar"]
STAMP_ROWS, SPECTRUM_ROWS = 256, 2048  # of a partition
NAMES = ("image", "spectrum")


def positions(pairs: int, survey: str) -> tuple[np.ndarray, np.ndarray]:
    """Return positions on a patch of sky; those of the surveys differ by some 0.2 arcsec."""
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(10, 30, pairs), rng.uniform(-10, 10, pairs)
    jitter = np.random.default_rng(NAMES.index(survey) + 1).normal(0, 0.15 / 3600, (2, pairs))
    return ra + jitter[0], dec + jitter[1]


def stamps(pairs: int, chunk: int = 64) -> Iterator[SkyObjects]:
    """Yield galaxies of exponential profile in noise of about one sky level a band."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    ra, dec = positions(pairs, "image")
    for start in range(0, pairs, chunk):
        some = slice(start, min(start + chunk, pairs))
        count = some.stop - start
        scale, peak = rng.uniform(3, 15, (count, 1, 1, 1)), rng.uniform(0.5, 20, (count, 5, 1, 1))
        sigma = rng.uniform(0.05, 0.2, (count, 5, 1, 1)) * rng.uniform(0.95, 1.05, (5, SIDE, SIDE))
        noise = rng.standard_normal((count, 5, SIDE, SIDE), dtype=np.float32) * sigma
        flux = (peak * np.exp(-np.hypot(x, y) / scale) + noise).astype(np.float32)
        ivar = (sigma**-2).astype(np.float32)
        image = Image(flux, ivar, bands=BANDS, pixel_scale_arcsec=0.262)
        yield _objects("image", image, start, ra[some], dec[some])


def spectra(pairs: int, chunk: int = 512) -> Iterator[SkyObjects]:
    """Yield noisy continua on the grid of DESI."""
    rng = np.random.default_rng(8)
    ra, dec = positions(pairs, "spectrum")
    wavelength = 360 + 0.08 * np.arange(PIXELS)
    for start in range(0, pairs, chunk):
        some = slice(start, min(start + chunk, pairs))
        count = some.stop - start
        sigma = rng.uniform(0.5, 2, (count, PIXELS))
        flux = rng.uniform(1, 20, (count, 1)) + rng.standard_normal((count, PIXELS)) * sigma
        spectrum = Spectrum(flux.astype(np.float32), sigma**-2, None, wavelength)
        yield _objects("spectrum", spectrum, start, ra[some], dec[some])


def _objects(survey: str, measurement: Any, start: int, ra: np.ndarray, dec: np.ndarray):
    ids = np.arange(start, start + len(ra))
    observations = Observations({f"perf_{survey}": measurement})
    return SkyObjects(
        survey=survey, object_id=ids, ra_deg=ra, dec_deg=dec, observations=observations
    )


def generate(folder: Path, pairs: int, lists: bool) -> dict[str, dict[str, Store]]:
    """Write the stores that are not there yet; by layout and survey."""
    layouts = {"raw": {"codec": "raw"}, "q16": {"codec": "q16"}}
    if lists:
        layouts["lists"] = {"profile": "interchange"}
    stores: dict[str, dict[str, Store]] = {}
    for layout, options in layouts.items():
        stores[layout] = {}
        for survey, make, rows in (
            ("image", stamps, STAMP_ROWS),
            ("spectrum", spectra, SPECTRUM_ROWS),
        ):
            path = folder / f"{survey}_{layout}_{pairs}"
            if not path.exists():
                print(f"writing {path.name} ...", flush=True)
                write_store(make(pairs), path, max_rows=rows, **options)  # pyright: ignore
            stores[layout][survey] = open_store(path)
    return stores


def drop_from_memory(stores: dict[str, Store]) -> None:
    """Make the system forget the files of some stores."""
    for store in stores.values():
        for partition in store.partitions:
            handle = os.open(partition.path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


class Limits:
    """What the machine can do with the bytes of the pairs, without any of our code around it.

    Parameters
    ----------
    pairs : Match
        The pairs, of packed stores.
    batch_size, threads : int
        As in the stream.
    """

    def __init__(self, pairs: Match, batch_size: int, threads: int) -> None:
        self.threads, self.count = threads, len(pairs)
        order = np.random.default_rng(1).permutation(len(pairs))
        self.columns = []
        for column in COLUMNS:
            name, modality, part = column.split(".")
            store = pairs.stores[name]
            heavy = store.heavy(f"{modality}_{part}")
            self.columns.append((heavy, *self._places(store, heavy, pairs.rows[name][order])))
        self.nbytes = sum(int(np.prod(h.shape)) * h.dtype.itemsize for h, *_ in self.columns)
        self.stored = sum(int(length.sum()) for *_, length in self.columns) / len(pairs)
        shapes = [(4 * batch_size, *h.shape) for h, *_ in self.columns]
        dtypes = [h.dtype for h, *_ in self.columns]
        self.ring = [np.ones(s, d) for s, d in zip(shapes, dtypes, strict=True)]
        self.source = np.ones((min(512, self.count), self.nbytes), np.uint8)
        self.target = np.ones((4 * batch_size, self.nbytes), np.uint8)

    def _places(self, store: Store, heavy: Any, rows: np.ndarray):
        """Return file handle, offset and length of each row, in the order of the stream."""
        owner = np.searchsorted(store.starts, rows, side="right") - 1
        handle, offset, length = (np.empty(len(rows), np.int64) for _ in range(3))
        for number in np.unique(owner):
            mine = owner == number
            partition = store.partitions[number]
            place = heavy.locate(partition, rows[mine] - store.starts[number])
            handle[mine], offset[mine], length[mine] = os.open(place[0], os.O_RDONLY), *place[1:]
        return handle.tolist(), offset.tolist(), length

    def _in_threads(self, work: Callable[[range], None]) -> float:
        edges = np.linspace(0, self.count, self.threads + 1).astype(int)
        parts = [range(a, b) for a, b in pairwise(edges.tolist())]
        start = time.perf_counter()
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(work, parts))
        return self.count / (time.perf_counter() - start)

    def read(self) -> float:
        """Return the pairs a second of reading alone, as they are stored."""

        def work(some: range) -> None:
            for column, (_, handle, offset, length) in enumerate(self.columns):
                flat = self.ring[column].reshape(len(self.ring[column]), -1).view(np.uint8)
                room = [memoryview(row) for row in flat]  # pyright: ignore[reportArgumentType]
                nbytes = length.tolist()
                for k in some:
                    os.preadv(handle[k], [room[k % len(room)][: nbytes[k]]], offset[k])

        return self._in_threads(work)

    def decode(self) -> float:
        """Return the pairs a second of decoding alone, of at most 256 pairs in memory."""
        held = min(256, self.count)
        blobs = [
            [os.pread(handle[k], int(length[k]), offset[k]) for k in range(held)]
            for _, handle, offset, length in self.columns
        ]

        def work(some: range) -> None:
            for column, (heavy, *_) in enumerate(self.columns):
                room, mine = self.ring[column], blobs[column]
                for k in some:
                    place = k % len(room)
                    heavy.decode([mine[k % held]], room[place : place + 1])

        return self._in_threads(work)

    def memcpy(self) -> float:
        """Return the pairs a second of copying as many bytes, from other memory than the last."""

        def work(some: range) -> None:
            for k in some:
                source = self.source[k * 7919 % len(self.source)]
                np.copyto(self.target[k % len(self.target)], source)

        return self._in_threads(work)


class LsdbContender:
    """Crossmatch with LSDB and iterate over the partitions of the result.

    Parameters
    ----------
    stores : dict of str to Store
        The two stores.
    threads : int
        Threads of Dask, and partitions that are loaded at a time.
    """

    def __init__(self, stores: dict[str, Store], threads: int) -> None:
        import lsdb.loaders.hats.read_hats as loader

        self.threads = threads
        self.packed = stores["image"].profile == "packed"
        light = ["object_id", "ra", "dec"]
        heavy = {
            "image": ["perf_image_flux"],
            "spectrum": ["perf_spectrum_flux", "perf_spectrum_ivar"],
        }
        self.columns = [c for some in heavy.values() for c in some]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sides = [
                loader.open_catalog(stores[n].path, columns=light + heavy[n], margin_cache=None)
                for n in NAMES
            ]
            self.catalog = sides[0].crossmatch(
                sides[1],
                radius_arcsec=1,
                suffix_method="overlapping_columns",
                log_changes=False,
            )

    def rate(self) -> float:
        """Return the pairs a second of one pass."""
        import dask.config
        from lsdb.streams.catalog_streams import CatalogStream

        start, count = time.perf_counter(), 0
        with dask.config.set(scheduler="threads", num_workers=self.threads):
            chunks = CatalogStream(self.catalog, partitions_per_chunk=self.threads, seed=1)
            for frame in chunks:
                tensors = [self._tensor(frame[column]) for column in self.columns]
                count += len(tensors[0])
        return count / (time.perf_counter() - start)

    def _tensor(self, column: Any) -> torch.Tensor:
        if self.packed:
            rows = [np.frombuffer(value, np.float32) for value in column]
        else:
            rows = [np.asarray(value, dtype=np.float32) for value in column]
        tensor = torch.from_numpy(np.stack(rows))
        return tensor.reshape(-1, len(BANDS), SIDE, SIDE) if len(rows[0]) != PIXELS else tensor


def one_pass(stream: Any) -> float:
    """Return the pairs a second of one epoch."""
    start, count = time.perf_counter(), 0
    for batch in stream:
        count += len(batch["image.objects"].object_id)
    return count / (time.perf_counter() - start)


def contenders(
    stores: dict[str, dict[str, Store]], asked: argparse.Namespace
) -> tuple[dict[str, tuple[Callable[[], float], dict[str, Store]]], dict[str, Any]]:
    """Return what takes turns, with the stores it reads, and facts about the pairs."""
    turns: dict[str, tuple[Callable[[], float], dict[str, Store]]] = {}
    facts: dict[str, Any] = {}
    for layout in ("raw", "q16"):
        pairs = match(*stores[layout].values(), radius_arcsec=1, names=NAMES)
        limits = Limits(pairs, asked.batch_size, asked.threads)
        options = {"batch_size": asked.batch_size, "threads": asked.threads}
        chosen = pairs.stream(**options, columns=COLUMNS)
        whole = pairs.stream(**options)
        held = stores[layout]
        turns[f"stream {layout}"] = (lambda s=chosen: one_pass(s)), held
        turns[f"everything {layout}"] = (lambda s=whole: one_pass(s)), held
        turns[f"read limit {layout}"] = limits.read, held
        if layout == "q16":
            turns["decode limit q16"] = limits.decode, {}
        else:
            turns["memcpy limit"] = limits.memcpy, {}
        facts[layout] = {
            "pairs": len(pairs),
            "bytes_per_pair": limits.nbytes,
            "stored_bytes_per_pair": limits.stored,
        }
    if asked.lsdb:
        for layout, held in (("packed", stores["raw"]), ("lists", stores["lists"])):
            turns[f"lsdb {layout}"] = LsdbContender(held, asked.threads).rate, held
    return turns, facts


def measure(stores: dict[str, dict[str, Store]], asked: argparse.Namespace) -> dict[str, Any]:
    """Return the median pairs a second of all contenders, and what follows from them."""
    turns, facts = contenders(stores, asked)
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for repeat in range(asked.repeats + 1):
        for name, (task, held) in turns.items():
            if asked.cold:
                drop_from_memory(held)
            rate = task()
            if repeat:  # the first turn compiles, fills the page cache and the buffers
                rates[name].append(rate)
    median = {name: statistics.median(found) for name, found in rates.items()}
    summary: dict[str, Any] = {}
    for layout in ("raw", "q16"):
        rate = median[f"stream {layout}"]
        summary[layout] = {
            "pairs_per_second": rate,
            "fraction_of_read_limit": rate / median[f"read limit {layout}"],
            "fraction_of_memcpy_limit": rate / median["memcpy limit"],
            "gigabytes_per_second": rate * facts[layout]["bytes_per_pair"] / 1e9,
            "stored_gigabytes_per_second": rate * facts[layout]["stored_bytes_per_pair"] / 1e9,
            **{
                f"times_lsdb_{kind}": rate / median[f"lsdb {kind}"]
                for kind in ("packed", "lists")
                if f"lsdb {kind}" in median
            },
        }
    summary["q16"]["fraction_of_decode_limit"] = median["stream q16"] / median["decode limit q16"]
    return {"summary": summary, "pairs_per_second": _spread(rates), "facts": facts}


def _spread(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"median": statistics.median(r), "slowest": min(r), "fastest": max(r)}
        for name, r in rates.items()
    }


def show(found: dict[str, Any]) -> None:
    """Print a table."""
    print(f"{'':20s} {'pairs/s':>9s} {'slowest':>9s} {'fastest':>9s}")
    for name, rate in found["pairs_per_second"].items():
        print(f"{name:20s} {rate['median']:9.0f} {rate['slowest']:9.0f} {rate['fastest']:9.0f}")
    for layout, values in found["summary"].items():
        print(layout, ", ".join(f"{key} {value:.3g}" for key, value in values.items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=2000, help="about 3 MB of disk each (2000)")
    parser.add_argument("--batch-size", type=int, default=64, help="objects of a batch (64)")
    parser.add_argument("--threads", type=int, default=2, help="of all contenders (2)")
    parser.add_argument("--repeats", type=int, default=5, help="measured turns (5)")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each turn")
    parser.add_argument("--no-lsdb", dest="lsdb", action="store_false", help="leave LSDB out")
    parser.add_argument("--folder", type=Path, help="keep the stores here; temporary without it")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def main() -> None:
    """Generate, measure, print, write."""
    asked = _parser().parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="omnisky-perf-"))
    try:
        measured = measure(generate(folder, asked.pairs, asked.lsdb), asked)
    finally:
        if asked.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    options = {k: v for k, v in vars(asked).items() if k not in ("folder", "out")}
    found = {**measured, "options": options, **environment()}
    found["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    with suppress(Exception):
        found["versions"]["lsdb"] = version("lsdb")
    show(found)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
