"""Classes as targets: columns of text, whole numbers or true and false; and their probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.cli.tables import Input

if TYPE_CHECKING:
    from astropy.table import Column, MaskedColumn, Table

__all__ = ["add_classes", "class_target", "refuse_text"]

# Kinds of numpy arrays whose values can be classes.
_CLASSES = "USOiub"


def refuse_text(source: Input, names: list[str]) -> None:
    """Refuse columns of text as numbers to learn, and say how to learn them as classes."""
    for name in names:
        if source.table is not None and name in source.table.colnames:
            column = np.ma.asarray(source.table[name])
            if column.dtype.kind in "USO" and column.ndim == 1 and not _absent(column).all():
                raise ValueError(
                    f"target {name!r} holds text, and regression learns numbers; to learn classes, "
                    "add --task classification"
                )


def class_target(source: Input, names: list[str]) -> tuple[np.ndarray, np.ndarray, list[Column]]:
    """Return the classes of all objects, which of these are known, and a column template.

    Raises
    ------
    ValueError
        If there is not one target, or it is no column of a table that holds classes.
    """
    from astropy.table import Column

    from omnisky.data.columns import UserColumns

    if len(names) != 1:
        raise ValueError(f"classification learns one target; found {', '.join(names) or 'none'}")
    (name,) = names
    if source.table is None:
        raise ValueError(f"data set {source.name} has no classes; give a table file")
    if name not in source.table.colnames:
        raise ValueError(UserColumns(source.table, {}).missing(name, f"target {name!r}"))
    given = np.ma.asarray(source.table[name])
    if given.ndim != 1 or given.dtype.kind not in _CLASSES:
        held = "vectors" if given.ndim != 1 else f"{given.dtype.name} numbers"
        raise ValueError(
            f"target {name!r} holds {held}; classes are text, whole numbers or true and false. "
            "Leave out --task classification to learn numbers"
        )
    known = ~_absent(given)
    if not known.any():
        raise ValueError(f"target {name!r} has no known class")
    values = np.ma.getdata(given)
    # Texts of a length each (object columns), and bytes (FITS), become one array of text.
    values = values if given.dtype.kind in "iub" else np.where(known, _text(values), "")
    told = Column(dtype=values.dtype, name=name, description=source.table[name].description)
    return values, known, [told]


def _absent(column: np.ndarray) -> np.ndarray:
    """Return where a column has no value: masked, None or an empty text."""
    absent = np.ma.getmaskarray(column).copy()
    if column.dtype.kind in "USO":
        values = np.ma.getdata(column)
        absent |= np.array([v is None or str(v) in ("", "b''", "nan") for v in values], dtype=bool)
    return absent


def _text(values: np.ndarray) -> np.ndarray:
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])


def add_classes(
    result: Table, name: str, fitted: Any, probabilities: np.ndarray, rows: np.ndarray
) -> None:
    """Add the most probable class, and a column of each class's probability, to a table.

    Parameters
    ----------
    result : Table
        One row an object of the user's table.
    name : str
        The target.
    fitted : FineTunedModel
        The classifier.
    probabilities : array, shape (object, class)
        Of the objects that have a measurement.
    rows : array of bool, shape (row,)
        Which objects these are.
    """
    from omnisky.cli.tables import masked_rows

    result[name] = _masked(fitted.classes_[probabilities.argmax(axis=1)], rows)
    result[name].description = f"Most probable class of {name}"
    for label, column in zip(fitted.classes_, probabilities.T, strict=True):
        result[f"{name}_probability_{label}"] = masked_rows(column, rows)
        result[f"{name}_probability_{label}"].description = f"Probability that {name} is {label}"


def _masked(values: np.ndarray, rows: np.ndarray) -> MaskedColumn:
    from astropy.table import MaskedColumn

    column = np.zeros(len(rows), dtype=values.dtype)
    column[rows] = values
    return MaskedColumn(column, mask=~rows)
