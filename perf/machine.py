"""What the measurements need of the machine: memory, malloc, the speed of matrix products."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import torch

__all__ = ["gemm_gflops", "reset_peak", "resident_mb", "trim", "tune_malloc"]

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def tune_malloc() -> None:
    """Keep freed memory instead of giving it back to the operating system each time."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def trim() -> None:
    """Give freed memory back to the operating system now."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_peak() -> None:
    """Let the peak of memory start from what is resident now, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def resident_mb(field: str) -> float:
    """Return MB of memory of this process: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


@torch.inference_mode()
def gemm_gflops(dtype: torch.dtype = torch.float32, tries: int = 3) -> float:
    """Return the most GFLOP/s that a matrix product reaches: the best of three sizes."""
    best = 0.0
    for rows, inner, columns in ((544, 256, 1024), (1024, 1024, 1024), (2048, 2048, 2048)):
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        times = max(1, 10**9 // (rows * inner * columns))
        for _ in range(tries):
            start = time.perf_counter()
            for _ in range(times):
                torch.nn.functional.linear(a, b)
            one = (time.perf_counter() - start) / times
            best = max(best, 2e-9 * rows * inner * columns / one)
    return best
