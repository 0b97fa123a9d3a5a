"""Which objects of several stores are the same."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from omnisky.cli.sky.progress import waiting
from omnisky.cli.sky.workers import Workers
from omnisky.cli.tables import names_in

__all__ = ["match"]

_WORKERS = Workers()
_Positive = Annotated[float, Parameter(validator=validators.Number(gt=0))]
_AtLeastOne = Annotated[int, Parameter(validator=validators.Number(gte=1))]


def match(
    left: Path,
    right: Path,
    /,
    *more: Path,
    out: Path,
    radius_arcsec: _Positive,
    how: Literal["inner", "left"] = "inner",
    all_pairs: bool = False,
    neighbors: _AtLeastOne = 1,
    epoch: float | None = None,
    names: str | None = None,
    overwrite: bool = False,
    workers: Workers = _WORKERS,
) -> None:
    """Match the objects of sky stores by position.

    Writes an index of rows, not the data: stream them with omnisky.open(OUT).stream(...). By
    default an object is in one pair at most, with its nearest partner. More than two stores are
    matched with the first one.

    Parameters
    ----------
    left : Path
        First store.
    right : Path
        Second store.
    more : Path
        More stores.
    out : Path
        Folder of the match.
    radius_arcsec : float
        Largest separation.
    how : str
        inner keeps what is in all stores; left keeps all objects of the first, with or without
        partners.
    all_pairs : bool
        Every object of the first store takes its nearest partner, which others may have as well.
    neighbors : int
        Nearest partners of each object of the first store, for two stores; more than one implies
        all pairs.
    epoch : float, optional
        Julian year to which proper motions bring positions before they are compared.
    names : str, optional
        Names of the stores in the match, separated by commas; those of their folders by default.
    overwrite : bool
        Replace an existing match.
    workers : Workers
        Where tasks run.
    """
    from omnisky.data.match import match as run
    from omnisky.data.store import open_store

    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another --out or add --overwrite")
    stores = [open_store(path) for path in (left, right, *more)]
    called = names_in(names) or [store.name for store in stores]
    if len(set(called)) < len(stores):
        raise ValueError(
            f"{len(stores)} stores need as many different names; found {', '.join(called)}. Give "
            "--names first,second"
        )
    with workers.client() as client, waiting("Matching"):
        found = run(
            *stores,  # pyright: ignore[reportArgumentType]
            radius_arcsec=radius_arcsec,
            how=how,
            one_to_one=not (all_pairs or neighbors > 1),
            n_neighbors=neighbors,
            epoch=epoch,
            names=called,
            client=client,
            scratch=None if client is None else _folder_of(out),
        )
        found.save(out, overwrite=overwrite)
    _report(out, found)


def _folder_of(out: Path) -> Path:
    """Return the folder of the match, which all workers see as they do the stores."""
    folder = out.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _report(out: Path, found: Any) -> None:
    import numpy as np

    matched = np.all(list(found.present.values()), axis=0)
    if not matched.any():
        warnings.warn(
            f"no pair within {found.options.radius_arcsec:g} arcsec; do the stores cover the same "
            "sky, in degrees and at the same epoch?",
            stacklevel=2,
        )
    held = {name: np.unique(rows[rows >= 0]) for name, rows in found.rows.items()}
    parts = [f"{len(rows)} of {name}" for name, rows in held.items()]
    middle = ""
    if matched.any():
        middle = f"; median separation {np.nanmedian(found.separation_arcsec):.3g} arcsec"
    print(
        f"{out}: {len(found)} {'pairs' if len(parts) == 2 else 'groups'} within "
        f"{found.options.radius_arcsec:g} arcsec, {', '.join(parts)}{middle}"
    )
