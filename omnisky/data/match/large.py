"""Match catalogues of more than 10⁸ rows with LSDB, on coordinates only."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.data.match.groups import Match, grouped
from omnisky.data.match.kernel import Pairs, separation_arcsec
from omnisky.data.match.partitions import MatchOptions
from omnisky.data.store import Store
from omnisky.data.store.checksums import read_manifest
from omnisky.data.store.hats import margin_name

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["match_with_lsdb"]

_COLUMNS = ["object_id", "ra", "dec"]


def match_with_lsdb(
    left: Store, right: Store, radius_arcsec: float, *, client: Client | None = None
) -> Match:
    """Match two stores one-to-one with ``lsdb.crossmatch``, on the scheduler that LSDB runs on.

    For catalogues that are in use with LSDB on a cluster already. `match` with a Dask client does
    the same work in blocks of partitions, is faster, keeps ties in order and takes any radius; this
    is the second opinion. It differs from `match`: of equally near objects LSDB takes any, pairs
    are lost beyond the margins of the stores, and proper motions are not looked at. LSDB finds the
    nearest right object of each left one; it is run in both directions and the pairs that both
    agree on are kept. Identifiers must be unique. Identifiers of both stores and of the pairs are
    held in memory: tens of bytes a row, so that 10⁹ rows need a large machine.

    Parameters
    ----------
    left, right : Store
        What to match. Both need a margin of at least the radius.
    radius_arcsec : float
        Largest separation of a pair.
    client : dask.distributed.Client, optional
        Cluster to run on; the default scheduler of Dask otherwise.

    Returns
    -------
    Match
        The index of the pairs, ordered by left row.

    Raises
    ------
    ImportError
        If LSDB is not installed.
    ValueError
        If a store's margin is narrower than the radius, or an identifier occurs twice.
    """
    options = MatchOptions(radius_arcsec=float(radius_arcsec))
    forward = _nearest(left, right, options.radius_arcsec, client)
    backward = _nearest(right, left, options.radius_arcsec, client)
    agreed = forward.merge(backward.rename(columns={"one": "other", "other": "one"}))
    sides = {}
    for store, side in ((left, "one"), (right, "other")):
        sides[side] = _found(store, agreed[side].to_numpy())
    (i, *first), (j, *second) = sides.values()
    apart = separation_arcsec(*first, *second)
    order = np.argsort(i)
    pairs = Pairs(i[order], j[order], apart[order])
    groups = grouped([pairs], len(left), "inner")
    return Match({left.name: left, right.name: right}, options, lambda: groups)


def _nearest(one: Store, other: Store, radius_arcsec: float, client: Client | None) -> Any:
    """Return the identifiers of objects and of the nearest ones of another store, as a frame."""
    lsdb = _lsdb()
    with warnings.catch_warnings(), nullcontext() if client is None else client.as_current():
        # LSDB warns of defaults that will change; what matters here is given explicitly.
        warnings.simplefilter("ignore", FutureWarning)
        catalogs = [
            lsdb.open_catalog(s.path, columns=_COLUMNS, margin_cache=_margin(s, radius_arcsec))
            for s in (one, other)
        ]
        options = {"n_neighbors": 1, "radius_arcsec": radius_arcsec, "suffixes": ("_one", "_other")}
        frame = catalogs[0].crossmatch(catalogs[1], **options).compute(progress_bar=False)
    return frame[["object_id_one", "object_id_other"]].set_axis(["one", "other"], axis=1)


def _margin(store: Store, radius_arcsec: float) -> str | None:
    """Return the name of a store's margin catalogue, None if nothing lies in it."""
    width = read_manifest(store.path)["options"]["margin_arcsec"]
    if width < radius_arcsec:
        raise ValueError(
            f"{store.path} has a margin of {width:g} arcsec, narrower than the radius of "
            f"{radius_arcsec:g}; write the store with a wider margin, or use match, which needs "
            "none"
        )
    name = margin_name(store.name, width)
    return name if (store.path / name).is_dir() else None


def _found(store: Store, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, ra and dec of objects by their identifiers."""
    held = store.coordinates()
    ids = ids.astype(held["object_id"].dtype)
    order = np.argsort(held["object_id"], kind="stable")
    rows = order[np.searchsorted(held["object_id"], ids, sorter=order)]
    return rows, held["ra"][rows], held["dec"][rows]


def _lsdb() -> Any:
    try:
        import lsdb
    except ImportError as error:
        raise ImportError(
            "matching with LSDB needs it: pip install 'omnisky[data]'. match works without it"
        ) from error
    return lsdb
