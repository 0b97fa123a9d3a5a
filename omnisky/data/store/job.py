"""What a store is to be, and how far its writing has come.

Writing a store is a job: a folder beside the store in which tasks leave files and then a record, so
that a killed job goes on where it was. Tasks may run on Dask; what they take and give are small.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from omnisky.data.store.codecs import CODECS, default_codec
from omnisky.data.store.parquet import sync
from omnisky.data.store.schema import Column, Layout
from omnisky.modalities import Modality
from omnisky.surveys import modalities

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["Job", "Sharing", "StoreSpec"]


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """Say how a store is laid out.

    Parameters
    ----------
    profile : {"packed", "interchange"}
        Packed stores are read row by row at the speed of the disk; interchange stores hold lists,
        as LSDB, `datasets` and pandas expect them. Both are HATS.
    codec : str or mapping of str to str
        Of packed columns: ``"raw"``, ``"lossless"`` or ``"q16"`` for all images and spectra, or by
        name of a modality or column. Coefficients and catalogs are raw unless named. With q16,
        fluxes are within sigma / 32 and inverse variances and widths within 0.14 %, see `codecs`.
    margin_arcsec : float
        Width of the margin around each partition, in which neighbours are listed; 0 for none.
    max_rows, max_bytes : int
        Most rows and bytes of a partition.
    max_order : int
        Order of the smallest partitions, which may then hold more.
    lowest_order : int
        Order of the largest partitions.
    epochs : {"any", "one"}
        Each object keeps its own epoch; with "one", a position of another epoch than the first
        object's, or without one where that has one, is a problem.
    declarations : mapping of str to Modality
        Declarations of modalities that no survey of omnisky declares.
    threads : int
        Threads that code rows; 0 for one a core.

    Raises
    ------
    ValueError
        If an option is not one of those allowed.
    """

    profile: Literal["packed", "interchange"] = "packed"
    codec: str | Mapping[str, str] = "raw"
    margin_arcsec: float = 10.0
    max_rows: int = 1_000_000
    max_bytes: int = 768 * 2**20
    max_order: int = 10
    lowest_order: int = 0
    epochs: Literal["any", "one"] = "any"
    declarations: Mapping[str, Modality] = field(default_factory=dict)
    threads: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("profile", ("packed", "interchange")),
            ("epochs", ("any", "one")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}; found {getattr(self, name)!r}")
        named = self.codec.values() if isinstance(self.codec, Mapping) else [self.codec]
        for codec in named:
            if codec not in CODECS:
                raise ValueError(f"no codec {codec!r}; allowed are {', '.join(CODECS)}")
        if not (0 <= self.lowest_order <= self.max_order <= 20):
            raise ValueError(
                "orders of partitions need 0 <= lowest_order <= max_order <= 20; found "
                f"{self.lowest_order} and {self.max_order}"
            )
        if min(self.max_rows, self.max_bytes) < 1 or self.margin_arcsec < 0 or self.threads < 0:
            raise ValueError(
                "max_rows and max_bytes must be positive, margin_arcsec and threads not negative; "
                f"found {self.max_rows}, {self.max_bytes}, {self.margin_arcsec:g}, {self.threads}"
            )
        if not self.threads:
            object.__setattr__(self, "threads", os.cpu_count() or 1)

    @cached_property
    def declared(self) -> dict[str, Modality]:
        """All known declarations by name."""
        return {**modalities(), **self.declarations}

    def columns(self, layout: Layout) -> list[Column]:
        """Return the heavy columns of the store, with their codecs.

        Raises
        ------
        ValueError
            If a codec is named for what the store does not have, or does not fit it.
        """
        columns = layout.heavy(self.declared)
        if self.profile == "interchange":
            return columns
        inverse = {c.modality for c in columns if c.part == "ivar"}
        coded = [
            replace(c, codec=self._codec_of(c, layout, c.modality in inverse)) for c in columns
        ]
        if isinstance(self.codec, Mapping):
            there = {c.name for c in columns} | {m.name for m in layout.modalities}
            if strange := set(self.codec) - there:
                raise ValueError(
                    f"codecs are given for {sorted(strange)}, which the store does not have; it "
                    f"has {', '.join(sorted(there))}"
                )
        return coded

    def run_columns(self, layout: Layout) -> list[Column]:
        """Return the heavy columns of a run: as in the store where that copies, else raw."""
        if self.profile == "interchange" or not isinstance(self.codec, Mapping):
            return self.columns(layout)
        names = {c.name for c in layout.heavy(self.declared)} | {m.name for m in layout.modalities}
        there = {name: codec for name, codec in self.codec.items() if name in names}
        return replace(self, codec=there).columns(layout)

    def _codec_of(self, column: Column, layout: Layout, has_ivar: bool) -> str:
        kind = next(m.kind for m in layout.modalities if m.name == column.modality)
        if isinstance(self.codec, str):
            asked = "raw" if kind in ("coefficients", "catalog") else self.codec
        elif column.name in self.codec:
            return _fitting(self.codec[column.name], column)
        else:
            asked = self.codec.get(column.modality, "raw")
        if asked not in ("raw", "lossless", "q16"):
            raise ValueError(
                f"codec {asked!r} is for single columns; name one, or ask for raw, lossless or q16"
            )
        return default_codec(asked, column.part, has_ivar)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without those that do not change the store."""
        codec = self.codec if isinstance(self.codec, str) else dict(self.codec)
        return {
            "profile": self.profile,
            "codec": codec,
            "margin_arcsec": self.margin_arcsec,
            "max_rows": self.max_rows,
            "max_bytes": self.max_bytes,
            "max_order": self.max_order,
            "lowest_order": self.lowest_order,
            "epochs": self.epochs,
        }


