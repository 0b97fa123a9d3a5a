"""Tasks on the processes that torchrun started: who does which, and what if one of them fails.

One process leads: it plans, keeps the books and tells the others what there is to do. A task is
done by whoever claims it first, on a disk that all of them see, so that a slow task or processor
holds nobody up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist

from omnisky.data.store.job import write_json
from omnisky.train.parallel import Processes, join_processes, launched_processes

__all__ = ["Crew", "joined"]

# The others wait while the leader merges a survey's runs: as long as it takes.
_PATIENCE = timedelta(days=30)
_FAILED = "failed"


class Crew:
    """Processes that share tasks.

    Parameters
    ----------
    processes : Processes
        Which process this is, of how many.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._group = cast(dist.ProcessGroup, group)  # every process is part of it
        self._over = False

    @property
    def leads(self) -> bool:
        """True in the one process that calls `share`; the others `serve`."""
        return self._processes.is_main

    def share(
        self,
        function: Callable[..., dict[str, Any]],
        tasks: Sequence[tuple[Path, tuple[Any, ...]]],
        claims: Path,
    ) -> None:
        """Have tasks done by all processes; called by the leader.

        Parameters
        ----------
        function : callable
            What a task does; returns its record.
        tasks : sequence of (Path, tuple)
            Where the record goes, and the arguments.
        claims : Path
            Folder in which tasks are claimed; emptied before.

        Raises
        ------
        OSError
            If another process failed or was killed; it says which and why. Records are kept. What
            goes wrong here is raised as it is.
        """
        shutil.rmtree(claims, ignore_errors=True)
        claims.mkdir()
        work = (function, list(tasks), claims)
        self._gather(work)
        self._do(*work)

    def serve(self) -> None:
        """Do tasks until the leader is at the end; called by the others.

        Raises
        ------
        OSError
            If another process failed or was killed; it says which and why.
        """
        while (work := self._gather(None)[0]) is not None:
            if isinstance(work, str):
                self._over = True
                raise OSError(f"stopped, as process 0 failed: {work}")
            self._do(*work)

    def end(self, error: BaseException | None) -> None:
        """Tell the others that nothing is left to do, or what went wrong; called by the leader."""
        if not self._over:
            self._over = True
            self._gather(None if error is None else _said(error))

    def _do(self, function: Callable[..., Any], tasks: Sequence[Any], claims: Path) -> None:
        error = None
        try:
            for record, arguments in tasks:
                if (claims / _FAILED).exists():
                    break
                if _claimed(claims / record.name):
                    write_json(record, function(*arguments))
        except Exception as caught:  # told to all below
            error = caught
            (claims / _FAILED).touch()
        told = self._gather(None if error is None else _said(error))
        failed = [(rank, what) for rank, what in enumerate(told) if what is not None]
        if not failed:
            return
        self._over = True
        if error is not None:
            raise error
        rank, what = failed[0]
        raise OSError(
            f"stopped, as process {rank} failed: {what}. What is done is kept: start the same "
            "again, it goes on where it was"
        )

    def _gather(self, value: Any) -> list[Any]:
        """Return the value of every process, by rank."""
        found: list[Any] = [None] * self._processes.world_size
        try:
            dist.all_gather_object(found, value, group=self._group)
            # A process that ends right after it may hang: see `Processes.gather`.
            dist.barrier(group=self._group)
        except RuntimeError as error:
            self._over = True
            raise OSError(
                "another process of this run has ended without a word (killed, or out of memory?). "
                "What is done is kept: start the same again, it goes on where it was"
            ) from error
        return found


@contextmanager
def joined(device: str | None = None) -> Iterator[Crew | None]:
    """Join the processes that torchrun started; None where there is only one.

    Parameters
    ----------
    device : str, optional
        Where they compute: ``cuda`` is each process's own, which is the default where there is one.

    Raises
    ------
    ValueError
        If all shall compute on one CUDA device, or the machine has none for each process.
    """
    if launched_processes() == 1:
        yield None
        return
    if device is not None and ":" in device:
        raise ValueError(
            f"device={device!r} is one device, and torchrun started {launched_processes()} "
            f"processes; give {device.partition(':')[0]!r}, of which each takes its own, or start "
            "one process"
        )
    with join_processes(device) as processes:
        crew = Crew(processes)
        try:
            yield crew
        except BaseException as error:
            if crew.leads:
                crew.end(error)
            raise
        if crew.leads:
            crew.end(None)


def _claimed(path: Path) -> bool:
    """Tell whether a task is this process's: nobody else made the file before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
