"""Which pair comes when: shuffles that need no memory, blocks, ranks.

The order of an epoch is a keyed bijection of 0 … n−1 that is computed for a few positions at a
time. So the order of 10⁹ pairs costs nothing to hold, any position can be resumed at once, and the
same seed gives the same order on every machine and with every version of NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Permutation", "Schedule"]

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15


def _mixed(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Permutation:
    """Permute 0 … n−1 by a keyed bijection: a Feistel network walked until it is inside.

    Parameters
    ----------
    n : int
        How many.
    *key : int
        What the order depends on, for example seed and epoch.
    """

    def __init__(self, n: int, *key: int) -> None:
        self.n = n
        self._half = max(1, -(-max(n - 1, 1).bit_length() // 2))
        state = np.zeros(1, dtype=np.uint64)
        for part in key:
            state = _mixed(state ^ np.uint64(part % 2**64))
        self._keys = [_mixed(state + np.uint64(r)) for r in range(_ROUNDS)]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return where some positions go, int64 of the same shape."""
        values = np.asarray(positions).astype(np.uint64)
        if values.size and int(values.max()) >= self.n:
            raise IndexError(f"position {values.max()} is outside a permutation of {self.n}")
        values = self._once(values)
        # The network permutes a power of four; fewer than three of four values are outside.
        while (outside := values >= self.n).any():
            values[outside] = self._once(values[outside])
        return values.astype(np.int64)

    def _once(self, values: np.ndarray) -> np.ndarray:
        half, low = np.uint64(self._half), np.uint64(2**self._half - 1)
        left, right = values >> half, values & low
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        return (left << half) | right


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Say which pairs a rank reads in an epoch, and in which order.

    All ranks walk through one order, each taking every world_size-th pair, so that all have the
    same count and no pair twice; up to world_size − 1 pairs at the end of the order are left out of
    an epoch, other ones in the next.

    Parameters
    ----------
    starts : array of int64, shape (block + 1,)
        First pair of each block and, last, the number of pairs. Without `block` one block is
        enough.
    shuffle : bool
        Whether the order is random, another one each epoch.
    seed : int
        What the random order depends on.
    block : int
        0 to shuffle all pairs globally; else how many blocks are mixed at a time, after the blocks
        themselves are shuffled.
    rank, world_size : int
        Which share of how many.
    """

    starts: np.ndarray
    shuffle: bool = True
    seed: int = 0
    block: int = 0
    rank: int = 0
    world_size: int = 1
    _blocks: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank must be in [0, world_size); found rank={self.rank}, "
                f"world_size={self.world_size}"
            )
        if self.block < 0 or self.seed < 0:
            raise ValueError(
                f"seed and block must not be negative; found seed={self.seed}, block={self.block}"
            )

    @property
    def count(self) -> int:
        """Pairs of each rank in an epoch."""
        return int(self.starts[-1]) // self.world_size

    def pairs(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Return the pairs that this rank reads as its start-th … stop-th of an epoch."""
        if not 0 <= start <= stop <= self.count:
            raise IndexError(f"samples {start} to {stop} are outside an epoch of {self.count}")
        positions = np.arange(start, stop) * self.world_size + self.rank
        if not self.shuffle:
            return positions
        if not self.block:
            return Permutation(int(self.starts[-1]), self.seed, epoch)(positions)
        return self._mixed_blocks(epoch, positions)

    def _mixed_blocks(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        order, ends = self._order_of_blocks(epoch)
        group_ends = ends[self.block :: self.block]
        group_ends = np.append(group_ends, ends[-1])
        group_of = np.searchsorted(group_ends, positions, side="right")
        pairs = np.empty_like(positions)
        for group in np.unique(group_of):
            first = group * self.block
            last = min(first + self.block, len(order))
            begin, end = int(ends[first]), int(ends[last])
            mine = group_of == group
            mixed = begin + Permutation(end - begin, self.seed, epoch, int(group))(
                positions[mine] - begin
            )
            slot = np.searchsorted(ends[first : last + 1], mixed, side="right") - 1 + first
            pairs[mine] = self.starts[order[slot]] + mixed - ends[slot]
        return pairs

    def _order_of_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the blocks in the order of an epoch, and where each starts in it."""
        if epoch not in self._blocks:
            blocks = len(self.starts) - 1
            order = Permutation(blocks, self.seed, epoch, 2**32)(np.arange(blocks))
            ends = np.concatenate([[0], np.cumsum(np.diff(self.starts)[order])])
            self._blocks.clear()
            self._blocks[epoch] = order, ends
        return self._blocks[epoch]
