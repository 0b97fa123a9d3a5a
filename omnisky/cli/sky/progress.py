"""What people see while they wait, on stderr and only in a terminal: how far, how long still."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = [
    "Counted",
    "CountedReads",
    "advancing",
    "once_each",
    "resumable",
    "unfinished",
    "waiting",
    "watching",
]

_STAGES = {"source": "Reading", "partition": "Writing partitions", "margin": "Writing margins"}
_SECONDS = 0.5


def _bar(*, determinate: bool = True) -> Progress:
    console = Console(stderr=True)
    columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}")]
    if determinate:
        columns += [BarColumn(), MofNCompleteColumn()]
    columns.append(TimeElapsedColumn())
    if determinate:
        columns += [TextColumn("left"), TimeRemainingColumn()]
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """Show what is done and for how long, where nobody knows how much there is to do."""
    with _bar(determinate=False) as bar:
        bar.add_task(doing, total=None)
        yield


@contextmanager
def advancing(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar; yields the function that advances it."""
    with _bar() as bar:
        task = bar.add_task(doing, total=total)
        yield lambda steps: bar.advance(task, steps)


def unfinished(out: Path) -> Path:
    """Return the folder in which a store is while it is being written."""
    return out.absolute().with_name(f".{out.name}.unfinished")


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Say that what is done is kept; where nothing is done yet, keep nothing.

    So a command with a mistake in it does not stand in the way of the one without.
    """
    try:
        yield
    except FileExistsError:  # somebody else's
        raise
    except BaseException as error:
        folder = unfinished(out)
        if not any(folder.glob("journal/*.json")):
            shutil.rmtree(folder, ignore_errors=True)
        elif isinstance(error, KeyboardInterrupt):
            print("What is done is kept: the same command goes on where it was", file=sys.stderr)
        raise


class CountedReads:
    """Count the objects that readers of this process yield.

    Parameters
    ----------
    expected : int, optional
        How many there will be, where that is known.
    """

    def __init__(self, expected: int | None = None) -> None:
        self.expected = expected
        self.objects = 0

    def count(self, read: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
        """Return a reader that counts what another one yields."""

        def counted(**options: Any) -> Iterator[Any]:
            for objects in read(**options):
                self.objects += len(objects)
                yield objects

        return counted


@contextmanager
def watching(out: Path, counted: CountedReads | None = None) -> Iterator[None]:
    """Show how far the writing of a store is, told from its journal: wherever its tasks run.

    Parameters
    ----------
    out : Path
        The store being written.
    counted : CountedReads, optional
        Counts objects while they are read, if that happens in this process.
    """
    journal = unfinished(out) / "journal"
    ended = threading.Event()
    with _bar() as bar:
        if bar.disable:
            yield
            return
        tasks = {stage: bar.add_task(says, visible=False) for stage, says in _STAGES.items()}
        fresh = not any(journal.glob("source-*.json"))

        def watch() -> None:
            while not ended.wait(_SECONDS):
                for stage, (done, total) in _stages(journal).items():
                    says = _STAGES[stage]
                    if stage == "source" and counted is not None:
                        says += f" ({counted.objects:,} objects)"
                        if fresh and counted.expected and done < total:
                            done, total = counted.objects, counted.expected
                    bar.update(
                        tasks[stage], description=says, completed=done, total=total, visible=True
                    )

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _stages(journal: Path) -> dict[str, tuple[int, int]]:
    """Return how much is done, of how much, of each stage that has begun."""
    done = dict.fromkeys(_STAGES, 0)
    totals: dict[str, int] = {}
    try:
        job = json.loads((journal.parent / "job.json").read_text(encoding="utf-8"))
        totals["source"] = len(job.get("sources", [0]))
        for record in journal.glob("*-*.json"):
            stage = record.name.partition("-")[0]
            if stage in done:
                done[stage] += 1
        plan = journal / "plan.json"
        if plan.is_file():
            totals["partition"] = len(json.loads(plan.read_text(encoding="utf-8"))["partitions"])
        if done["margin"]:
            totals["margin"] = totals["partition"]
    except (OSError, ValueError, KeyError):
        pass  # being written, or put in its place, just now
    return {stage: (done[stage], total) for stage, total in totals.items()}


class Counted:
    """Run the tasks of a function that takes a Dask client, with a bar of those that are done.

    Parameters
    ----------
    doing : str
        What is done.
    client : dask.distributed.Client, optional
        Where tasks run; on threads of this process without one.
    """

    def __init__(self, doing: str, client: Any = None) -> None:
        self._client = client
        self._pool = None if client is not None else ThreadPoolExecutor()
        self._bar = _bar()
        self._task = self._bar.add_task(doing, total=0)
        self._submitted = 0

    def submit(self, function: Callable[..., Any], *args: Any, pure: bool = False) -> Any:
        """Begin a task; returns its future."""
        if self._pool is not None:
            future: Any = self._pool.submit(function, *args)
        else:
            future = self._client.submit(function, *args, pure=pure)
        self._submitted += 1
        self._bar.update(self._task, total=self._submitted)
        future.add_done_callback(lambda _: self._bar.advance(self._task))
        return future

    def __enter__(self) -> Counted:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._bar.stop()


@contextmanager
def once_each() -> Iterator[None]:
    """Show of warnings that differ in their numbers only the first, and how many there were."""
    shown: dict[str, int] = {}
    show = warnings.showwarning

    def first(message: Warning | str, *rest: Any) -> None:
        kind = re.sub(r"\d[\d.e+-]*", "#", str(message))
        shown[kind] = shown.get(kind, 0) + 1
        if shown[kind] == 1:
            show(message, *rest)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module=r"omnisky\.")
        warnings.showwarning = first
        yield
    again = sum(shown.values()) - len(shown)
    if again:
        warnings.warn(f"{again} more warnings like these, with other numbers", stacklevel=3)
