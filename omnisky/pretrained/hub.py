"""Ids of the hub, with the revision that pins them, and their files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["fetch", "hub_id"]

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def hub_id(source: str | os.PathLike, revision: str | None = None) -> tuple[str, str | None] | None:
    """Return id and revision of a source on the hub; None if it is not there but here.

    Parameters
    ----------
    source : str or path
        ``organisation/name`` or ``organisation/name@revision`` is on the hub if it is text and no
        such folder is here. Everything else is not.
    revision : str, optional
        Commit, tag or branch, if the source does not say it.

    Raises
    ------
    ValueError
        If a revision is given for what is not on the hub, or two different ones.
    """
    if isinstance(source, str) and "@" in source and not Path(source).exists():
        source, _, said = source.partition("@")
        if not said or revision not in (None, said):
            raise ValueError(
                f"{source}@{said} asks for the revision {said!r}, revision={revision!r} for "
                "another; give one of them"
            )
        revision = said
    if isinstance(source, str) and not Path(source).exists() and _HUB_ID.fullmatch(source):
        return source, revision
    if revision is not None:
        raise ValueError(
            f"revision={revision!r} is for hub ids organisation/name; {source} is none"
        )
    return None


def fetch(source: str, patterns: Sequence[str], revision: str | None) -> Path:
    """Download files of a hub repository, or find them in the local cache; return their folder.

    The folder's name is the commit.

    Raises
    ------
    FileNotFoundError
        If they are not in the cache and the hub does not give them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{source} (revision {revision or 'main'}) is no folder here and could not be fetched "
            f"from the hub: {str(error).rstrip('.')}. Offline, give the path of a local copy"
        ) from error
