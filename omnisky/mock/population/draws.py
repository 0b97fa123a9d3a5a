"""Columns of random numbers that depend on (seed, object, purpose) and not on the batch."""

from __future__ import annotations

import numpy as np

from omnisky.mock.seeds import normals, uniforms

__all__ = ["Draws", "pick"]


class Draws:
    """Draw columns of random numbers for some objects.

    Columns are contiguous: NumPy may evaluate strided and contiguous arrays with different code,
    which differ in the last bit, and a batch of one object counts as contiguous always.

    Parameters
    ----------
    seed : int
        Seed of the universe.
    object_id : array of int, shape (object,)
        Numbers of the objects.
    """

    def __init__(self, seed: int, object_id: np.ndarray) -> None:
        self.seed = seed
        self.object_id = np.asarray(object_id)

    def __len__(self) -> int:
        return len(self.object_id)

    def uniform(self, purpose: str, n: int = 1) -> np.ndarray:
        """Return n numbers in (0, 1) an object, shape (n, object)."""
        return np.ascontiguousarray(uniforms(self.seed, self.object_id, purpose, n).T)

    def normal(self, purpose: str, n: int = 1) -> np.ndarray:
        """Return n standard normal numbers an object, shape (n, object)."""
        return np.ascontiguousarray(normals(self.seed, self.object_id, purpose, n).T)

    def __getitem__(self, rows: np.ndarray) -> Draws:
        return Draws(self.seed, self.object_id[rows])


def pick(u: np.ndarray, shares: tuple[float, ...] | np.ndarray) -> np.ndarray:
    """Return an index an object, drawn with the given shares from a number in (0, 1)."""
    edges = np.cumsum(np.asarray(shares, dtype=np.float64))
    return np.searchsorted(edges[:-1] / edges[-1], u, side="right").astype(np.int64)
