"""What does a run tell? One JSON line a report, TensorBoard scalars, a progress bar."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard.writer import SummaryWriter

__all__ = ["Averages", "ProgressBar", "RunLog", "usage_figures"]

_logger = logging.getLogger(__name__)
_told: set[str] = set()


class Averages:
    """Average metrics over steps, and over processes when read.

    Values may be tensors: they are only moved off the accelerator when read.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple] = {}

    def add(self, metrics: Mapping) -> None:
        """Count the metrics of one step."""
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)

    def take(self) -> dict[str, tuple[float, int]]:
        """Return (sum, count) by metric and start again."""
        taken = {name: (float(total), count) for name, (total, count) in self._sums.items()}
        self._sums = {}
        return taken

    @staticmethod
    def merge(parts: list[dict[str, tuple[float, int]]]) -> dict[str, float]:
        """Return the mean by metric of what several processes took."""
        names = dict.fromkeys(name for part in parts for name in part)
        merged = {}
        for name in names:
            pairs = [part[name] for part in parts if name in part]
            merged[name] = sum(s for s, _ in pairs) / sum(n for _, n in pairs)
        return merged


def usage_figures(counts: Tensor) -> dict[str, float]:
    """Return how well a vocabulary is used.

    Parameters
    ----------
    counts : Tensor, shape (code,)
        How often each code was chosen.

    Returns
    -------
    dict
        ``codes_used``, the fraction chosen at all, and ``code_entropy_bits``, the entropy of the
        choices; log2 of the vocabulary would be the best.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    entropy = -(share * share.clamp(min=1e-300).log2()).sum()
    return {
        "codes_used": float((counts > 0).double().mean()),
        "code_entropy_bits": abs(float(entropy)),
    }


class RunLog:
    """Write metrics to ``log.jsonl`` and, if it is installed, to TensorBoard.

    Parameters
    ----------
    out : Path
        Folder of the run. Lines of steps after `step`, written before a crash, are dropped.
    step : int
        The step the run goes on from.
    """

    def __init__(self, out: Path, step: int) -> None:
        self.path = out / "log.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        self._drop_after(step)
        self._board = _tensorboard(out / "tensorboard", step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one line, as one write so that a crash cannot mix two lines.

        Raises
        ------
        OSError
            If it cannot be written, for example on a full disk.
        """
        line = (json.dumps({"step": step, **metrics}) + "\n").encode()
        try:
            with open(self.path, "ab", buffering=0) as file:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(
                error.errno,
                f"the log line of step {step} could not be written to {self.path}: "
                f"{error.strerror}. Make room (or check the permissions) and run the same command "
                "again; it goes on from the newest checkpoint",
            ) from error
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close what is open."""
        if self._board is not None:
            self._board.close()

    def _drop_after(self, step: int) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            temporary = self.path.with_name(".writing-log.jsonl")
            temporary.write_text("".join(kept))
            os.replace(temporary, self.path)


def _step_of(line: str) -> float:
    """Return the step of a line; a line cut by a crash counts as after everything."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _tensorboard(folder: Path, step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        if "tensorboard" not in _told:
            _told.add("tensorboard")
            _logger.warning(
                "no TensorBoard here, so the log is log.jsonl alone; to have both: "
                "pip install 'omnisky[track]'"
            )
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


class ProgressBar:
    """Show steps done, the loss and the time left, once a run has taken over two seconds.

    Off a terminal it prints a line at most every thirty seconds instead of redrawing.
    """

    _patience_seconds = 2.0
    _line_every_seconds = 30.0

    def __init__(self, total: int, done: int, *, enabled: bool = True) -> None:
        self._total, self._first, self._enabled = total, done, enabled
        self._console = Console(stderr=True)
        self._began = self._printed = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def update(self, done: int, loss: float | None) -> None:
        """Show that `done` steps are done; `loss` is the last one logged, if any."""
        now = time.monotonic()
        if not self._enabled or now - self._began < self._patience_seconds:
            return
        text = "" if loss is None else f"loss {loss:.4g}"
        if self._console.is_terminal:
            if self._bar is None:
                self._bar = _open_bar(self._console)
                self._task = self._bar.add_task(
                    "", total=self._total, completed=self._first, text=""
                )
            self._bar.update(self._task, completed=done, text=text)
        elif now - self._printed > self._line_every_seconds or done == self._total:
            self._printed = now
            left = (now - self._began) / max(1, done - self._first) * (self._total - done)
            self._console.print(
                f"step {done}/{self._total} {text}, {left:.0f} s left", highlight=False
            )

    def close(self) -> None:
        """Leave the terminal as it should be."""
        if self._bar is not None:
            self._bar.stop()


def _open_bar(console: Console) -> Progress:
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    bar.start()
    return bar
