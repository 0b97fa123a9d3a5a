"""Tables behind the mock universe; `DATA_SOURCES.md` beside them says where each comes from."""

from __future__ import annotations

import hashlib
import io
import json
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["FOLDER", "load"]

FOLDER = Path(__file__).parent


@cache
def load(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one table, checked against its recorded sha256.

    Parameters
    ----------
    name : str
        Name without the ending, as ``"stars"``.

    Returns
    -------
    dict of str to array
        Read-only. Integers that stand for scaled numbers come back as float64: array ``x`` with a
        companion ``x_scale`` is ``x * x_scale``, the scale broadcast along the last axis.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    ValueError
        If its bytes are not those that were built.

    Examples
    --------
    >>> sorted(load("filters"))[:2]
    ['decam_g_response', 'decam_g_wavelength']
    """
    path = FOLDER / f"{name}.npz"
    known = json.loads((FOLDER / "checksums.json").read_text())
    if path.name not in known or not path.is_file():
        raise FileNotFoundError(f"no table {name!r} in {FOLDER}; there are: {', '.join(known)}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != known[path.name]:
        raise ValueError(f"{path} is damaged: its sha256 differs from checksums.json; reinstall")
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    for key in [k for k in arrays if f"{k}_scale" in arrays]:
        scale = arrays.pop(f"{key}_scale")
        arrays[key] = arrays[key].astype(np.float64) * scale[..., None]
    for values in arrays.values():
        values.setflags(write=False)
    return arrays
