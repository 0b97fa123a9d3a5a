"""Contenders that take turns, each in a process of its own or all in one."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch
from machine import gemm_gflops

__all__ = ["contenders", "gemm_speeds", "in_turns", "ratios"]

# Wall time and processor time, in the order they are measured, and how their ratios are called.
_ENDINGS = ("", "_cpu")


@contextmanager
def contenders(
    names: Sequence[str], serve: Callable[..., None], *arguments: object
) -> Iterator[dict[str, Connection]]:
    """Start ``serve(name, *arguments, pipe)`` for each name, and wait until each said it is ready.

    They are told to end, by None, when the context is left.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], theirs = context.Pipe()
        given = (name, *arguments, theirs)
        processes.append(context.Process(target=serve, args=given, daemon=True))
        processes[-1].start()
    for pipe in pipes.values():
        pipe.recv()
    yield pipes
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()


def in_turns(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return seconds of each task in each round, all in this process; a round before warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def gemm_speeds() -> dict[str, float]:
    """Return the speed of matrix products in GFLOP/s in both number formats."""
    kinds = {"float32": torch.float32, "bf16": torch.bfloat16}
    return {name: gemm_gflops(dtype) for name, dtype in kinds.items()}


def ratios(
    own: Sequence[Sequence[float]], peers: dict[str, Sequence[Sequence[float]]]
) -> dict[str, float]:
    """Return how many times as fast a contender is as each peer: medians of ratios of rounds.

    Rounds hold wall and processor time first.
    """
    return {
        f"times_{peer}{ending}": statistics.median(
            b[i] / a[i] for a, b in zip(own, theirs, strict=True)
        )
        for peer, theirs in peers.items()
        for i, ending in enumerate(_ENDINGS)
    }
