"""What of a table a pretrained model reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.modalities import Observations
from omnisky.pretrained import modalities_of, pinned, pretrained_folder

if TYPE_CHECKING:
    from astropy.table import Table

    from omnisky.codecs.tokens import Tokens

__all__ = ["readable", "token_columns", "tokens_from_table"]

_END, _TOLD, _BY = "_tokens", "Token ids of ", ", model "


def readable(observations: Observations, base: str, *, asked: bool) -> Observations:
    """Return the modalities that a model reads.

    Parameters
    ----------
    observations : Observations
        What the table has.
    base : str
        Name, folder or hub id of the model.
    asked : bool
        True if the user named the modalities: then one the model does not read is an error. Else
        it is left out with a `UserWarning`.

    Raises
    ------
    FileNotFoundError
        If there is no such model, or it has no codecs.
    ValueError
        If nothing, or not all that was asked for, can be read.
    """
    known = modalities_of(pretrained_folder(base, part="words"))
    others = [name for name in observations if name not in known]
    if len(others) == len(observations) or (others and asked):
        raise ValueError(
            f"the model {base} does not read {', '.join(others)}; it reads {', '.join(known)}"
        )
    if others:
        warnings.warn(f"the model {base} does not read {', '.join(others)}: not used", stacklevel=2)
    return observations.drop(*others)


def token_columns(table: Table) -> dict[str, str]:
    """Return the columns that hold tokens, as ``omnisky tokenize`` writes them, by modality."""
    from omnisky.surveys import modalities

    found = {}
    for column in table.colnames:
        name = column.removesuffix(_END)
        told = (table[column].description or "").startswith(_TOLD)
        if name != column and (told or name in modalities()):
            found[name] = column
    return found


def tokens_from_table(table: Table, columns: Mapping[str, str], base: str) -> Tokens:
    """Read tokens that a model made from columns of a table.

    Parameters
    ----------
    table : Table
        One row an object.
    columns : mapping of str to str
        Column of ids by modality; ``<column>_mask``, if there, is True where the token exists.
    base : str
        The model that is to use them.

    Raises
    ------
    ValueError
        If another model made them, or a column does not hold ids or a mask of the same shape.
    UnknownModalityError
        If no survey declares the modality of a column.

    Warns
    -----
    UserWarning
        If the table does not say which model made them.
    """
    import torch

    from omnisky.codecs.tokens import Tokens
    from omnisky.surveys import modality

    for name in columns:
        modality(name)
    _check_maker(table, columns, base)
    ids, masks = {}, {}
    for name, column in columns.items():
        given = _matrix(table, column)
        if given.dtype.kind not in "iu":
            raise ValueError(
                f"column {column!r} holds {given.dtype.name}, expected token ids, which are whole "
                "numbers; write it again with omnisky tokenize"
            )
        mask = ~np.ma.getmaskarray(given)
        if (of_mask := f"{column}_mask") in table.colnames:
            there = np.ma.filled(_matrix(table, of_mask), False)
            if there.shape != mask.shape:
                raise ValueError(
                    f"column {of_mask!r} has shape {there.shape}, {column!r} has {mask.shape}; "
                    "write both again with omnisky tokenize"
                )
            # CSV has no type for them.
            mask &= there == "True" if there.dtype.kind in "US" else there.astype(bool)
        ids[name] = torch.from_numpy(np.ma.getdata(given).astype(np.int64))
        masks[name] = torch.from_numpy(mask)
    return Tokens(ids, masks)


def _matrix(table: Table, column: str) -> Any:
    """Return a column with one row an object, also where that is a single value."""
    values = np.ma.asarray(table[column])
    return values[:, None] if values.ndim == 1 else values


def _check_maker(table: Table, columns: Mapping[str, str], base: str) -> None:
    """Refuse tokens of another model, whose ids mean something else."""
    base, silent = pinned(base), []
    for name, column in columns.items():
        told = " ".join((table[column].description or "").split())
        maker = told.partition(_BY)[2] if told.startswith(_TOLD) else ""
        if not maker:
            silent.append(name)
        elif not _same_model(maker, base):
            raise ValueError(
                f"column {column!r} holds tokens of the model {maker}, which mean nothing to "
                f"{base}; name that model, or use omnisky tokenize --base {base}"
            )
    if silent:
        warnings.warn(
            f"the table does not say which model made the tokens of {', '.join(silent)}: taken to "
            f"be {base}",
            stacklevel=2,
        )


def _same_model(one: str, other: str) -> bool:
    """Compare names, or folders; VOTable breaks long lines, also where there was no space."""
    one, other = ("".join(name.split()) for name in (one, other))
    return one == other or Path(one).resolve() == Path(other).resolve()
