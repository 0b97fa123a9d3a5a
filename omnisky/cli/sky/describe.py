"""Say what is in a sky store or a match, from their metadata alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Listing", "match_of", "size_of", "store_of"]

# Title, names of columns, rows.
Listing = tuple[str, Sequence[str], Iterable[Sequence[Any]]]
_WHOLE_SKY_DEG2 = 41252.96


def size_of(folder: Path) -> str:
    """Return the size of a folder on the disk, for people."""
    size = float(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def store_of(path: Path) -> list[Listing]:
    """Return what a store is and which modalities it has.

    Parameters
    ----------
    path : Path
        Its folder.
    """
    from omnisky.data.store import open_store

    store = open_store(path)
    orders = Counter(p.order for p in store.partitions)
    area = sum(count * 4.0**-order for order, count in orders.items()) / 12 * _WHOLE_SKY_DEG2
    told = store.provenance
    facts = [
        ("objects", f"{len(store):,} of {store.survey}"),
        ("partitions", f"{len(store.partitions)}, HEALPix order {_span(orders)}"),
        ("cells cover", f"{area:,.4g} square degrees"),
        ("size", size_of(path)),
        ("profile", store.profile),
        ("selection", told.get("selection", "-")),
        ("written", f"{told.get('created')} by omnisky {told.get('omnisky')}"),
        ("read from", _read_from(told)),
        (
            "left out",
            f"{told.get('problems', 0)} (problems.jsonl)" if told.get("problems") else "-",
        ),
        ("fingerprint", store.fingerprint),
    ]
    rows = []
    for layout in store.layout.modalities:
        columns = [c for c in store.columns.values() if c.modality == layout.name]
        declared = store.declaration(layout.name)
        codecs = ", ".join(dict.fromkeys(c.codec for c in columns if c.part in ("flux", "value")))
        shape = " × ".join(map(str, layout.shape)) or "-"
        unit = declared.unit if declared and declared.unit else "-"
        rows.append(
            (layout.name, layout.kind, shape, unit, "yes" if layout.ivar else "no", codecs or "-")
        )
    names = ("name", "kind", "shape", "unit", "errors", "codec")
    return [(f"{path}: sky store", ("", ""), facts), ("Modalities", names, rows)]


def _span(orders: Counter[int]) -> str:
    low, high = min(orders, default=0), max(orders, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _read_from(told: dict[str, Any]) -> str:
    if "packed_from" in told:
        return str(told["packed_from"])
    files = int(told.get("files", 0))
    return f"{files} file{'s' * (files != 1)} (sources.jsonl)" if files else "not told"


def match_of(path: Path) -> list[Listing]:
    """Return what a match is of.

    Parameters
    ----------
    path : Path
        Its folder.
    """
    import numpy as np

    from omnisky.data.match import Match

    match = Match.open(path)
    options = match.options
    facts = [
        ("groups", f"{len(match):,}"),
        ("radius", f"{options.radius_arcsec:g} arcsec"),
        ("how", "all objects of the first" if options.how == "left" else "matched objects only"),
        ("one to one", "yes" if options.one_to_one else f"no, nearest {options.n_neighbors}"),
        ("epoch", "as given" if options.epoch is None else f"{options.epoch:g}"),
    ]
    apart = match.separation_arcsec
    apart = apart[:, None] if apart.ndim == 1 else apart
    rows = []
    for number, (name, store) in enumerate(match.stores.items()):
        held = match.present[name]
        middle = "-"
        if number and held.any():
            middle = f"{np.nanmedian(apart[:, number - 1]):.3g}"
        count = len(np.unique(match.rows[name][held]))
        rows.append((name, store.path, f"{len(store):,}", f"{count:,}", middle))
    names = ("store", "folder", "objects", "in the match", "median arcsec")
    return [(f"{path}: match", ("", ""), facts), ("Stores", names, rows)]
