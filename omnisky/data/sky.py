"""Open what omnisky wrote about the sky: a store, or a match of stores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omnisky.data.match import Match
    from omnisky.data.store import Store

__all__ = ["is_match", "is_store", "open_sky"]


def is_store(path: str | os.PathLike) -> bool:
    """Tell whether a folder is a sky store."""
    return (Path(path) / "omnisky.json").is_file()


def is_match(path: str | os.PathLike) -> bool:
    """Tell whether a folder is a match."""
    return (Path(path) / "match.json").is_file()


def open_sky(path: str | os.PathLike) -> Store | Match:
    """Open a sky store, or a match of stores; only metadata are read.

    Parameters
    ----------
    path : path
        Folder that ``omnisky ingest``, ``pack`` or ``match`` wrote, or their Python functions.

    Returns
    -------
    Store or Match
        What the folder is.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it is neither.
    ValueError
        If it is damaged, or a match's stores are not those that were matched.
    """
    if is_match(path):
        from omnisky.data.match import Match

        return Match.open(path)
    from omnisky.data.store import open_store

    return open_store(path)
