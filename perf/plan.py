"""Say what 10⁹ objects take: partitions, index, bytes a second, nodes; from measurements as JSON.

    python perf/plan.py --stream stream.json --match match.json --cutouts cutouts.json \
        --workers workers.json --out plan.json

The files are what the other scripts of this folder wrote. What they do not measure is measured
here: bytes of an index, and opening a store of so many partitions. Prints the table of
docs/explanation/billion-objects.md. Speeds of many machines are those of one times their number:
tasks are partitions and share nothing but disks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from omnisky.bench.cards import environment
from omnisky.data.match import Match, MatchOptions, Pairs
from omnisky.data.match.groups import grouped
from omnisky.data.store import Store, StoreSpec
from omnisky.data.store.checksums import SUMS, write_sums
from omnisky.data.store.schema import Layout

_PAIRS = 1_000_000
_SKY_DEG2 = 41252.96
_DAY = 86_400.0
# Flux and inverse variance (float32) and mask of one band of 160 x 160 pixels.
RAW_BAND = 9 * 160**2
# The same as q16: 100 stamps of the g image of Legacy Survey brick 0959p805, ingested with it.
Q16_BAND = 47_844
# Images and inverse variances of a Legacy Survey brick in 4 bands, .fits.fz of 11 MB, and its area.
BRICK_BYTES, BRICK_DEG2 = 8 * 11_000_000, 0.25**2


def index_bytes() -> float:
    """Return bytes a pair of a match on the disk."""
    rng = np.random.default_rng(0)
    left = np.sort(rng.choice(4 * _PAIRS, _PAIRS, replace=False))
    right = np.sort(rng.choice(2 * _PAIRS, _PAIRS, replace=False))
    apart = np.abs(rng.normal(0, 0.2, _PAIRS))
    with tempfile.TemporaryDirectory() as folder:
        stores = {n: SimpleNamespace(path=Path(folder), fingerprint="") for n in ("a", "b")}
        groups = grouped([Pairs(left, right, apart)], _PAIRS, "inner")
        match = Match(cast(Any, stores), MatchOptions(radius_arcsec=1.0), lambda: groups)
        path = match.save(Path(folder, "match"))
        return sum(f.stat().st_size for f in path.iterdir()) / _PAIRS


def checksum_bytes() -> float:
    """Return bytes a column chunk in the table of checksums."""
    rng, chunks, columns = np.random.default_rng(0), 20_000, 10
    offset = np.cumsum(rng.integers(1_000, 8_000_000, chunks))
    sums = rng.integers(0, 2**32, chunks)
    parts = [
        [i // columns, f"column {i % columns}", int(offset[i]), int(offset[i] % 9999), int(sums[i])]
        for i in range(chunks)
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_sums(Path(folder), [("dataset/Norder=9/Dir=0/Npix=1.parquet", parts)])
        return (Path(folder) / SUMS).stat().st_size / chunks


def seconds_to_open(partitions: int, rows: int) -> float:
    """Return how long it takes to read the manifest of a store of so many partitions."""
    values = {
        "name": "sky",
        "survey": "none",
        "profile": "packed",
        "layout": Layout("none", False, (), ()).as_dict(),
        "provenance": {},
        "columns": [],
        "partitions": [[9, number, rows] for number in range(partitions)],
    }
    text = json.dumps(values)
    start = time.perf_counter()
    Store(Path("sky"), json.loads(text))
    return time.perf_counter() - start


def partitions_of(objects: float, deg2: float, bytes_each: float) -> tuple[int, int, float]:
    """Return order, number and rows of partitions, for objects spread evenly over an area."""
    spec = StoreSpec()
    most = min(spec.max_rows, spec.max_bytes / bytes_each)
    order = 0
    while objects / deg2 * _SKY_DEG2 / (12 * 4**order) > most and order < spec.max_order:
        order += 1
    rows = objects / deg2 * _SKY_DEG2 / (12 * 4**order)
    return order, round(objects / rows), rows


def plan(asked: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers of the plan."""
    stream, match, cutouts = (
        json.loads(getattr(asked, name).read_text()) for name in ("stream", "match", "cutouts")
    )
    cores, gpus = asked.nodes * asked.cores, asked.nodes * asked.gpus
    found: dict[str, Any] = {"asked": {k: str(v) for k, v in vars(asked).items()}}
    for codec, band in (("raw", RAW_BAND), ("q16", Q16_BAND)):
        order, count, rows = partitions_of(asked.objects, asked.deg2, 4 * band)
        summary, facts = stream["summary"][codec], stream["facts"][codec]
        a_core = summary["pairs_per_second"] / stream["options"]["threads"]
        wanted = asked.rate * asked.gpus
        found[codec] = {
            "bytes_an_object": 4 * band,
            "terabytes": asked.objects * 4 * band / 1e12,
            "order": order,
            "partitions": count,
            "rows_a_partition": rows,
            "seconds_to_open": seconds_to_open(count, round(rows)),
            "pairs_per_second_and_core": a_core,
            "cores_to_feed_a_node": wanted / a_core,
            "node_gigabytes_per_second": wanted * facts["stored_bytes_per_pair"] / 1e9,
            "epoch_hours": asked.objects / (asked.rate * gpus) / 3600,
        }
    each = index_bytes()
    sky = match["skies"]["patch, random order"]
    rows_a_second = match["objects"] / sky["seconds"]["omnisky_one_thread"]
    found["match"] = {
        "index_bytes_a_pair": each,
        "index_gigabytes": asked.objects * each / 1e9,
        "rows_per_second_and_core": rows_a_second,
        "seconds": asked.objects / rows_a_second / cores,
        "coordinate_gigabytes": 2 * asked.objects * 24 / 1e9,
    }
    # Flux, inverse variance, mask, PSF, offset and some five others, in groups of 48 rows.
    found["checksum_gigabytes"] = asked.objects / 48 * 10 * checksum_bytes() / 1e9
    # Rows of two stores and the separation; 8 bytes each.
    found["match_memory_gigabytes"] = asked.objects * 24 / 1e9
    # Of both stores: identifier, position, and place and length of three coded columns.
    found["stream_table_gigabytes"] = asked.objects * (2 * 24 + 3 * 12) / 1e9
    speed = cutouts["stamps_per_processor_second"]
    found["cut out"] = {
        name: {
            "stamps_per_second_and_core": speed[key],
            "core_days": asked.objects / speed[key] / _DAY,
            "hours": asked.objects / speed[key] / cores / 3600,
        }
        for name, key in (("trusted", "packed_omnisky"), ("untrusted", "packed_omnisky_child"))
    }
    found["bricks_terabytes"] = asked.deg2 / BRICK_DEG2 * BRICK_BYTES / 1e12
    if asked.workers is not None:
        found["ingest"] = _ingest(json.loads(asked.workers.read_text()), asked, cores)
    return found | environment() | {"created": datetime.now(UTC).isoformat(timespec="seconds")}


