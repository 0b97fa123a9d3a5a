"""Where tasks run: in this process, on worker processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["Workers"]

_Positive = Annotated[int, Parameter(validator=validators.Number(gte=1))]


@Parameter(name="*", group="Where it runs")
@dataclass(frozen=True, kw_only=True)
class Workers:
    """Say where tasks run.

    Parameters
    ----------
    workers : int, optional
        Worker processes to start on this machine (Dask); without it, this process does the work.
    scheduler : str, optional
        Address of a running Dask cluster, such as tcp://host:8786. Its workers must see the same
        folders under the same paths.
    """

    workers: _Positive | None = None
    scheduler: str | None = None

    def seen(self, path: Path) -> Path:
        """Return a path as the workers see it: those of a cluster run in folders of their own."""
        return path.absolute() if self.scheduler else path

    @contextmanager
    def client(self) -> Iterator[Client | None]:
        """Connect to the workers while the context lasts; None stands for this process.

        Raises
        ------
        ValueError
            If both kinds of workers are asked for, or the cluster does not answer.
        ImportError
            If Dask is not installed.
        OSError
            If workers died.
        """
        if self.workers and self.scheduler:
            raise ValueError(
                "--workers starts a cluster and --scheduler uses one; give one of them"
            )
        if not self.workers and not self.scheduler:
            yield None
            return
        try:
            from dask.distributed import KilledWorker
        except ImportError as error:
            raise ImportError(
                "--workers and --scheduler need Dask: pip install 'omnisky[data]'"
            ) from error
        with self._remote() if self.scheduler else self._local() as client:
            try:
                yield client
            except KilledWorker as error:
                raise OSError(
                    f"workers died, maybe for want of memory ({error}); try again with fewer"
                ) from error

    @contextmanager
    def _remote(self) -> Iterator[Client]:
        from dask.distributed import Client

        try:
            client = Client(self.scheduler, timeout="10s")
        except (OSError, TimeoutError, ValueError) as error:
            raise ValueError(
                f"no Dask cluster answers at --scheduler {self.scheduler} ({error}); start one "
                "with dask scheduler and dask worker, or use --workers"
            ) from error
        with client:
            yield client

    @contextmanager
    def _local(self) -> Iterator[Client]:
        from dask.distributed import Client, LocalCluster

        # Each task bounds its own memory; a worker that Dask kills for its memory loses its work.
        with (
            LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            client.run(_plain_warnings)
            yield client


def _plain_warnings() -> None:
    """Print warnings in a worker as the commands do."""
    import warnings

    from omnisky.cli.app import show_warning

    warnings.showwarning = show_warning
