"""From a universe to a folder of native files: what is in which file, and file after file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.mock.native import desi, gaia, hsc, legacysurvey, sdss
from omnisky.mock.native.files import marks, put
from omnisky.storage import whole_folder

if TYPE_CHECKING:
    from omnisky.mock.native.rows import Rows
    from omnisky.mock.universe import Universe

__all__ = ["Piece", "about", "pieces_of", "task_of", "write", "write_piece"]

# Numbers of fragments are those of their galaxies, plus this.
_FRAGMENT = 1 << 41

_WRITE: dict[str, Callable[..., list[Path]]] = {
    "legacysurvey": legacysurvey.write,
    "hsc": hsc.write,
    "desi": desi.write,
    "sdss": lambda folder, piece, columns, heavy, seed: sdss.write(folder, columns, heavy, seed),
    "gaia": gaia.write,
}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Name what is written together: the files of one brick, patch, petal, plate or part.

    Parameters
    ----------
    survey : str
        The survey.
    number : int
        Which of its pieces.
    rows : array of int, shape (object,)
        Positions of the objects in the universe.
    whole : array of int, shape (galaxy,)
        Positions of the galaxies of which it has a fragment.
    spurious : array of int, shape (row,)
        Numbers of the spurious rows.
    """

    survey: str
    number: int
    rows: np.ndarray
    whole: np.ndarray
    spurious: np.ndarray

    def __len__(self) -> int:
        return len(self.rows) + len(self.whole) + len(self.spurious)

    @property
    def name(self) -> str:
        """Its name, which no other piece has."""
        return f"{self.survey}-{self.number}"


def pieces_of(universe: Universe, surveys: Sequence[str]) -> list[Piece]:
    """Return what is to be written, in the order of surveys and pieces.

    Parameters
    ----------
    universe : Universe
        All of it is drawn and held in memory.
    surveys : sequence of str
        Which surveys.

    Raises
    ------
    ValueError
        If a survey is unknown, or has none of the objects.
    """
    universe.hold()
    position = {number: i for i, number in enumerate(universe.numbers.tolist())}
    found = []
    for survey in surveys:
        real = universe.native(survey, heavy=False)
        if not len(real):
            raise ValueError(
                f"none of the {len(universe)} objects is in {survey}; ask for more objects, "
                "another seed, or other surveys"
            )
        invented = np.arange(universe.n_spurious(survey))
        fragments = universe.fragments(survey, heavy=False)
        more = universe.spurious(survey, invented, heavy=False).piece
        rows, whole = (
            np.array([position[n] for n in (some & (_FRAGMENT - 1)).tolist()], dtype=np.int64)
            for some in (real.number, fragments.number)
        )
        every = np.unique(np.concatenate([real.piece, fragments.piece, more]))
        found += [
            Piece(
                survey=survey,
                number=number,
                rows=rows[real.piece == number],
                whole=whole[fragments.piece == number],
                spurious=invented[more == number],
            )
            for number in every.astype(np.int64).tolist()
        ]
    return found


def task_of(universe: Universe, piece: Piece, folder: Path) -> tuple[Any, ...]:
    """Return what `write_piece` takes, for any process."""
    return universe[piece.rows], universe[piece.whole], piece, folder


def write_piece(universe: Universe, whole: Universe, piece: Piece, folder: Path) -> dict[str, Any]:
    """Write the files of one piece; what was there of them is replaced.

    Parameters
    ----------
    universe : Universe
        Its objects alone.
    whole : Universe
        The galaxies of which it has a fragment.
    piece : Piece
        What to write.
    folder : Path
        Where to; files go into a folder of the survey's name in it.

    Returns
    -------
    dict
        ``survey``, ``rows`` and ``files``.

    Raises
    ------
    OSError
        If a file cannot be written; those before it are there.
    """
    survey = piece.survey
    parts: list[Rows] = []
    if len(universe):
        parts.append(universe.native(survey))
    if len(whole):
        parts.append(whole.fragments(survey))
    if len(piece.spurious):
        parts.append(universe.spurious(survey, piece.spurious))
    rows = reduce(lambda one, other: one.plus(other), parts)
    seed = universe.config.seed
    paths = _WRITE[survey](folder / survey, piece.number, rows.columns, rows.heavy, seed)
    files = [str(path.relative_to(folder)) for path in paths]
    return {"survey": survey, "rows": len(rows), "files": files}


def about(universe: Universe, surveys: Iterable[str]) -> dict[str, Any]:
    """Return what a product says of the universe it shows, as plain values."""
    config = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(universe.config).items()}
    return {
        **{key.lower(): value for key, value in marks(universe.config.seed).items()},
        "objects": len(universe),
        "surveys": list(surveys),
        "config": config,
    }


def write(universe: Universe, folder: str | os.PathLike, surveys: Sequence[str]) -> Path:
    """Write a universe as native files, whole or not at all.

    ``omnisky mock`` does the same with a bar, on several processes, and goes on where it was when
    it was stopped.

    Parameters
    ----------
    universe : Universe
        What to write.
    folder : path
        A folder that is not there yet.
    surveys : sequence of str
        Which surveys.

    Raises
    ------
    FileExistsError
        If the folder exists.
    ValueError
        If a survey is unknown, or has none of the objects.
    OSError
        If it cannot be written; nothing is left behind.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another folder or remove it first")
    pieces = pieces_of(universe, surveys)
    told = json.dumps(about(universe, surveys), indent=1).encode() + b"\n"
    try:
        with whole_folder(folder) as work:
            for piece in pieces:
                write_piece(*task_of(universe, piece, work))
            put(work / "mock.json", told)
    except OSError as error:
        raise OSError(
            f"could not write {folder}: {error}. Nothing was kept: free some space or choose "
            "another folder"
        ) from error
    return folder