def _ingest(workers: dict[str, Any], asked: argparse.Namespace, cores: int) -> dict[str, Any]:
    one = workers["megabytes_per_second"]["1"]
    return {
        "megabytes_per_second_and_core": one,
        "hours_raw": asked.objects * 4 * RAW_BAND / (one * 1e6) / cores / 3600,
        "two_workers_over_one": workers["ratio"],
    }


def table(found: dict[str, Any], asked: argparse.Namespace) -> str:
    """Return the plan as a Markdown table."""
    raw, q16, match = found["raw"], found["q16"], found["match"]
    cut = found["cut out"]["trusted"]
    slow = found["cut out"]["untrusted"]
    nodes, cores = f"{asked.nodes} nodes", asked.nodes * asked.cores
    lines = [
        ("", "raw", "q16"),
        ("bytes an object (4 bands)", f"{raw['bytes_an_object']:,}", f"{q16['bytes_an_object']:,}"),
        ("store", f"{raw['terabytes']:.0f} TB", f"{q16['terabytes']:.0f} TB"),
        *(
            (says, f"{raw[key]:,.0f}", f"{q16[key]:,.0f}")
            for says, key in (("partitions", "partitions"), ("objects in each", "rows_a_partition"))
        ),
        ("HEALPix order", str(raw["order"]), str(q16["order"])),
        *(
            (says, f"{raw[key]:.{digits}f} {unit}", f"{q16[key]:.{digits}f} {unit}")
            for says, key, digits, unit in (
                ("opening the store", "seconds_to_open", 1, "s"),
                ("a node reads", "node_gigabytes_per_second", 1, "GB/s"),
                ("cores of a node for that", "cores_to_feed_a_node", 1, ""),
                ("one epoch", "epoch_hours", 1, "h"),
            )
        ),
        ("index of 10⁹ pairs", f"{match['index_gigabytes']:.0f} GB", "the same"),
        ("the same in memory", f"{found['match_memory_gigabytes']:.0f} GB", "the same"),
        ("tables of a stream, in files", f"{found['stream_table_gigabytes']:.0f} GB", "the same"),
        ("checksums", f"{found['checksum_gigabytes']:.0f} GB", "the same"),
        ("matching, one core", f"{match['seconds'] * cores / 60:.0f} min", "the same"),
        ("bricks to read", f"{found['bricks_terabytes']:.0f} TB", "the same"),
        (f"cutting out of trusted bricks, {nodes}", f"{cut['hours']:.1f} h", "the same"),
        (
            f"cutting out, decoders in child processes, {nodes}",
            f"{slow['hours']:.1f} h",
            "the same",
        ),
    ]
    if "ingest" in found:
        lines.append(
            (f"ingest of raw stamps, {nodes}", f"{found['ingest']['hours_raw']:.1f} h", "–")
        )
    rows = ["| " + " | ".join(line).replace("  ", " ").strip() + " |" for line in lines]
    return "\n".join([rows[0], "|---|---|---|", *rows[1:]])


def main() -> int:
    """Read the measurements, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    for name in ("stream", "match", "cutouts"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"JSON of perf/{name}.py")
    parser.add_argument("--workers", type=Path, help="JSON of perf/workers.py")
    parser.add_argument("--objects", type=float, default=1e9, help="how many (10⁹)")
    parser.add_argument("--deg2", type=float, default=20_000, help="square degrees (20 000)")
    parser.add_argument("--nodes", type=int, default=16, help="machines (16)")
    parser.add_argument("--cores", type=int, default=64, help="cores of each (64)")
    parser.add_argument("--gpus", type=int, default=8, help="accelerators of each (8)")
    parser.add_argument("--rate", type=float, default=1000, help="pairs/s of an accelerator (1000)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    found = plan(asked)
    print(table(found, asked))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
