"""Numbers that `omnisky generate` draws, recalibrated by objects whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.cli.tables import Input, Reading

if TYPE_CHECKING:
    from omnisky.modalities import Observations
    from omnisky.model.generation import Calibration, ScalarPosterior

__all__ = ["KnownObjects", "Recalibration", "read_known", "without_targets"]

# Known objects of a target and pattern of modalities; more would add little but time.
_MOST = 2000


@dataclass(frozen=True, kw_only=True)
class KnownObjects:
    """Hold objects whose truth is known, shown as the new objects are.

    Parameters
    ----------
    pattern : array of int, shape (object,)
        Which of the patterns of modalities each new object has.
    shown : list of Observations
        By pattern: known objects with the modalities of the pattern and no others.
    truths : list of array, shape (object, target)
        By pattern: their values, NaN where unknown.
    """

    pattern: np.ndarray
    shown: list[Observations]
    truths: list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Recalibration:
    """Mend posteriors of new objects.

    Parameters
    ----------
    known : KnownObjects
        What was learned from, and which pattern of modalities each new object has.
    learned : list of dict of str to Calibration
        By pattern, for each target: how posteriors miss the truth.
    """

    known: KnownObjects
    learned: list[dict[str, Calibration]]

    @classmethod
    def learn(
        cls,
        known: KnownObjects,
        targets: Sequence[str],
        draw: Callable[[Observations], Iterator[tuple[slice, Any]]],
    ) -> Recalibration:
        """Learn from what `draw` yields of known objects, some at a time, and which these are."""
        learned = []
        for shown, truths in zip(known.shown, known.truths, strict=True):
            found: dict[str, list[ScalarPosterior]] = {name: [] for name in targets}
            for _, drawn in draw(shown):
                for name in targets:
                    found[name].append(drawn[name])
            pairs = zip(found.items(), truths.T, strict=True)
            learned.append({name: _calibration(parts, truth) for (name, parts), truth in pairs})
        return cls(known=known, learned=learned)

    def mend(self, name: str, posterior: ScalarPosterior, some: slice) -> ScalarPosterior:
        """Return the posteriors of some of the new objects, recalibrated."""
        chances, samples = posterior.probabilities.copy(), posterior.samples.copy()
        pattern = self.known.pattern[some]
        for number in np.unique(pattern):
            rows = pattern == number
            part = replace(posterior, probabilities=chances[rows], samples=samples[:, rows])
            part = self.learned[number][name].recalibrate(part)
            chances[rows], samples[:, rows] = part.probabilities, part.samples
        return replace(posterior, probabilities=chances, samples=samples)


def read_known(
    table: str, reading: Reading, new: Observations, targets: Sequence[str]
) -> KnownObjects:
    """Read objects whose truth is known, and show them as the new objects are.

    Parameters
    ----------
    table : str
        What the user gave: a table file or a data set.
    reading : Reading
        How the table of the new objects is read; columns hold here, too.
    new : Observations
        The new objects.
    targets : sequence of str
        Scalar modalities that are generated.

    Raises
    ------
    ValueError
        If for a pattern of modalities of the new objects too few known ones have these modalities
        and a target, or the table cannot be read.
    FileNotFoundError
        If there is no such table.
    """
    there = np.stack([m.present for m in new.values()], axis=1)
    patterns, pattern = np.unique(there, axis=0, return_inverse=True)
    given = [name for name, m in new.items() if m.present.any()]
    how = replace(reading, id=None) if Path(table).is_file() else Reading()
    try:
        known = Input.read(table, how, [*given, *targets]).observations
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"--calibrate-on {table}: {error}") from None
    truths = np.stack([np.where(known[n].mask, known[n].value, np.nan) for n in targets], axis=1)
    shown, told = [], []
    for used in patterns:
        names = [name for name, one in zip(new, used, strict=True) if one]
        rows = np.all([known[name].present for name in names], axis=0)
        has = rows[:, None] & np.isfinite(truths)
        _refuse_few(table, names, targets, has.sum(0))
        rows = _some_of_each(has)
        shown.append(known.select(*names)[rows])
        told.append(truths[rows])
    return KnownObjects(pattern=pattern.reshape(-1), shown=shown, truths=told)


def without_targets(reading: Reading, targets: Sequence[str], *, is_table: bool) -> Reading:
    """Return how to read the new objects, where columns may be named for the known ones alone."""
    kept = [item for item in reading.column if item.partition("=")[0] not in targets]
    return replace(reading, column=tuple(kept) if is_table else ())


def _some_of_each(has: np.ndarray) -> np.ndarray:
    """Return rows, evenly spread, that hold at most `_MOST` chosen for each column."""
    chosen = []
    for column in has.T:
        rows = np.flatnonzero(column)
        chosen.append(rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).astype(int)])
    return np.unique(np.concatenate(chosen))


def _refuse_few(
    table: str, names: Sequence[str], targets: Sequence[str], counts: np.ndarray
) -> None:
    from omnisky.model.generation.calibration import ENOUGH

    for target, count in zip(targets, counts.tolist(), strict=True):
        if count < ENOUGH:
            raise ValueError(
                f"--calibrate-on {table}: {target} is known for {count} objects that have "
                f"{', '.join(names)}, as some here; at least {ENOUGH} are needed"
            )


def _calibration(parts: list[ScalarPosterior], truth: np.ndarray) -> Calibration:
    from omnisky.model.generation import calibration_of

    chances = np.concatenate([part.probabilities for part in parts])
    samples = np.concatenate([part.samples for part in parts], axis=1)
    return calibration_of(replace(parts[0], probabilities=chances, samples=samples), truth)
