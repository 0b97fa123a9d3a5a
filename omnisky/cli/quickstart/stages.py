"""One bar over the stages of the quickstart, with the time they still take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["stages"]

# Seconds of each stage on two cores, of which the shares matter: the bar goes by them, and by how
# long the stages behind it took here.
_WORK = (8, 4, 110, 12, 12, 16)
_GALAXIES, _WRITING = 45, 1
# Of a stage that takes longer than expected; the rest of the bar is left for its end.
_MOST = 0.95


class Stages(Progress):
    """Draw a bar that also moves within a stage.

    Parameters
    ----------
    work : sequence of float
        Expected seconds of each stage, in their order.
    console : Console
        Where to draw.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(
        self, work: list[float], console: Console, clock: Callable[[], float] = monotonic
    ) -> None:
        columns = (
            TextColumn("{task.description:<44}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
        )
        # First, as the bar is drawn once while it is made.
        self._work, self._number, self._clock = work, -1, clock
        self._began = self._entered = clock()
        super().__init__(*columns, console=console)
        self._bar = self.add_task("", total=sum(work), left="-:--:--")

    def enter(self, text: str) -> None:
        """Begin the next stage."""
        self._number += 1
        self._entered = self._clock()
        self.update(self._bar, description=text)
        if not self.console.is_terminal:
            self.console.print(text)

    def finish(self) -> None:
        """Fill the bar."""
        self._number = len(self._work)
        self.update(self._bar, description="done")

    def where(self) -> tuple[float, float]:
        """Return the work done, in the seconds expected for it, and the seconds still to go."""
        done = sum(self._work[: max(self._number, 0)])
        if self._number >= len(self._work):
            return done, 0.0
        # Slower or faster than expected so far; a model that is re-used says little of the rest.
        pace = max((self._entered - self._began) / done, 0.5) if done else 1.0
        work = self._work[max(self._number, 0)]
        within = min((self._clock() - self._entered) / pace, _MOST * work)
        return done + within, pace * (sum(self._work) - done - within)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar as it is now."""
        done, left = self.where()
        for bar in self.task_ids:
            self.update(bar, completed=done, left=str(timedelta(seconds=round(left))))
        yield from super().get_renderables()


@contextmanager
def stages(console: Console, *, galaxies: bool) -> Iterator[Callable[[str], None]]:
    """Show one bar over all stages; yields a function that begins the next of them.

    Parameters
    ----------
    console : Console
        Where to draw.
    galaxies : bool
        Whether galaxies are shown, too.
    """
    work = [*_WORK, *([_GALAXIES] if galaxies else []), _WRITING]
    with Stages([float(seconds) for seconds in work], console) as progress:
        yield progress.enter
        progress.finish()
