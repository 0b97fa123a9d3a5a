"""The sky store: HATS collections of typed observations, read whole, by row or by byte.

`write_store` and `ingest` write one, `open_store` opens one, `verify` finds damage, `pack` brings
other HATS collections into the packed profile.
"""

from __future__ import annotations

from omnisky.data.store.checksums import Damage, verify
from omnisky.data.store.ingest import Source, ingest, pack, write_store
from omnisky.data.store.job import StoreSpec
from omnisky.data.store.reader import HeavyColumn, Partition, Store, open_store
from omnisky.data.store.schema import Column

__all__ = [
    "Column",
    "Damage",
    "HeavyColumn",
    "Partition",
    "Source",
    "Store",
    "StoreSpec",
    "ingest",
    "open_store",
    "pack",
    "verify",
    "write_store",
]