def _fitting(codec: str, column: Column) -> str:
    """Return the codec of one column, after a look at whether it can hold it."""
    fits = {
        "q16": column.part in ("flux", "value"),
        "log16": column.part in ("ivar", "lsf"),
        "bits": column.dtype == "bool",
    }
    if not fits.get(codec, True):
        raise ValueError(
            f"codec {codec!r} does not fit column {column.name!r}; q16 is for fluxes, log16 for "
            "ivar and lsf, bits for masks, raw and lossless for all"
        )
    return codec


@runtime_checkable
class Sharing(Protocol):
    """Processes that do tasks together; see `omnisky.catalog.crew`."""

    def share(
        self,
        function: Callable[..., dict[str, Any]],
        tasks: Sequence[tuple[Path, tuple[Any, ...]]],
        claims: Path,
    ) -> None:
        """Do tasks, each of which leaves its record in a file, claiming them in a folder."""
        ...


class Job:
    """Keep what was done of a store, task by task, until all of it is in its place.

    Parameters
    ----------
    path : Path
        The store to be.
    description : mapping
        What is done, as plain values; a job goes on only as it was started.
    client : dask.distributed.Client or Sharing, optional
        Where tasks run; in this process without one.
    resumable : bool
        Keep what is done after an error, for the next call of the same job.

    Raises
    ------
    FileExistsError
        If the store is there already.
    ValueError
        If an unfinished job of another description is there.
    """

    def __init__(
        self,
        path: Path,
        description: Mapping[str, Any],
        *,
        client: Client | Sharing | None = None,
        resumable: bool = True,
    ) -> None:
        self.path, self.client, self.resumable = path, client, resumable
        self.description = json.loads(json.dumps(description))
        self.folder = path.with_name(f".{path.name}.unfinished")
        # Killed after the tree was put in its place, but before the rest was removed.
        self.finished = (
            path.exists() and self.folder.exists() and not (self.folder / "tree").exists()
        )
        if self.finished:
            shutil.rmtree(self.folder)
        elif path.exists():
            raise FileExistsError(f"{path} exists; choose another name or remove it first")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resumable:
            self.folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.writing-"))
        self.runs, self.tree = self.folder / "runs", self.folder / "tree"
        self._journal = self.folder / "journal"
        self._lock: int | None = None

    @contextmanager
    def opened(self) -> Iterator[Job]:
        """Open the job, alone; errors of the disk say how to go on."""
        try:
            self._open()
            yield self
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            mend = "free some space" if full else "mend this"
            kept = (
                f"What is done is kept in {self.folder}: {mend} and start the same again, it goes "
                "on where it was"
                if self.resumable
                else f"Nothing was kept: {mend} or choose another folder"
            )
            raise OSError(f"could not write {self.path}: {error}. {kept}") from error
        finally:
            if self._lock is not None:
                os.close(self._lock)
            if not self.resumable:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self) -> None:
        for folder in (self.runs, self.tree, self._journal):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(
                f"another process is writing {self.path}; wait for it to end"
            ) from error
        told = self.folder / "job.json"
        if not told.exists():
            write_json(told, self.description)
        started = json.loads(told.read_text())
        if started != self.description:
            differ = [k for k in self.description if started.get(k) != self.description[k]]
            raise ValueError(
                f"{self.folder} holds an unfinished job that differs in {', '.join(differ)}; start "
                "it as it was started first, or remove that folder to begin anew"
            )

    def once(self, name: str, function: Callable[..., dict[str, Any]], *args: Any) -> Any:
        """Return the record of one task, after running it if it was not done yet."""
        (record,) = self.map(name, function, [("", args)])
        return record

    def map(
        self,
        name: str,
        function: Callable[..., dict[str, Any]],
        tasks: Sequence[tuple[str, tuple[Any, ...]]],
    ) -> Iterator[dict[str, Any]]:
        """Run the tasks that have no record yet and yield the records of all, in their order.

        Parameters
        ----------
        name : str
            Name of this kind of task.
        function : callable
            What a task does; its files are on the disk when it returns a record of plain values.
        tasks : sequence of (str, tuple)
            Key and arguments of each.
        """
        records = [self._journal / f"{name}{key and '-'}{key}.json" for key, _ in tasks]
        waiting = [i for i, record in enumerate(records) if not record.exists()]
        client = self.client
        if isinstance(client, Sharing) and len(tasks) > 1:
            if waiting:
                todo = [(records[i], tasks[i][1]) for i in waiting]
                client.share(function, todo, self.folder / "claims")
        elif client is None or isinstance(client, Sharing):
            for i in waiting:
                write_json(records[i], function(*tasks[i][1]))
        elif waiting:
            from dask.distributed import as_completed

            futures = {client.submit(function, *tasks[i][1], pure=False): i for i in waiting}
            for future in as_completed(futures):
                write_json(records[futures[future]], future.result())
                future.release()
        for record in records:
            yield json.loads(record.read_text())

    def finish(self) -> None:
        """Put the finished tree in its place."""
        # Partitions are on the disk; so is what makes a store of them, before the runs are removed.
        for path in self.tree.iterdir():
            if path.is_file():
                sync(path)
        os.replace(self.tree, self.path)
        shutil.rmtree(self.folder, ignore_errors=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, and bring it to the disk."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(values))  # dump would do it in Python, not in C
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
