"""Randomness as a function of (seed, object, purpose) and of nothing else.

Every number drawn in the mock universe comes from here, so that object i looks the same whatever
the batch, the order, the process or the other modalities asked for.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
from scipy.special import ndtri

__all__ = ["normals", "stream", "uniforms"]


class Seeded(Protocol):
    """Any configuration with the seed of the universe."""

    @property
    def seed(self) -> int: ...


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _key(seed: int, purpose: str) -> np.uint64:
    """Return 64 bits that stand for a seed and a purpose."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mix(x: np.ndarray) -> np.ndarray:
    """Return the output function of SplitMix64 (Steele, Lea & Flood 2014) of each number."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        return x ^ (x >> np.uint64(31))


def uniforms(seed: int, object_id: np.ndarray, purpose: str, n: int) -> np.ndarray:
    """Return n numbers an object, uniform in (0, 1).

    Parameters
    ----------
    seed : int
        Seed of the universe.
    object_id : array of int, shape (object,)
        Numbers of the objects.
    purpose : str
        What the numbers are for; another purpose gives independent numbers.
    n : int
        Numbers an object.

    Returns
    -------
    array of float64, shape (object, n)
    """
    with np.errstate(over="ignore"):
        start = _mix(_key(seed, purpose) + np.asarray(object_id).astype(np.uint64) * _GOLDEN)
        counter = (np.arange(1, n + 1, dtype=np.uint64)) * _GOLDEN
        bits = _mix(start[:, None] + counter)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normals(seed: int, object_id: np.ndarray, purpose: str, n: int) -> np.ndarray:
    """Return n standard normal numbers an object, shape (object, n); see `uniforms`.

    They are independent of the uniform numbers of the same purpose.
    """
    return ndtri(uniforms(seed, object_id, f"normal/{purpose}", n))


def stream(seed: int, object_id: int, purpose: str) -> np.random.Generator:
    """Return a generator for one object and purpose, for draws of any number and kind."""
    key = np.array([_key(seed, purpose), np.uint64(object_id)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
